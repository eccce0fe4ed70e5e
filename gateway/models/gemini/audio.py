"""Audio at the model's edge: the line's formats on one side, the Live API's PCM16 (16 kHz in, 24 kHz out) on the other.

Sources: Google, Live API guide, "Audio formats".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offhook.media.formats import PCM16_16K, PCM16_24K, AudioFormat, converter
from offhook.media.resample import Up8To16

__all__ = ["AgentAudio", "CallerAudio"]


class CallerAudio:
    """The caller's audio for the model: PCM16 at 16 kHz. A wideband line is not narrowed to 8 kHz on the way."""

    def __init__(self, line: AudioFormat) -> None:
        self._line = line
        self.reset()

    def push(self, codes: bytes, samples: NDArray[np.int16]) -> bytes:
        """The same audio in the line's format and at 8 kHz -> what is to be sent."""
        if self._up is not None:
            return self._up.push(samples)
        return self._converter.push(codes) if self._converter is not None else codes

    def reset(self) -> None:
        """What comes next does not follow on what came before (a local turn begins)."""
        wideband = self._line.rate_hz > 8000
        self._up = None if wideband else Up8To16()
        self._converter = converter(self._line, PCM16_16K) if wideband else None


class AgentAudio:
    """The model's audio for the line. A chunk may be cut anywhere, even inside a sample."""

    def __init__(self, line: AudioFormat) -> None:
        self._line = line
        self._converter = converter(PCM16_24K, line)
        self._odd = b""  # without a converter, which has its own

    def push(self, pcm: bytes) -> bytes:
        """PCM16 at 24 kHz, any length -> whole samples in the line's format, possibly none."""
        if self._converter is not None:
            return self._converter.push(pcm)
        pcm = self._odd + pcm
        whole = len(pcm) & ~1
        self._odd = pcm[whole:]
        return pcm[:whole]

    def flush(self) -> bytes:
        """The end of a reply: what the filter still owes. Afterwards as new."""
        self._odd = b""
        return self._converter.flush() if self._converter is not None else b""

    def drop(self) -> None:
        """The reply ends here without its tail (an interruption, a lost connection)."""
        self.flush()
