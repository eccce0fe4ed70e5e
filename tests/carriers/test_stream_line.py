"""`StreamLine` over real sockets: in order, bounded, and done with a peer that does not read. Mark names, too."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.call.line import LineCan, LineFormats, ReplyMark, Span
from offhook.gateway.carriers import stream_line
from offhook.gateway.carriers.stream_line import ClearMark, StreamLine, close_socket, mark_name, parse_mark
from offhook.gateway.carriers.twilio.messages import TwilioEncoder
from offhook.media.formats import MULAW_8K, PCM16_16K

TELEPHONE = LineFormats(MULAW_8K, MULAW_8K)
FRAME = bytes(160)


@dataclass
class Sink:
    """A call on paper."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def caller_audio(self, codes: bytes, media_ms: int) -> None: ...

    def key_pressed(self, key: str) -> None: ...

    def mark_heard(self, mark: ReplyMark) -> None:
        self.events.append(("heard", mark))

    def cleared(self, epoch: int) -> None:
        self.events.append(("cleared", epoch))

    def sent(self, span: Span) -> None:
        self.events.append(("sent", span))

    def clear_sent(self, epoch: int) -> None:
        self.events.append(("clear_sent", epoch))

    def line_failed(self, why: str) -> None:
        self.events.append(("failed", why))

    def task_failed(self, part: str, error: BaseException) -> None:
        self.events.append((part, error))


@dataclass
class Stream:
    """A line whose far end is `peer`, which has not read anything but the upgrade."""

    line: StreamLine
    sink: Sink
    server: web.WebSocketResponse
    transport: asyncio.Transport
    peer: socket.socket

    async def stall(self) -> None:
        """Play until the kernel takes no more and the transport is paused."""
        for n in range(2_000):
            if self.transport.get_write_buffer_size() > 64 * 1024:
                return
            self.line.play(Span(1, n * 16_000, (n + 1) * 16_000), bytes(16_000))
            await asyncio.sleep(0)
        pytest.fail("the socket took everything")

    async def received(self) -> list[dict[str, Any]]:
        """All messages of the server up to its close frame, or the connection's end."""
        loop, data, found = asyncio.get_running_loop(), bytearray(), []
        self.peer.setblocking(False)
        async with asyncio.timeout(10):
            while True:
                while (frame := _frame_in(data)) is not None:
                    opcode, payload = frame
                    if opcode == 8:
                        return found
                    found.append(json.loads(payload))
                part = await loop.sock_recv(self.peer, 1 << 20)
                if not part:
                    return found
                data += part


def _frame_in(data: bytearray) -> tuple[int, bytes] | None:
    """Take the first whole frame (unmasked) out of `data`."""
    if len(data) < 2:
        return None
    size, head = data[1] & 0x7F, 2
    if size >= 126:
        head = 4 if size == 126 else 10
        size = int.from_bytes(data[2:head], "big")
    if len(data) < head + size:
        return None
    opcode, payload = data[0] & 0x0F, bytes(data[head : head + size])
    del data[: head + size]
    return opcode, payload


