"""The caller's audio: a frame in, its level and speech edges out, and the frame on to the model.

Detection runs for all calls together (`Detection`): a call submits a frame and gets it back, decoded, with what was
decided about it (`Hearing.heard`), in order and before anything else that happens to the call (`Hearing.catch_up`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf, log10
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offhook.gateway.agent.policy import detector_of, pre_roll_s
from offhook.gateway.call.recorder import Recorder
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation.events import CallerSpeechEnded, CallerSpeechStarted, LoudWithoutSpeech
from offhook.gateway.conversation.state import Policy
from offhook.media.formats import PCM16_8K, converter
from offhook.media.mulaw import SILENCE_DBOV
from offhook.media.vad import SpeechDetector, SpeechEdge
from offhook.metrics.catalogue import WorstPerSecond
from offhook.metrics.segments import UPLINK_GAP, UPLINK_RELATIVE_DELAY

__all__ = ["Detection", "Hearing", "Uplink"]

FRAME_S = 0.02
NO_SAMPLES = np.zeros(0, np.int16)
ARRIVALS_KEPT = 256  # 5 s: no edge of speech is decided later than that
LAST_TONE_S = 0.3  # of a secret's last key: the carrier may report the key before its tone is over
DETECTED = 160  # samples of a frame as the detector takes it: 20 ms at 8 kHz
LOUD_S = 4.0  # loud for this long without an edge: the detector is deaf, or it is no voice
LOUD_EVERY = 5  # frames: levels change within 100 ms, and the call path has better things to do
LOUD_PAUSE_S = 1.0  # speech has pauses; longer ones end what was loud
LOUD_DBOV, LOUD_ABOVE_DB = -40.0, 15.0  # well above a softly spoken caller, and well above the floor
FLOOR_RISES_DB = 0.1  # each time, 1 dB a second: what goes on for half a minute is the background


class Uplink(Protocol):
    """Where the caller's audio goes: the part of a model link that hearing needs."""

    def caller_audio(self, codes: bytes, samples: NDArray[np.int16], received_s: float) -> None:
        """One frame: `codes` in the line's format, `samples` the same as int16 at 8 kHz. May be kept until
        `flush_audio`.
        """

    def flush_audio(self) -> None:
        """Send what was kept, of all calls at once."""


class _Loudness:
    """Whether the caller's audio is loud for seconds while the detector decides nothing."""

    def __init__(self) -> None:
        self._frames = 0
        self._floor_dbov = 0.0
        self._since_s = self._last_s = -inf
        self._reported = False  # until the detector finds speech

    def push(self, samples: NDArray[np.int16], now_s: float) -> bool:
        """A frame (int16, 8 kHz) in which the detector decided nothing. True where it is to be reported."""
        self._frames += 1
        if self._frames % LOUD_EVERY:
            return False
        wide = samples.astype(np.float32)
        level_dbov = 10.0 * log10(float(wide.dot(wide)) / (len(samples) * 32768.0**2) + 1e-10)
        self._floor_dbov = min(level_dbov, self._floor_dbov + FLOOR_RISES_DB)
        if level_dbov < max(LOUD_DBOV, self._floor_dbov + LOUD_ABOVE_DB):
            return False
        if now_s - self._last_s > LOUD_PAUSE_S:
            self._since_s = now_s
        self._last_s = now_s
        if self._reported or now_s - self._since_s < LOUD_S:
            return False
        self._reported = True
        return True

    def begin_anew(self) -> None:
        """What was loud is explained: a key, the agent's echo, a secret."""
        self._last_s = -inf

    def speech_found(self) -> None:
        """The detector hears."""
        self._reported = False
        self._last_s = -inf


