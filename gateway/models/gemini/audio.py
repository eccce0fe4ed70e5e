"""The caller's audio at the model's edge: the Live API takes PCM16 at 16 kHz (Google, Live API guide, "Audio formats").

The other direction is a `Converter` from `PCM16_24K`, the only format that the service sends.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offhook.media.formats import PCM16_16K, AudioFormat, converter
from offhook.media.resample import Up8To16

__all__ = ["CallerAudio", "Upsampling"]


class CallerAudio:
    """The line's audio for the model. A wideband line is not narrowed to 8 kHz on the way."""

    def __init__(self, line: AudioFormat) -> None:
        self._line = line
        self.reset()

    def push(self, codes: bytes, samples: NDArray[np.int16]) -> bytes:
        """The same audio in the line's format and as 8 kHz samples -> PCM16 at 16 kHz."""
        if self.up is not None:
            return self.up.push(samples)
        return self._converter.push(codes) if self._converter is not None else codes

    def reset(self) -> None:
        """The next audio does not follow on the last (a local turn begins)."""
        wideband = self._line.rate_hz > 8000
        self.up = None if wideband else Up8To16()
        self._converter = converter(self._line, PCM16_16K) if wideband else None


class Taker(Protocol):
    """Who takes converted audio: a link."""

    def send_audio(self, pcm: bytes, received_s: float) -> None: ...

    def audio_failed(self, error: Exception) -> None:
        """It could not be converted, or `send_audio` raised. Does not raise."""


class Upsampling:
    """8 to 16 kHz for all links of the process: what was submitted since the last flush is one matrix.

    Each taker gets its own in the order of submission.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Up8To16, NDArray[np.int16], Taker, float]] = []

    def submit(self, up: Up8To16, samples: NDArray[np.int16], taker: Taker, received_s: float) -> None:
        self._waiting.append((up, samples, taker, received_s))

    def flush(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        if len(waiting) > 1:
            try:
                converted = Up8To16.push_all([one[0] for one in waiting], [one[1] for one in waiting])
            except Exception:  # of one of them, before any has changed: each alone finds it
                pass
            else:
                for (_, _, taker, received_s), pcm in zip(waiting, converted, strict=True):
                    try:
                        taker.send_audio(pcm, received_s)
                    except Exception as error:  # must not reach the other links
                        taker.audio_failed(error)
                return
        for up, samples, taker, received_s in waiting:
            try:
                taker.send_audio(up.push(samples), received_s)
            except Exception as error:
                taker.audio_failed(error)
