"""The rehearsal model's voice activity detection by energy, and its speech, cut into ready chunks."""

import math
import wave
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pybase64

from offhook.gateway.rehearsal.model.script import Say, ScriptError
from offhook.gateway.rehearsal.model.wire import AutomaticDetection

__all__ = ["OUTPUT_RATE_HZ", "Chunk", "SpeechEnd", "SpeechStart", "VoiceActivity", "chunks_of"]

OUTPUT_RATE_HZ = 24_000
_WINDOW_MS = 20
_FULL_SCALE_DB = 20.0 * math.log10(32768.0)
# The floor rises to this level at most: louder steady sound counts as speech.
_FLOOR_MAX_DBFS = -35.0
_FLOOR_WINDOWS = 100  # 2 s
_OVER_FLOOR_DB = 10.0
_HYSTERESIS_DB = 6.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """`data` is base64 of PCM16 at 24 kHz; `starts_ms` and `length_ms` are its position in the sound; `energy` is the
    sum of its samples' squares over their rate.
    """

    data: bytes
    starts_ms: float
    length_ms: float
    energy: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeechStart:
    """`onset_ms`: position in the received audio at which the speech began (the decision is later)."""

    onset_ms: float


@dataclass(frozen=True, slots=True)
class SpeechEnd:
    """`speech_ms`: duration of the speech in the turn; `quiet_ms`: silence after it."""

    speech_ms: float
    quiet_ms: float


