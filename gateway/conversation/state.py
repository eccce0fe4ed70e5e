"""The machine's memory between two events (`State`), and the rules that are fixed before the call (`Policy`)."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Owed, ToolPolicy
from offhook.gateway.conversation.ledger import Ledger
from offhook.gateway.conversation.units import RATE_HZ

__all__ = [
    "Caller",
    "Due",
    "Greets",
    "LastWords",
    "LineState",
    "Link",
    "Mode",
    "Phase",
    "Policy",
    "RunningTool",
    "State",
]


class Phase(Enum):
    """Who has the floor."""

    CONNECTING = "connecting"  # the media stream has not started
    LISTENING = "listening"  # the caller has the floor, or neither side has
    THINKING = "thinking"  # the model has the floor, and none of its reply is audible yet
    SPEAKING = "speaking"  # the agent is heard
    HELD = "held"  # suspected barge-in: playback stopped, tail kept
    STOPPING = "stopping"  # confirmed barge-in; the line has not acknowledged the clear yet
    CLOSING = "closing"  # the goodbye is awaited or heard
    ENDED = "ended"

    __hash__ = object.__hash__  # Enum's is a Python call on every step


class LineState(Enum):
    """Whether there is a stream to the caller at present. Independent of the phase."""

    UP = "up"
    AWAY = "away"  # the stream is gone and another may come: nothing is sent


class Link(Enum):
    """The model link, as far as the conversation is concerned."""

    DIALLING = "dialling"
    UP = "up"
    DOWN = "down"  # lost or rotated; the link is reconnecting
    FAILED = "failed"


class Mode(Enum):
    """Which sign stops the agent."""

    HOLD = "hold"  # the detector stops playback; the model, or more speech, confirms
    STOP = "stop"  # the detector alone
    MODEL = "model"  # the model's interruption alone
    OFF = "off"  # none: the agent finishes


class Greets(Enum):
    """Who speaks first, and how."""

    NOBODY = "nobody"
    MODEL = "model"
    SOUND = "sound"


class Policy(NamedTuple):
    """One agent's rules for the conversation, fixed for the call.

    Times in seconds. 0 switches off: `idle_prompt_s`, `idle_goodbye_s`, `call_limit_s`, `warning_s`.
    """

    mode: Mode = Mode.HOLD
    min_barge_in_s: float = 0.6
    verdict_timeout_s: float = 0.4
    hangover_s: float = 0.4  # delay of the detector's decision that the caller fell silent
    dtmf_barge_in: bool = False
    local_turns: bool = False  # the gateway decides where the caller's turn ends
    end_silence_s: float = 0.7
    greets: Greets = Greets.NOBODY
    greeting_protected: bool = False  # the first reply of the call cannot be interrupted
    report_heard: bool = True
    idle_prompt_s: float = 10.0
    idle_goodbye_s: float = 20.0
    call_limit_s: float = 3600.0
    warning_s: float = 60.0
    silent_after_s: float = 6.0
    connect_timeout_s: float = 12.0
    rate_hz: int = RATE_HZ  # of the audio sent to the line


class RunningTool(NamedTuple):
    """A tool call without an outcome yet."""

    call_id: str
    policy: ToolPolicy = ToolPolicy.CANCEL
    silent: bool = False
    filler_after_s: float | None = None
    ends_s: float = 600.0  # by then its runner has ended it
    withdrawn: bool = False  # runs to its end, but is not waited for and its result is not sent


class Caller(NamedTuple):
    """The caller's side."""

    speaking: bool = False
    onset_s: float = 0.0  # of the present or last speech
    offset_s: float = 0.0  # of the last speech that ended
    turn_open: bool = False  # local turns: `OpenTurn` was sent, `CloseTurn` was not
    idle_prompted: bool = False  # since the last sign of life


class Due(NamedTuple):
    """What the model owes."""

    reply: bool = False  # a reply to the caller; stays through a cough into the wait
    since_s: float | None = None  # end of the first caller's turn without a reply; or when the model was prompted
    unanswered: int = 0  # caller's turns since then that were over before the caller spoke again
    alive: bool = False  # the model transcribed or was interrupted since then, or since the last measure: it hears
    failed_prompts: int = 0  # measures taken against the model's silence: nudge, reconnect, give up
    struck_s: float = 0.0  # when the last of them was taken
    prompt_waits: bool = False  # a new connection is to be prompted once the caller has stopped speaking
    tool_asked: bool = False  # the model's present turn requested a tool: without audio it is not empty
    continuation_asked: bool = False  # the rest of a reply that broke off was asked for


class LastWords(NamedTuple):
    """The call ends for `ending` once a turn numbered above `after` has been heard."""

    ending: Ending
    after: int


class State(NamedTuple):
    """Everything that decides what the next event means."""

    phase: Phase = Phase.CONNECTING
    line: LineState = LineState.UP
    link: Link = Link.DIALLING
    ledger: Ledger = Ledger()
    tools: tuple[RunningTool, ...] = ()
    caller: Caller = Caller()
    due: Due = Due()
    quiet_s: float = 0.0  # THINKING: since when the caller has heard nothing
    agent_replied: bool = False  # a reply was audible since the caller last spoke
    greeted: bool = False  # the protected greeting has begun
    rotation_due: bool = False  # the model is about to close this connection
    ending: Ending | None = None  # in CLOSING, and in HELD during a goodbye: why the call will end
    last_words: LastWords | None = None
    owed: Owed = Owed.NOTHING  # what the model is to be prompted for once it is there: the call began elsewhere

    @property
    def caller_muted(self) -> bool:
        """Whether the model gets silence for the caller's audio: it would interrupt its own protected reply."""
        replies = self.ledger.replies
        return (
            bool(replies)
            and self.phase not in (Phase.LISTENING, Phase.THINKING)
            and any(reply.protected for reply in replies)
        )

    @property
    def quiet(self) -> bool:
        """Neither side speaks, and nothing is awaited."""
        return self.phase is Phase.LISTENING and not (self.caller.speaking or self.tools or self.caller.turn_open)

    @property
    def agent_has_floor(self) -> bool:
        """The agent is heard, or would be but for a barge-in that is only suspected."""
        phase = self.phase
        return phase in (Phase.SPEAKING, Phase.HELD) or (phase is Phase.CLOSING and bool(self.ledger.replies))

    def is_dead(self, generation: int) -> bool:
        """Whether audio of this reply is dropped."""
        return generation <= self.ledger.dead or self.phase is Phase.ENDED

    def with_ledger(self, ledger: Ledger) -> State:
        """As `_replace(ledger=...)`, at half the price: used for every chunk of audio."""
        return State._make((*self[:3], ledger, *self[4:]))

    def with_caller(self, **changes: Any) -> State:
        """As `_replace`, of fields of `Caller`."""
        return self._replace(caller=self.caller._replace(**changes))

    def with_due(self, **changes: Any) -> State:
        """As `_replace`, of fields of `Due`."""
        return self._replace(due=self.due._replace(**changes))

    def with_due_anew(self, *, reply: bool) -> State:
        """The model's silence is over, or counts from the next end of speech: no measure was taken, no turn is old."""
        due = self.due
        return self._replace(due=Due(reply=reply, tool_asked=due.tool_asked, continuation_asked=due.continuation_asked))
