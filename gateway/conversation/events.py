"""What happened: everything that can reach one call's conversation machine.

Frozen values, each with the time it happened: `at_s`, seconds on the one monotonic clock of the process.
Samples are 8 kHz mono (one mu-law byte each) throughout; `generation` numbers a reply and only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from offhook.gateway.conversation.endings import Ending

__all__ = [
    "TIMERS",
    "BargeInLasted",
    "CallerSpeechEnded",
    "CallerSpeechStarted",
    "CallerTranscribed",
    "ClearAcknowledged",
    "ClearTimeout",
    "ConnectTimeout",
    "DigitPressed",
    "EndRequested",
    "EndpointTimeout",
    "Event",
    "FillerDue",
    "GoAway",
    "GoAwayDeadline",
    "GoodbyeTimeout",
    "IdleTimeout",
    "MarkReturned",
    "ModelDown",
    "ModelFailed",
    "ModelInterrupted",
    "ModelReady",
    "ModelSilent",
    "Outcome",
    "PlayoutTimeout",
    "ReplyAudio",
    "ReplyComplete",
    "StreamLost",
    "StreamStarted",
    "StreamStopped",
    "TimeLimit",
    "TimeWarning",
    "ToolFinished",
    "ToolPolicy",
    "ToolRequested",
    "ToolWithdrawn",
    "TurnComplete",
    "VerdictTimeout",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at `at_s`."""

    at_s: float

    def __post_init__(self) -> None:
        if not self.at_s >= 0:  # also refuses NaN
            raise ValueError(f"at_s must not be negative: {self.at_s}")


# --- the carrier


@dataclass(frozen=True, slots=True)
class StreamStarted(Event):
    """The carrier's media stream is up (Twilio "start")."""


@dataclass(frozen=True, slots=True)
class StreamStopped(Event):
    """The caller hung up (Twilio "stop")."""


@dataclass(frozen=True, slots=True)
class StreamLost(Event):
    """The media socket died, or nothing has come over it for too long."""


@dataclass(frozen=True, slots=True)
class MarkReturned(Event):
    """All of `generation` before `sample` has left the carrier's queue (Twilio "mark").

    `epoch` is the number of clears sent before the mark was: a mark older than the last clear is also echoed
    when it is thrown away, so it proves nothing.
    """

    generation: int
    sample: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ClearAcknowledged(Event):
    """The mark sent right behind clear number `epoch` came back: the carrier's queue was empty."""

    epoch: int


@dataclass(frozen=True, slots=True)
class DigitPressed(Event):
    """The caller pressed a key (Twilio "dtmf", or heard in the audio). Which one is the shell's affair."""


# --- the caller's voice, from the gateway's own detector


@dataclass(frozen=True, slots=True)
class CallerSpeechStarted(Event):
    """The detector is sure that the caller speaks; the voice began at `onset_s`."""

    onset_s: float


@dataclass(frozen=True, slots=True)
class CallerSpeechEnded(Event):
    """The detector is sure that the caller fell silent; the last speech frame was received at `offset_s`."""

    offset_s: float


# --- the model


@dataclass(frozen=True, slots=True)
class ModelReady(Event):
    """A model session is set up. `resumed`: it knows the conversation so far."""

    resumed: bool = False


@dataclass(frozen=True, slots=True)
class ModelDown(Event):
    """The model link was lost; the link is trying to get it back."""


@dataclass(frozen=True, slots=True)
class ModelFailed(Event):
    """The model cannot be reached, or not again: the link has given up."""


@dataclass(frozen=True, slots=True)
class GoAway(Event):
    """The model will close this connection in `time_left_s` (Gemini "goAway")."""

    time_left_s: float


@dataclass(frozen=True, slots=True)
class ReplyAudio(Event):
    """`samples` more of a reply are ready to be played.

    `audible_sample`: the first voice of this reply stands before this sample (given once per reply).
    `protected`: the caller's voice does not stop this reply (legal notice).
    """

    generation: int
    samples: int
    audible_sample: int | None = None
    protected: bool = False


@dataclass(frozen=True, slots=True)
class ReplyComplete(Event):
    """No more audio of this reply will come (Gemini "generationComplete", or a sound file's end)."""

    generation: int


