"""A client's WebSocket split into frames: what is taken on the spot, and what stays the library's."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from websockets.frames import BINARY, CLOSE, CONT, PING, TEXT, Frame

from offhook.gateway.labels import LABELS
from offhook.gateway.web.connections import Connections, split_frames
from offhook.gateway.web.frames import Frames
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics

MAX = 1000


def frame(payload, opcode=TEXT, fin=True, mask=True):
    return Frame(opcode, payload, fin).serialize(mask=mask)


class Taker:
    def __init__(self, wanted=lambda text: True):
        self.wanted, self.took, self.frames = wanted, [], Frames(MAX)

    def __call__(self, text):
        if self.wanted(text):
            self.took.append(text)
            return True
        return False

    def push(self, *received):
        return b"".join(self.frames.push(data) for data in received)


def at_work(wanted=lambda text: True):
    taker = Taker(wanted)
    taker.frames.offer(taker)
    return taker


texts = st.binary(max_size=MAX).map(lambda raw: (raw.hex().encode()[:MAX], TEXT))
others = st.tuples(st.binary(max_size=100), st.sampled_from([BINARY, PING, CLOSE]))


@given(st.lists(texts | others, max_size=6), st.lists(st.integers(0, 4000), max_size=8))
def test_texts_are_taken_however_the_stream_is_cut(sent, cuts):
    wire = [frame(*one) for one in sent]
    stream, taker = b"".join(wire), at_work()
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
    passed = taker.push(*(stream[start:end] for start, end in zip([0, *ends], ends, strict=False)))
    assert taker.took == [payload for payload, opcode in sent if opcode is TEXT]
    assert passed == b"".join(raw for raw, (_, opcode) in zip(wire, sent, strict=True) if opcode is not TEXT)


@pytest.mark.parametrize(
    "odd",
    [
        frame(b"frag", fin=False),
        frame(b"ment", CONT),
        b"\xc1" + frame(b"compressed")[1:],
        frame(b"not masked", mask=False),
        frame(b"", PING, mask=False),
        frame(b"x" * (MAX + 1)),
        frame(b"x" * 70_000)[:14],
    ],
    ids=["fragment", "continuation", "reserved", "unmasked", "unmasked-short", "too-long", "too-long-head"],
)
def test_what_is_odd_is_the_library_s_for_good(odd):
    taker = at_work()
    assert taker.push(frame(b"one"), odd) == odd
    taker.frames.offer(taker)
    assert taker.push(frame(b"two")) != b""
    assert taker.took == [b"one"]


@pytest.mark.parametrize("text", ["naïve".encode(), b"\xff", b"stop"])
def test_what_is_not_taken_keeps_its_place(text):
    """The texts behind it are the library's, too, until all of them were read from it."""
    taker = at_work(lambda text: text != b"stop")
    first, second = frame(text), frame(b"behind it")
    assert taker.push(first, second) == first + second
    taker.frames.read()
    taker.frames.offer(taker)
    assert taker.push(third := frame(b"too early")) == third
    taker.frames.read()
    taker.frames.read()
    taker.frames.offer(taker)
    assert taker.push(frame(b"in time")) == b""
    assert taker.took == [b"in time"]


def test_nothing_is_taken_unasked_or_after_stop():
    taker = Taker()
    assert taker.push(raw := frame(b"one")) == raw
    taker.frames.read()
    taker.frames.offer(taker)
    taker.frames.stop()
    assert taker.push(raw := frame(b"two")) == raw
    assert taker.took == []


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("early", [b"", frame(b"early")], ids=["alone", "with the upgrade"])
async def test_a_served_text_is_taken_on_arrival(early):
    """Nobody reads the socket meanwhile. What comes with the upgrade is aiohttp's, and so is all that follows."""
    taker, read = Taker(), asyncio.Queue()

    async def handler(request):
        frames = split_frames(request, MAX)
        assert (frames is None) == bool(early)
        if frames is not None:
            frames.offer(taker)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        async for message in socket:
            read.put_nowait(message.data)
        return socket

    limits = Limits(Metrics(CollectorRegistry(), LABELS), clock=lambda: 0.0)
    bounds = Connections(limits, limits._metrics, max_calls=1, spare=8, clock=lambda: 0.0)
    app = web.Application(middlewares=[bounds.middleware()])
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = await asyncio.get_running_loop().create_server(bounds.guard(runner.server), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(UPGRADE + early)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(b"a text") + frame(b"a ping", PING))
    expected = ["early", "a text", b"a ping"] if early else [b"a ping"]
    async with asyncio.timeout(5):
        assert [await read.get() for _ in expected] == expected
    assert taker.took == ([] if early else [b"a text"])
    writer.close()
    listener.close()
    await runner.cleanup()
