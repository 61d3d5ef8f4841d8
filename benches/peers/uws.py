"""uWebSockets as a message server: who opens /sub subscribes, what comes to /pub is published.

A short script on purpose: what is measured is the library's own publish to its subscribers.
"""

import sys

from socketify import App, AppListenOptions, CompressOptions, OpCode

TOPIC = "bench"

app = App()


def subscribe(ws):
    ws.subscribe(TOPIC)


def publish(ws, message, opcode):
    app.publish(TOPIC, message, OpCode.TEXT)


# A ping after 16 s of silence, and the end 8 s later. Without a limit on what may wait for a slow receiver.
settings = {
    "compression": CompressOptions.DISABLED,
    "idle_timeout": 24,
    "send_pings_automatically": True,
    "max_backpressure": 16 * 1024 * 1024,
    "max_payload_length": 1024 * 1024,
}
app.ws("/sub", {**settings, "open": subscribe})
app.ws("/pub", {**settings, "message": publish})
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"), lambda config: None)
app.run()
