"""A call on disk: stereo WAV, left the caller as received, right the agent as heard, on one time axis.

Audio is placed by sample position, because the two sides come at different times: the caller's frame now, the
agent's once the carrier's mark says that it was heard. What was cleared is simply never placed. Everything that
touches the disk happens in one writer thread for the whole process; placing costs the call path an append.

The file is a valid WAV after every write. A process that dies in the middle leaves at most a header that does
not fit its data and loses the last second; opening the recording again repairs it, and so does `repair`. Another
kind of file, an encrypted one, is an `AudioFile` too.
"""

from __future__ import annotations

import logging
import os
import queue
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np

from offhook.media import mulaw

__all__ = ["BYTES_PER_S", "RATE_HZ", "AudioFile", "Recording", "WavFile", "repair", "wav_header"]

log = logging.getLogger(__name__)

MODE = 0o600  # a conversation is for its owner alone
RATE_HZ = mulaw.RATE_HZ
_FRAME_BYTES = 4  # two channels of 16 bits
BYTES_PER_S = RATE_HZ * _FRAME_BYTES
_LEFT, _RIGHT = 0, 1

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FORMAT = (b"WAVE", b"fmt ", 16, 1, 2, RATE_HZ, BYTES_PER_S, _FRAME_BYTES, 16, b"data")
_LONGEST_SAMPLE = (2**32 - 1 - _HEADER.size) // _FRAME_BYTES  # what the header can count: 37 hours

# One second goes to the writer at a time: waking another thread for each frame would cost the calls more than
# the write does. It is also what a crash may lose.
_RUN_BYTES = RATE_HZ
# A disk that stands still for two minutes loses audio rather than filling memory.
_BACKLOG_BYTES = 2 * 120 * RATE_HZ


class AudioFile(Protocol):
    """Stereo frames of 16 bits on disk, addressed by byte, by one thread at a time. Raises OSError."""

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end."""
        ...

    def write(self, at: int, data: bytes) -> None:
        """Whole frames. What lies between the end and `at` becomes silence."""
        ...

    def length(self) -> int:
        """Bytes of audio."""
        ...

    def settle(self) -> None:
        """Playable from here on."""
        ...

    def close(self) -> None:
        """On the disk afterwards, but for OSError."""
        ...


class WavFile:
    """An `AudioFile` that every player reads. An existing one is repaired and written on.

    Raises OSError when it cannot be made, ValueError when there is something else in its place.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = _open(Path(path))

    def read(self, at: int, size: int) -> bytes:
        self._file.seek(_HEADER.size + at)
        return self._file.read(size)

    def write(self, at: int, data: bytes) -> None:
        self._file.seek(_HEADER.size + at)  # beyond the end, the file system fills with zeros: silence
        _write_all(self._file, data)

    def length(self) -> int:
        return max(0, self._file.seek(0, os.SEEK_END) - _HEADER.size)

    def settle(self) -> None:
        _fit_header(self._file)

    def close(self) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class Recording:
    """One call's recording. Made, fed and closed by one thread (the event loop's); placing never blocks.

    An existing recording is written on, under the same time axis. `create` makes the file; what it raises is raised.
    Later trouble (a full disk) ends this recording alone and is reported by `close`.
    """

    def __init__(self, path: str | os.PathLike[str], create: Callable[[Path], AudioFile] = WavFile) -> None:
        self.path = Path(path)
        self._file = create(self.path)
        self._runs: list[tuple[int, bytearray]] = [(0, bytearray()), (0, bytearray())]  # (first sample, codes)
        self._given_bytes = 0  # counted here
        self._written_bytes = 0  # counted by the writer
        self._dropped = 0
        self._pauses: list[tuple[int, int]] = []  # [first, end) in samples; the last may still be open
        self._closed: Future[Path] | None = None
        self._failure: Exception | None = None

    @property
    def dropped_samples(self) -> int:
        """Samples lost because the disk did not keep up, or beyond the 37 hours a WAV file can hold."""
        return self._dropped

    @property
    def paused(self) -> bool:
        """Between `pause` and `resume`."""
        return bool(self._pauses) and self._pauses[-1][1] == _LONGEST_SAMPLE

    def caller(self, sample: int, codes: bytes) -> None:
        """Place mu-law audio of the caller, its first code at `sample` (8 kHz; 0 is the start of the call)."""
        self._place(_LEFT, sample, codes)

    def agent(self, sample: int, codes: bytes) -> None:
        """Place mu-law audio of the agent where the caller heard it, in the caller's samples."""
        self._place(_RIGHT, sample, codes)

    def pause(self, sample: int) -> None:
        """Keep nothing from `sample` on, on either side, and silence what is there already: for card numbers.

        May be given a moment back. Does nothing when paused already.
        """
        if self.paused:
            return
        self._pauses.append((sample, _LONGEST_SAMPLE))
        self._hand_over(_LEFT)
        self._hand_over(_RIGHT)
        _WRITER.put(self, partial(_silence_from, sample=sample))

    def resume(self, sample: int) -> None:
        """Keep again what lies from `sample` on. Audio of the pause that arrives later is still not kept."""
        if self.paused:
            first, _ = self._pauses[-1]
            self._pauses[-1] = (first, max(first, sample))

    def close(self) -> Future[Path]:
        """Write what is on its way, close the file. The future gives the path or raises what went wrong.

        Does not wait; `await asyncio.wrap_future(recording.close())` does. Twice gives the same future.
        """
        if self._closed is None:
            self._hand_over(_LEFT)
            self._hand_over(_RIGHT)
            self._closed = Future()
            _WRITER.put(self, _settle)
            _WRITER.put(self, None)
        return self._closed

    def _place(self, channel: int, sample: int, codes: bytes) -> None:
        if self._closed is not None:
            raise ValueError(f"the recording {self.path} is closed")
        if sample < 0:
            raise ValueError(f"a recording starts at sample 0, not at {sample}")
        for first, end in self._pauses:
            a, b = max(first - sample, 0), min(end - sample, len(codes))
            if a < b:
                codes = codes[:a] + bytes([mulaw.SILENCE]) * (b - a) + codes[b:]
        behind = self._given_bytes - self._written_bytes
        if behind + len(codes) > _BACKLOG_BYTES or sample + len(codes) > _LONGEST_SAMPLE:
            self._dropped += len(codes)
            return
        first, run = self._runs[channel]
        if sample != first + len(run):
            self._hand_over(channel)
            self._runs[channel] = (sample, run := bytearray())
        run += codes
        self._given_bytes += len(codes)
        if len(run) >= _RUN_BYTES:  # the other side with it: what was said before a long silence is on the disk, too
            self._hand_over(_LEFT)
            self._hand_over(_RIGHT)

    def _hand_over(self, channel: int) -> None:
        first, run = self._runs[channel]
        if run:
            _WRITER.put(self, partial(_write_audio, channel=channel, sample=first, codes=bytes(run)))
            self._runs[channel] = (first + len(run), bytearray())


