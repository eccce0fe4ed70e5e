"""What went wrong elsewhere between Twilio and a voice model, and the tests that keep it from going wrong here.

`LESSONS` has a row for each known problem: what is learnt from it and where that is tested. What no other test
shows stands below. A row without a test says why.
"""

from __future__ import annotations

import ast
import asyncio
import json
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say
from offhook.gateway.telephony import switchboard
from tests.carriers.twilio.raw_socket import CLOSE, TEXT, RawSocket, media, start_of
from tests.carriers.twilio.telephone_rig import GREETING, Exchange, exchange
from tests.rig.sounds import sound

TESTS = Path(__file__).parents[2]

LESSONS: dict[str, tuple[str, ...]] = {
    # The agent goes on for seconds after it was interrupted: Twilio's queue outlives the model's reply.
    "clear on every interruption, also when the model has finished": (
        "calls/test_barge_in.py::test_the_old_reply_stops_and_the_new_one_is_heard",  # one plan is just that
        "conversation/test_machine_barge_in.py::test_interrupted_after_the_generation_was_complete",
    ),
    # `clear` was left out as there was "no active response".
    "what decides is what has not been heard, not whether the model is generating": (
        "conversation/test_machine_barge_in.py::test_speech_stops_playback_and_keeps_the_tail",
        "conversation/test_machine_barge_in.py::test_marks_dropped_by_the_clear_are_not_waited_for",
    ),
    # Late audio of the old turn fills the queue again behind the `clear`.
    "audio of a dead generation goes nowhere": (
        "calls/test_barge_in.py::test_nothing_old_follows_a_clear",
        "calls/test_talk.py::test_an_interruption_stops_the_agent_at_once",
    ),
    # Gemini's `interrupted` was taken for a turn's normal end.
    "`interrupted` empties the queue and kills the generation": (
        "calls/test_barge_in.py::test_the_models_word_alone_stops_the_agent",
        "conversation/test_machine_barge_in.py::test_the_models_interrupted_confirms",
    ),
    # `clear` echoes every pending mark, which proves nothing.
    "marks echoed by a clear are not heard": (
        "conversation/test_machine_barge_in.py::test_marks_echoed_by_the_clear_prove_nothing",
        "conversation/test_ledger.py::test_marks_before_the_clear_prove_nothing_later",
    ),
    # The model was told that the caller had heard what was only sent.
    "heard is what marks and clock say": (
        "calls/test_talk.py::test_the_model_learns_what_was_heard",
        "conversation/test_ledger.py::test_against_a_carrier_that_knows_what_was_heard",
    ),
    # Stutter: tiny pieces one by one, sleeps of a frame's length, a loop that was blocked.
    "audio is sent ahead in the model's own pieces, and nothing blocks": (
        "calls/test_talk.py::test_every_turn_is_answered_and_no_reply_has_a_gap",
        "carriers/twilio/test_bad_input.py::test_ten_healthy_calls_noticed_nothing",
    ),
    # The caller hears nothing: <Start> for two ways, a wrong streamSid, a file header in the audio.
    "the shape of what is sent is checked, and Twilio's word on a stream is kept": (
        "carriers/twilio/test_twiml.py::test_connect_stream",
        "carriers/twilio/test_messages.py::test_sent_messages_are_the_documented_ones",
        "calls/test_talk.py::test_neither_side_broke_the_protocol",
        "carriers/twilio/test_webhooks.py::test_stream_error_callback_ends_stream",
    ),
    # The media socket is never reached, or refused (31920, 31910): an Origin that Twilio does not send, a proxy.
    "no Origin is asked for, and the public address is tried from outside": (
        "carriers/twilio/test_lessons.py::test_any_origin_or_none_and_no_compression",
        "cli/test_doctor.py::test_a_proxy_that_is_not_right",
        "cli/test_doctor.py::test_a_public_url_that_leads_nowhere",
    ),
    # Twilio drops the query of a stream's URL, and the token in it.
    "tokens travel in <Parameter>": (
        "carriers/twilio/test_twiml.py::test_media_urls_that_twilio_would_not_take",
        "carriers/twilio/test_webhooks.py::test_a_repeated_webhook_is_one_call",
    ),
    # 403 for every webhook: the proxy's address was verified instead of the public one.
    "the public URL is configured, and tried before anybody calls": (
        "carriers/twilio/test_webhooks.py::test_who_is_believed",
        "carriers/twilio/test_signature.py::test_behind_a_proxy_the_public_url_counts",
        "cli/test_doctor.py::test_a_proxy_that_is_not_right",
    ),
    # 31924 in mid-call while our socket stays open for minutes; intermediaries are suspected.
    "silence of the media is death, Twilio's callback too; frames are whole, small and plain": (
        "calls/test_ends.py::test_a_dead_stream_is_found_and_replaced",
        "carriers/twilio/test_webhooks.py::test_stream_error_callback_ends_stream",
        "carriers/twilio/test_lessons.py::test_any_origin_or_none_and_no_compression",
        "carriers/twilio/test_lessons.py::test_frames_are_whole_plain_and_small",
    ),
    # Zombies: no `stop`, and the timer for silence waits for a caller who "is speaking".
    "the watchdog counts frames, not words": ("carriers/twilio/test_lessons.py::test_stream_dying_in_speech_is_found",),
    # The line stays up, silent, after the agent has gone.
    "the end of a call is a hang-up in TwiML, and by REST when nobody asks for it": (
        "carriers/twilio/test_after.py::test_an_agent_s_hang_up_is_a_hang_up",
        "carriers/twilio/test_webhooks.py::test_ended_call_kept_up_is_hung_up_by_rest",
        "carriers/twilio/test_steering.py::test_a_call_that_outlives_its_hang_up_is_pushed",
    ),
    # The model's session, and its bill, survive the call.
    "the model is let go by whichever sign of the end comes first": (
        "carriers/twilio/test_lessons.py::test_first_sign_of_the_end_closes_the_model",
        "carriers/twilio/test_webhooks.py::test_late_stream_gets_a_fresh_model_session",
    ),
    # The goodbye was cut off: `end_call` came before it was said.
    "a hang-up waits for the goodbye to begin, and then to be heard, within bounds": (
        "calls/test_ends.py::test_agent_hangs_up_after_its_goodbye_was_heard",
        "conversation/test_machine_endings.py::test_end_tool_before_goodbye_waits_for_it",
        "conversation/test_machine_endings.py::test_a_goodbye_whose_marks_do_not_return",
    ),
    # On a speakerphone the agent interrupts itself.
    "the agent's echo is no caller": (
        "media/test_echo.py::test_an_echo_is_learned_and_held_off",
        "calls/test_barge_in.py::test_what_must_not_stop_the_agent_does_not",
    ),
    # A cough destroyed a reply: what Twilio has cleared is gone.
    "the unheard rest is kept, and played on": (
        "calls/test_barge_in.py::test_what_is_no_interruption_only_pauses_the_agent",
        "calls/test_barge_in.py::test_after_the_verdict_it_plays_on_at_once",
    ),
    # A REST update on "answered" overwrote the stream's document.
    "one owner says what a call does next": (
        "carriers/twilio/test_steering.py::test_a_thousand_ends_resolve_once",
        "carriers/twilio/test_steering.py::test_a_thousand_lost_streams_are_each_replaced",
        "carriers/twilio/test_after.py::test_hold_and_resume",
    ),
    # A webhook told twice made two streams, of which the second killed the first.
    "one call per CallSid, however often it is told": (
        "carriers/twilio/test_webhooks.py::test_a_repeated_webhook_is_one_call",
        "telephony/test_admission.py::test_a_repeated_webhook_makes_one_call",
    ),
    # Under load the delay grew and grew.
    "what is late is dropped, not kept; the lag is measured": (
        "models/gemini/test_link.py::test_a_gap_keeps_the_last_second_of_the_caller",
        "carriers/twilio/test_guard.py::test_audio_faster_than_time_is_dropped",
        "calls/test_talk.py::test_the_agent_sounds_as_recorded",  # a plan has frames that arrive in bunches
    ),
}
# Learnt, and nothing to test here: an error message of Twilio's own for a server that speaks socket.io or plain TCP
# (neither can be configured), and the advice to be able to change the host (nothing in a process can show it).


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("lesson", list(LESSONS))
def test_each_lesson_has_its_tests(lesson: str) -> None:
    assert LESSONS[lesson]
    for name in LESSONS[lesson]:
        path, _, function = name.partition("::")
        assert function in functions_in(path), f"{name} is no longer there"


