"""A caller who thinks, as a scenario has it: who calls, what they want, and what must be true of the call.

caller:
  persona: A regular guest in a hurry, who changes their mind.
  goal: Have a table for two on Saturday evening.
  model: gemini-3.8-live           # or {name: my-model, url: http://127.0.0.1:8000/v1}
  limits: {turns: 8, seconds: 120, cost_usd: 0.20}
  script:                          # how the rehearsal model plays this caller, without a key
    replies:
      - {on: agent, say: "A table for two, please."}
success:
  - The agent offered a table on Saturday.
judge:
  script:                          # how the rehearsal model judges, without a key
    replies:
      - {on: text, say: '{"statements": [{"number": 1, "met": true, "reason": "It did."}]}'}
runs: 5
must_pass: 4
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

import msgspec

from offhook.gateway.errors import nearest
from offhook.gateway.rehearsal.model.script import Script, ScriptError, script_from
from offhook.gateway.yamlfile import YamlFile

__all__ = [
    "PERSON",
    "RUNS_MAX",
    "STATEMENTS_MAX",
    "CallerLimits",
    "Judge",
    "ModelChoice",
    "Thinker",
    "read_judge",
    "read_runs",
    "read_thinker",
]

PERSON = ("persona", "goal", "model", "voice", "limits", "script")
STATEMENTS_MAX = 20
RUNS_MAX = 1_000
_JUDGE = ("model", "script")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model; what is empty is the default. `url`: of a server that speaks OpenAI's protocol, with /v1."""

    provider: Literal["", "gemini", "openai"] = ""
    name: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What ends the call although the caller would go on, and fails it. `cost_usd`: of the caller's model."""

    turns: Annotated[int, msgspec.Meta(ge=1, le=200)] = 12
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 180.0
    cost_usd: Annotated[float, msgspec.Meta(gt=0)] = 0.50


@dataclass(frozen=True, slots=True)
class Thinker:
    """A caller that is a model. `script`: how the rehearsal model plays it; None: it needs a real one."""

    persona: str
    goal: str
    model: ModelChoice = ModelChoice()
    voice: str = ""  # empty: the model's default
    limits: CallerLimits = CallerLimits()
    script: Script | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """What must be true of the call by the judgement of a text model. `script`: as in `Thinker`."""

    statements: tuple[str, ...]
    model: ModelChoice = ModelChoice()
    script: Script | None = None


Spoken = Callable[[Any, str], Script]


def read_thinker(file: YamlFile, caller: Mapping[str, Any], spoken: Spoken) -> Thinker | None:
    """The `caller` of a scenario, None if it has steps. `spoken`: the script of a mapping at a place, its lines
    as sounds. Raises the file's error.
    """
    given = [name for name in PERSON if name in caller]
    if not given:
        return None

    def fail(what: str, *where: str) -> NoReturn:
        raise file.error(what, ["caller", *where])

    if "steps" in caller:
        fail(f"a caller has either steps or {given[0]}: remove one", given[0])
    for needed in ("persona", "goal"):
        if needed not in caller:
            fail(f"needs {needed}: a caller who thinks has a persona and a goal")
    text = {name: file.convert(caller[name], str, ["caller", name]).strip() for name in ("persona", "goal")}
    for name, value in text.items():
        if not value:
            fail("is empty: say it in a sentence", name)
    return Thinker(
        **text,
        model=_choice(file, caller.get("model"), ["caller", "model"]),
        voice=file.convert(caller.get("voice", ""), str, ["caller", "voice"]),
        limits=_made(file, CallerLimits, caller.get("limits") or {}, ["caller", "limits"]),
        script=spoken(_of_the_agent(caller["script"]), "caller.script") if "script" in caller else None,
    )


