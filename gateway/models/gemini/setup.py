"""What a session is set up with: an agent's settings against what each model accepts; pure.

`MODELS` is the one table of models. `check` finds what a model would refuse, and how to fix it, before the first
call; `live_config` turns a checked agent into the mapping that google-genai's `connect` takes.

Sources: Google's Live API reference and model pages; where those are silent, reports named in the comments.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from offhook.gateway.agent.spec import Agent, filler_line
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.models import Declared, Problem
from offhook.gateway.models.gemini.declarations import declared_parameters
from offhook.gateway.models.instructions import (
    KNOWN_VARIABLES,
    check_instructions,
    clean,
    filled,
    instruction,
    with_time,
)

__all__ = [
    "DEFAULT_MODEL",
    "KNOWN_VARIABLES",
    "MODELS",
    "VOICES",
    "ModelRow",
    "check",
    "config_hash",
    "filled",
    "instruction",
    "live_config",
    "model_name",
    "model_of",
    "scheduling_for",
    "with_time",
]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What one model accepts. Sampling, voice, transcription, compression and resumption all take."""

    calls: Literal["both", "blocking only", "not blocking"]
    thinking: Literal["none", "level", "budget"]
    content_any_time: bool  # clientContent after the first turn; elsewhere it closes the session with 1007
    levels: tuple[str, ...] = ()  # of thinking
    vertex: bool | None = None  # True: there alone; False: on the Developer API alone; None: on both
    legacy: bool = False
    # Tools are declared by JSON schema. 2.5 calls such tools with empty arguments (python-genai 1147, livekit/agents
    # 2940); 3.1 and 3.8 are reported to take it (livekit/agents 7302).
    json_schema: bool = True


MODELS: dict[str, ModelRow] = {
    "gemini-3.8-live": ModelRow(calls="both", thinking="none", content_any_time=True),
    "gemini-3.8-live-extended-thinking": ModelRow(
        calls="not blocking",
        thinking="level",
        levels=("low", "medium", "high"),
        content_any_time=False,  # not documented, so not relied upon
    ),
    "gemini-3.1-flash-live-preview": ModelRow(
        calls="blocking only",
        thinking="level",
        levels=("minimal", "low", "medium", "high"),
        content_any_time=False,
        legacy=True,
    ),
    "gemini-2.5-flash-native-audio-preview-12-2025": ModelRow(
        calls="both", thinking="budget", json_schema=False, content_any_time=True, vertex=False, legacy=True
    ),
    "gemini-2.5-flash-native-audio-latest": ModelRow(
        calls="both", thinking="budget", json_schema=False, content_any_time=True, vertex=False, legacy=True
    ),
    "gemini-live-2.5-flash-native-audio": ModelRow(
        calls="both", thinking="budget", json_schema=False, content_any_time=True, vertex=True, legacy=True
    ),
}

DEFAULT_MODEL = "gemini-3.8-live"
DEFAULT_VOICE = "Kore"

# An unknown model is set up with what all known models support.
_UNKNOWN = ModelRow(calls="both", thinking="none", content_any_time=False)

# fmt: off
VOICES = frozenset((
    "Zephyr", "Puck", "Charon", "Kore", "Fenrir", "Leda", "Orus", "Aoede", "Callirrhoe", "Autonoe",
    "Enceladus", "Iapetus", "Umbriel", "Algieba", "Despina", "Erinome", "Algenib", "Rasalgethi",
    "Laomedeia", "Achernar", "Alnilam", "Schedar", "Gacrux", "Pulcherrima", "Achird", "Zubenelgenubi",
    "Vindemiatrix", "Sadachbia", "Sadaltager", "Sulafat",
))
# fmt: on

_CONTEXT_TOKENS = 131_072
_FUNCTIONS_MAX = 512  # "At most 512 function declarations can be specified" (gemini-cli 19083)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")  # Gemini API: FunctionDeclaration.name