class Hearing:
    """One call's ear. `agent_level_dbov(now_s)`: what the caller hears of the agent now, for the echo guard."""

    def __init__(
        self,
        wiring: Wiring,
        policy: Policy,
        detection: Detection,
        *,
        recorder: Recorder | None,
        uplink: Uplink,
        agent_level_dbov: Callable[[float], float],
    ) -> None:
        """Raises `OperatorError` when the agent's detector is not installed."""
        line_format, metrics, detector = wiring.facts.formats.gives, wiring.metrics, detector_of(wiring.agent)
        self.line_format, self.detector, self.agent_level_dbov = line_format, detector, agent_level_dbov
        self._frame_bytes, self._bytes_per_sample = line_format.frame_bytes, line_format.bytes_per_sample
        self._rate_hz = line_format.rate_hz
        self.to_8k = converter(line_format, PCM16_8K) if line_format.rate_hz != 8_000 else None
        self.uplink = uplink
        self._detection, self._recorder = detection, recorder
        self.waiting = 0  # frames that were submitted and not heard yet
        self._clock, self._feed, self._metrics, self._faults = wiring.clock, wiring.feed, metrics, wiring.faults
        self._local_turns = policy.local_turns
        self.muted = False  # the model gets silence: a protected reply is heard
        self.turn_open = False  # local turns: the model is being sent the caller's turn
        self._secret_until_s = -inf  # the caller enters digits that neither model nor recording may have
        # Local turns: the audio sent with a turn's start begins before the onset, which lies before the decision
        # and, with mode `hold`, before the verdict.
        kept_s = pre_roll_s(wiring.agent) + policy.min_barge_in_s + policy.hangover_s + 0.2
        self._pre_roll: deque[tuple[bytes, NDArray[np.int16]]] = deque(maxlen=int(kept_s / FRAME_S) or 1)
        self._loudness = _Loudness()
        self._partial = b""  # of a frame: carriers send whole ones as a rule
        self._silence = line_format.silence * line_format.frame_samples, np.zeros(DETECTED, np.int16)
        self.received_samples = 0
        self._uncounted_frames = 0  # received since the last flush
        self._arrivals_s: deque[float] = deque(maxlen=ARRIVALS_KEPT)
        self.last_frame_s: float | None = None
        self._delay_floor_s: float | None = None
        self._relative_delay = WorstPerSecond(metrics, UPLINK_RELATIVE_DELAY)
        self._uplink_gap = WorstPerSecond(metrics, UPLINK_GAP)

    # --- frames

    def caller_audio(self, codes: bytes, media_ms: int) -> None:
        """Audio of the caller in the line's format, 20 ms as a rule; `media_ms`: the stream's own clock."""
        now_s = self._clock()
        self._uncounted_frames += 1
        if self._recorder is not None:
            hidden = now_s < self._secret_until_s
            self._recorder.caller(self._silent(len(codes)) if hidden else codes, now_s)
        self.received_samples += len(codes) // self._bytes_per_sample
        if self.last_frame_s is not None:
            self._uplink_gap.add(now_s, now_s - self.last_frame_s)
        self.last_frame_s = now_s
        # The carrier's clock and ours differ by an unknown constant: the call's own best frame is the zero.
        offset_s = now_s - media_ms / 1000
        if self._delay_floor_s is None or offset_s < self._delay_floor_s:
            self._delay_floor_s = offset_s
        self._relative_delay.add(now_s, offset_s - self._delay_floor_s)
        whole = self._frame_bytes
        if len(codes) == whole and not self._partial:
            self._detection.submit(self, codes, now_s)
            return
        self._partial += codes
        while len(self._partial) >= whole:
            frame, self._partial = self._partial[:whole], self._partial[whole:]
            self._detection.submit(self, frame, now_s)

    def catch_up(self) -> None:
        """Hear the frames that wait: what happens to the call next comes after them."""
        if self.waiting:
            self._detection.flush()

    def decoded(self, codes: bytes) -> NDArray[np.int16]:
        """One whole frame as int16 at 8 kHz."""
        return self.line_format.decode(codes) if self.to_8k is None else np.frombuffer(self.to_8k.push(codes), np.int16)

    def failed(self, error: BaseException) -> None:
        """An exception over a submitted frame: it costs this call this frame."""
        self._faults.report("line_reader", error)

    def _silent(self, length: int) -> bytes:
        silence = self._silence[0]
        return (silence * (length // len(silence) + 1))[:length]

    def heard(
        self,
        codes: bytes,
        samples: NDArray[np.int16],
        edge: SpeechEdge | None,
        agent_dbov: float,
        received_s: float,
    ) -> None:
        """A submitted frame, decoded (int16, 8 kHz), and the edge of speech that it decided, if any.

        `agent_dbov`: the agent's level that the caller heard meanwhile.
        """
        self._arrivals_s.append(received_s)
        if edge is None:
            self._watch_loudness(samples, agent_dbov, received_s)
        else:
            self._loudness.speech_found()
            # Back-dated to that frame's arrival, not by the length of the audio since: frames come late and in bunches.
            frames_ago = (edge.decided_sample - edge.sample) // DETECTED
            arrivals_s = self._arrivals_s
            if edge.speaking:
                onset_s = arrivals_s[-min(max(frames_ago, 1), len(arrivals_s))] - FRAME_S
                self._feed(CallerSpeechStarted(received_s, onset_s))
            else:
                self._feed(CallerSpeechEnded(received_s, arrivals_s[-min(frames_ago + 1, len(arrivals_s))]))
        if self.muted or received_s < self._secret_until_s:
            codes, samples = self._silence
        if self._local_turns and not self.turn_open:
            self._pre_roll.append((codes, samples))
        else:
            self.uplink.caller_audio(codes, samples, received_s)

    def _watch_loudness(self, samples: NDArray[np.int16], agent_dbov: float, received_s: float) -> None:
        if self.detector.speaking:
            return
        if received_s < self._secret_until_s or agent_dbov > SILENCE_DBOV:
            self._loudness.begin_anew()
        elif self._loudness.push(samples, received_s):
            self._feed(LoudWithoutSpeech(received_s))

    def key_pressed(self) -> None:
        """The caller pressed a key: its tone is loud, and no speech."""
        self.catch_up()
        self._loudness.begin_anew()

    def open_turn(self) -> None:
        """Local turns: send the pre-roll, and every frame from now on."""
        self.turn_open = True
        while self._pre_roll:
            self.uplink.caller_audio(*self._pre_roll.popleft(), 0.0)
        self.uplink.flush_audio()

    def close_turn(self) -> None:
        """Local turns: keep frames for the next turn's pre-roll."""
        self.turn_open = False

    # --- what the call needs besides

    @property
    def received_ms(self) -> float:
        """The caller's audio received so far."""
        return self.received_samples * 1000 / self._rate_hz

    def stream_began(self, now_s: float) -> None:
        """Another stream: its clock and gaps are measured anew."""
        self.last_frame_s, self._delay_floor_s = now_s, None

    def hide(self, hidden: bool) -> None:
        """While the caller enters a secret, model and recording get silence."""
        self._secret_until_s = inf if hidden else self._clock() + LAST_TONE_S

    def flush_frame_count(self) -> None:
        """Report the frames received since the last flush: counting each would cost ten times that."""
        if self._uncounted_frames:
            self._metrics.frames_in.inc(self._uncounted_frames)
            self._uncounted_frames = 0

    def flush(self) -> None:
        """Hear the last frames, and report everything that is still held back for the metrics."""
        self.catch_up()
        for worst in (self._relative_delay, self._uplink_gap):
            worst.flush()
        self.flush_frame_count()


class _Frame:
    """One whole frame of a call: `codes` in the line's format, `samples` as decoded (int16, 8 kHz)."""

    __slots__ = ("agent_dbov", "codes", "hearing", "received_s", "samples")

    def __init__(self, hearing: Hearing, codes: bytes, agent_dbov: float, received_s: float) -> None:
        self.hearing, self.codes, self.agent_dbov, self.received_s = hearing, codes, agent_dbov, received_s
        self.samples: NDArray[np.int16] = NO_SAMPLES


# Frames come at any time: within one turn of an idle loop hardly two of them do. Waiting for others pays only where
# some are bound to come. uvloop's timers are a millisecond coarse: what waits 2 ms may wait 3, and 4 are the limit.
GATHER_S = 0.002
GATHER_LEAST = 3.0  # frames that come in that time, of all calls: from some 30 calls on


def _on_loop(after_s: float, flush: Callable[[], None]) -> asyncio.Handle:
    loop = asyncio.get_running_loop()
    return loop.call_later(after_s, flush) if after_s else loop.call_soon(flush)


class Detection:
    """Decoding and speech detection for all calls of the process: what was submitted within one turn of the loop, or
    with many calls within 2 ms, is heard as one matrix.

    `schedule(after_s, flush)`: on the running loop. No method raises; an exception over a frame is its call's.
    """

    def __init__(self, schedule: Callable[[float, Callable[[], None]], asyncio.Handle | None] = _on_loop) -> None:
        self._schedule = schedule
        self._scheduled: asyncio.Handle | None = None
        self._waiting: list[_Frame] = []
        self._flushing = False
        self._counted = 0  # frames since
        self._counted_since_s = 0.0
        self._gather_s = 0.0

    def submit(self, hearing: Hearing, codes: bytes, received_s: float) -> None:
        """One whole frame in the line's format; `hearing.heard` follows in the order of submission."""
        self._waiting.append(_Frame(hearing, codes, hearing.agent_level_dbov(received_s), received_s))
        hearing.waiting += 1
        self._counted += 1
        if len(self._waiting) == 1:
            elapsed_s = received_s - self._counted_since_s
            if elapsed_s >= 1.0:
                expected = self._counted * GATHER_S / elapsed_s
                self._gather_s = GATHER_S if expected >= GATHER_LEAST else 0.0
                self._counted, self._counted_since_s = 0, received_s
            self._scheduled = self._schedule(self._gather_s, self.flush)

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
                frames, self._waiting = _one_of_each(self._waiting)
                for frame in frames:
                    frame.hearing.waiting -= 1
                edges = _edges(_together(frames, _decode))
                for frame in frames:
                    hearing = frame.hearing
                    if frame in edges:
                        try:
                            hearing.heard(frame.codes, frame.samples, edges[frame], frame.agent_dbov, frame.received_s)
                        except (Exception, asyncio.CancelledError) as error:  # nothing is awaited here
                            hearing.failed(error)
                for frame in frames:
                    try:
                        frame.hearing.uplink.flush_audio()
                    except Exception as error:
                        frame.hearing.failed(error)
        finally:
            self._flushing = False


def _one_of_each(frames: list[_Frame]) -> tuple[list[_Frame], list[_Frame]]:
    """The first frame of each call, and the others."""
    calls = {id(frame.hearing) for frame in frames}
    if len(calls) == len(frames):
        return frames, []
    first: list[_Frame] = []
    others: list[_Frame] = []
    for frame in frames:
        chosen = first if id(frame.hearing) in calls else others
        calls.discard(id(frame.hearing))
        chosen.append(frame)
    return first, others


def _edges(frames: list[_Frame]) -> dict[_Frame, SpeechEdge | None]:
    """What each frame decides; a frame that failed is missing."""
    kinds: dict[type[SpeechDetector], list[_Frame]] = {}
    for frame in frames:
        kinds.setdefault(type(frame.hearing.detector), []).append(frame)
    edges: dict[_Frame, SpeechEdge | None] = {}
    for kind, group in kinds.items():
        _together(group, partial(_detect, kind, edges))
    return edges


def _decode(frames: list[_Frame]) -> None:
    first = frames[0].hearing
    if first.to_8k is None and all(frame.hearing.line_format is first.line_format for frame in frames):
        samples = first.line_format.decode(b"".join([frame.codes for frame in frames]))
        for frame, row in zip(frames, samples.reshape(len(frames), DETECTED), strict=True):
            frame.samples = row
        return
    for frame in frames:
        frame.samples = frame.hearing.decoded(frame.codes)


def _detect(kind: type[SpeechDetector], edges: dict[_Frame, SpeechEdge | None], frames: list[_Frame]) -> None:
    found = kind.push_all(
        [frame.hearing.detector for frame in frames],
        [frame.samples for frame in frames],
        [frame.agent_dbov for frame in frames],
    )
    edges.update(zip(frames, found, strict=True))


def _together(frames: list[_Frame], work: Callable[[list[_Frame]], None]) -> list[_Frame]:
    """The frames that it was done to: to all at once, or, should that fail, to each alone. An exception costs its own
    call this frame.
    """
    try:
        work(frames)
    except Exception as error:
        if len(frames) > 1:
            return [one for frame in frames for one in _together([frame], work)]
        frames[0].hearing.failed(error)
        return []
    return frames
