"""A soft waiting sound for a line that must not seem dead: PCM16 samples at 8 kHz.

`offhook.media.mulaw.encode` makes carrier audio of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offhook.media.mulaw import RATE_HZ

__all__ = ["thinking_sound"]


def _sine(count: int, hz: float, dbov: float) -> NDArray[np.float64]:
    peak = 32768.0 * np.sqrt(2.0) * 10.0 ** (dbov / 20.0)
    return np.asarray(peak * np.sin(2.0 * np.pi * hz / RATE_HZ * np.arange(count)))


def _soft_edges(x: NDArray[np.float64], ms: float) -> NDArray[np.float64]:
    """Raised-cosine rise and fall: without them every start is a click over the whole band."""
    count = min(int(ms * RATE_HZ / 1000), len(x) // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(count, 1))
    x[:count] *= rise
    x[len(x) - count :] *= rise[::-1]
    return x


def thinking_sound(seconds: float, dbov: float = -30.0) -> NDArray[np.int16]:
    """Soft plucked notes, slow and low. Loops without a seam at each 2.4 s.

    `dbov` is the level at which a note starts; it fades within 0.3 s.
    """
    x = np.zeros(round(seconds * RATE_HZ))
    count = int(0.35 * RATE_HZ)
    fade = np.exp(-np.arange(count) / (0.08 * RATE_HZ))
    notes = [
        _soft_edges((_sine(count, hz, dbov) + _sine(count, 2 * hz, dbov - 14.0)) * fade, 8.0)
        for hz in (392.0, 523.25, 440.0, 587.33)
    ]
    step = int(0.6 * RATE_HZ)
    for index, start in enumerate(range(0, len(x), step)):
        note = notes[index % len(notes)]
        x[start : start + count] += note[: len(x) - start]
    return np.rint(x).astype(np.int16)
