"""The simulated carrier behaves as Twilio does, over real sockets, and tells the truth about it."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import numpy as np
import pytest

from offhook.gateway.rehearsal.phone import call as simulated
from offhook.gateway.rehearsal.phone import outbox, voice
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Cough, Digit, HangUp, Pause, Say, SayOver, WaitForAgent, WaitForEnd
from offhook.media.mulaw import decode, encode
from tests.rehearsal.stub_gateway import HANGUP, Line, StubGateway, twiml

SPEECH = encode(voice.line("Saturday for two is no problem. I have a table by the window at half past seven. "
                           "Shall I book it?", 8000, "agent"))  # fmt: skip
TWO_S = SPEECH[:16_000]


async def place(stub: StubGateway, *steps, **options):
    call = SimulatedCall(stub.url, steps, **options)
    async with asyncio.timeout(15):
        return await call.run()


async def hangs_on(line: Line) -> None:
    await line.until(lambda: bool(line.of("stop")), 15)


# --- what goes out


async def test_a_stream_has_the_messages_of_twilio():
    async with StubGateway(hangs_on) as stub:
        truth = await place(stub, Pause(400), HangUp(), dialled="+4930123456")
        [line] = stub.lines
        path, fields, headers = stub.requests[0]
    assert path == "/twilio/voice"
    assert fields["CallSid"] == truth.call_sid
    assert (fields["To"], fields["CallStatus"]) == ("+4930123456", "ringing")
    assert "X-Twilio-Signature" not in headers
    assert line.inbox[0] == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    start = line.inbox[1]
    assert start["start"]["customParameters"] == {"token": "secret"}
    assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    assert start["start"]["callSid"] == truth.call_sid
    assert start["streamSid"] == start["start"]["streamSid"] == truth.streams[0].stream_sid
    assert [m["sequenceNumber"] for m in line.inbox[1:]] == [str(n) for n in range(1, len(line.inbox))]
    media = line.of("media")
    assert [m["media"]["chunk"] for m in media] == [str(n) for n in range(1, len(media) + 1)]
    stamps = [int(m["media"]["timestamp"]) for m in media]
    assert np.diff(stamps).tolist() == [20] * (len(media) - 1)
    assert {len(base64.b64decode(m["media"]["payload"])) for m in media} == {160}
    assert 18 <= len(media) <= 23
    stop = line.inbox[-1]
    assert stop["event"] == "stop"
    assert stop["stop"]["callSid"] == truth.call_sid
    assert truth.ended_by == "caller"
    assert truth.streams[0].closed_by == "carrier"
    assert not truth.violations


async def test_caller_speech_is_sent_exactly_with_its_onset():
    async with StubGateway(hangs_on) as stub:
        truth = await place(stub, Pause(100), Say("Uh-huh."), HangUp())
        [line] = stub.lines
    sent = b"".join(base64.b64decode(m["media"]["payload"]) for m in line.of("media"))
    assert truth.left[: len(sent)] == sent
    [spoken] = truth.spoken
    clean = voice.line("Uh-huh.", 8000)
    at = sent.index(encode(clean)[:400])
    first, _ = voice.audible_span(clean, 8000)
    assert spoken.onset_place == at + first
    assert spoken.onset_s == pytest.approx(truth.began_s + (at + first) / 8000)
    assert not spoken.over_agent


@pytest.mark.wall_clock
async def test_clock_recovers_from_a_hiccup_without_drift():
    async with StubGateway(hangs_on) as stub:
        call = SimulatedCall(stub.url, [Pause(900), HangUp()])
        task = asyncio.create_task(call.run())
        await asyncio.sleep(0.3)
        time.sleep(0.15)  # noqa: ASYNC251 - the whole process stands still
        truth = await task
        [line] = stub.lines
    assert truth.latest_tick_ms > 100
    lived_s = truth.streams[0].closed_s - truth.began_s
    assert len(line.of("media")) == pytest.approx(lived_s / 0.02, abs=3)


# --- playback


async def test_audio_plays_in_real_time_and_returns_marks():
    async def talk(line: Line) -> None:
        await line.mark("at once")
        await line.media(TWO_S[:4800])
        await line.mark("after 600 ms")
        await line.media(TWO_S[4800:4900])  # no whole frame
        await line.mark("the end")
        await line.marked("at once", "after 600 ms", "the end")

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd())
    at_once, middle, end = truth.marks
    assert (at_once.echoed, middle.echoed, end.echoed) == ("empty", "played", "played")
    assert at_once.echoed_s - at_once.at_s < 0.01
    # The frame under way when the audio comes, then 600 ms of it, then the next tick: up to 40 ms more.
    assert 0.600 <= middle.echoed_s - middle.at_s <= 0.650
    assert 0.0 <= end.echoed_s - middle.echoed_s <= 0.045
    [run] = truth.played
    assert (run.position, run.samples) == (0, 4900)
    assert truth.right[run.place : run.place + 4900] == TWO_S[:4900]
    assert set(truth.right[: run.place] + truth.right[run.place + 4900 :]) == {0xFF}
    assert truth.ended_by == "twiml_hangup"
    assert truth.streams[0].closed_by == "gateway"
    assert [a.verb for a in truth.announced] == ["hangup"]


async def test_clear_stops_playback_and_returns_all_marks():
    async def talk(line: Line) -> None:
        await line.media(SPEECH)
        await line.mark("half way")
        await line.mark("end")
        await asyncio.sleep(0.5)
        await line.clear()
        await line.mark("after the clear")
        await line.marked("half way", "end", "after the clear")
        await asyncio.sleep(0.1)

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd())
    [clear] = truth.clears
    assert [m.echoed for m in truth.marks] == ["cleared", "cleared", "empty"]
    assert all(m.echoed_s - clear.at_s < 0.01 for m in truth.marks)
    [run] = truth.played
    assert run.samples + clear.discarded == len(SPEECH)
    assert clear.position == run.samples
    assert clear.while_audible
    stopped = round((clear.stopped_s - truth.began_s) * 8000)
    assert run.place + run.samples == stopped
    assert 0.0 <= clear.stopped_s - clear.at_s <= 0.03
    assert set(truth.right[stopped:]) == {0xFF}
    [stretch] = truth.agent
    assert stretch.cut
    assert not stretch.open


async def test_audio_after_a_clear_plays_again():
    async def talk(line: Line) -> None:
        await line.media(SPEECH)
        await asyncio.sleep(0.1)
        await line.clear()
        await line.media(SPEECH[:1600])
        await line.mark("new")
        await line.marked("new")

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd())
    assert [run.position for run in truth.played] == [0, len(SPEECH)]
    assert truth.played[1].samples == 1600
    assert truth.marks[0].echoed == "played"


async def test_an_underrun_shows_as_two_runs():
    async def talk(line: Line) -> None:
        await line.media(TWO_S[:1600])
        await asyncio.sleep(0.4)
        await line.media(TWO_S[1600:3200])
        await line.mark("end")
        await line.marked("end")

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd())
    first, second = truth.played
    assert (second.position, second.samples) == (1600, 1600)
    assert 0.1 < (second.place - first.place - first.samples) / 8000 < 0.3


async def test_audio_queued_at_socket_close_is_never_heard():
    async def talk(line: Line) -> None:
        await line.media(SPEECH)
        await asyncio.sleep(0.2)

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd())
    assert truth.streams[0].unplayed == len(SPEECH) - sum(run.samples for run in truth.played)
    assert truth.streams[0].unplayed > 30_000


# --- strictness


@pytest.mark.parametrize(
    ("bad", "code", "expected"),
    [
        ("no json", 31951, "JSON"),
        ('{"event":"clear"}', 31951, "streamSid"),
        ('{"event":"clear","streamSid":"MZother"}', 31951, "this stream is"),
        ('{"event":"clear","streamSid":"SID","extra":1}', 31951, "unknown field `extra`"),
        ('{"event":"stop","streamSid":"SID"}', 31951, "stop"),
        ('{"event":"mark","streamSid":"SID","mark":{}}', 31951, "name"),
        ('{"event":"mark","streamSid":"SID","mark":{"name":""}}', 31951, "empty"),
        ('{"event":"mark","streamSid":"SID","mark":{"name":7}}', 31951, "Expected `str`"),
        ('{"event":"media","streamSid":"SID","media":{"payload":"%%%%"}}', 31951, "base64"),
        ('{"event":"media","streamSid":"SID","media":{"payload":""}}', 31951, "empty"),
        ('{"event":"media","streamSid":"SID","media":{"payload":"UklGRg=="}}', 31951, "header"),
        ('{"event":"media","streamSid":"SID","media":{"payload":"//8=","track":"x"}}', 31951, "track"),
        (b"\xff" * 160, 31950, "binary"),
    ],
)
async def test_every_message_is_checked(bad, code, expected):
    async def talk(line: Line) -> None:
        if isinstance(bad, bytes):
            await line.ws.send_bytes(bad)
        else:
            await line.ws.send_str(bad.replace("SID", line.sid))
        await line.mark("after")  # and the stream goes on
        await line.marked("after")

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd())
    [violation] = truth.violations
    assert violation.code == code
    assert expected in violation.what
    assert not truth.played


# --- TwiML


async def test_without_a_stream_twiml_lines_are_heard(monkeypatch, tmp_path):
    monkeypatch.setattr(voice.shutil, "which", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = "Thank you for calling the Blue Heron. How can I help you?"
    async with StubGateway(answers={"/twilio/voice": f"<Response><Say>{line}</Say><Hangup/></Response>"}) as stub:
        truth = await place(stub, WaitForEnd())
    assert [(a.verb, a.text) for a in truth.announced] == [("say", line), ("hangup", "")]
    assert encode(voice.line(line, 8000, "agent")) in truth.right
    assert truth.ended_by == "twiml_hangup"
    assert truth.agent[0].end_s - truth.agent[0].start_s > 2.5


async def test_second_connect_is_a_new_stream_of_the_call():
    async def talk(line: Line) -> None:
        await line.media(TWO_S[:800])
        await line.mark("heard")
        await line.marked("heard")

    async with StubGateway(talk, {"/twilio/after": [twiml("{media}"), HANGUP]}) as stub:
        truth = await place(stub, WaitForEnd())
        first, second = stub.lines
    assert first.sid != second.sid
    assert second.inbox[1]["sequenceNumber"] == "1"
    assert second.of("media")[0]["media"]["chunk"] == "1"
    assert int(second.of("media")[0]["media"]["timestamp"]) < 100, "each stream has its own media clock"
    assert [m.echoed for m in truth.marks] == ["played", "played"]
    assert [run.position for run in truth.played] == [0, 800]
    assert [f.path for f in truth.fetched[:3]] == ["/twilio/voice", "/twilio/after", "/twilio/after"]


@pytest.mark.parametrize(
    ("answer", "ended_by", "announced"),
    [
        ("<Response><Dial>+4930999</Dial></Response>", "dial", [("dial", "+4930999")]),
        ("<Response><Dial><Number>+4930999</Number></Dial></Response>", "dial", [("dial", "+4930999")]),
        ("<Response><Enqueue>desk</Enqueue></Response>", "enqueue", [("enqueue", "desk")]),
        ('<Response><Reject reason="busy"/></Response>', "reject", [("reject", "busy")]),
        ("<Response><Redirect>/elsewhere</Redirect></Response>", "twiml_hangup", [("hangup", "")]),
        ('<Response><Pause length="0"/></Response>', "twiml_end", []),
        (
            '<Response><Dial action="/elsewhere">+1</Dial></Response>',
            "twiml_hangup",
            [("dial", "+1"), ("hangup", "")],
        ),
        ("status 503", "webhook_failed", []),
        ("<Response><Fly/></Response>", "webhook_failed", []),
        ("<Response><Say>open", "webhook_failed", []),
        ("<html/>", "webhook_failed", []),
    ],
)
async def test_the_webhook_s_verbs_are_followed(answer, ended_by, announced):
    async with StubGateway(answers={"/twilio/voice": answer}) as stub:
        truth = await place(stub, WaitForEnd())
        asked = {path: fields for path, fields, _ in stub.requests}
    assert truth.ended_by == ended_by
    assert [(a.verb, a.text) for a in truth.announced] == announced
    assert bool(truth.violations) == (ended_by == "webhook_failed")
    if "action" in answer:
        assert asked["/elsewhere"]["DialCallStatus"] == "completed"
    assert asked["/twilio/status"]["CallStatus"] == "completed"


async def test_a_webhook_without_an_answer_ends_the_call():
    truth = await SimulatedCall("http://127.0.0.1:9", [WaitForEnd()]).run()
    assert truth.ended_by == "webhook_failed"
    assert truth.fetched[0].status == 0
    assert truth.violations[0].code == 11200


async def test_a_missing_media_route_is_a_violation():
    gone = twiml("ws://127.0.0.1:9/twilio/media")
    async with StubGateway(answers={"/twilio/voice": gone}) as stub:
        truth = await place(stub, WaitForEnd())
    assert truth.streams[0].refused
    assert truth.violations[0].code == 31902
    assert truth.ended_by == "twiml_hangup", "Twilio goes on with the action"


async def test_signatures_satisfy_twilio_s_own_validator():
    from twilio.request_validator import RequestValidator

    token, public = "12345", "https://offhook.example"
    answer = twiml("wss://offhook.example/twilio/media")
    async with StubGateway(hangs_on, {"/twilio/voice": answer}) as stub:
        await place(stub, Pause(40), HangUp(), auth_token=token, public_url=public)
        [line] = stub.lines
        check = RequestValidator(token).validate
        assert [path for path, _, _ in stub.requests] == ["/twilio/voice", "/twilio/status"]
        for path, fields, headers in stub.requests:
            assert check(public + path, fields, headers["X-Twilio-Signature"])
        assert check("wss://offhook.example/twilio/media", {}, line.headers["X-Twilio-Signature"])


async def test_direct_calls_need_no_webhook():
    async with StubGateway(hangs_on) as stub:
        truth = await place(stub, Pause(40), HangUp(), direct=True, parameters={"agent": "x"})
        [line] = stub.lines
        assert not stub.requests
    assert line.inbox[1]["start"]["customParameters"] == {"agent": "x"}
    assert truth.ended_by == "caller"


# --- the caller


async def test_caller_waits_listens_and_speaks_over_agent():
    async def talk(line: Line) -> None:
        await line.media(TWO_S[:8000])  # greeting, 1 s
        await line.mark("greeted")
        await line.marked("greeted")
        await line.until(lambda: any(_loud(m) for m in line.of("media")))  # the caller speaks
        await line.until(lambda: not any(_loud(m) for m in line.of("media")[-10:]))
        await line.media(SPEECH)
        spoken = len(line.of("media"))
        await line.until(lambda: any(_loud(m) for m in line.of("media")[spoken:]))
        await line.clear()
        await hangs_on(line)

    async with StubGateway(talk) as stub:
        truth = await place(
            stub, WaitForAgent("end"), Say("Uh-huh."), SayOver("Uh-huh.", after_ms=500), Pause(100), HangUp()
        )
    assert not any(step.failed for step in truth.steps)
    greeting, reply = truth.agent
    answer, interruption = truth.spoken
    assert greeting.end_s < answer.onset_s
    assert not answer.over_agent
    assert interruption.over_agent
    assert 0.5 <= interruption.onset_s - reply.start_s <= 0.62  # the recording has 30 ms before its onset
    assert reply.cut
    assert truth.clears[0].at_s - interruption.onset_s < 0.1


def _loud(message: dict) -> bool:
    samples = decode(base64.b64decode(message["media"]["payload"]))
    return bool(np.abs(samples.astype(int)).max() > 1000)


async def test_a_wait_that_times_out_ends_the_call():
    async with StubGateway(hangs_on) as stub:
        truth = await place(stub, WaitForAgent("start", timeout_ms=150), Say("Uh-huh."))
    assert [step.failed for step in truth.steps] == ["the agent was not heard within 0.15 s"]
    assert truth.ended_by == "caller"


async def test_a_call_that_ends_under_the_caller_is_noted():
    async def talk(line: Line) -> None:
        await asyncio.sleep(0.1)

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForAgent("end"), HangUp())
    assert truth.steps[0].failed == "the call ended first"
    assert len(truth.steps) == 1


async def test_keys_and_coughs():
    async with StubGateway(hangs_on) as stub:
        truth = await place(stub, Pause(40), Digit("4#"), Cough(), HangUp())
        [line] = stub.lines
    assert [m["dtmf"] for m in line.of("dtmf")] == [
        {"track": "inbound_track", "digit": "4"},
        {"track": "inbound_track", "digit": "#"},
    ]
    assert [digit for _, digit in truth.digits] == ["4", "#"]
    assert [s.kind for s in truth.spoken] == ["cough"]


async def test_the_call_can_be_driven_by_hand():
    async def talk(line: Line) -> None:
        await line.media(TWO_S[:3200])
        await hangs_on(line)

    async with StubGateway(talk) as stub:
        call = SimulatedCall(stub.url)
        running = asyncio.create_task(call.run())
        await call.agent_starts()
        await call.say("Uh-huh.")
        call.hang_up()
        truth = await running
    assert truth.spoken[0].text == "Uh-huh."
    assert truth.ended_by == "caller"


# --- bad days


async def test_dropped_connection_is_1006_twiml_continues():
    codes = []

    async def talk(line: Line) -> None:
        await line.until(lambda: line.ws.closed)
        codes.append(line.ws.close_code)

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd(), carrier=Carrier(drop_after_s=0.15))
    assert codes == [1006]
    assert (truth.streams[0].closed_by, truth.streams[0].close_code) == ("network", 1006)
    assert truth.ended_by == "twiml_hangup"


async def test_a_silent_carrier_keeps_its_socket_open():
    async def talk(line: Line) -> None:
        await line.mark("never echoed")
        await asyncio.sleep(0.5)

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd(), carrier=Carrier(silent_after_s=0.0))
        [line] = stub.lines
    assert not line.of("media")
    assert not line.of("mark")
    assert truth.streams[0].closed_by == "gateway"


async def test_bunched_and_late_frames_keep_their_order():
    for carrier in (Carrier(bunch_frames=5), Carrier(jitter_ms=80)):
        async with StubGateway(hangs_on) as stub:
            await place(stub, Pause(500), HangUp(), carrier=carrier)
            [line] = stub.lines
        media = line.of("media")
        assert [m["media"]["chunk"] for m in media] == [str(n) for n in range(1, len(media) + 1)]
        assert [m["sequenceNumber"] for m in line.inbox[1:]] == [str(n) for n in range(1, len(line.inbox))]
        gaps = np.diff([at for m, at in zip(line.inbox, line.arrived, strict=True) if m["event"] == "media"])
        assert gaps.max() > 0.03, "not a frame every 20 ms"
        assert len(media) >= 18


async def test_a_carrier_can_read_slowly():
    async def talk(line: Line) -> None:
        for number in range(4):
            await line.mark(str(number))
        await line.marked("3")

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd(), carrier=Carrier(read_delay_ms=60))
    assert np.diff([mark.at_s for mark in truth.marks]).min() > 0.055


async def test_marks_can_be_lost():
    async def talk(line: Line) -> None:
        await line.media(TWO_S[:800])
        await line.mark("first")
        await asyncio.sleep(0.2)
        await line.media(TWO_S)
        await line.mark("second")
        await line.clear()
        await asyncio.sleep(0.1)

    for marks, echoed in (("lost", ["", ""]), ("lost when cleared", ["played", ""])):
        async with StubGateway(talk) as stub:
            truth = await place(stub, WaitForEnd(), carrier=Carrier(marks=marks))
        assert [m.echoed for m in truth.marks] == echoed


async def test_agent_echo_returns_delayed_and_damped():
    async def talk(line: Line) -> None:
        await line.media(TWO_S[:8000])
        await line.mark("end")
        await line.marked("end")
        await asyncio.sleep(0.2)

    async with StubGateway(talk) as stub:
        truth = await place(stub, WaitForEnd(), carrier=Carrier(echo_delay_ms=100, echo_gain_db=-20))
    [run] = truth.played
    heard = decode(truth.right)[run.place : run.place + 8000].astype(float)
    sent = decode(truth.left)[run.place + 800 : run.place + 8800].astype(float)
    assert np.corrcoef(heard, sent)[0, 1] > 0.98
    assert 20 * np.log10(np.std(sent) / np.std(heard)) == pytest.approx(-20, abs=0.5)


async def test_a_noisy_line_is_noisy_all_the_time():
    async with StubGateway(hangs_on) as stub:
        truth = await place(stub, Pause(300), HangUp(), carrier=Carrier(noise_dbfs=-45))
    level = decode(truth.left).astype(float)
    assert 20 * np.log10(np.std(level) / 32768) == pytest.approx(-45, abs=1.5)


async def test_slow_reading_gateway_loses_caller_audio(monkeypatch):
    monkeypatch.setattr(outbox, "MAX_FRAMES", 3)

    async def stuck(self, ws):
        await asyncio.Event().wait()

    monkeypatch.setattr(outbox.Outbox, "send", stuck)
    call = SimulatedCall("http://127.0.0.1:9")
    async with StubGateway() as stub:
        call = SimulatedCall(stub.url, [Pause(300), HangUp()], direct=True)
        monkeypatch.setattr(simulated, "CLOSE_TIMEOUT_S", 0.1)
        truth = await call.run()
    assert truth.frames_dropped > 5


def test_json_of_the_truth_survives_a_round_trip():
    import msgspec

    from offhook.gateway.rehearsal.phone.truth import CallTruth

    truth = CallTruth(call_sid="CA1", digits=[(1.0, "5")])
    assert msgspec.json.decode(msgspec.json.encode(truth), type=CallTruth) == truth
    assert json.loads(msgspec.json.encode(truth))["call_sid"] == "CA1"
