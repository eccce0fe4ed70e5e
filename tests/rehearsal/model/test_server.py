"""The rehearsal model as a client sees it when nothing is meant to go wrong."""

import asyncio
import base64
import json

import numpy as np
import pytest
from google import genai
from google.genai import errors, types

from offhook.gateway.rehearsal.model.script import CallTool, EmptyTurn, Reply, Say, Script, Think, Wait
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.model.voice import chunks_of
from tests.rehearsal.model.model_client import (
    LIVE_PATH,
    VERTEX_PATH,
    audio_message,
    raw_client,
    refusal,
    setup_of,
    silence,
    trusting,
    voice,
)

SHORT = Say("Good morning to you", length_ms=60, delay_ms=0, chunk_ms=(20, 0, 25))
LONG = Say("One two three four five six", length_ms=3000, delay_ms=0, chunk_ms=(100,), speed=2)
NEW, OLD = "gemini-3.8-live", "gemini-3.1-flash-live-preview"
OLDER = "gemini-2.5-flash-native-audio-preview-12-2025"
QUICK = {"realtimeInputConfig": {"automaticActivityDetection": {"silenceDurationMs": 200}}}
TEXT = {"realtimeInput": {"text": "hello"}}


def sdk(server: ModelServer, **options) -> genai.Client:
    arguments = {"ssl": trusting(server), "ping_interval": None, "proxy": None}
    http = types.HttpOptions(base_url=server.url, api_version="v1beta", async_client_args=arguments)
    return genai.Client(**{"api_key": "rehearsal", "http_options": http, **options})


def declared(behavior=None, name="book"):
    function = {"name": name} if behavior is None else {"name": name, "behavior": behavior}
    return {"tools": [{"functionDeclarations": [function]}]}


def answer_to(call, **more):
    return {"toolResponse": {"functionResponses": [{**call, "response": {"output": "ok"}, **more}]}}


def named(call):
    return {"id": call["id"], "name": call["name"]}


# -- the SDK ----------------------------------------------------------------------------------------------


async def test_a_conversation_through_the_sdk():
    script = Script(
        replies=(
            Reply("text", (SHORT,)),
            Reply("caller", (SHORT, CallTool("book", {"party_size": 4})), heard=(" A table", " for four")),
            Reply("tool:book", (SHORT,)),
        )
    )
    config = types.LiveConnectConfig(
        response_modalities=[types.Modality.AUDIO],
        system_instruction="Be brief.",
        input_audio_transcription=types.AudioTranscriptionConfig(),
        output_audio_transcription=types.AudioTranscriptionConfig(),
        session_resumption=types.SessionResumptionConfig(),
        context_window_compression=types.ContextWindowCompressionConfig(
            trigger_tokens=32_000, sliding_window=types.SlidingWindow(target_tokens=16_000)
        ),
        realtime_input_config=types.RealtimeInputConfig(
            automatic_activity_detection=types.AutomaticActivityDetection(silence_duration_ms=200)
        ),
        speech_config=types.SpeechConfig(
            voice_config=types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name="Kore"))
        ),
        tools=[types.Tool(function_declarations=[types.FunctionDeclaration(name="book", behavior="NON_BLOCKING")])],
    )
    expected = b"".join(base64.b64decode(chunk.data) for chunk in chunks_of(SHORT))
    async with ModelServer(script) as server, sdk(server).aio.live.connect(model=NEW, config=config) as session:
        assert session.setup_complete is not None

        async def turn():
            messages = [message async for message in session.receive()]
            contents = [message.server_content for message in messages if message.server_content]
            parts = [part for content in contents if content.model_turn for part in content.model_turn.parts]
            assert b"".join(part.inline_data.data for part in parts) == expected
            assert {part.inline_data.mime_type for part in parts} == {"audio/pcm;rate=24000"}
            spoken = [content.output_transcription.text for content in contents if content.output_transcription]
            assert "".join(spoken) == "Good morning to you"
            assert contents[-2].generation_complete
            assert messages[-1].usage_metadata.response_token_count == 2  # 60 ms at 25 a second
            return messages

        await session.send_realtime_input(text="The call begins.")
        await turn()
        for start in range(30):
            pcm = (voice(400) + silence(200))[start * 640 : start * 640 + 640]
            await session.send_realtime_input(audio=types.Blob(data=pcm, mime_type="audio/pcm;rate=16000"))
        messages = await turn()
        heard = [m.server_content.input_transcription for m in messages if m.server_content]
        assert "".join(piece.text for piece in heard if piece) == " A table for four"
        [call] = [call for m in messages if m.tool_call for call in m.tool_call.function_calls]
        assert (call.name, call.args) == ("book", {"party_size": 4})
        await session.send_tool_response(
            function_responses=[types.FunctionResponse(id=call.id, name="book", response={"output": "ok"})]
        )
        await turn()
        record = server.sessions[0]
    assert (server.violations, server.failures) == ([], [])
    assert record.model == f"models/{NEW}"
    assert record.auth == "key"
    assert [reply.trigger for reply in record.replies] == ["text", "caller", "tool:book"]
    assert {reply.ended for reply in record.replies} == {"complete"}
    assert record.audio == voice(400) + silence(200)
    assert [(s.onset_ms, s.speech_ms) for s in record.speech] == [(0.0, 400.0)]
    assert [(a.id, a.call, a.scheduling) for a in record.tool_answers] == [(call.id, "open", "WHEN_IDLE")]
    assert (record.closed_by, record.close_code) == ("client", 1000)


