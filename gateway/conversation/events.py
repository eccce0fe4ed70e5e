"""What happened: everything that can reach one call's conversation machine.

Frozen values, each with the time it happened: `at_s`, seconds on the one monotonic clock of the process. An event
without fields of its own is a plain subclass. Samples are those of the audio sent to the line, mono; `generation`
numbers a reply and only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from offhook.gateway.conversation.endings import Ending

# fmt: off
__all__ = [
    "BargeInLasted", "CallerSpeechEnded", "CallerSpeechStarted", "CallerTranscribed", "CancelReply",
    "ClearAcknowledged", "ClearTimeout", "ConnectTimeout", "CostWarning", "DigitPressed", "EndRequested",
    "EndpointTimeout", "Event", "FillerDue", "GoAway", "GoAwayDeadline", "GoodbyeTimeout", "IdleTimeout", "LineAway",
    "LineBack", "LoudWithoutSpeech", "MarkReturned", "ModelDown", "ModelFailed", "ModelInterrupted", "ModelReady",
    "ModelSilent", "Outcome", "Owed", "PlayoutTimeout", "ReplyAudio", "ReplyComplete", "Resumed", "SayAndEnd",
    "StreamLost", "StreamStarted", "StreamStopped", "TimeLimit", "TimeWarning", "Timer", "ToolFinished", "ToolPolicy",
    "ToolRequested", "ToolWithdrawn", "TurnComplete", "VerdictTimeout",
]
# fmt: on


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at `at_s`."""

    at_s: float

    def __post_init__(self) -> None:
        if not self.at_s >= 0:  # also refuses NaN
            raise ValueError(f"at_s must not be negative: {self.at_s}")


# --- the line


class StreamStarted(Event):
    """The call's first media stream is up."""


class StreamStopped(Event):
    """The caller hung up."""


class StreamLost(Event):
    """The media stream is gone, or has brought nothing for too long, and none will take its place."""


class LineAway(Event):
    """The media stream is gone; `LineBack` or `StreamLost` follows. What the far end had queued is lost."""


class LineBack(Event):
    """Another media stream has taken the place of the one that was lost."""


class Owed(Enum):
    """What a call owes its caller when it goes on elsewhere."""

    NOTHING = "nothing"  # the caller has the floor, or neither side
    GREETING = "greeting"  # of which nothing was heard
    ANSWER = "answer"  # the caller waits for a reply, of which nothing was heard
    REST = "rest"  # a reply was cut: the caller heard its beginning


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """The call began in another process and goes on in this one, with its line away and its link connecting.

    `newest`: the highest reply number given out there; none of those replies is alive. `began_s`: when the call's first
    stream started, on this process's clock. `ending`: why it was about to end. `sound`, `sound_heard`: samples of a
    greeting from a file that was cut, and of it heard: it is reply `newest` still.
    """

    newest: int
    owed: Owed
    began_s: float
    ending: Ending | None = None
    sound: int = 0
    sound_heard: int = 0


@dataclass(frozen=True, slots=True)
class MarkReturned(Event):
    """All of `generation` before `sample` was played; but a mark of an `epoch` before the last clear proves nothing, as
    the far end echoes it when it drops the audio, too. `late_s`: how much longer than usual it was on its way.
    """

    generation: int
    sample: int
    epoch: int
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClearAcknowledged(Event):
    """The line confirmed clear number `epoch`: its queue was empty."""

    epoch: int


class DigitPressed(Event):
    """The caller pressed a key; which one is the shell's affair."""


# --- the caller's voice, from the gateway's own detector


@dataclass(frozen=True, slots=True)
class CallerSpeechStarted(Event):
    """The detector decided that the caller speaks; the voice began at `onset_s`."""

    onset_s: float


@dataclass(frozen=True, slots=True)
class CallerSpeechEnded(Event):
    """The detector decided that the caller fell silent; the last speech frame was received at `offset_s`."""

    offset_s: float


class LoudWithoutSpeech(Event):
    """The caller's audio has been loud for seconds without speech, by the detector: it may be deaf. Reported once."""


