"""What to do: everything the machine can have the shell do. Carried out at once, in order, without awaiting.

Samples are those of the audio sent to the line, mono; `generation` numbers a reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Outcome, Timer

# fmt: off
__all__ = [
    "AnswerTool", "BargeIn", "CancelTool", "Clear", "CloseTurn", "Command", "Drop", "End", "OpenTurn", "Play",
    "PlayFiller", "PlayGreeting", "Prompt", "ReconnectModel", "Replay", "ReplyEnded", "ReportHeard", "RotateModel",
    "RunTool", "SendMark", "SendPrompt", "SetTimer", "Speak", "StopTimer", "Unanswered", "Verdict",
]
# fmt: on


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do."""


# --- the line


@dataclass(frozen=True, slots=True)
class Play(Command):
    """Send `[from_sample, to_sample)` of this reply to the line."""

    generation: int
    from_sample: int
    to_sample: int


class Replay(Play):
    """As `Play`, where playback was cut (a dismissed barge-in, a lost stream): faded in, so that it does not click."""


@dataclass(frozen=True, slots=True)
class SendMark(Command):
    """Have the line report when all before `sample` of this reply has been played: `MarkReturned`."""

    generation: int
    sample: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Clear(Command):
    """Empty the line's queue and have it confirmed: `ClearAcknowledged(epoch)`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Drop(Command):
    """This reply is dead: drop its audio, and whatever of it still arrives."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyEnded(Command):
    """For the record: of `received` samples of this reply the caller heard `heard`."""

    generation: int
    received: int
    heard: int
    interrupted: bool


class PlayGreeting(Command):
    """Play the agent's greeting from its sound file, as a reply of its own."""


@dataclass(frozen=True, slots=True)
class PlayFiller(Command):
    """Cover the wait for this slow tool call, "" for the model: play the tool's filler, or the agent's, as a reply of
    its own.
    """

    call_id: str = ""


# --- barge-in


class Verdict(Enum):
    """The state of a barge-in."""

    SUSPECTED = "suspected"
    CONFIRMED_BY_MODEL = "confirmed_by_model"
    CONFIRMED_LOCALLY = "confirmed_locally"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True)
class BargeIn(Command):
    """For the record: the state of the barge-in over `generation` that began at `onset_s`."""

    generation: int
    onset_s: float
    verdict: Verdict


# --- the model


class Prompt(Enum):
    """What the model is to speak of now; the text is the agent file's, or the shell's."""

    GREETING = "greeting"
    NUDGE = "nudge"
    GO_ON = "go_on"  # the last reply broke off
    TAKE_UP = "take_up"  # the last reply was cut with the line, and the caller heard its beginning
    IDLE = "idle"
    IDLE_GOODBYE = "idle_goodbye"
    TIME_WARNING = "time_warning"
    COST_WARNING = "cost_warning"
    LAST_WORDS = "last_words"  # those of the last `SayAndEnd`


@dataclass(frozen=True, slots=True)
class SendPrompt(Command):
    """Have the model speak now."""

    prompt: Prompt


class Unanswered(Command):
    """For the record: the caller's turn had no reply when the caller spoke again, or in `silent_after_s`."""


@dataclass(frozen=True, slots=True)
class ReportHeard(Command):
    """Repair: report to the model, without requesting a reply, how much of `generation` was heard."""

    generation: int
    heard: int


class OpenTurn(Command):
    """Local turn detection: the caller's turn begins (with the pre-roll kept by the shell)."""


class CloseTurn(Command):
    """Local turn detection: the caller's turn is over."""


class RotateModel(Command):
    """Change to a new model connection that resumes this one: in a quiet moment, or in the last one."""


class ReconnectModel(Command):
    """The model is stuck: drop its connection and get a new one."""


# --- tools


class Speak(Enum):
    """When the model is to speak of a tool's result."""

    NOW = "now"
    WHEN_IDLE = "when_idle"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class RunTool(Command):
    """Start this tool call."""

    call_id: str


@dataclass(frozen=True, slots=True)
class CancelTool(Command):
    """Stop this tool call's task. It has no result; the model learns no more than that."""

    call_id: str


@dataclass(frozen=True, slots=True)
class AnswerTool(Command):
    """This tool call has its outcome: send its result to the model, once. `speak` None: never (withdrawn)."""

    call_id: str
    outcome: Outcome
    speak: Speak | None


# --- time and the end


@dataclass(frozen=True, slots=True)
class SetTimer(Command):
    """Deliver `event(at_s=...)` at `at_s`; one timer per event class, setting it again moves it."""

    event: type[Timer]
    at_s: float


@dataclass(frozen=True, slots=True)
class StopTimer(Command):
    """The timer for this event class is not needed any more; harmless when it is not running."""

    event: type[Timer]


@dataclass(frozen=True, slots=True)
class End(Command):
    """End the call; always the last command."""

    ending: Ending
