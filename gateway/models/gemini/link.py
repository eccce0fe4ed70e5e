"""One call's link to Gemini Live, across as many connections as the call takes.

One task reads and never waits; caller audio is sent on the spot or by one writer from the outbox, which also bridges
the gap between two connections. The decisions are made in `recovery` (how a lost connection is replaced) and `turns`
(which turn a message belongs to); here they are carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from google.genai import errors as genai_errors
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException

from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import (
    GoAway,
    ModelDown,
    ModelFailed,
    ModelInterrupted,
    ModelReady,
    ReplyComplete,
    ToolWithdrawn,
    TurnComplete,
)
from offhook.gateway.errors import Malformed, ModelRefused, cancelled_from_outside
from offhook.gateway.models import CallBrief, LinkCan, LinkCount, LinkMemory, ModelSink, Speaker
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini.audio import CallerAudio, Upsampling
from offhook.gateway.models.gemini.outbox import Outbox
from offhook.gateway.models.gemini.recovery import (
    PATIENCE,
    Cause,
    Connect,
    GiveUp,
    Patience,
    Tried,
    cause_of,
    next_step,
)
from offhook.gateway.models.gemini.setup import (
    config_hash,
    instruction,
    live_config,
    model_name,
    model_of,
    scheduling_for,
    with_time,
)
from offhook.gateway.models.gemini.story import CallSoFar
from offhook.gateway.models.gemini.turns import Turns, broke_off
from offhook.gateway.models.gemini.wire import AnySession, Connector
from offhook.gateway.models.reconnecting import keep_connected, pause
from offhook.media.formats import PCM16_24K, Converter

__all__ = ["CAN", "SESSION_RESULTS", "GeminiLink", "KeptHandle"]

log = logging.getLogger(__name__)

CAN = LinkCan(
    resumes=True,
    withdraws_tools=True,
    cancels_replies=False,
    truncates=False,
    full_duplex=False,
    session_limit_s=None,  # with compression; its connections end at about 600 s and are resumed
    pictures_per_s=1.0,  # the rate of its video input (Live API: limits and specifications)
)
FAULTS_MAX = 50  # lines kept for the call's record
RENEW_WITHIN_S = 300.0  # not urgent: the next quiet moment will do
HANDLE_WAIT_S = 1.0  # a rotation waits this long for a handle newer than the last turn
SESSION_RESULTS = {0: "timeout", 1006: "unreachable"}  # of a connection attempt, by code; any other is a refusal
# The model mostly takes a call back by itself when the caller interrupts; a result that crosses that is a fault.
CANCELLED_AFTER_S = 1.0
# Without any result the model waits on, and while it does the service gives no newer resumption handle.
CANCELLED = {
    "status": "cancelled",
    "message": "This was stopped, as the caller interrupted; whether any of it was done is not known. "
    "Do not speak of it. Call again only if the caller still wants it.",
    "retryable": True,
}


@dataclass(frozen=True, slots=True)
class KeptHandle:
    """A resumption handle: its age, what it belongs to, and the tool calls that were open when it was given."""

    value: str = field(repr=False)
    at_s: float
    config_hash: str
    calls: frozenset[str] = frozenset()


class GeminiLink:
    """One call's link to the model: `offhook.gateway.models.ModelLink`."""

    can = CAN

    def __init__(
        self,
        connector: Connector,
        brief: CallBrief,
        sink: ModelSink,
        patience: Patience = PATIENCE,
        upsampling: Upsampling | None = None,
    ) -> None:
        """`upsampling`: that of the process; None for one of the link's own."""
        self._connector, self._brief, self._sink, self._patience = connector, brief, sink, patience
        self._agent, self._clock = brief.agent, brief.clock
        self._tools = {tool.name: tool for tool in brief.tools}
        self._hash = config_hash(brief.agent, brief.tools)
        self.faults: deque[str] = deque(maxlen=FAULTS_MAX)
        self._outbox = Outbox(
            sink,
            brief.clock,
            wanted=self._is_wanted,
            sent=self._urgent_sent,
            stalled=lambda: self._leave_for(Cause.STUCK),
        )
        self._caller = CallerAudio(brief.formats.caller)
        self._upsampling = upsampling or Upsampling()
        self.flush_audio, self.send_audio = self._upsampling.flush, self._outbox.audio  # 50 a second of each
        self._reply = Converter(PCM16_24K, brief.formats.agent)
        # connection
        self._connected = False
        self._socket: AnySession | None = None
        self._leave: asyncio.Future[Cause] | None = None
        self._setup: asyncio.Timeout | None = None
        self._lost_s: float | None = None
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        self._tried = Tried()
        self._bare = False
        self._resumable = False
        self._handle: KeptHandle | None = None
        self._newer_handle = asyncio.Event()
        # conversation
        self._so_far = CallSoFar(brief.agent.model.keep_turns)
        self._turns = Turns()
        self._calls: dict[str, str] = {}  # open on this session: id -> name
        self._names: dict[str, str] = {}  # of those that were open when the handle was given
        self._calls_received = 0
        self._cancelled: dict[str, asyncio.TimerHandle] = {}  # of those: stopped here, not yet reported to the model
        self._characters = 0  # of the open turn's transcript
        self._spoken_bytes = 0  # of its audio, PCM16 at 24 kHz
        self._turns_complete = 0  # on this session and those it was resumed from
        self._renewing = False  # the next rotation is to a fresh session
        if brief.memory is not None:
            self._restore(brief.memory)
        self._act: dict[type, Callable[[Any, float], None]] = {
            wire.Audio: self._on_audio,
            wire.OtherPart: self._on_other_part,
            wire.ModelText: self._on_model_text,
            wire.CallerText: self._on_caller_text,
            wire.FunctionCall: self._on_function_call,
            wire.CallsCancelled: self._on_calls_cancelled,
            wire.GenerationComplete: self._on_generation_complete,
            wire.Interrupted: self._on_interrupted,
            wire.TurnEnd: self._on_turn_end,
            wire.ClosingSoon: self._on_closing_soon,
            wire.Handle: self._on_handle,
            wire.TokenCounts: self._on_token_counts,
            wire.Skipped: self._on_skipped,
            wire.SetupComplete: lambda value, at_s: None,
        }

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def handle(self) -> KeptHandle | None:
        """The newest handle, with which this conversation can be resumed."""
        return self._handle

    def memory(self) -> LinkMemory:
        memory, handle = self._so_far.kept(), self._handle
        memory.calls_received = self._calls_received
        if handle is not None:
            memory.handle, memory.config = handle.value, handle.config_hash
            memory.handle_age_s = self._clock() - handle.at_s
            memory.calls = {call_id: self._names.get(call_id, "") for call_id in handle.calls}
        return memory

    def _restore(self, memory: LinkMemory) -> None:
        self._so_far.restore(memory)
        self._calls_received = memory.calls_received
        if memory.handle:
            at_s = self._clock() - memory.handle_age_s
            self._handle = KeptHandle(memory.handle, at_s, memory.config, frozenset(memory.calls))
            self._calls = dict(memory.calls)
            self._names = dict(memory.calls)

    def round_trip_s(self) -> float | None:
        return self._socket.round_trip_s() if self._socket is not None and self._connected else None

    # --- from the call

    def caller_audio(self, codes: bytes, samples: NDArray[np.int16], received_s: float) -> None:
        if self._caller.up is not None:
            self._upsampling.submit(self._caller.up, samples, self, received_s)
            return
        try:
            self._outbox.audio(self._caller.push(codes, samples), received_s)
        except Exception as error:  # must not reach the carrier's reader
            self.audio_failed(error)

    def audio_failed(self, error: Exception) -> None:
        self._failed("link_writer", error)

    def picture(self, jpeg: bytes) -> None:
        self._outbox.picture(wire.Picture(jpeg))

    def turn_started(self) -> None:
        self._upsampling.flush()
        self._caller.reset()  # between two turns no audio was sent
        self._outbox.in_stream(wire.ActivityStart())

    def turn_ended(self) -> None:
        self._upsampling.flush()
        self._outbox.in_stream(wire.ActivityEnd())

    def prompt(self, text: str) -> None:
        self._outbox.urgent(wire.Text(text))

    def note(self, text: str) -> None:
        """Omitted where it would close the session (`content_any_time`)."""
        if model_of(model_name(self._agent)).content_any_time:
            self._outbox.urgent(wire.Context(text))
        else:
            self._sink.count(LinkCount.NOTE_OMITTED)

    def heard(self, turn: int, samples: int, note: str | None) -> None:
        """The service keeps the whole reply in its context: only the note corrects it."""
        if note:
            self.note(note)

    def cancel_reply(self, turn: int) -> None:
        """No message of the protocol stops a reply; its audio is dropped by the call."""

    def tool_result(self, call_id: str, name: str, response: dict[str, Any], speak: Speak) -> None:
        declared = self._calls.get(call_id, name)
        scheduling = scheduling_for(self._tools.get(declared), model_name(self._agent), speak)
        self._outbox.urgent(wire.FunctionResponse(call_id, declared, response, scheduling))

    def tool_cancelled(self, call_id: str) -> None:
        """The model is sent a silent result, unless it takes the call back within `CANCELLED_AFTER_S`."""
        if call_id in self._calls and call_id not in self._cancelled:
            later = asyncio.get_running_loop().call_later
            self._cancelled[call_id] = later(CANCELLED_AFTER_S, self._safely, self._report_cancelled, call_id)

    def rotate(self) -> None:
        """Change connections with the handle; waits up to `HANDLE_WAIT_S` for one newer than the last turn."""
        for call_id in list(self._cancelled):
            self._report_cancelled(call_id)  # or there would be no newer handle
        self._leave_for(Cause.ROTATION)

    def reconnect(self) -> None:
        self._leave_for(Cause.STUCK)

    async def close(self) -> None:
        """End the session with 1000 and wait until nothing of it is left."""
        self._closing.set()
        for timer in self._cancelled.values():
            timer.cancel()
        self._cancelled.clear()
        self._leave_for(Cause.ROTATION)
        self._newer_handle.set()  # a rotation in progress stops waiting
        if self._setup is not None:
            with contextlib.suppress(RuntimeError):  # over, or not yet begun
                self._setup.reschedule(0.0)
        if self._running:
            await self._ended.wait()
        self._outbox.close()
        self._act.clear()  # they hold this link

    # --- open tool calls

    def _report_cancelled(self, call_id: str) -> None:
        self._cancelled.pop(call_id).cancel()
        self.tool_result(call_id, "", CANCELLED, Speak.SILENT)

    def _forget_call(self, call_id: str) -> bool:
        """Whether it was open."""
        if call_id in self._cancelled:
            self._cancelled.pop(call_id).cancel()
        return self._calls.pop(call_id, None) is not None

    def _is_wanted(self, message: wire.Outgoing) -> bool:
        """False for the result of a call that this session does not have open."""
        if isinstance(message, wire.FunctionResponse) and message.call_id not in self._calls:
            self._sink.count(LinkCount.RESULT_DROPPED)
            return False
        return True

    def _urgent_sent(self, message: wire.Outgoing) -> None:
        if isinstance(message, wire.FunctionResponse):
            self._calls.pop(message.call_id, None)

    # --- connections

    async def run(self) -> None:
        """Connect and read until `close`; every end is reported to the sink as an event, none is raised.

        An exception of our own or of the sink's counts as a lost connection.
        """
        self._running = True
        try:
            await keep_connected(
                self._connect,
                Cause.START,
                Cause.STUCK,
                closing=self._closing,
                failed=self._failed,
                give_up=self._give_up,
            )
        finally:
            self._running = False
            self._ended.set()

    def _give_up(self, why: str) -> None:
        self._fault(f"gave up: {why}")
        self._sink.event(ModelFailed(self._clock()))

    async def _connect(self, cause: Cause) -> Cause | None:
        """One connection, from the decision how to its end: why it ended, or None when the link is over."""
        handle = None if self._renewing and cause is Cause.ROTATION else self._usable_handle()
        now_s = self._clock()
        self._tried, step = next_step(self._tried, cause, now_s, has_handle=handle is not None, patience=self._patience)
        if isinstance(step, GiveUp):
            self._give_up(step.why)
            return None
        await pause(step.after_s, self._closing)
        if self._closing.is_set():
            return None
        left_s = max(self._tried.since_s + self._patience.total_s - self._clock(), 1.0)
        ready_s, ended = await self._session(step, handle, left_s)
        if ready_s is not None:
            # It was up: this loss is a new trouble, unless it follows shortly on another.
            lived_s = self._clock() - ready_s
            if Cause.ROTATION in (ended, cause) or cause is Cause.START or lived_s >= self._patience.stable_s:
                self._tried = Tried()
            else:
                self._tried = replace(self._tried, last=None)
        return ended

    async def _session(self, step: Connect, handle: KeptHandle | None, left_s: float) -> tuple[float | None, Cause]:
        """One connection from setup to its end: (when it was ready, or None; why it ended)."""
        agent, brief = self._agent, self._brief
        began_s = self._clock()
        self._bare = self._bare or step.bare
        resumed = handle if step.resume else None
        if resumed is None:
            self._handle = None
        variables = with_time(agent, brief.variables, datetime.now().astimezone())
        so_far = self._so_far.begin_session(resumed=resumed is not None)
        config = live_config(
            agent,
            self._tools.values(),
            instruction(agent, variables, brief.facts, so_far),
            handle=resumed.value if resumed else "",
            resumption=not self._bare,
        )
        self._setup = asyncio.timeout(min(agent.model.setup_timeout_s, left_s))
        try:
            async with self._connector.session(model_name(agent), config, self._setup) as socket:
                ready_s = self._clock()
                if self._lost_s is None:
                    self._sink.segment("model_setup", ready_s - began_s)
                else:
                    self._sink.segment("model_reconnect_gap", ready_s - self._lost_s)
                return ready_s, await self._exchange(socket, resumed, ready_s)
        except ModelRefused as refused:
            if not self._closing.is_set():
                self._fault(f"no session: {refused.code} {refused.reason}")
                self._sink.count(LinkCount.SESSION_FAILED, reason=SESSION_RESULTS.get(refused.code, "refused"))
            return None, cause_of(refused.code, refused.reason)

    def _session_up(self, resumed: KeptHandle | None, at_s: float) -> None:
        """Bring the open calls and the outbox in line with this session; then report it."""
        self._connected = True
        self._resumable = False
        self._newer_handle.clear()
        if resumed is None:
            self._turns_complete, self._renewing = 0, False
        known = resumed.calls if resumed else frozenset()
        for call_id in [i for i in self._calls if i not in known]:
            # This session did not request it, or does not remember: a result would be an error.
            self._forget_call(call_id)
            self._sink.event(ToolWithdrawn(at_s, call_id))
        self._outbox.connected()
        self._sink.event(ModelReady(at_s, resumed=bool(resumed or self._so_far.given)))

    async def _exchange(self, socket: AnySession, resumed: KeptHandle | None, ready_s: float) -> Cause:
        """Read and write until the connection ends or is to be left; then close it and report that."""
        loop = asyncio.get_running_loop()
        self._leave = loop.create_future()
        if self._closing.is_set():
            return Cause.ROTATION
        self._socket = socket
        advice = loop.call_later(self._patience.advise_rotation_s, self._safely, self._advise_rotation)
        tasks: list[asyncio.Future[Any]] = []
        cause: Cause | None = None
        try:
            self._session_up(resumed, ready_s)
            reader = loop.create_task(self._owned("link_reader", self._read(socket)), name="gemini-reader")
            writer = loop.create_task(self._owned("link_writer", self._outbox.write(socket)), name="gemini-writer")
            tasks += (reader, writer)
            await asyncio.wait([*tasks, self._leave], return_when=asyncio.FIRST_COMPLETED)
            if self._leave.done():
                cause = self._leave.result()
                if cause is Cause.ROTATION and not (self._closing.is_set() or self._renewing):
                    await self._await_newer_handle(reader)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                self._closing.set()
            raise
        finally:
            self._safely(self._outbox.send_held)
            self._connected = False
            self._lost_s = self._clock()
            advice.cancel()
            for task in tasks[1:]:
                task.cancel()
            self._turns = self._turns.lost()
            self._safely(self._drop_tail)
            if not self._closing.is_set():
                self._safely(self._sink.event, ModelDown(self._lost_s))
            if cause is Cause.STUCK:
                socket.abort()
            # The reader continues and ignores what it reads, so that the peer's close is found after it.
            await socket.close()
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        return cause or self._cause_from(ends)

    async def _owned(self, part: str, work: Awaitable[None]) -> None:
        """The reader's or the writer's task: an exception that is not the network's is reported at once, and the
        connection left.
        """
        try:
            await work
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            self._failed(part, error)
        except (genai_errors.APIError, WebSocketException, OSError):
            raise  # the connection is lost
        except Exception as error:
            self._failed(part, error)

    def _failed(self, part: str, error: BaseException) -> None:
        """An exception of our own, or of the sink's: the connection, if there is one, is replaced at once."""
        self._sink.task_failed(part, error)
        self._leave_for(Cause.STUCK)

    def _safely(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            self._failed("link", error)

    def _cause_from(self, ends: Iterable[BaseException | None]) -> Cause:
        """The cause out of what reader and writer raised; the reader's comes first, as it has the close code."""
        for error in ends:
            if isinstance(error, Exception):
                lost = self._connector.translated(error)
                self._fault(f"connection lost: {lost.code} {lost.reason}")
                cause = cause_of(lost.code, lost.reason)
                if cause is Cause.TOO_BIG:
                    self._sink.count(LinkCount.MALFORMED, reason="too_large")
                return cause
        return Cause.NETWORK

    async def _await_newer_handle(self, reader: asyncio.Task[None]) -> None:
        if self._resumable or self._handle is None:
            return
        self._newer_handle.clear()
        waiting = asyncio.ensure_future(self._newer_handle.wait())
        await asyncio.wait((waiting, reader), timeout=HANDLE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _read(self, socket: AnySession) -> None:
        receive, act, clock = socket.receive, self._act, self._clock
        while True:
            try:
                values = await receive()
            except Malformed as malformed:
                self._sink.count(LinkCount.MALFORMED, reason=malformed.reason)
                continue
            if not self._connected:
                continue  # this connection is being closed
            at_s = clock()
            for value in values:
                act[type(value)](value, at_s)

    def _leave_for(self, cause: Cause) -> None:
        """End the present connection."""
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(cause)

    def _advise_rotation(self) -> None:
        """The connection is near the age at which the service has been seen to end it without notice."""
        if self._connected:
            self._sink.event(GoAway(self._clock(), self._patience.advised_time_left_s))

    def _usable_handle(self) -> KeptHandle | None:
        kept = self._handle
        if kept is None or self._bare or kept.config_hash != self._hash:
            return None
        return kept if self._clock() - kept.at_s < self._patience.handle_lives_s else None

    def _fault(self, what: str) -> None:
        if self._handle is not None:
            what = what.replace(self._handle.value, "***")
        self.faults.append(what)
        log.warning("model link: %s", what)

    # --- from the model

    def _open_turn(self) -> int:
        if not self._turns.open:
            self._turns = self._turns.begun(self._sink.next_turn())
            self._characters = self._spoken_bytes = 0
            self._outbox.answered()
        return self._turns.generation

    def _on_audio(self, value: wire.Audio, at_s: float) -> None:
        turn = self._open_turn()
        self._spoken_bytes += len(value.pcm)
        if codes := self._reply.push(value.pcm):
            self._sink.reply_audio(turn, codes)

    def _drop_tail(self) -> None:
        self._reply.flush()

    def _flush_audio(self, turn: int) -> None:
        if codes := self._reply.flush():
            self._sink.reply_audio(turn, codes)

    def _on_other_part(self, value: wire.OtherPart, at_s: float) -> None:
        self._open_turn()

    def _on_model_text(self, value: wire.ModelText, at_s: float) -> None:
        turn = self._open_turn()
        self._characters += len(value.text)
        self._so_far.agent_words(value.text)
        self._sink.words(Speaker.AGENT, turn, value.text, False)

    def _on_caller_text(self, value: wire.CallerText, at_s: float) -> None:
        if self._so_far.caller_words(value.text):
            self._sink.words(Speaker.CALLER, None, value.text, value.finished)
        else:
            self._sink.count(LinkCount.REPEATED)  # the service has been seen to send one twice

    def _on_function_call(self, value: wire.FunctionCall, at_s: float) -> None:
        self._open_turn()
        self._calls_received += 1
        call_id = value.call_id or f"{wire.UNNAMED}{self._calls_received}"
        if call_id in self._calls:
            self._sink.count(LinkCount.REPEATED)
            return
        self._calls[call_id] = value.name
        self._sink.tool_call(call_id, value.name, value.arguments)

    def _on_calls_cancelled(self, value: wire.CallsCancelled, at_s: float) -> None:
        for call_id in value.call_ids:
            if self._forget_call(call_id):
                self._sink.event(ToolWithdrawn(at_s, call_id))

    def _on_generation_complete(self, value: wire.GenerationComplete, at_s: float) -> None:
        turn = self._open_turn()
        self._flush_audio(turn)
        self._sink.event(ReplyComplete(at_s, turn))

    def _on_interrupted(self, value: wire.Interrupted, at_s: float) -> None:
        self._turns = self._turns.interrupted()
        self._characters = 0  # what was not spoken is due to the caller
        self._drop_tail()
        if self._turns.generation:
            self._sink.event(ModelInterrupted(at_s, self._turns.generation))

    def _on_turn_end(self, value: wire.TurnEnd, at_s: float) -> None:
        turn = self._turns.generation if self._turns.excused else self._open_turn()
        self._flush_audio(turn)
        self._turns = self._turns.ended(value.more)
        if value.reason:
            self.faults.append(f"turn ended: {value.reason[:60]}")
        if value.more:
            return
        audio_s = self._spoken_bytes / (2 * wire.OUTPUT_RATE_HZ)
        cut = not self._calls and broke_off(self._characters, audio_s)
        if cut:
            self._sink.count(LinkCount.TURN_CUT)
            self.faults.append(f"a turn broke off: {self._characters} characters in {audio_s:.1f} s")
        self._sink.event(TurnComplete(at_s, turn, cut))
        self._so_far.turn_ended()
        self._turns_complete += 1
        keep = self._agent.model.keep_turns
        if keep and self._turns_complete >= 2 * keep and not self._renewing:
            self._renewing = True
            self._sink.event(GoAway(at_s, RENEW_WITHIN_S))

    def _on_closing_soon(self, value: wire.ClosingSoon, at_s: float) -> None:
        self._sink.event(GoAway(at_s, value.time_left_s))

    def _on_handle(self, value: wire.Handle, at_s: float) -> None:
        self._resumable = value.resumable
        if value.resumable:
            self._handle = KeptHandle(value.value, at_s, self._hash, frozenset(self._calls))
            self._names = dict(self._calls)
            self._newer_handle.set()
            self._so_far.handle_received()
            self._sink.count(LinkCount.HANDLE)

    def _on_token_counts(self, value: wire.TokenCounts, at_s: float) -> None:
        self._sink.usage(wire.usage_of(value.counts))

    def _on_skipped(self, value: wire.Skipped, at_s: float) -> None:
        self._sink.count(LinkCount.UNKNOWN_FIELD if value.unknown else LinkCount.BAD_FIELD)
        if value.value and (fault := f"{value.where} that cannot be used: {value.value}") not in self.faults:
            self.faults.append(fault)