class VoiceActivity:
    """Automatic activity detection over PCM16: an energy gate over a tracked floor.

    A start is committed after `prefix_padding_ms` of speech, an end after `silence_duration_ms` of silence. Time is
    counted in samples: while a client sends no audio, no end is detected. The service does not publish its defaults;
    ours are below.
    """

    def __init__(self, detection: AutomaticDetection, vertex: bool, above_dbfs: float | None) -> None:
        # Unspecified sensitivities are LOW on Vertex and HIGH on the Developer API.
        slow_start = detection.start_of_speech_sensitivity.endswith(("LOW", "UNSPECIFIED" if vertex else "LOW"))
        slow_end = detection.end_of_speech_sensitivity.endswith(("LOW", "UNSPECIFIED" if vertex else "LOW"))
        prefix_ms, silence_ms = detection.prefix_padding_ms, detection.silence_duration_ms
        self._above_dbfs = (-30.0 if slow_start else -38.0) if above_dbfs is None else above_dbfs
        self._prefix_ms = (200.0 if slow_start else 100.0) if prefix_ms is None else float(prefix_ms)
        self._silence_ms = (800.0 if slow_end else 500.0) if silence_ms is None else float(silence_ms)
        self._rate_hz = 0
        self._rest = b""
        self._heard_ms = 0.0
        self._levels: deque[float] = deque(maxlen=_FLOOR_WINDOWS)
        self._run_ms = 0.0
        self._quiet_ms = 0.0
        self._speech_ms = 0.0
        self.speaking = False
        self.heard_voice = False  # whether the last audio pushed had speech in it

    def push(self, pcm: bytes, rate_hz: int) -> list[SpeechStart | SpeechEnd]:
        """Feed audio of any length; returns decisions, usually none."""
        if rate_hz != self._rate_hz:
            self._rate_hz, self._rest = rate_hz, b""
        data = self._rest + pcm if self._rest else pcm
        size = rate_hz * _WINDOW_MS // 1000 * 2
        count = len(data) // size
        self._rest = data[count * size :]
        self.heard_voice = False
        decided: list[SpeechStart | SpeechEnd] = []
        samples = np.frombuffer(data, dtype="<i2", count=count * size // 2).astype(np.float32)
        for start in range(0, len(samples), size // 2):
            self._window(_level_dbfs(samples[start : start + size // 2]), decided)
        return decided

    def _window(self, level_dbfs: float, decided: list[SpeechStart | SpeechEnd]) -> None:
        self._levels.append(level_dbfs)
        self._heard_ms += _WINDOW_MS
        floor_dbfs = min(min(self._levels), _FLOOR_MAX_DBFS)
        gate_dbfs = max(self._above_dbfs, floor_dbfs + _OVER_FLOOR_DB)
        voiced = level_dbfs > (gate_dbfs - _HYSTERESIS_DB if self.speaking else gate_dbfs)
        if not self.speaking:
            self._run_ms = self._run_ms + _WINDOW_MS if voiced else max(0.0, self._run_ms - 2 * _WINDOW_MS)
            if voiced and self._run_ms >= self._prefix_ms:
                self.speaking = self.heard_voice = True
                self._speech_ms, self._quiet_ms = self._run_ms, 0.0
                decided.append(SpeechStart(self._heard_ms - self._run_ms))
            return
        if voiced:
            self.heard_voice = True
            self._speech_ms += _WINDOW_MS
            self._quiet_ms = 0.0
            return
        self._quiet_ms += _WINDOW_MS
        if self._quiet_ms >= self._silence_ms:
            decided.append(self._ended())

    def flush(self) -> SpeechEnd | None:
        """End a turn under way, because the client has announced a pause of its stream."""
        return self._ended() if self.speaking else None

    def _ended(self) -> SpeechEnd:
        self.speaking, self._run_ms = False, 0.0
        return SpeechEnd(self._speech_ms, self._quiet_ms)


def _level_dbfs(samples: np.ndarray) -> float:
    """RMS without the mean, because a DC offset is no voice; -120 for silence."""
    mean = float(samples.sum()) / len(samples)
    power = float(samples.dot(samples)) / len(samples) - mean * mean
    return 10.0 * math.log10(max(power, 1e-3)) - _FULL_SCALE_DB


def chunks_of(say: Say) -> tuple[Chunk, ...]:
    """The sound of a Say, cut and encoded once per file, pattern and cut.

    Raises ScriptError when the file is not a WAV of 16-bit PCM.
    """
    return _chunks(say.sound, 0.0 if say.sound else _hum_ms(say), say.chunk_ms, say.cut_ms)


def line_length_ms(say: Say) -> float:
    """Playback duration in ms. Raises ScriptError as `chunks_of` does."""
    length_ms = len(_sound(say.sound)) * 1000 / OUTPUT_RATE_HZ if say.sound else _hum_ms(say)
    return length_ms if say.cut_ms is None else min(length_ms, say.cut_ms)


def _hum_ms(say: Say) -> float:
    return say.length_ms if say.length_ms is not None else max(300.0, 60.0 * len(say.text))


@lru_cache(maxsize=512)
def _chunks(
    sound: Path | None, length_ms: float, pattern_ms: tuple[float, ...], cut_ms: float | None
) -> tuple[Chunk, ...]:
    pcm = _hum(length_ms) if sound is None else _sound(sound)
    if cut_ms is not None:
        pcm = pcm[: round(cut_ms * OUTPUT_RATE_HZ / 1000)]
    chunks = []
    start = turn = 0
    while start < len(pcm):
        size = max(1, round(pattern_ms[turn % len(pattern_ms)] * OUTPUT_RATE_HZ / 1000))
        part = pcm[start : start + size]
        chunks.append(
            Chunk(
                pybase64.b64encode(part.tobytes()),
                start * 1000 / OUTPUT_RATE_HZ,
                len(part) * 1000 / OUTPUT_RATE_HZ,
                float(np.sum(np.square(part.astype(np.float64)))) / OUTPUT_RATE_HZ,
            )
        )
        start, turn = start + size, turn + 1
    return tuple(chunks)


def _hum(length_ms: float) -> np.ndarray:
    """A signal that voice detectors classify as speech: a 120 Hz buzz in syllables, about -20 dBFS."""
    t = np.arange(round(length_ms * OUTPUT_RATE_HZ / 1000)) / OUTPUT_RATE_HZ
    buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    return np.asarray(np.round(4000 * buzz * syllables), dtype="<i2")


@lru_cache(maxsize=128)
def _sound(path: Path) -> np.ndarray:
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate_hz = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ScriptError(f"{path} is not a WAV file: {error}") from None
    if width != 2:
        raise ScriptError(f"{path} has {8 * width} bits a sample; give 16-bit PCM")
    pcm = np.frombuffer(data, dtype="<i2").reshape(-1, channels)[:, 0]
    if rate_hz == OUTPUT_RATE_HZ:
        return pcm
    from offhook.media.resample import resample  # imported only for sounds of another rate

    return np.asarray(resample(pcm, rate_hz, OUTPUT_RATE_HZ), dtype="<i2")