def model_of(name: str) -> ModelRow:
    """The table's row for a model name, with or without a resource path before it."""
    return MODELS.get(name.rsplit("/", 1)[-1], _UNKNOWN)


def model_name(agent: Agent) -> str:
    """The model that this agent uses."""
    return agent.model.name or DEFAULT_MODEL


def check(agent: Agent, tools: Iterable[Declared] = (), *, vertex: bool = False) -> list[Problem]:
    """What the model would refuse, or silently not do, of this agent: empty when it will do."""
    found: list[Problem] = []
    name = model_name(agent).rsplit("/", 1)[-1]
    model = model_of(name)
    if name not in MODELS:
        found.append(Problem("model.name", f"is not known here: use one of {', '.join(MODELS)}"))
    elif model.vertex is not None and model.vertex is not vertex:
        there = "Vertex AI" if model.vertex else "the Gemini Developer API"
        found.append(Problem("model.name", f"{name} is offered on {there} only: use {DEFAULT_MODEL}"))
    level, budget = agent.model.thinking_level, agent.model.thinking_budget
    if level is not None:
        if model.thinking != "level":
            found.append(Problem("model.thinking_level", f"{name} refuses it: remove it"))
        elif level not in model.levels:
            found.append(Problem("model.thinking_level", f"{name} takes one of {', '.join(model.levels)}"))
    if budget is not None:
        if model.thinking != "budget":
            found.append(Problem("model.thinking_budget", f"{name} refuses it: remove it"))
        elif budget < -1:
            found.append(Problem("model.thinking_budget", "give tokens, 0 for none or -1 for the model's choice"))
    for field, value in (
        ("model.noise_reduction", agent.model.noise_reduction),
        ("model.transcription", agent.model.transcription),
        ("turn_detection.eagerness", agent.turn_detection.eagerness),
    ):
        if value is not None:
            found.append(Problem(field, f"{name} has no such setting: remove it"))
    if agent.model.temperature is not None and not 0 <= agent.model.temperature <= 2:
        found.append(Problem("model.temperature", "give a number from 0 to 2"))
    if agent.model.compress_at_tokens >= _CONTEXT_TOKENS:
        found.append(Problem("model.compress_at_tokens", f"the context ends at {_CONTEXT_TOKENS}: give less"))
    if agent.voice and agent.voice not in VOICES:
        close = [v for v in VOICES if v.lower() == agent.voice.lower()]
        fix = f"did you mean {close[0]}?" if close else f"use one of {', '.join(sorted(VOICES))}"
        found.append(Problem("voice", f"{agent.voice} is not a voice of this model: {fix}"))
    found += check_instructions(agent)
    tools = tuple(tools)
    if len(tools) > _FUNCTIONS_MAX:
        found.append(Problem("tools", f"the model takes {_FUNCTIONS_MAX} tools at most, not {len(tools)}: remove some"))
    for tool in tools:
        entry = "tools" if tool.entry is None else f"tools[{tool.entry}]"
        if not _NAME.fullmatch(tool.name):
            fix = "give letters, digits, _ . : - only, a letter or _ first, 128 at most"
            found.append(Problem(f"{entry}.name", f"{clean(tool.name)}: {fix}"))
        if not tool.description:
            fix = "describe when to use it: the model decides by this alone"
            found.append(Problem(f"{entry}.description", f"{clean(tool.name)}: {fix}"))
        if tool.parameters and tool.parameters.get("type", "object") != "object":
            found.append(Problem(f"{entry}.parameters", f"{clean(tool.name)}: the schema's type must be object"))
        if tool.blocking and model.calls == "not blocking":
            found.append(Problem(f"{entry}.blocking", f"{name} never waits for a tool: remove it"))
    for i, settings in enumerate(agent.tools):
        if filler_line(settings.filler) and model.calls == "blocking only":
            fix = f"{name} waits for every tool and cannot say a line meanwhile: use tone or a WAV file, or remove it"
            found.append(Problem(f"tools[{i}].filler", fix))
    return found


