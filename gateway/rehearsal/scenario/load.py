"""A scenario: one rehearsed call as a file, and the frozen values it becomes.

    name: change of mind
    agent: receptionist.yaml        # or the agent itself, inline
    caller:
      steps:
        - wait_for_agent: end
        - say: I would like a table, please.     # or a WAV file: say: wish.wav
        - say: {prompt: en/hello, text: Hello}   # or a recorded prompt: `offhook voices list`
        - say_over: Wait, make that two.         # over the agent's voice
          after_ms: 1500                         # or at_word: table
        - hang_up
    carrier: {noise_dbfs: -55}
    model:                           # the script of the rehearsal model, see `model.script`
      replies:
        - {on: text, say: "Hello!"}
    expect:
      answered_within_ms: 2000
      end_reason: caller_hung_up

A `caller` who thinks has a persona and a goal instead of steps: see `scenario.thinking`.

`outbound: {to: "+15550101"}` has the gateway place the call; `caller` is then the called party. `others` are
further numbers that may be called, such as a transfer's target. Errors name file, line and field. A `say` of the
model without `sound` or `length_ms` is synthesised speech, or a person's: see `scenario.voices`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from offhook.gateway.agent.load import agent_from, load_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import FileError, OperatorError, nearest
from offhook.gateway.rehearsal.model.script import Say as ModelSay
from offhook.gateway.rehearsal.model.script import Script, ScriptError, script_from
from offhook.gateway.rehearsal.model.voice import line_length_ms
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import (
    Cough,
    Digit,
    HangUp,
    Keyboard,
    Pause,
    Say,
    SayOver,
    Step,
    WaitForAgent,
    WaitForEnd,
)
from offhook.gateway.rehearsal.phone.twilio_account import Callee
from offhook.gateway.rehearsal.scenario.expect import KINDS, Expectation
from offhook.gateway.rehearsal.scenario.thinking import PERSON, Judge, Thinker, read_judge, read_runs, read_thinker
from offhook.gateway.rehearsal.scenario.voices import Choice, LineSounds, Side, Voices
from offhook.gateway.text import safe_name
from offhook.gateway.yamlfile import YamlFile, parse_yaml, read_yaml, write_yaml

__all__ = [
    "CALLER",
    "FIELDS",
    "SCENARIOS",
    "STEPS",
    "Other",
    "OutboundPlan",
    "Scenario",
    "ScenarioError",
    "load_scenario",
    "parse_scenario",
]

SCENARIOS = Path(__file__).parents[1] / "scenarios"

# The name of each step, and the field that its value fills.
STEPS: dict[str, tuple[type, str | None]] = {
    "wait_for_agent": (WaitForAgent, "at"),
    "say": (Say, "line"),
    "say_over": (SayOver, "line"),
    "cough": (Cough, "over_after_ms"),
    "type_ms": (Keyboard, "ms"),
    "press": (Digit, "keys"),
    "pause_ms": (Pause, "ms"),
    "hang_up": (HangUp, None),
    "wait_for_end": (WaitForEnd, "timeout_ms"),
}
NUMBER, DIALLED = "+15550100", "+15550199"  # reserved for fiction

FIELDS = (
    "name", "about", "agent", "caller", "carrier", "model", "expect", "outbound", "others", "allow_outside_effects",
    "voice", "success", "judge", "runs", "must_pass",
)  # fmt: skip
CALLER = ("steps", "number", "dials", *PERSON)
_OTHER_STEPS = "steps"


class ScenarioError(FileError):
    """A scenario that cannot be used."""


@dataclass(frozen=True, slots=True)
class OutboundPlan:
    """The gateway places the call. `answers`, `answered_by`, `verdict_s`: see `twilio_account.Callee`."""

    to: str = NUMBER
    answers: Literal["answered", "busy", "no-answer", "failed"] = "answered"
    answered_by: str = "human"
    verdict_s: float = 1.0
    ring_s: float = 0.2
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Other:
    """A further party that may be called, apart from its steps."""

    answers: Literal["answered", "busy", "no-answer", "failed"] = "answered"
    ring_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Scenario:
    """One call to be rehearsed. `agent_file` is None for an agent written inline: then it is `agent_text`.

    `others`: the parties that can be called by REST, by number; None: the gateway gets no REST API. `thinker`: the
    caller, in place of steps; `judge` then decides besides `expect`.
    """

    name: str
    agent: Agent
    steps: tuple[Step, ...]
    model: Mapping[str, Any]  # for `script_from`, its lines already sounds
    carrier: Carrier
    about: str = ""
    agent_file: Path | None = None
    agent_text: str = ""
    expect: tuple[Expectation, ...] = ()
    number: str = NUMBER
    dials: str = DIALLED
    directory: Path = Path()
    outbound: OutboundPlan | None = None
    others: Mapping[str, Callee] | None = None
    allow_outside_effects: tuple[str, ...] = ()  # tools that act though the call is simulated; "*": all
    thinker: Thinker | None = None
    judge: Judge | None = None
    runs: int = 1
    must_pass: int = 1  # of the runs

    def script(self) -> Script:
        """The model's script."""
        return script_from(self.model, self.directory)

    def check_steps(self, what: str) -> None:
        """Raises `OperatorError` for a caller who thinks: `what` plays steps alone."""
        if self.thinker is not None:
            raise OperatorError(f"{self.name}: its caller thinks, and {what} plays callers with steps: choose another")


