"""Whole carrier frames out of chunks of any length."""

from __future__ import annotations

from offhook.media.mulaw import FRAME_BYTES, SILENCE

__all__ = ["Framer"]


class Framer:
    """Cuts a stream of encoded audio into whole frames.

    Inside a reply the remainder waits for the next chunk: padding there would be a gap in a word.
    Only `flush`, at the end of a reply, pads (with `silence`, one sample of it: 0xFF in mu-law).
    """

    def __init__(self, frame_bytes: int = FRAME_BYTES, silence: bytes = bytes([SILENCE])) -> None:
        if frame_bytes < 1:
            raise ValueError(f"frame_bytes must be at least 1, not {frame_bytes}")
        self._frame_bytes, self._silence = frame_bytes, silence
        self._rest = b""

    @property
    def pending_bytes(self) -> int:
        """Bytes waiting for the rest of their frame: less than a frame."""
        return len(self._rest)

    def push(self, codes: bytes) -> bytes:
        """All whole frames now complete, in one string; the remainder is kept."""
        if self._rest:
            codes = self._rest + codes
        whole = len(codes) - len(codes) % self._frame_bytes
        self._rest = codes[whole:]
        return codes[:whole]

    def flush(self) -> bytes:
        """The remainder padded with silence to one whole frame, or b"" when there is none."""
        rest, self._rest = self._rest, b""
        if not rest:
            return b""
        return rest + self._silence * ((self._frame_bytes - len(rest)) // len(self._silence))