async def test_the_sdk_hears_why_it_is_refused():
    config = {"thinking_config": {"thinking_level": "LOW"}}
    async with ModelServer(Script()) as server:
        with pytest.raises(errors.APIError) as error:
            async with sdk(server).aio.live.connect(model=NEW, config=config):
                pass
    assert error.value.code == 1007
    assert "thinkingLevel" in str(error.value.details)
    assert [violation.session for violation in server.violations] == [0]


async def test_the_sdk_resumes():
    config = types.LiveConnectConfig(session_resumption=types.SessionResumptionConfig())
    script = Script(replies=(Reply("text", (SHORT,)), Reply("text", (SHORT,)), Reply("resume", (SHORT,))))
    async with ModelServer(script) as server:
        client = sdk(server)
        async with client.aio.live.connect(model=NEW, config=config) as session:
            await session.send_realtime_input(text="one")
            updates = []
            async for message in session.receive():
                updates.append(message.session_resumption_update)
            assert [update.resumable for update in updates if update] == [True, False]
            async for message in session.receive():
                if message.session_resumption_update:
                    handle = message.session_resumption_update.new_handle
                    break
        config.session_resumption.handle = handle
        async with client.aio.live.connect(model=NEW, config=config) as session:
            assert [m async for m in session.receive()][-1].server_content.turn_complete
            await session.send_realtime_input(text="two")
            assert [m async for m in session.receive()][-1].server_content.turn_complete
    assert [session.resumed_from for session in server.sessions] == [None, 0]
    assert [reply.trigger for reply in server.sessions[1].replies] == ["resume", "text"]
    assert server.violations == []


# -- handshake and setup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        LIVE_PATH,
        "/" + LIVE_PATH,
        LIVE_PATH.replace("v1beta", "v1"),
        LIVE_PATH.replace("v1beta", "v1alpha") + "?alt=json",
        "/proxy" + LIVE_PATH,
    ],
)
async def test_paths(path):
    async with ModelServer(Script()) as server, raw_client(server, setup_of(), path=path):
        pass


async def test_other_paths_are_not_found():
    async with ModelServer(Script()) as server:
        with pytest.raises(Exception, match="HTTP 404"):
            async with raw_client(server, path="/ws/other"):
                pass
        with pytest.raises(Exception, match="HTTP 404"):
            async with raw_client(server, path=LIVE_PATH.replace("v1beta", "v1") + "Constrained"):
                pass


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({"x-goog-api-key": "good"}, "", None),
        ({}, "?key=good", None),
        ({"Authorization": "Bearer anything"}, "", None),
        ({"x-goog-api-key": "bad"}, "", 1007),
        ({}, "?key=bad", 1007),
        ({}, "?access_token=auth_tokens/none", 1007),
        ({}, "", 1008),
    ],
)
async def test_credentials(headers, query, code):
    async with ModelServer(Script(), api_keys=frozenset(["good"])) as server:
        if code is None:
            async with raw_client(server, setup_of(), path=LIVE_PATH + query, headers=headers):
                pass
            assert server.violations == []
        else:
            got = await refusal(server, setup_of(), path=LIVE_PATH + query, headers=headers)
            assert got[0] == code
            assert len(server.violations) == 1
    assert "good" not in repr(server.sessions) + repr(server.violations)


async def test_vertex_path_names_and_extras():
    model = f"projects/p/locations/l/publishers/google/models/{NEW}"
    setup = {"setup": {"model": model, "explicitVadSignal": True, "sessionResumption": {"transparent": True}, **QUICK}}
    script = Script(replies=(Reply("caller", (SHORT,)),))
    headers = {"Authorization": "Bearer x"}
    async with (
        ModelServer(script) as server,
        raw_client(server, setup, path=VERTEX_PATH, headers=headers) as client,
    ):
        assert await client.until("sessionResumptionUpdate", "lastConsumedClientMessageIndex") == "0"
        await client.speak(silence(100), voice(500), silence(1000))
        assert (await client.until("voiceActivity"))["type"] == "ACTIVITY_START"
        assert (await client.until("voiceActivity"))["type"] == "ACTIVITY_END"
        assert "candidatesTokenCount" in await client.until("usageMetadata")
        assert int(await client.until("sessionResumptionUpdate", "lastConsumedClientMessageIndex")) > 10


async def test_a_setup_in_snake_case_in_a_binary_frame():
    setup = {
        "setup": {
            "model": f"models/{NEW}",
            "generation_config": {"response_modalities": ["AUDIO"], "candidate_count": 1},
            "generationConfig": {"temperature": 0.5},
            "system_instruction": {"parts": [{"text": "x"}]},
            "session_resumption": {},
            "realtime_input_config": {"automatic_activity_detection": {"prefix_padding_ms": 20}},
        }
    }
    async with ModelServer(Script()) as server, raw_client(server) as client:
        await client.send(setup, binary=True)
        assert await client.receive() == {"setupComplete": {}}
        assert server.sessions[0].setup["generationConfig"] == {
            "responseModalities": ["AUDIO"],
            "candidateCount": 1,
            "temperature": 0.5,
        }


async def test_the_first_message_must_be_the_setup():
    async with ModelServer(Script()) as server:
        assert (await refusal(server, TEXT))[0] == 1007
        assert (await refusal(server, {"setup": {"model": "models/gpt"}}))[0] == 1008
        assert (await refusal(server, "not json"))[0] == 1007
        assert len(server.violations) == 3


async def test_a_second_setup_is_a_fault():
    async with ModelServer(Script()) as server, raw_client(server, setup_of()) as client:
        await client.send(setup_of())
        assert (await client.closed())[0] == 1007
        assert "setup may only be the first" in server.violations[0].what


