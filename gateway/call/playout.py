"""A call's outgoing audio: each reply's mu-law frames by sample position, kept until heard or dropped.

The conversation machine decides what is played; this holds the bytes it decides about.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offhook.media import mulaw
from offhook.media.framing import Framer

__all__ = ["AUDIBLE_DBOV", "FRAME", "Playout", "fade_in"]

FRAME = 160  # samples and bytes of 20 ms
AUDIBLE_DBOV = -50.0  # a frame above this is voice: speech stands around -26, a quiet line around -65
FADE_SAMPLES = 40  # 5 ms: long enough not to click, too short to swallow a consonant
NOTHING_DBOV = -100.0


class _Reply:
    """One reply's frames and their levels."""

    __slots__ = ("audible_told", "codes", "framer", "levels")

    def __init__(self) -> None:
        self.codes = bytearray()
        self.levels: list[float] = []
        self.framer = Framer(FRAME)
        self.audible_told = False


class Playout:
    """Replies by generation. Positions are 8 kHz samples from a reply's beginning."""

    def __init__(self) -> None:
        self._replies: dict[int, _Reply] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def push_codes(self, generation: int, codes: bytes) -> tuple[int, int | None]:
        """Ready mu-law of any length.

        Returns how many samples became ready (whole frames), and, once per reply, the sample before which its
        first audible frame stands.
        """
        reply = self._open(generation)
        return self._append(reply, reply.framer.push(codes))

    def finish(self, generation: int) -> tuple[int, int | None]:
        """No more of this reply will come: the last frame, padded with silence."""
        reply = self._replies.get(generation)
        if reply is None:
            return 0, None
        return self._append(reply, reply.framer.flush())

    def span(self, generation: int, start: int, end: int) -> bytes:
        """The frames `[start, end)`; empty when the reply is gone."""
        reply = self._replies.get(generation)
        return bytes(reply.codes[start:end]) if reply else b""

    def level_dbov(self, generation: int, sample: int) -> float:
        """Level of the frame at `sample`, as the caller hears it; -100 where there is nothing."""
        reply = self._replies.get(generation)
        index = sample // FRAME
        return reply.levels[index] if reply and index < len(reply.levels) else NOTHING_DBOV

    def drop(self, generation: int) -> None:
        """The reply is dead, or heard to its end. Harmless when said twice."""
        self._replies.pop(generation, None)

    def _open(self, generation: int) -> _Reply:
        reply = self._replies.get(generation)
        if reply is None:
            reply = self._replies[generation] = _Reply()
        return reply

    def _append(self, reply: _Reply, frames: bytes) -> tuple[int, int | None]:
        if not frames:
            return 0, None
        before = len(reply.levels)
        levels = mulaw.levels_dbov(frames).tolist()
        reply.codes += frames
        reply.levels += levels
        if reply.audible_told:
            return len(frames), None
        for index, level in enumerate(levels):
            if level > AUDIBLE_DBOV:
                reply.audible_told = True
                return len(frames), (before + index + 1) * FRAME
        return len(frames), None


_RAMP: NDArray[np.float64] = np.arange(1, FADE_SAMPLES + 1) / (FADE_SAMPLES + 1)


def fade_in(codes: bytes) -> bytes:
    """The same audio, its first 5 ms rising from silence."""
    head = mulaw.decode(codes[:FADE_SAMPLES])
    faded = np.rint(head * _RAMP[: len(head)]).astype(np.int16)
    return mulaw.encode(faded) + codes[FADE_SAMPLES:]
