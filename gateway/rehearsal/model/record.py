"""The record of one session of the rehearsal model, for assertions and reports.

All `*_at_s` are seconds of the server's `clock`: CLOCK_MONOTONIC, unless a quick clock was handed in.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from offhook.media.jpeg import jpeg_size

__all__ = [
    "ClientViolation",
    "PictureSeen",
    "ReplySent",
    "SessionRecord",
    "Speech",
    "TextHeard",
    "ToolAnswer",
    "ToolCallSent",
    "Truncation",
    "picture_seen",
]


@dataclass(frozen=True, slots=True)
class ClientViolation:
    """A protocol violation of the client. `session`: index in `ModelServer.sessions`."""

    session: int
    at_s: float
    what: str


@dataclass(slots=True)
class Speech:
    """A caller's turn according to this server's voice detection (or activityStart and activityEnd).

    `last_voice_at_s` is when the last audio with speech in it arrived; `ended_at_s` when the end of the turn
    was decided. `onset_ms` is the position in the session's audio.
    """

    onset_ms: float
    started_at_s: float
    last_voice_at_s: float
    ended_at_s: float | None = None
    speech_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class PictureSeen:
    """A picture from the client: its size in pixels and bytes, and `digest`, the SHA-256 of its bytes in hex."""

    at_s: float
    width: int
    height: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class TextHeard:
    """`how`: "realtime" (realtimeInput.text), "content" (one turn of clientContent), "update"; "item" (OpenAI)."""

    at_s: float
    text: str
    how: Literal["realtime", "content", "update", "item"]
    role: str | None = None
    turn_complete: bool = False


@dataclass(frozen=True, slots=True)
class Truncation:
    """OpenAI: an item of the model's speech was cut at `audio_end_ms`, of `length_ms` sent; 0: it was deleted.

    `begins_ms`: what its reply's items before it were long.
    """

    at_s: float
    item_id: str
    audio_end_ms: int
    length_ms: float
    begins_ms: float


def picture_seen(data: bytes, at_s: float) -> PictureSeen | None:
    """None where it is no JPEG picture."""
    size = jpeg_size(data)
    return None if size is None else PictureSeen(at_s, *size, len(data), sha256(data).hexdigest())


@dataclass(slots=True)
class ToolCallSent:
    id: str
    name: str
    args: dict[str, Any]
    blocking: bool
    at_s: float
    repeats: int = 0  # how many results of the same call were empty before
    state: Literal["open", "answered", "cancelled"] = "open"
    cancelled_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """`call` is the state of the call with this id when the result was received."""

    at_s: float
    id: str
    name: str
    response: dict[str, Any]
    scheduling: str
    call: Literal["open", "answered", "cancelled", "unknown"]


@dataclass(slots=True)
class ReplySent:
    """A turn of the model.

    The script has `delay_ms` from `decided_at_s` to the first audio; if `first_audio_at_s` is later than that, this
    server was late. `audio_ms` is how much audio was sent.
    """

    trigger: str
    decided_at_s: float
    delay_ms: float = 0.0
    first_audio_at_s: float | None = None
    last_audio_at_s: float | None = None
    generation_complete_at_s: float | None = None
    ended_at_s: float | None = None
    ended: Literal["complete", "interrupted", "cut off"] | None = None
    audio_ms: float = 0.0
    energy: float = 0.0  # of that audio, as in `voice.Chunk`; 0 where it is not known
    text: str = ""

    def audio_sent(self, at_s: float) -> None:
        self.first_audio_at_s = self.first_audio_at_s or at_s
        self.last_audio_at_s = at_s

    def generation_completed(self, at_s: float) -> None:
        self.generation_complete_at_s = at_s


@dataclass(slots=True)
class SessionRecord:
    """One connection, from the handshake to the close.

    `audio` is the audio as received, PCM16 at `audio_rate_hz`; `audio_arrivals` pairs the time of each frame with
    the number of bytes received up to its end. `activity` holds activityStart, activityEnd and
    audioStreamEnd with their times. `auth` is the kind of the credentials, not the secret. `usage` has the tokens
    billed at the end of each turn. `errors`: the codes of the error events sent (OpenAI).
    """

    index: int
    path: str
    auth: Literal["key", "token", "bearer", "none"]
    opened_at_s: float
    setup: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    setup_at_s: float | None = None
    ready_at_s: float | None = None
    resumed_from: int | None = None
    audio_rate_hz: int = 16_000
    audio_bytes: int = 0
    audio: bytearray = field(default_factory=bytearray)
    audio_arrivals: list[tuple[float, int]] = field(default_factory=list)
    texts: list[TextHeard] = field(default_factory=list)
    pictures: list[PictureSeen] = field(default_factory=list)
    activity: list[tuple[float, str]] = field(default_factory=list)
    speech: list[Speech] = field(default_factory=list)
    tool_calls: list[ToolCallSent] = field(default_factory=list)
    tool_answers: list[ToolAnswer] = field(default_factory=list)
    replies: list[ReplySent] = field(default_factory=list)
    interruptions: list[float] = field(default_factory=list)
    go_aways: list[float] = field(default_factory=list)
    handles: list[str] = field(default_factory=list)
    truncations: list[Truncation] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=list)
    pings: int = 0
    closed_at_s: float | None = None
    closed_by: Literal["client", "server", "network"] | None = None
    close_code: int | None = None
    close_reason: str = ""

    def set_up(self, at_s: float) -> None:
        self.ready_at_s = at_s
