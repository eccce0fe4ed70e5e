"""The audio formats a telephone line or a speech model takes and gives, and streaming conversion between them.

Mono throughout. PCM16 is signed and little-endian. A-law and mu-law exist at 8 kHz only (ITU-T G.711).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

from offhook.media import alaw, mulaw
from offhook.media.resample import DOWN_TAPS, PCM16_TABLE, TAP_SCALE, UP_TAPS, StreamingFir

__all__ = [
    "ALAW_8K",
    "MULAW_8K",
    "PCM16_8K",
    "PCM16_16K",
    "PCM16_24K",
    "AudioFormat",
    "Converter",
    "Encoding",
    "converter",
]

FRAMES_PER_S = 50  # 20 ms each, the unit every carrier we know sends


class Encoding(Enum):
    MULAW = "mulaw"
    ALAW = "alaw"
    PCM16 = "pcm16"


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One direction's encoding and sample rate. Raises ValueError for a combination that does not exist.

    `codes` stands for the encoded bytes of any format, whole samples unless said otherwise.
    """

    encoding: Encoding
    rate_hz: int

    def __post_init__(self) -> None:
        if self.encoding is not Encoding.PCM16 and self.rate_hz != mulaw.RATE_HZ:
            raise ValueError(f"{self.encoding.value} exists at 8000 Hz only, not at {self.rate_hz} Hz")
        if self.rate_hz < 1 or self.rate_hz % FRAMES_PER_S:
            raise ValueError(f"{self.rate_hz} Hz does not make whole frames of 20 ms")

    @property
    def bytes_per_sample(self) -> int:
        return 2 if self.encoding is Encoding.PCM16 else 1

    @property
    def frame_samples(self) -> int:
        """In 20 ms."""
        return self.rate_hz // FRAMES_PER_S

    @property
    def frame_bytes(self) -> int:
        """In 20 ms."""
        return self.frame_samples * self.bytes_per_sample

    @property
    def silence(self) -> bytes:
        """One sample of it. A-law has no zero: its silence is the constant 8 (-72 dBov)."""
        return _SILENCE[self.encoding]

    def decode(self, codes: bytes) -> NDArray[np.int16]:
        """As many samples, at this format's rate; the array may be read-only."""
        return _DECODERS[self.encoding](codes)

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """`samples` at this format's rate."""
        match self.encoding:
            case Encoding.MULAW:
                return mulaw.encode(samples)
            case Encoding.ALAW:
                return alaw.encode(samples)
            case Encoding.PCM16:
                return samples.astype("<i2", copy=False).tobytes()

    def levels_dbov(self, codes: bytes) -> NDArray[np.float32]:
        """RMS level of each 20 ms frame (a last partial frame counts) in dBov (ITU-T G.100.1); silence is -100."""
        if self.encoding is Encoding.MULAW:
            return mulaw.levels_dbov(codes)
        if self.encoding is Encoding.ALAW:
            energy = _ALAW_ENERGY.take(np.frombuffer(codes, dtype=np.uint8))
        else:
            energy = (self.decode(codes) / 32768.0) ** 2
        size = self.frame_samples
        whole = len(energy) - len(energy) % size
        means = energy[:whole].reshape(-1, size).mean(axis=1)
        if whole < len(energy):
            means = np.append(means, energy[whole:].mean())
        levels: NDArray[np.float32] = (10.0 * np.log10(np.maximum(means, 1e-10))).astype(np.float32)
        return levels


MULAW_8K = AudioFormat(Encoding.MULAW, 8000)
ALAW_8K = AudioFormat(Encoding.ALAW, 8000)
PCM16_8K = AudioFormat(Encoding.PCM16, 8000)
PCM16_16K = AudioFormat(Encoding.PCM16, 16000)
PCM16_24K = AudioFormat(Encoding.PCM16, 24000)

_SILENCE = {
    Encoding.MULAW: bytes([mulaw.SILENCE]),
    Encoding.ALAW: bytes([alaw.SILENCE]),
    Encoding.PCM16: b"\x00\x00",
}
_ALAW_ENERGY: NDArray[np.float64] = (alaw.decode(bytes(range(256))) / 32768.0) ** 2


