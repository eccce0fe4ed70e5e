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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.outbox import Outbox
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, WaitForAgent
from offhook.gateway.rehearsal.phone.truth import CallTruth, MarkReceived
from offhook.gateway.rehearsal.phone.voice import audible_span
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.media.wav import read_wav, write_wav
from tests.rig.model import id_after
from tests.rig.sounds import sound

__all__ = ["AGENT", "Lived", "Truth", "place", "script_for"]

AGENT = """
name: truth
instructions: 'call {{call_sid}}.'
turn_detection: {end_silence_ms: 200}
barge_in: {mode: stop, min_speech_ms: 60}
"""
FRAME_S = 0.020
FRAME_AT_MODEL = 640  # bytes: 20 ms of PCM16 at 16 kHz
LEADS_MS = (0, 0, 0, 20, 40, 60, 100, 160, 260, 420)  # silence before a reply's first sound
JITTER_MS = 90.0


class WatchedOutbox(Outbox):
    """An outbox that also notes when each frame left."""

    def __init__(self, carrier: Carrier, clock: Clock) -> None:
        super().__init__(carrier, clock)
        self.sent_s: dict[int, float] = {}  # media timestamp -> when the frame was sent

    def _queue_frame(self, stream_sid: str, chunk: int, at_ms: int, text: str) -> None:
        self.sent_s[at_ms] = self._clock()
        super()._queue_frame(stream_sid, chunk, at_ms, text)