async def test_speaking_before_setup_complete_is_a_fault():
    async with ModelServer(Script(setup_delay_ms=2000)) as server, raw_client(server) as client:
        await client.send(setup_of())
        await client.send(TEXT)
        assert (await client.closed())[0] == 1007
        assert "before setupComplete" in server.violations[0].what


async def test_plain_http_for_hand_written_clients():
    async with ModelServer(Script(), tls=False) as server:
        assert server.url.startswith("http://")
        async with raw_client(server, setup_of()):
            pass


async def test_each_connection_may_have_its_own_script():
    def script(setup):
        return Script(replies=(Reply("start", (Say(setup["systemInstruction"]["parts"][0]["text"], length_ms=40),)),))

    async with ModelServer(script) as server:
        for word in ("one", "two"):
            async with raw_client(server, setup_of(systemInstruction={"parts": [{"text": word}]})) as client:
                await client.turn()
                assert client.texts() == [word]


# -- replies ----------------------------------------------------------------------------------------------


async def test_frames_are_binary_indented_and_irregular():
    script = Script(replies=(Reply("start", (Say("x", length_ms=900, delay_ms=0, speed=50),)),))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.turn()
    assert all(isinstance(frame, bytes) and frame.count(b"\n") > 2 for frame in client.frames)
    lengths = [len(client.audio_of([message])) for message in client.seen]
    assert [length for length in lengths if length] == [2400, 7680, 2, 15360, 4800, 9600, 2400, 958]


async def test_frames_may_be_text():
    script = Script(replies=(Reply("start", (SHORT,)),), text_frames=True)
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.turn()
    assert all(isinstance(frame, str) for frame in client.frames)


async def test_audio_is_early_but_turn_ends_when_played():
    say = Say("x", length_ms=600, delay_ms=100, chunk_ms=(100,), speed=6)
    async with (
        ModelServer(Script(replies=(Reply("text", (say,)),))) as server,
        raw_client(server, setup_of()) as client,
    ):
        await client.send(TEXT)
        await client.until("serverContent", "generationComplete")
        complete_s = asyncio.get_running_loop().time()
        await client.until("serverContent", "turnComplete")
        [reply] = server.sessions[0].replies
    assert reply.first_audio_at_s - reply.decided_at_s >= 0.1
    assert reply.audio_ms == 600
    assert reply.delay_ms == 100
    # 500 ms of the sound come before the last chunk is sent, at six times real time.
    assert reply.last_audio_at_s - reply.first_audio_at_s < 0.3
    assert reply.generation_complete_at_s - reply.first_audio_at_s < 0.3
    assert reply.ended_at_s - reply.first_audio_at_s >= 0.58
    assert asyncio.get_running_loop().time() - complete_s > 0.25


@pytest.mark.parametrize(
    ("model", "transcript", "kinds"),
    [
        (NEW, "as the model does", ["audio", "outputTranscription", "audio", "outputTranscription", "audio"]),
        (OLDER, "as the model does", ["outputTranscription", "audio", "outputTranscription", "audio"]),
        (NEW, "own frame", ["outputTranscription", "audio", "outputTranscription", "audio"]),
        (NEW, "before", ["outputTranscription", "audio"]),
        (NEW, "after", ["audio", "outputTranscription"]),
        (NEW, "none", ["audio"]),
    ],
)
async def test_position_of_the_transcript(model, transcript, kinds):
    say = Say("two words", length_ms=90, delay_ms=0, chunk_ms=(30,), transcript=transcript)
    script = Script(replies=(Reply("start", (say,)),))
    async with ModelServer(script) as server, raw_client(server, setup_of(model)) as client:
        assert await client.turn() == [*kinds, "generationComplete", "turnComplete"]
        assert "".join(client.texts()) == ("" if transcript == "none" else "two words")
        together = any("modelTurn" in m["serverContent"] and len(m["serverContent"]) > 1 for m in client.seen[1:])
        assert together == (model == NEW and transcript == "as the model does")


async def test_no_transcript_unless_requested():
    script = Script(replies=(Reply("text", (SHORT,), heard=("x",)),))
    async with ModelServer(script) as server, raw_client(server) as client:
        await client.send({"setup": {"model": f"models/{NEW}"}})
        await client.send(TEXT)
        assert await client.turn() == ["setupComplete", "audio", "generationComplete", "turnComplete"]


@pytest.mark.parametrize(
    ("when", "kinds"),
    [
        ("before", ["inputTranscription", "audio"]),
        ("during", ["audio", "inputTranscription", "audio"]),
        ("after", ["audio", "inputTranscription"]),
    ],
)
async def test_the_callers_transcript_arrives_in_pieces(when, kinds):
    reply = Reply("text", (SHORT,), heard=(" I", " want"), heard_when=when)
    setup = {"setup": {"model": f"models/{NEW}", "inputAudioTranscription": {}}}
    async with ModelServer(Script(replies=(reply,))) as server, raw_client(server, setup) as client:
        await client.send(TEXT)
        assert await client.turn() == [*kinds, "generationComplete", "turnComplete"]
        assert client.texts("inputTranscription") == [" I", " want"]


