"""Audio at the model's edge: converted once, as the line's format asks, or not at all."""

import asyncio
import base64

import numpy as np
import pytest

from offhook.gateway.agent.spec import Agent, TurnDetection
from offhook.gateway.conversation.events import ModelInterrupted, ModelReady, ReplyComplete, TurnComplete
from offhook.gateway.models import AudioFormats
from offhook.gateway.models.gemini.audio import CallerAudio, Upsampling
from offhook.gateway.rehearsal.model import script as m
from offhook.media import mulaw
from offhook.media.formats import ALAW_8K, MULAW_8K, PCM16_8K, PCM16_16K, PCM16_24K, AudioFormat, converter
from offhook.media.resample import Down24To8, Up8To16
from tests.models.gemini.link_rig import eventually, linked

RNG = np.random.default_rng(4)
MULAW_LINE = AudioFormats(caller=MULAW_8K, agent=MULAW_8K)
LOCAL = Agent(name="reception", turn_detection=TurnDetection(mode="local"))


def noise(samples: int) -> bytes:
    """PCM16 LE."""
    return (RNG.standard_normal(samples) * 4000).astype("<i2").tobytes()


def audio(pcm: bytes) -> m.Send:
    part = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": base64.b64encode(pcm).decode()}}
    return m.Send({"serverContent": {"modelTurn": {"parts": [part]}}})


def says(**content: object) -> m.Send:
    return m.Send({"serverContent": content})


def mulaw_of(pcm: bytes, *, flushed: bool = True) -> bytes:
    down = Down24To8()
    codes = down.push(pcm)
    return codes + down.flush() if flushed else codes


# --- the two directions by themselves


@pytest.mark.parametrize("line", [MULAW_8K, ALAW_8K, PCM16_8K], ids=str)
def test_narrowband_caller_audio_is_upsampled(line: AudioFormat) -> None:
    samples = np.frombuffer(noise(800), dtype="<i2")
    caller, expected = CallerAudio(line), Up8To16()
    for at in range(0, 800, 160):
        frame = samples[at : at + 160]
        assert caller.push(line.encode(frame), frame) == expected.push(frame)


def test_wideband_caller_audio_is_not_narrowed() -> None:
    pcm, nothing = noise(960), np.zeros(0, dtype=np.int16)
    assert CallerAudio(PCM16_16K).push(pcm, nothing) == pcm
    down = converter(PCM16_24K, PCM16_16K)
    assert down is not None
    assert CallerAudio(PCM16_24K).push(pcm, nothing) == down.push(pcm)


def test_a_reset_caller_is_as_new() -> None:
    samples = np.frombuffer(noise(160), dtype="<i2")
    caller = CallerAudio(MULAW_8K)
    caller.push(b"", samples)
    caller.reset()
    assert caller.push(b"", samples) == Up8To16().push(samples)


class Taker:
    """A link that keeps what it is given: pieces of audio, or the error."""

    def __init__(self, name: str, got: list[tuple[str, bytes | str]]) -> None:
        self.name, self.got = name, got

    def send_audio(self, pcm: bytes, received_s: float) -> None:
        self.got.append((self.name, pcm))

    def audio_failed(self, error: Exception) -> None:
        self.got.append((self.name, type(error).__name__))


def test_links_are_sent_their_own_audio_in_order() -> None:
    upsampling, got = Upsampling(), []
    frames = [np.frombuffer(noise(160), dtype="<i2") for _ in range(5)]
    ups, takers = [Up8To16(), Up8To16()], [Taker("a", got), Taker("b", got)]
    for n, frame in enumerate(frames):
        upsampling.submit(ups[n % 2], frame, takers[n % 2], 0.0)
    assert got == []
    upsampling.flush()
    upsampling.flush()
    alone = [Up8To16(), Up8To16()]
    assert got == [("ab"[n % 2], alone[n % 2].push(frame)) for n, frame in enumerate(frames)]


