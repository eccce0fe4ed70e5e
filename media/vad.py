"""Is the caller speaking? Speech edges out of 20 ms frames, while the agent may be playing.

Three questions are asked of every frame, each by a part of its own:

- Is it louder than this line's background? `offhook.media.background`: twelve bands, each over its own tracked
  floor, and the sum of what rises above them against what the background itself does.
- Could it be the agent's own voice? `offhook.media.echo.EchoGuard`, which learns how loud that comes back here.
- Is it a voice? `EnergyDetector` looks for pitch, `SileroDetector` asks a small neural network.

`_Edges` adds the answers up and says when speech began and ended.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offhook.media.background import FRAME_SAMPLES, Background, Spectra, hear
from offhook.media.echo import EchoGuard
from offhook.media.mulaw import RATE_HZ, SILENCE_DBOV

__all__ = ["EnergyDetector", "SileroDetector", "SpeechDetector", "SpeechEdge"]

_FRAME = FRAME_SAMPLES
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

    @staticmethod
    def push_all(
        detectors: Sequence[Any], frames: Sequence[NDArray[np.int16]], played_dbov: Sequence[float]
    ) -> list[SpeechEdge | Exception | None]:
        """`push` for many detectors of this class at once, none twice: at 16 a quarter of the time for each frame.

        The edges are the same however the detectors are grouped. What one detector raises stands in its place; the call
        itself raises only before any of them has heard its frame.
        """
        ...


def _alone(found: list[SpeechEdge | Exception | None]) -> SpeechEdge | None:
    [edge] = found
    if isinstance(edge, Exception):
        raise edge
    return edge


_ENOUGH = 4.0  # two frames that are surely a voice, or four that rather are
_MOST = _ENOUGH + 2.0
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
        score = self._score + evidence
        self._score = score = 0.0 if score < 0.0 else _MOST if score > _MOST else score
        if not self.speaking:
            if score >= _ENOUGH and self._now - self._began >= self._shortest:
                self.speaking, self._last_speech = True, self._now
                return SpeechEdge(True, self._began, self._now)
        elif self._now - self._last_speech >= self._hangover:
            self.speaking = False
            self._score = 0.0
            return SpeechEdge(False, self._last_speech, self._now)
        return None


_VOICED = 0.5  # of a frame's pitch
_PER_PITCH = 10.0
_HISS_DB = 12.0
_HISS = (0.8, 1.4, 2.0)  # an s or an f lasts; a key stroke is over in a frame or two
_OVER_ECHO_DB, _PER_ECHO_DB = 2.25, 0.375  # nothing at 2.25 dB above the bound, a voice for sure at 3


class EnergyDetector:
    """The default detector: louder than background and echo, and pitched or hissing. Numpy alone.

    `min_speech_ms`: how long speech must have lasted before it counts. `hangover_ms`: how long a pause must be
    to end it. Both are multiples of 20 ms; finer is rounded up by the frames themselves.
    """

    def __init__(self, min_speech_ms: int = 60, hangover_ms: int = 400) -> None:
        self._line = Background()
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
        return _alone(self.push_all([self], [samples], [played_dbov]))

    @staticmethod
    def push_all(
        detectors: Sequence[EnergyDetector], frames: Sequence[NDArray[np.int16]], played_dbov: Sequence[float]
    ) -> list[SpeechEdge | Exception | None]:
        spectra = hear([detector._line for detector in detectors], frames, played_dbov)
        loud = spectra.loud
        pitches = iter(spectra.pitches(loud) if loud else ())
        found: list[SpeechEdge | Exception | None] = []
        for row, detector in enumerate(detectors):
            try:
                line = detector._line
                if line.loud:
                    evidence = detector._evidence(next(pitches), spectra, row)
                    found.append(detector._edges.push(evidence, True, line.fresh))
                elif row in spectra.failed:
                    found.append(spectra.failed[row])
                else:
                    detector._hisses = 0
                    found.append(detector._edges.push(_QUIET, False))
            except Exception as error:
                found.append(error)
        return found

    def _evidence(self, pitch: float, spectra: Spectra, row: int) -> float:
        line = self._line
        if pitch > _VOICED and spectra.is_tone(row):
            return _QUIET
        if line.hiss_db > _HISS_DB:
            evidence = _HISS[min(self._hisses, len(_HISS) - 1)]
            self._hisses += 1
        else:
            self._hisses = 0
            evidence = min(2.0, max(-0.3, _PER_PITCH * (pitch - _VOICED)))
        if line.echo_dbov > SILENCE_DBOV:  # just above what echo explains is weak evidence
            evidence = min(evidence, (line.level_dbov - line.echo_dbov - _OVER_ECHO_DB) / _PER_ECHO_DB)
        return evidence


_SILERO_WINDOW, _SILERO_CONTEXT = 256, 32
_SILERO_NOT, _SILERO_PER_VOICE, _SILERO_MOST = 0.3, 10.0, 4.0  # 0.7 or more decides alone, 0.5 needs another
_SILERO_AFTER_TONE = 5  # frames: so long it may go on hearing a key that was released


class SileroDetector:
    """The same questions, the voice judged by the Silero network (MIT licence) at 8 kHz. An extra.

    Raises RuntimeError, saying what to install, when onnxruntime or the network is missing.
    """

    def __init__(self, min_speech_ms: int = 60, hangover_ms: int = 400) -> None:
        self._session = _silero_session()
        self._line = Background()
        self._edges = _Edges(min_speech_ms, hangover_ms)
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
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
        return _alone(self.push_all([self], [samples], [played_dbov]))

    @staticmethod
    def push_all(
        detectors: Sequence[SileroDetector], frames: Sequence[NDArray[np.int16]], played_dbov: Sequence[float]
    ) -> list[SpeechEdge | Exception | None]:
        spectra = hear([detector._line for detector in detectors], frames, played_dbov)
        failed = dict(spectra.failed)
        full = [row for row, detector in enumerate(detectors) if row not in failed and detector._take(frames[row])]
        voices: dict[int, float] = {}
        try:
            voices = dict(zip(full, _judged([detectors[row] for row in full]), strict=True))
        except Exception as error:
            failed.update(dict.fromkeys(full, error))
        found: list[SpeechEdge | Exception | None] = []
        for row, detector in enumerate(detectors):
            try:
                found.append(failed[row] if row in failed else detector._decide(voices.get(row), spectra, row))
            except Exception as error:
                found.append(error)
        return found

    def _take(self, samples: NDArray[np.int16]) -> bool:
        """Whether a window is full with these: it stands in `_input`, behind the end of the one before."""
        self._waiting = np.concatenate([self._waiting, samples * np.float32(1 / 32768.0)])
        if len(self._waiting) < _SILERO_WINDOW:
            return False
        self._input[0, :_SILERO_CONTEXT] = self._input[0, -_SILERO_CONTEXT:]
        self._input[0, _SILERO_CONTEXT:] = self._waiting[:_SILERO_WINDOW]
        self._waiting = self._waiting[_SILERO_WINDOW:]
        return True

    def _decide(self, voice: float | None, spectra: Spectra, row: int) -> SpeechEdge | None:
        line = self._line
        tone = line.loud and spectra.is_tone(row)
        evidence = 0.0
        if voice is not None:
            evidence = min(_SILERO_MOST, max(_QUIET, _SILERO_PER_VOICE * (voice - _SILERO_NOT)))
        if tone:
            self._after_tone = 0
        else:
            self._after_tone += 1
        if not line.audible or self._after_tone < _SILERO_AFTER_TONE:
            evidence = min(evidence, _QUIET)
        elif line.echo_dbov > SILENCE_DBOV:
            evidence = min(evidence, (line.level_dbov - line.echo_dbov - _OVER_ECHO_DB) / _PER_ECHO_DB)
        # Sure of a voice, the network also outvotes the level: speech below the noise goes on.
        return self._edges.push(evidence, line.loud or evidence >= _SILERO_MOST, line.fresh)


def _judged(detectors: Sequence[SileroDetector]) -> list[float]:
    """How sure the network is of a voice in each one's window, 0 to 1: at 10 two fifths of the time for each."""
    if not detectors:
        return []
    windows = np.concatenate([detector._input for detector in detectors])
    states = np.concatenate([detector._state for detector in detectors], axis=1)
    given = {"input": windows, "state": states, "sr": np.array(RATE_HZ, dtype=np.int64)}
    output, states = detectors[0]._session.run(None, given)
    for row, detector in enumerate(detectors):
        detector._state[:, 0] = states[:, row]
    voices: list[float] = output[:, 0].tolist()
    return voices


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
