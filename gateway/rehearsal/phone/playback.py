"""The far end's playback: the carrier's queue, its marks and clears, and the channel that the caller hears.

A *position* counts the samples in the order in which the gateway sent them, a *place* those of the call's axis: see
`truth`. Sources: Twilio, "Media Streams: WebSocket messages" (`media`, `mark`, `clear`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from offhook.gateway.rehearsal.phone.truth import (
    CallTruth,
    ClearReceived,
    Interval,
    MarkReceived,
    MediaReceived,
    Played,
)
from offhook.media.mulaw import FRAME_BYTES, RATE_HZ, SILENCE, decode

__all__ = ["QUEUE_MAX_BYTES", "SILENT_FRAME", "TICK_S", "Playback", "audible"]

TICK_S = FRAME_BYTES / RATE_HZ
QUEUE_MAX_BYTES = 600 * RATE_HZ  # 10 minutes, beyond which Twilio discards
REPLY_OVER_MS = 400.0  # this much silence with an empty queue ends an utterance of the agent
BREATH_MAX_MS = 1_000.0  # this much silence ends it although audio is queued
SILENT_FRAME = bytes([SILENCE]) * FRAME_BYTES
# 1 for codes louder than about -38 dBFS; a frame is audible from 3 of them on, so that a click is not.
_LOUD = bytes(int(abs(int(value)) > 400) for value in decode(bytes(range(256))))
_LOUD_ENOUGH = 3


def audible(frame: bytes | bytearray) -> bool:
    """Whether 20 ms of mu-law are heard."""
    return frame.translate(_LOUD).count(1) >= _LOUD_ENOUGH


class Playback:
    """Plays 20 ms a tick into `right` and fills the `media`, `marks`, `clears`, `played` and `agent` of the truth.

    `echo(mark, why)` sends a mark back. `echo_cleared`: a clear echoes the marks it discards, as Twilio does.
    """

    def __init__(self, truth: CallTruth, echo: Callable[[MarkReceived, str], None], *, echo_cleared: bool) -> None:
        self._truth, self._echo, self._echo_cleared = truth, echo, echo_cleared
        self.right = bytearray()  # mu-law, what the caller heard
        self.announcement = bytearray()  # mu-law of TwiML's `<Say>`, played while there is no stream
        self._queue = bytearray()
        self._queued = 0  # position after the last sample ever queued
        self._begun = 0  # position after the last sample taken for a frame
        self._heard = 0  # position after the last sample whose frame has been played
        self._marks: deque[MarkReceived] = deque()

    def reset(self) -> int:
        """Empty the queue because the stream begins or ends; returns the samples that were not played."""
        unplayed = len(self._queue)
        self._queue.clear()
        self._begun = self._heard = self._queued
        self._marks.clear()
        return unplayed

    # -- messages of the gateway --------------------------------------------------------------------------

    def queue_mark(self, name: str, now_s: float) -> None:
        """Queue a mark, or echo it at once when all before it has been played."""
        mark = MarkReceived(at_s=now_s, position=self._queued, name=name)
        self._truth.marks.append(mark)
        if mark.position <= self._heard:
            self._echo(mark, "empty")
        else:
            self._marks.append(mark)

    def queue_audio(self, audio: bytes, now_s: float) -> bool:
        """Queue mu-law audio; False if the queue is full and the audio is discarded."""
        if len(self._queue) + len(audio) > QUEUE_MAX_BYTES:
            return False
        self._truth.media.append(MediaReceived(at_s=now_s, position=self._queued, samples=len(audio)))
        self._queue += audio
        self._queued += len(audio)
        return True

    def clear(self, now_s: float, frame_ends_s: float) -> None:
        """Discard the queue. A frame that is being played goes on until `frame_ends_s`."""
        playing = self._begun > self._heard
        interval = self._truth.agent[-1] if self._truth.agent else None
        self._truth.clears.append(
            ClearReceived(
                at_s=now_s,
                position=self._begun,
                discarded=len(self._queue),
                stopped_s=frame_ends_s if playing else now_s,
                while_audible=interval is not None and interval.open,
            )
        )
        if interval is not None and interval.open:
            interval.open, interval.cut = False, True
        self._queue.clear()
        self._begun = self._heard = self._queued
        discarded, self._marks = self._marks, deque()
        if self._echo_cleared:
            for mark in discarded:
                self._echo(mark, "cleared")

    # -- the clock ----------------------------------------------------------------------------------------

    def finish_frame(self) -> None:
        """The frame whose playback began 20 ms ago has been heard: echo the marks up to its end."""
        self._heard = self._begun
        while self._marks and self._marks[0].position <= self._heard:
            self._echo(self._marks.popleft(), "played")

    def play_frame(self, due_s: float, *, streaming: bool) -> None:
        """Play the next 20 ms, which begin at `due_s`: of the stream's queue, or of the announcement."""
        if not streaming:
            frame = bytes(self.announcement[:FRAME_BYTES])
            del self.announcement[:FRAME_BYTES]
        else:
            frame = bytes(self._queue[:FRAME_BYTES])
            del self._queue[:FRAME_BYTES]
            if frame:
                played, place = self._truth.played, len(self.right)
                last = played[-1] if played else None
                if last and last.position + last.samples == self._begun and last.place + last.samples == place:
                    last.samples += len(frame)
                else:
                    played.append(Played(position=self._begun, place=place, samples=len(frame)))
                self._begun += len(frame)
        if len(frame) < FRAME_BYTES:
            frame += SILENT_FRAME[len(frame) :]
        self.right += frame
        self._follow_agent(due_s)

    def _follow_agent(self, due_s: float) -> None:
        """Maintain `truth.agent`: the intervals in which the agent is audible."""
        intervals = self._truth.agent
        interval = intervals[-1] if intervals and intervals[-1].open else None
        if audible(self.right[-FRAME_BYTES:]):
            if interval is None:
                intervals.append(Interval(start_s=due_s, end_s=due_s + TICK_S))
            else:
                interval.end_s = due_s + TICK_S
        elif interval is not None:
            silent_ms = 1000.0 * (due_s + TICK_S - interval.end_s)
            nothing_more = not self._queue and not self.announcement
            if silent_ms >= (REPLY_OVER_MS if nothing_more else BREATH_MAX_MS):
                interval.open = False