def read_judge(file: YamlFile, data: Mapping[str, Any], thinker: Thinker | None) -> Judge | None:
    """The `success` and `judge` of a scenario. Raises the file's error."""
    if thinker is None:
        for name in ("success", "judge"):
            if name in data:
                raise file.error("is for a caller with a persona: steps are judged by expect", [name])
        return None
    if "success" not in data:
        raise file.error("success is missing: say what must be true of the call", [])
    given = data["success"]
    listed = given if isinstance(given, list) else [given]
    statements = tuple(
        file.convert(one, str, ["success", *([index] if isinstance(given, list) else [])]).strip()
        for index, one in enumerate(listed)
    )
    if not statements or not all(statements) or len(statements) > STATEMENTS_MAX:
        raise file.error(f"give 1 to {STATEMENTS_MAX} statements that must be true of the call", ["success"])
    judge = data.get("judge") or {}
    _known(file, judge, _JUDGE, ["judge"])
    choice = _choice(file, judge["model"], ["judge", "model"]) if "model" in judge else _same_side(file, thinker.model)
    script = None
    if "script" in judge:
        script = _script(file, judge["script"])
    if (script is None) != (thinker.script is None):
        raise file.error("without a key both sides need a script: caller.script and judge.script", [])
    return Judge(statements, choice, script)


def read_runs(file: YamlFile, data: Mapping[str, Any]) -> tuple[int, int]:
    """How often a scenario is played, and how many of these runs must pass. Raises the file's error."""
    runs = file.convert(data.get("runs", 1), int, ["runs"])
    if not 1 <= runs <= RUNS_MAX:
        raise file.error(f"is {runs}: give a number from 1 to {RUNS_MAX}", ["runs"])
    must = file.convert(data.get("must_pass", runs), int, ["must_pass"])
    if not 1 <= must <= runs:
        raise file.error(f"is {must} of {runs} runs: give a number from 1 to {runs}", ["must_pass"])
    return runs, must


def _choice(file: YamlFile, value: Any, where: list[Any]) -> ModelChoice:
    """A model by its name, its provider, or a mapping."""
    if value is None:
        return ModelChoice()
    if isinstance(value, str):
        providers = {"gemini": ModelChoice("gemini"), "openai": ModelChoice("openai")}
        return providers.get(value) or ModelChoice(name=value)
    choice: ModelChoice = _made(file, ModelChoice, value, where)
    if not choice.url:
        return choice
    parts = urlsplit(choice.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise file.error("must look like http://127.0.0.1:8000/v1, without a key in it", [*where, "url"])
    if choice.provider == "gemini":
        raise file.error("is of OpenAI's protocol: remove provider, or the url", [*where, "url"])
    if not choice.name:
        raise file.error("needs the model's name, too", [*where, "url"])
    return ModelChoice("openai", choice.name, choice.url.rstrip("/"))


def _same_side(file: YamlFile, caller: ModelChoice) -> ModelChoice:
    """The judge's model by default: the text model of the caller's provider, so that one key is enough."""
    if caller.url:
        raise file.error("judge.model is missing: the caller's has a url, name the text model that judges", [])
    return ModelChoice("openai") if caller.name.startswith("gpt-") else ModelChoice(caller.provider)


def _of_the_agent(script: Any) -> Any:
    """The script with `on: agent` as the rehearsal model has it: for this model the agent is the other side."""
    if not isinstance(script, Mapping) or not isinstance(script.get("replies"), list):
        return script
    replies = [
        {**reply, "on": "caller"} if isinstance(reply, Mapping) and reply.get("on") == "agent" else reply
        for reply in script["replies"]
    ]
    return {**script, "replies": replies}


def _script(file: YamlFile, value: Any) -> Script:
    """The judge's script: its answers are read, not heard."""
    try:
        return script_from(value)
    except ScriptError as error:
        steps = file.steps(f"judge.script{error.where.removeprefix('model')}")
        raise file.error(file.with_fix(error.what, steps), steps) from None


def _made(file: YamlFile, kind: type, value: Any, where: list[Any]) -> Any:
    _known(file, value, tuple(field.name for field in fields(kind)), where)
    return file.convert(dict(value), kind, where)


def _known(file: YamlFile, value: Any, names: tuple[str, ...], where: list[Any]) -> None:
    if not isinstance(value, Mapping):
        raise file.error("must be a mapping of fields", where)
    for name in value:
        if name not in names:
            what = f"is not known here; {nearest(name, names)}known are {', '.join(names)}"
            raise file.error(what, [*where, name])