async def test_replies_are_used_in_order_then_the_default():
    def speech(text):
        return (Say(text, length_ms=40, delay_ms=0),)

    script = Script(
        replies=(
            Reply("caller", speech("long"), min_speech_ms=600),
            Reply("text:price", speech("price")),
            Reply("caller", speech("short")),
            Reply("any", speech("any")),
        ),
        default=Reply("caller", speech("pardon")),
    )
    async with ModelServer(script) as server, raw_client(server, setup_of(**QUICK)) as client:
        for speech_ms in (300, 300, 300, 700, 300):
            await client.speak(voice(speech_ms), silence(240))
            await client.turn()
        await client.send({"realtimeInput": {"text": "what is the price?"}})
        await client.turn()
        await client.send({"realtimeInput": {"text": "the price?"}})
        assert await client.nothing_for(0.1)
    assert client.texts() == ["short", "any", "pardon", "long", "pardon", "price"]


async def test_thoughts_are_marked():
    script = Script(replies=(Reply("start", (Think("hm"), SHORT)),))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        assert (await client.turn())[0] == "thought"
        parts = client.seen[1]["serverContent"]["modelTurn"]["parts"]
        assert parts == [{"text": "hm", "thought": True}]


async def test_every_turn_bills_the_whole_context():
    script = Script(default=Reply("caller", (Say("x", length_ms=200, delay_ms=0, speed=20),)))
    compression = {"contextWindowCompression": {"triggerTokens": 80, "slidingWindow": {"targetTokens": 60}}}
    async with ModelServer(script) as server, raw_client(server, setup_of(**QUICK)) as client:
        totals = []
        for _ in range(3):
            await client.speak(voice(400), silence(240))
            totals.append(await client.until("usageMetadata"))
        prompts = [usage["promptTokenCount"] for usage in totals]
        assert prompts[0] < prompts[1] < prompts[2]
        assert [usage["responseTokenCount"] for usage in totals] == [5, 5, 5]
        for usage in totals:
            assert sum(detail["tokenCount"] for detail in usage["promptTokensDetails"]) == usage["promptTokenCount"]
        async with raw_client(server, setup_of(**QUICK, **compression)) as client:
            for _ in range(2):
                await client.speak(voice(800), silence(240))
                assert (await client.until("usageMetadata"))["promptTokenCount"] <= 80


async def test_extended_thinking_is_idle_after_several_turns():
    script = Script(replies=(Reply("text", (SHORT, Wait(10), SHORT, CallTool("f"))), Reply("tool:f", (SHORT,))))
    setup = setup_of("gemini-3.8-live-extended-thinking")
    async with ModelServer(script) as server, raw_client(server, setup) as client:
        await client.send(TEXT)
        assert await client.until("serverContent", "interactionStatus") == "IN_PROGRESS"
        [call] = await client.until("toolCall", "functionCalls")
        assert await client.until("serverContent", "interactionStatus") == "IN_PROGRESS"
        await client.send(answer_to(named(call)))
        assert await client.until("serverContent", "interactionStatus") == "IDLE"


# -- listening and interrupting ---------------------------------------------------------------------------


async def test_the_end_of_the_callers_turn_is_on_the_clock():
    script = Script(replies=(Reply("caller", (Say("x", length_ms=40, delay_ms=50),)),))
    async with ModelServer(script) as server, raw_client(server, setup_of(**QUICK)) as client:
        await client.speak(voice(400))
        spoken_s = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        await client.speak(silence(240))
        await client.turn()
        record = server.sessions[0]
    [speech], [reply] = record.speech, record.replies
    assert speech.started_at_s <= speech.last_voice_at_s <= spoken_s + 0.03
    assert speech.ended_at_s >= spoken_s + 0.05
    assert 0 <= reply.decided_at_s - speech.ended_at_s < 0.01
    assert record.audio_arrivals[-1][1] == record.audio_bytes == 20_480
    assert len(record.audio_arrivals) == 32


async def test_barge_in_interrupts_and_completes_nothing():
    script = Script(replies=(Reply("start", (LONG,)), Reply("caller", (SHORT,))))
    async with ModelServer(script) as server, raw_client(server, setup_of(**QUICK)) as client:
        await client.until("serverContent", "modelTurn")
        await client.speak(voice(400))
        assert (await client.turn())[-2:] == ["interrupted", "turnComplete"]
        await client.speak(silence(240))
        assert (await client.turn())[-2:] == ["generationComplete", "turnComplete"]
        record = server.sessions[0]
    assert [reply.ended for reply in record.replies] == ["interrupted", "complete"]
    assert record.replies[0].audio_ms < 3000
    assert len(record.interruptions) == 1
    completed = [m for m in client.seen if "generationComplete" in m.get("serverContent", {})]
    assert len(completed) == 1


async def test_barge_in_while_a_complete_reply_still_plays():
    say = Say("x", length_ms=2000, delay_ms=0, speed=100)
    async with (
        ModelServer(Script(replies=(Reply("start", (say,)),))) as server,
        raw_client(server, setup_of()) as client,
    ):
        await client.until("serverContent", "generationComplete")
        await client.speak(voice(200))
        assert await client.turn() == ["interrupted", "turnComplete"]


async def test_short_pause_delays_the_same_reply():
    say = Say("x", length_ms=40, delay_ms=400)
    script = Script(replies=(Reply("caller", (say,), heard=(" I want a table",)),))
    setup = setup_of(inputAudioTranscription={}, **QUICK)
    async with ModelServer(script) as server, raw_client(server, setup) as client:
        await client.speak(voice(300), silence(240))
        await client.until("serverContent", "inputTranscription")
        await client.speak(voice(300))
        assert await client.turn() == ["interrupted", "turnComplete"]
        await client.speak(silence(240))
        assert (await client.turn())[0] == "audio"
        assert client.texts("inputTranscription") == [" I want a table"]
        assert [reply.ended for reply in server.sessions[0].replies] == ["interrupted", "complete"]


