"""Who speaks a scenario's lines: a synthesiser, or people whose recordings are installed.

`voice:` is `espeak` (the default), `people` (an Italian caller, an English agent), the language of a set of prompts,
or one of these for `caller` and `agent` each. Recordings stand in for a line: speech of a person that lasts as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from offhook.gateway.errors import OperatorError, nearest
from offhook.gateway.rehearsal.phone import voice
from offhook.gateway.rehearsal.phone.prompts import SETS, prompt, stand_in
from offhook.gateway.yamlfile import YamlFile
from offhook.media.wav import read_wav

__all__ = ["CHOICES", "PROMPT", "Choice", "LineSounds", "Side", "Voices", "voices_named"]

Choice = Literal["espeak", "people", "en", "es", "fr", "it", "ru"]
CHOICES: tuple[str, ...] = get_args(Choice)
Side = Literal["caller", "agent"]
assert set(SETS) < set(CHOICES)
PROMPT = ("prompt", "text")  # the fields of a recorded prompt in place of a line
_PEOPLE = {"caller": "it", "agent": "en"}  # a man and a woman
_MS_PER_LETTER = 60.0  # as the model's hum


@dataclass(frozen=True, slots=True)
class Voices:
    """Who speaks for each side."""

    caller: Choice = "espeak"
    agent: Choice = "espeak"

    def person(self, line: str, who: Side, length_ms: float | None = None) -> Path | None:
        """The recording of a person in place of this line; None where it is synthesised. Raises `VoiceError`.

        `length_ms`: how long it lasts, if the scenario says so.
        """
        choice = self.caller if who == "caller" else self.agent
        if choice == "espeak":
            return None
        language = _PEOPLE[who] if choice == "people" else choice
        return stand_in(language, line, _usual_ms(line, who) if length_ms is None else length_ms)


def voices_named(name: str) -> Voices | None:
    """The same choice for both sides; None for "". Raises `OperatorError`."""
    if not name:
        return None
    if name not in CHOICES:
        raise OperatorError(f"--voice: no voice {name!r}; {nearest(name, CHOICES)}there are {', '.join(CHOICES)}")
    return Voices(name, name)  # type: ignore[arg-type]


class LineSounds:
    """The sounds of a scenario's lines. Those that are missing are errors of the file, before the call is placed."""

    def __init__(self, file: YamlFile, directory: Path, voices: Voices) -> None:
        self._file, self._directory, self._voices = file, directory, voices

    def given(self, arguments: dict[str, Any], where: list[Any]) -> Path | None:
        """Take a `sound`, or a prompt whose words become the `line`, from a caller's step; None without either."""
        said = {name: arguments.pop(name) for name in PROMPT if name in arguments}
        if said:
            if "line" in arguments or "sound" in arguments:
                raise self._file.error("takes either a prompt (with its text), or a line (with its sound)", where)
            arguments["line"], sound = self._recorded(said, where)
            return sound
        if "sound" not in arguments:
            return None
        path = self._file.convert(arguments.pop("sound"), str, [*where, "sound"])
        with self._cured([*where, "sound"]):
            voice.line(self._directory / path, 8_000)
        return self._directory / path

    def of_caller(self, line: str, where: list[Any]) -> Path | None:
        """The sound of a caller's line; None: it is synthesised, or names a WAV file."""
        if not line.lower().endswith(".wav"):
            with self._cured(where):
                if person := self._voices.person(line, "caller"):
                    return person
        self._sound(line, "caller", where)
        return None

    def of_model(self, action: dict[str, Any], where: list[Any], who: Side = "agent") -> None:
        """Give what a model says, as this side of the call, its `sound`, if it has none and is no hum."""
        say, length_ms, where = action.get("say"), action.get("length_ms"), [*where, "say"]
        if isinstance(say, Mapping):
            if "sound" in action or "length_ms" in action:
                raise self._file.error("a prompt takes the place of sound and length_ms", where)
            action["say"], sound = self._recorded(say, where)
            action["sound"] = str(sound)
        elif isinstance(say, str) and "sound" not in action:
            with self._cured(where):
                person = self._voices.person(say, who, length_ms if isinstance(length_ms, int | float) else None)
            if person is not None:
                action["sound"] = str(person)
            elif "length_ms" not in action:
                action["sound"] = str(self._sound(say, who, where).resolve())

    def _recorded(self, said: Mapping[str, Any], where: list[Any]) -> tuple[str, Path]:
        """The words and the sound of a recorded prompt. Its name stands for words that are not given."""
        for name, value in said.items():
            if name not in PROMPT or not isinstance(value, str):
                raise self._file.error("write a prompt and its words: {prompt: en/hello, text: Hello.}", [*where, name])
        if "prompt" not in said:
            raise self._file.error("needs a prompt, such as {prompt: en/hello, text: Hello.}", where)
        with self._cured([*where, "prompt"]):
            sound = prompt(said["prompt"])
        return said.get("text", said["prompt"]), sound

    def _sound(self, line: str, who: str, where: list[Any]) -> Path:
        with self._cured(where):
            if line.lower().endswith(".wav"):
                voice.line(self._directory / line, 8_000)
                return self._directory / line
            return voice.wav_for(line, who)

    @contextmanager
    def _cured(self, where: list[Any]) -> Iterator[None]:
        try:
            yield
        except voice.VoiceError as error:
            raise self._file.error(str(error), where) from None


def _usual_ms(line: str, who: str) -> float:
    """The duration of a line as it is bundled, or as it would take."""
    if name := voice.bundled(who).get(voice.plain(line)):
        samples, rate_hz = read_wav(voice.SOUNDS / name)
        return 1000 * len(samples) / rate_hz
    return max(300.0, _MS_PER_LETTER * len(line))
