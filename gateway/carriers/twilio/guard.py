"""Limits of one media stream: counters, clock, amount. Pure.

A message that breaks a rule is counted under its reason and, where it could harm the call, dropped; it never ends the
call. Only a stream that floods is closed.
"""

from __future__ import annotations

from offhook.gateway.carriers.twilio.messages import Dtmf, Mark, Media, Start, Stop
from offhook.gateway.web.allowance import Allowance

__all__ = ["StreamGuard"]

MESSAGES_PER_S = 300.0  # Twilio sends 50 frames a second and a mark's echo for each of ours
MESSAGES_BURST = 3_000.0  # a stalled connection delivers its backlog at once; so do the echoes after a clear
AHEAD_MS = 10_000  # a media clock further ahead of ours than this is not a clock
AUDIO_AHEAD_SAMPLES = 5 * 8_000  # more audio than time has passed: a caller speaks no faster than real time
GAP_MAX = 10_000  # a sequence number further ahead is not one: it must not make all later ones look old
_FILE_HEADERS = (b"RIFF", b".snd", b"OggS")


class StreamGuard:
    """One stream's limits. `broken` lists what it broke, by the metric's reasons, since it was last emptied."""

    def __init__(self, stream_sid: str, now_s: float, sequence: int = 0) -> None:
        self._stream_sid, self._began_s = stream_sid, now_s
        self._allowance = Allowance(MESSAGES_PER_S, MESSAGES_BURST)
        self._sequence = sequence
        self._timestamp_ms = 0
        self._samples = 0
        self.broken: list[str] = []

    def floods(self, now_s: float) -> bool:
        """Whether this stream sends more messages than a telephone can: close it."""
        return not self._allowance.take(now_s)

    def take(self, message: Start | Media | Dtmf | Mark | Stop) -> bool:
        """Whether this message (of a stream that has started) may reach the call."""
        if message.stream_sid != self._stream_sid and message.stream_sid:
            self.broken.append("wrong_call")
            return False
        sequence, due = message.sequence, self._sequence + 1
        if sequence == due:
            self._sequence = sequence
        elif sequence:  # 0: a carrier without sequence numbers
            if sequence < due:
                self.broken.append("repeated")
                return False
            self.broken.append("gap")
            if sequence <= due + GAP_MAX:
                self._sequence = sequence
        return True

    def audio(self, media: Media, now_s: float) -> int | None:
        """The frame's time in ms on the stream's clock, corrected where it is impossible; None to drop the frame."""
        payload = media.payload
        passed_s = now_s - self._began_s
        if self._samples + len(payload) > passed_s * 8_000 + AUDIO_AHEAD_SAMPLES:
            self.broken.append("too_many")
            return None
        if payload[:4] in _FILE_HEADERS:
            self.broken.append("bad_audio")
            return None
        self._samples += len(payload)
        timestamp_ms = media.timestamp_ms
        if not self._timestamp_ms <= timestamp_ms <= passed_s * 1_000 + AHEAD_MS:
            self.broken.append("bad_time")
            timestamp_ms = self._timestamp_ms + len(payload) // 8
        self._timestamp_ms = timestamp_ms
        return timestamp_ms