def live_config(
    agent: Agent,
    tools: Iterable[Declared],
    system_instruction: str,
    *,
    handle: str = "",
    resumption: bool = True,
) -> dict[str, Any]:
    """`LiveConnectConfig` for google-genai, as a mapping. Nothing in it that the model would refuse.

    `handle` resumes a session. `resumption=False` leaves the field out altogether, for the one model reported
    to close with 1008 on an empty one (livekit/agents issue 5102).
    """
    model = model_of(model_name(agent))
    config: dict[str, Any] = {
        "response_modalities": ["AUDIO"],
        "speech_config": {"voice_config": {"prebuilt_voice_config": {"voice_name": agent.voice or DEFAULT_VOICE}}},
        "system_instruction": {"parts": [{"text": system_instruction}]},
        "input_audio_transcription": {},
        "output_audio_transcription": {},
        "realtime_input_config": _realtime(agent),
        "context_window_compression": {
            "trigger_tokens": agent.model.compress_at_tokens,
            "sliding_window": {"target_tokens": agent.model.compress_to_tokens},
        },
    }
    if resumption:
        config["session_resumption"] = {"handle": handle} if handle else {}
    if agent.model.temperature is not None:
        config["temperature"] = agent.model.temperature
    if model.thinking == "level" and agent.model.thinking_level:
        config["thinking_config"] = {"thinking_level": agent.model.thinking_level.upper()}
    if model.thinking == "budget" and agent.model.thinking_budget is not None:
        config["thinking_config"] = {"thinking_budget": agent.model.thinking_budget}
    declarations = [_declaration(tool, model) for tool in tools]
    if declarations:
        config["tools"] = [{"function_declarations": declarations}]
    return config


def _realtime(agent: Agent) -> dict[str, Any]:
    turns = agent.turn_detection
    detection: dict[str, Any]
    if turns.mode == "local":
        detection = {"disabled": True}
    else:
        settings = {
            "start_of_speech_sensitivity": turns.start_sensitivity
            and f"START_SENSITIVITY_{turns.start_sensitivity.upper()}",
            "end_of_speech_sensitivity": turns.end_sensitivity and f"END_SENSITIVITY_{turns.end_sensitivity.upper()}",
            "prefix_padding_ms": turns.prefix_padding_ms,
            "silence_duration_ms": turns.end_silence_ms,
        }
        detection = {name: value for name, value in settings.items() if value is not None}
    config: dict[str, Any] = {
        "activity_handling": "NO_INTERRUPTION" if agent.barge_in.mode == "off" else "START_OF_ACTIVITY_INTERRUPTS"
    }
    if detection:
        config["automatic_activity_detection"] = detection
    return config


def _waits(tool: Declared, model: ModelRow) -> bool:
    return model.calls == "blocking only" or (tool.blocking and model.calls == "both")


def _declaration(tool: Declared, model: ModelRow) -> dict[str, Any]:
    declared: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        # Explicit: the default changed between model generations.
        "behavior": "BLOCKING" if _waits(tool, model) else "NON_BLOCKING",
    }
    if tool.parameters and tool.parameters.get("properties"):
        kind = "parameters_json_schema" if model.json_schema else "parameters"
        declared[kind] = declared_parameters(tool.parameters, as_json=model.json_schema)
    return declared


_SCHEDULING = {Speak.NOW: "INTERRUPT", Speak.WHEN_IDLE: "WHEN_IDLE", Speak.SILENT: "SILENT"}


def scheduling_for(tool: Declared | None, model_name: str, speak: Speak) -> str | None:
    """FunctionResponse.scheduling of a result; None where the model waits for the call and schedules nothing."""
    return None if tool is not None and _waits(tool, model_of(model_name)) else _SCHEDULING[speak]


def config_hash(agent: Agent, tools: Iterable[Declared]) -> str:
    """The settings that a resumed session must share with the one before; a call's variables are not among them."""
    config = live_config(agent, tools, agent.instructions)
    text = json.dumps([model_name(agent), config], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
