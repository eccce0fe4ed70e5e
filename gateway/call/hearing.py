"""The caller's audio: a frame in, its level and speech edges out, and the frame on to the model.

Detection runs for all calls together (`detection`): a call submits a frame and gets it back, decoded, with what was
decided about it (`Hearing.heard`), in order and before anything else that happens to the call (`Hearing.catch_up`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf, log10
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offhook.gateway.agent.policy import detector_of, pre_roll_s
from offhook.gateway.call.detection import DETECTED, Detection, Uplink
from offhook.gateway.call.recorder import Recorder
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation.events import CallerSpeechEnded, CallerSpeechStarted, Event, LoudWithoutSpeech
from offhook.gateway.conversation.state import Policy
from offhook.media.formats import PCM16_8K, converter
from offhook.media.mulaw import SILENCE_DBOV
from offhook.media.vad import SpeechEdge
from offhook.metrics.catalogue import WorstPerSecond
from offhook.metrics.segments import UPLINK_GAP, UPLINK_RELATIVE_DELAY

__all__ = ["Hearing"]

FRAME_S = 0.02
ARRIVALS_KEPT = 256  # 5 s: no edge of speech is decided later than that
LAST_TONE_S = 0.3  # of a secret's last key: the carrier may report the key before its tone is over
LOUD_S = 4.0  # loud for this long without an edge: the detector is deaf, or it is no voice
LOUD_EVERY = 5  # frames: levels change within 100 ms, and the call path has better things to do
LOUD_PAUSE_S = 1.0  # speech has pauses; longer ones end what was loud
LOUD_DBOV, LOUD_ABOVE_DB = -40.0, 15.0  # well above a softly spoken caller, and well above the floor
LATE_LOOK_S, LATE_LASTS_S = 1.0, 0.1  # all frames of a second are later than this: the path's delay has changed
LATE_MAX_S = 1.0  # a frame that seems later than this is not: the stream's clock stood still
FLOOR_RISES_DB = 0.1  # each time, 1 dB a second: what goes on for half a minute is the background


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


class _StreamClock:
    """How late the caller's frames come, against the stream's own clock.

    The two clocks differ by an unknown constant: the frame with the least delay is the zero. `late_s`: the last frame's
    delay above the present path's, as after a stall of the network or of this process. Messages behind that frame
    have it, too.
    """

    def __init__(self) -> None:
        self.late_s = 0.0
        self._best_s = self._usual_s = inf  # arrival less media time: ever, and as it is now
        self._least_s, self._since_s = inf, -inf  # of the frames since then

    def push(self, now_s: float, media_s: float) -> float:
        """A frame arrived; `media_s`: its place in the stream. Returns its delay above the least ever."""
        offset_s = now_s - media_s
        self._best_s = min(self._best_s, offset_s)
        self._usual_s = min(self._usual_s, offset_s)
        self._least_s = min(self._least_s, offset_s)
        if now_s - self._since_s >= LATE_LOOK_S:
            if self._least_s - self._usual_s > LATE_LASTS_S:  # another path, or a gap in the stream's clock
                self._usual_s = self._least_s
            self._least_s, self._since_s = inf, now_s
        late_s = offset_s - self._usual_s
        self.late_s = late_s if late_s <= LATE_MAX_S else 0.0
        return offset_s - self._best_s


class Copies(Protocol):
    """What takes copies of the caller's frames (`Tap`)."""

    def caller(self, codes: bytes, now_s: float, *, hidden: bool) -> None: ...


class Hearing:
    """One call's ear. `agent_level_dbov(at_s)`: what the caller heard of the agent then, for the echo guard."""

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
        self.line_format, self.detector, self._agent_level_dbov = line_format, detector, agent_level_dbov
        self._frame_bytes, self._bytes_per_sample = line_format.frame_bytes, line_format.bytes_per_sample
        self._rate_hz = line_format.rate_hz
        self.to_8k = converter(line_format, PCM16_8K) if line_format.rate_hz != 8_000 else None
        self.uplink = uplink
        self._detection, self._recorder = detection, recorder
        self.tap: Copies | None = None  # while an operator listens in
        self.waiting = 0  # frames that were submitted and not heard yet
        self.following: deque[Event] = deque()  # events that follow them
        self._clock, self._feed, self._metrics, self._faults = wiring.clock, wiring.feed, metrics, wiring.faults
        self._local_turns = policy.local_turns
        self.muted = False  # the model gets silence: a protected reply is heard
        self.heard_before_ms = 0.0  # of the caller, in another process, where the call began
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
        self._stream_clock = _StreamClock()
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
        if self.tap is not None:
            self.tap.caller(codes, now_s, hidden=now_s < self._secret_until_s)
        self.received_samples += len(codes) // self._bytes_per_sample
        if self.last_frame_s is not None:
            self._uplink_gap.add(now_s, now_s - self.last_frame_s)
        self.last_frame_s = now_s
        self._relative_delay.add(now_s, self._stream_clock.push(now_s, media_ms / 1000))
        # The echo in a frame is of what was played when it was recorded, not when it arrives.
        agent_dbov = self._agent_level_dbov(now_s - self._stream_clock.late_s)
        whole = self._frame_bytes
        if len(codes) == whole and not self._partial:
            self._detection.submit(self, codes, agent_dbov, now_s)
            return
        self._partial += codes
        while len(self._partial) >= whole:
            frame, self._partial = self._partial[:whole], self._partial[whole:]
            self._detection.submit(self, frame, agent_dbov, now_s)

    def catch_up(self) -> None:
        """Hear the frames that wait: what happens to the call next comes after them."""
        if self.waiting:
            self._detection.catch_up(self)

    def then(self, event: Event) -> None:
        """Feed an event that may wait for the frames before it. A carrier's message with a frame is followed by one
        with a mark as a rule: were the frame heard for its sake, hardly two frames would be heard together.
        """
        if self.waiting:
            self.following.append(event)
        else:
            self._feed(event)

    def caught_up(self) -> None:
        """No frame waits: what was to follow the last one follows."""
        while self.following:
            self._feed(self.following.popleft())

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
            if agent_dbov > SILENCE_DBOV or received_s < self._secret_until_s:
                self._loudness.begin_anew()
            elif not self.detector.speaking and self._loudness.push(samples, received_s):
                self._feed(LoudWithoutSpeech(received_s))
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
    def audio_in_ms(self) -> float:
        """Of the caller, in every process that has had the call."""
        return self.heard_before_ms + self.received_ms

    @property
    def received_ms(self) -> float:
        """The caller's audio received so far."""
        return self.received_samples * 1000 / self._rate_hz

    @property
    def late_s(self) -> float:
        """How late the last frame came, and so what the carrier sent behind it."""
        return self._stream_clock.late_s

    def stream_began(self, now_s: float) -> None:
        """Another stream: its clock and gaps are measured anew."""
        self.last_frame_s, self._stream_clock = now_s, _StreamClock()

    def hide(self, hidden: bool) -> None:
        """While the caller enters a secret, model and recording get silence."""
        self._secret_until_s = inf if hidden else self._clock() + LAST_TONE_S

    def stop_recording(self) -> bool:
        """The caller does not agree: what was recorded is removed. False without a recording."""
        if self._recorder is None:
            return False
        self._recorder.discard()
        return True

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
