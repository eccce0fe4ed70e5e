"""Webhooks and streams against a running server: signatures, repeats, status, watchdogs, our own faults."""

from __future__ import annotations

import asyncio
import logging
import secrets
from operator import attrgetter
from typing import Any
from unittest import mock

import pytest

from offhook.gateway.call import continuity, teardown
from offhook.gateway.call.line import ReplyMark
from offhook.gateway.carriers.twilio import steering
from offhook.gateway.carriers.twilio.signature import sign
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, WaitForAgent
from tests.carriers.twilio.raw_socket import RawSocket, media, ring, start_of
from tests.carriers.twilio.telephone_rig import AUTH_TOKEN, PUBLIC, Exchange, exchange

HELLO = Reply("text", (Speak("Hello.", length_ms=600),))
AGENTS = {
    "desk": ("greeting: {text: Greet.}\nfallback: {say: 'Call again, please.'}", Script((HELLO,))),
    "dial": ("greeting: {text: Greet.}\nfallback: {say: One moment., dial: '+15550100099'}", Script((HELLO,))),
    "queue": ("greeting: {text: Greet.}\nfallback: {enqueue: support & co}", Script((HELLO,))),
    "plays": ("greeting: {text: Greet.}\nfallback: {play: 'https://example.com/sorry.mp3'}", Script((HELLO,))),
    "quiet": ("", Script(())),
}
FALLBACK = "<Say>Call again, please.</Say><Hangup />"


def form_of(x: Exchange, agent: str = "desk", **more: str) -> dict[str, str]:
    call_sid = "CA" + secrets.token_hex(16)
    account = {"AccountSid": x.twilio.account_sid, "From": "+15550100", "CallStatus": "ringing"}
    return {"CallSid": call_sid, "To": x.numbers[agent], **account, **more}


# --- signatures (the algorithm's own vectors: tests/carriers/twilio/test_signature.py)


async def test_only_our_accounts_call_sids_are_taken() -> None:
    """Names and values are signed without separators: a captured webhook can be cut into other fields."""
    async with exchange(AGENTS, environ={}) as x:
        captured = form_of(x)
        seal = sign(AUTH_TOKEN, PUBLIC + "/twilio/voice", captured)
        longer = f"{captured['CallSid']}CallStatus{captured['CallStatus']}"
        recut = {k: v for k, v in captured.items() if k != "CallStatus"} | {"CallSid": longer}
        assert sign(AUTH_TOKEN, PUBLIC + "/twilio/voice", recut) == seal  # or this would show nothing
        assert (await x.webhook("/twilio/voice", recut, signature=seal))[0] == 400
        for call_sid in ("CA1", "CA" + "g" * 32, "MZ" + "1" * 32, "CA" + "1" * 33):
            assert (await x.webhook("/twilio/voice", form_of(x, CallSid=call_sid)))[0] == 400, call_sid
        assert (await x.webhook("/twilio/voice", form_of(x, AccountSid="AC" + "1" * 32)))[0] == 403
        assert not x.gateway.calls
        assert x.counted("input_errors_total") == {
            'peer="http",reason="bad_field"': 5.0,
            'peer="http",reason="wrong_call"': 1.0,
        }


