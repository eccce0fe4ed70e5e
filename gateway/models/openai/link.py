"""One call's link to the Realtime API, across as many sessions as the call takes.

One task reads and never waits; caller audio is sent on the spot or by one writer from the outbox, which also bridges
the gap between two sessions. The decisions are made in `recovery` (how a lost session is replaced), `responses` (which
response is next, what of a reply is cut) and by the call; `conversation` translates, and here sessions come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException

from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import GoAway, ModelDown, ModelFailed, ModelReady, ToolWithdrawn
from offhook.gateway.errors import Malformed, ModelRefused, cancelled_from_outside
from offhook.gateway.models import CallBrief, LinkCan, LinkCount, LinkMemory, ModelSink
from offhook.gateway.models.instructions import instruction, with_time
from offhook.gateway.models.openai import messages as wire
from offhook.gateway.models.openai.dialogue import Dialogue
from offhook.gateway.models.openai.outbox import Outbox
from offhook.gateway.models.openai.recovery import ERRORS, PATIENCE, Cause, Patience, Trouble, cause_of, next_attempt
from offhook.gateway.models.openai.setup import format_of, model_name, session_config
from offhook.gateway.models.openai.socket import SessionSocket
from offhook.gateway.models.reconnecting import keep_connected, pause
from offhook.media.formats import PCM16_24K, converter

__all__ = ["CAN", "Connector", "RealtimeLink"]

log = logging.getLogger(__name__)

SESSION_LIMIT_S = 3_600.0
CAN = LinkCan(
    resumes=False,
    withdraws_tools=False,
    cancels_replies=True,
    truncates=True,
    full_duplex=False,
    session_limit_s=SESSION_LIMIT_S,
    pictures_per_s=0.2,  # each is an item that stays in the conversation, and is billed with every response
)
FAULTS_MAX = 50  # lines kept for the call's record
RENEW_WITHIN_S = 300.0  # not urgent: the next quiet moment will do


class Connector(Protocol):
    """What a link needs of the process's client."""

    def session(
        self, model: str, config: dict[str, Any], timeout: asyncio.Timeout
    ) -> AbstractAsyncContextManager[tuple[SessionSocket, float | None]]:
        """A session that is set up, and when it ends (Unix time), closed when the block is left.

        Entering raises `ModelRefused`; its code is 0 when no answer came in time.
        """

    def translated(self, error: BaseException) -> ModelRefused:
        """Any exception of the socket or the network, as a code and a reason without secrets."""