AGENTS = {
    "desk": ("greeting: {text: Greet.}", Script((GREETING,))),
    "quiet": ("", Script(())),
}


async def test_any_origin_or_none_and_no_compression() -> None:
    """Twilio sends no Origin; an extension agreed on would be a way more to a protocol error (31924)."""
    offers = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    async with exchange(AGENTS) as x:
        for headers in ("", "Origin: https://media.twiliocdn.com\r\n", "Origin: null\r\n", offers):
            async with RawSocket(x, headers=headers) as socket:
                assert socket.status == 101
                assert "extensions" not in socket.head.lower()


async def test_frames_are_whole_plain_and_small() -> None:
    whole = 0x80 | TEXT  # FIN, and no bit reserved for extensions
    async with exchange(AGENTS) as x:
        socket = await RawSocket.streaming(x, "desk")
        heard = 0
        async with asyncio.timeout(10):
            while heard < 8_000:
                first, data = await socket.received()
                assert first == whole
                assert len(data) <= 64 * 1024
                told = json.loads(data)
                if told["event"] == "media":
                    heard += len(told["media"]["payload"]) * 3 // 4
        await socket.stop()
        async with RawSocket(x) as refused:
            await refused.json(start_of(x, "CA" + "e" * 32, "no token"))
            async with asyncio.timeout(5):
                first, data = await refused.received()
        assert first == 0x80 | CLOSE
        assert 2 < len(data) <= 125