async def test_who_is_believed() -> None:
    """Signed by any token of the list, over the public URL we are configured with, whatever the proxy says."""
    async with exchange(AGENTS, environ={"TWILIO_AUTH_TOKEN": f"{AUTH_TOKEN},second-canary"}) as x:

        async def status(**how: Any) -> int:
            return (await x.webhook("/twilio/status", form_of(x), **how))[0]

        assert await status() == 204
        assert await status(token="second-canary") == 204
        assert await status(public=PUBLIC + ":443") == 204
        assert await status(token="") == 403
        assert await status(public="http://voice.example.com") == 403
        assert await status(public="https://127.0.0.1") == 403
        assert await status(signature="") == 403
        assert await status(signature="é" * 20) == 403
        signed = form_of(x)
        for changed in (
            {**signed, "To": "+15550999"},
            {**signed, "More": "1"},
            {k: signed[k] for k in ("CallSid", "To")},
        ):
            seal = sign(AUTH_TOKEN, PUBLIC + "/twilio/status", signed)
            assert (await x.webhook("/twilio/status", changed, signature=seal))[0] == 403
        seal = sign(AUTH_TOKEN, "https://evil.example/twilio/status", signed)
        headers = {"X-Twilio-Signature": seal, "X-Forwarded-Host": "evil.example", "Host": "evil.example"}
        async with x.http.post(x.url + "/twilio/status", data=signed, headers=headers) as answer:
            assert answer.status == 403
        for url, wanted in (
            ("wss://voice.example.com/twilio/media", 101),
            ("wss://voice.example.com/twilio/media/", 101),
            ("wss://voice.example.com:443/twilio/media", 101),
            ("https://voice.example.com/twilio/media", 403),
            ("wss://voice.example.com/twilio/media?a=1", 403),
            ("wss://other.example.com/twilio/media", 403),
        ):
            with mock.patch("tests.carriers.twilio.raw_socket.sign", lambda token, _, url=url: sign(token, url)):
                async with RawSocket(x) as socket:
                    assert socket.status == wanted, url


# --- one call, however often it is told


async def test_a_repeated_webhook_is_one_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with exchange(AGENTS) as x:
        form = form_of(x)
        answers = await asyncio.gather(*(x.webhook("/twilio/voice", form) for _ in range(10)))
        assert len(set(answers)) == 1
        assert answers[0][0] == 200
        assert len(x.gateway.calls) == 1
        token = answers[0][1].partition('value="')[2].partition('"')[0]
        async with RawSocket(x) as socket:
            await socket.json({"event": "connected"}, start_of(x, form["CallSid"], token))
            await x.until(lambda: x.gateway.calls[form["CallSid"]].line)
            assert await x.webhook("/twilio/voice", form) == answers[0]  # its token is burnt: it opens nothing
            await socket.stop()
        assert (await x.record(form["CallSid"])).end_reason == "caller_hung_up"
        _, replayed = await x.webhook("/twilio/voice", form)
        assert "<Response><Hangup /></Response>" in replayed
        assert not x.gateway.calls
        assert len(x.model.sessions) == 1
        assert x.counted("calls_rejected_total") == {'reason="ended"': 1.0}
    assert token not in caplog.text
    assert "canary" not in caplog.text


async def test_no_room_and_no_more_calls() -> None:
    async with exchange(AGENTS, environ={"OFFHOOK_MAX_CALLS": "1"}) as x:
        await ring(x, "quiet")
        assert FALLBACK in (await x.webhook("/twilio/voice", form_of(x)))[1]
        _, dialled = await x.webhook("/twilio/voice", form_of(x, "dial"))
        assert "<Dial><Number>+15550100099</Number></Dial>" in dialled
        _, queued = await x.webhook("/twilio/voice", form_of(x, "queue"))
        assert "<Response><Enqueue>support &amp; co</Enqueue><Hangup /></Response>" in queued
        _, played = await x.webhook("/twilio/voice", form_of(x, "plays"))
        assert "<Response><Play>https://example.com/sorry.mp3</Play><Hangup /></Response>" in played
        _, unknown = await x.webhook("/twilio/voice", form_of(x, To="+15550777"))
        assert "<Say>" in unknown
        x.gateway.admission.draining = True
        assert FALLBACK in (await x.webhook("/twilio/voice", form_of(x)))[1]
        reasons = {'reason="at_limit"': 4.0, 'reason="no_agent"': 1.0, 'reason="draining"': 1.0}
        assert x.counted("calls_rejected_total") == reasons
        assert (await x.http.get(x.url + "/readyz")).status == 503
        status, refusal = await x.api("POST", "/calls", {"to": "+15550300001", "agent": "desk"})
        assert (status, "draining" in refusal["error"]) == (503, True)


