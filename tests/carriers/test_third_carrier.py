"""The seam to a carrier is true: a line that we must pace, in other formats; nothing but itself was written for it."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.gateway import app, site
from offhook.gateway.call.line import LineFormats
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import run_quickly, running_clock
from offhook.gateway.store.record import CallRecord
from offhook.media.formats import ALAW_8K, MULAW_8K, PCM16_16K, AudioFormat, converter
from offhook.media.resample import resample
from offhook.media.wav import read_wav
from tests.calls.lines import LONG, SATURDAY
from tests.carriers.third_carrier import FRAME_S, RtpCarrier, RtpPhone
from tests.media.measure import active_level_dbov, delay_samples
from tests.models.second_model import RealtimeModel
from tests.models.second_service import Answer, serving_realtime
from tests.rig.gateway import numbered_agents, serving
from tests.rig.sounds import sound

AGENT = """greeting: {{text: Greet.}}
tools: [{{function: 'tests.calls.slow_tools:quick', name: quick}}]
recording: {{enabled: true, directory: {directory}}}"""
FORMATS = {"alaw8k": ALAW_8K, "pcm16@16k": PCM16_16K}
CALLER = "agent_on_tuesday"  # a wideband voice: the caller's own lines are 8 kHz


@dataclass(frozen=True)
class Seen:
    audio: AudioFormat
    record: CallRecord
    phone: RtpPhone
    session: SessionRecord
    recorded: NDArray[np.int16]  # 8 kHz, a column per side

    def heard(self, run: int) -> NDArray[np.int16]:
        return self.audio.decode(bytes(self.phone.runs[run][1]))


def samples_of(part: str, rate_hz: int) -> NDArray[np.int16]:
    samples, source_hz = read_wav(sound(part))
    return resample(samples, source_hz, rate_hz)


async def call_the_desk(audio: AudioFormat, directory: Path) -> Seen:
    """A call that interrupts the greeting, is answered, has a tool run, hears its answer's end and hangs up."""
    numbers, agents = numbered_agents({"desk": AGENT.format(directory=directory)})
    script = Script((Reply("text", (LONG,)), Reply("caller", (CallTool("quick"),)), Reply("tool:quick", (SATURDAY,))))
    formats = LineFormats(gives=audio, takes=audio)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "Twilio", partial(RtpCarrier, formats=formats))
        async with (
            ModelServer(script) as model,
            serving(agents, {"OFFHOOK_INSECURE": "1"}, model=model) as (gateway, url),
        ):
            phone = RtpPhone(url, numbers["desk"], formats, running_clock())
            calling = asyncio.create_task(phone.call())
            async with asyncio.timeout(60):
                while phone.heard_s < 1.5:
                    await asyncio.sleep(FRAME_S)
                phone.speech += audio.encode(samples_of(CALLER, audio.rate_hz))
                while len(phone.runs) < 2 or len(phone.runs[-1][1]) < 6.1 * audio.rate_hz * audio.bytes_per_sample:
                    await asyncio.sleep(FRAME_S)
                await asyncio.sleep(0.5)
                phone.hang_up()
                await calling
                while (record := await gateway.records.get(phone.call_id)) is None:
                    await asyncio.sleep(FRAME_S)
        (session,) = model.sessions
    with wave.open(str(directory / f"{phone.call_id}.wav")) as file:
        recorded = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return Seen(audio, record, phone, session, recorded)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Seen]:
    """By format. A thread writes the recordings: not at the full speed."""
    return {
        name: run_quickly(lambda _, audio=audio: call_the_desk(audio, tmp_path_factory.mktemp("rtp")), 4.0)
        for name, audio in FORMATS.items()
    }


@pytest.fixture(params=FORMATS)
def seen(request: pytest.FixtureRequest, calls: Mapping[str, Seen]) -> Seen:
    return calls[request.param]


def test_barge_in_tool_and_hang_up(seen: Seen) -> None:
    record = seen.record
    assert record.end_reason == "caller_hung_up"
    assert [(tool.name, tool.outcome) for tool in record.tool_calls] == [("quick", "done")]
    greeting, answer = record.turns
    assert greeting.interrupted
    assert record.barge_ins[0].verdict.startswith("confirmed")
    assert answer.heard_ms == answer.received_ms == pytest.approx(6_140, abs=20)
    assert record.samples_after_clear == 0
    assert record.errors == []


def test_frames_are_sent_at_the_pace_of_playback(seen: Seen) -> None:
    arrivals_s = np.array(seen.phone.arrivals_s)
    for begun_s, codes in seen.phone.runs:
        frames = len(codes) // seen.audio.frame_bytes
        at_s = arrivals_s[(arrivals_s >= begun_s)][:frames]
        assert np.abs(at_s - begun_s - FRAME_S * np.arange(frames)).max() < FRAME_S


def test_heard_is_what_the_phone_played(seen: Seen) -> None:
    played_ms = [len(codes) * 20 / seen.audio.frame_bytes for _, codes in seen.phone.runs]
    assert [turn.heard_ms for turn in seen.record.turns] == played_ms


