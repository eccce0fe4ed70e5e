"""The connections of one listener: their number over all and per source, and the time each has for its headers.

A connection is proven while, and after, it carries a request with a valid signature or secret, until its next request
begins. Proven connections and others have room of their own, so the others cannot shut the carrier out; and when the
room of the others is used up, the one that was idle longest is closed, not the newcomer, which may be the carrier.

A source on a private network is a proxy or the operator: its connections carry the requests of many clients, and the
limit per source does not apply to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import NoReturn, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler

from offhook.gateway.errors import OperatorError
from offhook.gateway.web.frames import Frames
from offhook.gateway.web.limits import Limits, is_private, source_of
from offhook.metrics.catalogue import Metrics

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

__all__ = [
    "Connections",
    "Route",
    "became_call",
    "hide_server",
    "prove",
    "reserve_descriptors",
    "spare_connections",
    "split_frames",
]

log = logging.getLogger("offhook.gateway.http")

HEAD_S = 10.0  # from a request's first byte, or the connection, to the end of its headers
MAX_HEAD = 64 * 1024  # the HTTP parser has limits of its own below this
KEEP_ALIVE_S = 75.0  # longer than proxies keep theirs, or they would send a request on a closing connection
PRESSED_KEEP_ALIVE_S = 5.0  # once half of the room is used
SPARE_CONNECTIONS = 1_000  # those that are not proven
SPARE_MIN = 32
BACKLOG_MIN, BACKLOG_MAX = 4, 256
SOURCE_CONNECTIONS = 50  # of one source on the public internet, those that are not proven
PROVEN_SPARE = 200  # proven ones in addition to two per call: its stream and a webhook
DESCRIPTORS = 64  # of the process itself: listeners, logs, clients of the console
CALL_DESCRIPTORS = 4  # stream, webhook, model, a tool's connection
BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nConnection: close\r\n\r\n"
    b"bad request\n"
)


def reserve_descriptors(max_calls: int) -> None:
    """Raise this process's soft limit of file descriptors as far as `max_calls` calls and other connections need.

    Raises `OperatorError` when the hard limit is too low for the calls.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _needed(max_calls)
    wanted = needed + SPARE_CONNECTIONS + PROVEN_SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if most > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # a system with a limit of its own below the hard one
            most = soft
    if max(soft, most) < needed:
        raise OperatorError(
            f"OFFHOOK_MAX_CALLS={max_calls} needs {needed} file descriptors and the limit is {max(soft, most)}: raise "
            "it (`ulimit -n`, LimitNOFILE in systemd, `ulimits` in compose), or lower OFFHOOK_MAX_CALLS"
        )


