"""The fast path and the SDK's public calls say the same on the wire, and hear the same, for every message.

Guards `session._ws`, which google-genai does not promise: should it go, or mean something else, this fails. Runs
with the installed google-genai; `make contract` runs it with the newest 3.x.
"""

import base64
import inspect
import json
import re
from typing import get_args

import pytest
from google import genai
from google.genai import live
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve

from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini.wire import SdkWire, SocketWire
from tests.models.gemini.wire_cases import CASES

PCM = bytes(range(256)) * 2 + b"\xfb\xff\xbf"  # both alphabets differ on this

OUTGOING = {
    "audio": PCM[:-1],
    "silence": bytes(640),
    "text": wire.Text('Say "ja", bitte: \u00e4\u00f6\u00fc \U0001f600'),
    "context": wire.Context("The caller heard: hello"),
    "activity start": wire.ActivityStart(),
    "activity end": wire.ActivityEnd(),
    "result": wire.ToolAnswer("c1", "book", {"table": 7, "notes": ["a", None], "x_y": {"z_w": 1.5}}, "WHEN_IDLE"),
    "result to interrupt with": wire.ToolAnswer("c1", "book", {"error": "none free"}, "INTERRUPT"),
    "silent result": wire.ToolAnswer("c1", "book", {"output": ""}, "SILENT"),
    "result of a call that waits": wire.ToolAnswer("c1", "book", {}),
}


class Line:
    """A WebSocket as the SDK uses it: keeps what is sent, gives what is there to receive."""

    def __init__(self, *frames: bytes) -> None:
        self.sent: list[str | bytes] = []
        self._frames = list(frames)

    async def send(self, message: str | bytes, *, text: bool | None = None) -> None:
        assert isinstance(message, str) or text is True, "a text frame"
        self.sent.append(message)

    async def recv(self, decode: bool | None = None) -> bytes:
        return self._frames.pop(0)


def session_over(line: Line, vertex: bool) -> live.AsyncSession:
    client = genai.Client(api_key="k", vertexai=vertex)
    return live.AsyncSession(api_client=client._api_client, websocket=line)


def normal(message: str | bytes) -> object:
    """One spelling: camelCase keys (but those of a tool's own response), standard base64."""

    def walk(value: object, own: bool = False) -> object:
        if isinstance(value, list):
            return [walk(inner, own) for inner in value]
        if not isinstance(value, dict):
            return value
        out = {}
        for key, inner in value.items():
            name = key if own else re.sub("_(.)", lambda match: match[1].upper(), key)
            if name == "data":
                inner = base64.b64encode(base64.urlsafe_b64decode(inner.translate(str.maketrans("+/", "-_")))).decode()
            out[name] = walk(inner, own or name == "response")
        return out

    return walk(json.loads(message))


def test_every_kind_of_message_is_tried():
    assert {type(message) for message in OUTGOING.values()} == set(get_args(wire.Outgoing))
    heard = {type(value) for _, values in CASES.values() for value in values}
    assert heard == set(get_args(wire.Incoming))


@pytest.mark.parametrize("vertex", [False, True], ids=["developer", "vertex"])
@pytest.mark.parametrize("name", OUTGOING)
async def test_both_paths_send_the_same(name, vertex):
    ours, theirs = Line(), Line()
    await SocketWire(session_over(ours, vertex)._ws).send(OUTGOING[name])
    await SdkWire(session_over(theirs, vertex)).send(OUTGOING[name])
    assert normal(ours.sent[0]) == normal(theirs.sent[0])


@pytest.mark.parametrize("name", OUTGOING)
async def test_what_is_sent_on_the_spot_is_the_same_frame(name):
    """Two real connections to one listener: `send` on one, `send_now` on the other."""
    frames: list[tuple[str | bytes, ...]] = []

    async def listen(ws):
        frames.append(tuple([message async for message in ws]))

    async with serve(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for at_once in (False, True):
            ws = await connect(f"ws://127.0.0.1:{port}")
            wired = SocketWire(ws)
            assert wired.has_direct
            if at_once:
                assert wired.send_now(OUTGOING[name])
            else:
                await wired.send(OUTGOING[name])
            await wired.close()
            assert not wired.send_now(OUTGOING[name]), "a closed connection takes nothing"
    assert frames[0] == frames[1]
    assert isinstance(frames[0][0], str), "a text frame"


# What only the socket sees: the SDK drops new fields, and new messages raise inside it.
NEWS = {"a new field"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in NEWS])
async def test_both_paths_hear_the_same(name):
    message, values = CASES[name]
    frame = json.dumps(message).encode()
    last = b'{"serverContent":{"turnComplete":true}}'
    assert await SocketWire(Line(frame)).receive() == values
    heard = await SdkWire(session_over(Line(frame, last), vertex=False)).receive()
    if name == "a new message":
        assert [value.unknown for value in heard] == [True]
    elif name == "usage by Vertex's names":
        assert heard == []  # the SDK, too, goes by the platform; there it renames them:
        assert await SdkWire(session_over(Line(frame, last), vertex=True)).receive() == values
    else:
        assert heard == values


async def test_the_sdk_path_goes_on_after_every_turn():
    frames = [
        json.dumps(CASES[name][0]).encode() for name in ("turn", "turn goes on", "audio", "a new message", "turn")
    ]
    wired = SdkWire(session_over(Line(*frames), vertex=False))
    heard = [value for _ in frames for value in await wired.receive()]
    assert [type(value) for value in heard] == [wire.TurnEnd, wire.TurnEnd, wire.Audio, wire.NotRead, wire.TurnEnd]


def test_the_socket_is_the_one_that_is_counted_on():
    """`_ws` is websockets' asyncio connection, with the two options the fast path uses."""
    assert live.ClientConnection is ClientConnection
    assert "text" in inspect.signature(ClientConnection.send).parameters
    assert "decode" in inspect.signature(ClientConnection.recv).parameters
    assert session_over(line := Line(), vertex=False)._ws is line
