"""What a caller does: the steps of a script, frozen values.

A line is a text, or the path of a WAV file; with `sound`, a WAV file, that is what is heard of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
    "described",
]


@dataclass(frozen=True, slots=True)
class WaitForAgent:
    """Wait until the agent begins to speak, or has fallen silent.

    `nth` counts the agent's utterances from 1; without it, the step waits for the next one that continues after the
    caller's last utterance.
    """

    at: Literal["start", "end"] = "end"
    nth: int | None = None
    timeout_ms: float = 15_000.0


@dataclass(frozen=True, slots=True)
class Say:
    """Speak this line now. The step ends with the line."""

    line: str
    sound: Path | None = None


@dataclass(frozen=True, slots=True)
class SayOver:
    """Speak this line over the agent, once it has been audible for `after_ms`."""

    line: str
    after_ms: float = 1_000.0
    timeout_ms: float = 15_000.0
    sound: Path | None = None


@dataclass(frozen=True, slots=True)
class Cough:
    """Cough once the agent has been audible for `over_after_ms`, or now."""

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
    """Stay silent for a while."""

    ms: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """Hang up."""


@dataclass(frozen=True, slots=True)
class WaitForEnd:
    """Wait until the other side has ended the call."""

    timeout_ms: float = 15_000.0


Step = WaitForAgent | Say | SayOver | Cough | Keyboard | Digit | Pause | HangUp | WaitForEnd


def described(step: Step) -> str:
    """A step as a report shows it."""
    match step:
        case WaitForAgent():
            which = "" if step.nth is None else f" ({step.nth})"
            return f"wait for the agent to {'start' if step.at == 'start' else 'finish'}{which}"
        case Say():
            return f"say {step.line!r}"
        case SayOver():
            return f"say {step.line!r} over the agent after {step.after_ms:g} ms"
        case Cough():
            return "cough"
        case Keyboard():
            return "type"
        case Digit():
            return f"press {step.keys}"
        case Pause():
            return f"pause {step.ms:g} ms"
        case HangUp():
            return "hang up"
        case WaitForEnd():
            return "wait for the end"
