"""For the tests of converters: noise, ways to cut a stream, and how much of a frequency is in a signal."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

__all__ = ["NOISE", "SIZES", "amplitude", "cut"]

RNG = np.random.default_rng(20)
NOISE = RNG.integers(-32768, 32768, 30_000).astype(np.int16)  # full range: the clip is exercised too
SIZES = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 2500)), min_size=1, max_size=40).filter(any)


def cut(data: NDArray[np.int16] | bytes, sizes: list[int]) -> list[NDArray[np.int16] | bytes]:
    """Split into pieces of these sizes, over and over, until nothing is left."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        pieces.append(data[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    return pieces


def amplitude(samples: NDArray[np.int16], hz: float, rate_hz: int) -> float:
    n = np.arange(len(samples))
    window = np.hanning(len(samples))
    return float(2 * abs(np.sum(samples * window * np.exp(-2j * np.pi * hz * n / rate_hz))) / window.sum())
