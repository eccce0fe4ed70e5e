"""One call: the only place that holds all of its parts.

The shell around the conversation machine repeats three lines: take an event, step, carry out the commands.
Nothing here awaits between a decision and its effect: what goes to the carrier or the model is put into an
outbox, and one task per direction empties it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from offhook.gateway.agent.policy import detector_of, policy_of
from offhook.gateway.agent.spec import Agent, filler_line
from offhook.gateway.call.playout import FRAME, NOTHING_DBOV, Playout, fade_in
from offhook.gateway.call.recorder import Recorder
from offhook.gateway.call.timeline import Timeline
from offhook.gateway.carriers.twilio import messages
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.machine import step
from offhook.gateway.conversation.state import Link, Phase, State
from offhook.gateway.models import ModelLink, ModelSink
from offhook.gateway.models.pricing import Prices, cost
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.observe.tcp import round_trip_s
from offhook.gateway.store.record import CallRecord, MessageRecord
from offhook.gateway.tools import Afterwards, Tool, ToolCall, ToolError, ToolResult
from offhook.gateway.tools.answer import clipped
from offhook.gateway.tools.runner import ToolRunner
from offhook.media import mulaw
from offhook.media.resample import Up8To16
from offhook.metrics.catalogue import Metrics, WorstPerSecond
from offhook.metrics.segments import LINK_RTT, UPLINK_FORWARD, UPLINK_GAP, UPLINK_RELATIVE_DELAY

__all__ = ["Call", "CallFacts", "CarrierSocket", "Transfer"]

log = logging.getLogger(__name__)

# A carrier that stops reading: ten minutes of audio, base64, are more than Twilio's own buffer holds.
OUTBOX_MAX_BYTES = 7_000_000
TOOL_GRACE_S = 5.0  # the runner ends a tool at its timeout; past this the runner itself hangs
PRE_ROLL_S = 0.3  # local turns: speech before the detector was sure of it
SILENCE_20_MS = bytes(640)  # PCM16 16 kHz
# What a model link counts, in the metrics' words.
ODDITIES = {"unknown_keys": "unknown_event", "unreadable_values": "bad_field"}
DROPPED = {"audio_dropped": "uplink_full", "audio_dropped_down": "model_down", "audio_left": "call_over"}
CAME_FRAMES = 256  # 5 s: no edge of speech is decided later than that
MODEL_WAITS_S = 10.0  # a stream comes a second after its TwiML; a model session is not kept waiting for longer
RESENT_MARK_EVERY = 2_400  # samples, 300 ms, as the machine does
PLAYOUT_GRACE_S = 2.0
SHOWN_BYTES = 2_000  # of a tool's arguments and answer, in the record
KEYS_MAX = 100  # pressed and not yet read by the tool that waits for them
LAST_TONE_S = 0.3  # of a secret's last key: the carrier may know the key before its tone is over
SILENT_CODE = bytes([mulaw.SILENCE])
COST_WARNING = 0.8  # of the cost limit
TOLD_MAX = 2_000  # characters of a result that nobody waits for
CLOSE_MAX_S = 15.0  # tools, model and socket each have bounds of their own below this


class CarrierSocket(Protocol):
    """The carrier's WebSocket, as a call sees it."""

    async def send_str(self, data: str) -> None: ...

    def get_extra_info(self, name: str) -> Any: ...

    async def close(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Transfer:
    """Where the caller goes when the call ends as `TRANSFERRED`: a number or a SIP address.

    `whisper` is said to whoever answers, before the two are joined; `warm`: the agent briefs them first.
    """

    target: str
    whisper: str = ""
    warm: bool = False


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What the carrier's webhook, or the stream's `start`, said of the call."""

    call_sid: str
    caller: str = ""
    dialled: str = ""
    direction: str = "inbound"
    simulated: bool = False
    started_at: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    effects: frozenset[str] = frozenset()  # tools with outside effects that run though simulated; "*": all


class Call(ModelSink):
    """One phone call, from ring to end. Also the sink of its model link and the host of its tools.

    `link_for(call)` makes the model link; `sounds` holds ready mu-law by file name (greeting, fillers);
    `on_over(call)` is told once everything of the call is gone. `prices`: of the agent's model, where known.
    `clock`: seconds, monotonic; all events carry its time. Not uvloop's own, which is a millisecond coarse.
    """

    def __init__(
        self,
        facts: CallFacts,
        agent: Agent,
        *,
        tools: Mapping[str, Tool],
        sounds: Mapping[str, bytes],
        metrics: Metrics,
        link_for: Callable[[Call], ModelLink],
        on_over: Callable[[Call], Awaitable[None]],
        clock: Callable[[], float],
        rang_s: float | None = None,
        prices: Prices | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.facts, self.agent, self._tools, self._sounds = facts, agent, tools, sounds
        self._loop = asyncio.get_running_loop()
        self.clock = clock
        self._metrics = metrics
        self._on_over = on_over
        self.record = CallRecord(
            call_sid=facts.call_sid,
            agent=agent.name,
            direction=facts.direction,
            caller=facts.caller,
            dialled=facts.dialled,
            simulated=facts.simulated,
            started_at=facts.started_at,
        )
        self.timeline = Timeline(self.record, metrics, rang_s=rang_s)
        self._policy = policy_of(agent)
        self._state = State()
        self._events: deque[e.Event] = deque()
        self._draining = False
        self._timers: dict[type[e.Event], asyncio.TimerHandle] = {}
        self._playout = Playout()
        self._recorder = self._recorder_of(agent)
        self._generation = 0
        self._protect_next = agent.greeting.protected
        self._protected = 0
        self._requests: dict[str, ToolCall] = {}
        self._results: dict[str, ToolResult] = {}
        self.remembered: dict[str, str] = {}
        self._runner = ToolRunner(
            tools, self, limit=agent.limits.tools_at_once, on_finished=self._tool_finished, redactor=redactor
        )
        self._model_session = 0  # a session that knows nothing of the one before begins a new one
        self._keys: asyncio.Queue[str] | None = None  # a tool that takes the caller's key presses
        self._secret_until_s = -inf  # the caller enters digits that are nobody's business
        self._over = asyncio.Event()
        self.ending: Ending | None = None
        self._last_words: tuple[Ending, int] | None = None  # and the last reply before them
        self._detector = detector_of(agent)
        self._up = Up8To16()
        self._undetected = b""
        self._samples_in = 0
        self._frames_in = 0  # that the metric does not know of
        self._came_s: deque[float] = deque(maxlen=CAME_FRAMES)  # when each of the last frames came
        self._last_frame_s: float | None = None
        self._delay_floor_s: float | None = None
        self._relative_delay = WorstPerSecond(metrics, UPLINK_RELATIVE_DELAY)
        self._uplink_gap = WorstPerSecond(metrics, UPLINK_GAP)
        self._uplink_forward = WorstPerSecond(metrics, UPLINK_FORWARD)
        self._muted = False
        self._was_ready = False  # the model, once
        self._prices, self._cost_warned = prices, False
        pre_roll_ms = agent.turn_detection.pre_roll_ms
        pre_roll_s = PRE_ROLL_S if pre_roll_ms is None else pre_roll_ms / 1000
        # Local turns: what is sent with activityStart begins before the onset, which lies before the decision
        # and, with mode `hold`, before the verdict.
        self._pre_roll: deque[bytes] = deque(
            maxlen=int((pre_roll_s + self._policy.min_barge_in_s + self._policy.hangover_s + 0.2) / 0.02) or 1
        )
        self._activity = False
        self.transfer_to: Transfer | None = None
        self.on_digits: Callable[[str], None] | None = None  # the carrier's side, if it can press keys
        self._socket: CarrierSocket | None = None
        self._parted_s: float | None = None  # the stream is gone since then, and another may come
        self._return_by: asyncio.TimerHandle | None = None
        self._outbound: messages.Outbound | None = None
        self._outbox: deque[tuple[str, c.Command]] = deque()
        self._outbox_bytes = 0
        self._outbox_ready = asyncio.Event()
        self._cleared_below = 0  # generations up to this one must not be sent any more
        self._tasks: list[asyncio.Task[None]] = []
        self._link_for = link_for
        self._link = link_for(self)
        self._unclaimed: asyncio.TimerHandle | None = None
        self._old_links: list[asyncio.Task[None]] = []
        self._counted: Counter[str] = Counter()  # of what the link counts, what the metrics know already
        self.marks_outstanding = 0  # sent on this stream and not echoed
        self._do: dict[type[c.Command], Callable[[Any], None]] = {
            c.Play: self._play,
            c.Replay: self._play,
            c.SendMark: self._send_mark,
            c.Clear: self._clear,
            c.Drop: self._drop,
            c.ReplyEnded: lambda command: self._playout.drop(command.generation),
            c.PlayGreeting: lambda _: self._play_sound(agent.greeting.sound, "sound", agent.greeting.protected),
            c.PlayFiller: self._play_filler,
            c.MuteCaller: self._mute,
            c.BargeIn: lambda _: None,  # for the timeline
            c.AskModel: self._ask,
            c.TellHeard: self._tell_heard,
            c.ActivityStart: self._activity_start,
            c.ActivityEnd: self._activity_end,
            c.RotateModel: lambda _: self._link.rotate(),
            c.ReconnectModel: lambda _: self._link.reconnect(),
            c.RunTool: self._run_tool,
            c.CancelTool: self._cancel_tool,
            c.AnswerTool: self._answer_tool,
            c.SetTimer: self._set_timer,
            c.StopTimer: self._stop_timer,
            c.End: self._end,
        }

    def _recorder_of(self, agent: Agent) -> Recorder | None:
        """The call's recorder, when the agent records. A disk that fails costs the recording, not the call."""
        if not agent.recording.enabled:
            return None
        try:
            return Recorder(agent, self.facts.call_sid, self._playout)
        except (OSError, ValueError) as error:
            log.error("call %s: no recording: %s", self.facts.call_sid, error)
            self.timeline.error("the recording could not be begun")
            return None

    # --- life

    def start(self) -> None:
        """Begin: the model session starts connecting now, whether the stream is there or not."""
        self._tasks = [
            asyncio.create_task(self._link.run(), name=f"model {self.facts.call_sid}"),
            asyncio.create_task(self._send(), name=f"carrier {self.facts.call_sid}"),
        ]
        self._closer = asyncio.create_task(self._close_when_over(), name=f"call {self.facts.call_sid}")
        self._unclaimed = self._loop.call_later(MODEL_WAITS_S, self._release_model)

    def _release_model(self) -> None:
        """No stream has come: the model waits no longer. A stream that still comes gets a fresh session."""
        self._unclaimed = None
        self.take_stock()
        self._counted.clear()
        self._old_links.append(asyncio.create_task(self._link.close()))
        self._link = self._link_for(self)
        self._state = State()

    def attach(self, socket: CarrierSocket, stream_sid: str) -> None:
        """The carrier's stream is up: the call's first, or one that takes the place of the last."""
        now_s = self.clock()
        if self._unclaimed is not None:
            self._unclaimed.cancel()
            self._unclaimed = None
        elif not self.record.streams:
            self._tasks.append(asyncio.create_task(self._link.run(), name=f"model {self.facts.call_sid}"))
        self._socket, self._outbound = socket, messages.Outbound(stream_sid)
        self.marks_outstanding = 0
        self._last_frame_s, self._delay_floor_s = now_s, None  # each stream has a clock of its own
        self.record.streams.append(stream_sid)
        if self._return_by is not None:
            self._return_by.cancel()
            self._return_by = None
        parted_s, self._parted_s = self._parted_s, None
        if len(self.record.streams) == 1:
            self.feed(e.StreamStarted(now_s))
        else:
            self._send_again(parted_s if parted_s is not None else now_s, now_s)

    def part(self, return_s: float) -> None:
        """The stream is gone; the call ends unless another is attached within `return_s`.

        The machine is not told: it goes on, and what it sends meanwhile is kept for the next stream.
        """
        if self._parted_s is None:
            self._parted_s = self.clock()
        self._socket = self._outbound = None
        self.marks_outstanding = 0
        self._outbox.clear()
        self._outbox_bytes = 0
        if self._return_by is not None:
            self._return_by.cancel()
        self._return_by = self._loop.call_later(return_s, lambda: self.feed(e.StreamLost(self.clock())))

    def _send_again(self, parted_s: float, now_s: float) -> None:
        """What the carrier held unheard went with its stream. The new marks put the ledger's clock right."""
        ledger = self._state.ledger
        left = 0
        for reply in ledger.replies:
            start = lg.heard(ledger, reply, parted_s) // FRAME * FRAME
            command: type[c.Play] | type[c.Replay] = c.Replay  # the seam is faded in
            while start < reply.placed:
                stop = min(reply.placed, start + RESENT_MARK_EVERY)
                self._play(command(reply.generation, start, stop))
                self._send_mark(c.SendMark(reply.generation, stop, ledger.epoch))
                left, start, command = left + stop - start, stop, c.Play
        if e.PlayoutTimeout in self._timers:
            self._set_timer(c.SetTimer(e.PlayoutTimeout, now_s + left / 8000 + PLAYOUT_GRACE_S))
        if e.IdleTimeout in self._timers:
            self._set_timer(c.SetTimer(e.IdleTimeout, now_s + (self._policy.idle_prompt_s or PLAYOUT_GRACE_S)))

    @property
    def attached(self) -> bool:
        return self._socket is not None

    @property
    def socket(self) -> CarrierSocket | None:
        return self._socket

    @property
    def phase(self) -> Phase:
        return self._state.phase

    def silent_s(self, now_s: float) -> float:
        """How long the carrier's stream has brought nothing; 0 before it started."""
        return now_s - self._last_frame_s if self.attached and self._last_frame_s is not None else 0.0

    def tell_frames(self) -> None:
        """The frames that have come since the last time, to the metrics: counting each would cost ten times that."""
        if self._frames_in:
            self._metrics.frames_in.inc(self._frames_in)
            self._frames_in = 0

    def take_stock(self) -> None:
        """To the metrics, every few seconds and at the end: what the model link has counted since the last time,
        and how far away both peers are by the kernel's word."""
        metrics, counted = self._metrics, self._counted
        for name, total in self._link.counts.items():
            new = total - counted[name]
            if not new:
                continue
            counted[name] = total
            kind, _, word = name.partition(":")
            if name in DROPPED:
                metrics.frames_dropped_total.inc(DROPPED[name], by=new)
            elif kind == "session":
                metrics.model_sessions_total.inc(word, by=new)
            elif kind == "malformed" and word:
                metrics.input_errors_total.inc("model", word, by=new)
            elif name in ("unknown_keys", "unreadable_values"):
                metrics.input_errors_total.inc(
                    "model", "unknown_event" if name == "unknown_keys" else "bad_field", by=new
                )
        model_s = self._link.round_trip_s()
        if model_s is not None:
            metrics.observe(LINK_RTT, model_s, "model")
        carrier_s = round_trip_s(self._socket.get_extra_info("socket")) if self._socket is not None else None
        if carrier_s is not None:
            metrics.observe(LINK_RTT, carrier_s, "carrier")

    def feed(self, event: e.Event) -> None:
        """Take an event, step, carry out the commands, until there are no more events."""
        self._events.append(event)
        if self._draining:
            return
        self._draining = True
        try:
            while self._events:
                event = self._events.popleft()
                self.timeline.event(event)
                self._state, commands = step(self._policy, self._state, event)
                if self._recorder is not None:  # before the commands drop what it needs
                    for command in commands:
                        if isinstance(command, c.ReplyEnded):
                            self._recorder.reply_heard(command.generation, command.heard, event.at_s)
                    self._recorder.heard(self._state.ledger, event.at_s)
                for command in commands:
                    self.timeline.command(command, event.at_s)
                    self._do[type(command)](command)
        except Exception:
            log.exception("call %s: internal error, ending it", self.facts.call_sid)
            self.timeline.error("internal error")
            self._events.clear()
            self._state = self._state._replace(phase=Phase.ENDED)
            self._end(c.End(Ending.INTERNAL_ERROR))
        finally:
            self._draining = False

    def stop(self, ending: Ending) -> None:
        """End the call once what is being said has been heard."""
        self.feed(e.EndRequested(self.clock(), ending))

    def last_words(self, text: str, ending: Ending) -> None:
        """Have the agent say this instead of what it is saying; then the call ends."""
        self.hush()
        self._last_words = ending, self._generation
        self.say(text)

    def hush(self) -> None:
        """Stop what the agent is saying, for good."""
        self.feed(e.ModelInterrupted(self.clock(), self._generation))

    async def over(self) -> None:
        """Wait until every task, timer and socket of the call is gone."""
        await asyncio.shield(self._closer)

    async def _close_when_over(self) -> None:
        await self._over.wait()
        for timer in (*self._timers.values(), self._unclaimed, self._return_by):
            if timer is not None:
                timer.cancel()
        self._timers.clear()
        hanging_up = asyncio.create_task(self._close_socket())  # first: the caller waits for what follows
        try:
            async with asyncio.timeout(CLOSE_MAX_S):
                await self._close_parts()
                await hanging_up
        except TimeoutError:
            self._stuck("a tool, the model or the carrier did not let go in time")
        if self._recorder is not None and (fault := await self._recorder.close()):
            self.timeline.error(fault)
        now_s = self.clock()
        for worst in (self._relative_delay, self._uplink_gap, self._uplink_forward):
            worst.flush()
        self.tell_frames()
        self.take_stock()
        for fault in self._link.faults:
            self.timeline.error(f"model: {fault}")
        ending = self.ending or Ending.INTERNAL_ERROR
        self.record.end_reason, self.record.end_side = ending.value, ending.side.value
        self.record.audio_in_ms = self._samples_in / 8
        self.record.remembered = self._masked(self.remembered)
        self.timeline.ended(now_s)
        self._metrics.calls_total.inc(ending.value, ending.side.value)
        await self._on_over(self)

    async def _close_parts(self) -> None:
        closing = (self._runner.close(), self._link.close(), *self._old_links)
        for fault in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(fault, Exception):
                log.error("call %s: closing it: %r", self.facts.call_sid, fault)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_socket(self) -> None:
        if self._socket is not None:
            try:
                await self._socket.close()
            except Exception as error:  # the peer may be gone; nothing is owed to it
                log.debug("call %s: closing the stream: %s", self.facts.call_sid, type(error).__name__)

    # --- the caller's audio: a frame up

    def media(self, codes: bytes, timestamp_ms: int) -> None:
        """A frame of the caller: mu-law, 160 bytes as a rule."""
        now_s = self.clock()
        self._frames_in += 1
        if self._recorder is not None:
            self._recorder.caller(SILENT_CODE * len(codes) if now_s < self._secret_until_s else codes, now_s)
        self._samples_in += len(codes)
        if self._last_frame_s is not None:
            self._uplink_gap.add(now_s, now_s - self._last_frame_s)
        self._last_frame_s = now_s
        # The carrier's clock and ours differ by an unknown constant: the call's own best frame is the zero.
        offset_s = now_s - timestamp_ms / 1000
        if self._delay_floor_s is None or offset_s < self._delay_floor_s:
            self._delay_floor_s = offset_s
        self._relative_delay.add(now_s, offset_s - self._delay_floor_s)
        if len(codes) == FRAME and not self._undetected:
            samples = mulaw.decode(codes)
            self._detect(samples, now_s)
            self._uplink(self._up.push(samples), now_s)
            return
        self._undetected += codes
        while len(self._undetected) >= FRAME:
            frame, self._undetected = self._undetected[:FRAME], self._undetected[FRAME:]
            self._detect(mulaw.decode(frame), now_s)
        self._uplink(self._up.push(mulaw.decode(codes)), now_s)

    def _detect(self, samples: NDArray[np.int16], now_s: float) -> None:
        self._came_s.append(now_s)
        edge = self._detector.push(samples, self._heard_level_dbov(now_s))
        if edge is None:
            return
        # Back-dated to when that frame came, not by the length of the audio since: frames come late and in bunches.
        frames_ago = (edge.decided_sample - edge.sample) // FRAME
        if edge.speaking:
            came_s = self._came_s[-min(max(frames_ago, 1), len(self._came_s))]
            self.feed(e.CallerSpeechStarted(now_s, came_s - FRAME / 8000))
        else:
            self.feed(e.CallerSpeechEnded(now_s, self._came_s[-min(frames_ago + 1, len(self._came_s))]))

    def _uplink(self, pcm: bytes, received_s: float) -> None:
        if self._muted or received_s < self._secret_until_s:
            pcm = bytes(len(pcm))
        if self._policy.local_turns and not self._activity:
            self._pre_roll.append(pcm)
        else:
            self._link.send_audio(pcm, received_s)

    def _heard_level_dbov(self, now_s: float) -> float:
        """The level of the agent's frame that the caller is hearing now, by the ledger."""
        ledger = self._state.ledger
        if not ledger.replies:
            return NOTHING_DBOV
        position = lg.line_heard(ledger, now_s)
        if position >= ledger.queued_to:
            return NOTHING_DBOV
        for reply in ledger.replies:
            sample = position - reply.base
            if 0 <= sample < reply.placed:
                return self._playout.level_dbov(reply.generation, sample)
        return NOTHING_DBOV

    def digit(self, digit: str) -> None:
        """The caller pressed a key."""
        self.feed(e.DigitPressed(self.clock()))
        if self._keys is None:
            self._link.tell(f"The caller pressed the key {digit}.")
        elif not self._keys.full():
            self._keys.put_nowait(digit)

    def mark(self, name: str) -> None:
        """A mark came back."""
        now_s = self.clock()
        self.marks_outstanding = max(0, self.marks_outstanding - 1)
        mark = messages.parse_mark(name)
        if isinstance(mark, messages.ReplyMark):
            self.feed(e.MarkReturned(now_s, mark.generation, mark.sample, mark.epoch))
        elif isinstance(mark, messages.ClearMark):
            self.feed(e.ClearAcknowledged(now_s, mark.epoch))
        else:
            self._metrics.input_errors_total.inc("carrier", "unknown_mark")

    # --- the model's audio: a chunk down (ModelSink)

    def model_event(self, event: e.Event) -> None:
        if isinstance(event, (e.ReplyComplete, e.TurnComplete)):
            self._reply_audio(event.generation, *self._playout.finish(event.generation))
        elif isinstance(event, e.ModelReady):
            self._metrics.model_sessions_total.inc("ready")
            if self._was_ready:
                self._metrics.model_reconnects_total.inc("resumed" if event.resumed else "fresh")
            self._was_ready = True
            self._model_session += not event.resumed
        elif isinstance(event, e.ModelFailed):
            if self._was_ready:
                self._metrics.model_reconnects_total.inc("failed")
            self.timeline.error("the model could not be reached")
        self.feed(event)
        if self._last_words and isinstance(event, e.TurnComplete) and event.generation > self._last_words[1]:
            self.stop(self._last_words[0])

    def model_audio(self, generation: int, pcm: bytes) -> None:
        if generation <= self._state.dead or self._state.phase is Phase.ENDED:
            self._metrics.frames_dropped_total.inc("stale_generation", by=len(pcm) / 960)
            return
        self._reply_audio(generation, *self._playout.push_pcm(generation, pcm))

    def _reply_audio(self, generation: int, samples: int, audible: int | None, protected: bool = False) -> None:
        if not samples:
            return
        if self._protect_next and self._protected == 0:
            self._protect_next, self._protected = False, generation
        protected = protected or generation == self._protected
        self.feed(e.ReplyAudio(self.clock(), generation, samples, audible, protected))

    def model_text(self, generation: int, text: str) -> None:
        self.timeline.reply_text(generation, text)

    def caller_text(self, text: str, finished: bool) -> None:
        self.timeline.caller_text(text, finished, self.clock())
        self.feed(e.CallerTranscribed(self.clock()))

    def model_tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        now_s = self.clock()
        tool = self._tools.get(name)
        self._requests[call_id] = ToolCall(
            call_id=call_id,
            name=name,
            arguments=arguments,
            idempotency_key=f"{self.facts.call_sid}:{self._model_session}:{call_id}",
            facts={
                "call_sid": self.facts.call_sid,
                "caller": self.facts.caller,
                "dialled": self.facts.dialled,
                "direction": self.facts.direction,
                "simulated": self.facts.simulated,
                "effects": self.facts.effects,
                "variables": {**self.agent.variables, **self.facts.parameters},
            },
        )
        self.timeline.tool_started(call_id, self._masked(name), self._shown(arguments), now_s)
        if tool is None:
            self.feed(e.ToolRequested(now_s, call_id))
            return
        filler_s = tool.filler_after_ms / 1000 if tool.filler else None
        limit_s = tool.timeout_s + TOOL_GRACE_S
        self.feed(e.ToolRequested(now_s, call_id, tool.on_barge_in, tool.silent, filler_s, limit_s))

    def model_usage(self, usage: dict[str, int]) -> None:
        self._metrics.tokens_total.inc("input", by=usage.get("promptTokenCount", 0))
        self._metrics.tokens_total.inc("output", by=usage.get("responseTokenCount", 0))
        for name, count in usage.items():
            self.record.usage[name] = self.record.usage.get(name, 0) + count
        if self._prices is not None:
            self._spend(cost(usage, self._prices))

    def _spend(self, usd: float) -> None:
        """The limit is not the last word: the caller is told first, and hears it, even where one turn leaps over."""
        spent = self.record.usage["cost_usd"] = self.record.usage.get("cost_usd", 0.0) + usd
        limit = self.agent.limits.cost
        if limit is None:
            return
        if not self._cost_warned and spent >= COST_WARNING * limit:
            self._cost_warned = True
            self.feed(e.TimeWarning(self.clock()))
        elif self._cost_warned and spent >= limit:
            self.feed(e.EndRequested(self.clock(), Ending.COST_LIMIT))

    def model_segment(self, name: str, seconds: float) -> None:
        if name == "uplink_forward":  # of every frame
            self._uplink_forward.add(self.clock(), seconds)
            return
        self.timeline.model_segment(name, seconds)

    def next_generation(self) -> int:
        self._generation += 1
        return self._generation

    # --- what a tool may ask (ToolHost)

    def say(self, text: str) -> None:
        self._link.ask(f"Say this to the caller now, word for word: {text}")

    def remember(self, key: str, value: str) -> None:
        self.remembered[key] = value

    def end_call(self, reason: str, call_id: str) -> None:
        self.feed(e.EndRequested(self.clock(), Ending.AGENT_HUNG_UP, call_id))

    @contextmanager
    def keys(self, *, secret: bool) -> Iterator[asyncio.Queue[str]]:
        if self._keys is not None:
            raise ToolError("The caller is entering something already.", "two tools wait for keys")
        self._keys = asyncio.Queue(KEYS_MAX)
        if secret:
            self._secret_until_s = inf
        try:
            yield self._keys
        finally:
            self._keys = None
            if secret:
                self._secret_until_s = self.clock() + LAST_TONE_S

    def take_message(self, recipient: str, text: str) -> None:
        at_ms = self.timeline.call_ms(self.clock())
        self.record.messages.append(
            MessageRecord(at_ms=at_ms, recipient=self._masked(recipient), text=self._masked(text))
        )

    def afterwards(self, call: ToolCall, state: Afterwards, what: Any) -> None:
        told = "" if what is None else msgspec.json.encode(self._shown(what)).decode()
        self.timeline.tool_afterwards(call.call_id, state.value, told)
        log.warning("call %s: tool %s was given up, %s: %s", self.facts.call_sid, call.name, state.value, told)

    def _masked(self, value: Any) -> Any:
        return self._runner.redactor.value(value)

    def _shown(self, value: Any) -> Any:
        """A tool's arguments or answer as the record may show it: of bounded length, without secrets."""
        # Cut twice: half a secret at the first cut would not be known as one.
        return clipped(self._masked(clipped(value, 2 * SHOWN_BYTES)[0]), SHOWN_BYTES)[0]

    def transfer(self, target: str, call_id: str, *, whisper: str = "", warm: bool = False) -> None:
        self.transfer_to = Transfer(target, whisper, warm)
        self.feed(e.EndRequested(self.clock(), Ending.TRANSFERRED, call_id))

    def send_digits(self, digits: str) -> bool:
        if self.on_digits is None or not self.attached:
            return False
        self.on_digits(digits)
        return True

    # --- carrying out commands: playout

    def _put(self, message: str, command: c.Command) -> None:
        self._outbox.append((message, command))
        self._outbox_bytes += len(message)
        self._outbox_ready.set()
        if self._outbox_bytes > OUTBOX_MAX_BYTES and self._state.phase is not Phase.ENDED:
            self.timeline.error("the carrier stopped reading")
            self._events.append(e.StreamLost(self.clock()))

    def _play(self, command: c.Play | c.Replay) -> None:
        codes = self._playout.span(command.generation, command.from_sample, command.to_sample)
        if isinstance(command, c.Replay):
            codes = fade_in(codes)
        if self._outbound is not None and codes:
            self._put(self._outbound.media(codes), command)

    def _send_mark(self, command: c.SendMark) -> None:
        if self._outbound is not None:
            name = messages.reply_mark(command.generation, command.sample, command.epoch)
            self._put(self._outbound.mark(name), command)

    def _clear(self, command: c.Clear) -> None:
        # What has not left yet must not follow the clear.
        self._outbox.clear()
        self._outbox_bytes = 0
        if self._outbound is not None:
            self._put(self._outbound.clear, command)
            self._put(self._outbound.mark(messages.clear_mark(command.epoch)), command)

    def _drop(self, command: c.Drop) -> None:
        self._playout.drop(command.generation)
        self._cleared_below = max(self._cleared_below, command.generation)

    async def _send(self) -> None:
        """Empties the outbox into the carrier's socket; what a clear removed is never sent."""
        while True:
            while self._outbox:
                message, command = self._outbox.popleft()
                self._outbox_bytes -= len(message)
                if self._socket is None:
                    continue
                try:
                    await self._socket.send_str(message)
                except (ConnectionError, RuntimeError):
                    continue  # the stream is gone: whoever reads it tells, and another may come
                self._sent(command)
            self._outbox_ready.clear()
            await self._outbox_ready.wait()

    def _sent(self, command: c.Command) -> None:
        if isinstance(command, (c.Play, c.Replay)):
            samples = command.to_sample - command.from_sample
            self.record.audio_out_ms += samples / 8
            self._metrics.frames_out.inc(samples / FRAME)
            self.timeline.sent(command, self.clock())
            if command.generation <= self._cleared_below:
                self.record.samples_after_clear += samples
                self._metrics.samples_after_clear_total.inc(samples)
        elif isinstance(command, c.SendMark):
            self.marks_outstanding += 1
        elif isinstance(command, c.Clear):
            if self._outbox and self._outbox[0][1] is command:
                self.timeline.clear_sent(self.clock())  # its mark follows
            else:
                self.marks_outstanding += 1

    def _play_sound(self, name: str, kind: str, protected: bool = False) -> None:
        codes = self._sounds.get(name, b"")
        generation = self.next_generation()
        self.timeline.sound_reply(generation, kind)
        samples, audible = self._playout.push_codes(generation, codes)
        rest, audible_later = self._playout.finish(generation)
        now_s = self.clock()
        if samples + rest:
            audible = audible if audible is not None else audible_later
            self._events.append(e.ReplyAudio(now_s, generation, samples + rest, audible, protected))
        self._events.append(e.ReplyComplete(now_s, generation))

    def _play_filler(self, command: c.PlayFiller) -> None:
        request = self._requests.get(command.call_id)
        tool = self._tools.get(request.name) if request else None
        if tool is None or not tool.filler:
            return
        if line := filler_line(tool.filler):
            self.say(line)
        else:
            self._play_sound(tool.filler, "filler")

    def _mute(self, command: c.MuteCaller) -> None:
        self._muted = command.muted

    # --- carrying out commands: the model

    def _ask(self, command: c.AskModel) -> None:
        agent = self.agent
        texts = {
            c.Prompt.GREETING: agent.greeting.text,
            c.Prompt.NUDGE: "The caller is waiting for your answer. Answer now.",
            c.Prompt.GO_ON: "Your last words broke off. Say the rest of them now, and nothing that was already said.",
            c.Prompt.IDLE: agent.idle.prompt,
            c.Prompt.IDLE_GOODBYE: agent.idle.goodbye,
            c.Prompt.TIME_WARNING: agent.limits.warning,
        }
        self._link.ask(texts[command.prompt])

    def _tell_heard(self, command: c.TellHeard) -> None:
        said = self.timeline.heard_text(command.generation, command.heard)
        if said is None:
            return
        told = (
            f'The caller interrupted you and heard only: "{said}"'
            if said
            else ("The caller interrupted you before hearing any of your last words.")
        )
        if self.agent.repair.mode == "ask":
            told += " If what they missed matters, ask whether you should repeat it."
        self._link.tell(told)

    def _activity_start(self, command: c.ActivityStart) -> None:
        self._activity = True
        self._link.activity_start()
        while self._pre_roll:
            self._link.send_audio(self._pre_roll.popleft(), 0.0)

    def _activity_end(self, command: c.ActivityEnd) -> None:
        self._activity = False
        self._link.activity_end()

    # --- carrying out commands: tools

    def _run_tool(self, command: c.RunTool) -> None:
        self._runner.start(self._requests[command.call_id])

    def _cancel_tool(self, command: c.CancelTool) -> None:
        self._runner.cancel(command.call_id)
        self._link.cancel_tool(command.call_id)
        self._requests.pop(command.call_id, None)

    def _tool_finished(self, call: ToolCall, result: ToolResult) -> None:
        self._results[call.call_id] = result
        if result.failure:
            self._metrics.tool_failures_total.inc(result.failure)
        self.timeline.tool_told(call.call_id, msgspec.json.encode(self._shown(result.response)).decode(), result.record)
        if result.record:
            self.timeline.error(f"tool {self._masked(call.name)}: {result.record}")
        self.feed(e.ToolFinished(self.clock(), call.call_id, result.outcome))

    def _answer_tool(self, command: c.AnswerTool) -> None:
        request, result = self._requests.pop(command.call_id, None), self._results.pop(command.call_id, None)
        if request is None or result is None:
            return
        if command.scheduling is not None:
            self._link.answer_tool(command.call_id, request.name, result.response, command.scheduling)
            return
        # The model took the call back, and it ran to its end all the same: who knows nothing of it does it again.
        said = msgspec.json.encode(result.response).decode()[:TOLD_MAX]
        self._link.tell(f"The tool {request.name} was called off too late: it ran to its end. Its result: {said}")

    # --- carrying out commands: time and the end

    def _set_timer(self, command: c.SetTimer) -> None:
        running = self._timers.get(command.event)
        if running is not None:
            running.cancel()
        delay_s = max(0.0, command.at_s - self.clock())
        self._timers[command.event] = self._loop.call_later(delay_s, self._fire, command.event)

    def _stop_timer(self, command: c.StopTimer) -> None:
        running = self._timers.pop(command.event, None)
        if running is not None:
            running.cancel()

    def _fire(self, event: type[e.Event]) -> None:
        del self._timers[event]
        # Without a stream nothing plays, and the caller cannot answer.
        if self._parted_s is not None and event in (e.PlayoutTimeout, e.IdleTimeout):
            self._set_timer(c.SetTimer(event, self.clock() + PLAYOUT_GRACE_S))
            return
        if event is e.ModelSilent and any(not tool.withdrawn for tool in self._state.tools):
            self._stuck("a tool did not end in its time")
        elif event is e.ConnectTimeout and self._was_ready and self._state.link is Link.DOWN:
            self._stuck("the model's link neither came back nor gave up")
        self.feed(event(self.clock()))

    def _stuck(self, what: str) -> None:
        """A part has bounds of its own and did not keep them; the call goes on without it."""
        self._metrics.stuck_calls_total.inc()
        self.timeline.error(what)
        log.error("call %s: %s", self.facts.call_sid, what)

    def _end(self, command: c.End) -> None:
        if self.ending is None:
            self.ending = command.ending
            self._over.set()