_Job = Callable[[Recording], None]


def _write_audio(recording: Recording, channel: int, sample: int, codes: bytes) -> None:
    at = sample * _FRAME_BYTES
    frames = np.zeros(2 * len(codes), dtype="<i2")
    there = np.frombuffer(_whole(recording._file.read(at, frames.nbytes)), dtype="<i2")  # the other side may be there
    frames[: len(there)] = there
    frames[channel::2] = mulaw.decode(codes)
    recording._file.write(at, frames.tobytes())
    recording._written_bytes += len(codes)


def _silence_from(recording: Recording, sample: int) -> None:
    end = recording._file.length()
    at = min(sample * _FRAME_BYTES, end)
    recording._file.write(at, bytes(end - at))


def _settle(recording: Recording) -> None:
    recording._file.settle()


class _Writer:
    """The thread that writes for all recordings: started by the first job, never keeping the process alive."""

    def __init__(self) -> None:
        # Bounded by each recording's own backlog.
        self._jobs: queue.SimpleQueue[tuple[Recording, _Job | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, recording: Recording, job: _Job | None) -> None:
        """`None` closes the file."""
        self._jobs.put((recording, job))
        if self._thread is None or not self._thread.is_alive():  # the first time, and in a forked process
            with self._starting:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        behind: set[Recording] = set()  # their headers
        while True:
            recording, job = self._jobs.get()
            if job is None:
                behind.discard(recording)
                _finish(recording)
            else:
                _attempt(recording, job)
                behind.add(recording)
            if self._jobs.empty():
                while behind:
                    _attempt(behind.pop(), _settle)


_WRITER = _Writer()


def _attempt(recording: Recording, job: _Job) -> None:
    if recording._failure is None:
        try:
            job(recording)
        except Exception as error:
            recording._failure = error
            log.error("recording %s ends here: %s", recording.path, error)


def _finish(recording: Recording) -> None:
    try:
        recording._file.close()
    except Exception as error:  # or the future would never be done, and the writer's thread would end
        recording._failure = recording._failure or error
    assert recording._closed is not None  # set before the job was put
    if recording._failure is None:
        recording._closed.set_result(recording.path)
    else:
        recording._closed.set_exception(recording._failure)


def _open(path: Path) -> FileIO:
    try:
        file = FileIO(path, "x+", opener=lambda name, flags: os.open(name, flags, MODE))
    except FileExistsError:
        file = FileIO(path, "r+")
    try:
        _repair(file, path)
    except BaseException:
        file.close()
        raise
    return file


def repair(path: str | os.PathLike[str]) -> float:
    """Make the header of an interrupted recording fit its data. Gives its length in seconds.

    Raises ValueError, and touches nothing, when the file is no recording of ours.
    """
    with FileIO(path, "r+") as file:
        return _repair(file, Path(path)) / RATE_HZ


def _repair(file: FileIO, path: Path) -> int:
    """Its length in samples. An empty or half-written header counts as a recording that had just begun."""
    file.seek(0)
    header = file.read(_HEADER.size)
    ours = wav_header(0)
    if len(header) < _HEADER.size:
        known = ours.startswith(header[:4]) and (len(header) <= 8 or ours[8:].startswith(header[8:]))
    else:
        fields = _HEADER.unpack(header)
        known = fields[0] == b"RIFF" and fields[2:-1] == _FORMAT
    if not known:
        raise ValueError(
            f"{path} exists and is not a recording (stereo, 16 bits, {RATE_HZ} Hz): remove it or record to another path"
        )
    return _fit_header(file)


def wav_header(size: int) -> bytes:
    """Of a WAV file with so many bytes of audio."""
    return _HEADER.pack(b"RIFF", _HEADER.size - 8 + size, *_FORMAT, size)


def _fit_header(file: FileIO) -> int:
    samples = max(0, file.seek(0, os.SEEK_END) - _HEADER.size) // _FRAME_BYTES
    file.truncate(_HEADER.size + samples * _FRAME_BYTES)
    file.seek(0)
    _write_all(file, wav_header(samples * _FRAME_BYTES))
    return samples


def _whole(data: bytes) -> bytes:
    return data[: len(data) - len(data) % _FRAME_BYTES]


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # an unbuffered file may take less than it is given
        rest = rest[file.write(rest) :]