def spare_connections(max_calls: int) -> int:
    """How many connections that are not proven fit beside `max_calls` calls into the limit of file descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource is not None else -1
    if resource is None or soft == resource.RLIM_INFINITY:
        return SPARE_CONNECTIONS
    return max(SPARE_MIN, min(SPARE_CONNECTIONS, soft - _needed(max_calls) + SPARE_MIN))


def _needed(max_calls: int) -> int:
    return DESCRIPTORS + SPARE_MIN + CALL_DESCRIPTORS * max_calls


_handled: ContextVar[_Served | None] = ContextVar("handled", default=None)  # the connection of this task's request


def became_call() -> None:
    """The request that is being handled has become a call: its connection counts as load no more, the call does."""
    if (protocol := _handled.get()) is not None:
        protocol.is_gone()


async def hide_server(request: web.Request, response: web.StreamResponse) -> None:
    """A signal of the application: removes the header that names aiohttp and Python with their versions."""
    response.headers.pop("Server", None)


def prove(request: web.Request) -> None:
    """A request carried a valid signature or secret: its connection gets a place among the proven ones."""
    protocol = request.protocol
    if isinstance(protocol, _Served):
        protocol.connections.prove(protocol.connection)


def split_frames(request: web.Request, max_bytes: int) -> Frames | None:
    """The frames of a WebSocket of which nothing was received so far but its upgrade, before that is answered; None
    where the connection cannot be split.
    """
    protocol = request.protocol
    return protocol.split_frames(max_bytes) if isinstance(protocol, _Served) else None


class Route(Protocol):
    """Which process serves a connection, where several accept from one socket."""

    def send(self, head: bytes, descriptor: int, done: Callable[[bool], None]) -> bool:
        """Send the connection to the process that should have it; False when that is this one.

        `done(True)` is called once it is there, `done(False)` when this process has to serve it after all.
        """

    def here(self, head: bytes) -> Callable[[], None]:
        """This process serves it; call the result when it is closed."""


class _Connection:
    """One connection. `since_s`: when it was accepted, or its last request began or ended. `busy`: a request runs."""

    __slots__ = ("busy", "proven", "since_s", "source", "transport")

    def __init__(self, transport: asyncio.Transport, source: str, since_s: float) -> None:
        self.transport, self.source, self.since_s = transport, source, since_s
        self.busy = self.proven = False


class Connections:
    """The connections of one listener. Each one closed for lack of room is counted in `input_errors_total`.

    `spare`: room for connections that are not proven; `max_calls` sets the room for those that are. `clock`: monotonic
    seconds. `route`: where other processes accept from the same socket; then an answer ends its connection, or a proxy
    would keep using it for requests that belong elsewhere.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        *,
        max_calls: int,
        spare: int,
        clock: Callable[[], float],
        route: Route | None = None,
    ) -> None:
        self._limits, self._metrics, self._clock = limits, metrics, clock
        self.route = route
        self._spare, self._proven_max = spare, 2 * max_calls + PROVEN_SPARE
        self._unproven: OrderedDict[_Connection, None] = OrderedDict()  # by `since_s`, as the next two are
        self._proven: OrderedDict[_Connection, None] = OrderedDict()
        self._of_source: dict[str, OrderedDict[_Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._unproven) + len(self._proven)

    @property
    def backlog(self) -> int:
        """Of the listening socket: how many connections one turn of the event loop accepts.

        A new connection needs a turn in which it is read and one or two in which its signature is checked. It is not
        the longest idle before those are over, however many others are accepted meanwhile.
        """
        return max(BACKLOG_MIN, min(BACKLOG_MAX, self._spare // 4))

    def guard(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """A protocol factory: hands a connection to `server` once the headers of its first request are complete."""
        return lambda: _Waiting(self, server)

    def received(self, server: web.Server, head: bytes, gone: Callable[[], None]) -> Callable[[], asyncio.Protocol]:
        """A protocol factory for one connection from another process, which has read `head` of it."""
        return lambda: _Waiting(self, server, head, gone)

    def middleware(self) -> Middleware:
        """For the application that is served: marks where requests begin and end; unknown paths have a rate, too."""

        @web.middleware
        async def marked(request: web.Request, handler: Handler) -> web.StreamResponse:
            protocol = request.protocol
            assert isinstance(protocol, _Served)
            protocol.request_begins()
            _handled.set(protocol)
            try:
                if request.match_info.http_exception is not None:
                    self._limits.check_rate(request)
                response = await handler(request)
                if self.route is not None and not response.prepared:
                    response.force_close()
                return response
            except web.HTTPException as refusal:
                if self.route is not None:
                    refusal.force_close()
                raise
            finally:
                protocol.request_ends()

        return marked

    def close(self) -> None:
        """Close the connections that have not sent a request; the server closes the others."""
        for connection in [*self._unproven]:
            if not connection.busy:
                connection.transport.close()

    # --- for the protocols

    def admit(self, transport: asyncio.Transport) -> _Connection:
        """A new connection. Others that are idle may be closed for it."""
        peer = transport.get_extra_info("peername")
        source = source_of(str(peer[0]) if isinstance(peer, tuple) and peer else "")
        now_s = self._clock()
        connection = _Connection(transport, source, now_s)
        mine = self._of_source.get(source)
        if mine is not None and len(mine) >= SOURCE_CONNECTIONS and not is_private(source):
            self._refuse(next(iter(mine)))
        while len(self._unproven) >= self._spare:
            self._refuse(next(iter(self._unproven)))
        self._enter(connection)
        if 2 * len(self._unproven) > self._spare:  # shorter keep-alive under pressure
            while (oldest := next(iter(self._unproven))).since_s < now_s - PRESSED_KEEP_ALIVE_S:
                self._refuse(oldest)
        return connection

    def begin(self, connection: _Connection) -> None:
        """A request begins: nothing is proven of it yet."""
        if connection.transport.is_closing():
            return
        self.forget(connection)
        connection.busy, connection.proven, connection.since_s = True, False, self._clock()
        while len(self._unproven) >= self._spare:  # it may come from among the proven ones
            self._refuse(next(iter(self._unproven)))
        self._enter(connection)

    def end(self, connection: _Connection) -> None:
        """The request has been answered: the connection is idle from now."""
        connection.busy, connection.since_s = False, self._clock()
        if connection in self._proven:
            self._proven.move_to_end(connection)
            if len(self._proven) > self._proven_max:
                self._refuse_idle_proven()
        elif connection in self._unproven:
            self._unproven.move_to_end(connection)
            self._of_source[connection.source].move_to_end(connection)

    def prove(self, connection: _Connection) -> None:
        if connection in self._unproven:
            self.forget(connection)
            connection.proven = True
            self._proven[connection] = None

    def forget(self, connection: _Connection) -> None:
        """The connection is closed, or about to change its place."""
        self._proven.pop(connection, None)
        if connection in self._unproven:
            del self._unproven[connection]
            mine = self._of_source[connection.source]
            del mine[connection]
            if not mine:
                del self._of_source[connection.source]

    def count(self, reason: str) -> None:
        self._metrics.input_errors_total.inc("http", reason)

    def _enter(self, connection: _Connection) -> None:
        self._unproven[connection] = None
        self._of_source.setdefault(connection.source, OrderedDict())[connection] = None

    def _refuse(self, connection: _Connection) -> None:
        self.forget(connection)
        self.count("too_many")
        self._limits.warn_throttled("connections above the limit: closing those that were idle longest")
        connection.transport.abort()

    def _refuse_idle_proven(self) -> None:
        idle = next((one for one in self._proven if not one.busy), None)
        if idle is not None:
            self._refuse(idle)


class _Waiting(asyncio.Protocol):
    """A connection until the headers of its first request are complete; the server's protocol takes over then.

    It costs little: a silent connection has no task and no parser. `head`, `gone`: of one that another process has
    accepted and read that much of.
    """

    def __init__(
        self, connections: Connections, server: web.Server, head: bytes = b"", gone: Callable[[], None] | None = None
    ) -> None:
        self._connections, self._server = connections, server
        self._held, self._gone = bytearray(head), gone
        self._connection: _Connection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._connection = self._connections.admit(transport)  # type: ignore[arg-type]
        if self._gone is not None:
            self._serve()
            return
        self._timer = asyncio.get_running_loop().call_later(HEAD_S, self._close, "timeout")

    def data_received(self, data: bytes) -> None:
        if self._connection is None:
            return
        if not self._held and not data[:1].isalpha():  # usually a TLS handshake: no method starts like this
            self._close("bad_format")
            return
        seen = max(0, len(self._held) - 3)
        self._held += data
        if self._held.find(b"\r\n\r\n", seen) < 0:
            if len(self._held) > MAX_HEAD:
                self._close("too_large")
            return
        if self._connections.route is None:
            self._serve()
        else:
            self._route(self._connections.route)

    def _route(self, route: Route) -> None:
        """Another process gets the connection, or this one serves it."""
        assert self._connection is not None
        transport = self._connection.transport
        transport.pause_reading()
        if not route.send(bytes(self._held), transport.get_extra_info("socket").fileno(), self._routed):
            self._routed(taken=False)

    def _routed(self, taken: bool) -> None:
        if self._connection is None:  # closed meanwhile
            return
        transport = self._connection.transport
        if taken:
            self._connections.forget(self._detach())
            transport.abort()  # closes this process's copy of the descriptor only
            return
        assert self._connections.route is not None
        self._gone = self._connections.route.here(bytes(self._held))
        self._serve()
        transport.resume_reading()

    def _serve(self) -> None:
        connection = self._detach()
        protocol = _Served(self._connections, self._server, connection, self._gone)
        connection.transport.set_protocol(protocol)
        protocol.connection_made(connection.transport)
        protocol.data_received(bytes(self._held))

    def connection_lost(self, error: Exception | None) -> None:
        if self._connection is not None:
            self._connections.forget(self._detach())
        if self._gone is not None:
            self._gone()

    def _close(self, reason: str) -> None:
        connection = self._detach()
        self._connections.forget(connection)
        self._connections.count(reason)
        connection.transport.abort()

    def _detach(self) -> _Connection:
        assert self._connection is not None
        connection, self._connection = self._connection, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return connection


class _Answered(ConnectionError):
    """An unreadable request was answered here: aiohttp has nothing to add and closes the connection."""


class _Served(RequestHandler):
    """aiohttp's protocol, with a deadline for the headers of every request and plain answers to what is unreadable.

    aiohttp limits how long a connection may idle between requests, and proxies need that limit to be long; and its own
    error pages quote the request.
    """

    def __init__(
        self,
        connections: Connections,
        server: web.Server,
        connection: _Connection,
        gone: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=log,
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=2.0,
            auto_decompress=False,  # no client of ours compresses requests; decompression bombs do
        )
        self.connections, self.connection, self._gone = connections, connection, gone
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_alone = False  # nothing was received behind the headers
        self._frames: Frames | None = None

    def data_received(self, data: bytes) -> None:
        if self._frames is not None:
            if data := self._frames.push(data):
                super().data_received(data)
            return
        if not self.connection.busy and self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(HEAD_S, self._head_is_late)
        self._head_alone = data.endswith(b"\r\n\r\n")
        super().data_received(data)

    def split_frames(self, max_bytes: int) -> Frames | None:
        """What is received from now on goes through these; None where something of it has been received already."""
        if self._head_alone:
            self._frames = Frames(max_bytes)
        return self._frames

    def connection_lost(self, exc: BaseException | None) -> None:
        self._frames = None  # whose taker holds the call
        self._stop_head_timer()
        self.connections.forget(self.connection)
        self.is_gone()
        super().connection_lost(exc)

    def is_gone(self) -> None:
        """It counts as nobody's load any more."""
        if self._gone is not None:
            self._gone()
            self._gone = None

    def request_begins(self) -> None:
        self._stop_head_timer()
        self.connections.begin(self.connection)

    def request_ends(self) -> None:
        self.connections.end(self.connection)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, _Answered):
            raise exc
        if status == 400:
            self._answer_unreadable()
        self.log_exception("%s %s failed", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response was sent in part")
        response = web.Response(status=500, text="internal error\n")
        response.force_close()
        return response

    def _answer_unreadable(self) -> NoReturn:
        self._stop_head_timer()
        self.connections.count("bad_format")  # counted, not logged: a sender could fill the log
        if self.transport is not None:
            self.transport.write(BAD_REQUEST)
        raise _Answered

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.connections.count("timeout")
        self.connection.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
