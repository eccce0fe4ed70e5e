"""One WebSocket of the rehearsal model: an ordered outbox, the receiver, and faults injected into both."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from aiohttp import ClientConnectionError, WSMsgType, web

from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import Close
from offhook.gateway.rehearsal.model.wire import pretty
from offhook.gateway.rehearsal.quick_clock import Clock

__all__ = ["Connection", "Tasks"]

_CLOSE_TIMEOUT_S = 5.0
_INTERNAL = Close(1011, "Internal error encountered.")


class Tasks:
    """The tasks of one session. An exception in a task is an error of this server and is passed to `failed`."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failed(error)

    async def end(self) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Connection:
    """Sending does not block: frames are queued and one task writes them. Nothing is sent after a close.

    `text_frames` and `pong_delay_s` are set from the script after the setup. `clock`: seconds, for all times of the
    session.
    """

    def __init__(self, ws: web.WebSocketResponse, request: web.Request, record: SessionRecord, clock: Clock) -> None:
        self.clock = clock
        self._ws, self._request, self._record = ws, request, record
        self._outbox: deque[tuple[bytes | Close, Callable[[float], None] | None]] = deque()
        self._wake = asyncio.Event()
        self._stalled_until_s = 0.0
        self._writer: asyncio.Task[None] | None = None
        self.tasks = Tasks(self._failed)
        self.failures: list[BaseException] = []
        self.open = True
        self.text_frames = False
        self.pong_delay_s = 0.0

    def start(self) -> None:
        self._writer = self.tasks.begin(self._write())

    async def stop(self) -> None:
        """Finish a close under way, then end every task of the session."""
        self.open = False
        if self._record.closed_by == "server" and self._writer is not None and not self._writer.done():
            # Cutting the handshake short could reset the connection before the client has read the reason.
            await asyncio.wait([self._writer], timeout=_CLOSE_TIMEOUT_S)
        if self._record.closed_by is None:
            self._record_end("network", 1006)
        await self.tasks.end()

    def _failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.close(_INTERNAL)

    # -- out ----------------------------------------------------------------------------------------------

    def send(self, message: Mapping[str, Any], sent: Callable[[float], None] | None = None) -> None:
        """Queue a message; `sent(at_s)` is called once it is written."""
        self.put(pretty(message), sent)

    def put(self, frame: bytes, sent: Callable[[float], None] | None = None) -> None:
        if self.open:
            self._outbox.append((frame, sent))
            self._wake.set()

    def close(self, close: Close) -> None:
        """Close once all queued messages are sent."""
        if self.open:
            self._outbox.append((close, None))
            self._wake.set()
            self.open = False

    def abort(self) -> None:
        """Reset the connection."""
        self._record_end("server", 1006)
        if self._request.transport is not None:
            self._request.transport.abort()

    def stall(self, ms: float) -> None:
        """Freeze: no reading, no writing, no pongs."""
        self._stalled_until_s = self.clock() + ms / 1000

    @property
    def stalled(self) -> bool:
        return self.clock() < self._stalled_until_s

    async def _wait_for_stall(self) -> None:
        await asyncio.sleep(max(0.0, self._stalled_until_s - self.clock()))

    async def _write(self) -> None:
        while True:
            while not self._outbox:
                self._wake.clear()
                await self._wake.wait()
            if self._stalled_until_s:
                await self._wait_for_stall()
            frame, sent = self._outbox.popleft()
            try:
                if isinstance(frame, Close):
                    self._record_end("server", frame.code, frame.reason)
                    await self._ws.close(code=frame.code, message=frame.reason.encode()[:123])
                    return
                if self.text_frames:
                    await self._ws.send_str(frame.decode())
                else:
                    await self._ws.send_bytes(frame)
            except ClientConnectionError:
                return
            if sent is not None:
                sent(self.clock())

    # -- in -----------------------------------------------------------------------------------------------

    async def receive(self) -> str | bytes | None:
        """The next message; None when the connection is over. Pings are answered here."""
        while True:
            message = await self._ws.receive()
            if self._stalled_until_s:
                await self._wait_for_stall()
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    if self.open:
                        data: str | bytes = message.data
                        return data
                case WSMsgType.PING:
                    self._record.pings += 1
                    self.tasks.begin(self._pong(message.data))
                case WSMsgType.PONG:
                    pass
                case WSMsgType.CLOSE:
                    self._record_end("client", message.data, message.extra or "")
                    return None
                case _:
                    self._record_end("network", 1006)
                    return None

    async def _pong(self, data: bytes) -> None:
        await asyncio.sleep(self.pong_delay_s)
        try:
            await self._ws.pong(data)
        except ClientConnectionError:
            return

    def _record_end(self, by: Any, code: int, reason: str = "") -> None:
        """Record the end of the connection; only the first call has an effect."""
        self.open = False
        record = self._record
        if record.closed_by is None:
            record.closed_by, record.close_code, record.close_reason = by, code, reason
            record.closed_at_s = self.clock()