async def test_no_interruption_answers_after_the_reply():
    say = Say("x", length_ms=400, delay_ms=0, chunk_ms=(100,))
    script = Script(replies=(Reply("start", (say,)), Reply("caller", (SHORT,))))
    config = {**QUICK["realtimeInputConfig"], "activityHandling": "NO_INTERRUPTION"}
    async with ModelServer(script) as server, raw_client(server, setup_of(realtimeInputConfig=config)) as client:
        await client.until("serverContent", "modelTurn")
        await client.speak(voice(400), silence(240))
        assert (await client.turn())[-2:] == ["generationComplete", "turnComplete"]
        assert (await client.turn())[-2:] == ["generationComplete", "turnComplete"]
        assert server.sessions[0].interruptions == []


async def test_manual_activity():
    script = Script(replies=(Reply("start", (LONG,)), Reply("caller", (SHORT,))))
    manual = {"realtimeInputConfig": {"automaticActivityDetection": {"disabled": True}}}
    async with ModelServer(script) as server, raw_client(server, setup_of(**manual)) as client:
        await client.until("serverContent", "modelTurn")
        await client.speak(voice(1000), silence(1000))  # voice detection is off
        await client.send({"realtimeInput": {"activityStart": {}}})
        assert (await client.turn())[-2:] == ["interrupted", "turnComplete"]
        await client.speak(silence(200))
        await client.send({"realtime_input": {"activity_end": {}}})
        assert (await client.turn())[-1] == "turnComplete"
        record = server.sessions[0]
        assert [(s.onset_ms, s.speech_ms) for s in record.speech] == [(2000.0, 200.0)]
        assert [kind for _, kind in record.activity] == ["activityStart", "activityEnd"]
        await client.send({"realtimeInput": {"activityEnd": {}}})
        await client.send(TEXT)
        assert await client.nothing_for(0.05)
        assert "activityEnd without activityStart" in server.violations[0].what


async def test_manual_activity_under_automatic_is_a_fault():
    async with ModelServer(Script()) as server, raw_client(server, setup_of()) as client:
        await client.send({"realtimeInput": {"activityStart": {}}})
        assert (await client.closed())[0] == 1007


async def test_audio_stream_end_ends_the_turn():
    script = Script(replies=(Reply("caller", (SHORT,)),))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.speak(voice(300))
        assert await client.nothing_for(0.1)
        await client.send({"realtimeInput": {"audioStreamEnd": True}})
        assert (await client.turn())[-1] == "turnComplete"


async def test_audio_of_any_rate_alphabet_and_frame():
    script = Script(default=Reply("caller", (SHORT,)))
    async with ModelServer(script) as server, raw_client(server, setup_of(**QUICK)) as client:
        noise = np.random.default_rng(3).normal(0, 4000, 2_400).astype("<i2").tobytes()
        pcm = noise + silence(240, 8_000)
        data = base64.urlsafe_b64encode(pcm).decode()
        assert "_" in data
        assert "-" in data
        message = {"realtime_input": {"audio": {"data": data, "mime_type": "audio/pcm;rate=8000"}}}
        await client.send(message, binary=True)
        await client.turn()
        chunk = audio_message(voice(300) + silence(240))["realtimeInput"]["audio"]
        await client.send({"realtime_input": {"media_chunks": [chunk]}})
        await client.turn()
        assert bytes(server.sessions[0].audio[: len(pcm)]) == pcm
        assert server.violations == []


async def test_audio_need_not_be_kept():
    async with ModelServer(Script(), keep_audio=False) as server, raw_client(server, setup_of()) as client:
        await client.speak(voice(100))
        await client.send(TEXT)
        await client.nothing_for(0.05)
        record = server.sessions[0]
        assert (record.audio_bytes, record.audio, record.audio_arrivals) == (3200, b"", [])


# -- content ----------------------------------------------------------------------------------------------


def content(text, role="user", complete=True):
    turn = {"parts": [{"text": text}]} if role is None else {"role": role, "parts": [{"text": text}]}
    return {"clientContent": {"turns": [turn], "turnComplete": complete}}


async def test_content_interrupts_only_with_turn_complete():
    script = Script(replies=(Reply("start", (LONG,)), Reply("text:now", (SHORT,))))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.until("serverContent", "modelTurn")
        await client.send(content("a note", complete=False))
        await client.until("serverContent", "modelTurn")
        assert server.sessions[0].interruptions == []
        await client.send(content("now"))
        assert (await client.turn())[-2:] == ["interrupted", "turnComplete"]
        assert (await client.turn())[-1] == "turnComplete"
        texts = server.sessions[0].texts
    assert [(t.text, t.how, t.role, t.turn_complete) for t in texts] == [
        ("a note", "content", "user", False),
        ("now", "content", "user", True),
    ]


async def test_new_models_want_roles():
    async with ModelServer(Script()) as server:
        for model, role, code in ((NEW, None, 1007), (NEW, "system", 1007), (OLDER, None, None)):
            async with raw_client(server, setup_of(model)) as client:
                await client.send(content("x", role))
                if code is None:
                    assert await client.nothing_for(0.05)
                else:
                    assert (await client.closed())[0] == code


