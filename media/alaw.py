"""ITU-T G.711 A-law, exactly, for carriers outside the mu-law countries.

By the reference of ITU-T G.191 (`alaw_compress`/`alaw_expand`): 12-bit magnitude, one's complement for
negative values, even bits inverted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENCODE_TABLE", "SILENCE", "decode", "encode"]

SILENCE: int = 0xD5  # the smallest positive value; A-law has no zero

_TOGGLE = 0x55


def _decode_table() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.int64) ^ _TOGGLE
    segment, mantissa = (code >> 4) & 0x07, code & 0x0F
    # Half a step is added, so that each value sits in the middle of what encodes to it.
    magnitude = np.where(segment == 0, (mantissa << 4) + 8, ((mantissa << 4) + 264) << np.maximum(segment - 1, 0))
    values: NDArray[np.int16] = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return values


def _encode_table() -> NDArray[np.uint8]:
    """Code for every 16-bit value, index `value + 32768`."""
    values = np.arange(-32768, 32768, dtype=np.int64)
    magnitude = np.where(values < 0, ~values, values) >> 4
    segment = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int64) - 3, 0)
    mantissa = np.where(segment == 0, magnitude, magnitude >> np.maximum(segment - 1, 0)) & 0x0F
    code = (segment << 4) | mantissa | np.where(values >= 0, 0x80, 0)
    codes: NDArray[np.uint8] = (code ^ _TOGGLE).astype(np.uint8)
    return codes


_DECODE_TABLE: NDArray[np.int16] = _decode_table()
ENCODE_TABLE: NDArray[np.uint8] = _encode_table()
ENCODE_TABLE.setflags(write=False)


def decode(codes: bytes) -> NDArray[np.int16]:
    """A-law codes -> as many 16-bit samples at the same rate."""
    return _DECODE_TABLE.take(np.frombuffer(codes, dtype=np.uint8))


def encode(samples: NDArray[np.int16]) -> bytes:
    """16-bit samples -> as many A-law codes, by the G.191 rule."""
    return ENCODE_TABLE.take(samples.astype(np.intp) + 32768).tobytes()
