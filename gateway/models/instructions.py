"""What every model is told beside the conversation: the agent's instructions, with a call's values in them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from offhook.gateway.agent.spec import Agent
from offhook.gateway.models import Problem

__all__ = ["KNOWN_VARIABLES", "check_instructions", "clean", "filled", "instruction", "with_time"]

KNOWN_VARIABLES = ("caller", "dialled", "call_sid", "name", "now")
"""What `{{...}}` can always name: the two numbers, the call, the agent's name, date and time with zone."""

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # BCP 47, as far as it is used here
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_VALUE_MAX = 500


def check_instructions(agent: Agent) -> Iterator[Problem]:
    """What would be wrong in them, of the agent's language and variables."""
    if not _LANGUAGE.fullmatch(agent.language):
        yield Problem("language", "give a language tag such as en-US")
    for variable in dict.fromkeys(_VARIABLE.findall(agent.instructions)):
        if variable not in KNOWN_VARIABLES and variable not in agent.variables:
            fix = f"add it to variables, or use one of {', '.join(KNOWN_VARIABLES)}"
            yield Problem("instructions", f"{{{{{variable}}}}} is not known: {fix}")


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
