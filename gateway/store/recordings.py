"""Recordings of calls that are over: joined from their parts, encrypted or not, moved to a bucket, read, removed.

Each owner of a call writes a part, `<call>.<epoch>.wav`. Whoever ends the call makes `<call>.wav` of them, on the
call's own axis, and moves it to the bucket where there is one. A process that hands a call over moves its part there,
so that one on another machine finds it. Everything in here blocks, and everything may be repeated.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from offhook.gateway.errors import OffhookError, OperatorError
from offhook.gateway.store.bucket import Bucket
from offhook.gateway.store.columns import CallEvent
from offhook.gateway.store.record import PartRecord, RecordingRecord
from offhook.gateway.store.sealed import MAGIC, ByteSource, RecordingKeys, SealedAudio, SealedFile
from offhook.media.recording import BYTES_PER_S, AudioFile, WavFile, wav_header

__all__ = ["Finishing", "PartMissing", "Playable", "Recordings", "drop_left"]

log = logging.getLogger(__name__)

PIECE_BYTES = 8 * BYTES_PER_S
FRAME_BYTES = 4
SEALED = ".sealed"
_PART = re.compile(r"\.?[A-Za-z0-9]+\.\d+\.wav(\.sealed)?")
PARTS_WAIT_MS = 120_000  # for parts of other machines to come to the bucket


class PartMissing(OffhookError):
    """A part is neither here nor in the bucket yet."""


class Finishing(msgspec.Struct, frozen=True):
    """What is still to be done of a recording. `whole` False: it is a part, which only moves to the bucket.

    `event` is delivered afterwards.
    """

    call_sid: str
    record: RecordingRecord
    whole: bool = True
    event: CallEvent | None = None


class Playable(Protocol):
    """A whole WAV file. `read` raises OSError and `BucketAway`."""

    size: int

    def read(self, at: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class Recordings:
    """`keys` None: they are not encrypted. `bucket` None: they stay on the disk."""

    def __init__(self, keys: RecordingKeys | None = None, bucket: Bucket | None = None) -> None:
        self._keys, self.bucket = keys, bucket
        self.suffix = f".wav{SEALED}" if keys is not None else ".wav"

    def create(self, path: Path) -> AudioFile:
        """A file to record to, or to record on. Raises OSError, ValueError, `OperatorError`."""
        if path.suffix != SEALED:
            return WavFile(path)
        return SealedFile(path, self._some_keys())

    def _some_keys(self) -> RecordingKeys:
        if self._keys is None:
            raise OperatorError("the recording is encrypted: set OFFHOOK_RECORDING_KEYS to the keys it was made with")
        return self._keys

    def placed(self, record: RecordingRecord) -> RecordingRecord:
        """With the object that it will be."""
        if self.bucket is None:
            return record
        return msgspec.structs.replace(record, object=self.bucket.url(Path(record.file).name))

    # --- the end of a call

    def finish(self, work: Finishing, now_ms: int, ended_ms: int) -> bool:
        """Do what is to be done; False when there is no audio, or no longer. `ended_ms`: when the call ended.

        Raises OSError, `BucketAway`, `OperatorError`, and `PartMissing` for a while.
        """
        file = Path(work.record.file)
        if work.record.refused:
            self.remove(work.call_sid, work.record)
            return False
        if not work.whole:
            if self.bucket is not None and work.record.parts:
                part = Path(work.record.parts[-1].file)
                self._move(part, _part_name(part))
            return False
        if not self._join(work, file, wait=now_ms - ended_ms < PARTS_WAIT_MS):
            return False
        if self.bucket is None:
            return True
        there = self._move(file, file.name)
        self.bucket.remove(f"{work.call_sid}.part-")
        return there

    def _move(self, file: Path, name: str) -> bool:
        """To the bucket; False for what was forgotten meanwhile."""
        assert self.bucket is not None
        if not file.exists():
            return self.bucket.opened(name) is not None  # it was moved before
        self.bucket.upload(file, name)
        try:
            file.unlink()
        except FileNotFoundError:
            self.bucket.remove(name)
            return False
        return True

    def _join(self, work: Finishing, file: Path, *, wait: bool) -> bool:
        """Make the file of all parts at hand; what was placed before is placed again. False when there is none."""
        parts = work.record.parts
        if not parts:
            return file.exists()
        found = [(part, path) for part in parts if (path := self._found(part, file)) is not None]
        if not found and not file.exists():
            return self.bucket is not None and self.bucket.opened(file.name) is not None
        if len(found) < len(parts) and wait and self.bucket is not None and not file.exists():
            raise PartMissing(f"call {work.call_sid}: a part of its recording is not in the bucket yet")
        if not file.exists() and found[0][0] is parts[0] and found[0][1].suffix == file.suffix:
            os.replace(found[0][1], file)
            del found[0]
        whole = self.create(file)
        try:
            for part, path in found:
                at = round((part.offset_ms - parts[0].offset_ms) * BYTES_PER_S / 1000) // FRAME_BYTES * FRAME_BYTES
                for piece in self._pieces(path):
                    whole.write(max(at, 0), piece)
                    at += len(piece)
            whole.settle()
        finally:
            whole.close()
        for _, path in found:
            path.unlink(missing_ok=True)
        return True

    def _found(self, part: PartRecord, file: Path) -> Path | None:
        """The part on this disk, from the bucket if need be."""
        path = Path(part.file)
        if path.exists():
            return path
        fetched = file.with_name(f".{path.name}")
        if self.bucket is not None and (fetched.exists() or self.bucket.download(_part_name(path), fetched)):
            return fetched
        return None

    def _pieces(self, path: Path) -> Iterator[bytes]:
        part = self.create(path)
        try:
            at = 0
            while piece := part.read(at, PIECE_BYTES):
                yield piece
                at += len(piece)
        finally:
            part.close()

    # --- afterwards

    def opened(self, record: RecordingRecord) -> Playable | None:
        """To listen to; None where it is not at hand. Raises OSError, `BucketAway`, `OperatorError`."""
        path = Path(record.file)
        source: ByteSource | None = None
        if path.suffix in (".wav", SEALED) and path.is_file():
            source = _LocalFile(path)
        elif record.object and self.bucket is not None:
            source = self.bucket.opened(path.name)
        if source is None:
            return None
        if source.read(0, len(MAGIC)) != MAGIC:
            return source
        return _Wav(SealedAudio(source, self._keys))

    def remove(self, call_sid: str, record: RecordingRecord) -> list[str]:
        """Files and objects that are gone now; a file on another machine's disk is none of them.

        Raises `BucketAway`.
        """
        gone = []
        paths = [Path(file) for file in (record.file, *(part.file for part in record.parts)) if file]
        for path in paths:
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("the recording %s cannot be removed: %s", path, error.strerror)
            else:
                gone.append(str(path))
        if self.bucket is not None:
            gone += self.bucket.remove(f"{call_sid}.")
        elif record.object:
            log.warning("the recording %s cannot be removed: set OFFHOOK_RECORDINGS_BUCKET", record.object)
        if not gone and record.file and not record.object:
            log.warning("the recording %s cannot be removed: not on this machine", record.file)
        return gone


def drop_left(directory: Path, before_s: float) -> int:
    """Remove parts that were last written before this wall time: their calls left no record. How many."""
    dropped = 0
    for path in directory.glob("*.wav*") if directory.is_dir() else ():
        try:
            if _PART.fullmatch(path.name) and path.stat().st_mtime < before_s:
                path.unlink()
                dropped += 1
        except OSError as error:
            log.warning("the recording %s cannot be removed: %s", path, error.strerror)
    return dropped


class _LocalFile:
    """A `ByteSource`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size

    def read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


class _Wav:
    """Encrypted audio as a WAV file."""

    def __init__(self, audio: SealedAudio) -> None:
        self._audio, self._header = audio, wav_header(audio.size)
        self.size = len(self._header) + audio.size

    def read(self, at: int, size: int) -> bytes:
        header = self._header[at : at + size]
        size, at = min(size, self.size - at) - len(header), max(at - len(self._header), 0)
        return header + (self._audio.read(at, size) if size > 0 else b"")

    def close(self) -> None:
        self._audio.close()


def _part_name(path: Path) -> str:
    """`<call>.part-<epoch>.wav`: in the bucket no part has the name of a whole."""
    call_sid, _, rest = path.name.partition(".")
    return f"{call_sid}.part-{rest}"