@dataclass(frozen=True, slots=True)
class TurnComplete(Event):
    """The model's turn is over (Gemini "turnComplete"); `generation` is that turn's number, audio or not.

    `cut`: it broke off: there is far less audio of it than words.
    """

    generation: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ModelInterrupted(Event):
    """The model heard the caller and stopped generating `generation` (Gemini "interrupted")."""

    generation: int


@dataclass(frozen=True, slots=True)
class CallerTranscribed(Event):
    """The model wrote down something the caller said: it heard a turn, whatever the detector thinks."""


# --- tools


class ToolPolicy(Enum):
    """What a confirmed barge-in does to a running tool call."""

    CANCEL = "cancel"
    FINISH = "finish"


class Outcome(Enum):
    """How a tool call ended; exactly one each."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ToolRequested(Event):
    """The model asks for a tool (Gemini "toolCall"). `silent`: its result is told without being spoken of.

    `limit_s`: the runner ends it sooner than this, whatever happens; past it the machine gives the tool up.
    """

    call_id: str
    policy: ToolPolicy = ToolPolicy.CANCEL
    silent: bool = False
    filler_after_s: float | None = None  # cover this much silence with the agent's filler
    limit_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ToolFinished(Event):
    """A running tool ended by itself (never `CANCELLED`: that is the machine's word)."""

    call_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ToolWithdrawn(Event):
    """The model no longer wants this call's result (Gemini "toolCallCancellation")."""

    call_id: str


@dataclass(frozen=True, slots=True)
class EndRequested(Event):
    """End the call once what is being said has been heard (the agent's `end_call`, a transfer, a drain).

    `call_id`: the tool call that asked, "" when none did; one that is not running any more is not heard.
    """

    ending: Ending
    call_id: str = ""


# --- timers: set by `SetTimer`, fired by the shell


@dataclass(frozen=True, slots=True)
class ConnectTimeout(Event):
    """The model was not ready in time for this call, or not ready again, and the link has not said so."""


@dataclass(frozen=True, slots=True)
class VerdictTimeout(Event):
    """The suspected barge-in is over and the model has not confirmed it."""


@dataclass(frozen=True, slots=True)
class BargeInLasted(Event):
    """The caller has spoken over the agent for `min_barge_in_ms`, and goes on: the detector's hangover is over."""


@dataclass(frozen=True, slots=True)
class ClearTimeout(Event):
    """The carrier has not acknowledged a clear in time."""


@dataclass(frozen=True, slots=True)
class PlayoutTimeout(Event):
    """By the clock all that was sent has been heard, but its marks or the rest of the reply have not come."""


@dataclass(frozen=True, slots=True)
class ModelSilent(Event):
    """The model owes the caller a word and has brought nothing; or the tool it waits for does not end."""


@dataclass(frozen=True, slots=True)
class EndpointTimeout(Event):
    """Local turn detection: the caller has been silent long enough for the turn to be over."""


@dataclass(frozen=True, slots=True)
class FillerDue(Event):
    """A tool has kept the caller waiting in silence."""


@dataclass(frozen=True, slots=True)
class IdleTimeout(Event):
    """Neither side has said anything since the end of playback."""


@dataclass(frozen=True, slots=True)
class GoodbyeTimeout(Event):
    """The goodbye did not begin, or did not end, in time."""


@dataclass(frozen=True, slots=True)
class GoAwayDeadline(Event):
    """The model's connection is about to be closed: change it now, quiet or not."""


@dataclass(frozen=True, slots=True)
class TimeWarning(Event):
    """The call's time limit is near."""


@dataclass(frozen=True, slots=True)
class TimeLimit(Event):
    """The call's time limit is reached."""


TIMERS: tuple[type[Event], ...] = (
    ConnectTimeout,
    VerdictTimeout,
    BargeInLasted,
    ClearTimeout,
    PlayoutTimeout,
    ModelSilent,
    EndpointTimeout,
    FillerDue,
    IdleTimeout,
    GoodbyeTimeout,
    GoAwayDeadline,
    TimeWarning,
    TimeLimit,
)
