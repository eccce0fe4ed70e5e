"""A carrier that stops reading, against a running server: its call ends, and its next stream is heard."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from offhook.gateway.call.line import Span
from offhook.gateway.carriers.stream_line import StreamLine
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.rehearsal.model.script import Script
from tests.carriers.twilio.raw_socket import RawSocket, media, start_of
from tests.carriers.twilio.telephone_rig import Exchange, exchange

AGENTS = {"quiet": ("", Script(()))}


async def stalled(x: Exchange) -> tuple[RawSocket, StreamLine]:
    """A call whose carrier does not read: its transport is paused, and its sender waits."""
    socket = await RawSocket.streaming(x, "quiet")
    line = x.gateway.calls[socket.call_sid].line
    assert isinstance(line, StreamLine)
    for n in range(2_000):  # more than the kernel's buffers hold, less than the outbox
        if line._transport.get_write_buffer_size() > 64 * 1024:
            break
        line.play(Span(1, n * 16_000, (n + 1) * 16_000), bytes(16_000))
        await asyncio.sleep(0)
    else:
        pytest.fail("the socket took everything")
    return socket, line


async def test_a_call_that_ends_unread_is_over():
    async with exchange(AGENTS) as x:
        socket, line = await stalled(x)
        await socket.json({"event": "stop"})
        async with asyncio.timeout(3):
            record = await x.record(socket.call_sid)
        assert record.end_reason == "caller_hung_up"
        assert not x.gateway.calls
        assert x.gateway.admission.calls == 0
        assert line._sender.done()
        assert "offhook_stuck_calls_total 0" in x.gateway.metrics.render().decode()


async def test_a_call_hung_up_by_the_agent_unread_is_over():
    async with exchange(AGENTS) as x:
        socket, line = await stalled(x)
        x.gateway.calls[socket.call_sid].stop(Ending.SERVER_STOPPED)
        async with asyncio.timeout(3):
            record = await x.record(socket.call_sid)
        assert record.end_reason == "server_stopped"
        assert line._sender.done()


async def test_the_stream_after_a_stalled_one_is_heard():
    async with exchange(AGENTS) as x:
        socket, stuck = await stalled(x)
        call = x.gateway.calls[socket.call_sid]
        form = {"CallSid": socket.call_sid, "AccountSid": x.twilio.account_sid, "CallStatus": "in-progress"}
        _, document = await x.webhook("/twilio/after", form)
        token = document.partition('value="')[2].partition('"')[0]
        async with RawSocket(x) as again:
            await again.json({"event": "connected"}, start_of(x, socket.call_sid, token), media(1))
            await x.until(lambda: call.line not in (None, stuck))
            assert call.line is not None
            call.line.play(Span(2, 0, 160), b"\x55" * 160)
            async with asyncio.timeout(3):
                _, data = await again.received()
            assert base64.b64decode(json.loads(data)["media"]["payload"]) == b"\x55" * 160
            await x.until(stuck._sender.done, 2.0)
            await again.stop()
        assert (await x.record(socket.call_sid)).end_reason == "caller_hung_up"
        await socket.__aexit__()


async def test_a_silent_stalled_stream_is_replaced():
    """The carrier neither reads nor sends: the watchdog leaves the stream, and its transport is aborted."""
    async with exchange(AGENTS) as x:
        socket, line = await stalled(x)
        call = x.gateway.calls[socket.call_sid]
        x.gateway.switchboard.line_gone(call, call.clock())
        assert call.line is None
        await x.until(lambda: line._sender.done() and line._transport.is_closing(), 2.0)
        await x.webhook("/twilio/status", {"CallSid": socket.call_sid, "CallStatus": "completed"})
        assert (await x.record(socket.call_sid)).end_reason == "caller_hung_up"
        await socket.__aexit__()
