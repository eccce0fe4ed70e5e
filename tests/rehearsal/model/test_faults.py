"""The rehearsal model misbehaving on purpose: each fault must look on the wire as it does in the wild."""

import asyncio
import contextlib

import pytest
from google import genai
from google.genai import types
from websockets.exceptions import ConnectionClosed

from offhook.gateway.rehearsal.model.script import (
    Abort,
    CallTool,
    CancelTools,
    Close,
    EmptyTurn,
    Fault,
    Mute,
    Oversize,
    Reply,
    Say,
    Script,
    Send,
    SendGoAway,
    SendInterrupted,
    Stall,
    Wait,
)
from offhook.gateway.rehearsal.model.server import ModelServer, serve
from tests.rehearsal.model.model_client import raw_client, refusal, setup_of, silence, trusting, voice

NEW = "gemini-3.8-live"
TEXT = {"realtimeInput": {"text": "hello"}}
SHORT = Say("Good morning", length_ms=80, delay_ms=0, chunk_ms=(40,))
LONG = Say("One two three", length_ms=3000, delay_ms=0, chunk_ms=(100,), speed=2)


def on_text(*actions) -> Script:
    return Script(replies=(Reply("text", actions),))


# -- ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, "The operation was cancelled."), (1008, ""), (1011, "Internal error")]
)
async def test_a_close_at_any_point_of_a_reply(code, reason):
    async with (
        ModelServer(on_text(SHORT, Close(code, reason), SHORT)) as server,
        raw_client(server, setup_of()) as client,
    ):
        await client.send(TEXT)
        assert await client.closed() == (code, reason)
        assert len(client.audio_of()) == 80 * 48
        record = server.sessions[0]
    assert (record.closed_by, record.close_code, record.close_reason) == ("server", code, reason)
    assert server.violations == []


@pytest.mark.wall_clock  # it talks without a pause, in which the quick clock stands still
async def test_a_close_reaches_a_client_that_keeps_talking():
    async with ModelServer(Script(faults=(Fault(0.1, (Close(1011, "Internal error"),)),))) as server:
        for _ in range(10):
            async with raw_client(server, setup_of()) as client:
                talking = asyncio.create_task(talk(client))
                assert await client.closed() == (1011, "Internal error")
                await talking


async def talk(client):
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.speak(silence(200))
            await asyncio.sleep(0)


async def test_an_aborted_connection_has_no_goodbye():
    async with ModelServer(on_text(SHORT, Abort())) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        assert await client.closed() == (1006, "")
        assert (server.sessions[0].closed_by, server.sessions[0].close_code) == ("server", 1006)


async def test_timed_fault_happens_once_despite_reconnects():
    script = Script(faults=(Fault(0.05, (Abort(),)), Fault(0.3, (Send({"x": {}}), Wait(50), Close(1011, "again")))))
    async with ModelServer(script) as server:
        begun_s = asyncio.get_running_loop().time()
        async with raw_client(server, setup_of(sessionResumption={})) as client:
            handle = await client.until("sessionResumptionUpdate", "newHandle")
            assert (await client.closed())[0] == 1006
        assert 0.04 < asyncio.get_running_loop().time() - begun_s < 0.25
        async with raw_client(server, setup_of(sessionResumption={"handle": handle})) as client:
            assert await client.closed() == (1011, "again")
            assert client.seen[-1] == {"x": {}}
        assert 0.34 < asyncio.get_running_loop().time() - begun_s < 0.6
        async with raw_client(server, setup_of(sessionResumption={"handle": handle})) as client:
            await client.receive()
            assert await client.nothing_for(0.1)


async def test_refusals_before_the_session():
    script = Script(setup_delay_ms=100, refuse=Close(1011, "service unavailable"))
    async with ModelServer(script) as server:
        begun_s = asyncio.get_running_loop().time()
        assert await refusal(server, setup_of()) == (1011, "service unavailable")
        assert asyncio.get_running_loop().time() - begun_s >= 0.1
        assert server.violations == []


async def test_client_leaving_during_slow_setup_is_recorded():
    async with ModelServer(Script(setup_delay_ms=5000)) as server:
        async with raw_client(server) as client:
            await client.send(setup_of())
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        assert server.sessions[0].closed_by == "client"
        assert server.sessions[0].ready_at_s is None


