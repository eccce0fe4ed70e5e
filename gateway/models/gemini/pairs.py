"""A quiet caller's audio, two frames to a message: half the messages, TLS records and system calls of a long silence.

Nothing that is heard waits for it. A frame above `QUIET_PEAK` is sent at once, with the quiet one before it, so an
onset arrives when it would have arrived alone. Pairs begin once the model has decided that the turn before is over, so
that this decision is not later either: when it answers, or after `QUIET_FRAMES`.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Deprecated in the standard library before 3.13; from there on audioop-lts provides it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["QUIET_FRAMES", "QUIET_PEAK", "Pairs"]

QUIET_PEAK = 328  # of int16, -40 dBFS: speech has peaks above -30, a quiet line below -50
QUIET_FRAMES = 100  # 2 s: turns end after 0.5 to 1 s of silence


class Pairs:
    """One link's. `push` returns what is to be sent now."""

    __slots__ = ("_held", "_quiet")

    def __init__(self) -> None:
        self._held = b""
        self._quiet = 0  # frames in a row

    def push(self, pcm: bytes) -> bytes:
        """A frame of PCM16: itself, two of them, or b"" while it is held."""
        self._quiet = self._quiet + 1 if audioop.max(pcm, 2) < QUIET_PEAK else 0
        if self._held:
            return self.take() + pcm
        if self._quiet > QUIET_FRAMES:
            self._held = pcm
            return b""
        return pcm

    def answered(self) -> None:
        """The model has begun a turn: it does not wait for the end of the caller's."""
        if self._quiet:
            self._quiet += QUIET_FRAMES

    def take(self) -> bytes:
        """The frame that is held, if any; it is not held any longer."""
        held, self._held = self._held, b""
        return held
