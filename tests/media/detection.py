"""Running detectors over signals whose truth is known; shared by the tests and the table maker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from offhook.media import mulaw
from offhook.media.vad import SpeechDetector, SpeechEdge
from tests.media import signals
from tests.media.signals import FRAME, RATE_HZ, Samples

__all__ = ["Onsets", "edges", "edges_together", "onsets", "starts"]

Noise = Callable[[float, float, int], Samples]  # seconds, dBov, seed


def edges(detector: SpeechDetector, mic: Samples, played: Samples | None = None) -> list[SpeechEdge]:
    """All edges of a line signal, through mu-law, frame by frame; `played` is the agent, as the caller hears it."""
    frames, levels = _frames(mic, played)
    pushed = (detector.push(frame, level) for frame, level in zip(frames, levels, strict=True))
    return [edge for edge in pushed if edge is not None]


def edges_together(
    make: Callable[[], SpeechDetector], lines: Sequence[tuple[Samples, Samples | None]]
) -> list[list[SpeechEdge]]:
    """`edges` of each line, all lines pushed together as those of many calls are: the edges are the same."""
    detectors = [make() for _ in lines]
    framed = [_frames(mic, played) for mic, played in lines]
    found: list[list[SpeechEdge]] = [[] for _ in lines]
    for k in range(max(len(levels) for _, levels in framed)):
        at = [line for line, (_, levels) in enumerate(framed) if k < len(levels)]
        pushed = detectors[0].push_all(
            [detectors[line] for line in at], [framed[line][0][k] for line in at], [framed[line][1][k] for line in at]
        )
        for line, edge in zip(at, pushed, strict=True):
            if isinstance(edge, Exception):
                raise edge
            if edge is not None:
                found[line].append(edge)
    return found


def _frames(mic: Samples, played: Samples | None) -> tuple[Samples, list[float]]:
    """The line's frames, a row each, and the agent's level in each."""
    heard = signals.line(mic)
    count = len(heard) // FRAME
    levels = np.full(count, mulaw.SILENCE_DBOV)
    if played is not None:
        known = mulaw.levels_dbov(mulaw.encode(played))[:count]
        levels[: len(known)] = known
    return heard[: count * FRAME].reshape(-1, FRAME), levels.tolist()


def starts(found: list[SpeechEdge], after_s: float = 0.0) -> int:
    """How often speech was said to begin."""
    return sum(edge.speaking and edge.decided_sample > after_s * RATE_HZ for edge in found)


@dataclass
class Onsets:
    """What came of many utterances, in ms."""

    utterances: int = 0
    missed: int = 0
    already_on: int = 0  # a false start before the truth: neither heard nor missed
    latency_ms: list[float] = field(default_factory=list)
    backdate_error_ms: list[float] = field(default_factory=list)
    end_error_ms: list[float] = field(default_factory=list)

    def latency(self, percent: float) -> float:
        return float(np.percentile(self.latency_ms, percent)) if self.latency_ms else float("nan")


def utterances(voices: Mapping[str, tuple[str, ...]], rates: tuple[int, ...]) -> Iterator[Samples]:
    for voice, phrases in voices.items():
        for phrase in phrases:
            for words_per_minute in rates:
                yield signals.speak(phrase, voice, -26.0, words_per_minute)


@lru_cache(maxsize=256)
def _uttered(clean: bytes, dbov: float) -> tuple[Samples, int, int]:
    """An utterance at this level, and where it begins and ends: asked for again in every noise."""
    speech = signals.to_level(np.frombuffer(clean, np.int16), RATE_HZ, dbov)
    return speech, signals.onset_sample(speech), signals.end_sample(speech)


def onsets(
    make: Callable[[], SpeechDetector],
    voices: Mapping[str, tuple[str, ...]] | Sequence[Samples],
    noise: Noise | None = None,
    snr_db: float = 0.0,
    played: Samples | None = None,
    echo_db: float | None = None,
    lead_s: float = 3.0,
    rates: tuple[int, ...] = (170,),
    dbov: float = -26.0,
    path: Callable[[Samples], Samples] | None = None,
) -> Onsets:
    """Utterances, recorded or spoken at each of the `rates`, each to a new detector, behind `lead_s` of noise (or of
    the agent's talk).

    `path`: how `played` comes back; instead of it `echo_db`, after 60 to 400 ms.
    Truth: the utterance's first and last 10 ms within 20 dB of its active level, before anything is added.
    Latency: from there to the end of the frame that decided, framing and a random phase against it included.
    """
    rng = np.random.default_rng(0)
    lines: list[tuple[Samples, Samples | None]] = []
    truths = []
    for number, clean in enumerate(utterances(voices, rates) if isinstance(voices, Mapping) else voices):
        speech, begins, ends = _uttered(clean.tobytes(), dbov)
        start = int((lead_s + rng.uniform(0, 0.02)) * RATE_HZ)
        mic = np.zeros(start + len(speech) + RATE_HZ, dtype=np.int16)
        mic[start : start + len(speech)] = speech
        if noise is not None:
            mic = signals.add(mic, noise(len(mic) / RATE_HZ, dbov - snr_db, number))
        talk = None
        if played is not None:
            talk = np.roll(played, int(rng.integers(len(played))))[: len(mic)]
            if path is not None:
                mic = signals.add(mic, path(talk))
            elif echo_db is not None:
                mic = signals.add(mic, signals.echo(talk, echo_db, float(rng.uniform(60, 400))))
        lines.append((mic, talk))
        truths.append((start + begins, start + ends))
    result = Onsets(utterances=len(lines))
    for (first, last), found in zip(truths, edges_together(make, lines), strict=True):
        before = [edge for edge in found if edge.decided_sample <= first]
        if before and before[-1].speaking:
            result.already_on += 1
            continue
        begun = [e for e in found if e.speaking and first < e.decided_sample <= last + RATE_HZ // 10]
        if not begun:
            result.missed += 1
            continue
        result.latency_ms.append((begun[0].decided_sample - first) * 1000 / RATE_HZ)
        result.backdate_error_ms.append((begun[0].sample - first) * 1000 / RATE_HZ)
        ended = [edge for edge in found if not edge.speaking and edge.decided_sample > last]
        if ended:
            result.end_error_ms.append((ended[-1].sample - last) * 1000 / RATE_HZ)
    return result
