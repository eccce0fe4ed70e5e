"""ITU-T G.711 mu-law, exactly: every code and every 16-bit value by the published rule.

The rule followed is the reference `ulaw_compress`/`ulaw_expand` of ITU-T G.191 (the software that
accompanies G.711): 14-bit magnitude, one's complement for negative values, bias 33, eight segments.
Python's `audioop` takes the two's complement instead and so encodes 508 negative values one step
lower; -1 becomes -8 there, which is an audible hiss where a line should be silent. Decoding has no
such freedom, so `audioop` (in C) does it.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    # Deprecated in the standard library before 3.13; from there on audioop-lts provides it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = [
    "ENCODE_TABLE",
    "FRAME_BYTES",
    "RATE_HZ",
    "SILENCE",
    "SILENCE_DBOV",
    "decode",
    "encode",
    "levels_dbov",
]

RATE_HZ = 8000
FRAME_BYTES = 160  # 20 ms, the unit every carrier we know sends
SILENCE: int = 0xFF  # positive zero; 0x00 is the loudest negative value: a click
SILENCE_DBOV = -100.0  # stands for digital silence in every level this package reports

_BIAS = 33
_CLIP = 0x1FFF


def _encode_table() -> NDArray[np.uint8]:
    """Code for every 16-bit value, index `value + 32768`."""
    values = np.arange(-32768, 32768, dtype=np.int64)
    magnitude = np.minimum((np.where(values < 0, ~values, values) >> 2) + _BIAS, _CLIP)
    # The segment is the position of the leading one above bit 5: 33..63 -> 1, 64..127 -> 2, ...
    segment = np.floor(np.log2(magnitude)).astype(np.int64) - 4
    mantissa = (magnitude >> segment) & 0x0F
    code = ((8 - segment) << 4) | (0x0F - mantissa)
    codes: NDArray[np.uint8] = np.where(values >= 0, code | 0x80, code).astype(np.uint8)
    return codes


ENCODE_TABLE: NDArray[np.uint8] = _encode_table()
ENCODE_TABLE.setflags(write=False)

_LINEAR: NDArray[np.int16] = np.frombuffer(audioop.ulaw2lin(bytes(range(256)), 2), dtype=np.int16)
_ENERGY: NDArray[np.float64] = (_LINEAR.astype(np.float64) / 32768.0) ** 2
_MEAN = np.full(FRAME_BYTES, 1.0 / FRAME_BYTES)


def decode(codes: bytes) -> NDArray[np.int16]:
    """Mu-law codes -> as many 16-bit samples at the same rate. The array is read-only."""
    return np.frombuffer(audioop.ulaw2lin(codes, 2), dtype=np.int16)


def encode(samples: NDArray[np.int16]) -> bytes:
    """16-bit samples -> as many mu-law codes, by the G.191 rule."""
    return ENCODE_TABLE.take(samples.astype(np.intp) + 32768).tobytes()


def levels_dbov(codes: bytes) -> NDArray[np.float32]:
    """RMS level of each 20 ms frame (160 codes; a last partial frame counts) in dBov.

    0 dBov is a full-scale square wave (ITU-T G.100.1), so a full-scale sine is -3. Silence is -100.
    """
    energy = _ENERGY.take(np.frombuffer(codes, dtype=np.uint8))
    whole, rest = divmod(len(energy), FRAME_BYTES)
    means = energy[: whole * FRAME_BYTES].reshape(whole, FRAME_BYTES).dot(_MEAN)
    if rest:
        means = np.append(means, energy[-rest:].mean())
    levels: NDArray[np.float32] = (10.0 * np.log10(np.maximum(means, 1e-10))).astype(np.float32)
    return levels
