"""The link's messages are those of the SDK's public calls, both ways, and go over the socket that the SDK opened.

Guards `session._ws`, which google-genai does not promise: this fails when it is missing or means something else. Runs
with the installed google-genai; `make contract` runs it with the newest 3.x.
"""

import asyncio
import base64
import inspect
import json
import re
from types import SimpleNamespace
from typing import get_args

import pytest
from google import genai
from google.genai import live, types
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini import wire as wire_module
from offhook.gateway.models.gemini.public import PublicSession
from offhook.gateway.models.gemini.wire import SessionSocket, socket_of
from offhook.gateway.models.websocket import text_frame
from tests.models.gemini.wire_cases import CASES

PCM = bytes(range(256)) * 2 + b"\xfb\xff\xbf"  # both alphabets differ on this

OUTGOING = {
    "audio": PCM[:-1],
    "silence": bytes(640),
    "text": wire.Text('Say "ja", bitte: \u00e4\u00f6\u00fc \U0001f600'),
    "context": wire.Context("The caller heard: hello"),
    "picture": wire.Picture(b"\xff\xd8\xff" + PCM),
    "activity start": wire.ActivityStart(),
    "activity end": wire.ActivityEnd(),
    "result": wire.FunctionResponse("c1", "book", {"table": 7, "notes": ["a", None], "x_y": {"z_w": 1.5}}, "WHEN_IDLE"),
    "result to interrupt with": wire.FunctionResponse("c1", "book", {"error": "none free"}, "INTERRUPT"),
    "silent result": wire.FunctionResponse("c1", "book", {"output": ""}, "SILENT"),
    "result of a call that waits": wire.FunctionResponse("c1", "book", {}),
}


class Socket:
    """A WebSocket as the SDK uses it: keeps what is sent, gives what is there to receive."""

    close = None

    def __init__(self, *frames: bytes) -> None:
        self.transport = SimpleNamespace(get_extra_info=lambda name: None)
        self.sent: list[str | bytes] = []
        self._frames = list(frames)

    async def send(self, message: str | bytes, *, text: bool | None = None) -> None:
        assert isinstance(message, str) or text is True, "a text frame"
        self.sent.append(message)

    async def recv(self, decode: bool | None = None) -> bytes:
        return self._frames.pop(0)


def session_over(socket: Socket, vertex: bool) -> live.AsyncSession:
    client = genai.Client(api_key="k", vertexai=vertex)
    return live.AsyncSession(api_client=client._api_client, websocket=socket)


async def send_by_sdk(session: live.AsyncSession, message: wire.Outgoing) -> None:
    match message:
        case bytes():
            await session.send_realtime_input(audio=types.Blob(data=message, mime_type="audio/pcm;rate=16000"))
        case wire.Text(text):
            await session.send_realtime_input(text=text)
        case wire.Picture(jpeg):
            await session.send_realtime_input(video=types.Blob(data=jpeg, mime_type="image/jpeg"))
        case wire.ActivityStart():
            await session.send_realtime_input(activity_start=types.ActivityStart())
        case wire.ActivityEnd():
            await session.send_realtime_input(activity_end=types.ActivityEnd())
        case wire.Context(text):
            turn = types.Content(role="user", parts=[types.Part(text=text)])
            await session.send_client_content(turns=turn, turn_complete=False)
        case wire.FunctionResponse(call_id, name, response, scheduling):
            await session.send_tool_response(
                function_responses=types.FunctionResponse(
                    id=call_id,
                    name=name,
                    response=response,
                    scheduling=types.FunctionResponseScheduling(scheduling) if scheduling else None,
                )
            )


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
async def test_the_sdk_sends_the_same(name, vertex):
    ours, theirs, public = Socket(), Socket(), Socket()
    await socket_of(session_over(ours, vertex)).send(OUTGOING[name])
    await send_by_sdk(session_over(theirs, vertex), OUTGOING[name])
    await PublicSession(session_over(public, vertex)).send(OUTGOING[name])
    assert normal(ours.sent[0]) == normal(theirs.sent[0]) == normal(public.sent[0])


