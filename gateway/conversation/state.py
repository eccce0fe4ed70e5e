"""What the machine knows of a call between two events, and what was decided before the call."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.conversation.ledger import Ledger

__all__ = ["Greets", "Link", "Mode", "Phase", "Policy", "RunningTool", "State"]


class Phase(Enum):
    """Whose word it is."""

    CONNECTING = "connecting"  # the carrier's stream has not started
    LISTENING = "listening"  # the caller's word, or nobody's
    THINKING = "thinking"  # the model's word, and nothing of it to be heard yet
    SPEAKING = "speaking"  # the agent is heard
    HELD = "held"  # suspected barge-in: playback stopped, tail kept
    STOPPING = "stopping"  # confirmed; waiting for the carrier's word that playback has stopped
    CLOSING = "closing"  # the goodbye is awaited or heard
    ENDED = "ended"


class Link(Enum):
    """The model link, as far as the conversation cares."""

    DIALLING = "dialling"
    UP = "up"
    DOWN = "down"  # lost or being changed; the link is getting it back
    FAILED = "failed"


class Mode(Enum):
    """Whose word stops the agent."""

    HOLD = "hold"  # the detector stops, the model or more speech confirms
    STOP = "stop"  # the detector's word is final
    MODEL = "model"  # only the model's `interrupted` counts
    OFF = "off"  # nobody's: the agent finishes


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
    hangover_s: float = 0.4  # by how much the detector's word comes late that the caller fell silent
    dtmf_barge_in: bool = False
    local_turns: bool = False  # the gateway decides where the caller's turn ends
    end_silence_s: float = 0.7
    greets: Greets = Greets.NOBODY
    tell_heard: bool = True
    idle_prompt_s: float = 10.0
    idle_goodbye_s: float = 20.0
    call_limit_s: float = 3600.0
    warning_s: float = 60.0
    silent_after_s: float = 6.0
    connect_timeout_s: float = 12.0


class RunningTool(NamedTuple):
    """A tool call without an outcome yet."""

    call_id: str
    policy: ToolPolicy = ToolPolicy.CANCEL
    silent: bool = False
    filler_after_s: float | None = None
    limit_s: float = 600.0
    withdrawn: bool = False  # finishes, but nobody waits for it and its result is not told


class State(NamedTuple):
    """Everything that decides what the next event means."""

    phase: Phase = Phase.CONNECTING
    link: Link = Link.DIALLING
    ledger: Ledger = Ledger()
    tools: tuple[RunningTool, ...] = ()
    caller_speaking: bool = False
    onset_s: float = 0.0  # of the caller's present or last speech
    activity: bool = False  # local turns: the model has been told that the caller's turn is on
    newest: int = 0  # newest generation seen
    dead: int = 0  # generations up to this one are dropped wherever they turn up
    answered: bool = False  # the agent has been heard since the caller last spoke
    owed: bool = False  # the model owes the caller a word, also while the caller coughs into the wait
    asked_tool: bool = False  # the model's present turn asked for a tool: it is not empty without a sound
    strikes: int = 0  # times the model was silent when it should speak: nudge, reconnect, give up
    asked_on: bool = False  # the model was asked for the rest of a reply that broke off
    idle_prompted: bool = False
    rotation_due: bool = False  # the model wants to close this connection
    acknowledged: bool = True  # the last clear has been answered
    muted: bool = False
    ending: Ending | None = None  # CLOSING and what can interrupt it: why the call will end

    def with_ledger(self, ledger: Ledger) -> State:
        """As `_replace(ledger=...)`, at half the price: this is done for every chunk of audio."""
        return State._make((*self[:2], ledger, *self[3:]))
