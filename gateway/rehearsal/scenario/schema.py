"""The JSON Schema of scenario files, for editors: generated from the tables and types that read them.

An editor with the YAML language server reads it from the first line of a scenario:

    # yaml-language-server: $schema=../docs/scenario.schema.json
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.rehearsal.model.script import ACTIONS, Close, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as ModelSay
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Say, SayOver
from offhook.gateway.rehearsal.scenario.expect import KINDS
from offhook.gateway.rehearsal.scenario.load import CALLER, FIELDS, STEPS, Other, OutboundPlan
from offhook.gateway.rehearsal.scenario.thinking import RUNS_MAX, STATEMENTS_MAX, CallerLimits, ModelChoice
from offhook.gateway.rehearsal.scenario.voices import CHOICES, PROMPT, Voices

__all__ = ["scenario_schema"]

Schema = dict[str, Any]

_ABOUT = {
    "name": "The name in reports; by default the file's name.",
    "about": "What happens in this call, in a line.",
    "agent": "The agent under test: the name of an agent file, or the agent itself.",
    "caller": "The caller, and their steps.",
    "carrier": "How the line and the carrier behave.",
    "model": "The script of the rehearsal model.",
    "expect": "The expectations of the call.",
    "outbound": "The gateway places the call; `caller` is then the called party.",
    "others": "Further parties that may be called, by number, such as a transfer's target.",
    "voice": "Who speaks the lines: espeak, people (an Italian caller, an English agent), or a language's prompts.",
    "success": "Of a caller with a persona: what must be true of the call, as a text model judges its transcript.",
    "judge": "Of a caller with a persona: the text model that judges, and how the rehearsal model plays it.",
    "runs": "How often the scenario is played.",
    "must_pass": "How many of the runs must pass; by default all.",
    "allow_outside_effects": "Tools with outside effects that are run and not blocked: these, or all.",
}


def scenario_schema() -> Schema:
    """The schema (draft 2020-12) of a `*.call.yaml` file."""
    made = _Maker()
    steps = {"type": "array", "items": {"$ref": "#/$defs/step"}}
    actions = {name: made.action(name) for name in ACTIONS}
    close = {"anyOf": [{"type": "integer"}, made.dataclass(Close)]}
    reply = made.dataclass(
        Reply, {"do": {"type": "array", "items": {"$ref": "#/$defs/action"}}, "heard": _one_or_many()}
    )
    on = reply["properties"].pop("on")
    script = made.dataclass(
        Script,
        {
            "replies": {"type": "array", "items": {"$ref": "#/$defs/reply"}},
            "default": {"$ref": "#/$defs/default"},
            "faults": {"type": "array", "items": {"$ref": "#/$defs/fault"}},
            "refuse": close,
            "end_of_life": close,
            "refuse_resumes": {"type": "array", "items": close},
            "instead_of_setup": {"type": ["string", "object"]},
        },
    )
    choice = {"anyOf": [{"type": "string"}, made.dataclass(ModelChoice)]}
    statements = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": STATEMENTS_MAX}
    properties: dict[str, Schema] = {
        "name": {"type": "string"},
        "about": {"type": "string"},
        "agent": {"anyOf": [{"type": "string"}, made.of(Agent, without=("directory", "file"))]},
        "caller": {
            **_object(
                {
                    "steps": steps,
                    "number": {"type": "string"},
                    "dials": {"type": "string"},
                    "persona": {"type": "string", "description": "Who calls; instead of steps."},
                    "goal": {"type": "string", "description": "What this person wants."},
                    "model": choice,
                    "voice": {"type": "string", "description": "One of the model's; empty: its default."},
                    "limits": made.dataclass(CallerLimits),
                    "script": {"$ref": "#/$defs/script", "description": "How the rehearsal model plays this person."},
                }
            ),
            "oneOf": [{"required": ["steps"]}, {"required": ["persona", "goal"]}],
        },
        "carrier": made.dataclass(Carrier),
        "model": {"$ref": "#/$defs/script"},
        "expect": _object({name: made.kind(name) for name in KINDS}),
        "success": {"anyOf": [{"type": "string"}, statements]},
        "judge": _object({"model": choice, "script": {"$ref": "#/$defs/script"}}),
        "runs": {"type": "integer", "minimum": 1, "maximum": RUNS_MAX, "default": 1},
        "must_pass": {"type": "integer", "minimum": 1},
        "outbound": made.dataclass(OutboundPlan),
        "others": {"type": "object", "additionalProperties": made.dataclass(Other, {"steps": steps})},
        "allow_outside_effects": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]},
    }
    voices = made.dataclass(Voices)
    properties["voice"] = {"anyOf": [{"enum": list(CHOICES)}, voices]}
    assert set(properties["caller"]["properties"]) == set(CALLER)
    schema = _object(
        {name: {"description": _ABOUT[name], **properties[name]} for name in FIELDS},
        required=("agent", "caller", "model"),
    )
    bare = [name for name, (_, _, needs) in made.actions.items() if not needs]
    made.defs |= {
        "script": script,
        "step": {"anyOf": [{"enum": made.bare_steps()}, *(made.step(name) for name in STEPS)]},
        "action": {"anyOf": [{"enum": bare}, *actions.values()]},
        "reply": _with_action({"on": on, **reply["properties"]}, made, ("on",)),
        "default": _with_action({"on": on, **reply["properties"]}, made, ()),
        "fault": _with_action({"at_s": {"type": "number"}, "do": reply["properties"]["do"]}, made, ("at_s",)),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Offhook scenario: one rehearsed call",
        **schema,
        "$defs": dict(sorted(made.defs.items())),
    }


class _Maker:
    """Schemas of types; those with a name are collected in `defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}
        self.actions: dict[str, tuple[Schema, Schema, bool]] = {}  # value, other fields, whether one is required

    def of(self, kind: Any, without: tuple[str, ...] = ()) -> Schema:
        (schema,), defs = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        for name in without:
            defs[kind.__name__]["properties"].pop(name)
        for one in defs.values():
            if "description" in one:  # the docstring: indented before Python 3.13, not since
                one["description"] = inspect.cleandoc(one["description"])
        self.defs |= defs
        return schema

    def dataclass(self, kind: type, given: Mapping[str, Schema] = {}) -> Schema:
        """The schema of its fields; `given` replaces that of a field."""
        hints = get_type_hints(kind, include_extras=True)
        properties = dict(given)
        required = []
        for field in fields(kind):
            if field.name not in properties:
                schema = self.of(str if hints[field.name] in (Path, Path | None) else hints[field.name])
                if isinstance(field.default, str | int | float):
                    schema = {**schema, "default": field.default}
                properties[field.name] = schema
            if field.default is MISSING and field.default_factory is MISSING:
                required.append(field.name)
        return {"description": _first_words(kind), **_object(properties, required)}

    def action(self, name: str) -> Schema:
        """A mapping with the action's name as a key, its main field as the value."""
        kind, main = ACTIONS[name]
        whole = self.dataclass(kind)
        others = dict(whole["properties"])
        value: Schema = others.pop(main) if main else {"type": "null"}
        if kind is ModelSay:
            value = {"anyOf": [value, _prompt()]}
        if main and main not in whole.get("required", ()):
            value = {"anyOf": [value, {"type": "null"}]}
        needed = [field for field in whole.get("required", ()) if field != main]
        self.actions[name] = value, others, bool(whole.get("required"))
        schema = _object({name: value, **others}, (name, *needed))
        return {"description": whole["description"], **schema}

    def step(self, name: str) -> Schema:
        kind, main = STEPS[name]
        whole = self.dataclass(kind)
        others = dict(whole["properties"])
        if kind is SayOver:
            others["at_word"] = {"type": "string", "description": "A word of the model, instead of after_ms."}
        value: Schema = {"type": "null"}
        if main:
            simple = {"type": ["string", "integer"]} if main == "keys" else others.pop(main)
            value = {"anyOf": [simple, {"type": "null"}, _object(whole["properties"])]}
            if kind in (Say, SayOver):
                rest = {
                    field: schema for field, schema in whole["properties"].items() if field not in ("line", "sound")
                }
                value["anyOf"].append(_prompt(rest))
        others.pop(main or "", None)
        return {"description": whole["description"], **_object({name: value, **others}, (name,))}

    def bare_steps(self) -> list[str]:
        return [name for name, (kind, _) in STEPS.items() if not self.dataclass(kind).get("required")]

    def kind(self, name: str) -> Schema:
        kind = KINDS[name]
        schema = self.of(kind.takes)
        if get_origin(kind.takes) is dict and (keys := self.of(get_args(kind.takes)[0])) != {"type": "string"}:
            schema["propertyNames"] = keys
        if not kind.listed:
            schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
        return {"description": kind.about, **schema}


def _with_action(own: Mapping[str, Schema], made: _Maker, required: tuple[str, ...]) -> Schema:
    """A mapping with its actions in `do`, or a single action inline."""
    inline: dict[str, Schema] = {}
    for name, (value, others, _) in made.actions.items():
        for field, schema in {**others, name: value}.items():
            # Several actions may have a field of the same name.
            known = inline.get(field)
            inline[field] = schema if known is None or known == schema else {}
    named = [{"required": [name]} for name in ("do", *made.actions)]
    return {**_object({**inline, **own}, required), "oneOf": named}


def _object(properties: Mapping[str, Schema], required: Any = ()) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if required:
        schema["required"] = list(required)
    return schema


def _prompt(others: Mapping[str, Schema] = {}) -> Schema:
    """A recorded prompt in place of a line, and its words."""
    return _object({**{name: {"type": "string"} for name in PROMPT}, **others}, ("prompt",))


def _one_or_many() -> Schema:
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def _first_words(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
