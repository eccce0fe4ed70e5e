"""Lengths of audio and of waits that the conversation and the call around it share, each defined once."""

from __future__ import annotations

from typing import Final

__all__ = ["FRAME", "MARK_EVERY", "PLAYOUT_GRACE_S", "RATE_HZ"]

RATE_HZ: Final = 8_000  # samples a second of a telephone line; `Policy.rate_hz` where a line has another rate
FRAME: Final = 160  # samples at RATE_HZ, 20 ms: far ends play whole frames
MARK_EVERY: Final = 2_400  # samples at RATE_HZ, 300 ms: one mark is always outstanding, and the cost is nothing
PLAYOUT_GRACE_S: Final = 2.0  # a mark that is later than this by the clock is not expected any more
