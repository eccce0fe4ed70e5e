"""What a caller does: the steps of a script, frozen values. Lines are texts, or paths of WAV files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Cough",
    "Digit",
    "HangUp",
    "Keyboard",
    "Pause",
    "Say",
    "SayOver",
    "Step",
    "WaitForAgent",
    "WaitForEnd",
]


@dataclass(frozen=True, slots=True)
class WaitForAgent:
    """Until the agent is heard to begin, or has fallen silent.

    `nth` counts what the agent was heard to say, from 1; without it, it is the next that goes on after the
    caller's own last words.
    """

    at: Literal["start", "end"] = "end"
    nth: int | None = None
    timeout_ms: float = 15_000.0


@dataclass(frozen=True, slots=True)
class Say:
    """Say this, now. The step ends with its last word."""

    line: str


@dataclass(frozen=True, slots=True)
class SayOver:
    """Say this once the agent has been heard for `after_ms`, over its voice."""

    line: str
    after_ms: float = 1_000.0
    timeout_ms: float = 15_000.0


@dataclass(frozen=True, slots=True)
class Cough:
    """Cough, after the agent has been heard for `over_after_ms`, or now."""

    over_after_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Keyboard:
    """Type for a while."""

    ms: float = 2_000.0


@dataclass(frozen=True, slots=True)
class Digit:
    """Press keys, one message each."""

    keys: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Say nothing for a while."""

    ms: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """Hang up."""


@dataclass(frozen=True, slots=True)
class WaitForEnd:
    """Until the other side has ended the call."""

    timeout_ms: float = 15_000.0


Step = WaitForAgent | Say | SayOver | Cough | Keyboard | Digit | Pause | HangUp | WaitForEnd
