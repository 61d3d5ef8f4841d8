"""An MQTT client on `aiomqtt`, driven by the JSON lines of `tests/node/mqtt.mjs`."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from urllib.parse import urlsplit

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def say(line: dict) -> None:
    print(json.dumps(line), flush=True)


def properties(version: int, kind: int, **values) -> Properties | None:
    if version != 5:
        return None
    made = Properties(kind)
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made


async def commands():
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


async def tell_messages(client: aiomqtt.Client) -> None:
    async for message in client.messages:
        said = {
            "topic": str(message.topic),
            "base64": base64.b64encode(message.payload).decode(),
            "qos": message.qos,
            "retain": bool(message.retain),
        }
        if message.properties is not None:
            said["content_type"] = getattr(message.properties, "ContentType", None)
            said["user"] = dict(getattr(message.properties, "UserProperty", []))
        say({"message": said})


async def obey(client: aiomqtt.Client, version: int, command: dict) -> None:
    if "subscribe" in command:
        granted = await client.subscribe(command["subscribe"], qos=command.get("qos", 0))
        say({"subscribed": [getattr(reason, "value", reason) for reason in granted]})
    elif "unsubscribe" in command:
        await client.unsubscribe(command["unsubscribe"])
        say({"unsubscribed": True})
    elif "publish" in command:
        user = command.get("user")
        await client.publish(
            command["publish"],
            base64.b64decode(command["base64"]),
            qos=command.get("qos", 0),
            retain=command.get("retain", False),
            properties=properties(
                version,
                PacketTypes.PUBLISH,
                ContentType=command.get("content_type"),
                UserProperty=list(user.items()) if user else None,
                MessageExpiryInterval=command.get("expiry"),
            ),
        )
        say({"published": True})
    else:
        raise ValueError(f"not a command: {command}")


async def converse(options: dict, rest) -> None:
    url, version = urlsplit(options["url"]), options["version"]
    clean = options.get("clean", True)
    only_v3 = {"clean_session": clean} if version == 4 else {}
    only_v5 = {"clean_start": clean} if version == 5 else {}
    client = aiomqtt.Client(
        url.hostname,
        url.port,
        identifier=options["id"],
        protocol=aiomqtt.ProtocolVersion.V5 if version == 5 else aiomqtt.ProtocolVersion.V311,
        properties=properties(version, PacketTypes.CONNECT, SessionExpiryInterval=options.get("expiry", 0)),
        transport="websockets" if url.scheme == "ws" else "tcp",
        websocket_path=url.path or None,
        **only_v3,
        **only_v5,
    )
    async with client:
        # The library does not tell whether the session was there.
        say({"connected": {}})
        telling = asyncio.create_task(tell_messages(client))
        async for command in rest:
            if "disconnect" in command:
                break
            await obey(client, version, command)
        telling.cancel()
    say({"closed": True})


async def main() -> None:
    lines = commands()
    first = await anext(lines)
    await converse(first["connect"], lines)


asyncio.run(main())
