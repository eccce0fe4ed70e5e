"""What a session is set up with: an agent's settings against what each model accepts; pure.

`MODELS` is the one table of models. `check` finds what a model would refuse, and how to fix it, before the first
call; `live_config` turns a checked agent into the mapping that google-genai's `connect` takes.

Sources: Google's Live API reference and model pages; where those are silent, reports named in the comments.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from offhook.gateway.agent.spec import Agent, filler_line
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.models import Declared, Problem
from offhook.gateway.models.gemini.declarations import declared_parameters

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
        calls="both", thinking="budget", content_any_time=True, vertex=False, legacy=True
    ),
    "gemini-2.5-flash-native-audio-latest": ModelRow(
        calls="both", thinking="budget", content_any_time=True, vertex=False, legacy=True
    ),
    "gemini-live-2.5-flash-native-audio": ModelRow(
        calls="both", thinking="budget", content_any_time=True, vertex=True, legacy=True
    ),
}

DEFAULT_MODEL = "gemini-3.8-live"

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

KNOWN_VARIABLES = ("caller", "dialled", "call_sid", "name", "now")
"""What `{{...}}` can always name: the two numbers, the call, the agent's name, date and time with zone."""

_CONTEXT_TOKENS = 131_072
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")  # Gemini API: FunctionDeclaration.name
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # BCP 47, as far as it is used here
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_VALUE_MAX = 500


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
    if agent.model.temperature is not None and not 0 <= agent.model.temperature <= 2:
        found.append(Problem("model.temperature", "give a number from 0 to 2"))
    if agent.model.compress_at_tokens >= _CONTEXT_TOKENS:
        found.append(Problem("model.compress_at_tokens", f"the context ends at {_CONTEXT_TOKENS}: give less"))
    if agent.voice not in VOICES:
        close = [v for v in VOICES if v.lower() == agent.voice.lower()]
        fix = f"did you mean {close[0]}?" if close else f"use one of {', '.join(sorted(VOICES))}"
        found.append(Problem("voice", f"{agent.voice} is not a voice of this model: {fix}"))
    if not _LANGUAGE.fullmatch(agent.language):
        found.append(Problem("language", "give a language tag such as en-US"))
    for variable in dict.fromkeys(_VARIABLE.findall(agent.instructions)):
        if variable not in KNOWN_VARIABLES and variable not in agent.variables:
            found.append(
                Problem(
                    "instructions",
                    f"{{{{{variable}}}}} is not known: add it to variables, or use one of {', '.join(KNOWN_VARIABLES)}",
                )
            )
    for i, tool in enumerate(tools):
        if not _NAME.fullmatch(tool.name):
            found.append(
                Problem(f"tools[{i}].name", "give letters, digits, _ . : - only, a letter or _ first, 128 at most")
            )
        if not tool.description:
            found.append(Problem(f"tools[{i}].description", "describe when to use it: the model decides by this alone"))
        if tool.parameters and tool.parameters.get("type", "object") != "object":
            found.append(Problem(f"tools[{i}].parameters", "the schema's type must be object"))
        if tool.blocking and model.calls == "not blocking":
            found.append(Problem(f"tools[{i}].blocking", f"{name} never waits for a tool: remove it"))
    for i, settings in enumerate(agent.tools):
        if filler_line(settings.filler) and model.calls == "blocking only":
            fix = f"{name} waits for every tool and cannot say a line meanwhile: use tone or a WAV file, or remove it"
            found.append(Problem(f"tools[{i}].filler", fix))
    return found


def filled(text: str, variables: Mapping[str, str]) -> str:
    """`text` with every `{{name}}` replaced; a name without a value becomes "unknown"."""
    return _VARIABLE.sub(lambda match: variables.get(match[1]) or "unknown", text)


def clean(value: str) -> str:
    """A value from outside (a caller's name, a remembered fact) on one line, of bounded length."""
    return _UNPRINTABLE.sub(" ", value).strip()[:_VALUE_MAX]


def with_time(agent: Agent, variables: Mapping[str, str], now: datetime) -> dict[str, str]:
    """A call's variables with the agent's `name` and `now`: date and time in the agent's time zone, if it has one."""
    now = now.astimezone(ZoneInfo(agent.timezone)) if agent.timezone else now
    return {"now": now.strftime("%A %d %B %Y, %H:%M %Z"), "name": agent.name, **variables}


def instruction(
    agent: Agent,
    variables: Mapping[str, str],
    facts: Mapping[str, str] | None = None,
    so_far: str = "",
) -> str:
    """The system instruction: the agent's own, its language, facts remembered, and the call so far.

    `variables` come from outside and are kept to one line each. `so_far`: the transcript that a session taking over
    a running call does not know.
    """
    outside = {name: clean(value) for name, value in variables.items()}
    parts = [filled(agent.instructions, {"name": agent.name, **agent.variables, **outside}).strip()]
    # These models detect the language and have no setting for it; the documented way to pin it is the instruction.
    parts.append(f"Speak {agent.language} unless the caller asks for another language.")
    if facts:
        lines = (f"- {clean(key)}: {clean(value)}" for key, value in facts.items())
        parts.append("Known facts of this call:\n" + "\n".join(lines))
    if so_far:
        parts.append(
            "The call is already under way; your connection was briefly lost. Before that was said:\n"
            f"{so_far}\n"
            "Go on from there. Do not greet again and do not mention the interruption."
        )
    return "\n\n".join(part for part in parts if part)


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
        "speech_config": {"voice_config": {"prebuilt_voice_config": {"voice_name": agent.voice}}},
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
        declared["parameters_json_schema"] = declared_parameters(tool.parameters)
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
