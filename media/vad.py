"""Is the caller speaking? Speech edges out of 20 ms frames, while the agent may be playing.

Three questions are asked of every frame, each by a part of its own:

- Is it louder than this line's background? `_Line`: twelve bands, each over its own tracked floor, and the
  sum of what rises above them against what the background itself does.
- Could it be the agent's own voice? `offhook.media.echo.EchoGuard`, which learns how loud that comes back here.
- Is it a voice? `EnergyDetector` looks for pitch, `SileroDetector` asks a small neural network.

`_Edges` adds the answers up and says when speech began and ended.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from math import log10
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy import fft  # numpy itself imports it at its first use: during a call
from numpy.typing import NDArray

from offhook.media.echo import EchoGuard
from offhook.media.mulaw import FRAME_BYTES, RATE_HZ, SILENCE_DBOV

__all__ = ["EnergyDetector", "SileroDetector", "SpeechDetector", "SpeechEdge"]

_FRAME = FRAME_BYTES  # samples; a mu-law byte is one
_FRAME_MS = 1000 * _FRAME // RATE_HZ


@dataclass(frozen=True, slots=True)
class SpeechEdge:
    """The caller began (`speaking`) or ceased to speak.

    `sample`: where it happened, back-dated, in 8 kHz samples since the detector was made.
    `decided_sample`: how many samples the detector had been given when it made up its mind.
    """

    speaking: bool
    sample: int
    decided_sample: int


class SpeechDetector(Protocol):
    """What a call needs of a detector. One per call; it learns."""

    @property
    def speaking(self) -> bool:
        """What the last edge said; False before the first."""
        ...

    def push(self, samples: NDArray[np.int16], played_dbov: float) -> SpeechEdge | None:
        """The next 20 ms of the caller (160 samples at 8 kHz) -> an edge, if this frame decides one.

        `played_dbov`: level of the agent's frame that the caller presumably hears at this moment, -100.0 when
        nothing plays. Being wrong by some 100 ms is allowed; so is the echo's own delay, up to 400 ms.
        """
        ...


# One spectrum serves level, bands and pitch: 32 ms, so two periods of the lowest voice, padded so that the
# autocorrelation does not wrap.
_WINDOW, _FFT = 256, 512
_HOP = _WINDOW - _FRAME
_TAPER = np.hanning(_WINDOW + 2)[1:-1]
_BIN_HZ = RATE_HZ / _FFT
# Below 200 Hz there is hum and engine noise and, on a telephone, no voice.
_BAND_EDGES_HZ = (200, 300, 400, 520, 660, 820, 1000, 1250, 1550, 1900, 2300, 2800, 3500)
_BANDS = len(_BAND_EDGES_HZ) - 1
_LOW_BANDS, _HIGH_BANDS = slice(0, 6), slice(8, None)  # below 1 kHz, above 1.55 kHz
_PITCH_LAGS = np.arange(20, 115)  # samples: voices of 70 to 400 Hz


def _band_matrix() -> NDArray[np.float64]:
    """Squared real and imaginary parts of the spectrum, interleaved -> power of each band, full scale = 1."""
    hz = np.arange(_FFT // 2 + 1) * _BIN_HZ
    edges = np.array(_BAND_EDGES_HZ)
    inside = (hz[:, None] >= edges[:-1]) & (hz[:, None] < edges[1:])
    scale = 2.0 / (_FFT * float(_TAPER @ _TAPER) * 32768.0**2)
    return np.repeat(inside * scale, 2, axis=0)


def _lag_matrix() -> NDArray[np.float64]:
    """The same squares -> autocorrelation at lag 0 and at each pitch lag, the taper's own undone.

    Weighted towards 2 kHz: in a wide band noise is seldom periodic by chance, and engines lose their grip.
    """
    hz = np.arange(_FFT // 2 + 1) * _BIN_HZ
    weight = np.where((hz > 250) & (hz < 2000), np.sqrt(hz), 0.0)
    lags = np.concatenate([[0], _PITCH_LAGS])
    own = np.array([_TAPER[: _WINDOW - lag] @ _TAPER[lag:] for lag in lags])
    cosines = np.cos(2.0 * np.pi * np.outer(hz, lags) / RATE_HZ)
    return np.repeat(cosines * weight[:, None] * (own[0] / own), 2, axis=0)


_BAND_MATRIX = _band_matrix()
_LAG_MATRIX = _lag_matrix()

_LEAST_BAND_DBOV = -72.0  # the idle noise of mu-law itself, spread over the bands
_LEAST_SPEECH_DBOV = -58.0  # softer than any speech into a telephone
_NOTHING_POWER = 160 * (32768.0 * 10 ** (-68.0 / 20.0)) ** 2  # of a frame's sum of squares: not worth a spectrum
_FRESH_SHARE = 0.05  # a voice that fades by 30 dB within a frame still has more of its power in it
_SILENT_BANDS = np.full(_BANDS, _LEAST_BAND_DBOV)

# The floor of a band is the least it was within 1.2 to 1.6 s: longer than a word, shorter than patience.
_FLOOR_PARTS, _FLOOR_PART_FRAMES = 4, 20
_FLOOR_BIAS_DB = 2.5  # the least of some 80 smoothed values lies so far below their mean, in steady noise
_MOST_ABOVE_DB = 30.0

# The background's own restlessness: steady noise rises 1 dB above its floor, a room full of talk 7 dB.
_BACKGROUND_FRAMES, _BACKGROUND_EVERY = 150, 25
_RESTLESS_DB = 3.0  # median over lower quintile: babble stays below, a person's words and pauses above
_LEAST_LIMIT_DB = 2.4


class _Line:
    """What can be said of a frame before asking whether it is a voice."""

    def __init__(self) -> None:
        self.echo = EchoGuard()
        self.level_dbov = SILENCE_DBOV  # 200 to 3500 Hz
        self.echo_dbov = SILENCE_DBOV  # what echo may reach in this frame
        self.audible = False  # speech could be that soft, and echo not that loud
        self.loud = False  # and above the background
        self.fresh = True  # not only by the end of the frame before, which is in the window too
        self.squares: NDArray[np.float64] = np.zeros(_FFT + 2)
        self.above_db: NDArray[np.float64] = np.zeros(_BANDS)
        self._samples = np.zeros(_WINDOW)
        self._tapered = np.zeros(_WINDOW)
        self._smooth: NDArray[np.float64] = np.full(_BANDS, np.nan)
        self._least_now: NDArray[np.float64] = np.full(_BANDS, np.inf)
        self._least = np.full((_FLOOR_PARTS, _BANDS), np.inf)
        self._floor: NDArray[np.float64] = np.full(_BANDS, np.inf)
        self._frames = 0
        self._rises: deque[float] = deque(maxlen=_BACKGROUND_FRAMES)
        self._limit_db = _LEAST_LIMIT_DB

    def push(self, samples: NDArray[np.int16], played_dbov: float) -> None:
        if len(samples) != _FRAME:
            raise ValueError(f"a detector takes frames of {_FRAME} samples, not {len(samples)}: use a Framer")
        window = self._samples
        window[:_HOP] = window[_FRAME:]
        window[_HOP:] = samples
        total = float(window.dot(window))
        self.fresh = total - float(window[:_HOP].dot(window[:_HOP])) >= _FRESH_SHARE * total
        if total < _NOTHING_POWER:
            bands, self.level_dbov = _SILENT_BANDS, SILENCE_DBOV
        else:
            np.multiply(window, _TAPER, out=self._tapered)
            spectrum = fft.rfft(self._tapered, _FFT).view(np.float64)
            self.squares = np.multiply(spectrum, spectrum, out=self.squares)
            power = self.squares.dot(_BAND_MATRIX) + 1e-12
            self.level_dbov = 10.0 * log10(power.sum())
            bands = np.log10(power)
            bands *= 10.0
            np.maximum(bands, _SILENT_BANDS, out=bands)
        self.echo_dbov = self.echo.push(self.level_dbov, played_dbov)

        self._track_floor(bands)
        above = bands - np.minimum(self._floor, self._least_now)
        above -= _FLOOR_BIAS_DB
        self.above_db = above.clip(0.0, _MOST_ABOVE_DB)
        rise = float(self.above_db.sum()) / _BANDS
        if self.echo_dbov <= SILENCE_DBOV:  # with the agent in it, it would not be the background
            self._learn_background(rise)
        self.audible = self.level_dbov > max(self.echo_dbov, _LEAST_SPEECH_DBOV)
        self.loud = self.audible and rise > self._limit_db

    def _track_floor(self, bands: NDArray[np.float64]) -> None:
        if self._frames == 0:
            self._smooth = bands.copy()
        else:
            self._smooth += 0.4 * (bands - self._smooth)
        np.minimum(self._least_now, self._smooth, out=self._least_now)
        self._frames += 1
        if self._frames % _FLOOR_PART_FRAMES == 0:
            part = self._frames // _FLOOR_PART_FRAMES % _FLOOR_PARTS
            self._least[part] = self._least_now
            self._floor = self._least.min(axis=0)
            self._least_now = self._smooth.copy()

    def _learn_background(self, rise: float) -> None:
        self._rises.append(rise)
        if self._frames % _BACKGROUND_EVERY == 0 and len(self._rises) >= 2 * _BACKGROUND_EVERY:
            ordered = sorted(self._rises)
            low, middle = ordered[len(ordered) // 5], ordered[len(ordered) // 2]
            if middle - low < _RESTLESS_DB:
                self._limit_db = max(_LEAST_LIMIT_DB, middle + 2.0 * (middle - low) + 1.0)


_ENOUGH = 4.0  # two frames that are surely a voice, or four that rather are
_QUIET = -1.0
_BACKDATE = 15 * _FRAME  # how far before the first voiced frame a beginning (an s, an h) is believed
_VOICELESS_END = 25 * _FRAME  # how long loud but voiceless sound still belongs to the voice before it


class _Edges:
    """Adds up evidence, frame by frame, into edges."""

    def __init__(self, min_speech_ms: int, hangover_ms: int) -> None:
        if min_speech_ms < _FRAME_MS or hangover_ms < _FRAME_MS:
            raise ValueError(f"min_speech_ms and hangover_ms must be at least {_FRAME_MS}")
        self.speaking = False
        self._shortest = min_speech_ms * RATE_HZ // 1000
        self._hangover = hangover_ms * RATE_HZ // 1000
        self._now = 0
        self._score = 0.0
        self._loud_since = self._last_loud = 0
        self._began = self._last_voice = self._last_speech = 0

    def push(self, evidence: float, loud: bool, fresh: bool = True) -> SpeechEdge | None:
        """`evidence`: 2 for surely a voice, 0 for no saying, -1 for surely none. `fresh`: by itself."""
        start, self._now = self._now, self._now + _FRAME
        if loud:
            if start - self._last_loud > _FRAME:
                self._loud_since = start
            self._last_loud = self._now
        if evidence > 0.0:
            if self._score <= 0.0:
                self._began = max(self._loud_since, self._now - _BACKDATE) if loud else start - _FRAME
            self._last_voice = self._now
        if loud and fresh and self._now - self._last_voice <= _VOICELESS_END:
            self._last_speech = self._now
        self._score = min(max(0.0, self._score + evidence), _ENOUGH + 2.0)
        if not self.speaking:
            if self._score >= _ENOUGH and self._now - self._began >= self._shortest:
                self.speaking, self._last_speech = True, self._now
                return SpeechEdge(True, self._began, self._now)
        elif self._now - self._last_speech >= self._hangover:
            self.speaking = False
            self._score = 0.0
            return SpeechEdge(False, self._last_speech, self._now)
        return None


_VOICED = 0.5  # normalised autocorrelation: noise stays below, voices reach 0.7 to 1
_PER_PITCH = 10.0
_HISS_DB = 12.0
_HISS = (0.8, 1.4, 2.0)  # an s or an f lasts; a key stroke is over in a frame or two
_PER_ECHO_DB = 1.5


class EnergyDetector:
    """The default detector: louder than background and echo, and pitched or hissing. Numpy alone.

    `min_speech_ms`: how long speech must have lasted before it counts. `hangover_ms`: how long a pause must be
    to end it. Both are multiples of 20 ms; finer is rounded up by the frames themselves.
    """

    def __init__(self, min_speech_ms: int = 60, hangover_ms: int = 400) -> None:
        self._line = _Line()
        self._edges = _Edges(min_speech_ms, hangover_ms)
        self._hisses = 0  # frames on end

    @property
    def speaking(self) -> bool:
        return self._edges.speaking

    @property
    def echo(self) -> EchoGuard:
        """What was learned of this call's echo."""
        return self._line.echo

    def push(self, samples: NDArray[np.int16], played_dbov: float) -> SpeechEdge | None:
        line = self._line
        line.push(samples, played_dbov)
        if line.loud:
            return self._edges.push(self._evidence(), True, line.fresh)
        self._hisses = 0
        return self._edges.push(_QUIET, False)

    def _evidence(self) -> float:
        line = self._line
        products = line.squares.dot(_LAG_MATRIX)
        pitch = float(products[1:].max()) / (float(products[0]) + 1e-9)
        if pitch > _VOICED and _is_tone(line.squares):
            return _QUIET
        above = line.above_db
        if above[_HIGH_BANDS].sum() - above[_LOW_BANDS].sum() > _HISS_DB:
            evidence = _HISS[min(self._hisses, len(_HISS) - 1)]
            self._hisses += 1
        else:
            self._hisses = 0
            evidence = min(2.0, max(-0.3, _PER_PITCH * (pitch - _VOICED)))
        if line.echo_dbov > SILENCE_DBOV:  # just above what echo explains is weak evidence
            evidence = min(evidence, (line.level_dbov - line.echo_dbov) / _PER_ECHO_DB)
        return evidence


