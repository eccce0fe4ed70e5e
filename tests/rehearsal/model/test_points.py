"""What a faithful stand-in for Gemini Live must do, point by point, and where each is shown; then the clients that
frameworks bring, message by message as they send them."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.model.script import Reply, Say, Script, SendGoAway
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rehearsal.model.model_client import LIVE_PATH, raw_client, setup_of, silence, voice

POINTS = {
    "1 TLS with names for 127.0.0.1 and localhost; plain HTTP on request": (
        "test_certificate_is_for_localhost_and_127_0_0_1",
        "test_plain_http_for_hand_written_clients",
    ),
    "2 any path of the protocol": ("test_paths", "test_other_paths_are_not_found", "test_vertex_path_names_and_extras"),
    "3 credentials in headers or query; a bad key closes after the setup": ("test_credentials",),
    "4 compression may be offered; pongs may be late": ("test_compression_is_declined", "test_pongs_may_be_late"),
    "5 setup first; 1007 for fields, 1008 for the model, by each model's rules": (
        "test_the_first_message_must_be_the_setup",
        "test_speaking_before_setup_complete_is_a_fault",
        "test_fields_that_each_model_accepts_in_a_setup",
        "test_3_1_takes_no_content_without_initial_history",
    ),
    "6 both spellings, both alphabets, text or binary, old fields": (
        "test_both_spellings_at_every_level",
        "test_a_setup_in_snake_case_in_a_binary_frame",
        "test_base64_of_either_alphabet_padded_or_not",
        "test_media_chunks_are_still_heard_of",
        "test_audio_of_any_rate_alphabet_and_frame",
    ),
    "7 binary, pretty-printed, irregular, faster than real time; turnComplete when it would have been played": (
        "test_frames_are_binary_indented_and_irregular",
        "test_frames_may_be_text",
        "test_audio_is_early_but_turn_ends_when_played",
        "test_every_turn_bills_the_whole_context",
    ),
    "8 voice detection by the settings; interrupted, turnComplete, never generationComplete": (
        "test_prefix_is_the_speech_needed_before_a_start",
        "test_silence_setting_is_the_longest_pause_in_turn",
        "test_manual_activity",
        "test_no_interruption_answers_after_the_reply",
        "test_barge_in_interrupts_and_completes_nothing",
        "test_new_user_input_cancels_a_blocking_call",
    ),
    "9 transcripts in pieces, before or after the audio, in its frame or their own; thoughts": (
        "test_the_callers_transcript_arrives_in_pieces",
        "test_position_of_the_transcript",
        "test_thoughts_are_marked",
    ),
    "10 tools: blocking or not, scheduling in either place, unknown ids": (
        "test_a_blocking_call_continues_in_the_same_turn",
        "test_a_non_blocking_call_survives_a_barge_in",
        "test_scheduling",
        "test_results_that_fit_no_call",
        "test_an_empty_result_makes_the_model_call_again",
    ),
    "11 handles: rotating, withheld while busy, refused while in use, expiring, with an index": (
        "test_handles_rotate_and_are_withheld_while_busy",
        "test_resuming_while_old_socket_is_open_is_refused",
        "test_handles_expire",
        "test_resumed_session_continues_the_script",
        "test_a_resumed_session_does_not_know_the_old_calls",
        "test_vertex_path_names_and_extras",
    ),
    "12 goAway, silence, either end; lifetimes compressed": (
        "test_ten_minutes_can_be_half_a_second",
        "test_resuming_without_compression_adds_no_time",
        "test_go_away_with_silence_and_another_end",
        "test_go_away_without_an_end",
        "test_session_may_end_within_a_reply_after_go_away",
    ),
    "13 faults by script": (
        "test_a_close_at_any_point_of_a_reply",
        "test_an_aborted_connection_has_no_goodbye",
        "test_after_a_stall_the_session_continues",
        "test_an_empty_turn",
        "test_a_sentence_cut_off",
        "test_a_phantom_interruption_needs_no_speech",
        "test_duplicate_transcripts",
        "test_anything_can_be_sent",
        "test_frame_above_1_mib_ends_a_limited_client",
        "test_late_audio_after_an_interruption",
        "test_refusals_before_the_session",
        "test_client_leaving_during_slow_setup_is_recorded",
    ),
    "14 extended thinking: several turnComplete, the last one IDLE": (
        "test_extended_thinking_is_idle_after_several_turns",
    ),
    "15 ephemeral tokens": ("test_ephemeral_tokens_through_the_sdk", "test_auth_tokens_do_not_exist_on_v1"),
}


def test_every_point_is_shown_somewhere() -> None:
    there = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert [int(point.split()[0]) for point in POINTS] == list(range(1, 16))
    assert {name for names in POINTS.values() for name in names} - there == set()


SHORT = Say("Good morning", length_ms=60, delay_ms=0, chunk_ms=(30,))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_certificate_is_for_localhost_and_127_0_0_1(host: str) -> None:
    async with ModelServer(Script()) as server:
        server.url = server.url.replace("127.0.0.1", host)
        async with raw_client(server, setup_of()):
            pass


async def test_compression_is_declined() -> None:
    script = Script(replies=(Reply("start", (SHORT,)),))
    async with ModelServer(script) as server, raw_client(server, setup_of(), compression="deflate") as client:
        assert (await client.turn())[-1] == "turnComplete"
        assert client.ws.protocol.extensions == []


async def test_session_may_end_within_a_reply_after_go_away() -> None:
    """goAway is no promise of a quiet end: the close comes when it comes."""
    long = Say("One two three", length_ms=60_000, delay_ms=0, chunk_ms=(100,), speed=1)
    script = Script(replies=(Reply("text", (SendGoAway(0.3), long)),))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.send({"realtimeInput": {"text": "go"}})
        assert (await client.closed())[0] == 1011
        [reply] = server.sessions[0].replies
        assert reply.ended == "cut off"
        assert 100 <= reply.audio_ms < 30_000  # not all of it, however late this machine is
        assert "turnComplete" not in str(client.seen)


# What the Live clients of two frameworks send, read off the wire (LiveKit's and Pipecat's plugins for Google).
LIVEKIT = {
    "setup": {
        "model": "models/gemini-3.8-live",
        "generationConfig": {
            "response_modalities": ["AUDIO"],
            "responseModalities": ["AUDIO"],
            "candidate_count": 1,
            "speechConfig": {"voice_config": {"prebuilt_voice_config": {"voice_name": "Puck"}}},
        },
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "inputAudioTranscription": {},
        "outputAudioTranscription": {},
        "sessionResumption": {},
    }
}
PIPECAT = {
    "setup": {
        "model": "models/gemini-3.8-live",
        "generationConfig": {"responseModalities": ["AUDIO"], "temperature": 0.7, "maxOutputTokens": 4096},
        "historyConfig": {"initialHistoryInClientContent": True},
        "inputAudioTranscription": {},
        "outputAudioTranscription": {},
        "sessionResumption": {},
        "realtimeInputConfig": {"automaticActivityDetection": {"silence_duration_ms": 300}},
    }
}


def urlsafe(pcm: bytes) -> dict[str, object]:
    data = base64.urlsafe_b64encode(pcm).decode()
    return {"realtime_input": {"audio": {"data": data, "mime_type": "audio/pcm;rate=16000"}}}


async def test_a_client_like_livekits_is_served() -> None:
    """50 ms of audio a message, a new connection as soon as goAway comes."""
    script = Script(replies=(Reply("caller", (SHORT, SendGoAway(0.5))), Reply("caller", (SHORT,))))
    sound = voice(400) + silence(1_000)
    async with ModelServer(script) as server:
        async with raw_client(server, LIVEKIT) as client:
            handle = await client.until("sessionResumptionUpdate", "newHandle")
            for start in range(0, len(sound), 1_600):
                await client.send(urlsafe(sound[start : start + 1_600]))
            await client.until("goAway")
        again = {"setup": {**LIVEKIT["setup"], "sessionResumption": {"handle": handle}}}
        async with raw_client(server, again) as client:
            for start in range(0, len(sound), 1_600):
                await client.send(urlsafe(sound[start : start + 1_600]))
            assert (await client.turn())[-1] == "turnComplete"
        assert server.violations == []


async def test_a_client_like_pipecats_is_served() -> None:
    """History first, then one space of realtime text to have the model begin; goAway is ignored."""
    script = Script(replies=(Reply("text", (SHORT,)), Reply("caller", (SHORT,))))
    async with ModelServer(script) as server:
        async with raw_client(server, PIPECAT, path=LIVE_PATH + "?key=x", headers={}) as client:
            turns = [{"role": "user", "parts": [{"text": "Greet the caller."}]}]
            await client.send({"client_content": {"turns": turns, "turn_complete": True}})
            await client.send({"realtime_input": {"text": " "}})
            assert (await client.turn())[-1] == "turnComplete"
            assert "usageMetadata" in str(client.seen[-2:])
            for start in range(0, 44_800, 640):
                await client.send(urlsafe((voice(400) + silence(1_000))[start : start + 640]))
            assert (await client.turn())[-1] == "turnComplete"
        assert [(t.text, t.how) for t in server.sessions[0].texts] == [
            ("Greet the caller.", "content"),
            (" ", "realtime"),
        ]
        assert server.violations == []
