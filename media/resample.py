"""Streaming sample-rate conversion: nothing held back, the same samples however the input is cut.

Each converter is a linear-phase FIR with integer coefficients (scale 2^16) applied in float64. Every
product and every partial sum is then a whole number of 2^-16 steps far below 2^53, so it is exact, and
neither chunk length nor the BLAS behind numpy can change a bit of the result.

The filter runs as one matrix product per push: the input, cut into short overlapping windows, times a
constant banded (Toeplitz) matrix. At 20 ms chunks that is several times faster than `np.convolve`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, gcd

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray

from offhook.media.mulaw import ENCODE_TABLE

__all__ = [
    "DOWN_TAPS",
    "PCM16_TABLE",
    "TAP_SCALE",
    "UP_TAPS",
    "Down24To8",
    "StreamingFir",
    "Up8To16",
    "resample",
]

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

PCM16_TABLE: NDArray[np.int16] = np.arange(-32768, 32768).astype("<i2")
PCM16_TABLE.setflags(write=False)

_GROUPS_PER_BLOCK = 20  # 8 to 20 is the flat optimum; 80 and more is 2 to 4 times slower
_BLOCKS = 40  # 100 ms in one product; 20 ms takes 8. Longer input goes in pieces, which costs nothing then
_TOGETHER = 32  # streams in one product; more gain nothing
# Rounds half up once the conversion to an index truncates, and moves -32768 to index 0 of the tables.
_BIAS = 32768.5


class StreamingFir:
    """A rate change by `up / down` through one FIR, on 16-bit samples, history carried between pushes.

    `taps` are integers scaled by 2^16 at the rate `input rate * up`; their sum is `up * 2^16` for unit gain.
    Output j is `sum(taps[k] * stuffed[down * j - k])`, where `stuffed` is the input with `up - 1` zeros after
    each sample: causal, delayed by `(len(taps) - 1) / 2` stuffed samples. Outputs appear as soon as their
    group of `down` inputs is complete; an incomplete group waits. Sums beyond 16 bits saturate.

    `table` holds the output for each of the 65,536 values, from -32768 up: PCM16 itself, or a code.
    """

    def __init__(
        self,
        taps: Sequence[int],
        up: int,
        down: int,
        table: NDArray[np.int16] | NDArray[np.uint8] = PCM16_TABLE,
    ) -> None:
        if up < 1 or down < 1 or len(taps) == 0:
            raise ValueError("StreamingFir needs taps, up >= 1 and down >= 1")
        self._up, self._down, self._table = up, down, table
        self._matrix = _banded(tuple(taps), up, down)
        self._ringing = len(taps) - 1
        self._history = self._ringing // up
        self._scratch = _scratch(self._history, up, down)
        self._longest = _BLOCKS * _GROUPS_PER_BLOCK * down - (down - 1)
        self._held = np.zeros(self._history + down - 1)  # the last inputs, and those that wait
        self._waiting = 0
        self._began = False

    def push(self, samples: NDArray[np.int16]) -> bytes:
        """The outputs now complete, as bytes of the table's type (PCM16 little-endian or codes)."""
        count = len(samples)
        if count == 0:
            return b""
        if count > self._longest:
            step = self._longest
            return b"".join([self.push(samples[at : at + step]) for at in range(0, count, step)])
        history, down, scratch = self._history, self._down, self._scratch
        buffer = scratch.buffer
        start = history + self._waiting
        end = start + count
        buffer[:start] = self._held[:start]
        buffer[start:end] = samples
        groups = (end - history) // down
        taken = groups * down
        blocks = -(-groups // _GROUPS_PER_BLOCK)
        scratch.rows_in[:blocks] = scratch.windows[:blocks]
        np.dot(scratch.rows[:blocks], self._matrix, scratch.sums[:blocks])
        self._held[: end - taken] = buffer[taken:end]
        self._waiting = end - history - taken
        self._began = True
        return self._table.take(scratch.outputs[: groups * self._up].astype(np.intp), mode="clip").tobytes()

    @staticmethod
    def push_all(firs: Sequence[StreamingFir], pieces: Sequence[NDArray[np.int16]]) -> list[bytes]:
        """`push` for many filters at once, none twice: equal ones whose `down` is 1, and pieces of equal length."""
        first, count = firs[0], len(pieces[0])
        if count == 0:
            return [b""] * len(firs)
        if len(firs) > _TOGETHER:
            groups = range(0, len(firs), _TOGETHER)
            parts = (StreamingFir.push_all(firs[at : at + _TOGETHER], pieces[at : at + _TOGETHER]) for at in groups)
            return [piece for part in parts for piece in part]
        # A stream's history and its piece are a row; its windows are as many rows of the product.
        history, several = first._history, len(firs)
        scratch = _group_scratch(history, count, first._up)
        inputs, sums = scratch.inputs, scratch.sums[:several]
        joined = [part for fir, piece in zip(firs, pieces, strict=True) for part in (fir._held[:history], piece)]
        np.concatenate(joined, out=inputs[: several * (history + count)])
        rows = scratch.rows[:several]
        rows[:, :, :-1] = scratch.windows[:several]
        np.dot(rows.reshape(-1, rows.shape[2]), first._matrix, sums.reshape(-1, sums.shape[2]))
        wanted = sums.reshape(several, -1)[:, : count * first._up]
        outputs = first._table.take(wanted.astype(np.intp), mode="clip").tobytes()
        tails = inputs[: several * (history + count)].reshape(several, -1)[:, count:].copy()
        for fir, tail in zip(firs, tails, strict=True):
            fir._held, fir._began = tail, True  # all that one holds whose `down` is 1
        size = len(outputs) // several
        return [outputs[at : at + size] for at in range(0, len(outputs), size)]

    def flush(self) -> bytes:
        """Every output the filter still owes: the end of what was pushed, ringing out. Afterwards as new.

        With it, n samples make `ceil((n * up + len(taps) - 1) / down)` outputs. Nothing pushed, nothing owed.
        """
        if not self._began:
            return b""
        owed = -(-(self._waiting * self._up + self._ringing) // self._down)
        zeros = -(-owed // self._up) * self._down - self._waiting
        tail = self.push(np.zeros(zeros, dtype=np.int16))[: owed * self._table.itemsize]
        self._held[:] = 0.0
        self._waiting = 0
        self._began = False
        return tail


class _Scratch(threading.local):
    """What one `push` works in, of a thread: filters of equal lengths share it, as each copies in what it holds."""

    def __init__(self, history: int, up: int, down: int) -> None:
        block_inputs, block_outputs = _GROUPS_PER_BLOCK * down, _GROUPS_PER_BLOCK * up
        window = history + block_inputs
        self.buffer = np.zeros(window + (_BLOCKS - 1) * block_inputs)
        item = self.buffer.itemsize
        self.windows = as_strided(
            self.buffer, shape=(_BLOCKS, window), strides=(block_inputs * item, item), writeable=False
        )
        # BLAS wants rows that do not overlap: copying them first is cheaper than letting it find out.
        self.rows = np.ones((_BLOCKS, window + 1))
        self.rows_in = self.rows[:, :window]
        self.sums = np.empty((_BLOCKS, block_outputs))
        self.outputs = self.sums.reshape(-1)


class _GroupScratch(threading.local):
    """What one `push_all` of pieces of `count` samples works in, of a thread."""

    def __init__(self, history: int, count: int, up: int) -> None:
        groups = _GROUPS_PER_BLOCK
        blocks = -(-count // groups)
        self.inputs = np.zeros(_TOGETHER * (history + count) + blocks * groups - count)
        item, width = self.inputs.itemsize, history + groups
        self.windows = as_strided(
            self.inputs,
            shape=(_TOGETHER, blocks, width),
            strides=((history + count) * item, groups * item, item),
            writeable=False,
        )
        self.rows = np.ones((_TOGETHER, blocks, width + 1))
        self.sums = np.empty((_TOGETHER, blocks, groups * up))


_scratch = lru_cache(maxsize=8)(_Scratch)
_group_scratch = lru_cache(maxsize=8)(_GroupScratch)


@lru_cache(maxsize=8)
def _banded(taps: tuple[int, ...], up: int, down: int) -> NDArray[np.float64]:
    """The filter as a matrix, one for all calls: row i is what sample i of a window adds to each output.

    A last row, multiplied by a constant 1, adds the bias without a pass of its own.
    """
    history = (len(taps) - 1) // up
    window = history + _GROUPS_PER_BLOCK * down
    lag = np.arange(_GROUPS_PER_BLOCK * up) * down - (np.arange(window)[:, None] - history) * up
    heard = (lag >= 0) & (lag < len(taps))
    scaled = np.asarray(taps, dtype=np.float64) / TAP_SCALE
    matrix = np.full((window + 1, _GROUPS_PER_BLOCK * up), _BIAS)
    matrix[:window] = np.where(heard, scaled[np.where(heard, lag, 0)], 0.0)
    matrix.setflags(write=False)
    return matrix


class Up8To16:
    """Caller audio for the model: 8 kHz samples -> PCM16 little-endian at 16 kHz, 2.5 ms later."""

    def __init__(self) -> None:
        self._fir = StreamingFir(UP_TAPS, up=2, down=1)

    def push(self, samples: NDArray[np.int16]) -> bytes:
        """8 kHz samples, any number -> exactly twice as many samples: `4 * len(samples)` bytes."""
        return self._fir.push(samples)

    @staticmethod
    def push_all(streams: Sequence[Up8To16], pieces: Sequence[NDArray[np.int16]]) -> list[bytes]:
        """`push` for many streams at once, each of which may come several times: the same bytes, in less
        time where all pieces are of the same length.
        """
        length = len(pieces[0])
        if (
            len(streams) == 1
            or len({id(stream) for stream in streams}) < len(streams)
            or any(len(piece) != length for piece in pieces)
        ):
            return [stream.push(piece) for stream, piece in zip(streams, pieces, strict=True)]
        return StreamingFir.push_all([stream._fir for stream in streams], pieces)


class Down24To8:
    """Model audio for the caller: PCM16 little-endian bytes at 24 kHz -> mu-law codes, 2.0 ms later."""

    def __init__(self) -> None:
        self._fir = StreamingFir(DOWN_TAPS, up=1, down=3, table=ENCODE_TABLE)
        self._odd = b""

    def push(self, pcm: bytes) -> bytes:
        """The codes now complete. An odd last byte and the last one or two samples wait for the next push."""
        if self._odd:
            pcm = self._odd + pcm
        if len(pcm) & 1:
            self._odd, pcm = pcm[-1:], pcm[:-1]
        else:
            self._odd = b""
        return self._fir.push(np.frombuffer(pcm, dtype="<i2"))

    def flush(self) -> bytes:
        """The end of the reply: every code the filter still owes (4 ms). Afterwards as new.

        A reply of n samples makes ceil((n + 96) / 3) codes in all. A lone last byte is dropped.
        """
        self._odd = b""
        return self._fir.flush()


_LOBES = 32  # zero crossings on each side: transition of a few percent of the lower rate
_KAISER_BETA = 10.0  # -100 dB
_GUARD = 0.95  # the pass band ends here, in Nyquist rates of the lower of both


def resample(samples: NDArray[np.int16], from_hz: int, to_hz: int) -> NDArray[np.int16]:
    """A whole recording at another rate: time-aligned, `ceil(len * to / from)` samples, saturating.

    A Kaiser-windowed sinc below both Nyquist rates. Any two rates. For files, not for the call path.
    """
    if from_hz < 1 or to_hz < 1:
        raise ValueError(f"rates must be positive, not {from_hz} and {to_hz} Hz")
    if from_hz == to_hz or len(samples) == 0:
        return samples.copy()
    shared = gcd(from_hz, to_hz)
    up, down = to_hz // shared, from_hz // shared
    cutoff = _GUARD * min(1.0, up / down)
    half = ceil(_LOBES / cutoff)
    lags = np.arange(-half, half + 1)
    at = lags[None, :] - np.arange(up)[:, None] / up  # one row of taps per phase
    window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (at / (half + 1)) ** 2))) / np.i0(_KAISER_BETA)
    taps = np.sinc(cutoff * at) * window
    taps /= taps.sum(axis=1, keepdims=True)  # each phase passes a constant unchanged

    count = -(-len(samples) * up // down)
    windows = sliding_window_view(np.pad(samples.astype(np.float64), half), 2 * half + 1)
    out = np.empty(count)
    for k in range(min(up, count)):  # every up-th sample has the same phase
        out[k::up] = np.einsum("ij,j->i", windows[k * down // up :: down], taps[k * down % up])
    return np.clip(np.rint(out), -32768, 32767).astype(np.int16)