async def test_something_else_instead_of_setup_complete():
    script = Script(instead_of_setup=Send({"goAway": {"timeLeft": "1s"}}))
    async with ModelServer(script) as server:
        http = types.HttpOptions(
            base_url=server.url, api_version="v1beta", async_client_args={"ssl": trusting(server), "proxy": None}
        )
        async with genai.Client(api_key="x", http_options=http).aio.live.connect(model=NEW) as session:
            assert session.setup_complete is None  # the SDK swallows it in silence


async def test_resuming_may_be_refused_some_times():
    script = Script(refuse_resumes=(Close(1011, "Internal error"), Close(1007, "Request contains an invalid argument")))
    async with ModelServer(script) as server:
        async with raw_client(server, setup_of(sessionResumption={})) as client:
            handle = await client.until("sessionResumptionUpdate", "newHandle")
        resume = setup_of(sessionResumption={"handle": handle})
        assert [(await refusal(server, resume))[0] for _ in range(2)] == [1011, 1007]
        async with raw_client(server, resume):
            pass
        assert server.violations == []


async def test_resuming_a_frozen_session_is_no_violation():
    script = Script(faults=(Fault(0.05, (Stall(400),)),))
    async with ModelServer(script) as server:
        async with raw_client(server, setup_of(sessionResumption={}), close_timeout=0.05) as client:
            handle = await client.until("sessionResumptionUpdate", "newHandle")
            await asyncio.sleep(0.1)
        resume = setup_of(sessionResumption={"handle": handle})
        assert (await refusal(server, resume))[0] == 1011
        await asyncio.sleep(0.4)
        async with raw_client(server, resume):
            pass
        assert server.violations == []


# -- lifetimes --------------------------------------------------------------------------------------------


async def test_ten_minutes_can_be_half_a_second():
    async with ModelServer(Script(), time_scale=1200) as server, raw_client(server, setup_of()) as client:
        begun_s = asyncio.get_running_loop().time()
        compressed = {"contextWindowCompression": {"slidingWindow": {}}}
        left = await client.until("goAway", "timeLeft")
        warned_s = asyncio.get_running_loop().time()
        assert left == "0.0416667s"
        assert await client.closed() == (1011, "Deadline expired before operation could complete.")
        assert 0.4 < warned_s - begun_s < 0.55
        assert 0.03 < asyncio.get_running_loop().time() - warned_s < 0.15
        assert len(server.sessions[0].go_aways) == 1
        async with raw_client(server, setup_of(**compressed)) as client:
            assert await client.until("goAway", "timeLeft") == "0.0416667s"


async def test_resuming_without_compression_adds_no_time():
    async with ModelServer(Script(), time_scale=1200) as server:
        lives = {}
        for name, more in (("without", {}), ("with", {"contextWindowCompression": {}})):
            async with raw_client(server, setup_of(sessionResumption={}, **more)) as client:
                handle = await client.until("sessionResumptionUpdate", "newHandle")
                await client.closed()
            begun_s = asyncio.get_running_loop().time()
            async with raw_client(server, setup_of(sessionResumption={"handle": handle}, **more)) as client:
                await client.closed()
            lives[name] = asyncio.get_running_loop().time() - begun_s
        assert lives["without"] < 0.35 < 0.45 < lives["with"]


async def test_go_away_with_silence_and_another_end():
    script = Script(
        replies=(Reply("text", (SendGoAway(0.2), Mute())), Reply("text", (SHORT,))),
        end_of_life=Close(1000, "The operation was cancelled."),
    )
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        assert await client.until("goAway") == {"timeLeft": "0.2s"}
        await client.send(TEXT)
        assert await client.closed() == (1000, "The operation was cancelled.")
        assert client.seen[-1] == {"goAway": {"timeLeft": "0.2s"}}


async def test_go_away_without_an_end():
    async with (
        ModelServer(on_text(SendGoAway(0.01, then_close=False))) as server,
        raw_client(server, setup_of()) as client,
    ):
        await client.send(TEXT)
        await client.until("goAway")
        assert await client.nothing_for(0.1)


# -- odd behaviour ----------------------------------------------------------------------------------------


async def test_after_a_stall_the_session_continues():
    stalling = on_text(Stall(300), SHORT)
    async with ModelServer(stalling) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        await asyncio.sleep(0.05)
        begun_s = asyncio.get_running_loop().time()
        await (await client.ws.ping())
        assert asyncio.get_running_loop().time() - begun_s > 0.15
        assert (await client.turn())[-1] == "turnComplete"


