"""What the caller's model is set up with; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offhook.gateway.agent.spec import Agent, BargeInSettings, ModelSettings
from offhook.gateway.rehearsal.scenario.thinking import Thinker

__all__ = ["HANG_UP", "PRESS_KEYS", "SILENCE", "TOOLS", "CallerTool", "caller_spec"]

HANG_UP, PRESS_KEYS = "hang_up", "press_keys"
SILENCE = "The line has been silent for a while. Say something, as a caller would."

_INSTRUCTIONS = """\
You are a person who places a phone call. You are the caller: the other side is whoever answers, and serves you.

Who you are: {persona}
What you want: {goal}

Speak as people do on the phone: one or two short sentences at a time, in the language of the other side. Let the
other side greet first. Answer what you are asked; what you have not been given, make up once and keep to it. Never
speak for the other side, never offer them help, and never say that you are a model, or that this is a test.

Once you have what you want, or it is clear that you will not get it, say goodbye and call hang_up. Where the other
side asks for keys to be pressed, call press_keys.
"""


@dataclass(frozen=True, slots=True)
class CallerTool:
    """What the caller can do besides speaking: `offhook.gateway.models.Declared`."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    blocking: bool = False
    entry: int | None = field(default=None)


def _taking(name: str, about: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string", "description": about}}, "required": [name]}


TOOLS = (
    CallerTool(
        HANG_UP,
        "Hang up, after you have said goodbye.",
        _taking("reason", "Whether you got what you wanted, in a sentence."),
    ),
    CallerTool(PRESS_KEYS, "Press keys of the phone.", _taking("keys", "Digits, * and #.")),
)


def caller_spec(thinker: Thinker, language: str) -> Agent:
    """The caller as a model link takes it. `language`: of the agent that is called."""
    return Agent(
        name="caller",
        model=ModelSettings(provider=thinker.model.provider, name=thinker.model.name),
        voice=thinker.voice,
        language=language,
        barge_in=BargeInSettings(mode="model"),  # there is no detector on this side: the model says who cut in
        instructions=_INSTRUCTIONS.format(persona=thinker.persona, goal=thinker.goal),
    )
