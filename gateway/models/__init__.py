"""The seam to a speech model: one `Model` per provider and process, one `ModelLink` per call.

A link translates between the provider's protocol and the conversation's events, and between its audio formats and
the line's. It decides nothing about the conversation. All methods but the coroutines return at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import Event
from offhook.media.formats import MULAW_8K, AudioFormat

__all__ = [
    "LINK_METRICS",
    "AudioFormats",
    "CallBrief",
    "Declared",
    "LinkCan",
    "LinkCount",
    "LinkMemory",
    "Model",
    "ModelLink",
    "ModelSink",
    "Prices",
    "Problem",
    "Speaker",
    "Usage",
    "without_key",
]


class Declared(Protocol):
    """A tool as it is declared to the model (`offhook.gateway.tools.Tool` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def blocking(self) -> bool: ...
    @property
    def entry(self) -> int | None: ...  # its place in the agent file's `tools`; None where there is none


class Problem(NamedTuple):
    """A field of the agent file that the model would refuse or ignore, and how to fix it."""

    field: str
    fix: str

    def __str__(self) -> str:
        return f"{self.field}: {self.fix}"


@dataclass(frozen=True, slots=True)
class AudioFormats:
    """The line's formats: of the caller's audio (to the model) and of the agent's (from the model)."""

    caller: AudioFormat = MULAW_8K
    agent: AudioFormat = MULAW_8K


class LinkMemory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a link in another process needs to go on with this one's conversation. Each provider fills what it has.

    `handle`: of a session that can be resumed, a secret; `handle_age_s`: when this was read. `config`: the setup that
    it belongs to. `calls`: tool calls that were open when it was given, id and name, of `calls_received` so far.
    `lines`: the call so far, each side's name and words; `since_handle`: of those what the handle does not know;
    `given`: what the session was given.
    """

    handle: str = ""
    handle_age_s: float = 0.0
    config: str = ""
    calls: dict[str, str] = {}
    calls_received: int = 0
    lines: list[tuple[str, str]] = []
    since_handle: list[tuple[str, str]] = []
    given: list[tuple[str, str]] = []

    def __repr__(self) -> str:
        return f"LinkMemory({len(self.lines)} lines)"


@dataclass(frozen=True, slots=True)
class CallBrief:
    """What a link is made from. `variables` and `facts` are read anew at each session's setup.

    `clock`: seconds, monotonic; every event of the link carries its time. `memory`: of another process's link, whose
    conversation goes on.
    """

    agent: Agent
    clock: Callable[[], float]
    tools: tuple[Declared, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    formats: AudioFormats = AudioFormats()
    memory: LinkMemory | None = None


@dataclass(frozen=True, slots=True)
class LinkCan:
    """What a provider's protocol supports."""

    resumes: bool  # a lost session continues in a new one that remembers the conversation
    withdraws_tools: bool  # the model takes tool calls back (`ToolWithdrawn`)
    cancels_replies: bool  # `cancel_reply` stops a reply that is being generated
    truncates: bool  # `heard` shortens the model's own memory of a reply; elsewhere only its note is sent
    full_duplex: bool  # one continuous stream of audio without turns
    session_limit_s: float | None  # of one session, where it cannot be resumed past it
    pictures_per_s: float = 0.0  # that it is to be sent; 0: it takes none


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn of the model.

    The counts by kind are what is billed and do not overlap: what was cached is in none of the others.
    """

    text_in: int = 0
    audio_in: int = 0
    image_in: int = 0
    cached_in: int = 0  # of text, or of any kind where the provider does not tell them apart
    cached_audio_in: int = 0
    text_out: int = 0
    audio_out: int = 0
    input_total: int = 0  # as the provider reports it, for `tokens_total`
    output_total: int = 0
    by_name: Mapping[str, int] = field(default_factory=dict)  # the provider's own counts, as the call's record has them


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one model: per million tokens, in one currency. Cached tokens without a price of their own cost as text."""

    text_in: float
    audio_in: float
    image_in: float
    text_out: float
    audio_out: float
    cached_in: float | None = None
    cached_audio_in: float | None = None


class LinkCount(Enum):
    """Everything that a link counts. `LINK_METRICS` says which metric each one goes to."""

    DROPPED_FULL = "dropped_full"  # caller frames: the outbox was full, with a connection
    DROPPED_DOWN = "dropped_down"  # caller frames: the outbox was full, without a connection
    DROPPED_AT_END = "dropped_at_end"  # caller frames that were queued when the link was closed
    SESSION_FAILED = "session_failed"  # reason: refused, timeout or unreachable
    MODEL_ERROR = "model_error"  # reason: one of the catalogue's MODEL_ERRORS
    MALFORMED = "malformed"  # a message that cannot be read; reason: that of `errors.Malformed`
    UNKNOWN_FIELD = "unknown_field"
    BAD_FIELD = "bad_field"
    PICTURE_REPLACED = "picture_replaced"  # it waited, and a newer one took its place
    PICTURE_DROPPED = "picture_dropped"  # it waited when the link was closed
    # For tests and debugging; these have no metric.
    NOTE_OMITTED = "note_omitted"  # the model's protocol does not permit it
    MESSAGE_DROPPED = "message_dropped"  # a text or tool result: the outbox was full
    RESULT_DROPPED = "result_dropped"  # a tool result for a call that this session does not have open
    REPEATED = "repeated"  # a transcript or tool call that was received twice
    HANDLE = "handle"  # `ModelLink.memory` has a newer one
    TURN_CUT = "turn_cut"  # a turn that ended before its transcript was spoken


LINK_METRICS: Mapping[LinkCount, tuple[str, ...]] = {
    LinkCount.DROPPED_FULL: ("frames_dropped_total", "uplink_full"),
    LinkCount.DROPPED_DOWN: ("frames_dropped_total", "model_down"),
    LinkCount.DROPPED_AT_END: ("frames_dropped_total", "call_over"),
    LinkCount.SESSION_FAILED: ("model_sessions_total",),
    LinkCount.MODEL_ERROR: ("model_errors_total",),
    LinkCount.MALFORMED: ("input_errors_total", "model"),
    LinkCount.UNKNOWN_FIELD: ("input_errors_total", "model", "unknown_event"),
    LinkCount.BAD_FIELD: ("input_errors_total", "model", "bad_field"),
    LinkCount.PICTURE_REPLACED: ("pictures_total", "replaced"),
    LinkCount.PICTURE_DROPPED: ("pictures_total", "call_over"),
}
"""Attribute of `offhook.metrics.catalogue.Metrics`, then its label values; a count's `reason` is the last one."""


class Speaker(Enum):
    CALLER = "caller"
    AGENT = "agent"


class Model(Protocol):
    """One provider of the process. `prices`: as published, by model name; a model that is not there has none known."""

    prices: Mapping[str, Prices]

    def name_of(self, agent: Agent) -> str:
        """The model that this agent uses: its `model.name`, or the provider's default where that is empty."""

    def check(self, agent: Agent, tools: Iterable[Declared]) -> list[Problem]:
        """What the model would refuse, or silently not do, of this agent; empty when there is nothing."""

    def link(self, brief: CallBrief, sink: ModelSink) -> ModelLink:
        """A call's link; its `run` connects."""

    async def warm_up(self) -> None:
        """Build what is built on first use, before the first call; needs no network."""

    async def close(self) -> None:
        """The process stops. Links are closed by their calls."""


class ModelLink(Protocol):
    """One call's link to the model, across as many sessions and connections as the call takes.

    `faults`: what went wrong, without secrets, for the call's record.
    """

    can: LinkCan
    faults: deque[str]

    def caller_audio(self, codes: bytes, samples: NDArray[np.int16], received_s: float) -> None:
        """A piece of the caller's audio, twice: `codes` as received (`brief.formats.caller`, whole samples), and
        `samples` as decoded for detection (8 kHz). A link sends whichever its provider takes.

        Queued within a bound; the oldest is dropped and counted. `received_s`: when it was received, for the
        segment `uplink_forward`; 0 for none. A link may keep it until `flush_audio`, to convert the audio of all
        calls at once.
        """

    def flush_audio(self) -> None:
        """What `caller_audio` was handed last, of any call, is to be sent now."""

    def picture(self, jpeg: bytes) -> None:
        """The caller shows this; only where `can.pictures_per_s`. One waits at most, behind all audio: a newer one
        takes its place, and the older is counted.
        """

    def turn_started(self) -> None:
        """Local turn detection: the caller's turn begins. Its audio, pre-roll first, follows by `caller_audio`."""

    def turn_ended(self) -> None:
        """Local turn detection: the caller's turn is over."""

    def prompt(self, text: str) -> None:
        """Text that the model answers aloud; kept while there is no connection."""

    def note(self, text: str) -> None:
        """Context without a reply; omitted and counted where the model does not permit it."""

    def heard(self, turn: int, samples: int, note: str | None) -> None:
        """A reply was interrupted: the caller heard its first `samples` (of `brief.formats.agent`).

        `note`: the same as a sentence; None where the transcript gives none.
        """

    def cancel_reply(self, turn: int) -> None:
        """This reply will not be played: stop generating it, where `can.cancels_replies`."""

    def tool_result(self, call_id: str, name: str, response: dict[str, Any], speak: Speak) -> None:
        """Dropped and counted when the session does not have this call open."""

    def tool_cancelled(self, call_id: str) -> None:
        """The call was stopped here and has no result; harmless when repeated or unknown."""

    def rotate(self) -> None:
        """Change to a new connection in this quiet moment."""

    def reconnect(self) -> None:
        """Drop a stuck connection and recover."""

    def memory(self) -> LinkMemory:
        """What another process needs to go on with this conversation, now."""

    def round_trip_s(self) -> float | None:
        """To the next TCP hop, measured by the kernel; None without a connection, or where it is not known."""

    async def run(self) -> None:
        """Connect and read until `close`. Every end is reported to the sink as an event; none is raised."""

    async def close(self) -> None:
        """End the session and wait until nothing of it is left; harmless when repeated."""


class ModelSink(Protocol):
    """A call, as its model link sees it. All methods return at once.

    An exception out of any of them is reported by `task_failed`, and the connection replaced.
    """

    def event(self, event: Event) -> None:
        """For the conversation machine (`ModelReady`, `ReplyComplete`, `ToolWithdrawn`, ...)."""

    def reply_audio(self, turn: int, codes: bytes) -> None:
        """Audio of this turn in `brief.formats.agent`: whole samples, any number of them, never none.

        What the link's conversion still owes is flushed before `ReplyComplete` and `TurnComplete`.
        """

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None:
        """A piece of transcript; `turn` is the agent's, None for the caller. `final`: the utterance is complete."""

    def tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        """The model requests a tool."""

    def usage(self, usage: Usage) -> None:
        """Tokens of one turn, before its `TurnComplete`."""

    def count(self, what: LinkCount, by: float = 1, reason: str = "") -> None:
        """Counted as it happens; `reason` where `what` has one."""

    def segment(self, name: str, seconds: float) -> None:
        """A duration of the link's own: `model_setup`, `model_reconnect_gap`, `uplink_forward`."""

    def next_turn(self) -> int:
        """The number of a new turn of the model: unique in the call, increasing."""

    def agent_has_floor(self) -> bool:
        """Whether a reply is being heard, or held until a barge-in is decided. For a link that has to request each
        reply: the caller's words over a reply are answered when the barge-in is confirmed (`cancel_reply`).
        """

    def task_failed(self, part: str, error: BaseException) -> None:
        """An exception of the link's own or of this sink: logged with the call's id, counted under `part` (`link`,
        `link_reader`, `link_writer`). Never raises; what the link does about it is its own matter.
        """


def without_key(text: str, key: str) -> str:
    """What a peer or an SDK said, without the key that it may have put in; on one line, of bounded length."""
    return " ".join((text.replace(key, "***") if key else text).split())[:300]
