"""A call's recording, fed by the call: left the caller as received, right the agent as heard.

What the agent's side holds follows the ledger: a reply's samples are placed once a mark, a clear or the reply's end
shows that they were heard, ending at that moment; what was cleared is never placed. The file is 8 kHz whatever the
line carries. Writing is off the call path (`offhook.media.recording`). Each owner of a call records a part of its own;
they are joined when the call is over (`offhook.gateway.store.recordings`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from offhook.gateway.call.playout import Playout
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation.commands import Command, ReplyEnded
from offhook.gateway.conversation.events import Event
from offhook.gateway.conversation.ledger import Ledger
from offhook.gateway.store.record import PartRecord, RecordingRecord
from offhook.gateway.store.recordings import Recordings
from offhook.media.formats import MULAW_8K, converter
from offhook.media.recording import BYTES_PER_S, Recording

__all__ = ["Recorder", "recorder_for"]

log = logging.getLogger(__name__)

RATE_HZ = 8_000
HOLE = RATE_HZ // 5  # the caller's audio stood still for longer than jitter: the axis goes on without it
SEAM = RATE_HZ // 20  # marks come a little early or late: within this, what follows on is placed seamlessly


class Recorder:
    """Records one call to `<recording.directory>/<call_sid>.<epoch>.wav`, relative to the agent file.

    An exception in here ends the recording, not the call.
    """

    def __init__(self, wiring: Wiring, playout: Playout, files: Recordings, epoch: int) -> None:
        """Raises OSError or ValueError when the file cannot be begun."""
        agent, facts = wiring.agent, wiring.facts
        directory = (Path(agent.directory) / agent.recording.directory).absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / f"{facts.call_sid}.{epoch}{files.suffix}"
        self._whole = directory / f"{facts.call_sid}{files.suffix}"
        self._takes = facts.formats.takes
        self._convert = converter(facts.formats.gives, MULAW_8K)
        self._convert_reply = converter(self._takes, MULAW_8K)
        self._converted = 0  # the reply that it converts
        self._recording = Recording(self.path, files.create)
        self._playout, self._report, self._timeline = playout, wiring.faults.report, wiring.timeline
        self._changed = wiring.changed
        self._failed = self._discarded = False
        self._begun_s: float | None = None
        self._received = 0  # the axis: samples of the caller since the first frame
        self._last_s = 0.0
        self._placed: dict[int, int] = {}  # generation -> samples of it that are on the recording
        self._free = 0  # the agent's side is placed up to here

    def caller(self, codes: bytes, now_s: float) -> None:
        """A frame of the caller in the line's format, just received."""
        if not self._failed:
            try:
                self._place_caller(codes, now_s)
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._report("recording", error)

    def _place_caller(self, codes: bytes, now_s: float) -> None:
        if self._convert is not None:
            codes = self._convert.push(codes)
        if self._begun_s is None:
            self._begun_s = now_s - len(codes) / RATE_HZ
            self._begun(self._timeline.ms(self._begun_s))
        elapsed = int((now_s - self._begun_s) * RATE_HZ)
        if elapsed - self._received - len(codes) > HOLE:
            self._received = elapsed - len(codes)
        self._recording.caller(self._received, codes)
        self._received += len(codes)
        self._last_s = now_s

    def _begun(self, offset_ms: float) -> None:
        """Another process has to know of it as soon as there is something."""
        record = self._timeline.record
        parts = [] if record.recording is None else record.recording.parts
        parts = [*parts, PartRecord(file=str(self.path), offset_ms=offset_ms)]
        refused = record.recording is not None and record.recording.refused
        record.recording = RecordingRecord(
            file=str(self._whole), offset_ms=parts[0].offset_ms, parts=parts, refused=refused
        )
        self._changed()

    def observe(self, event: Event, commands: Iterable[Command], ledger: Ledger) -> None:
        """One step of the machine: place what is now known to have been heard, before the commands drop it."""
        if self._failed:
            return
        try:
            for command in commands:
                if type(command) is ReplyEnded:
                    self.reply_heard(command.generation, command.heard, event.at_s)
            for reply in ledger.replies:
                self.reply_heard(reply.generation, reply.heard, event.at_s)
        except Exception as error:
            self._fail(error)

    def reply_heard(self, generation: int, heard: int, at_s: float) -> None:
        """`heard` samples of this reply have been heard by `at_s`."""
        known = self._placed.get(generation, 0)
        if heard <= known or self._begun_s is None:
            return
        codes = self._playout.span(generation, known, heard)
        if self._converted != generation:
            self._converted, self._convert_reply = generation, converter(self._takes, MULAW_8K)
        if (
            self._convert_reply is not None
        ):  # one stream per reply: converted apart, its parts would click at the joints
            codes = self._convert_reply.push(codes)
        end = self._received + int((at_s - self._last_s) * RATE_HZ)
        start = max(end - len(codes), 0)
        if abs(start - self._free) <= SEAM or start < self._free:
            start = self._free
        self._recording.agent(start, codes)
        self._free = start + len(codes)
        self._placed[generation] = heard

    def discard(self) -> None:
        """Keep nothing, and remove what was kept: silence now, the files at the call's end."""
        self._discarded = True
        self._recording.pause(0)
        record = self._timeline.record
        record.recording = msgspec.structs.replace(record.recording or RecordingRecord(), refused=True)
        self._changed()

    def pause(self) -> None:
        """Keep nothing from now on: card numbers."""
        self._recording.pause(self._received)

    def resume(self) -> None:
        """Keep again."""
        if not self._discarded:
            self._recording.resume(self._received)

    async def close(self, note: Callable[[str], None]) -> None:
        """Wait until all is on disk. `note` is handed what went wrong, for the record."""
        try:
            await asyncio.wrap_future(self._recording.close())
        except OSError as error:
            note(f"the recording failed: {error.strerror}")
        if self._recording.dropped_samples:
            note(f"{self._recording.dropped_samples} samples are missing from the recording")
        if self._discarded or self._begun_s is None:
            await asyncio.to_thread(self.path.unlink, missing_ok=True)
        record = self._timeline.record.recording
        if record is not None and record.parts:
            last = record.parts[-1]
            before = int((last.offset_ms - record.parts[0].offset_ms) * BYTES_PER_S / 1000)
            size_bytes = before + await asyncio.to_thread(_size_of, Path(last.file))
            self._timeline.record.recording = msgspec.structs.replace(
                record, file=str(self._whole), size_bytes=size_bytes
            )


def _size_of(path: Path) -> int:
    """0 where there is nothing."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def recorder_for(wiring: Wiring, playout: Playout, files: Recordings, epoch: int) -> Recorder | None:
    """The call's recorder, when the agent records and the caller has not refused it in another process.

    A disk that fails costs the recording, not the call.
    """
    before = wiring.timeline.record.recording
    if not wiring.agent.recording.enabled or (before is not None and before.refused):
        return None
    try:
        return Recorder(wiring, playout, files, epoch)
    except (OSError, ValueError) as error:
        log.error("call %s: no recording: %s", wiring.facts.call_sid, error)
        wiring.timeline.error("the recording could not be begun")
    except Exception as error:
        wiring.faults.report("recording", error)
    return None
