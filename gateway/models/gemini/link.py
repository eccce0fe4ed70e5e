"""One call's link to Gemini Live, across as many connections as the call takes.

One task reads and never waits for anybody; caller audio is sent on the spot, or else by one writer from a bounded
outbox that also bridges the gap between two connections. What is decided is decided in `gemini_recovery` (the way
back) and `gemini_turns` (which turn a message belongs to); here it is carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from google.genai import errors as genai_errors
from websockets.exceptions import WebSocketException

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.commands import Scheduling
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
from offhook.gateway.errors import Malformed, ModelRefused
from offhook.gateway.models import ModelSink
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini.recovery import Cause, Connect, GiveUp, Tried, cause_of, next_step
from offhook.gateway.models.gemini.setup import (
    Declared,
    config_hash,
    instruction,
    live_config,
    model_of,
    scheduling_for,
)
from offhook.gateway.models.gemini.turns import Turns, broke_off
from offhook.gateway.models.gemini.wire import SocketWire, Wire

if TYPE_CHECKING:
    from offhook.gateway.models.gemini.client import Models

__all__ = ["UPLINK_MAX_FRAMES", "GeminiLink", "KeptHandle", "said_now"]

log = logging.getLogger(__name__)

UPLINK_MAX_FRAMES = 50  # 1 s: older speech is stale, and flooding a resumed session with it has closed it
URGENT_MAX = 100  # texts and tool results waiting; a call has a handful
FAULTS_MAX = 50  # lines kept for the call's record
STORY_MAX_LINES = 30
STORY_MAX_CHARACTERS = 6_000
SEND_STALL_MAX_S = 5.0  # one message in the socket's hands for so long: nobody reads at the other end
RENEW_WITHIN_S = 300.0  # there is no hurry: the next quiet moment will do
HANDLE_WAIT_S = 1.0  # a rotation waits so long for a handle newer than the last turn
_RESULTS = {0: "timeout", 1006: "unreachable"}  # of a dial, by code; any other is a refusal
SAME_PIECE_MIN_CHARACTERS = 12  # shorter pieces of transcript do repeat in speech
# The model mostly takes a call back by itself when the caller interrupts; an answer that crosses that is a fault.
CANCELLED_AFTER_S = 1.0
# Without any answer the model waits on, and while it does the service gives no newer resumption handle.
CANCELLED = {
    "status": "cancelled",
    "message": "This was stopped, as the caller interrupted; whether any of it was done is not known. "
    "Do not speak of it. Call again only if the caller still wants it.",
    "retryable": True,
}


@dataclass(frozen=True, slots=True)
class KeptHandle:
    """A resumption handle: how old it is, what it belongs to, and the calls the model had open then."""

    value: str = field(repr=False)
    at_s: float
    config_hash: str
    calls: frozenset[str] = frozenset()


class GeminiLink:
    """One call's link to the model: `offhook.gateway.models.ModelLink`.

    `counts` says what was dropped, passed over or done again; `faults` what went wrong, in words, for the
    call's record. Neither holds a secret.
    """

    def __init__(
        self,
        models: Models,
        agent: Agent,
        tools: tuple[Declared, ...],
        sink: ModelSink,
        variables: Mapping[str, str],
        clock: Callable[[], float],
        facts: Mapping[str, str],
    ) -> None:
        self._models, self._agent, self._sink, self._clock = models, agent, sink, clock
        self._tools = {tool.name: tool for tool in tools}
        self._variables, self._facts = variables, facts
        self._patience = models.patience
        self._hash = config_hash(agent, tools)
        self.counts: Counter[str] = Counter()
        self.faults: deque[str] = deque(maxlen=FAULTS_MAX)
        # outbox
        self._urgent: deque[wire.Outgoing] = deque()
        self._stream: deque[tuple[wire.Outgoing, float]] = deque()  # with the time the caller's frame came in
        self._audio_waiting = 0
        self._written = asyncio.Event()  # something to write
        self._sending_since_s = 0.0  # 0: no message is in the socket's hands
        self._direct: Callable[[wire.Outgoing], bool] | None = None  # while the writer has nothing to do but audio
        self._speaking = False  # activityStart is out and its activityEnd is not
        # connection
        self._connected = False
        self._wired: Wire | None = None
        self._leave: asyncio.Future[Cause] | None = None
        self._setup: asyncio.Timeout | None = None
        self._lost_s: float | None = None
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        self._bare = False
        self._resumable = False
        self._handle: KeptHandle | None = None
        self._newer_handle = asyncio.Event()
        # conversation
        self._turns = Turns()
        self._odd = b""
        self._calls: dict[str, str] = {}  # open on this session: id -> name
        self._calls_made = 0
        self._cancelled: dict[str, asyncio.TimerHandle] = {}  # of those, stopped here and not yet said to be
        self._characters = 0  # of the open turn's words
        self._spoken_bytes = 0  # and of its audio
        kept_lines = 2 * agent.model.keep_turns or STORY_MAX_LINES
        self._line_ended = False  # a turn ended: the agent's next words are a line of their own
        self._turns_made = 0  # on this session and those it was resumed from
        self._renewing = False  # the next rotation is to a fresh session
        self._transcript: deque[tuple[str, str]] = deque(maxlen=kept_lines)  # (who, what)
        self._unknown: deque[tuple[str, str]] = deque(maxlen=STORY_MAX_LINES)  # the same since the newest handle
        self._story: tuple[tuple[str, str], ...] = ()  # what this session's instruction tells of the call
        self._act: dict[type, Callable[[Any, float], None]] = {
            wire.Audio: self._on_audio,
            wire.Written: self._on_written,
            wire.ModelText: self._on_model_text,
            wire.CallerText: self._on_caller_text,
            wire.ToolAsked: self._on_tool_asked,
            wire.CallsWithdrawn: self._on_calls_withdrawn,
            wire.GenerationComplete: self._on_generation_complete,
            wire.Interrupted: self._on_interrupted,
            wire.TurnEnd: self._on_turn_end,
            wire.ClosingSoon: self._on_closing_soon,
            wire.Handle: self._on_handle,
            wire.Usage: self._on_usage,
            wire.NotRead: self._on_not_read,
            wire.SetupComplete: lambda value, at_s: None,
        }

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def handle(self) -> KeptHandle | None:
        """The newest handle, with which this conversation can be resumed."""
        return self._handle

    def round_trip_s(self) -> float | None:
        return self._wired.round_trip_s() if self._wired is not None and self._connected else None

    # --- what the call asks

    def send_audio(self, pcm: bytes, received_s: float = 0.0) -> None:
        """PCM16 LE 16 kHz of the caller. With `received_s`, the time until it is sent is told as a segment.

        Sent on the spot where the connection is up and nothing waits before it: a task switch a frame saved.
        """
        direct = self._direct
        if direct is not None and not (self._stream or self._urgent or self._sending_since_s) and direct(pcm):
            if received_s:
                self._sink.model_segment("uplink_forward", self._clock() - received_s)
            return
        if self._audio_waiting >= UPLINK_MAX_FRAMES:
            self._drop_oldest_audio()
        self._stream.append((pcm, received_s))
        self._audio_waiting += 1
        self._written.set()

    def activity_start(self) -> None:
        self._in_stream(wire.ActivityStart())

    def activity_end(self) -> None:
        self._in_stream(wire.ActivityEnd())

    def ask(self, text: str) -> None:
        """Text the model answers aloud; kept while there is no connection."""
        self._urge(wire.Text(text))

    def tell(self, text: str) -> None:
        """Context without an answer. Left out where it would close the session (`content_any_time`)."""
        if model_of(self._agent.model.name).content_any_time:
            self._urge(wire.Context(text))
        else:
            self.counts["context_left_out"] += 1

    def answer_tool(self, call_id: str, name: str, response: dict[str, Any], scheduling: Scheduling) -> None:
        """A tool's result; dropped and counted when this session knows nothing of the call."""
        asked = self._calls.get(call_id, name)
        when = scheduling_for(self._tools.get(asked), self._agent.model.name, scheduling.value)
        self._urge(wire.ToolAnswer(call_id, asked, response, when))

    def cancel_tool(self, call_id: str) -> None:
        """This call has no result and will have none: say so, unless the model takes the call back first."""
        if call_id in self._calls and call_id not in self._cancelled:
            later = asyncio.get_running_loop().call_later
            self._cancelled[call_id] = later(CANCELLED_AFTER_S, self._answer_cancelled, call_id)

    def _answer_cancelled(self, call_id: str) -> None:
        self._cancelled.pop(call_id).cancel()
        self.answer_tool(call_id, "", CANCELLED, Scheduling.SILENT)

    def _forget_call(self, call_id: str) -> bool:
        """Whether it was open."""
        if call_id in self._cancelled:
            self._cancelled.pop(call_id).cancel()
        return self._calls.pop(call_id, None) is not None

    def rotate(self) -> None:
        """Change connections with the handle; waits a moment for one that is newer than the last turn."""
        for call_id in list(self._cancelled):
            self._answer_cancelled(call_id)  # or there would be no newer handle
        self._depart(Cause.ROTATION)

    def reconnect(self) -> None:
        """Drop a stuck connection and recover."""
        self._depart(Cause.STUCK)

    async def close(self) -> None:
        """End the session with 1000 and wait until nothing of it is left."""
        self._closing.set()
        for timer in self._cancelled.values():
            timer.cancel()
        self._cancelled.clear()
        self._depart(Cause.ROTATION)
        self._newer_handle.set()  # a rotation under way waits for nothing any more
        if self._setup is not None:
            with contextlib.suppress(RuntimeError):  # over, or not yet begun
                self._setup.reschedule(0.0)
        if self._running:
            await self._ended.wait()
        self.counts["audio_left"] += self._audio_waiting  # nobody takes it any more
        self._audio_waiting = 0

    # --- outbox

    def _in_stream(self, message: wire.Outgoing) -> None:
        self._stream.append((message, 0.0))
        self._written.set()

    def _urge(self, message: wire.Outgoing) -> None:
        if len(self._urgent) >= URGENT_MAX:
            self._urgent.popleft()
            self.counts["urgent_dropped"] += 1
        self._urgent.append(message)
        self._written.set()

    def _drop_oldest_audio(self) -> None:
        for i, (message, _) in enumerate(self._stream):
            if type(message) is bytes:
                del self._stream[i]
                break
        self._audio_waiting -= 1
        self.counts["audio_dropped" if self._connected else "audio_dropped_down"] += 1
        if self._sending_since_s and self._clock() - self._sending_since_s > SEND_STALL_MAX_S:
            self._depart(Cause.STUCK)

    async def _write(self, wired: Wire) -> None:
        """Send what waits: texts and tool results first, then the caller's stream in its order."""
        urgent, stream, clock, send = self._urgent, self._stream, self._clock, wired.send
        if isinstance(wired, SocketWire) and wired.has_direct:
            self._direct = wired.send_now
        try:
            while True:
                while stream or urgent:
                    self._sending_since_s = clock()
                    if urgent:
                        message = urgent.popleft()
                        try:
                            if self._is_wanted(message):
                                await send(message)
                        except BaseException:
                            urgent.appendleft(message)  # for the next session, if it wants it
                            raise
                        if isinstance(message, wire.ToolAnswer):
                            self._calls.pop(message.call_id, None)
                        continue
                    # Taken out first: an overflow may drop the oldest while this one is on its way.
                    message, received_s = stream.popleft()
                    if type(message) is bytes:
                        self._audio_waiting -= 1
                    else:
                        self._speaking = type(message) is wire.ActivityStart
                    await send(message)
                    if received_s:
                        self._sink.model_segment("uplink_forward", clock() - received_s)
                self._sending_since_s = 0.0
                self._written.clear()
                await self._written.wait()
        finally:
            self._sending_since_s = 0.0
            self._direct = None

    def _is_wanted(self, message: wire.Outgoing) -> bool:
        """Not so for the result of a call that this session does not know, or no longer wants."""
        if not isinstance(message, wire.ToolAnswer):
            return True
        if message.call_id not in self._calls:
            self.counts["tool_answers_dropped"] += 1
            return False
        return True

    # --- connections

    async def run(self) -> None:
        """Connect and read until `close`; every end is told to the sink as an event, none is raised."""
        self._running = True
        tried, cause = Tried(), Cause.START
        try:
            while not self._closing.is_set():
                handle = None if self._renewing and cause is Cause.ROTATION else self._usable_handle()
                now_s = self._clock()
                tried, step = next_step(tried, cause, now_s, has_handle=handle is not None, patience=self._patience)
                if isinstance(step, GiveUp):
                    self._fault(f"gave up: {step.why}")
                    self._sink.model_event(ModelFailed(now_s))
                    return
                await self._pause(step.after_s)
                if self._closing.is_set():
                    return
                left_s = max(tried.since_s + self._patience.total_s - self._clock(), 1.0)
                ready_s, ended = await self._session(step, handle, left_s)
                if ready_s is not None:
                    # It was up: what is lost now is a new trouble, unless it comes on the heels of another.
                    lived_s = self._clock() - ready_s
                    if Cause.ROTATION in (ended, cause) or cause is Cause.START or lived_s >= self._patience.stable_s:
                        tried = Tried()
                    else:
                        tried = replace(tried, last=None)
                cause = ended
        except asyncio.CancelledError:
            self._closing.set()
            raise
        finally:
            self._running = False
            self._ended.set()

    async def _pause(self, after_s: float) -> None:
        if after_s > 0:
            # Spread: an outage ends for all calls at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(after_s * random.uniform(0.75, 1.25)):
                    await self._closing.wait()

    async def _session(self, step: Connect, handle: KeptHandle | None, left_s: float) -> tuple[float | None, Cause]:
        """One connection from setup to its end: (when it was ready, or None; why it ended)."""
        agent = self._agent
        began_s = self._clock()
        self._bare = self._bare or step.bare
        resumed = handle if step.resume else None
        # Told in the instruction, which may change from connection to connection: content after a resume has
        # closed sessions. It stays there, as the session's own memory does not hold it.
        if resumed is None:
            self._handle, self._story = None, tuple(self._transcript)
        else:
            self._story = (*self._story, *self._unknown)[-STORY_MAX_LINES:]
        self._unknown.clear()
        config = live_config(
            agent,
            self._tools.values(),
            instruction(agent, said_now(agent, self._variables), self._facts, told(self._story)),
            handle=resumed.value if resumed else "",
            resumption=not self._bare,
        )
        self.counts["connections"] += 1
        self._setup = asyncio.timeout(min(agent.model.setup_timeout_s, left_s))
        try:
            async with self._models.session(agent.model.name, config, self._setup) as wired:
                ready_s = self._clock()
                self.counts["resumed" if resumed else "fresh"] += 1
                if self._lost_s is None:
                    self._sink.model_segment("model_setup", ready_s - began_s)
                else:
                    self._sink.model_segment("model_reconnect_gap", ready_s - self._lost_s)
                return ready_s, await self._carry(wired, resumed, ready_s)
        except ModelRefused as refused:
            if not self._closing.is_set():
                self._fault(f"no session: {refused.code} {refused.reason}")
                self.counts[f"session:{_RESULTS.get(refused.code, 'refused')}"] += 1
            return None, cause_of(refused.code, refused.reason)

    def _set_up(self, resumed: KeptHandle | None, at_s: float) -> None:
        """The outbox and the open calls as they are for this session; then the call is told that it is up."""
        self._connected = True
        self._resumable = False
        self._newer_handle.clear()
        if resumed is None:
            self._turns_made, self._renewing = 0, False
        known = resumed.calls if resumed else frozenset()
        for call_id in [i for i in self._calls if i not in known]:
            # This session was never asked, or does not remember asking: an answer would be an error.
            self._forget_call(call_id)
            self._sink.model_event(ToolWithdrawn(at_s, call_id))
        if self._speaking:
            # The caller was speaking when the old connection went: the new one must hear of it first.
            first = self._stream[0][0] if self._stream else None
            if not isinstance(first, wire.ActivityStart):
                self._stream.appendleft((wire.ActivityStart(), 0.0))
        self._sink.model_event(ModelReady(at_s, resumed=bool(resumed or self._story)))

    async def _carry(self, wired: Wire, resumed: KeptHandle | None, ready_s: float) -> Cause:
        """Read and write until the connection ends or is to be left; then it is closed, and said to be."""
        loop = asyncio.get_running_loop()
        self._leave = loop.create_future()
        if self._closing.is_set():
            return Cause.ROTATION
        self._wired = wired
        self._set_up(resumed, ready_s)
        self._written.set()
        advice = loop.call_later(self._patience.advise_rotation_s, self._advise_rotation)
        reader = loop.create_task(self._read(wired), name="gemini-reader")
        writer = loop.create_task(self._write(wired), name="gemini-writer")
        tasks = (reader, writer)
        cause: Cause | None = None
        try:
            await asyncio.wait((*tasks, self._leave), return_when=asyncio.FIRST_COMPLETED)
            if self._leave.done():
                cause = self._leave.result()
                if cause is Cause.ROTATION and not (self._closing.is_set() or self._renewing):
                    await self._await_newer_handle(reader)
        except asyncio.CancelledError:
            self._closing.set()
            raise
        finally:
            self._connected = False
            self._lost_s = self._clock()
            advice.cancel()
            writer.cancel()
            self._turns, self._odd = self._turns.lost(), b""
            if not self._closing.is_set():
                self._sink.model_event(ModelDown(self._lost_s))
            if cause is Cause.STUCK:
                wired.abort()
            # The reader goes on, deaf, so that the peer's close is read past whatever it still sends.
            await wired.close()
            reader.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        return cause or self._why(ends)

    def _why(self, ends: Iterable[BaseException | None]) -> Cause:
        """The cause out of what reader and writer raised; the reader's word counts, it has the close code."""
        for error in ends:
            if isinstance(error, Exception):
                if not isinstance(error, genai_errors.APIError | WebSocketException | OSError):
                    raise error  # ours: a bug in the sink or here
                lost = self._models.translated(error)
                self._fault(f"connection lost: {lost.code} {lost.reason}")
                return cause_of(lost.code, lost.reason)
        return Cause.NETWORK

    async def _await_newer_handle(self, reader: asyncio.Task[None]) -> None:
        if self._resumable or self._handle is None:
            return
        self._newer_handle.clear()
        waiting = asyncio.ensure_future(self._newer_handle.wait())
        await asyncio.wait((waiting, reader), timeout=HANDLE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _read(self, wired: Wire) -> None:
        receive, act, clock = wired.receive, self._act, self._clock
        while True:
            try:
                values = await receive()
            except Malformed as malformed:
                self.counts["malformed"] += 1
                self.counts[f"malformed:{malformed.reason}"] += 1
                continue
            if not self._connected:
                continue  # being left: what still comes belongs to nobody
            at_s = clock()
            for value in values:
                act[type(value)](value, at_s)

    def _depart(self, cause: Cause) -> None:
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(cause)

    def _advise_rotation(self) -> None:
        """The connection is near the age at which the service has been seen to end it without a word."""
        if self._connected:
            self._sink.model_event(GoAway(self._clock(), self._patience.advised_time_left_s))

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

    # --- what the model says

    def _open_turn(self) -> int:
        if not self._turns.open:
            self._turns = self._turns.begun(self._sink.next_generation())
            self._characters = self._spoken_bytes = 0
        return self._turns.generation

    def _on_audio(self, value: wire.Audio, at_s: float) -> None:
        generation = self._open_turn()
        pcm = value.pcm
        self._spoken_bytes += len(pcm)
        if self._odd or len(pcm) & 1:  # a chunk may be cut anywhere, even inside a sample
            pcm = self._odd + pcm
            self._odd = pcm[-1:] if len(pcm) & 1 else b""
            pcm = pcm[: len(pcm) & ~1]
        if pcm:
            self._sink.model_audio(generation, pcm)

    def _on_written(self, value: wire.Written, at_s: float) -> None:
        self._open_turn()

    def _on_model_text(self, value: wire.ModelText, at_s: float) -> None:
        generation = self._open_turn()
        self._characters += len(value.text)
        self._note("agent", value.text)
        self._sink.model_text(generation, value.text)

    def _on_caller_text(self, value: wire.CallerText, at_s: float) -> None:
        last = self._transcript[-1] if self._transcript else ("", "")
        if (
            len(value.text) >= SAME_PIECE_MIN_CHARACTERS
            and last[0] == "caller"
            and last[1].strip() == value.text.strip()
        ):
            self.counts["transcripts_repeated"] += 1  # the service has been seen to send one twice
            return
        self._note("caller", value.text)
        self._sink.caller_text(value.text, value.finished)

    def _on_tool_asked(self, value: wire.ToolAsked, at_s: float) -> None:
        self._open_turn()
        self._calls_made += 1
        call_id = value.call_id or f"{wire.UNNAMED}{self._calls_made}"
        if call_id in self._calls:
            self.counts["tool_calls_repeated"] += 1
            return
        self._calls[call_id] = value.name
        self._sink.model_tool_call(call_id, value.name, value.arguments)

    def _on_calls_withdrawn(self, value: wire.CallsWithdrawn, at_s: float) -> None:
        for call_id in value.call_ids:
            if self._forget_call(call_id):
                self._sink.model_event(ToolWithdrawn(at_s, call_id))

    def _on_generation_complete(self, value: wire.GenerationComplete, at_s: float) -> None:
        self._sink.model_event(ReplyComplete(at_s, self._open_turn()))

    def _on_interrupted(self, value: wire.Interrupted, at_s: float) -> None:
        self._turns = self._turns.interrupted()
        self._characters = 0  # what was not spoken is the caller's doing
        if self._turns.generation:
            self._sink.model_event(ModelInterrupted(at_s, self._turns.generation))

    def _on_turn_end(self, value: wire.TurnEnd, at_s: float) -> None:
        generation = self._turns.generation if self._turns.excused else self._open_turn()
        self._turns, self._odd = self._turns.ended(value.more), b""
        if value.reason:
            self.faults.append(f"turn ended: {value.reason[:60]}")
        if not value.more:
            audio_s = self._spoken_bytes / (2 * wire.OUTPUT_RATE_HZ)
            cut = not self._calls and broke_off(self._characters, audio_s)
            if cut:
                self.counts["turns_cut"] += 1
                self.faults.append(f"a turn broke off: {self._characters} characters in {audio_s:.1f} s")
            self._sink.model_event(TurnComplete(at_s, generation, cut))
            self._line_ended = True
            self._turns_made += 1
            keep = self._agent.model.keep_turns
            if keep and self._turns_made >= 2 * keep and not self._renewing:
                self._renewing = True
                self.counts["renewed"] += 1
                self._sink.model_event(GoAway(at_s, RENEW_WITHIN_S))

    def _on_closing_soon(self, value: wire.ClosingSoon, at_s: float) -> None:
        self._sink.model_event(GoAway(at_s, value.time_left_s))

    def _on_handle(self, value: wire.Handle, at_s: float) -> None:
        self._resumable = value.resumable
        if value.resumable:
            self._handle = KeptHandle(value.value, at_s, self._hash, frozenset(self._calls))
            self._newer_handle.set()
            self._unknown.clear()

    def _on_usage(self, value: wire.Usage, at_s: float) -> None:
        self._sink.model_usage(value.counts)

    def _on_not_read(self, value: wire.NotRead, at_s: float) -> None:
        self.counts["unknown_keys" if value.unknown else "unreadable_values"] += 1

    # --- the call so far

    def _note(self, who: str, text: str) -> None:
        for lines in (self._transcript, self._unknown):
            goes_on = lines and lines[-1][0] == who and not (who == "agent" and self._line_ended)
            before = lines.pop()[1] if goes_on else ""
            lines.append((who, (before + text)[-STORY_MAX_CHARACTERS:]))
        self._line_ended = False


def told(lines: Iterable[tuple[str, str]]) -> str:
    """The last of a transcript, for a session that was not there."""
    names = {"agent": "You", "caller": "Caller"}
    kept: list[str] = []
    room = STORY_MAX_CHARACTERS
    for who, text in reversed(tuple(lines)):
        line = f"{names[who]}: {json.dumps(text.strip(), ensure_ascii=False)}"
        room -= len(line)
        if text.strip() and room >= 0:
            kept.append(line)
    return "\n".join(reversed(kept))


def said_now(agent: Agent, variables: Mapping[str, str]) -> dict[str, str]:
    """A call's variables with those that the link itself knows: the agent's name, date and time."""
    now = datetime.now(ZoneInfo(agent.timezone)) if agent.timezone else datetime.now().astimezone()
    return {"now": now.strftime("%A %d %B %Y, %H:%M %Z"), "name": agent.name, **variables}