async def test_pongs_may_be_late():
    for delay_s in (0.0, 0.2):
        async with ModelServer(Script(pong_delay_s=delay_s)) as server, raw_client(server, setup_of()) as client:
            begun_s = asyncio.get_running_loop().time()
            await (await client.ws.ping())
            assert delay_s <= asyncio.get_running_loop().time() - begun_s < delay_s + 0.1


async def test_a_mute_model_still_hears():
    script = Script(replies=(Reply("text", (SHORT, SendInterrupted(), Mute())),), default=Reply("caller", (SHORT,)))
    phantom = Script(replies=(Reply("text", (SHORT, Mute())),), default=Reply("caller", (SHORT,)))
    async with ModelServer(phantom) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        await client.turn()
        await client.speak(voice(300), silence(600))
        assert await client.nothing_for(0.1)
        assert server.sessions[0].speech[0].ended_at_s is not None
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        assert (await client.turn())[-2:] == ["interrupted", "turnComplete"]
        assert "generationComplete" not in str(client.seen)


async def test_a_phantom_interruption_needs_no_speech():
    script = Script(faults=(Fault(0.05, (SendInterrupted(),)),))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        assert await client.turn() == ["interrupted", "turnComplete"]
        assert len(server.sessions[0].interruptions) == 1


async def test_an_empty_turn():
    async with ModelServer(on_text(EmptyTurn())) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        assert await client.turn() == ["turnComplete"]


async def test_a_sentence_cut_off():
    say = Say("all of these words were meant", length_ms=800, delay_ms=0, cut_ms=100)
    async with ModelServer(on_text(say)) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        begun_s = asyncio.get_running_loop().time()
        assert (await client.turn())[-1] == "turnComplete"
        assert asyncio.get_running_loop().time() - begun_s < 0.3
        assert len(client.audio_of()) == 100 * 48
        assert "".join(client.texts()) == say.text


async def test_late_audio_after_an_interruption():
    say = Say("x", length_ms=2000, delay_ms=0, chunk_ms=(100,), speed=1, late_chunks=2)
    async with ModelServer(on_text(say)) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        await client.until("serverContent", "modelTurn")
        await client.speak(voice(300))
        await client.until("serverContent", "interrupted")
        assert await client.turn() == ["audio", "turnComplete"]
        assert len(client.audio_of(client.seen[-3:])) == 2 * 4800


async def test_anything_can_be_sent():
    messages = (
        Send({}),
        Send({"newThing": {"a": 1}}),
        Send({"serverContent": {"newField": True, "turnCompleteReason": "NEW_REASON"}}),
        Send('{"serverContent": {"inputTranscription": {"text": " twice"}}}'),
        Send("no json at all"),
    )
    async with ModelServer(on_text(*messages)) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        assert await client.receive() == {}
        assert await client.receive() == {"newThing": {"a": 1}}
        assert (await client.receive())["serverContent"]["turnCompleteReason"] == "NEW_REASON"
        await client.receive()
        assert client.texts("inputTranscription") == [" twice"]
        with pytest.raises(ValueError, match="Expecting value"):
            await client.receive()


async def test_frame_above_1_mib_ends_a_limited_client():
    async with (
        ModelServer(on_text(Oversize())) as server,
        raw_client(server, setup_of(), max_size=2**20) as client,
    ):
        await client.send(TEXT)
        assert (await client.closed())[0] == 1006
    assert server.sessions[0].close_code == 1009  # the code that the client sent
    async with ModelServer(on_text(Oversize(3_000_000))) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        await client.until("serverContent", "modelTurn")
        assert len(client.frames[-1]) > 3_000_000


async def test_duplicate_transcripts():
    script = Script(replies=(Reply("text", (SHORT,), heard=(" Hello.", " Hello.")),))
    async with ModelServer(script) as server, raw_client(server, setup_of(inputAudioTranscription={})) as client:
        await client.send(TEXT)
        await client.turn()
        assert client.texts("inputTranscription") == [" Hello.", " Hello."]


