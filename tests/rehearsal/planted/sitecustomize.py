"""Faults planted into a gateway process: Python imports this at its start when this folder is on its path.

`PLANTED` selects the list of faults; each fault is used once, the first by the first message, connection or call.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from typing import Any

LINE = {
    "not base64": lambda m: m | {"media": {"payload": "!" * 8}},
    "empty": lambda m: m | {"media": {"payload": ""}},
    "file header": lambda m: m | {"media": {"payload": base64.b64encode(b"RIFF" + bytes(160)).decode()}},
    "other stream": lambda m: m | {"streamSid": "MZ" + "0" * 32},
    "no stream": lambda m: {name: value for name, value in m.items() if name != "streamSid"},
    "unknown event": lambda m: m | {"event": "audio"},
    "unknown field": lambda m: m | {"track": "outbound"},
    "unnamed mark": lambda m: {"event": "mark", "streamSid": m["streamSid"], "mark": {"name": ""}},
    "number for text": lambda m: m | {"media": {"payload": 7}},
    "not JSON": lambda m: None,
}


def audio(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The fault of an audio message; others are left as they are."""
    return lambda m: change(m) if "audio" in m.get("realtimeInput", {}) else m


def blob(name: str, value: str) -> Callable[[dict[str, Any]], Any]:
    return audio(lambda m: {"realtimeInput": {"audio": m["realtimeInput"]["audio"] | {name: value}}})


def answer(name: str, value: str) -> Callable[[dict[str, Any]], Any]:
    def changed(m: dict[str, Any]) -> dict[str, Any]:
        if "toolResponse" not in m:
            return m
        return {
            "toolResponse": {
                "functionResponses": [one | {name: value} for one in m["toolResponse"]["functionResponses"]]
            }
        }

    return changed


def role(m: dict[str, Any]) -> dict[str, Any]:
    if "clientContent" in m:
        for turn in m["clientContent"]["turns"]:
            turn["role"] = "caller"
    return m


MODEL = {
    "not base64": blob("data", "!!!"),
    "odd": blob("data", base64.b64encode(bytes(641)).decode()),
    "mime type": blob("mimeType", "audio/wav"),
    "rate": blob("mimeType", "audio/pcm;rate=1"),
    "unknown kind": audio(lambda m: {"realtimeSound": m["realtimeInput"]}),
    "unknown field": audio(lambda m: {"realtimeInput": m["realtimeInput"] | {"loud": True}}),
    "two kinds": audio(lambda m: m | {"clientContent": {"turns": [], "turnComplete": False}}),
    "not JSON": audio(lambda m: None),
    "setup again": audio(lambda m: {"setup": {"model": "models/gemini-3.8-live"}}),
    "activity": audio(lambda m: {"realtimeInput": {"activityStart": {}}}),
    "tool id": answer("id", "unknown"),
    "tool name": answer("name", "somebody_else"),
    "scheduling": answer("scheduling", "SOON"),
    "role": role,
    "no setup first": lambda m: m,
}

TWIML = {
    "not encrypted": lambda document: document.replace('url="wss:', 'url="ws:'),
    "query string": lambda document: document.replace('/media"', '/media?token=1"'),
    "no stream": lambda document: document.replace("Stream", "Streams"),
    "not XML": lambda document: document.replace("</Response>", ""),
    "no response": lambda document: document.replace("Response>", "Answer>"),
    "long parameter": lambda document: document.replace('name="token"', f'name="{"t" * 500}"'),
}


def plant_on_the_line() -> None:
    from offhook.gateway.carriers.twilio.messages import TwilioEncoder

    faults, build = iter(LINE.values()), TwilioEncoder.media

    def media(self: TwilioEncoder, codes: bytes) -> str:
        message = build(self, codes)
        fault = next(faults, None)
        return (
            message if fault is None else json.dumps(fault(json.loads(message))) if fault(json.loads(message)) else "{"
        )

    TwilioEncoder.media = media


def plant_before_the_model() -> None:
    from websockets.asyncio.connection import Connection

    faults, send = iter(MODEL.items()), Connection.send
    of: dict[Any, str] = {}

    async def sent(self: Connection, data: Any, **more: Any) -> None:
        if self not in of:  # its first message: the setup
            of[self] = next(faults, ("", None))[0]
            if of[self] == "no setup first":
                data = '{"realtimeInput":{"text":"hello"}}'
            return await send(self, data, **more)
        if fault := MODEL.get(of[self]):
            changed = fault(json.loads(data))
            data = "{" if changed is None else json.dumps(changed)
        return await send(self, data, **more)

    Connection.send = sent
    from offhook.gateway.models.gemini.wire import SessionSocket

    SessionSocket.send_now = lambda self, *messages: False  # every frame by `send`


def plant_in_twiml() -> None:
    from offhook.gateway.carriers.twilio import twiml

    faults, build = iter(TWIML.values()), twiml.connect_stream

    def connect_stream(**given: Any) -> str:
        fault = next(faults, lambda document: document)
        return fault(build(**given))

    twiml.connect_stream = connect_stream


PLANTS = {"line": plant_on_the_line, "model": plant_before_the_model, "twiml": plant_in_twiml}
if os.environ.get("PLANTED"):
    PLANTS[os.environ["PLANTED"]]()