async def test_initial_history_is_accepted_without_a_reply():
    script = Script(replies=(Reply("text", (SHORT,)), Reply("caller", (SHORT,))))
    history = {"historyConfig": {"initialHistoryInClientContent": True}}
    for model in (OLD, NEW):
        async with (
            ModelServer(script) as server,
            raw_client(server, setup_of(model, **history, **QUICK)) as client,
        ):
            await client.speak(voice(400), silence(240))  # the conversation has not begun
            await client.send(content("earlier", complete=False))
            await client.send(content("so far", role="model"))
            assert await client.nothing_for(0.1)
            await client.speak(voice(400), silence(240))
            await client.turn()
            await client.send(content("later"))
            if model == OLD:
                assert (await client.closed())[0] == 1007
            else:
                await client.turn()


async def test_3_1_takes_no_content_without_initial_history():
    async with ModelServer(Script()) as server, raw_client(server, setup_of(OLD)) as client:
        await client.send(content("x"))
        assert (await client.closed())[0] == 1007
        assert "initial history" in server.violations[0].what


async def test_context_update_changes_the_functions():
    script = Script(replies=(Reply("text", (CallTool("late"), SHORT)),))
    update = {
        "contextUpdate": {"systemInstruction": {"parts": [{"text": "new"}]}, "tools": declared("BLOCKING", "late")}
    }
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.send(update)
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        assert await client.nothing_for(0.05)  # blocking
        await client.send(answer_to(named(call)))
        await client.turn()
        assert [(t.text, t.how) for t in server.sessions[0].texts] == [("new", "update"), ("hello", "realtime")]
    async with ModelServer(script) as server, raw_client(server, setup_of(OLDER)) as client:
        await client.send(update)
        assert (await client.closed())[0] == 1007


async def test_an_update_is_refused_for_its_functions():
    update = {"contextUpdate": {"tools": declared("BLOCKING", "2fa_send")}}
    async with ModelServer(Script()) as server, raw_client(server, setup_of()) as client:
        await client.send(update)
        assert (await client.closed())[0] == 1007
        assert "Invalid function name" in server.violations[0].what


# -- tools ------------------------------------------------------------------------------------------------


async def test_a_blocking_call_continues_in_the_same_turn():
    script = Script(
        replies=(Reply("text", (SHORT, CallTool("book"), CallTool("notify"), SHORT)), Reply("tool:book", (SHORT,)))
    )
    tools = {"tools": [{"functionDeclarations": [{"name": n, "behavior": "BLOCKING"} for n in ("book", "notify")]}]}
    async with ModelServer(script) as server, raw_client(server, setup_of(sessionResumption={}, **tools)) as client:
        await client.send(TEXT)
        calls = await client.until("toolCall", "functionCalls")
        assert [call["name"] for call in calls] == ["book", "notify"]
        assert not any("generationComplete" in m.get("serverContent", {}) for m in client.seen)
        assert [
            m["sessionResumptionUpdate"].get("resumable") for m in client.seen if "sessionResumptionUpdate" in m
        ] == [
            True,
            False,
        ]
        await client.send(answer_to(named(calls[0])))
        assert await client.nothing_for(0.1)
        await client.send(answer_to(named(calls[1])))
        await client.turn()
        assert client.audio_of().__len__() == 3 * 2880
        assert len(server.sessions[0].replies) == 1


async def test_new_user_input_cancels_a_blocking_call():
    script = Script(replies=(Reply("text", (SHORT, CallTool("book"))),))
    async with ModelServer(script) as server, raw_client(server, setup_of(**declared("BLOCKING"))) as client:
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        await client.speak(voice(300))
        assert await client.turn() == ["interrupted", "turnComplete"]
        assert await client.until("toolCallCancellation", "ids") == [call["id"]]
        await client.send(answer_to(named(call)))  # crossed on the wire: no violation
        await client.send({"realtimeInput": {"text": "still there?"}})
        assert await client.nothing_for(0.1)
        assert server.violations == []
        assert [a.call for a in server.sessions[0].tool_answers] == ["cancelled"]
        await asyncio.sleep(0.3)
        await client.send(answer_to(named(call)))
        assert (await client.closed())[0] == 1007
        assert "a call that is cancelled" in server.violations[0].what


async def test_a_non_blocking_call_survives_a_barge_in():
    script = Script(
        replies=(Reply("text", (CallTool("book"), LONG)), Reply("caller", (SHORT,)), Reply("tool:book", (SHORT,)))
    )
    async with ModelServer(script) as server, raw_client(server, setup_of(**declared(), **QUICK)) as client:
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        await client.until("serverContent", "modelTurn")
        await client.speak(voice(300), silence(240))
        await client.turn()
        await client.turn()
        assert not any("toolCallCancellation" in message for message in client.seen)
        await client.send(answer_to(named(call)))
        await client.turn()
        assert [reply.trigger for reply in server.sessions[0].replies] == ["text", "caller", "tool:book"]


@pytest.mark.parametrize("placed", ["field", "response"])
@pytest.mark.parametrize(
    ("scheduling", "kinds"),
    [
        ("WHEN_IDLE", ["generationComplete", "turnComplete"]),
        ("INTERRUPT", ["interrupted", "turnComplete"]),
        ("SILENT", ["generationComplete", "turnComplete"]),
    ],
)
async def test_scheduling(scheduling, kinds, placed):
    first = Say("x", length_ms=300, delay_ms=0, chunk_ms=(50,), transcript="none")
    script = Script(replies=(Reply("text", (CallTool("book"), first)), Reply("tool:book", (SHORT,))))
    async with ModelServer(script) as server, raw_client(server, setup_of(**declared())) as client:
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        await client.until("serverContent", "modelTurn")
        answer = named(call) | ({"scheduling": scheduling} if placed == "field" else {})
        response = {"output": "ok"} | ({"scheduling": scheduling} if placed == "response" else {})
        await client.send({"tool_response": {"function_responses": [{**answer, "response": response}]}})
        assert (await client.turn())[-2:] == kinds
        if scheduling == "SILENT":
            assert await client.nothing_for(0.1)
        else:
            await client.turn()
        assert server.sessions[0].tool_answers[0].scheduling == scheduling