@pytest.mark.parametrize("behavior", ["BLOCKING", "NON_BLOCKING"])
async def test_tool_calls_can_be_cancelled(behavior):
    call = CallTool("book", id="one")
    script = on_text(call, Wait(50), CancelTools())
    if behavior == "BLOCKING":  # the reply itself waits for the result
        script = Script(replies=(Reply("text", (call, SHORT)),), faults=(Fault(0.3, (CancelTools(),)),))
    tools = {"tools": [{"functionDeclarations": [{"name": "book", "behavior": behavior}]}]}
    setup = setup_of(sessionResumption={}, **tools)
    async with ModelServer(script) as server, raw_client(server, setup) as client:
        await client.send(TEXT)
        assert await client.until("toolCall", "functionCalls") == [{"id": "one", "name": "book", "args": {}}]
        assert await client.until("toolCallCancellation") == {"ids": ["one"]}
        assert (await client.turn())[-1] == "turnComplete"
        assert (await client.until("sessionResumptionUpdate"))["resumable"] is True
        assert server.sessions[0].tool_calls[0].state == "cancelled"


async def test_barge_in_may_cancel_every_call():
    script = Script(replies=(Reply("text", (CallTool("book"), LONG)),), barge_in_cancels="all")
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        [call] = await client.until("toolCall", "functionCalls")
        await client.speak(voice(300))
        assert await client.until("toolCallCancellation", "ids") == [call["id"]]


# -- nothing a client sends is our failure ----------------------------------------------------------------

NASTY = [
    "",
    "{}",
    "null",
    "[[[",
    "[" * 5000,
    '{"realtimeInput":{}}',
    '{"realtimeInput":{"audio":{}}}',
    '{"realtimeInput":{"audio":{"data":"AAA=","mimeType":"audio/pcm;rate=0"}}}',
    '{"realtimeInput":{"audio":{"data":"A","mimeType":"audio/pcm"}}}',
    '{"realtimeInput":{"audio":{"data":"AA==","mimeType":"audio/pcm"}}}',
    '{"realtimeInput":{"audio":{"data":"","mimeType":"audio/pcm;rate=16000"}}}',
    '{"realtimeInput":{"mediaChunks":5}}',
    '{"realtimeInput":{"video":{"data":"!","mimeType":"image/jpeg"}}}',
    '{"realtimeInput":{"activityEnd":{}}}',
    '{"realtimeInput":{"audioStreamEnd":true}}',
    '{"clientContent":{}}',
    '{"clientContent":{"turns":[{"role":"user","parts":[{"text":7}]}],"turnComplete":true}}',
    '{"clientContent":{"turns":["x"]}}',
    '{"toolResponse":{}}',
    '{"toolResponse":{"functionResponses":[{}]}}',
    '{"toolResponse":{"functionResponses":[{"id":"x","response":{"scheduling":[]}}]}}',
    '{"contextUpdate":{}}',
    '{"contextUpdate":{"tools":{"tools":[{"functionDeclarations":[{}]}]}}}',
    '{"contextUpdate":{"systemInstruction":{"parts":[{"text":null}]}}}',
]


@pytest.mark.parametrize("model", [NEW, "gemini-3.1-flash-live-preview"])
async def test_nothing_a_client_sends_is_our_failure(model):
    async with ModelServer(Script(default=Reply("any", (SHORT,)))) as server:
        for message in NASTY:
            async with raw_client(server, setup_of(model)) as client:
                with contextlib.suppress(ConnectionClosed):
                    await client.send(message)
                    await client.send(TEXT)
                    await client.nothing_for(0.01)
        for message in NASTY:
            async with raw_client(server) as client:
                await client.send(message)
    assert server.failures == []
    assert len(server.violations) > 2 * len(NASTY) * 0.7
    assert all(session.closed_at_s for session in server.sessions)


async def test_an_error_of_the_server_is_no_violation(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    script = on_text(Say("x", tmp_path / "broken.wav"))
    async with ModelServer(script) as server, raw_client(server, setup_of()) as client:
        await client.send(TEXT)
        assert (await client.closed())[0] == 1011
    assert ["is not a WAV file" in str(failure) for failure in server.failures] == [True]
    assert server.violations == []


async def test_serve_writes_certificate_and_can_be_cancelled(tmp_path, capsys):
    ca = tmp_path / "ca.pem"
    serving = asyncio.create_task(serve("127.0.0.1", 0, Script(), ca, clock=asyncio.get_running_loop().time))
    while not (out := capsys.readouterr().out):
        assert not serving.done()
        await asyncio.sleep(0.01)
    assert ca.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
    assert "rehearsal model at https://127.0.0.1:" in out
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