@pytest.mark.parametrize("path", ["/twilio/voice", "/twilio/after"])
async def test_our_own_fault_is_not_the_caller_s(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with exchange(AGENTS) as x:
        with (
            mock.patch.object(x.gateway.admission, "ring", side_effect=RuntimeError("planted")),
            mock.patch.object(x.gateway.switchboard, "dial_failed", side_effect=RuntimeError("planted")),
        ):
            status, text = await x.webhook(path, form_of(x, DialCallStatus="busy"))
        assert status == 200
        assert FALLBACK in text
        assert x.counted("calls_rejected_total") == {'reason="internal_error"': 1.0}
        assert "planted" in caplog.text
        _, text = await x.webhook("/twilio/fallback", form_of(x, ErrorCode="11200"))
        assert FALLBACK in text


async def test_forgotten_outbound_call_goes_by_our_number() -> None:
    """After a restart: the agent is the one whose number is shown, not somebody's who has the callee's."""
    async with exchange(AGENTS) as x:
        form = form_of(x, Direction="outbound-api", From=x.numbers["desk"], To="+15550999")
        _, text = await x.webhook("/twilio/voice?call=0123456789abcdef", form)
        assert "<Stream" in text
        call = x.gateway.calls[form["CallSid"]]
        assert (call.agent.name, call.facts.direction) == ("desk", "outbound")
        await x.webhook("/twilio/status", {**form, "CallStatus": "completed"})


# --- status: the second source of truth


async def test_status_callback_ends_call_with_open_socket() -> None:
    async with exchange(AGENTS) as x:
        socket = await RawSocket.streaming(x, "quiet")
        form = {"CallSid": socket.call_sid, "AccountSid": x.twilio.account_sid}
        for status in ("completed", "in-progress", "ringing"):  # out of order: what is over stays over
            assert (await x.webhook("/twilio/status", {**form, "CallStatus": status}))[0] == 204
        assert (await x.record(socket.call_sid)).end_reason == "caller_hung_up"
        ringing, _ = await ring(x, "quiet")
        await x.webhook("/twilio/status", {**form, "CallSid": ringing, "CallStatus": "canceled"})
        assert (await x.record(ringing)).end_reason == "stream_never_started"
        assert (await x.webhook("/twilio/status", {**form, "CallSid": "CA" + "0" * 32, "CallStatus": "busy"}))[0] == 204


async def test_stream_error_callback_ends_stream() -> None:
    """A stream that Twilio has given up (31924) while our socket stays open, for minutes if nobody looks."""
    async with exchange(AGENTS) as x:
        socket = await RawSocket.streaming(x, "quiet")
        call = x.gateway.calls[socket.call_sid]
        form = {"CallSid": socket.call_sid, "AccountSid": x.twilio.account_sid, "StreamSid": "MZ" + socket.call_sid[2:]}
        await x.webhook("/twilio/status", {**form, "StreamEvent": "stream-started"})
        await x.webhook("/twilio/status", {**form, "StreamSid": "MZ0", "StreamEvent": "stream-stopped"})
        failed = {**form, "StreamEvent": "stream-error", "StreamError": "31924 - protocol error"}
        await x.webhook("/twilio/status", failed)
        await socket.json(media(1))
        assert call.line
        await x.until(lambda: call.line is None, 4.0)
        _, text = await x.webhook("/twilio/after", {**form, "CallStatus": "in-progress"})
        assert "<Stream" in text
        assert call.record.errors == [
            "Twilio: 31924 - protocol error",
            "the carrier ended the stream and its socket did not show it",
        ]
        await x.webhook("/twilio/status", {**form, "CallStatus": "completed"})
        assert (await x.record(socket.call_sid)).end_reason == "caller_hung_up"


async def test_write_error_loses_stream_not_call() -> None:
    async with exchange(AGENTS) as x:
        socket = await RawSocket.streaming(x, "quiet")
        call = x.gateway.calls[socket.call_sid]
        socket.abort()
        async with asyncio.timeout(5):
            while call.line and call.ending is None:  # written into the void, until the reader notices
                call.line.mark(ReplyMark(1, 0, 0))
                await asyncio.sleep(0)
        assert call.ending is None
        form = {"CallSid": socket.call_sid, "AccountSid": x.twilio.account_sid, "CallStatus": "in-progress"}
        _, text = await x.webhook("/twilio/after", form)
        async with RawSocket(x) as again:
            token = text.partition('value="')[2].partition('"')[0]
            await again.json({"event": "connected"}, start_of(x, socket.call_sid, token))
            await x.until(lambda: call.line)
            call.line.mark(ReplyMark(1, 0, 0))
            async with asyncio.timeout(5):
                assert b'{"name":"r1.0.0"}' in (await again.received())[1]  # the new stream is written to
            await again.stop()
        assert (await x.record(socket.call_sid)).end_reason == "caller_hung_up"


async def test_ended_call_kept_up_is_hung_up_by_rest() -> None:
    with mock.patch.object(steering, "UNFETCHED_S", 0.5):
        await ended_call_is_hung_up()


async def ended_call_is_hung_up() -> None:
    async with exchange(AGENTS) as x:
        socket = await RawSocket.streaming(x, "quiet")
        x.gateway.calls[socket.call_sid].stop(Ending.AGENT_HUNG_UP)
        assert await socket.closed() == 1000
        await socket.__aexit__()
        await x.record(socket.call_sid)
        path = f"/Calls/{socket.call_sid}.json"
        await x.until(lambda: any(a.path == path for a in x.twilio.requests), 8.0)
        (asked,) = (a for a in x.twilio.requests if a.path == path)
        assert asked.form == {"Status": "completed"}
        assert asked.status == 404  # it was over already: no error, and not asked again
        await asyncio.sleep(0.6)
        assert sum(a.path == path for a in x.twilio.requests) == 1


async def test_marks_that_never_come_back_hold_nothing_up() -> None:
    async with exchange(AGENTS) as x:
        call = x.call("desk", WaitForAgent("end"), Pause(100), HangUp(), carrier=Carrier(marks="lost"))
        truth = await call.run()
        record = await x.record(call.call_sid)
        assert record.end_reason == "caller_hung_up"
        assert truth.marks
        assert not any(m.echoed for m in truth.marks)


@pytest.mark.parametrize("part", ["tools", "model.link"])
async def test_call_with_hanging_parts_is_over(part: str) -> None:
    async with exchange(AGENTS) as x:
        socket = await RawSocket.streaming(x, "quiet")
        call = x.gateway.calls[socket.call_sid]
        with (
            mock.patch.object(teardown, "CLOSE_MAX_S", 0.3),
            mock.patch.object(attrgetter(part)(call), "close", new=mock.AsyncMock(side_effect=asyncio.Event().wait)),
        ):
            await socket.stop()
            record = await x.record(socket.call_sid)
        assert record.end_reason == "caller_hung_up"
        assert record.errors == ["a tool, the model or the carrier did not close in time"]
        assert "offhook_stuck_calls_total 1" in x.gateway.metrics.render().decode()
        assert not x.gateway.calls
        assert x.gateway.admission.calls == 0


# --- the model waits for nobody


async def test_late_stream_gets_a_fresh_model_session() -> None:
    with mock.patch.object(continuity, "MODEL_WAITS_S", 0.5):
        async with exchange(AGENTS) as x:
            call_sid, token = await ring(x, "desk")
            await x.until(lambda: x.model.sessions and x.model.sessions[0].closed_by)
            assert not x.gateway.calls[call_sid].ending
            await asyncio.sleep(0.3)
            async with RawSocket(x) as socket:
                await socket.json({"event": "connected"}, start_of(x, call_sid, token))
                await x.until(lambda: x.gateway.calls[call_sid].record.turns)
                assert len(x.model.sessions) == 2
                await socket.stop()
            record = await x.record(call_sid)
            assert record.turns[0].reply_text == "Hello."
