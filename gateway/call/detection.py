"""Decoding and speech detection of the caller's audio, for all calls of the process at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from offhook.gateway.conversation.events import Event
from offhook.media.formats import AudioFormat, Converter
from offhook.media.vad import SpeechDetector, SpeechEdge

__all__ = ["DETECTED", "GATHER_S", "Detection", "Uplink"]

DETECTED = 160  # samples of a frame as the detector takes it: 20 ms at 8 kHz
NO_SAMPLES = np.zeros(0, np.int16)


class Uplink(Protocol):
    """Where the caller's audio goes: the part of a model link that hearing needs."""

    def caller_audio(self, codes: bytes, samples: NDArray[np.int16], received_s: float) -> None:
        """One frame: `codes` in the line's format, `samples` the same as int16 at 8 kHz. May be kept until
        `flush_audio`.
        """

    def flush_audio(self) -> None:
        """Send what was kept, of all calls at once."""


class Hears(Protocol):
    """What `Detection` needs of a call's `Hearing`."""

    line_format: AudioFormat
    to_8k: Converter | None
    detector: SpeechDetector
    uplink: Uplink
    waiting: int
    following: deque[Event]  # after the frames that wait

    def decoded(self, codes: bytes) -> NDArray[np.int16]: ...

    def heard(
        self, codes: bytes, samples: NDArray[np.int16], edge: SpeechEdge | None, agent_dbov: float, received_s: float
    ) -> None: ...

    def failed(self, error: BaseException) -> None: ...

    def caught_up(self) -> None: ...


class _Frame(msgspec.Struct, eq=False, gc=False):
    """One whole frame of a call: `codes` in the line's format, `samples` as decoded (int16, 8 kHz)."""

    hearing: Hears
    codes: bytes
    agent_dbov: float
    received_s: float
    samples: NDArray[np.int16] = NO_SAMPLES


# With many calls the first frame waits for those of others. No frame is to wait longer than 4 ms, and a timer of
# uvloop's has whole milliseconds: it may be one late.
GATHER_S = 0.003
GATHER_LEAST = 1.6  # frames that come in that time, of all calls: from 11 calls on


def _on_loop(delay_s: float, callback: Callable[[], None]) -> asyncio.Handle:
    loop = asyncio.get_running_loop()
    return loop.call_later(delay_s, callback) if delay_s else loop.call_soon(callback)


class Detection:
    """Decoding and speech detection for all calls of the process: what was submitted within one turn of the loop, or
    with many calls within 4 ms, is heard as one matrix.

    `schedule(delay_s, callback)`: on the running loop; 0 is its next turn. No method raises; an exception over a frame
    is its call's.
    """

    def __init__(self, schedule: Callable[[float, Callable[[], None]], asyncio.Handle | None] = _on_loop) -> None:
        self._schedule = schedule
        self._scheduled: asyncio.Handle | None = None
        self._waiting: list[_Frame] = []
        self._bunched = False  # some call may have several among them
        self._decided: dict[_Frame, SpeechEdge | None] = {}  # of the frames that are being heard
        self._flushing = False
        self._counted = 0  # frames since
        self._counted_since_s = 0.0
        self._many = False  # calls

    def submit(self, hearing: Hears, codes: bytes, agent_dbov: float, received_s: float) -> None:
        """One whole frame in the line's format, and the agent's level that the caller heard meanwhile; `hearing.heard`
        follows in the order of submission.
        """
        self._waiting.append(_Frame(hearing, codes, agent_dbov, received_s))
        if hearing.waiting:
            self._bunched = True
        hearing.waiting += 1
        if len(self._waiting) == 1:
            elapsed_s = received_s - self._counted_since_s
            if elapsed_s >= 1.0:
                self._many = self._counted * GATHER_S / elapsed_s >= GATHER_LEAST
                self._counted, self._counted_since_s = 0, received_s
            self._scheduled = self._schedule(GATHER_S if self._many else 0.0, self.flush)

    def flush(self) -> None:
        """Hear what waits. Harmless from within `heard`: what waits then follows."""
        if self._flushing:
            return
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._flushing = True
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                self._counted += len(waiting)
                rounds, self._bunched = _rounds(waiting) if self._bunched else [waiting], False
                for frames in rounds:
                    self._hear_all(frames)
        finally:
            self._flushing = False

    def _hear_all(self, frames: list[_Frame]) -> None:
        """Frames of as many calls."""
        self._decided = _alone(frames[0]) if len(frames) == 1 else _edges(_together(frames, _decode))
        if len(self._decided) < len(frames):
            for frame in frames:
                if frame not in self._decided:  # it failed
                    frame.hearing.waiting -= 1
                    _follow(frame.hearing)
        decided = self._decided
        for frame in frames:
            if frame in decided:  # another call's step may have heard it already
                self._hear(frame)
        for frame in frames:
            try:
                frame.hearing.uplink.flush_audio()
            except Exception as error:
                frame.hearing.failed(error)

    def catch_up(self, hearing: Hears) -> None:
        """Hear the frames that wait, those of this call at least: also while another call is hearing one."""
        if not self._flushing:
            self.flush()
            return
        for frame in [frame for frame in self._decided if frame.hearing is hearing]:
            self._hear(frame)

    def _hear(self, frame: _Frame) -> None:
        hearing, edge = frame.hearing, self._decided.pop(frame)
        hearing.waiting -= 1
        try:
            hearing.heard(frame.codes, frame.samples, edge, frame.agent_dbov, frame.received_s)
        except (Exception, asyncio.CancelledError) as error:  # nothing is awaited here
            hearing.failed(error)
        if hearing.following:
            _follow(hearing)