# --- the model


@dataclass(frozen=True, slots=True)
class ModelReady(Event):
    """A model session is set up. `resumed`: it has the conversation so far."""

    resumed: bool = False


class ModelDown(Event):
    """The model connection was lost; the link is reconnecting."""


class ModelFailed(Event):
    """The model cannot be reached, or not again: the link has given up."""


@dataclass(frozen=True, slots=True)
class GoAway(Event):
    """The model will close this connection in `time_left_s`."""

    time_left_s: float


@dataclass(frozen=True, slots=True)
class ReplyAudio(Event):
    """`samples` more of a reply are ready to be played. `audible_sample`: its voice begins before it; given once.
    `filler`: it covers a wait and answers nothing.
    """

    generation: int
    samples: int
    audible_sample: int | None = None
    filler: bool = False


@dataclass(frozen=True, slots=True)
class ReplyComplete(Event):
    """No more audio of this reply will come: the model has generated it, or the sound file is at its end."""

    generation: int


@dataclass(frozen=True, slots=True)
class TurnComplete(Event):
    """The model's turn is over, with audio or without. `cut`: there is far less audio of it than text."""

    generation: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ModelInterrupted(Event):
    """The model heard the caller and stopped generating `generation`."""

    generation: int


class CallerTranscribed(Event):
    """The model transcribed the caller: it heard a turn, whatever the detector decided."""


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
    """The model requests a tool. `silent`: its result is not spoken of. After `limit_s` the machine gives it up."""

    call_id: str
    policy: ToolPolicy = ToolPolicy.CANCEL
    silent: bool = False
    filler_after_s: float | None = None  # cover this much silence with the tool's filler
    limit_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ToolFinished(Event):
    """A running tool ended by itself (never `CANCELLED`: only the machine cancels)."""

    call_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ToolWithdrawn(Event):
    """The model no longer wants this call's result."""

    call_id: str


@dataclass(frozen=True, slots=True)
class EndRequested(Event):
    """End the call once what is being said has been heard. `call_id`: the tool call that requests it, ignored once it
    is not running any more; "" for none (a drain, a limit).
    """

    ending: Ending
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class CancelReply(Event):
    """Stop what the agent is saying, for good: all up to `generation`, whose audio may not have come yet."""

    generation: int = 0


@dataclass(frozen=True, slots=True)
class SayAndEnd(Event):
    """As `CancelReply`; then the agent says its last words, and the call ends once that turn has been heard."""

    ending: Ending
    generation: int = 0


# --- timers


class Timer(Event):
    """An event that `SetTimer` schedules; the shell delivers it when it is due."""


class ConnectTimeout(Timer):
    """The model was not ready in time for this call, or not again, and the link did not report it."""


class VerdictTimeout(Timer):
    """The suspected barge-in is over and the model has not confirmed it."""


class BargeInLasted(Timer):
    """The caller has spoken over the agent for `min_barge_in_ms`, and goes on: the detector's hangover is over."""


class ClearTimeout(Timer):
    """The line has not acknowledged a clear in time."""


class PlayoutTimeout(Timer):
    """By the clock all that was sent has been heard, but its marks or the rest of the reply have not come."""


class ModelSilent(Timer):
    """The model owes the caller a reply and has brought nothing; or the tool it waits for does not end."""


class EndpointTimeout(Timer):
    """Local turn detection: the caller has been silent long enough for the turn to be over."""


class FillerDue(Timer):
    """The caller has been kept waiting in silence: by a tool, by the model, or by the way to it."""


class IdleTimeout(Timer):
    """Neither side has said anything since the end of playback."""


class GoodbyeTimeout(Timer):
    """The goodbye did not begin, or did not end, in time."""


class GoAwayDeadline(Timer):
    """The model's connection is about to be closed: change it now, quiet or not."""


class TimeWarning(Timer):
    """The call's time limit is near."""


class CostWarning(Timer):
    """The call's cost limit is near. Delivered by the shell first; a timer repeats it until a quiet moment."""


class TimeLimit(Timer):
    """The call's time limit is reached."""
