"""An MQTT client on `paho-mqtt`, driven by the JSON lines of `tests/node/mqtt.mjs`."""

from __future__ import annotations

import base64
import json
import sys
import threading
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5, MQTTv311
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

speak = threading.Lock()


def say(line: dict) -> None:
    with speak:
        print(json.dumps(line), flush=True)


def on_message(_client, _state, message) -> None:
    properties = message.properties
    said = {
        "topic": message.topic,
        "base64": base64.b64encode(message.payload).decode(),
        "qos": message.qos,
        "retain": bool(message.retain),
    }
    if properties is not None:
        said["content_type"] = getattr(properties, "ContentType", None)
        said["user"] = dict(getattr(properties, "UserProperty", []))
    say({"message": said})


class Peer:
    def __init__(self) -> None:
        self.client: Client | None = None
        self.version = MQTTv5
        self.topics: dict[int, str] = {}

    def properties(self, kind: int, **values) -> Properties | None:
        if self.version != MQTTv5:
            return None
        properties = Properties(kind)
        for name, value in values.items():
            if value is not None:
                setattr(properties, name, value)
        return properties

    def connect(self, options: dict) -> None:
        url = urlsplit(options["url"])
        self.version = MQTTv5 if options["version"] == 5 else MQTTv311
        clean = options.get("clean", True)
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options["id"],
            protocol=self.version,
            transport="websockets" if url.scheme in ("ws", "wss") else "tcp",
            clean_session=None if self.version == MQTTv5 else clean,
            reconnect_on_failure=False,
        )
        if "ca" in options:
            client.tls_set(options["ca"], options.get("cert"), options.get("key"))
        if url.scheme in ("ws", "wss"):
            client.ws_set_options(path=url.path)
        if options.get("user") is not None:
            client.username_pw_set(options["user"], options.get("password"))
        will = options.get("will")
        if will:
            properties = self.properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.get("delay"))
            client.will_set(will["topic"], will["text"], will.get("qos", 0), will.get("retain", False), properties)
        client.on_connect = lambda _c, _s, flags, reason, _p: say(
            {"error": str(reason)} if reason.is_failure else {"connected": {"present": flags.session_present}}
        )
        client.on_message = on_message
        client.on_subscribe = lambda _c, _s, _id, reasons, _p: say({"subscribed": [r.value for r in reasons]})
        client.on_unsubscribe = lambda _c, _s, _id, _r, _p: say({"unsubscribed": True})
        client.on_publish = lambda _c, _s, _id, _r, _p: say({"published": True})
        client.on_disconnect = lambda _c, _s, _f, _r, _p: say({"closed": True})
        arguments = {}
        if self.version == MQTTv5:
            expiry = options.get("expiry", 0)
            arguments = {
                "clean_start": clean,
                "properties": self.properties(PacketTypes.CONNECT, SessionExpiryInterval=expiry),
            }
        client.connect(url.hostname, url.port, **arguments)
        client.loop_start()
        self.client = client

    def publish(self, command: dict) -> None:
        user = command.get("user")
        properties = self.properties(
            PacketTypes.PUBLISH,
            ContentType=command.get("content_type"),
            UserProperty=list(user.items()) if user else None,
            MessageExpiryInterval=command.get("expiry"),
        )
        self.client.publish(
            command["publish"],
            base64.b64decode(command["base64"]),
            command.get("qos", 0),
            command.get("retain", False),
            properties,
        )

    def obey(self, command: dict) -> None:
        if "connect" in command:
            self.connect(command["connect"])
        elif "subscribe" in command:
            self.client.subscribe(command["subscribe"], command.get("qos", 0))
        elif "unsubscribe" in command:
            self.client.unsubscribe(command["unsubscribe"])
        elif "publish" in command:
            self.publish(command)
        elif "disconnect" in command:
            self.client.disconnect()
        else:
            raise ValueError(f"not a command: {command}")


peer = Peer()
for line in sys.stdin:
    peer.obey(json.loads(line))
