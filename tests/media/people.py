"""Recordings of people, for tests and benches of `media`: Debian's prompts of Asterisk, where they are installed.

Allison Smith (en, CC BY-SA 3.0), June Wallack (fr, CC BY-SA 3.0), Carlo Flora (it, CC BY 3.0), ivrvoice.ru (ru, CC BY
3.0). Read speech into a studio's microphone; all at 8 kHz, int16.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import numpy as np

from offhook.gateway.rehearsal.phone.prompts import names, prompt
from offhook.gateway.rehearsal.phone.voice import VoiceError
from offhook.media.wav import read_wav
from tests.media import signals
from tests.media.signals import RATE_HZ, Samples, to_level

# As with `signals.TUNING` and `signals.HELD_OUT`: constants were chosen on the first two, the others looked at last.
TUNING = ("fr", "ru")
HELD_OUT = ("en", "it")

_NO_SPEECH = ("tone", "beep", "silence", "confbridge", "/")


def installed(languages: tuple[str, ...]) -> bool:
    return all(names(language) for language in languages)


@lru_cache(maxsize=8)
def _shuffled(language: str) -> tuple[str, ...]:
    found = [name for name in names(language) if not any(part in name for part in _NO_SPEECH)]
    return tuple(np.random.default_rng(5).permutation(found).tolist())


@lru_cache(maxsize=1024)
def _recording(name: str) -> Samples:
    """Empty where the prompt holds no sound."""
    try:
        samples, _ = read_wav(prompt(name))
    except VoiceError:
        return signals.silence(0.0)
    return signals.telephone_band(samples)


def _recordings(language: str, least_s: float, most_s: float) -> Iterator[Samples]:
    for name in _shuffled(language):
        recording = _recording(f"{language}/{name}")
        if least_s <= len(recording) / RATE_HZ <= most_s:
            yield recording


@lru_cache(maxsize=8)
def utterances(languages: tuple[str, ...], each: int = 20) -> tuple[Samples, ...]:
    """Short lines of each speaker, the same ones every time."""
    return tuple(clip for language in languages for clip in islice(_recordings(language, 0.5, 3.0), each))


@lru_cache(maxsize=16)
def talk(language: str, seconds: float, dbov: float = -20.0) -> Samples:
    """Talking on and on, 0.1 to 0.6 s between the sentences."""
    rng, parts, length = np.random.default_rng(0), [], 0
    for name in _shuffled(language):
        sentence = _recording(f"{language}/{name}")
        if len(sentence) < 1.5 * RATE_HZ:
            continue
        parts += [sentence, signals.silence(float(rng.uniform(0.1, 0.6)))]
        length += len(parts[-2]) + len(parts[-1])
        if length >= seconds * RATE_HZ:
            break
    return to_level(np.resize(np.concatenate(parts), int(seconds * RATE_HZ)), RATE_HZ, dbov)


@lru_cache(maxsize=4)
def _crowd(languages: tuple[str, ...]) -> Samples:
    rng = np.random.default_rng(4)
    total = np.zeros(60 * RATE_HZ)
    for _ in range(6):
        for language in languages:
            total += np.roll(talk(language, 60.0, -26.0), int(rng.integers(60 * RATE_HZ)))
    return signals.add((total / 4).astype(np.int16))


def babble(languages: tuple[str, ...], seconds: float, dbov: float, seed: int = 4) -> Samples:
    """A dozen voices at once, far away."""
    start = int(np.random.default_rng(seed).integers(0, 60 * RATE_HZ))
    return signals.at_level(np.resize(np.roll(_crowd(languages), -start), int(seconds * RATE_HZ)), dbov)
