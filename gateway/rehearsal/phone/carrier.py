"""How a simulated line and its carrier behave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RUBBISH", "Carrier"]

# Not JSON; not an object; an unknown event; audio that is not base64; a mark and a stop of another stream.
RUBBISH = (
    "{",
    "[1]",
    '{"event":"surprise"}',
    '{"event":"media","sequenceNumber":"1","media":{"track":"inbound","chunk":"1","timestamp":"1","payload":"!"}}',
    '{"event":"mark","sequenceNumber":"1","streamSid":"MZ0","mark":{"name":"unknown"}}',
    '{"event":"stop","sequenceNumber":"1","streamSid":"MZ0","stop":{}}',
)


@dataclass(frozen=True, slots=True)
class Carrier:
    """How the line and the carrier behave; by default without faults.

    `bunch_frames`: this many frames arrive at once. `jitter_ms`: each is late by up to this value, and what
    is sent behind it waits for it, marks and keys too, as on one TCP connection.
    `read_delay_ms`: the pause after each message read. `echo_delay_ms` and `echo_gain_db`: the agent's voice
    leaks into the caller's microphone. `silent_after_s`: nothing more is sent, the socket stays open.
    `drop_after_s`: the connection is cut without a close frame. Both count from the stream's start and are for the
    first `drops` streams. `rubbish_after_s`: invalid messages are sent once besides the audio, see `RUBBISH`.
    `duplicate_webhook`: the first answer was lost, and the webhook is requested again at once.
    """

    bunch_frames: int = 1
    jitter_ms: float = 0.0
    read_delay_ms: float = 0.0
    noise_dbfs: float | None = None
    echo_delay_ms: float = 0.0
    echo_gain_db: float | None = None
    marks: Literal["echoed", "lost", "lost when cleared"] = "echoed"
    silent_after_s: float | None = None
    drop_after_s: float | None = None
    drops: int = 1
    rubbish_after_s: float | None = None
    duplicate_webhook: bool = False
    delay_ms: float = 0.0  # of each request for a document, and of each handshake of a stream
    start_offset_ms: int = 53  # of media timestamps; seen in captures, so chunk * 20 is not the media clock
    dial_status: str = "completed"  # how a <Dial> ends
    status_callbacks: bool = True  # False: the number has none configured
    seed: int = 0
