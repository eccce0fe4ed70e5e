"""Simulated calls with known, heavy-tailed delays through a gateway, and what each segment truly was in them.

Everything true here is read by the simulated carrier and the rehearsal model, on the monotonic clock that every
process of a machine shares; nothing is asked of the gateway. Delays are scripted, but a busy machine shifts them:
what is compared is what was measured on both sides, never the script.
"""

from __future__ import annotations

import asyncio
import bisect
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.rehearsal.caller import Carrier, SimulatedCall
from gateway.rehearsal.caller_steps import HangUp, Pause, Say, SayOver, WaitForAgent
from gateway.rehearsal.caller_truth import CallTruth, MarkReceived, StreamTruth
from gateway.rehearsal.model_record import SessionRecord
from gateway.rehearsal.model_script import Reply, Script
from gateway.rehearsal.model_script import Say as Speak
from gateway.rehearsal.model_server import ModelServer
from gateway.rehearsal.voice import SOUNDS, audible_span
from media.wav import read_wav, write_wav

__all__ = ["AGENT", "Lived", "Truth", "place", "script_for"]

AGENT = """
name: truth
instructions: 'call {{call_sid}}.'
turn_detection: {end_silence_ms: 200}
barge_in: {mode: stop, min_speech_ms: 60}
"""
FRAME_S = 0.020
LEADS_MS = (0, 0, 0, 20, 40, 60, 100, 160, 260, 420)  # silence before a reply's first sound
JITTER_MS = 90.0


