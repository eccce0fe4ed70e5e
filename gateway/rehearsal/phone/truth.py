"""Ground truth: what happened on the line, on the carrier's clock. Plain values, JSON by msgspec.

All `*_s` are CLOCK_MONOTONIC seconds, the clock of the event loop and of a gateway on the same machine.
A *place* is a sample (8 kHz) on the call's axis, counted from `CallTruth.began_s`; a *position* is a sample
in the order in which the gateway sent them, over the whole call.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "Announced",
    "CallTruth",
    "ClearReceived",
    "Fetched",
    "Interval",
    "MarkReceived",
    "MediaReceived",
    "Played",
    "StepTaken",
    "StreamTruth",
    "Utterance",
    "Violation",
    "longest_wait_s",
]


class Violation(msgspec.Struct, kw_only=True):
    """A message or document that Twilio would log, with the code of its warning."""

    at_s: float
    code: int
    what: str


class Fetched(msgspec.Struct, kw_only=True):
    """One webhook request and its answer. `status` 0: no answer."""

    at_s: float
    took_ms: float
    path: str
    status: int
    answer: str = ""


class StreamTruth(msgspec.Struct, kw_only=True):
    """One media WebSocket. `unplayed`: samples still queued when it closed, never heard."""

    stream_sid: str
    url: str
    dialled_s: float
    started_s: float | None = None
    closed_s: float | None = None
    closed_by: str = ""  # gateway, carrier, network
    close_code: int | None = None
    refused: str = ""  # why the handshake failed
    frames: int = 0
    unplayed: int = 0


class MediaReceived(msgspec.Struct, kw_only=True):
    """One of the gateway's media messages."""

    at_s: float
    position: int
    samples: int


class MarkReceived(msgspec.Struct, kw_only=True):
    """One of the gateway's marks. `echoed`: why it was sent back (played, empty, cleared), "" if it was not."""

    at_s: float
    position: int
    name: str
    echoed: str = ""
    echoed_s: float | None = None


class ClearReceived(msgspec.Struct, kw_only=True):
    """One `clear`: `discarded` samples from `position` on were not heard; playback is silent from `stopped_s` on."""

    at_s: float
    position: int
    discarded: int
    stopped_s: float
    while_audible: bool


class Played(msgspec.Struct, kw_only=True):
    """A run of samples that were played to the caller without a break: `[position, position + samples)`."""

    position: int
    place: int
    samples: int


class Interval(msgspec.Struct, kw_only=True):
    """The agent was audible from `start_s` to `end_s`, pauses for breath included. `cut`: by a clear."""

    start_s: float
    end_s: float
    open: bool = True
    cut: bool = False


class Utterance(msgspec.Struct, kw_only=True):
    """One utterance of the caller's. Onset and end are its first and last audible sample."""

    text: str
    kind: str  # say, cough, keyboard
    onset_s: float
    end_s: float
    onset_place: int
    end_place: int
    over_agent: bool = False  # the agent was audible at its onset


class Announced(msgspec.Struct, kw_only=True):
    """A TwiML instruction that Twilio itself executed: say, play, dial, whisper, enqueue, reject, hangup."""

    at_s: float
    verb: str
    text: str = ""


class StepTaken(msgspec.Struct, kw_only=True):
    """One step of the caller's script. `failed`: why the step was impossible."""

    step: str
    began_s: float
    ended_s: float | None = None
    failed: str = ""


class CallTruth(msgspec.Struct, kw_only=True):
    """One call, as the carrier and the caller observed it."""

    call_sid: str
    caller: str = ""
    dialled: str = ""
    rang_s: float = 0.0
    began_s: float = 0.0  # place 0 of both channels
    ended_s: float = 0.0
    # caller, rest, twiml_hangup, twiml_end, dial, enqueue, reject, webhook_failed; stream_closed without a webhook
    ended_by: str = ""
    streams: list[StreamTruth] = []
    fetched: list[Fetched] = []
    media: list[MediaReceived] = []
    marks: list[MarkReceived] = []
    clears: list[ClearReceived] = []
    played: list[Played] = []
    agent: list[Interval] = []
    spoken: list[Utterance] = []
    digits: list[tuple[float, str]] = []
    announced: list[Announced] = []
    steps: list[StepTaken] = []
    violations: list[Violation] = []
    frames_dropped: int = 0  # the gateway read too slowly: Twilio's warning 31930
    latest_tick_ms: float = 0.0  # the carrier's own worst lateness: the accuracy of its times
    left: bytes = b""  # mu-law, the caller's audio as sent
    right: bytes = b""  # mu-law, what the caller heard


def longest_wait_s(truth: CallTruth) -> float:
    """The longest silence in which the caller waited, by what was played to them, TwiML's words included.

    A caller waits from the end of what either side said until the agent is heard again, or until they say more although
    they have had no answer. Not until they speak, or hang up, after the agent has spoken.
    """
    if not truth.streams:
        return 0.0
    sounds = [(i.start_s, i.end_s, "agent") for i in truth.agent]
    sounds += [(i.onset_s, i.end_s, "caller") for i in truth.spoken]
    sounds += [(a.at_s, a.at_s, "agent") for a in truth.announced if a.verb in ("say", "play", "dial", "enqueue")]
    sounds.append((truth.ended_s, truth.ended_s, "end" if truth.ended_by == "caller" else "agent"))
    longest_s, last_s, last = 0.0, truth.streams[0].started_s or truth.began_s, "caller"
    for start_s, end_s, who in sorted(sounds):
        if who == "agent" or last == "caller":
            longest_s = max(longest_s, start_s - last_s)
        if end_s >= last_s:
            last_s, last = end_s, who
    return longest_s
