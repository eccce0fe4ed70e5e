"""Recorded prompts of professional speakers: the sounds of Asterisk, where Debian's packages of them are installed.

They are not part of Offhook: their licences (CC BY and CC BY-SA 3.0) name the speakers and are not Apache's. A prompt
has a name such as `en/vm-intro` or `it/digits/7`; its words are not in the packages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np

from offhook.gateway.errors import nearest
from offhook.gateway.rehearsal.phone.voice import (
    Samples,
    VoiceError,
    audible_span,
    cached,
    levelled,
    levels_dbfs,
    plain,
    trimmed,
)
from offhook.media.wav import read_wav

__all__ = ["SETS", "SOUNDS_DIR", "PromptSet", "names", "prompt", "stand_in"]

SOUNDS_DIR = Path("/usr/share/asterisk/sounds")
RATE_HZ = 8_000


@dataclass(frozen=True, slots=True)
class PromptSet:
    """One speaker's recordings: their folder in `SOUNDS_DIR`, and the Debian package."""

    folder: str
    package: str
    speaker: str
    licence: str


SETS = MappingProxyType(
    {
        "en": PromptSet("en_US_f_Allison", "asterisk-core-sounds-en-wav", "Allison Smith", "CC BY-SA 3.0"),
        "es": PromptSet("es_MX_f_Allison", "asterisk-core-sounds-es-wav", "Allison Smith", "CC BY-SA 3.0"),
        "fr": PromptSet("fr_CA_f_June", "asterisk-core-sounds-fr-wav", "June Wallack", "CC BY-SA 3.0"),
        "it": PromptSet("it_IT_m_Carlo", "asterisk-core-sounds-it-wav", "Carlo Flora", "CC BY 3.0"),
        "ru": PromptSet("ru_RU_f_IvrvoiceRU", "asterisk-core-sounds-ru-wav", "ivrvoice.ru", "CC BY 3.0"),
    }
)

# A caller who pauses longer than this has ended their turn for many detectors: such prompts stand in for no line.
_PAUSE_MAX_MS = 300
_BELOW_DB = 30.0
_NOT_SPEECH = ("2tone", "beep", "confbridge-join", "confbridge-leave", "silence")
# Longer lines are joined from phrases of these lengths, as far apart as a speaker's words are.
_PHRASE_S, _JOINT_S, _LONGEST_S = (1.8, 3.6), 0.1, 4.5
_NEAR_S = 0.06


def names(language: str) -> list[str]:
    """The prompts of a language that are installed, without the language; empty when it is not installed."""
    folder = _folder(language)
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.wav"))


def prompt(name: str) -> Path:
    """The WAV file of a prompt, such as `en/vm-intro`, at the level of all lines. Raises `VoiceError`."""
    language, _, rest = name.partition("/")
    if language not in SETS or not rest:
        raise VoiceError(
            f"no prompt {name!r}: write LANGUAGE/NAME, such as en/vm-intro; the languages are {', '.join(SETS)}"
        )
    known = _installed(language)
    if rest not in known:
        raise VoiceError(
            f"no prompt {name!r}; {nearest(rest, known)}`offhook voices list {language}` shows all {len(known)}"
        )
    return cached(f"prompt-{language}", [name, 1], RATE_HZ, lambda: _sound(language, rest))


def stand_in(language: str, text: str, length_ms: float) -> Path:
    """Speech of a prompt speaker in place of a line: about as long, the same for the same text. Raises `VoiceError`.

    The words are others: it shows how speech of people is detected, interrupted and cut, not how it is understood.
    """
    _installed(language)

    def make() -> Samples:
        joint = np.zeros(round(_JOINT_S * RATE_HZ), dtype=np.int16)
        parts: list[Samples] = []
        for name in _phrases(_speech(language), plain(text), length_ms / 1000):
            parts += [joint, _sound(language, name)]
        return np.concatenate(parts[1:])

    return cached(f"people-{language}", [plain(text), round(length_ms), 1], RATE_HZ, make)


def _phrases(lengths_s: dict[str, float], text: str, length_s: float) -> list[str]:
    """Prompts that last `length_s` together, chosen by the text."""
    chosen: list[str] = []
    middle = [name for name, own_s in lengths_s.items() if _PHRASE_S[0] <= own_s <= _PHRASE_S[1]]
    while length_s > _LONGEST_S:
        chosen.append(_drawn(middle, f"{text} {len(chosen)}"))
        length_s -= lengths_s[chosen[-1]] + _JOINT_S
    away_s = {name: abs(own_s - length_s) for name, own_s in lengths_s.items()}
    least_s = min(away_s.values())
    near = [name for name, off_s in away_s.items() if off_s <= max(_NEAR_S, least_s)]
    return [*chosen, _drawn(near, text)]


def _drawn(names: list[str], text: str) -> str:
    return names[int.from_bytes(sha256(text.encode()).digest()[:8], "big") % len(names)]


@cache
def _speech(language: str) -> dict[str, float]:
    """Seconds of each prompt that is speech without a long pause, by name."""
    found = {}
    for name in names(language):
        if "/" in name or any(part in name for part in _NOT_SPEECH):
            continue
        try:
            samples = _sound(language, name)
        except VoiceError:  # a few are empty: ru/is
            continue
        first, last = audible_span(samples, RATE_HZ)
        if last and _longest_pause_ms(samples[first:last]) <= _PAUSE_MAX_MS:
            found[name] = (last - first) / RATE_HZ
    return found


def _longest_pause_ms(samples: Samples) -> int:
    """The longest stretch below the level of speech, in steps of 10 ms."""
    level = levels_dbfs(samples, RATE_HZ)
    loud = np.flatnonzero(level >= level.max() - _BELOW_DB)
    return int(np.diff(loud).max(initial=1) - 1) * 10


def _sound(language: str, name: str) -> Samples:
    """A prompt at the level of all lines, without the silence around it. Raises `VoiceError`."""
    path = _folder(language) / f"{name}.wav"
    try:
        samples, rate_hz = read_wav(path)
    except (OSError, ValueError) as error:
        raise VoiceError(str(error)) from None
    if rate_hz != RATE_HZ:
        raise VoiceError(f"{path}: {rate_hz} Hz: reinstall {SETS[language].package}, whose prompts have {RATE_HZ}")
    return levelled(trimmed(samples, rate_hz), rate_hz)


def _installed(language: str) -> list[str]:
    """The names of an installed language. Raises `VoiceError`."""
    found = names(language)
    if not found:
        raise VoiceError(
            f"the prompts of {language!r} are not installed: run `offhook voices install {language}` "
            f"(Debian's {SETS[language].package})"
        )
    return found


def _folder(language: str) -> Path:
    return Path(os.path.join(SOUNDS_DIR, SETS[language].folder))