class Watched(SimulatedCall):
    """A simulated call that also notes when each frame left, and whose echoes of a clear come late by a plan."""

    def __init__(self, *arguments: Any, seed: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.left_s: dict[int, float] = {}  # media timestamp -> when it was sent
        self._plan = random.Random(seed)
        self._echoed_until_s = 0.0

    def _put_frame(self, stream: StreamTruth, chunk: int, at_ms: int, text: str) -> None:
        super()._put_frame(stream, chunk, at_ms, text)
        self.left_s[at_ms] = asyncio.get_running_loop().time()

    def _echo(self, mark: MarkReceived, why: str) -> None:
        loop = asyncio.get_running_loop()
        late_s = min(0.02 * self._plan.paretovariate(1.3), 1.5) if why == "empty" else 0.0
        self._echoed_until_s = max(self._echoed_until_s, loop.time() + late_s)  # in order
        if self._echoed_until_s <= loop.time():
            super()._echo(mark, why)
        else:
            loop.call_at(self._echoed_until_s, super()._echo, mark, why)

    def place_s(self, place: int) -> float | None:
        """When the frame that holds this place of the caller's channel left."""
        at_ms = ((place - 1) // 160 - self._stream_tick) * 20 + self._carrier.start_offset_ms
        return self.left_s.get(at_ms)


@dataclass(frozen=True)
class Lived:
    """One call that was placed."""

    call: Watched
    truth: CallTruth
    session: SessionRecord | None


@dataclass
class Truth:
    """Seconds of every sample, by segment."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.samples.setdefault(name, []).append(seconds)

    def add_call(self, lived: Lived) -> None:
        """What each headline segment was in this call."""
        call, truth, session = lived.call, lived.truth, lived.session
        assert session is not None
        media = truth.media
        sent_at = [m.position + m.samples for m in media]
        marks = [m for m in truth.marks if m.name.startswith("r")]
        spoken = [s for s in truth.spoken if s.kind == "say"]
        replies = [r for r in session.replies if r.first_audio_at_s is not None]
        for reply in replies:
            first_audio_s = reply.first_audio_at_s
            assert first_audio_s is not None
            before = [s for s in spoken if s.end_s < first_audio_s]
            if not before:
                continue
            # The utterance ends with a frame: its last one is the last with speech.
            end_s = call.place_s(before[-1].end_place)
            begun = next((m for m in media if m.at_s >= first_audio_s), None)
            audible = next((p for p in self._audible(truth) if begun and p >= begun.position), None)
            if end_s is None or begun is None or audible is None:
                continue
            self.add("model_first_audio", first_audio_s - end_s)
            onset_s = media[bisect.bisect_right(sent_at, audible)].at_s
            self.add("output_onset_sent", onset_s - first_audio_s)
            mark = next((m for m in marks if m.position > audible and m.echoed == "played"), None)
            if mark is not None and mark.echoed_s is not None:
                self.add("output_onset_played", mark.echoed_s - FRAME_S - end_s)
                self.add("turn_gap", mark.echoed_s - FRAME_S - end_s)
        for clear in truth.clears:
            told = [s for s in call.left_s.values() if s <= clear.at_s]
            answer = next((m for m in truth.marks if not m.name.startswith("r") and m.at_s >= clear.at_s), None)
            if told and answer is not None and answer.echoed_s is not None:
                self.add("bargein_stop", answer.echoed_s - max(told))
        floor_s, worst = float("inf"), {}
        for at_ms, left_s in call.left_s.items():
            offset_s = left_s - at_ms / 1000
            floor_s = min(floor_s, offset_s)
            second = int(left_s)
            worst[second] = max(worst.get(second, 0.0), offset_s - floor_s)
        for seconds in worst.values():
            self.add("uplink_relative_delay", seconds)

    def _audible(self, truth: CallTruth) -> list[int]:
        """Positions, by the order of sending, at which the ear first heard something after a silence."""
        found = []
        for stretch in truth.agent:
            place = round((stretch.start_s - truth.began_s) * 8000)
            run = next((p for p in truth.played if p.place <= place < p.place + p.samples), None)
            if run is not None:
                found.append(run.position + place - run.place)
        return found


def words(folder: Path, least_ms: float = 450.0) -> Path:
    """A few spoken words with a hard end: their last frame is as loud as the others, so that where speech ends is
    beyond dispute."""
    (line,) = SOUNDS.glob("caller_oh_sorry*.wav")
    samples, rate_hz = read_wav(line)
    assert rate_hz == 8_000
    samples = samples[audible_span(samples, rate_hz)[0] :]
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).astype(np.float64)
    loud = np.sqrt((frames**2).mean(axis=1)) > 2_000
    last = next(i for i in range(round(least_ms / 20), len(loud)) if loud[i] and loud[i - 1])
    path = folder / "caller.wav"
    write_wav(path, samples[: (last + 1) * 160], rate_hz)
    return path


def buzz(folder: Path, lead_ms: float) -> Path:
    """What the agent says: a buzz of 3 s behind some silence."""
    path = folder / f"agent{lead_ms:g}.wav"
    if not path.is_file():
        t = np.arange(3 * 24_000) / 24_000
        sound = 3_500 * sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 20))
        lead = np.zeros(round(lead_ms * 24))
        write_wav(path, np.round(np.concatenate([lead, sound])).astype(np.int16), 24_000)
    return path


def script_for(folder: Path, seed: int, turns: int) -> Script:
    """A model whose every answer takes a while of its own: most a short one, a few a very long one."""
    plan = random.Random(seed)
    replies = []
    for _ in range(turns + 1):
        sound = buzz(folder, plan.choice(LEADS_MS))
        delay_ms = min(250 * plan.paretovariate(1.6), 2_500)
        replies.append(
            Reply("caller", (Speak("Yes.", sound, delay_ms=delay_ms, chunk_ms=(20,), speed=1.0, transcript="none"),))
        )
    return Script(tuple(replies))


async def place(
    url: str,
    model: ModelServer,
    scripts: dict[str, Script],
    folder: Path,
    *,
    calls: int,
    turns: int,
    named: dict[str, Any] | None = None,
    placed: Callable[[Watched], object] = lambda call: None,
) -> list[Lived]:
    """Place `calls` at once, each of `turns` interruptions; `scripts` is where the model looks for a call's script."""
    line = str(words(folder))
    steps = (
        Say(line),
        *(SayOver(line, 250) for _ in range(turns)),
        WaitForAgent("start"),
        Pause(700),
        HangUp(),
    )

    async def one(index: int) -> Watched:
        await asyncio.sleep(0.07 * index)
        sid = "CA" + secrets.token_hex(16)
        scripts[sid] = script_for(folder, index, turns)
        call = Watched(
            url,
            (Pause(600), *steps),
            call_sid=sid,
            seed=index,
            carrier=Carrier(jitter_ms=JITTER_MS, seed=index),
            **(named or {}),
        )
        placed(call)
        await call.run()
        return call

    done = await asyncio.gather(*(one(index) for index in range(calls)))
    sessions = {sid_of(session.setup): session for session in model.sessions}
    return [Lived(call, call.truth, sessions.get(call.call_sid)) for call in done]


def sid_of(setup: dict[str, Any]) -> str:
    """The call a session belongs to, by its instructions."""
    text: str = setup["systemInstruction"]["parts"][0]["text"]
    return text.partition("call ")[2].partition(".")[0]