async def test_interrupt_result_awaits_caller_except_on_2_5():
    script = Script(
        replies=(Reply("text", (CallTool("book"),)), Reply("tool:book", (SHORT,)), Reply("caller", (SHORT,)))
    )
    for model, first in ((NEW, "caller"), (OLDER, "tool:book")):
        async with (
            ModelServer(script) as server,
            raw_client(server, setup_of(model, **declared("NON_BLOCKING"), **QUICK)) as client,
        ):
            await client.send(TEXT)
            [call] = await client.until("toolCall", "functionCalls")
            await client.turn()
            await client.speak(voice(300))
            await client.send(answer_to(named(call), scheduling="INTERRUPT"))
            if model == NEW:
                assert await client.nothing_for(0.1)
                await client.speak(silence(240))
                await client.turn()
                await client.turn()
                assert {r.trigger for r in server.sessions[0].replies} == {"text", "caller", "tool:book"}
            else:
                await client.turn()
                assert server.sessions[0].replies[-1].trigger == first
                assert server.sessions[0].speech[-1].ended_at_s is None


async def test_will_continue_leaves_the_call_open():
    script = Script(
        replies=(Reply("text", (CallTool("book"),)), Reply("tool:book", (SHORT,)), Reply("tool:book", (SHORT,)))
    )
    async with ModelServer(script) as server, raw_client(server, setup_of(**declared())) as client:
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        await client.turn()
        await client.send(answer_to(named(call), willContinue=True))
        await client.turn()
        assert server.sessions[0].tool_calls[0].state == "open"
        await client.send(answer_to(named(call)))
        await client.turn()
        assert server.sessions[0].tool_calls[0].state == "answered"


@pytest.mark.parametrize("behavior", ["BLOCKING", "NON_BLOCKING"])
async def test_an_empty_result_makes_the_model_call_again(behavior):
    script = Script(replies=(Reply("text", (CallTool("book", {"n": 1}),)), Reply("tool:book", (SHORT,))))
    async with ModelServer(script) as server, raw_client(server, setup_of(**declared(behavior))) as client:
        await client.send(TEXT)
        ids = set()
        for _ in range(3):
            [call] = await client.until("toolCall", "functionCalls")
            assert call["args"] == {"n": 1}
            ids.add(call["id"])
            await client.send({"toolResponse": {"functionResponses": [{**named(call), "response": {"result": []}}]}})
        await client.until("serverContent", "modelTurn")
        assert len(ids) == 3
        assert server.violations == []


async def test_results_that_fit_no_call():
    answer = {"toolResponse": {"functionResponses": [{"id": "no", "name": "f", "response": {"output": 1}}]}}
    async with ModelServer(Script()) as server, raw_client(server, setup_of()) as client:
        await client.send(answer)
        assert (await client.closed())[0] == 1007
    script = Script(replies=(Reply("text", (CallTool("book"),)),), unknown_tool_id="ignore")
    async with ModelServer(script) as server, raw_client(server, setup_of(**declared())) as client:
        await client.send(answer)
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        await client.send(answer_to({"id": call["id"], "name": "other"}))
        await client.send(answer_to(named(call)))
        await client.turn()
        await client.send(TEXT)
        assert await client.nothing_for(0.05)
        assert [violation.what for violation in server.violations] == [
            "result of f for a call that is unknown",
            "result named other for a call of book",
            "result of book for a call that is answered",
        ]


# -- resumption -------------------------------------------------------------------------------------------


async def handle_of(client) -> str:
    return await client.until("sessionResumptionUpdate", "newHandle")


def resuming(handle, model=NEW, **keys):
    return setup_of(model, sessionResumption={"handle": handle}, **keys)


async def test_handles_rotate_and_are_withheld_while_busy():
    script = Script(replies=(Reply("text", (SHORT, CallTool("book"))), Reply("tool:book", (SHORT,))))
    setup = setup_of(sessionResumption={}, **declared())
    async with ModelServer(script) as server, raw_client(server, setup) as client:
        first = await handle_of(client)
        await client.send(TEXT)
        assert await client.until("sessionResumptionUpdate") == {"resumable": False}
        [call] = await client.until("toolCall", "functionCalls")
        await client.turn()
        assert await client.nothing_for(0.05)  # a call is open
        await client.send(answer_to(named(call)))
        await client.turn()
        second = await handle_of(client)
        assert first != second
        assert server.sessions[0].handles == [first, second]


async def test_no_handles_unless_requested():
    script = Script(replies=(Reply("start", (SHORT,)),))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.turn()
        assert await client.nothing_for(0.05)
        assert not any("sessionResumptionUpdate" in message for message in client.seen)


async def test_resuming_while_old_socket_is_open_is_refused():
    async with ModelServer(Script()) as server:
        async with raw_client(server, setup_of(sessionResumption={})) as client:
            handle = await handle_of(client)
            assert (await refusal(server, resuming(handle)))[0] == 1011
            assert (await refusal(server, resuming("made-up")))[0] == 1007
        assert (await refusal(server, resuming(handle, OLDER)))[0] == 1007
        async with raw_client(server, resuming(handle)):
            assert server.sessions[-1].resumed_from == 0
        assert len(server.violations) == 3