class RealtimeLink:
    """One call's link to the model: `offhook.gateway.models.ModelLink`."""

    can = CAN

    def __init__(self, connector: Connector, brief: CallBrief, sink: ModelSink, patience: Patience = PATIENCE) -> None:
        self._connector, self._brief, self._sink, self._patience = connector, brief, sink, patience
        self._agent, self._clock = brief.agent, brief.clock
        self.faults: deque[str] = deque(maxlen=FAULTS_MAX)
        self._outbox = Outbox(sink, brief.clock, stalled=lambda: self._leave_for(Cause.STUCK))
        line = brief.formats.caller
        self._to_model = None if format_of(line) else converter(line, PCM16_24K)
        self._dialogue = Dialogue(brief, sink, self._outbox, self._fault, self._leave_for, self._renew)
        self._connected = False
        self._socket: SessionSocket | None = None
        self._leave: asyncio.Future[Cause] | None = None
        self._setup: asyncio.Timeout | None = None
        self._lost_s: float | None = None
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        self._trouble = Trouble()

    @property
    def connected(self) -> bool:
        return self._connected

    def round_trip_s(self) -> float | None:
        return self._socket.round_trip_s() if self._socket is not None and self._connected else None

    # --- from the call

    def caller_audio(self, codes: bytes, samples: NDArray[np.int16], received_s: float) -> None:
        try:
            if self._to_model is not None:
                codes = self._to_model.push(codes)
            if codes:
                self._outbox.audio(codes, received_s)
        except Exception as error:  # must not reach the carrier's reader
            self._failed("link_writer", error)

    def flush_audio(self) -> None:
        """Nothing is kept: each frame is queued as it comes."""

    def picture(self, jpeg: bytes) -> None:
        self._outbox.picture(wire.picture_item(jpeg))

    def turn_started(self) -> None:
        self._dialogue.caller_started(self._clock())

    def turn_ended(self) -> None:
        self._outbox.turn_end(self._dialogue.committed_here)

    def prompt(self, text: str) -> None:
        self._dialogue.prompt(text)

    def note(self, text: str) -> None:
        self._dialogue.note(text)

    def heard(self, turn: int, samples: int, note: str | None) -> None:
        self._dialogue.heard(turn, samples, note)

    def cancel_reply(self, turn: int) -> None:
        self._dialogue.cancel_reply(turn)

    def tool_result(self, call_id: str, name: str, response: dict[str, Any], speak: Speak) -> None:
        self._dialogue.tool_result(call_id, response, speak)

    def tool_cancelled(self, call_id: str) -> None:
        self._dialogue.tool_cancelled(call_id)

    def memory(self) -> LinkMemory:
        return self._dialogue.memory()

    def rotate(self) -> None:
        """A new session, which is given the call so far."""
        self._leave_for(Cause.ROTATION)

    def reconnect(self) -> None:
        self._leave_for(Cause.STUCK)

    async def close(self) -> None:
        """End the session with 1000 and wait until nothing of it is left."""
        self._closing.set()
        self._dialogue.close()
        self._leave_for(Cause.ROTATION)
        if self._setup is not None:
            with contextlib.suppress(RuntimeError):  # over, or not yet begun
                self._setup.reschedule(0.0)
        if self._running:
            await self._ended.wait()
        self._outbox.close()

    # --- sessions

    async def run(self) -> None:
        """Connect and read until `close`; every end is reported to the sink as an event, none is raised.

        An exception of our own or of the sink's counts as a lost session.
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
        """One session, from the pause before it to its end: why it ended, or None when the link is over."""
        self._trouble, pause_s = next_attempt(self._trouble, cause, self._clock(), self._patience)
        if pause_s is None:
            self._give_up(f"{cause.value} after {self._trouble.attempts} attempts")
            return None
        await pause(pause_s, self._closing)
        if self._closing.is_set():
            return None
        left_s = max(self._trouble.since_s + self._patience.total_s - self._clock(), 1.0)
        ready_s, ended = await self._session(left_s)
        if ready_s is not None and (
            Cause.ROTATION in (ended, cause) or self._clock() - ready_s >= self._patience.stable_s
        ):
            self._trouble = Trouble()
        return ended

    async def _session(self, left_s: float) -> tuple[float | None, Cause]:
        """One session from setup to its end: (when it was ready, or None; why it ended)."""
        agent, brief = self._agent, self._brief
        began_s = self._clock()
        variables = with_time(agent, brief.variables, datetime.now().astimezone())
        config = session_config(
            agent,
            brief.tools,
            instruction(agent, variables, brief.facts),
            caller=brief.formats.caller,
            line=brief.formats.agent,
        )
        self._setup = asyncio.timeout(min(agent.model.setup_timeout_s, left_s))
        try:
            async with self._connector.session(model_name(agent), config, self._setup) as (socket, expires_at):
                ready_s = self._clock()
                if self._lost_s is None:
                    self._sink.segment("model_setup", ready_s - began_s)
                else:
                    self._sink.segment("model_reconnect_gap", ready_s - self._lost_s)
                return ready_s, await self._exchange(socket, expires_at, ready_s)
        except ModelRefused as refused:
            cause = cause_of(refused.code, refused.reason)
            if not self._closing.is_set():
                self._fault(f"no session: {refused.code} {refused.reason}")
                result = {Cause.TIMEOUT: "timeout", Cause.NETWORK: "unreachable"}.get(cause, "refused")
                self._sink.count(LinkCount.SESSION_FAILED, reason=result)
                self._sink.count(LinkCount.MODEL_ERROR, reason=cause.value)
            return None, cause

    def _session_up(self, at_s: float) -> None:
        """Give the session the call so far; then report it."""
        self._connected = True
        for call_id in self._dialogue.forget_calls():
            self._sink.event(ToolWithdrawn(at_s, call_id))  # this session did not request it
        resumed = self._dialogue.begin_session()
        self._sink.event(ModelReady(at_s, resumed=resumed))

    async def _exchange(self, socket: SessionSocket, expires_at: float | None, ready_s: float) -> Cause:
        """Read and write until the session ends or is to be left; then close it and report that."""
        loop = asyncio.get_running_loop()
        self._leave = loop.create_future()
        if self._closing.is_set():
            return Cause.ROTATION
        self._socket = socket
        lives_s = SESSION_LIMIT_S if expires_at is None else min(expires_at - time.time(), SESSION_LIMIT_S)
        notice_s = min(self._patience.rotate_before_s, lives_s / 2)
        advice = loop.call_later(max(0.0, lives_s - notice_s), self._safely, self._advise_rotation, notice_s)
        tasks: list[asyncio.Task[None]] = []
        cause: Cause | None = None
        try:
            writer = loop.create_task(self._owned("link_writer", self._outbox.write(socket)), name="openai-writer")
            tasks.append(writer)
            self._session_up(ready_s)
            reader = loop.create_task(self._owned("link_reader", self._read(socket)), name="openai-reader")
            tasks.insert(0, reader)
            waited: list[asyncio.Future[Any]] = [*tasks, self._leave]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._leave.done():
                cause = self._leave.result()
        except asyncio.CancelledError:
            if cancelled_from_outside():
                self._closing.set()
            raise
        finally:
            self._connected = False
            self._lost_s = self._clock()
            advice.cancel()
            for task in tasks[1:]:
                task.cancel()
            self._safely(self._dialogue.session_lost)
            if not self._closing.is_set():
                self._safely(self._sink.event, ModelDown(self._lost_s))
            if cause is Cause.STUCK:
                socket.abort()
            await socket.close()
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        if cause is None:
            cause = self._cause_from(ends)
        if cause in ERRORS and not self._closing.is_set():
            self._sink.count(LinkCount.MODEL_ERROR, reason=cause.value)
        return cause

    async def _owned(self, part: str, work: Awaitable[None]) -> None:
        """The reader's or the writer's task: an exception that is not the network's is reported at once, and the
        session left.
        """
        try:
            await work
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            self._failed(part, error)
        except (WebSocketException, OSError):
            raise  # the connection is lost
        except Exception as error:
            self._failed(part, error)

    def _failed(self, part: str, error: BaseException) -> None:
        """An exception of our own, or of the sink's: the session, if there is one, is replaced at once."""
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
                self._fault(f"session lost: {lost.code} {lost.reason}")
                return cause_of(lost.code, lost.reason)
        return Cause.NETWORK

    async def _read(self, socket: SessionSocket) -> None:
        receive, received, clock = socket.receive, self._dialogue.received, self._clock
        while True:
            try:
                event = await receive()
            except Malformed as malformed:
                self._sink.count(LinkCount.MALFORMED, reason=malformed.reason)
                continue
            if self._connected:  # else this session is being closed
                received(event, clock())

    def _leave_for(self, cause: Cause) -> None:
        """End the present session."""
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(cause)

    def _advise_rotation(self, left_s: float) -> None:
        """The session is near the end of its life: there is no notice from the service."""
        if self._connected:
            self._sink.event(GoAway(self._clock(), left_s))

    def _renew(self) -> None:
        """The session has become expensive (`keep_turns`)."""
        self._sink.event(GoAway(self._clock(), RENEW_WITHIN_S))

    def _fault(self, what: str) -> None:
        self.faults.append(what)
        log.warning("model link: %s", what)
