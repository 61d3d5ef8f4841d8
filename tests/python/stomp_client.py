"""A STOMP client over TCP on `stomp.py`, driven by the JSON lines of `tests/node/stomp.mjs`, and `{"mute": true}`,
after which it sends nothing."""

from __future__ import annotations

import base64
import json
import sys
import threading
from urllib.parse import urlsplit

import stomp

CLASSES = {"1.0": stomp.Connection10, "1.1": stomp.Connection11, "1.2": stomp.Connection12}
speak = threading.Lock()


def say(line: dict) -> None:
    with speak:
        print(json.dumps(line), flush=True)


class Listener(stomp.ConnectionListener):
    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def on_connected(self, frame) -> None:
        self.peer.messages = []
        say({"connected": {"version": self.peer.version, "headers": frame.headers}})

    def on_message(self, frame) -> None:
        self.peer.messages.append(frame.headers)
        body = frame.body.encode() if isinstance(frame.body, str) else frame.body
        say({"message": {"headers": frame.headers, "base64": base64.b64encode(body).decode()}})

    def on_receipt(self, frame) -> None:
        done = self.peer.receipts.pop(frame.headers["receipt-id"], None)
        if done is not None:
            say({"done": done})

    def on_error(self, frame) -> None:
        text = frame.body.decode() if isinstance(frame.body, bytes) else frame.body
        say({"error": {"headers": frame.headers, "text": text}})

    def on_disconnected(self) -> None:
        say({"closed": True})


class Peer:
    def __init__(self) -> None:
        self.connection = None
        self.version = "1.2"
        self.messages: list[dict] = []
        self.receipts: dict[str, str] = {}
        self.count = 0

    def answered(self, done: str) -> str:
        self.count += 1
        receipt = f"receipt-{self.count}"
        self.receipts[receipt] = done
        return receipt

    def connect(self, options: dict) -> None:
        url = urlsplit(options["url"])
        self.version = options["versions"][0]
        arguments = {}
        if self.version != "1.0":
            arguments["heartbeats"] = tuple(options.get("heartbeat", (0, 0)))
        self.connection = CLASSES[self.version](
            [(url.hostname, url.port)], auto_decode=False, try_loopback_connect=False, **arguments
        )
        if "ca" in options:
            hosts = [(url.hostname, url.port)]
            pair = {"cert_file": options.get("cert"), "key_file": options.get("key")}
            self.connection.set_ssl(for_hosts=hosts, ca_certs=options["ca"], **pair)
        self.connection.set_listener("peer", Listener(self))
        self.connection.connect(options.get("user"), options.get("password"), wait=True)

    def verdict(self, name: str, message: dict, command: dict) -> None:
        give = getattr(self.connection, name)
        arguments = {"receipt": self.answered(name), "transaction": command.get("transaction")}
        arguments.update(command.get("headers", {}))
        if self.version == "1.2":
            give(message["ack"], **arguments)
        elif self.version == "1.1":
            give(message["message-id"], message["subscription"], **arguments)
        else:
            give(message["message-id"], **arguments)

    def obey(self, command: dict) -> None:
        connection = self.connection
        headers = dict(command.get("headers", {}))
        if "connect" in command:
            self.connect(command["connect"])
        elif "subscribe" in command:
            ack = headers.pop("ack", "auto")
            receipt = self.answered("subscribe")
            connection.subscribe(command["subscribe"], command["id"], ack, headers, receipt=receipt)
        elif "unsubscribe" in command:
            connection.unsubscribe(id=command["unsubscribe"], headers=headers, receipt=self.answered("unsubscribe"))
        elif "publish" in command:
            if "transaction" in command:
                headers["transaction"] = command["transaction"]
            body = base64.b64decode(command["base64"])
            connection.send(command["publish"], body, headers=headers, receipt=self.answered("publish"))
        elif "ack" in command:
            self.verdict("ack", self.messages[command["ack"]], command)
        elif "nack" in command:
            self.verdict("nack", self.messages[command["nack"]], command)
        elif "begin" in command:
            connection.begin(command["begin"], receipt=self.answered("begin"))
        elif "commit" in command:
            connection.commit(command["commit"], receipt=self.answered("commit"))
        elif "abort" in command:
            connection.abort(command["abort"], receipt=self.answered("abort"))
        elif "mute" in command:
            connection.transport.send = lambda *_: None
        elif "break" in command:
            connection.transport.disconnect_socket()
        elif "disconnect" in command:
            connection.disconnect()
        else:
            raise ValueError(f"not a command: {command}")


peer = Peer()
for line in sys.stdin:
    peer.obey(json.loads(line))