@pytest.mark.parametrize("together", [False, True])
def test_audio_that_fails_costs_its_own_link(together: bool) -> None:
    upsampling, got, frame = Upsampling(), [], np.frombuffer(noise(160), dtype="<i2")
    broken = Up8To16()
    broken._fir = None  # type: ignore[assignment]
    for name, up in (("a", Up8To16()), ("b", broken), ("c", Up8To16())):
        upsampling.submit(up, frame, Taker(name, got), 0.0)
        if not together:
            upsampling.flush()
    upsampling.flush()
    expected = Up8To16().push(frame)
    assert got == [("a", expected), ("b", "AttributeError"), ("c", expected)]


# --- through a link


async def test_the_tail_of_a_reply_comes_before_its_end() -> None:
    first, second = noise(2001), noise(1000)
    chunks = [audio(first[:1001]), audio(first[1001:])]
    done = says(generationComplete=True)
    script = m.Script(
        replies=(m.Reply("start", (*chunks, done, says(turnComplete=True), audio(second), says(turnComplete=True))),)
    )
    async with linked(script, formats=MULAW_LINE) as rig:
        await rig.sink.until_event(TurnComplete, 2)
        assert rig.sink.audio == {1: mulaw_of(first), 2: mulaw_of(second)}
        kinds = [type(value) if kind == "event" else (kind, value) for kind, value in rig.sink.heard]
        assert kinds == [
            ModelReady,
            *[("audio", 1)] * 3,
            ReplyComplete,
            TurnComplete,
            *[("audio", 2)] * 2,
            TurnComplete,
        ]


async def test_the_tail_of_an_interrupted_reply_is_dropped() -> None:
    first, second = noise(2000), noise(1000)
    script = m.Script(
        replies=(
            m.Reply(
                "start",
                (
                    audio(first),
                    says(interrupted=True),
                    says(turnComplete=True),
                    audio(second),
                    says(turnComplete=True),
                ),
            ),
        )
    )
    async with linked(script, formats=MULAW_LINE) as rig:
        await rig.sink.until_event(TurnComplete, 2)
        assert len(rig.sink.of(ModelInterrupted)) == 1
        assert rig.sink.audio == {1: mulaw_of(first, flushed=False), 2: mulaw_of(second)}


async def test_a_reply_after_a_lost_connection_is_as_new() -> None:
    first, second = noise(2000), noise(1000)
    script = m.Script(
        replies=(
            m.Reply("start", (m.Say("Hello", length_ms=40),)),
            m.Reply("text:now", (audio(first + b"\x7f"), m.Wait(60_000))),
            m.Reply("text:again", (audio(second), says(turnComplete=True))),
        )
    )
    async with linked(script, formats=MULAW_LINE) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("now")
        await rig.sink.until(lambda: 2 in rig.sink.audio)
        rig.link.reconnect()  # in the middle of a reply
        await rig.sink.until_event(ModelReady, 2)
        rig.link.prompt("again")
        await rig.sink.until_event(TurnComplete, 2)
        assert list(rig.sink.audio.values())[1:] == [mulaw_of(first, flushed=False), mulaw_of(second)]


async def test_the_callers_mulaw_arrives_as_16_khz() -> None:
    frames = [mulaw.encode(np.frombuffer(noise(160), dtype="<i2")) for _ in range(20)]
    async with linked(m.Script(), formats=MULAW_LINE) as rig:
        for codes in frames:
            rig.link.caller_audio(codes, mulaw.decode(codes), 0.0)
            rig.link.flush_audio()
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 20 * 640)
        assert bytes(session.audio) == Up8To16().push(mulaw.decode(b"".join(frames)))


async def test_each_local_turn_begins_without_the_one_before() -> None:
    """Between two turns nothing is sent: the up-sampler must not join what does not belong together."""
    turns = [mulaw.encode(np.frombuffer(noise(480), dtype="<i2")) for _ in range(2)]
    async with linked(m.Script(), LOCAL, formats=MULAW_LINE) as rig:
        for codes in turns:
            rig.link.turn_started()
            for at in range(0, 480, 160):
                rig.link.caller_audio(codes[at : at + 160], mulaw.decode(codes[at : at + 160]), 0.0)
            rig.link.turn_ended()
            await asyncio.sleep(0)
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 6 * 640)
        assert bytes(session.audio) == b"".join(Up8To16().push(mulaw.decode(codes)) for codes in turns)
