"""What a session is set up with: an agent's settings against what each model accepts; pure.

`check` finds what a model would refuse or silently not do, and how to fix it, before the first call; `session_config`
turns a checked agent into the `session` of `session.update`.

Source: OpenAI docs, "Realtime API" (GA session shape), and the types of openai-python 3.57.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import nearest
from offhook.gateway.models import Declared, Problem
from offhook.gateway.models.instructions import check_instructions, clean
from offhook.media.formats import ALAW_8K, MULAW_8K, AudioFormat

__all__ = ["DEFAULT_MODEL", "DEFAULT_VOICE", "MODELS", "VOICES", "ModelRow", "check", "model_name", "session_config"]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What one model accepts. `ends`: the day on which the service shuts it down, where announced."""

    reasons: bool  # `reasoning.effort` and parallel tool calls
    ends: str = ""


MODELS: dict[str, ModelRow] = {
    "gpt-realtime-2.1": ModelRow(reasons=True),
    "gpt-realtime-2.1-mini": ModelRow(reasons=True),
    "gpt-realtime-2": ModelRow(reasons=True),
    "gpt-realtime-1.5": ModelRow(reasons=False),
    "gpt-realtime": ModelRow(reasons=False, ends="2027-01-20"),
    "gpt-realtime-mini": ModelRow(reasons=False, ends="2027-01-20"),
}
DEFAULT_MODEL = "gpt-realtime-2.1"

VOICES = frozenset(("alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"))
DEFAULT_VOICE = "marin"

TRANSCRIBERS = frozenset(("gpt-transcribe", "gpt-live-transcribe", "gpt-realtime-whisper"))
DEFAULT_TRANSCRIBER = "gpt-transcribe"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a function
_FUNCTIONS_MAX = 128
# A line in one of these formats is sent and received as it is; any other is converted to and from 24 kHz.
_FORMATS: dict[AudioFormat, dict[str, Any]] = {MULAW_8K: {"type": "audio/pcmu"}, ALAW_8K: {"type": "audio/pcma"}}
_PCM: dict[str, Any] = {"type": "audio/pcm", "rate": 24_000}


def model_name(agent: Agent) -> str:
    """The model that this agent uses; on Azure its deployment."""
    return agent.model.name or DEFAULT_MODEL


def row_of(name: str) -> ModelRow:
    """The table's row; an unknown model (a deployment, a dated name) is set up as one that takes least."""
    dated = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", name)
    return MODELS.get(dated, ModelRow(reasons=dated.startswith("gpt-realtime-2")))


def check(agent: Agent, tools: Iterable[Declared] = (), *, azure: bool = False) -> list[Problem]:
    """What the model would refuse, or silently not do, of this agent: empty when it will do."""
    name = model_name(agent)
    found = [*_wrong_model(agent, name, azure), *_wrong_sound(agent), *check_instructions(agent)]
    tools = tuple(tools)
    if len(tools) > _FUNCTIONS_MAX:
        found.append(Problem("tools", f"the model takes {_FUNCTIONS_MAX} tools at most, not {len(tools)}: remove some"))
    for tool in tools:
        found += _wrong_tool(tool)
    return found


def _wrong_model(agent: Agent, name: str, azure: bool) -> Iterator[Problem]:
    settings = agent.model
    known = row_of(name)
    if name.startswith("gpt-live"):
        yield Problem("model.name", f"{name} is of another API, without turns, that is not spoken here: {_use(MODELS)}")
    elif not azure and re.sub(r"-\d{4}-\d{2}-\d{2}$", "", name) not in MODELS:
        yield Problem("model.name", f"is not known here: {nearest(name, MODELS)}{_use(MODELS)}")
    elif known.ends:
        yield Problem("model.name", f"{name} is shut down on {known.ends}: use {DEFAULT_MODEL}")
    if settings.temperature is not None:
        yield Problem("model.temperature", "the Realtime API has no temperature: remove it")
    if settings.thinking_budget is not None:
        yield Problem("model.thinking_budget", "give thinking_level instead (minimal, low, medium or high)")
    if settings.thinking_level is not None and not known.reasons:
        yield Problem("model.thinking_level", f"{name} does not reason: remove it, or use {DEFAULT_MODEL}")
    if settings.transcription is not None and settings.transcription not in TRANSCRIBERS:
        fix = f"{settings.transcription} is shut down or not known: {_use(TRANSCRIBERS)}"
        yield Problem("model.transcription", fix)