def load_scenario(path: str | Path, voices: Voices | None = None) -> Scenario:
    """Read and validate a scenario; a bare name finds a bundled one. Raises `ScenarioError`, `AgentFileError`.

    `voices` speak instead of those that the scenario names.
    """
    path = scenario_file(path)
    return _Reader(read_yaml(path, ScenarioError), path.resolve().parent, voices).scenario()


def scenario_file(path: str | Path) -> Path:
    """The file of a scenario; a bare name finds a bundled one. Raises `ScenarioError`."""
    path = Path(path)
    if path.suffix or os.path.exists(path):
        return path
    bundled = SCENARIOS / f"{path}.call.yaml"  # meant as a name
    if not os.path.isfile(bundled):
        names = [found.name.removesuffix(".call.yaml") for found in SCENARIOS.glob("*.call.yaml")]
        hint = f"no file and no bundled scenario of that name; {nearest(path, names)}".rstrip("; ")
        raise ScenarioError(str(path), hint)
    return bundled


def parse_scenario(text: str, *, path: str = "scenario.call.yaml", directory: Path = Path()) -> Scenario:
    """A scenario from YAML text; files it names are relative to `directory`."""
    return _Reader(parse_yaml(text, path=path, error=ScenarioError), directory).scenario()


class _Reader:
    """Makes a `Scenario` of a file's plain values."""

    def __init__(self, file: YamlFile, directory: Path, voices: Voices | None = None) -> None:
        self._file, self._directory = file, directory
        self._instead = voices

    def _name(self, given: Any) -> str:
        name: str = self._made(given, str, ["name"])
        if not safe_name(name):
            self._fail(
                "names a folder of results: write up to 100 characters without / \\ : and a dot in front", ["name"]
            )
        return name

    def scenario(self) -> Scenario:
        data = self._file.value
        self._mapping(data, [], FIELDS)
        for needed in ("agent", "caller", "model"):
            if needed not in data:
                self._fail(f"{needed} is missing", [])
        own = self._voices(data.get("voice", "espeak"))
        self._lines = LineSounds(self._file, self._directory, self._instead or own)
        agent, agent_file, agent_text = self._agent(data["agent"])
        caller = data["caller"]
        self._mapping(caller, ["caller"], CALLER)
        thinker = read_thinker(self._file, caller, self._spoken_by_caller)
        if thinker is None and (not isinstance(caller.get("steps"), list) or not caller["steps"]):
            self._fail("needs a list of steps, such as `- say: Hello`", ["caller", "steps"])
        model = self._model(data["model"], "model", "agent")
        steps = () if thinker else self._steps(caller["steps"], ["caller", "steps"], model)
        carrier = self._dataclass(Carrier, data.get("carrier") or {}, ["carrier"])
        outbound = None
        if "outbound" in data:
            if thinker:
                self._fail("a caller with a persona places the call: remove outbound, or give steps", ["outbound"])
            outbound = self._dataclass(OutboundPlan, data["outbound"] or {}, ["outbound"])
        runs, must_pass = read_runs(self._file, data)
        return Scenario(
            name=self._name(data.get("name", Path(self._file.path).name.partition(".")[0] or "scenario")),
            about=self._made(data.get("about", ""), str, ["about"]),
            agent=agent,
            agent_file=agent_file,
            agent_text=agent_text,
            steps=steps,
            number=self._made(caller.get("number", NUMBER), str, ["caller", "number"]),
            dials=self._made(
                caller.get("dials", agent.numbers[0] if agent.numbers else DIALLED),
                str,
                ["caller", "dials"],
            ),
            carrier=carrier,
            model=model,
            expect=self._expect(data.get("expect") or {}),
            directory=self._directory,
            outbound=outbound,
            others=self._others(data, outbound, steps, carrier, model),
            allow_outside_effects=self._effects(data.get("allow_outside_effects", False)),
            thinker=thinker,
            judge=read_judge(self._file, data, thinker),
            runs=runs,
            must_pass=must_pass,
        )

    def _voices(self, value: Any) -> Voices:
        if isinstance(value, Mapping):
            return self._dataclass(Voices, value, ["voice"])  # type: ignore[no-any-return]
        choice: Choice = self._made(value, Choice, ["voice"])
        return Voices(choice, choice)

    def _effects(self, value: Any) -> tuple[str, ...]:
        allowed = self._made(value, bool | tuple[str, ...], ["allow_outside_effects"])
        return (("*",) if allowed else ()) if isinstance(allowed, bool) else allowed

    def _others(
        self,
        data: Mapping[str, Any],
        outbound: OutboundPlan | None,
        steps: tuple[Step, ...],
        carrier: Carrier,
        model: Mapping[str, Any],
    ) -> Mapping[str, Callee] | None:
        """The parties that the gateway may call."""
        if outbound is None and "others" not in data:
            return None
        found: dict[str, Callee] = {}
        if outbound is not None:
            found[outbound.to] = Callee(
                steps, outbound.answers, outbound.ring_s, outbound.answered_by, outbound.verdict_s, carrier
            )
        others = data.get("others") or {}
        self._mapping(others, ["others"], None)
        for number, value in others.items():
            where = ["others", number]
            self._mapping(value, where, (_OTHER_STEPS, *(f.name for f in fields(Other))))
            other = self._dataclass(Other, {k: v for k, v in value.items() if k != _OTHER_STEPS}, where)
            other_steps = self._steps(value.get(_OTHER_STEPS) or [], [*where, _OTHER_STEPS], model)
            found[number] = Callee(other_steps, other.answers, other.ring_s)
        return MappingProxyType(found)

    def _steps(self, value: Any, where: list[Any], model: Mapping[str, Any]) -> tuple[Step, ...]:
        if not isinstance(value, list):
            self._fail("needs a list of steps, such as `- say: Hello`", where)
        return tuple(self._step(step, [*where, index], model) for index, step in enumerate(value))

    def _agent(self, value: Any) -> tuple[Agent, Path | None, str]:
        if isinstance(value, str):
            path = self._directory / value
            if not os.path.isfile(path):  # False also for what no file can be named
                self._fail(f"no agent file at {path}", ["agent"])
            return load_agent(path), path, ""
        if not isinstance(value, Mapping):
            self._fail("is the name of an agent file, or an agent", ["agent"])
        value = copy.deepcopy(dict(value))
        # The gateway reads the agent from a file in another directory.
        greeting = value.get("greeting")
        if isinstance(greeting, dict) and isinstance(greeting.get("sound"), str) and greeting["sound"]:
            greeting["sound"] = str(self._directory.resolve() / greeting["sound"])
        tools = value.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and str(tool.get("filler", "")).lower().endswith(".wav"):
                tool["filler"] = str(self._directory.resolve() / tool["filler"])
        agent = agent_from(self._file, value, ["agent"], directory=str(self._directory))
        return agent, None, write_yaml(value)

    def _step(self, value: Any, where: list[Any], model: Mapping[str, Any]) -> Step:
        values = {value: None} if isinstance(value, str) else value
        self._mapping(values, where, None)
        named = [name for name in STEPS if name in values]
        if len(named) != 1:
            meant = "" if named else "".join(nearest(name, STEPS) for name in values)
            self._fail(f"{meant}needs exactly one of {', '.join(STEPS)}; has {', '.join(map(str, values))}", where)
        kind, main = STEPS[named[0]]
        arguments = {name: given for name, given in values.items() if name != named[0]}
        given = values[named[0]]
        written_as: dict[Any, list[Any]] = {}
        if isinstance(given, Mapping):
            written_as = {name: [named[0], name] for name in given if name not in arguments}
            arguments = {**given, **arguments}
        elif given is not None and main is not None:
            written_as = {main: [named[0]]}
            if main == "keys":  # as written: 0123 is four keys
                given = self._file.text([*where, named[0]]) or str(given)
            arguments[main] = given
        elif given is not None:
            self._fail(f"{named[0]} takes nothing", where)
        if kind is SayOver and "at_word" in arguments:
            if "after_ms" in arguments:
                self._fail("takes either at_word or after_ms", [*where, "at_word"])
            arguments["after_ms"] = self._when_said(arguments.pop("at_word"), model, [*where, "at_word"])
        sound = self._lines.given(arguments, where) if kind in (Say, SayOver) else None
        step: Step = self._dataclass(kind, arguments, where, written_as)
        if isinstance(step, Say | SayOver):
            return replace(step, sound=sound or self._lines.of_caller(step.line, where))
        return step

    def _when_said(self, word: Any, model: Mapping[str, Any], where: list[Any]) -> float:
        """Milliseconds from a line's first sound to this word, by the word's place in the text.

        The line is the first of the model's that holds the word.
        """
        word = self._made(word, str, where)
        script = script_from(model, self._directory)
        replies = (*script.replies, *([script.default] if script.default else []))
        said = [action for reply in replies for action in reply.do if isinstance(action, ModelSay)]
        found = next((action for action in said if word.lower() in action.text.lower()), None)
        if found is None:
            self._fail(f"the model never says {word!r}", where)
        return round(line_length_ms(found) * found.text.lower().index(word.lower()) / len(found.text))

    def _spoken_by_caller(self, value: Any, root: str) -> Script:
        return script_from(self._model(value, root, "caller"), self._directory)

    def _model(self, value: Any, root: str, who: Side) -> Mapping[str, Any]:
        """A script's mapping, checked, its lines already sounds of this side's voice. `root`: its place in the file."""
        where = root.split(".")
        self._mapping(value, where, None)
        model = copy.deepcopy(dict(value))
        keys: list[tuple[Any, ...]] = [("replies", index) for index in range(len(_listed(model, "replies")))]
        for key in [*keys, *([("default",)] if "default" in model else [])]:
            reply: Any = model
            for part in key:
                reply = reply[part]
            if not isinstance(reply, dict):
                continue
            self._lines.of_model(reply, [*where, *key], who)
            for index, action in enumerate(_listed(reply, "do")):
                if isinstance(action, dict):
                    self._lines.of_model(action, [*where, *key, "do", index], who)
        try:
            script_from(model, self._directory)
        except ScriptError as error:
            steps = self._file.steps(f"{root}{error.where.removeprefix('model')}")
            self._fail(self._file.with_fix(error.what, steps), steps)
        return MappingProxyType(model)

    def _expect(self, value: Any) -> tuple[Expectation, ...]:
        self._mapping(value, ["expect"], tuple(KINDS))
        made = []
        for name, given in value.items():
            kind = KINDS[name]
            several = isinstance(given, list) and not kind.listed
            for index, one in enumerate(given if several else [given]):
                where = ["expect", name, index] if several else ["expect", name]
                made.append(Expectation(name, self._made(one, kind.takes, where)))
        return tuple(made)

    def _dataclass(self, kind: type, values: Any, where: list[Any], written_as: Mapping[Any, list[Any]] = {}) -> Any:
        self._mapping(values, where, tuple(field.name for field in fields(kind)), written_as)
        return self._file.convert(dict(values), kind, where, written_as=written_as)

    def _made(self, value: Any, kind: Any, where: list[Any]) -> Any:
        return self._file.convert(value, kind, where)

    def _mapping(
        self,
        value: Any,
        where: list[Any],
        known: tuple[str, ...] | None,
        written_as: Mapping[Any, list[Any]] = {},
    ) -> None:
        if not isinstance(value, Mapping):
            self._fail("must be a mapping of fields", where)
        for name in value:
            if known is not None and name not in known:
                place = [*where, *written_as.get(name, [name])]
                self._fail(f"is not known here; {nearest(name, known)}known are {', '.join(known)}", place)

    def _fail(self, what: str, where: list[Any]) -> NoReturn:
        raise self._file.error(what, where)


def _listed(mapping: Mapping[str, Any], name: str) -> list[Any]:
    """The list of this name, empty if there is none; `script_from` refuses anything else."""
    found = mapping.get(name)
    return found if isinstance(found, list) else []
