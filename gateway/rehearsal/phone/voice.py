"""The sounds of a rehearsal: the lines that both sides speak, coughs, typing and line noise.

A line is real speech: a bundled recording if there is one of its text, else synthesised by espeak-ng, the system's or
that of the extra `voices` (once, then cached by content), or a WAV file. All sounds are 16-bit mono.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from offhook.gateway.errors import OperatorError
from offhook.media.resample import resample
from offhook.media.wav import read_wav, write_wav

__all__ = [
    "SOUNDS",
    "VOICES",
    "Samples",
    "VoiceError",
    "audible_span",
    "bundled",
    "cached",
    "cough",
    "espeak_command",
    "keyboard",
    "levelled",
    "levels_dbfs",
    "line",
    "noise",
    "plain",
    "speak",
    "trimmed",
    "wav_for",
]

Samples = NDArray[np.int16]

SOUNDS = Path(__file__).parents[1] / "sounds"

# espeak-ng voice, speed (words per minute), pitch (0 to 99), and the sample rate of its lines: a telephone transmits
# the caller at 8 kHz, the model speaks at 24 kHz.
VOICES = MappingProxyType(
    {
        "caller": ("en-us+m3", 165, 38, 8_000),
        "agent": ("en-gb-x-rp+f2", 165, 58, 24_000),
    }
)

_ACTIVE_DBFS = -21.0  # level of the speech without its pauses, so that all lines of a call are equally loud
_PEAK = 0.85 * 32767
_FRAME_S = 0.010
_AUDIBLE_DB = 30.0  # below the line's loudest 10 ms
_LEAD_S, _TAIL_S = 0.030, 0.080  # silence kept before and after the speech


class VoiceError(OperatorError):
    """There is no sound for this line; the message has the fix."""


def line(what: str | Path, rate_hz: int, voice: str = "caller") -> Samples:
    """A line at `rate_hz`: a text spoken in this voice ("caller", "agent"), or a WAV file as it is.

    A `Path`, or a text that ends in ".wav", names a file. Read-only. Raises `VoiceError`.
    """
    path = Path(what) if isinstance(what, Path) or what.lower().endswith(".wav") else wav_for(what, voice)
    return _at_rate(path, rate_hz)


def wav_for(text: str, voice: str = "agent") -> Path:
    """The WAV file of this text: bundled, or synthesised by espeak-ng into the cache.

    Raises `VoiceError` if there is neither.
    """
    if voice not in VOICES:
        raise VoiceError(f"no voice {voice!r}; there are {', '.join(VOICES)}")
    found = bundled(voice).get(plain(text))
    if found:
        return SOUNDS / found
    setting = VOICES[voice]
    return cached(voice, [setting, plain(text), 1], setting[3], lambda: speak(text, voice))


def cached(kind: str, content: list[object], rate_hz: int, make: Callable[[], Samples]) -> Path:
    """The WAV file of a sound in the user's cache, made if there is none of this `content` (anything JSON) yet."""
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if base else Path.home() / ".cache") / "offhook" / "voice"
    path = folder / f"{kind}-{key}.wav"
    if not path.is_file():
        samples = make()
        folder.mkdir(parents=True, exist_ok=True)
        # Two rehearsals may speak the same line at once: whole files only.
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
            write_wav(part.name, samples, rate_hz)
        os.replace(part.name, path)
    return path


def espeak_command() -> list[str]:
    """How espeak-ng is run here: the system's program, else the library of `espeakng-loader`; empty without either."""
    if program := shutil.which("espeak-ng"):
        return [program]
    found = importlib.util.find_spec("espeakng_loader")
    if found is None or found.origin is None:
        return []
    library = {"win32": "espeak-ng.dll", "darwin": "libespeak-ng.dylib"}.get(sys.platform, "libespeak-ng.so")
    folder = Path(found.origin).parent
    # Isolated and without site-packages: it needs none of them, and starts in a third of the time.
    script = Path(__file__).with_name("espeak.py")
    return [sys.executable, "-I", "-S", str(script), str(folder / library), str(folder / "espeak-ng-data")]