def test_agent_is_heard_at_its_rate_and_level(seen: Seen) -> None:
    source, heard = samples_of("saturday", seen.audio.rate_hz), seen.heard(1)
    assert len(heard) == pytest.approx(len(source), abs=2 * seen.audio.frame_samples)
    lag, sure = delay_samples(source, heard)
    assert abs(lag) < seen.audio.frame_samples
    assert sure > 0.98
    levels = [active_level_dbov(samples, seen.audio.rate_hz) for samples in (source, heard)]
    assert levels[0] == pytest.approx(levels[1], abs=0.5)


def test_model_hears_the_caller_at_its_level(seen: Seen) -> None:
    said, heard = samples_of(CALLER, 16_000), np.frombuffer(bytes(seen.session.audio), "<i2")
    _, sure = delay_samples(said, heard)
    assert sure > (0.98 if seen.audio is PCM16_16K else 0.9)  # without what lies above 4 kHz
    levels = [active_level_dbov(samples, 16_000) for samples in (said, heard)]
    assert levels[0] == pytest.approx(levels[1], abs=1.0)


def test_recording_has_the_calls_length(seen: Seen) -> None:
    said_s = len(seen.phone.said) / seen.audio.frame_bytes * FRAME_S
    assert len(seen.recorded) / 8_000 == pytest.approx(said_s, abs=0.2)
    left, right = seen.recorded[:, 0], seen.recorded[:, 1]
    said = seen.audio.decode(bytes(seen.phone.said))
    _, sure = delay_samples(resample(said, seen.audio.rate_hz, 8_000), left)
    assert sure > 0.95
    for run, (begun_s, _) in enumerate(seen.phone.runs):
        heard = resample(seen.heard(run), seen.audio.rate_hz, 8_000)
        lag, sure = delay_samples(heard, right)
        assert sure * np.sqrt(np.dot(right.astype(float), right) / np.dot(heard.astype(float), heard)) > 0.95
        assert lag / 8_000 == pytest.approx(begun_s - seen.phone.began_s, abs=0.1)


def test_recorded_reply_has_no_joints(seen: Seen) -> None:
    """It is placed mark by mark, and is the same as if it had been converted at once."""
    convert = converter(seen.audio, MULAW_8K)
    assert convert is not None
    whole = MULAW_8K.decode(convert.push(bytes(seen.phone.runs[1][1])))
    assert whole.tobytes() in np.ascontiguousarray(seen.recorded[:, 1]).tobytes()


def band_db(samples: NDArray[np.int16], low_hz: float, high_hz: float) -> float:
    """Power in a band of 16 kHz audio, in dB of a unit of its own."""
    spectrum = np.abs(np.fft.rfft(samples.astype(float))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / 16_000)
    return float(10 * np.log10(spectrum[(hz >= low_hz) & (hz < high_hz)].sum() / len(samples)))


def test_wideband_line_hears_above_4_khz(calls: Mapping[str, Seen]) -> None:
    source, heard = samples_of("saturday", 16_000), calls["pcm16@16k"].heard(1)
    for low_hz, high_hz in ((300, 3_400), (4_000, 5_500), (5_500, 6_700)):
        assert band_db(heard, low_hz, high_hz) == pytest.approx(band_db(source, low_hz, high_hz), abs=1.0)
    narrow = resample(resample(source, 16_000, 8_000), 8_000, 16_000)  # what a narrow path would leave
    assert band_db(narrow, 4_000, 6_700) < band_db(heard, 4_000, 6_700) - 20


def test_wideband_caller_reaches_the_model_unchanged(calls: Mapping[str, Seen]) -> None:
    seen = calls["pcm16@16k"]
    assert bytes(seen.session.audio) in seen.phone.said
    assert len(seen.session.audio) > 0.95 * len(seen.phone.said)


async def test_equal_formats_are_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A-law at both ends: the model gets the caller's codes, and the phone the model's, each once: an "uh-huh" pauses
    the agent, and where it plays on 5 ms are faded in.
    """
    numbers, agents = numbered_agents({"desk": "greeting: {text: Greet.}"})
    greeting = ALAW_8K.encode(samples_of("saturday", 8_000))
    formats = LineFormats(gives=ALAW_8K, takes=ALAW_8K)
    monkeypatch.setattr(site, "Twilio", partial(RtpCarrier, formats=formats))
    async with serving_realtime([Answer("Saturday.", greeting)], ALAW_8K) as (service, model_url):
        monkeypatch.setattr(app, "model_for", lambda provider, environ: RealtimeModel(model_url))
        async with serving(agents, {"OFFHOOK_INSECURE": "1"}) as (_, url), asyncio.timeout(60):
            phone = RtpPhone(url, numbers["desk"], formats, running_clock())
            calling = asyncio.create_task(phone.call())
            phone.speech += ALAW_8K.encode(samples_of("uh_huh", 8_000))
            while phone.heard_s < len(greeting) / 8_000:
                await asyncio.sleep(FRAME_S)
            phone.hang_up()
            await calling
    paused = len(phone.runs[0][1])
    heard = b"".join(codes for _, codes in phone.runs)[: len(greeting)]
    assert len(phone.runs) == 2
    assert heard[:paused] + heard[paused + 40 :] == greeting[:paused] + greeting[paused + 40 :]
    assert service.heard in phone.said
    assert len(service.heard) > 0.95 * len(phone.said)
