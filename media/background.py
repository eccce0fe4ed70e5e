"""Is a frame louder than its line's background? Asked of the frames of many lines at once, a row per line.

A `Background` is what one line has taught: twelve bands, each over its own tracked floor, what the background itself
does above it, and the agent's echo. `hear` takes the next frame of each of several lines; numpy then costs what one
frame alone would, and little more for each further one. How the lines are grouped changes no value but by rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import fft  # numpy itself imports it at its first use: during a call
from numpy.typing import NDArray

from offhook.media.echo import EchoGuard
from offhook.media.mulaw import FRAME_BYTES, RATE_HZ, SILENCE_DBOV

__all__ = ["FRAME_SAMPLES", "QUIET_DBOV", "Background", "Spectra", "hear"]

FRAME_SAMPLES = FRAME_BYTES  # a mu-law byte is one

# One spectrum serves level, bands and pitch: 32 ms, so two periods of the lowest voice, padded so that the
# autocorrelation does not wrap. In single precision, whose error lies 60 dB below that of mu-law.
_WINDOW, _FFT = 256, 512
_OVERLAP = _WINDOW - FRAME_SAMPLES
_TAPER = np.hanning(_WINDOW + 2)[1:-1]
_TAPER_32 = _TAPER.astype(np.float32)
_BIN_HZ = RATE_HZ / _FFT
_BINS_HZ = np.arange(_FFT // 2 + 1) * _BIN_HZ
# Below 200 Hz there is hum and engine noise and, on a telephone, no voice.
_BAND_EDGES_HZ = (200, 300, 400, 520, 660, 820, 1000, 1250, 1550, 1900, 2300, 2800, 3500)
_BANDS = len(_BAND_EDGES_HZ) - 1
_LOW_BANDS, _HIGH_BANDS = slice(0, 6), slice(8, None)  # below 1 kHz, above 1.55 kHz
_PITCH_LAGS = np.arange(20, 115)  # samples: voices of 70 to 400 Hz
_PITCH_BINS = (_BINS_HZ > 250) & (_BINS_HZ < 2000)
_PITCH_SQUARES = slice(2 * int(_PITCH_BINS.argmax()), 2 * (int(_PITCH_BINS.argmax()) + int(_PITCH_BINS.sum())))

_TONE_SHARE = 0.85
_TONE_WIDTH = 3  # bins to each side: the taper's main lobe
_DTMF_LOW_BINS = slice(int(640 / _BIN_HZ), int(1000 / _BIN_HZ))
_DTMF_HIGH_BINS = slice(int(1150 / _BIN_HZ), int(1700 / _BIN_HZ))
_LEVEL, _DTMF, _WHOLE = _BANDS, _BANDS + 1, _BANDS + 2  # columns behind those of the bands


def _power_matrix() -> NDArray[np.float32]:
    """Squared real and imaginary parts of the spectrum, interleaved -> power (full scale = 1) of each band, of all of
    them, of the bins around the DTMF frequencies, and of all bins.
    """
    edges = np.array(_BAND_EDGES_HZ)
    columns = np.zeros((len(_BINS_HZ), _WHOLE + 1))
    columns[:, :_BANDS] = (_BINS_HZ[:, None] >= edges[:-1]) & (_BINS_HZ[:, None] < edges[1:])
    columns[:, _LEVEL] = columns[:, :_BANDS].sum(axis=1)
    for bins in (_DTMF_LOW_BINS, _DTMF_HIGH_BINS):
        columns[bins.start - _TONE_WIDTH : bins.stop + _TONE_WIDTH, _DTMF] = 1.0
    columns[:, _WHOLE] = 1.0
    scale = 2.0 / (_FFT * float(_TAPER @ _TAPER) * 32768.0**2)
    return np.repeat(columns * scale, 2, axis=0).astype(np.float32)


def _lag_matrix() -> NDArray[np.float32]:
    """The same squares, those of `_PITCH_SQUARES` -> autocorrelation at lag 0 and at each pitch lag, the taper's own
    undone.

    Weighted towards 2 kHz: in a wide band noise is seldom periodic by chance, and engines lose their grip.
    """
    hz = _BINS_HZ[_PITCH_BINS]
    lags = np.concatenate([[0], _PITCH_LAGS])
    own = np.array([_TAPER[: _WINDOW - lag] @ _TAPER[lag:] for lag in lags])
    cosines = np.cos(2.0 * np.pi * np.outer(hz, lags) / RATE_HZ)
    return np.repeat(cosines * np.sqrt(hz)[:, None] * (own[0] / own), 2, axis=0).astype(np.float32)


_POWER_MATRIX = _power_matrix()
_LAG_MATRIX = _lag_matrix()
_LEAST_POWER = np.full(_LEVEL + 1, 1e-12, np.float32)
_LEAST_POWER[_LEVEL] *= _BANDS

_LEAST_BAND_DBOV = -72.0  # the idle noise of mu-law itself, spread over the bands
_LEAST_SPEECH_DBOV = -58.0  # softer than any speech into a telephone
QUIET_DBOV = -68.0  # of a window: not worth a spectrum
_QUIET_POWER = FRAME_SAMPLES * (32768.0 * 10 ** (QUIET_DBOV / 20.0)) ** 2  # of its sum of squares
_FRESH_SHARE = 0.05  # a voice that fades by 30 dB within a frame still has more of its power in it
_LEAST_DBOV = np.full(_LEVEL + 1, _LEAST_BAND_DBOV)
_LEAST_DBOV[_LEVEL] = -np.inf

# The floor of a band is the least it was within 1.2 to 1.6 s: longer than a word, shorter than patience.
_FLOOR_PARTS, _FLOOR_PART_FRAMES = 4, 20
_FLOOR_BIAS_DB = 2.5  # the least of some 80 smoothed values lies so far below their mean, in steady noise
_MOST_ABOVE_DB = 30.0

# The background's own restlessness: steady noise rises 1 dB above its floor, a room full of talk 7 dB.
_BACKGROUND_FRAMES, _BACKGROUND_EVERY = 150, 25
_RESTLESS_DB = 3.0  # median over lower quintile: babble stays below, a person's words and pauses above
_LEAST_LIMIT_DB = 2.4

# What the bands are above their floors -> their mean, and by how much the high ones stand above the low ones.
_ABOVE_MATRIX = np.zeros((_BANDS, 2))
_ABOVE_MATRIX[:, 0] = 1.0 / _BANDS
_ABOVE_MATRIX[_HIGH_BANDS, 1], _ABOVE_MATRIX[_LOW_BANDS, 1] = 1.0, -1.0
_RISE_BIAS_DB, _HISS_BIAS_DB = (_FLOOR_BIAS_DB * _ABOVE_MATRIX.sum(axis=0)).tolist()

# Of a window without a spectrum: all bands are as low as they can be, whatever the floors.
_QUIET_RISE_DB: float = np.full(_BANDS, _FLOOR_BIAS_DB).dot(_ABOVE_MATRIX)[0] - _RISE_BIAS_DB
_SMOOTHING = 0.4
_REST = (1.0 - _SMOOTHING) ** np.arange(_FLOOR_PART_FRAMES + 1)  # of a difference, so many frames later
_SETTLED_FRAMES = (_FLOOR_PARTS + 5) * _FLOOR_PART_FRAMES  # quiet for so long: nothing is left of what was before

_HALVES = np.zeros((_WINDOW, 2), np.float32)  # sums over the whole window, and over what is new in it
_HALVES[:, 0], _HALVES[_OVERLAP:, 1] = 1.0, 1.0


class Background:
    """One line's, and what was found of its last frame."""

    __slots__ = (
        "_frames",
        "_least",
        "_limit_db",
        "_overlap",
        "_quiet",
        "_rises",
        "_tracked",
        "audible",
        "echo",
        "echo_dbov",
        "fresh",
        "hiss_db",
        "level_dbov",
        "loud",
    )

    def __init__(self) -> None:
        self.echo = EchoGuard()
        self.level_dbov = SILENCE_DBOV  # 200 to 3500 Hz
        self.echo_dbov = SILENCE_DBOV  # what echo may reach in this frame
        self.audible = False  # speech could be that soft, and echo not that loud
        self.loud = False  # and above the background
        self.fresh = True  # not only by the end of the frame before, which is in the window too
        self.hiss_db = 0.0  # by how much the high bands stand further above their floors than the low ones
        self._overlap: NDArray[np.float32] = np.zeros(_OVERLAP, np.float32)  # the last samples
        # Of each band: smoothed, the least of it within this part, and that of all parts, which is the floor.
        self._tracked: NDArray[np.float64] = np.full((3, _BANDS), np.inf)
        self._least = np.full((_FLOOR_PARTS, _BANDS), np.inf)
        self._frames = 0
        self._quiet = 0  # the last ones, without a spectrum, that the floors do not know of yet
        self._rises: deque[float] = deque(maxlen=_BACKGROUND_FRAMES)
        self._limit_db = _LEAST_LIMIT_DB

    def _next_part(self, frames: int) -> None:
        smooth, least, floor = self._tracked
        self._least[frames // _FLOOR_PART_FRAMES % _FLOOR_PARTS] = least
        self._least.min(axis=0, out=floor)
        least[:] = smooth

    def _settle(self) -> None:
        """The floors after the quiet frames, in which all bands were as low as they can be."""
        at, self._quiet = self._frames - self._quiet, 0
        tracked = self._tracked
        if self._frames - at > _SETTLED_FRAMES:
            tracked[:] = self._least[:] = _LEAST_BAND_DBOV
            return
        smooth, lowest = tracked[0], tracked[1:]
        if not at:
            smooth[:] = _LEAST_BAND_DBOV
        while at < self._frames:
            end = min(self._frames, (at // _FLOOR_PART_FRAMES + 1) * _FLOOR_PART_FRAMES)
            smooth[:] = _LEAST_BAND_DBOV + (smooth - _LEAST_BAND_DBOV) * _REST[end - at]
            np.minimum(lowest, smooth, out=lowest)  # it has only fallen
            at = end
            if at % _FLOOR_PART_FRAMES == 0:
                self._next_part(at)

    def _learn(self, rise_db: float) -> None:
        self._rises.append(rise_db)
        if self._frames % _BACKGROUND_EVERY == 0 and len(self._rises) >= 2 * _BACKGROUND_EVERY:
            ordered = sorted(self._rises)
            low, middle = ordered[len(ordered) // 5], ordered[len(ordered) // 2]
            if middle - low < _RESTLESS_DB:
                self._limit_db = max(_LEAST_LIMIT_DB, middle + 2.0 * (middle - low) + 1.0)


def hear(lines: Sequence[Background], frames: Sequence[NDArray[np.int16]], played_dbov: Sequence[float]) -> Spectra:
    """The next frame (160 samples at 8 kHz) of each line, no line twice; then its attributes are of that frame.

    `played_dbov`: see `SpeechDetector.push`. Raises ValueError, and nothing is heard, for a frame of another length.
    What goes wrong with one line alone is in `Spectra.failed`.
    """
    pieces: list[NDArray[Any]] = []
    for line, frame in zip(lines, frames, strict=True):
        if len(frame) != FRAME_SAMPLES:
            raise ValueError(f"a detector takes frames of {FRAME_SAMPLES} samples, not {len(frame)}: use a Framer")
        pieces += (line._overlap, frame)
    windows: NDArray[np.float32] = np.concatenate(pieces, dtype=np.float32).reshape(-1, _WINDOW)
    energies: list[list[float]] = np.square(windows).dot(_HALVES).tolist()
    failed: dict[int, Exception] = {}
    rows: list[int] = []
    for row, (line, overlap, (total, new)) in enumerate(zip(lines, windows[:, FRAME_SAMPLES:], energies, strict=True)):
        line._overlap = overlap
        if total >= _QUIET_POWER:
            line.fresh = new >= _FRESH_SHARE * total
            if line._quiet:
                line._settle()
            rows.append(row)
            continue
        line._quiet += 1
        line._frames += 1
        line.level_dbov, line.hiss_db = SILENCE_DBOV, 0.0
        line.audible = line.loud = False
        try:
            line.echo_dbov = echo = line.echo.push(SILENCE_DBOV, played_dbov[row])
            if echo <= SILENCE_DBOV:
                line._learn(_QUIET_RISE_DB)
        except Exception as error:  # the others' frames are not heard twice for it
            failed[row] = error
    spectra = Spectra(windows, rows, failed)
    if not rows:
        return spectra
    levels: list[float] = spectra.bands[:, _LEVEL].tolist()
    with_spectra = lines if len(rows) == len(lines) else [lines[row] for row in rows]
    rises = _above_floors(with_spectra, spectra.bands[:, :_BANDS])
    for row, line, level, (rise, hiss) in zip(rows, with_spectra, levels, rises, strict=True):
        line.level_dbov, line.hiss_db = level, hiss - _HISS_BIAS_DB
        try:
            line.echo_dbov = echo = line.echo.push(level, played_dbov[row])
        except Exception as error:
            failed[row] = error
            line.loud = False
            continue
        rise -= _RISE_BIAS_DB
        if echo <= SILENCE_DBOV:  # with the agent in it, it would not be the background
            line._learn(rise)
        line.audible = level > echo and level > _LEAST_SPEECH_DBOV
        line.loud = line.audible and rise > line._limit_db
        if line.loud:
            spectra.loud.append(row)
    return spectra


def _above_floors(lines: Sequence[Background], bands: NDArray[np.float64]) -> list[list[float]]:
    """Tracks the floors. By line: how far the bands' mean lies above them, and the sum of the high bands above that of
    the low ones, both too high by the floors' bias.
    """
    tracked = np.concatenate([line._tracked for line in lines]).reshape(-1, 3, _BANDS)
    smooth, least, floor = tracked[:, :1], tracked[:, 1:], tracked[:, 2]
    turning = []
    for line, own, band in zip(lines, tracked, bands, strict=True):
        line._tracked = own
        frames = line._frames
        if not frames:
            own[0] = band
        line._frames = frames = frames + 1
        if frames % _FLOOR_PART_FRAMES == 0:
            turning.append(line)
    smooth += _SMOOTHING * (bands[:, None] - smooth)
    np.minimum(least, smooth, out=least)
    for line in turning:
        line._next_part(line._frames)
    above = bands - floor
    np.maximum(above, _FLOOR_BIAS_DB, out=above)
    np.minimum(above, _FLOOR_BIAS_DB + _MOST_ABOVE_DB, out=above)
    rises: list[list[float]] = above.dot(_ABOVE_MATRIX).tolist()
    return rises


class Spectra:
    """Of the frames of one `hear`, a row per line."""

    def __init__(self, windows: NDArray[np.float32], rows: list[int], failed: dict[int, Exception]) -> None:
        """`rows`: the windows that are worth a spectrum; `bands` is of those, in dBov, with the level of all behind."""
        self.failed = failed  # by row
        self.loud: list[int] = []  # rows
        if not rows:
            return
        self._at = {row: at for at, row in enumerate(rows)}
        if len(rows) < len(windows):
            windows = windows[rows]
        spectrum = fft.rfft(windows * _TAPER_32, _FFT).view(np.float32)
        self._squares = np.square(spectrum, out=spectrum)
        self._power = self._squares.dot(_POWER_MATRIX)
        self._dtmf_and_whole: list[list[float]] = []  # of each, once asked for
        bands: NDArray[np.float64] = np.log10(self._power[:, : _LEVEL + 1] + _LEAST_POWER, dtype=np.float64)
        bands *= 10.0
        self.bands = np.maximum(bands, _LEAST_DBOV, out=bands)

    def pitches(self, rows: list[int]) -> list[float]:
        """Normalised autocorrelation at the best pitch lag: noise stays below 0.5, voices reach 0.7 to 1."""
        squares = self._squares[:, _PITCH_SQUARES]
        if len(rows) < len(squares):
            squares = squares[[self._at[row] for row in rows]]
        products = squares.dot(_LAG_MATRIX)
        pitches: list[float] = (products[:, 1:].max(axis=1) / (products[:, 0] + np.float32(1e-9))).tolist()
        return pitches

    def is_tone(self, row: int) -> bool:
        """Nearly all power in one peak of each DTMF group: a key, not a voice, however periodic."""
        if not self._dtmf_and_whole:
            self._dtmf_and_whole = self._power[:, _DTMF:].tolist()
        row = self._at[row]
        dtmf, whole = self._dtmf_and_whole[row]
        if dtmf <= _TONE_SHARE * whole:
            return False
        power = self._squares[row, ::2] + self._squares[row, 1::2]
        low = _DTMF_LOW_BINS.start + int(power[_DTMF_LOW_BINS].argmax())
        high = _DTMF_HIGH_BINS.start + int(power[_DTMF_HIGH_BINS].argmax())
        peaks = [float(power[at - _TONE_WIDTH : at + _TONE_WIDTH + 1].sum()) for at in (low, high)]
        return sum(peaks) > _TONE_SHARE * float(power.sum()) and min(peaks) > 0.02 * max(peaks)