def speak(text: str, voice: str = "caller") -> Samples:
    """The text spoken by espeak-ng, trimmed and levelled, at the voice's own rate. Raises `VoiceError`."""
    name, speed_wpm, pitch, rate_hz = VOICES[voice]
    command = espeak_command()
    if not command:
        raise VoiceError(
            f"no recording of {text!r}: install espeak-ng (pip install 'offhook[voices]', apt-get install espeak-ng, "
            "brew install espeak-ng) to have it spoken, or name a WAV file instead of the text"
        )
    with tempfile.TemporaryDirectory(prefix="offhook-voice-") as folder:
        raw = Path(folder) / "raw.wav"
        ran = subprocess.run(
            [*command, "-v", name, "-s", str(speed_wpm), "-p", str(pitch), "-w", str(raw), "--stdin"],
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        if ran.returncode or not raw.is_file():
            why = ran.stderr.strip().rpartition("\n")[2] or "no output"
            raise VoiceError(f"espeak-ng could not speak {text!r}: {why}")
        try:
            made, made_hz = read_wav(raw)
        except ValueError:  # a file without samples
            made, made_hz = np.zeros(0, np.int16), rate_hz
    samples = resample(made, made_hz, rate_hz)
    if not audible_span(samples, rate_hz)[1]:  # a text without a sound, such as "..."
        raise VoiceError(f"espeak-ng makes no sound of {text!r}")
    return levelled(trimmed(samples, rate_hz), rate_hz)


@cache
def bundled(voice: str) -> MappingProxyType[str, str]:
    """The bundled recordings of a voice: plain text (lower case, no punctuation) -> file name."""
    index = json.loads((SOUNDS / "lines.json").read_text(encoding="utf-8"))
    return MappingProxyType({plain(text): name for text, name in index.get(voice, {}).items()})


def audible_span(samples: Samples, rate_hz: int) -> tuple[int, int]:
    """`[first, last)` audible sample, found by 10 ms level; `(0, 0)` when all is silent."""
    levels = levels_dbfs(samples, rate_hz)
    if not len(levels) or levels.max() < -70.0:
        return 0, 0
    loud = np.flatnonzero(levels > max(-60.0, float(levels.max()) - _AUDIBLE_DB))
    frame = round(_FRAME_S * rate_hz)
    return int(loud[0]) * frame, min((int(loud[-1]) + 1) * frame, len(samples))


def cough(rate_hz: int, seed: int = 0) -> Samples:
    """Two bursts of breath, about 0.4 s in all: loud, short, without a voice in it."""
    rng = np.random.default_rng(seed)
    out = np.zeros(round(0.45 * rate_hz))
    for start_s, length_s, level in ((0.0, 0.16, 1.0), (0.24, 0.20, 0.7)):
        count = round(length_s * rate_hz)
        t = np.arange(count) / rate_hz
        shape = np.minimum(1.0, t / 0.008) * np.exp(-t / (length_s / 3.5))
        breath = _band(rng.standard_normal(count), rate_hz, 250.0, 3_000.0)
        at = round(start_s * rate_hz)
        out[at : at + count] += level * shape * breath / np.abs(breath).max()
    return _scaled(out, 0.35)


def keyboard(rate_hz: int, seconds: float = 2.0, seed: int = 0) -> Samples:
    """Typing: six strokes a second, a few milliseconds each."""
    rng = np.random.default_rng(seed)
    out = np.zeros(round(seconds * rate_hz))
    stroke = round(0.012 * rate_hz)
    decay = np.exp(-np.arange(stroke) / (0.003 * rate_hz))
    at = 0.05
    while (start := round(at * rate_hz)) + stroke < len(out):
        out[start : start + stroke] += rng.uniform(0.5, 1.0) * decay * rng.standard_normal(stroke)
        at += rng.uniform(0.09, 0.25)
    return _scaled(out, 0.2)


def noise(rate_hz: int, seconds: float, dbfs: float, seed: int = 0) -> Samples:
    """Room and line noise (pink above 50 Hz) at an RMS level, to be looped."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate_hz)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / rate_hz)
    spectrum /= np.sqrt(np.maximum(hz, 50.0))
    spectrum[hz < 50.0] = 0.0
    out = np.fft.irfft(spectrum, count)
    out *= 32768.0 * 10.0 ** (dbfs / 20.0) / np.sqrt(np.mean(out**2))
    return np.clip(np.rint(out), -32768, 32767).astype(np.int16)


@lru_cache(maxsize=256)
def _at_rate(path: Path, rate_hz: int) -> Samples:
    if not os.path.isfile(path):  # False also for what no file can be named
        raise VoiceError(f"no sound file at {path}")
    try:
        samples, own_hz = read_wav(path)
    except (OSError, ValueError) as error:
        raise VoiceError(str(error)) from None
    out = resample(samples, own_hz, rate_hz)
    out.setflags(write=False)
    return out


def plain(text: str) -> str:
    """A text as lines are found by it: lower case, no punctuation."""
    return " ".join(re.sub(r"[^\w']+", " ", text.lower()).split())


def levels_dbfs(samples: Samples, rate_hz: int) -> NDArray[np.float64]:
    """dBFS of each 10 ms (RMS, full-scale square is 0), a last partial frame included."""
    frame = round(_FRAME_S * rate_hz)
    padded = np.zeros(-(-len(samples) // frame) * frame)
    padded[: len(samples)] = samples
    power = np.mean((padded.reshape(-1, frame) / 32768.0) ** 2, axis=1)
    return np.asarray(10.0 * np.log10(power + 1e-10))


def trimmed(samples: Samples, rate_hz: int) -> Samples:
    """A line without the silence around it, but for a breath."""
    first, last = audible_span(samples, rate_hz)
    return samples[max(0, first - round(_LEAD_S * rate_hz)) : last + round(_TAIL_S * rate_hz)]


def levelled(samples: Samples, rate_hz: int) -> Samples:
    """A line at the level of all lines, without clicks at its ends."""
    levels = levels_dbfs(samples, rate_hz)
    if not len(levels):
        return samples
    active = levels[levels > levels.max() - 20.0]
    now_db = 10.0 * np.log10(np.mean(10.0 ** (active / 10.0)))
    gain = min(10.0 ** ((_ACTIVE_DBFS - now_db) / 20.0), _PEAK / max(1, int(np.abs(samples.astype(int)).max())))
    out = samples * gain
    fade = min(len(out), round(0.005 * rate_hz))  # no click at the cuts
    if fade:
        out[:fade] *= np.linspace(0.0, 1.0, fade)
        out[-fade:] *= np.linspace(1.0, 0.0, fade)
    return np.asarray(np.rint(out), dtype=np.int16)


def _band(samples: NDArray[np.float64], rate_hz: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    spectrum[(hz < low_hz) | (hz > high_hz)] = 0.0
    return np.asarray(np.fft.irfft(spectrum, len(samples)))


def _scaled(samples: NDArray[np.float64], peak: float) -> Samples:
    return np.asarray(np.rint(samples / np.abs(samples).max() * peak * 32767), dtype=np.int16)
