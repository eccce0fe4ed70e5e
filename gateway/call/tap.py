"""Listening in: both sides of a call as they pass, copied for operators who hear it live.

A call has no tap until somebody listens. Then each of the caller's frames, and what the ledger says the caller heard of
the agent since the last one, go into a bounded queue of each listening, as mu-law at 8 kHz whatever the line carries.
Nothing here waits: a queue that is full drops its oldest frame. While the caller enters a secret both sides are silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from offhook.gateway.call.hearing import Hearing
from offhook.gateway.call.playout import Playout
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.store.record import ListeningRecord
from offhook.media.formats import MULAW_8K, converter
from offhook.media.mulaw import SILENCE

__all__ = ["PAIR_BYTES", "Listening", "Tap"]

FRAME = MULAW_8K.frame_bytes
PAIR_BYTES = 2 * FRAME  # 20 ms: the caller's frame, then the agent's
QUEUE_FRAMES = 100  # 2 s: a browser further behind hears the present again, not the past
APART = 20 * FRAME  # codes that one side may be ahead of the other: a stalled stream delivers its backlog at once
SEAM_S = 0.06  # a mark corrects the ledger's clock by no more; what follows on within it is played seamlessly
HOLE_S = 1.0  # of silence at most for a line that was away
QUIET = bytes([SILENCE])


class Listening:
    """One operator's. `frames`: pairs that wait to be sent. `muted`: a secret is entered. `over`: no more will come."""

    def __init__(self, entry: ListeningRecord, leave: Callable[[Listening], None]) -> None:
        self.entry, self._leave = entry, leave
        self.frames: deque[bytes] = deque(maxlen=QUEUE_FRAMES)
        self.dropped = 0
        self.muted = self.over = False

    def take(self) -> bytes:
        """All pairs that wait, oldest first."""
        codes = b"".join(self.frames)
        self.frames.clear()
        return codes

    def leave(self) -> None:
        """The operator listens no more. Harmless when repeated, and after the call."""
        if not self.over:
            self._leave(self)


class Tap:
    """One call's; at work while somebody listens. `ledger()`: the conversation's. An exception in here ends the
    listening, not the call.
    """

    def __init__(self, wiring: Wiring, playout: Playout, ledger: Callable[[], lg.Ledger], hearing: Hearing) -> None:
        formats = wiring.facts.formats
        self._takes, self._playout, self._ledger, self._hearing = formats.takes, playout, ledger, hearing
        self._convert_caller = converter(formats.gives, MULAW_8K)
        self._convert_agent = converter(formats.takes, MULAW_8K)
        self._report, self._timeline, self._clock = wiring.faults.report, wiring.timeline, wiring.clock
        self._dropped = wiring.metrics.frames_dropped_total
        self._seam = int(SEAM_S * formats.takes.rate_hz)
        self._last_s, self._at = 0.0, 0  # up to when, and up to which queue position, the agent was copied
        self._caller, self._agent = bytearray(), bytearray()  # codes that have no counterpart yet
        self._muted = False
        self.listenings: list[Listening] = []

    def open(self, who: str) -> Listening | None:
        """Another operator listens; None where the record has no room to say so."""
        entry = self._timeline.listening(self._clock(), who)
        if entry is None:
            return None
        if not self.listenings:
            self._last_s = self._clock()
            self._at = lg.line_heard(self._ledger(), self._last_s)
            self._caller, self._agent = bytearray(), bytearray()
            self._hearing.tap = self
        self.listenings.append(listening := Listening(entry, self._end))
        listening.muted = self._muted
        return listening

    def _end(self, listening: Listening) -> None:
        listening.over = True
        listening.entry.to_ms = self._timeline.ms(self._clock())
        if listening.dropped:
            self._dropped.inc("slow_listener", by=listening.dropped)
        self.listenings.remove(listening)
        if not self.listenings:
            self._hearing.tap, self._muted = None, False

    def close(self) -> None:
        """The call is over, or goes on in another process."""
        for listening in list(self.listenings):
            listening.leave()

    def caller(self, codes: bytes, now_s: float, *, hidden: bool) -> None:
        """A frame of the caller in the line's format, just received. `hidden`: a secret is entered."""
        try:
            self._copy(codes, now_s, hidden)
        except Exception as error:
            self._report("listening", error)
            self.close()

    def _copy(self, codes: bytes, now_s: float, hidden: bool) -> None:
        if hidden != self._muted:
            self._mute(hidden)
        heard = self._heard(now_s)
        if self._convert_caller is not None:
            codes = self._convert_caller.push(codes)
        if self._convert_agent is not None:
            heard = self._convert_agent.push(heard)
        self._caller += QUIET * len(codes) if hidden else codes
        self._agent += QUIET * len(heard) if hidden else heard
        ahead = len(self._caller) - len(self._agent)
        if ahead > APART:
            self._agent += QUIET * ahead
        elif ahead < -APART:
            self._caller += QUIET * -ahead
        while len(self._caller) >= FRAME and len(self._agent) >= FRAME:
            pair = bytes(self._caller[:FRAME] + self._agent[:FRAME])
            del self._caller[:FRAME], self._agent[:FRAME]
            for listening in self.listenings:
                listening.dropped += len(listening.frames) == QUEUE_FRAMES
                listening.frames.append(pair)

    def _mute(self, hidden: bool) -> None:
        """What was not sent yet is silenced as well: the first key may be in it."""
        self._muted = hidden
        if hidden:
            self._caller[:], self._agent[:] = QUIET * len(self._caller), QUIET * len(self._agent)
        for listening in self.listenings:
            listening.muted = hidden
            if hidden:
                listening.frames.clear()

    def _heard(self, now_s: float) -> bytes:
        """What the caller heard of the agent since the last frame, in the line's format: silence where nothing was."""
        takes, ledger = self._takes, self._ledger()
        elapsed = int((now_s - self._last_s) * takes.rate_hz)
        self._last_s += elapsed / takes.rate_hz
        wanted = min(elapsed, int(HOLE_S * takes.rate_hz))
        begins = lg.line_heard(ledger, now_s) - wanted
        if abs(begins - self._at) > self._seam or self._at > ledger.queued_to:
            self._at = max(begins, 0)
        ends, width, codes = min(self._at + wanted, ledger.queued_to), takes.bytes_per_sample, b""
        for reply in ledger.replies:
            start, end = max(self._at - reply.base, 0), min(ends - reply.base, reply.placed)
            if start < end:
                codes += self._playout.span(reply.generation, start, end)
        self._at = max(self._at, ends)
        return codes + takes.silence * (wanted - len(codes) // width)