_TONE_SHARE = 0.85
_TONE_WIDTH = 3  # bins to each side: the taper's main lobe
_DTMF_LOW_BINS = slice(int(640 / _BIN_HZ), int(1000 / _BIN_HZ))
_DTMF_HIGH_BINS = slice(int(1150 / _BIN_HZ), int(1700 / _BIN_HZ))


def _is_tone(squares: NDArray[np.float64]) -> bool:
    """Nearly all power in one peak of each DTMF group: a key, not a voice, however periodic."""
    power = squares[::2] + squares[1::2]
    low = _DTMF_LOW_BINS.start + int(power[_DTMF_LOW_BINS].argmax())
    high = _DTMF_HIGH_BINS.start + int(power[_DTMF_HIGH_BINS].argmax())
    peaks = [float(power[at - _TONE_WIDTH : at + _TONE_WIDTH + 1].sum()) for at in (low, high)]
    return sum(peaks) > _TONE_SHARE * float(power.sum()) and min(peaks) > 0.02 * max(peaks)


_SILERO_WINDOW, _SILERO_CONTEXT = 256, 32
_SILERO_NOT, _SILERO_PER_VOICE, _SILERO_MOST = 0.3, 10.0, 4.0  # 0.7 or more decides alone, 0.5 needs another
_SILERO_AFTER_TONE = 5  # frames: so long it may go on hearing a key that was released