def _wrong_sound(agent: Agent) -> Iterator[Problem]:
    turns = agent.turn_detection
    if agent.voice and agent.voice not in VOICES and not agent.voice.startswith("voice_"):
        hint = nearest(agent.voice.lower(), VOICES) or _use(VOICES)
        yield Problem("voice", f"{agent.voice} is not a voice of this model: {hint.strip()}")
    for field in ("start_sensitivity", "end_sensitivity"):
        if getattr(turns, field) is not None:
            fix = "the Realtime API has no such setting: use eagerness, or end_silence_ms and prefix_padding_ms"
            yield Problem(f"turn_detection.{field}", fix)
    if turns.eagerness is not None:
        for field in ("end_silence_ms", "prefix_padding_ms"):
            if getattr(turns, field) is not None:
                yield Problem(f"turn_detection.{field}", "has no effect beside eagerness: remove one of them")


def _wrong_tool(tool: Declared) -> Iterator[Problem]:
    entry = "tools" if tool.entry is None else f"tools[{tool.entry}]"
    if not _NAME.fullmatch(tool.name):
        yield Problem(f"{entry}.name", f"{clean(tool.name)}: give letters, digits, _ and - only, 64 at most")
    if not tool.description:
        fix = "describe when to use it: the model decides by this alone"
        yield Problem(f"{entry}.description", f"{clean(tool.name)}: {fix}")
    if tool.parameters and tool.parameters.get("type", "object") != "object":
        yield Problem(f"{entry}.parameters", f"{clean(tool.name)}: the schema's type must be object")
    if tool.blocking:
        yield Problem(f"{entry}.blocking", "the model never waits for a tool: remove it")


def _use(names: Iterable[str]) -> str:
    return f"use one of {', '.join(sorted(names))}"


# --- the session


def format_of(line: AudioFormat) -> dict[str, Any] | None:
    """The line's format in the API's words; None where it has none and audio is converted."""
    return _FORMATS.get(line)


def session_config(
    agent: Agent, tools: Iterable[Declared], instructions: str, *, caller: AudioFormat, line: AudioFormat
) -> dict[str, Any]:
    """The `session` of `session.update`. `caller` and `line`: the formats of the caller's and the agent's audio."""
    name = model_name(agent)
    session: dict[str, Any] = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": instructions,
        "audio": {
            "input": {
                "format": format_of(caller) or _PCM,
                "noise_reduction": agent.model.noise_reduction and {"type": agent.model.noise_reduction},
                "transcription": {
                    "model": agent.model.transcription or DEFAULT_TRANSCRIBER,
                    "language": agent.language.partition("-")[0].lower(),
                },
                "turn_detection": _turn_detection(agent),
            },
            "output": {"format": format_of(line) or _PCM, "voice": _voice(agent)},
        },
        "tools": [_function(tool) for tool in tools],
        "tool_choice": "auto",
        # Every response is billed for the whole conversation: the oldest is left out, and the cache stays useful.
        "truncation": {
            "type": "retention_ratio",
            "retention_ratio": 0.8,
            "token_limits": {"post_instructions": agent.model.compress_at_tokens},
        },
    }
    if row_of(name).reasons:
        session["parallel_tool_calls"] = True
        if agent.model.thinking_level:
            session["reasoning"] = {"effort": agent.model.thinking_level}
    return session


def _voice(agent: Agent) -> Any:
    return {"id": agent.voice} if agent.voice.startswith("voice_") else agent.voice or DEFAULT_VOICE


def _turn_detection(agent: Agent) -> dict[str, Any] | None:
    """The service only detects: whether a reply is stopped, held or begun is the conversation's decision."""
    turns = agent.turn_detection
    if turns.mode == "local":
        return None
    ours = {"create_response": False, "interrupt_response": False}
    if turns.eagerness is not None:
        return {"type": "semantic_vad", "eagerness": turns.eagerness, **ours}
    detection: dict[str, Any] = {"type": "server_vad", **ours, "idle_timeout_ms": None}
    if turns.end_silence_ms is not None:
        detection["silence_duration_ms"] = turns.end_silence_ms
    if turns.prefix_padding_ms is not None:
        detection["prefix_padding_ms"] = turns.prefix_padding_ms
    return detection


def _function(tool: Declared) -> dict[str, Any]:
    """`parameters` is JSON Schema, as the tool has it."""
    parameters = {"type": "object", "properties": {}, **tool.parameters}
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters}