async def test_stream_dying_in_speech_is_found() -> None:
    """The last thing that was heard is a voice, and its end never comes."""
    speech = Say(str(sound("hello_i_would")))
    with mock.patch.object(switchboard, "MEDIA_SILENCE_S", 1.0):
        async with exchange(AGENTS) as x:
            steps = (Pause(200), speech, Pause(2_500), HangUp())
            truth, record = await x.placed("quiet", *steps, carrier=Carrier(silent_after_s=0.7))
    assert truth.spoken
    assert any("no audio from the carrier" in error for error in record.errors)
    assert len(record.streams) == 2
    assert record.end_reason == "caller_hung_up"


async def stop(x: Exchange, socket: RawSocket) -> None:
    await socket.json({"event": "stop"})


async def cut(x: Exchange, socket: RawSocket) -> None:
    socket.abort()


async def silence(x: Exchange, socket: RawSocket) -> None:
    await socket.json(media(1))  # and no more


async def status(x: Exchange, socket: RawSocket) -> None:
    form = {"CallSid": socket.call_sid, "AccountSid": x.twilio.account_sid, "CallStatus": "completed"}
    assert (await x.webhook("/twilio/status", form))[0] == 204


@pytest.mark.parametrize(
    ("sign_of_the_end", "reason"),
    [(stop, "caller_hung_up"), (cut, "stream_lost"), (silence, "stream_lost"), (status, "caller_hung_up")],
)
async def test_first_sign_of_the_end_closes_the_model(sign_of_the_end, reason: str) -> None:
    # Nobody asks /twilio/after here, so a lost stream does not come back.
    silence_s = 0.5 if sign_of_the_end is silence else switchboard.MEDIA_SILENCE_S
    with (
        mock.patch.object(switchboard, "RETURN_S", 0.3),
        mock.patch.object(switchboard, "MEDIA_SILENCE_S", silence_s),
    ):
        async with exchange(AGENTS) as x:
            socket = await RawSocket.streaming(x, "quiet")
            await x.until(lambda: x.model.sessions and x.model.sessions[0].ready_at_s is not None)
            await sign_of_the_end(x, socket)
            await x.until(lambda: x.model.sessions[0].closed_by)
            record = await x.record(socket.call_sid)
            await socket.__aexit__()
            assert record.end_reason == reason
            assert not x.gateway.calls
            assert len(x.model.sessions) == 1
