"""The caller's audio at the model's edge: the Live API takes PCM16 at 16 kHz (Google, Live API guide, "Audio formats").

The other direction is a `Converter` from `PCM16_24K`, the only format that the service sends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offhook.media.formats import PCM16_16K, AudioFormat, converter
from offhook.media.resample import Up8To16

__all__ = ["CallerAudio"]


class CallerAudio:
    """The line's audio for the model. A wideband line is not narrowed to 8 kHz on the way."""

    def __init__(self, line: AudioFormat) -> None:
        self._line = line
        self.reset()

    def push(self, codes: bytes, samples: NDArray[np.int16]) -> bytes:
        """The same audio in the line's format and as 8 kHz samples -> PCM16 at 16 kHz."""
        if self._up is not None:
            return self._up.push(samples)
        return self._converter.push(codes) if self._converter is not None else codes

    def reset(self) -> None:
        """The next audio does not follow on the last (a local turn begins)."""
        wideband = self._line.rate_hz > 8000
        self._up = None if wideband else Up8To16()
        self._converter = converter(self._line, PCM16_16K) if wideband else None
