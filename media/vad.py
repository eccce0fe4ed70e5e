"""Is the caller speaking? Speech edges out of 20 ms frames, while the agent may be playing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from media.mulaw import FRAME_BYTES, RATE_HZ, SILENCE_DBOV

__all__ = ["EnergyDetector", "SpeechDetector", "SpeechEdge"]

FRAME_MS = 1000 * FRAME_BYTES // RATE_HZ


@dataclass(frozen=True, slots=True)
class SpeechEdge:
    """The caller began (`speaking`) or ceased to speak.

    `sample`: where it happened, back-dated, in 8 kHz samples since the detector was made.
    `decided_sample`: how many samples the detector had been given when it made up its mind.
    """

    speaking: bool
    sample: int
    decided_sample: int


class SpeechDetector(Protocol):
    """What the call needs of a detector."""

    @property
    def speaking(self) -> bool:
        """The last edge's word."""
        ...

    def push(self, samples: NDArray[np.int16], played_dbov: float) -> SpeechEdge | None:
        """One frame (160 samples at 8 kHz) and the level of what the caller is presumably hearing now
        (-100.0 when nothing plays) -> an edge, when there is one."""
        ...


class EnergyDetector:
    """First edition: level over a tracked floor and over the agent's presumable echo."""

    def __init__(self, min_speech_ms: int = 60, hangover_ms: int = 400) -> None:
        self._need = max(1, round(min_speech_ms / FRAME_MS))
        self._hang = max(1, round(hangover_ms / FRAME_MS))
        self.speaking = False
        self._frames = 0
        self._floor = -60.0
        self._played: deque[float] = deque([SILENCE_DBOV] * 40, maxlen=40)
        self._loud: deque[bool] = deque([False] * (self._need + 1), maxlen=self._need + 1)
        self._last_speech = 0

    def push(self, samples: NDArray[np.int16], played_dbov: float) -> SpeechEdge | None:
        x = samples.astype(np.float32)
        level = 10.0 * float(np.log10(np.dot(x, x) / (len(samples) * 32768.0**2) + 1e-10))
        self._frames += 1
        now = self._frames * FRAME_BYTES
        self._played.append(played_dbov)
        if level < self._floor:
            self._floor = max(-75.0, 0.7 * self._floor + 0.3 * level)
        elif not self.speaking:
            self._floor += min(0.05, 0.02 * (level - self._floor))
        loud = level > max(self._floor + 9.0, max(self._played) - 20.0 + 8.0, -55.0)
        self._loud.append(loud)
        if loud:
            self._last_speech = now
        if not self.speaking:
            if sum(self._loud) >= self._need:
                self.speaking = True
                first = len(self._loud) - list(self._loud).index(True)
                return SpeechEdge(True, now - first * FRAME_BYTES, now)
        elif now - self._last_speech >= self._hang * FRAME_BYTES:
            self.speaking = False
            return SpeechEdge(False, self._last_speech, now)
        return None