@asynccontextmanager
async def streaming(can: LineCan = LineCan(), formats: LineFormats = TELEPHONE) -> AsyncIterator[Stream]:  # noqa: B008
    """A WebSocket over loopback TCP: our server's line, and a bare socket with a small receive buffer."""
    opened: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    left = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        server = web.WebSocketResponse(compress=False, autoping=False, timeout=1.0)
        assert request.transport is not None
        transport = request.transport
        await server.prepare(request)
        sink = Sink()
        line = StreamLine(server, transport, TwilioEncoder("MZ1"), sink, stream_id="MZ1", formats=formats, can=can)
        opened.set_result(Stream(line, sink, server, transport, peer))
        async for _ in server:
            pass
        left.set()
        return server

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, runner.addresses[0])
    upgrade = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    await loop.sock_sendall(
        peer, f"{upgrade}Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(peer, 1)
    stream = await opened
    try:
        yield stream
    finally:
        stream.line.abort()
        async with asyncio.timeout(5):  # the reader of the socket is free, whatever happened
            await left.wait()
        peer.close()
        await runner.cleanup()


def span(n: int) -> Span:
    return Span(1, 160 * n, 160 * (n + 1))


# --- a far end that reads


async def test_audio_marks_and_clears_in_order():
    async with streaming() as x:
        x.line.play(span(0), FRAME)
        x.line.mark(ReplyMark(1, 160, 0))
        await asyncio.sleep(0.05)
        x.line.clear(1)
        await asyncio.sleep(0.05)
        assert x.line.marks_outstanding == 2
        closing = asyncio.create_task(x.line.close())
        sent = await x.received()
        await closing
        assert [m["event"] for m in sent] == ["media", "mark", "clear", "mark"]
        assert [m["mark"]["name"] for m in sent if "mark" in m] == ["r1.160.0", "c1"]
        assert x.sink.events == [("sent", span(0)), ("clear_sent", 1)]


class Counting:
    """A transport that counts the writes of the line."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.writes = 0
        self._transport = transport

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_what_waits_leaves_in_one_write():
    async with streaming() as x:
        counting = x.line._transport = Counting(x.transport)
        played = [bytes(size) for size in (1, 160, 48_000)]  # of each of the three lengths of a frame's head
        for n, codes in enumerate(played):
            x.line.play(Span(n, 0, len(codes)), codes)
            x.line.mark(ReplyMark(n, len(codes), 0))
        await asyncio.sleep(0.05)
        assert counting.writes == 1
        assert x.line.marks_outstanding == 3
        closing = asyncio.create_task(x.line.close())
        sent = await x.received()
        await closing
        assert [m["event"] for m in sent] == ["media", "mark"] * 3
        assert [len(base64.b64decode(m["media"]["payload"])) for m in sent if "media" in m] == [1, 160, 48_000]


async def test_nothing_unsent_follows_a_clear():
    async with streaming() as x:
        for n in range(100):  # nothing is awaited: none of it has left
            x.line.play(span(n), FRAME)
            x.line.mark(ReplyMark(1, 160 * (n + 1), 0))
        x.line.clear(1)
        x.line.play(Span(2, 0, 160), FRAME)
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(x.line.close())
        assert [m["event"] for m in await x.received()] == ["clear", "mark", "media"]
        await closing
        assert x.sink.events == [("clear_sent", 1), ("sent", Span(2, 0, 160))]


async def test_reported_marks_reach_the_call():
    async with streaming() as x:
        assert x.line.on_mark("r3.4800.1")
        assert x.line.on_mark("c7")
        assert not x.line.on_mark("hello")
        assert x.sink.events == [("heard", ReplyMark(3, 4800, 1)), ("cleared", 7)]
        assert x.line.marks_outstanding == 0  # never below


async def test_an_acknowledged_clear_needs_no_mark():
    async with streaming(LineCan(acknowledges_clear=True)) as x:
        x.line.clear(1)  # overtaken by the next before it left: the far end never sees it
        x.line.clear(2)
        await asyncio.sleep(0.05)
        x.line.on_cleared()
        x.line.on_cleared()
        assert x.sink.events == [("clear_sent", 2), ("cleared", 2)]
        assert x.line.marks_outstanding == 0


@pytest.mark.parametrize(("formats", "bytes_per_sample"), [(TELEPHONE, 1), (LineFormats(MULAW_8K, PCM16_16K), 2)])
async def test_long_audio_is_split(formats: LineFormats, bytes_per_sample: int):
    async with streaming(LineCan(max_message_bytes=2_000), formats) as x:
        x.line.play(Span(1, 400, 4_400), bytes(4_000 * bytes_per_sample))
        await asyncio.sleep(0.05)
        spans = [what for _, what in x.sink.events]
        assert spans[0].from_sample == 400
        assert spans[-1].to_sample == 4_400
        assert all(a.to_sample == b.from_sample for a, b in pairwise(spans))
        closing = asyncio.create_task(x.line.close())
        assert all(len(json.dumps(m, separators=(",", ":"))) <= 2_000 for m in await x.received())
        await closing


# --- a far end that does not read


async def test_an_unread_stream_is_left_at_once():
    async with streaming() as x:
        await x.stall()
        async with asyncio.timeout(1.0):
            await x.line.close()
        assert x.transport.is_closing()
        assert x.line._sender.done()


async def test_close_survives_a_cancelled_drain():
    """aiohttp has one future per connection for all that wait for its drain: whoever is cancelled cancels all."""
    async with streaming() as x:
        await x.stall()
        pong = asyncio.create_task(x.server.pong(b"x" * 100))
        big = asyncio.create_task(x.server.send_str("x" * 100_000))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(x.line.close())
        big.cancel()
        async with asyncio.timeout(1.0):
            await closing
        await asyncio.gather(pong, big, return_exceptions=True)
        assert x.line._sender.done()


async def test_a_drain_cancelled_while_closing_is_survived():
    async with streaming() as x:
        closing = asyncio.create_task(close_socket(Cancelled(), x.transport))  # as a cancelled drain looks from outside
        async with asyncio.timeout(1.0):
            await closing
        assert not closing.cancelled()


class Cancelled:
    async def send_str(self, data: str) -> None: ...

    async def close(self, *, code: int = 1000, message: bytes = b"") -> Any:
        raise asyncio.CancelledError

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

    def exception(self) -> None: ...


async def test_a_peer_that_ignores_the_close_is_dropped():
    async with streaming() as x:
        x.line.play(span(0), FRAME)
        async with asyncio.timeout(3.0):
            await x.line.close()
        assert x.transport.is_closing()


async def test_nothing_is_sent_after_abort():
    async with streaming() as x:
        await x.stall()
        x.line.abort()
        sent = len(x.sink.events)
        x.line.play(span(0), FRAME)
        x.line.mark(ReplyMark(1, 0, 0))
        x.line.clear(1)
        await asyncio.sleep(0.05)
        assert len(x.sink.events) == sent
        assert x.line._sender.done()


async def test_a_full_outbox_fails_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream_line, "OUTBOX_MAX_BYTES", 200_000)
    async with streaming() as x:
        for n in range(100):
            x.line.play(Span(1, n * 16_000, (n + 1) * 16_000), bytes(16_000))
        assert x.sink.events == [("failed", "the carrier stopped reading")]
        await x.line.close()  # harmless
        assert x.transport.is_closing()


async def test_a_connection_that_breaks_is_the_readers_news():
    async with streaming() as x:
        x.peer.close()
        async with asyncio.timeout(5):
            while not x.line._sender.done():
                x.line.play(span(0), FRAME)
                await asyncio.sleep(0.01)
        assert not [event for event in x.sink.events if event[0] == "failed"]


# --- mark names

counts = st.integers(0, 10**12)


@given(counts, counts, counts)
@settings(deadline=None, derandomize=True)
def test_mark_names_round_trip(generation: int, sample: int, epoch: int):
    assert parse_mark(mark_name(ReplyMark(generation, sample, epoch))) == ReplyMark(generation, sample, epoch)
    assert parse_mark(mark_name(ClearMark(epoch))) == ClearMark(epoch)


def test_mark_names_on_the_wire():
    assert mark_name(ReplyMark(3, 4800, 1)) == "r3.4800.1"
    assert mark_name(ClearMark(7)) == "c7"


@pytest.mark.parametrize(
    "name",
    [
        "", "r", "c", "r1", "r1.2", "r1.2.", "r1.2.3.4", "r1.2.3\n", " r1.2.3", "R1.2.3", "r-1.2.3", "r01.2.3",
        "r1.2.3x", "r1,2,3", "r1.2.٣", "c01", "c-1", "c1.2", "c1\n", "mark", "r" + "1" * 10_000, "x" * 10_000,
        "r1.2." + "9" * 16, "r1.2." + "9" * 5_000, "c" + "9" * 16, "c" + "9" * 5_000, "\x00", "\ud800",
    ],
)  # fmt: skip
def test_other_names_are_refused(name: str):
    assert parse_mark(name) is None


@given(st.text(alphabet="rc0123456789.-", max_size=30))
@settings(deadline=None, derandomize=True)
def test_only_names_we_make_are_parsed(name: str):
    mark = parse_mark(name)
    assert mark is None or mark_name(mark) == name