async def test_handles_expire():
    async with ModelServer(Script(), time_scale=7200 / 0.05) as server:
        script_life = server.sessions
        async with raw_client(server, setup_of(sessionResumption={})) as client:
            handle = await handle_of(client)
        await asyncio.sleep(0.1)
        code, reason = await refusal(server, resuming(handle))
    assert (code, "expired" in reason) == (1007, True)
    assert len(script_life) == 2


async def test_resumed_session_continues_the_script():
    def speech(text):
        return Reply("text", (Say(text, length_ms=40, delay_ms=0),))

    for carries_on, third in ((False, ["one"]), (True, ["three"])):
        script = Script(replies=(speech("one"), speech("two"), speech("three")), carries_on=carries_on)
        async with ModelServer(script) as server:
            async with raw_client(server, setup_of(sessionResumption={})) as client:
                await client.send(TEXT)
                await client.turn()
                handle = await handle_of(client)
            async with raw_client(server, resuming(handle)) as client:
                await client.send(TEXT)
                await client.turn()
                assert client.texts() == ["two"]
            async with raw_client(server, setup_of()) as client:
                await client.send(TEXT)
                await client.turn()
                assert client.texts() == third


async def test_a_resumed_session_does_not_know_the_old_calls():
    script = Script(replies=(Reply("text", (CallTool("book"),)),))
    async with ModelServer(script) as server:
        async with raw_client(server, setup_of(sessionResumption={}, **declared())) as client:
            handle = await handle_of(client)
            await client.send(TEXT)
            [call] = await client.until("toolCall", "functionCalls")
        async with raw_client(server, resuming(handle, **declared())) as client:
            await client.send(answer_to(named(call)))
            assert (await client.closed())[0] == 1007


# -- ephemeral tokens -------------------------------------------------------------------------------------


async def test_ephemeral_tokens_through_the_sdk(monkeypatch):
    script = Script(replies=(Reply("start", (SHORT,)),))
    async with ModelServer(script) as server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_path)
        http = types.HttpOptions(base_url=server.url, api_version="v1alpha")
        client = genai.Client(api_key="rehearsal", http_options=http)
        constraints = {"model": NEW, "config": {"system_instruction": "locked"}}
        token = await client.aio.auth_tokens.create(
            config={"uses": 1, "live_connect_constraints": constraints, "lock_additional_fields": ["temperature"]}
        )
        assert token.name.startswith("auth_tokens/")
        guest = genai.Client(api_key=token.name, http_options=http)
        with pytest.warns(Warning, match="experimental"):
            async with guest.aio.live.connect(
                model=NEW, config={"system_instruction": "mine", "temperature": 1.5, "session_resumption": {}}
            ) as session:
                assert session.setup_complete is not None
        setup = server.sessions[0].setup
        assert setup["systemInstruction"]["parts"] == [{"text": "locked"}]
        assert setup["sessionResumption"] == {}
        assert "temperature" not in setup.get("generationConfig", {})
        assert server.sessions[0].auth == "token"
        with pytest.warns(Warning, match="experimental"), pytest.raises(errors.APIError) as error:
            async with guest.aio.live.connect(model=NEW):
                pass
        assert error.value.code == 1008  # used up
        assert token.name not in repr(server.sessions) + repr(server.violations)


async def test_auth_tokens_do_not_exist_on_v1(monkeypatch):
    async with ModelServer(Script()) as server:
        monkeypatch.setenv("SSL_CERT_FILE", server.ca_path)
        http = types.HttpOptions(base_url=server.url, api_version="v1")
        client = genai.Client(api_key="rehearsal", http_options=http)
        with pytest.raises(errors.ClientError) as error:
            await client.aio.auth_tokens.create(config={"uses": 1})
        assert error.value.code == 404


# -- many -------------------------------------------------------------------------------------------------


async def test_fifty_sessions_at_once():
    say = Say("x", length_ms=400, delay_ms=0, chunk_ms=(40,), speed=4)
    script = Script(replies=(Reply("caller", (say,)),))

    async def call(server):
        async with raw_client(server, setup_of(**QUICK)) as client:
            await client.speak(voice(200), silence(240))
            await client.turn()
            return client.audio_of()

    async with ModelServer(script, tls=False) as server:
        heard = await asyncio.gather(*(call(server) for _ in range(50)))
    assert len(set(heard)) == 1
    assert len(heard[0]) == 2 * 9600
    assert {session.close_code for session in server.sessions} == {1000}
    assert (server.violations, server.failures) == ([], [])


async def test_a_fixed_port_can_be_reused():
    async with ModelServer(Script()) as server:
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match=str(port)):
            async with ModelServer(Script(), port=port):
                pass
        async with raw_client(server, setup_of()) as client:
            leaving = asyncio.create_task(client.closed())
            await asyncio.sleep(0)
    assert (await leaving)[0] in (1000, 1001, 1006)
    async with ModelServer(Script(), port=port) as server:
        assert server.url.endswith(str(port))


async def test_leaving_closes_the_sessions():
    async with ModelServer(Script(replies=(Reply("start", (EmptyTurn(), LONG)),))) as server:
        context = raw_client(server, setup_of())
        client = await context.__aenter__()
        await client.until("serverContent", "modelTurn")
    assert (await client.closed())[0] == 1001
    assert server.sessions[0].replies[0].ended == "cut off"
    await context.__aexit__(None, None, None)
    assert json.dumps(server.sessions[0].setup)