class SileroDetector:
    """The same questions, the voice judged by the Silero network (MIT licence) at 8 kHz. An extra.

    Raises RuntimeError, saying what to install, when onnxruntime or the network is missing.
    """

    def __init__(self, min_speech_ms: int = 60, hangover_ms: int = 400) -> None:
        self._session = _silero_session()
        self._line = _Line()
        self._edges = _Edges(min_speech_ms, hangover_ms)
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
        self._rate = np.array(RATE_HZ, dtype=np.int64)
        self._input = np.zeros((1, _SILERO_CONTEXT + _SILERO_WINDOW), dtype=np.float32)
        self._waiting: NDArray[np.float32] = np.zeros(0, dtype=np.float32)
        self._after_tone = _SILERO_AFTER_TONE

    @property
    def speaking(self) -> bool:
        return self._edges.speaking

    @property
    def echo(self) -> EchoGuard:
        """What was learned of this call's echo."""
        return self._line.echo

    def push(self, samples: NDArray[np.int16], played_dbov: float) -> SpeechEdge | None:
        line = self._line
        line.push(samples, played_dbov)
        evidence = 0.0
        self._waiting = np.concatenate([self._waiting, samples * np.float32(1 / 32768.0)])
        if len(self._waiting) >= _SILERO_WINDOW:
            voice = self._judge(self._waiting[:_SILERO_WINDOW])
            self._waiting = self._waiting[_SILERO_WINDOW:]
            evidence = min(_SILERO_MOST, max(_QUIET, _SILERO_PER_VOICE * (voice - _SILERO_NOT)))
        if line.loud and _is_tone(line.squares):
            self._after_tone = 0
        else:
            self._after_tone += 1
        if not line.audible or self._after_tone < _SILERO_AFTER_TONE:
            evidence = min(evidence, _QUIET)
        elif line.echo_dbov > SILENCE_DBOV:
            evidence = min(evidence, (line.level_dbov - line.echo_dbov) / _PER_ECHO_DB)
        # Sure of a voice, the network also outvotes the level: speech below the noise goes on.
        return self._edges.push(evidence, line.loud or evidence >= _SILERO_MOST, line.fresh)

    def _judge(self, window: NDArray[np.float32]) -> float:
        self._input[0, :_SILERO_CONTEXT] = self._input[0, -_SILERO_CONTEXT:]
        self._input[0, _SILERO_CONTEXT:] = window
        output, state = self._session.run(None, {"input": self._input, "state": self._state, "sr": self._rate})
        self._state[:] = state
        return float(output[0, 0])


@lru_cache(maxsize=1)
def _silero_session() -> Any:
    """One session for the process: it is stateless, the state goes in and out with every run."""
    try:
        import onnxruntime
    except ImportError:
        raise RuntimeError(
            "the silero detector needs onnxruntime: pip install 'offhook[silero]' "
            "(or choose the energy detector, which needs nothing)"
        ) from None
    # Not imported: the package itself wants torch. Its wheel is only where the network comes in.
    package = importlib.util.find_spec("silero_vad")
    folder = (
        Path(next(iter(package.submodule_search_locations))) if package and package.submodule_search_locations else None
    )
    if folder is None or not (folder / "data" / "silero_vad.onnx").is_file():
        raise RuntimeError(
            "the silero detector needs the network from the silero-vad wheel: pip install 'offhook[silero]' "
            "and pip install --no-deps silero-vad (without --no-deps it brings torch, which is not used)"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # 60 us of work: threads only cost
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(folder / "data" / "silero_vad.onnx"), options, providers=["CPUExecutionProvider"]
    )
