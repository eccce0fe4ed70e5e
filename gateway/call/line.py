"""The seam to a carrier: one audio path to one caller, and what the call learns over it.

A carrier's stream implements `Line`; the call implements `LineSink`. Both are narrow on purpose: a carrier with a
queue at the far end (a media stream over a WebSocket) and one without (SIP/RTP, a browser), which paces its own,
look the same from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from offhook.media.formats import AudioFormat

__all__ = ["Line", "LineCan", "LineFormats", "LineSink", "PictureRefusal", "ReplyMark", "Span"]


@dataclass(frozen=True, slots=True)
class LineFormats:
    """The line's audio per direction: `gives` is the caller's, `takes` the agent's."""

    gives: AudioFormat
    takes: AudioFormat


@dataclass(frozen=True, slots=True)
class LineCan:
    """What the far end supports.

    `pauses`: playback can be held without losing the queue; `reports_playback`: marks come from the far end's own
    playback, not from our clock; `acknowledges_clear`: it confirms a clear itself.
    """

    pauses: bool = False
    reports_playback: bool = True
    acknowledges_clear: bool = False
    max_message_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """Samples `[from_sample, to_sample)` of reply `generation`, in the line's own rate."""

    generation: int
    from_sample: int
    to_sample: int


@dataclass(frozen=True, slots=True)
class ReplyMark:
    """A position in a reply; `epoch` is the number of clears sent before the mark was."""

    generation: int
    sample: int
    epoch: int


class PictureRefusal(Enum):
    """Why a caller's picture was not queued for the model; the value is what the metric counts."""

    NOT_ALLOWED = "not_allowed"  # by the agent file, or the model takes none
    NOT_JPEG = "not_jpeg"
    TOO_LARGE = "too_large"  # in bytes or pixels
    TOO_MANY = "too_many"  # for the time


class Line(Protocol):
    """The far end's playback queue of one stream. Nothing but `close` waits."""

    stream_id: str
    formats: LineFormats
    can: LineCan
    marks_outstanding: int  # marks sent and not reported back

    def play(self, span: Span, codes: bytes) -> None:
        """Queue audio in `formats.takes`, whole samples; `LineSink.sent` follows once it is on its way."""

    def mark(self, mark: ReplyMark) -> None:
        """Report `mark` back (`LineSink.mark_heard`) once everything queued before it was played."""

    def clear(self, epoch: int) -> None:
        """Drop what was not played, here and at the far end; `LineSink.cleared` follows once that is confirmed."""

    def round_trip_s(self) -> float | None:
        """To the carrier's next TCP hop, by the kernel; None where it is not known."""

    async def close(self) -> None:
        """End the stream in order, within bounds; a transport that does not drain is aborted."""

    def abort(self) -> None:
        """Drop the connection at once."""


class LineSink(Protocol):
    """A call, as its line sees it. All methods return at once."""

    def caller_audio(self, codes: bytes, media_ms: int) -> None:
        """Audio of the caller in `formats.gives`, 20 ms as a rule; `media_ms`: the stream's own clock."""

    def mark_heard(self, mark: ReplyMark) -> None:
        """The mark came back."""

    def cleared(self, epoch: int) -> None:
        """The far end's queue was empty after clear number `epoch`."""

    def key_pressed(self, key: str) -> None:
        """The caller pressed a key."""

    def picture(self, jpeg: bytes) -> PictureRefusal | None:
        """The caller shows the model this; None: it is queued."""

    def sent(self, span: Span) -> None:
        """This audio was handed to the socket."""

    def clear_sent(self, epoch: int) -> None:
        """This clear was handed to the socket."""

    def line_failed(self, why: str) -> None:
        """The line cannot go on: its far end stopped reading, for example."""

    def task_failed(self, part: str, error: BaseException) -> None:
        """An exception that should not have been: logged with the call's id, counted under `part`. Never raises."""
