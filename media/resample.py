"""Streaming sample-rate conversion: nothing held back, the same samples however the input is cut.

Each converter is a linear-phase FIR with integer coefficients (scale 2^16) applied in float64. Every
product and every partial sum is then a whole number of 2^-16 steps far below 2^53, so it is exact, and
neither chunk length nor the BLAS behind numpy can change a bit of the result.

The filter runs as one matrix product per push: the input, cut into short overlapping windows, times a
constant banded (Toeplitz) matrix. That is several times faster than `np.convolve` at 20 ms chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from media.mulaw import ENCODE_TABLE

__all__ = ["DOWN_TAPS", "TAP_SCALE", "UP_TAPS", "Down24To8", "StreamingFir", "Up8To16", "resample"]

TAP_SCALE = 65536

# Equiripple, pass 3400 Hz, stop 4200 Hz, 81 taps at 16 kHz: ripple 0.009 dB, images below -73 dB, 2.5 ms.
# Half of each (symmetric) filter, ending with the middle tap.
_UP_HALF = (
    *(22, 41, -16, -56, 6, 94, 12, -139, -52, 190, 116, -240, -214, 283, 349, -305, -527, 293, 748, -229),
    *(-1012, 92, 1313, 144, -1643, -506, 1990, 1037, -2339, -1793, 2675, 2879, -2979, -4514, 3236, 7264),
    *(-3432, -13236, 3554, 41476, 61908),
)
# The same edges, 97 taps at 24 kHz: ripple 0.061 dB, aliases from 4200 Hz up below -66 dB, 2.0 ms.
_DOWN_HALF = (
    *(29, 37, 23, -22, -72, -82, -33, 46, 88, 41, -68, -147, -106, 44, 183, 170, -16, -230, -268, -53),
    *(257, 378, 153, -267, -510, -304, 238, 652, 509, -158, -800, -786, 0, 946, 1158, 272, -1082, -1675),
    *(-737, 1198, 2471, 1596, -1287, -4014, -3654, 1343, 9633, 17395, 20560),
)
UP_TAPS: tuple[int, ...] = _UP_HALF + _UP_HALF[-2::-1]
DOWN_TAPS: tuple[int, ...] = _DOWN_HALF + _DOWN_HALF[-2::-1]

_BLOCK_INPUTS = 20  # 8 to 20 outputs per matrix row is the flat optimum; 80 and more is 2 to 4 times slower
_CAPACITY_S = 0.25  # a model chunk is rarely longer; longer ones are taken in pieces


class StreamingFir:
    """A rate change by up/down through one FIR, on 16-bit input, history carried between pushes.

    `taps` are integers scaled by 2^16 at the rate `input rate * up`; their sum should be `up * 2^16` for unit
    gain. Output `j` is `sum(taps[k] * stuffed[j * down - k])`, `stuffed` being the input with `up - 1` zeros
    after each sample: causal, delayed by `(len(taps) - 1) / 2` stuffed samples. Outputs appear as soon as their
    group of `down` inputs is complete; an incomplete group waits.
    """

    def __init__(self, taps: Sequence[int], up: int, down: int, *, capacity: int = 6000) -> None:
        if up < 1 or down < 1 or not taps:
            raise ValueError("StreamingFir needs taps, up >= 1 and down >= 1")
        self._up, self._down = up, down
        self._groups_per_block = max(1, _BLOCK_INPUTS // max(up, down)) if down > 1 else _BLOCK_INPUTS
        block_inputs = self._groups_per_block * down
        block_outputs = self._groups_per_block * up
        self._history = (len(taps) - 1) // up
        self._tail_inputs = self._history
        window = self._history + block_inputs

        lag = np.arange(block_outputs)[None, :] * down - (np.arange(window)[:, None] - self._history) * up
        inside = (lag >= 0) & (lag < len(taps))
        scaled = np.asarray(taps, dtype=np.float64) / TAP_SCALE
        self._matrix = np.where(inside, scaled[np.clip(lag, 0, len(taps) - 1)], 0.0)

        blocks = -(-capacity // block_inputs) + 1
        self._capacity = (blocks - 1) * block_inputs
        self._buffer = np.zeros(window + (blocks - 1) * block_inputs)
        step = self._buffer.itemsize
        self._windows = as_strided(
            self._buffer, shape=(blocks, window), strides=(block_inputs * step, step), writeable=False
        )
        self._out = np.empty((blocks, block_outputs))
        self._flat = self._out.reshape(-1)
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Input samples waiting for the rest of their group: 0 to down - 1."""
        return self._waiting

    def push(self, samples: NDArray[np.int16]) -> NDArray[np.float64]:
        """Take `samples`, give the outputs now complete, unrounded, in units of the input.

        The array is the filter's own and valid until the next push. At most `capacity` samples at once.
        """
        history, start = self._history, self._history + self._waiting
        end = start + len(samples)
        buffer = self._buffer
        buffer[start:end] = samples
        groups, self._waiting = divmod(end - history, self._down)
        blocks = -(-groups // self._groups_per_block)
        np.dot(self._windows[:blocks], self._matrix, self._out[:blocks])
        taken = groups * self._down
        buffer[: history + self._waiting] = buffer[taken:end]
        return self._flat[: groups * self._up]

    @property
    def capacity(self) -> int:
        """The longest push, in samples."""
        return self._capacity - self._down

    def reset(self) -> None:
        """Forget everything, as new."""
        self._buffer[:] = 0.0
        self._waiting = 0


class Up8To16:
    """Caller audio for the model: 8 kHz samples -> PCM16 little-endian 16 kHz, 2.5 ms later, always twice as many."""

    def __init__(self) -> None:
        self._fir = StreamingFir(UP_TAPS, up=2, down=1, capacity=int(8000 * _CAPACITY_S))

    def push(self, samples: NDArray[np.int16]) -> bytes:
        """8 kHz samples, any number -> `4 * len(samples)` bytes."""
        longest = self._fir.capacity
        if len(samples) > longest:
            return b"".join(self.push(samples[i : i + longest]) for i in range(0, len(samples), longest))
        out = self._fir.push(samples)
        np.rint(out, out)
        np.clip(out, -32768.0, 32767.0, out)
        return out.astype("<i2").tobytes()


class Down24To8:
    """Model audio for the caller: PCM16 little-endian 24 kHz in bytes of any number -> mu-law 8 kHz, 2.0 ms later."""

    def __init__(self) -> None:
        self._fir = StreamingFir(DOWN_TAPS, up=1, down=3, capacity=int(24000 * _CAPACITY_S))
        self._odd = b""
        self._heard_any = False

    def push(self, pcm: bytes) -> bytes:
        """The codes now complete; an odd last byte and the last one or two samples wait for the next push."""
        if self._odd:
            pcm = self._odd + pcm
        if len(pcm) & 1:
            self._odd = pcm[-1:]
            pcm = pcm[:-1]
        else:
            self._odd = b""
        return self._codes(np.frombuffer(pcm, dtype="<i2"))

    def _codes(self, samples: NDArray[np.int16]) -> bytes:
        longest = self._fir.capacity
        if len(samples) > longest:
            return b"".join(self._codes(samples[i : i + longest]) for i in range(0, len(samples), longest))
        if len(samples):
            self._heard_any = True
        out = self._fir.push(samples)
        # Adding 32768.5 and truncating rounds; clip mode saturates: rounding, limiting and encoding in one look-up.
        np.add(out, 32768.5, out)
        return ENCODE_TABLE.take(out.astype(np.intp), mode="clip").tobytes()

    def flush(self) -> bytes:
        """The end of the reply: every code the filter still owes. Afterwards as new.

        A reply of n samples gives ceil((n + 96) / 3) codes in all: its own length and the filter's 4 ms of ringing.
        A lone odd byte is half a sample and is dropped.
        """
        if not self._heard_any:
            self._odd = b""
            return b""
        owed = len(DOWN_TAPS) - 1 + self._fir.waiting
        tail = self._codes(np.zeros(owed - self._fir.waiting + (-owed) % 3, dtype=np.int16))
        self._fir.reset()
        self._odd = b""
        self._heard_any = False
        return tail


def resample(samples: NDArray[np.int16], from_hz: int, to_hz: int) -> NDArray[np.int16]:
    """A whole recording at another rate, by a windowed sinc below both Nyquist rates. Not for the call path.

    Any pair of rates; time-aligned (no delay); `round(len * to / from)` samples.
    """
    if from_hz < 1 or to_hz < 1:
        raise ValueError(f"rates must be positive, not {from_hz} and {to_hz} Hz")
    if from_hz == to_hz or len(samples) == 0:
        return samples.copy()
    count = round(len(samples) * to_hz / from_hz)
    cutoff = min(1.0, to_hz / from_hz) * 0.94  # of the input's Nyquist rate
    half = int(np.ceil(32 / cutoff))
    padded = np.concatenate([np.zeros(half), samples.astype(np.float64), np.zeros(half + 1)])
    out = np.empty(count)
    lags = np.arange(-half + 1, half + 1)
    for start in range(0, count, 4096):
        at = np.arange(start, min(start + 4096, count)) * (from_hz / to_hz)
        whole = np.floor(at).astype(np.intp)
        x = (at - whole)[:, None] - lags[None, :]
        kernel = (
            cutoff
            * np.sinc(cutoff * x)
            * np.i0(10.0 * np.sqrt(np.maximum(0.0, 1 - (x / half) ** 2)))
            / np.i0(10.0)
        )
        out[start : start + len(at)] = np.einsum(
            "ij,ij->i", padded[whole[:, None] + lags[None, :] + half], kernel
        )
    return np.clip(np.rint(out), -32768, 32767).astype(np.int16)