@pytest.mark.parametrize("name", OUTGOING)
async def test_what_is_sent_on_the_spot_is_the_same_frame(name):
    """Two real connections to one listener: `send` on one, `send_now` on the other."""
    frames: list[tuple[str | bytes, ...]] = []

    async def listen(ws):
        frames.append(tuple([message async for message in ws]))

    async with serve(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for at_once in (False, True):
            ws = await connect(f"ws://127.0.0.1:{port}", compression=None)
            socket = socket_of(SimpleNamespace(_ws=ws))
            if at_once:
                assert socket.send_now(OUTGOING[name])
            else:
                await socket.send(OUTGOING[name])
            await socket.close()
            assert not socket.send_now(OUTGOING[name]), "a closed connection takes nothing"
    assert frames[0] == frames[1]
    assert isinstance(frames[0][0], str), "a text frame"


# The SDK drops new fields, raises at new messages, and renames Vertex AI's usage only there.
OURS_ALONE = {"a new field", "a new message", "usage by Vertex's names"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in OURS_ALONE])
async def test_the_sdk_receives_the_same(name):
    message, values = CASES[name]
    frame = json.dumps(message).encode()
    assert await socket_of(session_over(Socket(frame), vertex=False)).receive() == values
    public = PublicSession(session_over(Socket(frame, frame), vertex=False))
    assert [await public.receive(), await public.receive()] == [values, values]


def test_the_sessions_socket_is_websockets_connection():
    """`_ws` is websockets' asyncio connection, with the two options that `SessionSocket` uses."""
    assert live.ClientConnection is ClientConnection
    assert "text" in inspect.signature(ClientConnection.send).parameters
    assert "decode" in inspect.signature(ClientConnection.recv).parameters
    assert session_over(socket := Socket(), vertex=False)._ws is socket


@pytest.mark.parametrize("size", [0, 1, 125, 126, 913, 65_535, 65_536])
def test_a_frame_reads_back_as_one_text_message(size):
    payload = bytes(i % 251 for i in range(size))
    reader = ServerProtocol(state=State.OPEN)
    for _ in range(3):
        reader.receive_data(text_frame(payload))
    assert [(f.opcode, f.fin, bytes(f.data)) for f in reader.events_received()] == [(Opcode.TEXT, True, payload)] * 3


def test_no_two_frames_have_the_same_mask():
    assert len({text_frame(b"0123456789")[2:6] for _ in range(3_000)}) > 2_990  # of 2**32


async def test_frames_beside_the_librarys_own():
    """Pings answered, a message of `send` and a close, while frames are written past the library."""
    received: list[str | bytes] = []
    answered = asyncio.Event()

    async def listen(ws):
        for n in range(20):
            pong = await ws.ping(str(n))
            received.append(await ws.recv())
            await pong
        answered.set()
        received.extend([message async for message in ws])

    # Without a bound: with 16 messages unread the server would stop reading, and wait for a pong that is behind them.
    async with serve(listen, "127.0.0.1", 0, ping_interval=None, max_queue=None) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ws = await connect(url, ping_interval=None, compression=None)
        socket = socket_of(SimpleNamespace(_ws=ws))
        for n in range(20):
            assert socket.send_now(*[wire.Text(f"{n}")] * (1 + n % 3))
            await asyncio.sleep(0)
        await answered.wait()
        await socket.send(wire.Text("last"))
        await socket.close()
        assert ws.close_code == 1000
    texts = [json.loads(text)["realtimeInput"]["text"] for text in received]
    assert texts == [f"{n}" for n in range(20) for _ in range(1 + n % 3)] + ["last"]


async def test_a_compressed_connection_sends_by_itself():
    received: list[str | bytes] = []

    async def listen(ws):
        received.extend([message async for message in ws])

    async with serve(listen, "127.0.0.1", 0) as server:
        ws = await connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert ws.protocol.extensions, "permessage-deflate"
        socket = socket_of(SimpleNamespace(_ws=ws))
        assert not socket.send_now(wire.Text("a"))
        await socket.send(wire.Text("b"))
        await socket.close()
    assert received == ['{"realtimeInput":{"text":"b"}}']


@pytest.mark.parametrize(
    ("session", "kind", "logged"),
    [
        (SimpleNamespace(_ws=Socket()), SessionSocket, "no session._ws with protocol, paused: audio is sent by"),
        (SimpleNamespace(receive=list), PublicSession, "no session._ws with send, recv, close: the SDK's public calls"),
    ],
    ids=["another", "no _ws"],
)
def test_what_stands_in_is_logged_once(session, kind, logged, caplog):
    wire_module._warn.cache_clear()
    assert [type(socket_of(session)) for _ in range(3)] == [kind] * 3
    [line] = caplog.messages
    assert logged in line
    assert re.match(r"google-genai [\d.]+ with websockets [\d.]+ has ", line)
    assert line.endswith("constraints.txt")