def _follow(hearing: Hears) -> None:
    if not hearing.waiting:
        try:
            hearing.caught_up()
        except (Exception, asyncio.CancelledError) as error:
            hearing.failed(error)


def _rounds(frames: list[_Frame]) -> list[list[_Frame]]:
    """The first frame of each call, then the second of each, and so on."""
    rounds: list[list[_Frame]] = []
    of_call: dict[int, int] = {}  # how many so far
    for frame in frames:
        number = of_call[id(frame.hearing)] = of_call.get(id(frame.hearing), -1) + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(frame)
    return rounds


def _alone(frame: _Frame) -> dict[_Frame, SpeechEdge | None]:
    """`_edges` of a single frame, where most of what a group needs is only cost."""
    hearing = frame.hearing
    try:
        frame.samples = hearing.decoded(frame.codes)
        return {frame: hearing.detector.push(frame.samples, frame.agent_dbov)}
    except Exception as error:
        hearing.failed(error)
        return {}


def _edges(frames: list[_Frame]) -> dict[_Frame, SpeechEdge | None]:
    """What each frame decides; a frame that failed is missing."""
    kinds: dict[type[SpeechDetector], list[_Frame]] = {}
    for frame in frames:
        kind = type(frame.hearing.detector)
        if kind in kinds:
            kinds[kind].append(frame)
        else:
            kinds[kind] = [frame]
    edges: dict[_Frame, SpeechEdge | None] = {}
    for kind, group in kinds.items():
        _together(group, partial(_detect, kind, edges))
    return edges


def _decode(frames: list[_Frame]) -> None:
    line_format, codes = frames[0].hearing.line_format, []
    for frame in frames:
        hearing = frame.hearing
        if hearing.line_format is not line_format or hearing.to_8k is not None:
            break
        codes.append(frame.codes)
    else:
        samples = line_format.decode(b"".join(codes))
        for frame, row in zip(frames, samples.reshape(len(frames), DETECTED), strict=True):
            frame.samples = row
        return
    for frame in frames:
        if frame.samples is NO_SAMPLES:  # a resampler hears nothing twice, should another call's frame have failed
            frame.samples = frame.hearing.decoded(frame.codes)


def _detect(kind: type[SpeechDetector], edges: dict[_Frame, SpeechEdge | None], frames: list[_Frame]) -> None:
    detectors = [frame.hearing.detector for frame in frames]
    samples = [frame.samples for frame in frames]
    played_dbov = [frame.agent_dbov for frame in frames]
    for frame, edge in zip(frames, kind.push_all(detectors, samples, played_dbov), strict=True):
        if isinstance(edge, Exception):
            frame.hearing.failed(edge)
        else:
            edges[frame] = edge


def _together(frames: list[_Frame], work: Callable[[list[_Frame]], None]) -> list[_Frame]:
    """The frames that it was done to: to all at once, or, should that fail, to each alone: an exception costs its own
    call this frame. `work` raises before it has changed anything, or does not repeat what it has done.
    """
    try:
        work(frames)
    except Exception as error:
        if len(frames) > 1:
            return [one for frame in frames for one in _together([frame], work)]
        frames[0].hearing.failed(error)
        return []
    return frames