def _decode_pcm16(codes: bytes) -> NDArray[np.int16]:
    return np.frombuffer(codes, dtype="<i2")


_DECODERS: dict[Encoding, Callable[[bytes], NDArray[np.int16]]] = {
    Encoding.MULAW: mulaw.decode,
    Encoding.ALAW: alaw.decode,
    Encoding.PCM16: _decode_pcm16,
}
_TABLES: dict[Encoding, NDArray[np.int16] | NDArray[np.uint8]] = {
    Encoding.MULAW: mulaw.ENCODE_TABLE,
    Encoding.ALAW: alaw.ENCODE_TABLE,
    Encoding.PCM16: PCM16_TABLE,
}


class Converter:
    """A stream of audio in one format, made into another. The bytes do not depend on how the input is cut.

    Between two equal formats it only joins samples that were cut.
    """

    __slots__ = ("_decode", "_encode", "_fir", "_odd", "_wide")

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self._wide = source.bytes_per_sample > 1
        self._decode, self._encode = _DECODERS[source.encoding], target.encode
        self._fir: StreamingFir | None = None
        if source.rate_hz != target.rate_hz:
            shared = gcd(source.rate_hz, target.rate_hz)
            up, down = target.rate_hz // shared, source.rate_hz // shared
            self._fir = StreamingFir(_taps(source.rate_hz, target.rate_hz), up, down, _TABLES[target.encoding])
        self._odd = b""

    def push(self, codes: bytes) -> bytes:
        """What is complete now. An odd last byte of PCM16 and an incomplete group of samples wait."""
        if self._wide:
            if self._odd:
                codes = self._odd + codes
            if len(codes) & 1:
                self._odd, codes = codes[-1:], codes[:-1]
            else:
                self._odd = b""
        samples = self._decode(codes)
        return self._fir.push(samples) if self._fir is not None else self._encode(samples)

    def flush(self) -> bytes:
        """The end of the stream: what the filter still owes (2 to 5 ms). Afterwards as new.

        A lone last byte of PCM16 is dropped.
        """
        self._odd = b""
        return self._fir.flush() if self._fir is not None else b""


def converter(source: AudioFormat, target: AudioFormat) -> Converter | None:
    """None where the formats are the same and there is nothing to do."""
    return None if source == target else Converter(source, target)


# Filters not designed by hand: edges at these shares of the lower rate's Nyquist frequency (those of UP_TAPS and
# DOWN_TAPS, 3400 and 4200 of 4000 Hz), aliases below -70 dB.
_PASS, _STOP = 0.85, 1.05
_ATTENUATION_DB = 70.0


@lru_cache(maxsize=16)
def _taps(from_hz: int, to_hz: int) -> tuple[int, ...]:
    """An odd, symmetric low pass at the rate `from_hz * up`, scaled for `StreamingFir`."""
    if (from_hz, to_hz) == (8000, 16000):
        return UP_TAPS
    if (from_hz, to_hz) == (24000, 8000):
        return DOWN_TAPS
    up = to_hz // gcd(from_hz, to_hz)
    if (from_hz, to_hz) == (8000, 24000):
        return tuple(up * tap for tap in DOWN_TAPS)  # the same filter; the zeros stuffed in take two thirds of it
    nyquist, rate = min(from_hz, to_hz) / 2, from_hz * up
    # Kaiser's formulas (Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5.3).
    half = ceil((_ATTENUATION_DB - 8) / (2.285 * 2 * np.pi * (_STOP - _PASS) * nyquist / rate) / 2)
    cutoff = (_PASS + _STOP) * nyquist / rate
    taps = np.sinc(cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, 0.1102 * (_ATTENUATION_DB - 8.7))
    whole = np.rint(taps * (up * TAP_SCALE / taps.sum())).astype(int)
    whole[half] += up * TAP_SCALE - whole.sum()  # a constant passes unchanged
    return tuple(whole.tolist())