class Watched(SimulatedCall):
    """A simulated call with that outbox, and whose echoes of a clear come late by a plan."""

    def __init__(self, *arguments: Any, seed: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._outbox = outbox = WatchedOutbox(self._carrier, self._clock)
        self.sent_s = outbox.sent_s
        self._plan = random.Random(seed)
        self._echoed_until_s = 0.0

    def _echo(self, mark: MarkReceived, why: str) -> None:
        now_s = self._clock()
        late_s = min(0.02 * self._plan.paretovariate(1.3), 1.5) if why == "empty" else 0.0
        self._echoed_until_s = max(self._echoed_until_s, now_s + late_s)  # in order
        if self._echoed_until_s <= now_s:
            super()._echo(mark, why)
        else:
            asyncio.get_running_loop().call_later(self._echoed_until_s - now_s, super()._echo, mark, why)

    def at_ms(self, place: int) -> int:
        """The media timestamp of the frame that holds this place of the caller's channel."""
        return ((place - 1) // 160 - self._stream_tick) * 20 + self._carrier.start_offset_ms


@dataclass(frozen=True)
class Lived:
    """One call that was placed."""

    call: Watched
    truth: CallTruth
    session: SessionRecord | None


class Truth:
    """What every sample of a segment was, by segment: `(least, most)` in seconds.

    Both ends of a segment lie inside the gateway, where nobody else can look. But a frame that the carrier sent has
    come to the gateway before the model has it from there, and the model's audio before the carrier has it; an echo
    takes as long as the frames beside it. So each end is known between two times, on a quiet machine a millisecond
    or two apart.
    """

    def __init__(self) -> None:
        self.samples: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, least_s: float, most_s: float) -> None:
        self.samples.setdefault(name, []).append((least_s, most_s))

    def least(self, name: str) -> list[float]:
        return [least for least, _ in self.samples[name]]

    def most(self, name: str) -> list[float]:
        return [most for _, most in self.samples[name]]

    def add_call(self, lived: Lived) -> None:
        """What each headline segment was in this call."""
        call, truth, session = lived.call, lived.truth, lived.session
        assert session is not None
        frames = [_Frame(at_ms, sent_s) for at_ms, sent_s in call.sent_s.items()]
        ends = [end for _, end in session.audio_arrivals]
        for number, frame in enumerate(frames, 1):
            index = bisect.bisect_left(ends, number * FRAME_AT_MODEL)
            if index < len(ends):
                frame.came_s = session.audio_arrivals[index][0]
        sent = [frame.sent_s for frame in frames]

        def through_s(at_s: float) -> float:
            """By when the gateway had what the carrier sent at this time, as the frames around it tell."""
            behind = bisect.bisect_right(sent, at_s)
            return at_s + max((f.came_s - f.sent_s for f in frames[max(0, behind - 1) : behind + 1]), default=0.0)

        media = truth.media
        spoken = [s for s in truth.spoken if s.kind == "say"]
        for reply in session.replies:
            first_s = reply.first_audio_at_s
            before = [s for s in spoken if first_s is not None and s.end_s < first_s]
            begun = next((m for m in media if first_s is not None and m.at_s >= first_s), None)
            if first_s is None or not before or begun is None:
                continue
            # The utterance ends with a frame: its last one is the last with speech.
            last = next((frame for frame in frames if frame.at_ms == call.at_ms(before[-1].end_place)), None)
            audible = next((p for p in _onsets(truth) if p >= begun.position), None)
            if last is None or audible is None:
                continue
            self.add("model_first_audio", first_s - last.came_s, begun.at_s - last.sent_s)
            onset = next(m for m in media if m.position + m.samples > audible)
            lead_s = (audible - begun.position) / 8000  # the model speaks in real time
            self.add("output_onset_sent", max(0.0, first_s + lead_s - begun.at_s), onset.at_s - first_s)
            mark = next((m for m in truth.marks if m.name[0] == "r" and m.position > audible and m.echoed), None)
            if mark is not None and mark.echoed == "played" and mark.echoed_s is not None:
                for name in ("output_onset_played", "turn_gap"):
                    most_s = through_s(mark.echoed_s) - FRAME_S - last.sent_s
                    self.add(name, mark.echoed_s - FRAME_S - last.came_s, most_s)
        over = [s for s in truth.spoken if s.over_agent]
        for clear in truth.clears:
            answer = next((m for m in truth.marks if m.name[0] != "r" and m.at_s >= clear.at_s), None)
            if answer is not None and answer.echoed_s is not None:
                # The frame that decided it went on to the model as the clear came back.
                deciding = min(frames, key=lambda frame: abs(frame.came_s - clear.at_s))
                most_s = through_s(answer.echoed_s) - deciding.sent_s
                self.add("bargein_stop", answer.echoed_s - clear.at_s, most_s)
                cutting = next((s for s in reversed(over) if s.onset_s < clear.at_s), None)
                at_ms = None if cutting is None else call.at_ms(cutting.onset_place + 1)
                first = next((frame for frame in frames if frame.at_ms == at_ms), None)
                # An onset is dated to the beginning of its frame, or of the next two where a voice begins softly.
                if first is not None:
                    most_s = through_s(answer.echoed_s) - first.sent_s + FRAME_S
                    self.add("bargein_silence", answer.echoed_s - first.came_s - FRAME_S, most_s)
        for least_s, most_s in zip(_worst(frames, "sent_s"), _worst(frames, "came_s"), strict=False):
            self.add("uplink_relative_delay", least_s, most_s)


@dataclass(slots=True)
class _Frame:
    at_ms: int
    sent_s: float
    came_s: float = float("inf")  # to the model


def _worst(frames: list[_Frame], which: str) -> list[float]:
    """The worst delay of each second, less the least one of the call so far."""
    floor_s = float("inf")
    worst: dict[int, float] = {}
    for frame in frames:
        at_s = getattr(frame, which)
        if at_s == float("inf"):
            continue
        offset_s = at_s - frame.at_ms / 1000
        floor_s = min(floor_s, offset_s)
        worst[int(at_s)] = max(worst.get(int(at_s), 0.0), offset_s - floor_s)
    return list(worst.values())


def _onsets(truth: CallTruth) -> list[int]:
    """Positions, by the order of sending, at which the ear heard something after a silence."""
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
    samples, rate_hz = read_wav(sound("caller_oh_sorry"))
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
        tone = 3_500 * sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 20))
        lead = np.zeros(round(lead_ms * 24))
        write_wav(path, np.round(np.concatenate([lead, tone])).astype(np.int16), 24_000)
    return path


def script_for(folder: Path, seed: int, turns: int) -> Script:
    """A model whose every answer takes a while of its own: most a short one, a few a very long one."""
    plan = random.Random(seed)
    replies = []
    for _ in range(turns + 1):
        answer = buzz(folder, plan.choice(LEADS_MS))
        delay_ms = min(250 * plan.paretovariate(1.8), 2_500)
        replies.append(
            Reply("caller", (Speak("Yes.", answer, delay_ms=delay_ms, chunk_ms=(20,), speed=1.0, transcript="none"),))
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
    """Place `calls` at once, each of `turns` interruptions; `scripts` is where the model looks for a
    call's script."""
    line = str(words(folder))
    for lead_ms in LEADS_MS:  # made before the calls, not in them
        buzz(folder, lead_ms)
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
    sessions = {sid_of(session.setup): session for session in model.sessions if session.setup}
    return [Lived(call, call.truth, sessions.get(call.call_sid)) for call in done]


def sid_of(setup: dict[str, Any]) -> str:
    """The call a session belongs to, by its instructions."""
    return id_after("call", setup)
