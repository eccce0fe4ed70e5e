"""What to do: everything the machine can ask of the shell. Carried out at once, in order, without awaiting.

Samples are 8 kHz mono; `generation` numbers a reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Event, Outcome

__all__ = [
    "ActivityEnd",
    "ActivityStart",
    "AnswerTool",
    "AskModel",
    "BargeIn",
    "CancelTool",
    "Clear",
    "Command",
    "Drop",
    "End",
    "MuteCaller",
    "Play",
    "PlayFiller",
    "PlayGreeting",
    "Prompt",
    "ReconnectModel",
    "Replay",
    "ReplyEnded",
    "RotateModel",
    "RunTool",
    "SendMark",
    "SetTimer",
    "Speak",
    "StopTimer",
    "TellHeard",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do."""


# --- playout


@dataclass(frozen=True, slots=True)
class Play(Command):
    """Send `[from_sample, to_sample)` of this reply to the carrier."""

    generation: int
    from_sample: int
    to_sample: int


@dataclass(frozen=True, slots=True)
class Replay(Command):
    """As `Play`, after a dismissed barge-in: faded in over a few milliseconds, so that it does not click."""

    generation: int
    from_sample: int
    to_sample: int


@dataclass(frozen=True, slots=True)
class SendMark(Command):
    """Have the carrier tell when all before `sample` of this reply has been played (Twilio "mark")."""

    generation: int
    sample: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Clear(Command):
    """Empty the carrier's queue (Twilio "clear") and send a mark behind it, named for this `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Drop(Command):
    """This reply is dead: forget its audio, and whatever of it still arrives."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyEnded(Command):
    """For the record: of `received` samples of this reply the caller heard `heard`."""

    generation: int
    received: int
    heard: int
    interrupted: bool


@dataclass(frozen=True, slots=True)
class PlayGreeting(Command):
    """Play the agent's greeting from its sound file, as a reply of its own."""


@dataclass(frozen=True, slots=True)
class PlayFiller(Command):
    """Cover this slow tool call: play the agent's filler as a reply of its own."""

    call_id: str


@dataclass(frozen=True, slots=True)
class MuteCaller(Command):
    """While a protected reply is heard the model gets silence, or it would interrupt itself."""

    muted: bool


# --- barge-in


class Verdict(Enum):
    """What became of a barge-in."""

    SUSPECTED = "suspected"
    CONFIRMED_BY_MODEL = "confirmed_by_model"
    CONFIRMED_LOCALLY = "confirmed_locally"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True)
class BargeIn(Command):
    """For the record: what became of the barge-in over `generation` that began at `onset_s`."""

    generation: int
    onset_s: float
    verdict: Verdict


# --- the model


class Prompt(Enum):
    """What the model is asked to say now; the words are the agent file's."""

    GREETING = "greeting"
    NUDGE = "nudge"
    GO_ON = "go_on"  # the last reply broke off
    IDLE = "idle"
    IDLE_GOODBYE = "idle_goodbye"
    TIME_WARNING = "time_warning"


@dataclass(frozen=True, slots=True)
class AskModel(Command):
    """Have the model speak (realtime text)."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class TellHeard(Command):
    """Repair: tell the model, without asking for a reply, how far `generation` was heard."""

    generation: int
    heard: int


@dataclass(frozen=True, slots=True)
class ActivityStart(Command):
    """Local turn detection: the caller's turn begins (with the pre-roll kept by the shell)."""


@dataclass(frozen=True, slots=True)
class ActivityEnd(Command):
    """Local turn detection: the caller's turn is over."""


@dataclass(frozen=True, slots=True)
class RotateModel(Command):
    """Change to a new model connection with the resumption handle: a quiet moment, or the last."""


@dataclass(frozen=True, slots=True)
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
    """Stop this tool call's task, really. It has no result; the model is told no more than that."""

    call_id: str


@dataclass(frozen=True, slots=True)
class AnswerTool(Command):
    """This tool call has its outcome. Send its result to the model, once; no scheduling: never (withdrawn)."""

    call_id: str
    outcome: Outcome
    scheduling: Speak | None


# --- time and the end


@dataclass(frozen=True, slots=True)
class SetTimer(Command):
    """Deliver `event(at_s=...)` at `at_s`; one timer per event class, setting it again moves it."""

    event: type[Event]
    at_s: float


@dataclass(frozen=True, slots=True)
class StopTimer(Command):
    """The timer for this event class is not wanted any more; harmless when it is not running."""

    event: type[Event]


@dataclass(frozen=True, slots=True)
class End(Command):
    """Leave the call; always the last command there is."""

    ending: Ending
