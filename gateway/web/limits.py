"""The door: what is refused before anybody reads it. Connections, rates, bodies, forms.

A source that is on a private network is a proxy or the operator: it carries everybody's requests, so the limits
for one source do not apply to it, those for all do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError

from offhook.gateway.web.allowance import Allowance
from offhook.metrics.catalogue import Metrics

__all__ = ["KEEP_ALIVE_S", "Door"]

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # a webhook has some 2 kB
MAX_FIELDS = 200  # a webhook has some 40
BODY_S = 5.0  # a body that takes longer is held back on purpose
HEAD_S = 10.0  # from the connection to the end of the first request's headers
MAX_HEAD = 64 * 1024  # the HTTP parser has limits of its own below this
KEEP_ALIVE_S = 75.0  # longer than proxies keep theirs, or they would send into a closing connection
SPARE_CONNECTIONS = 1_000  # beside one for each call's stream
WAITING_MAX = 500  # connections without a request yet
WAITING_PER_SOURCE = 50
SOURCE_PER_S, SOURCE_BURST = 50.0, 200.0  # requests; a call makes five or so
ALL_PER_S, ALL_BURST = 1_000.0, 2_000.0
MAX_SOURCES = 10_000
SAY_EVERY_S = 10.0  # under attack the log says so, not how often


class Door:
    """The process's limits. What they refuse is counted under its reason."""

    def __init__(self, metrics: Metrics, max_calls: int) -> None:
        self._metrics = metrics
        self._max_connections = max_calls + SPARE_CONNECTIONS
        self._waiting: Counter[str] = Counter()  # by source, connections without a request yet
        self._everybody = Allowance(ALL_PER_S, ALL_BURST)
        self._sources: OrderedDict[str, Allowance] = OrderedDict()
        self._said: dict[str, tuple[float, int]] = {}

    def refuse(self, reason: str, error: web.HTTPException) -> NoReturn:
        """Count and raise."""
        self._metrics.input_errors_total.inc("http", reason)
        raise error from None

    def complain(self, what: str) -> None:
        """A warning in the log, at most every 10 s for the same one."""
        now_s = time.monotonic()
        said_s, unsaid = self._said.get(what, (-SAY_EVERY_S, 0))
        if now_s - said_s < SAY_EVERY_S:
            self._said[what] = said_s, unsaid + 1
            return
        self._said[what] = now_s, 0
        log.warning("%s%s", what, f" (and {unsaid} times before)" if unsaid else "")

    def http_log(self) -> logging.Logger:
        """For the HTTP server: it logs every request it cannot read with a traceback, which is the sender's to fill."""
        quiet = logging.Logger("offhook.gateway.http")
        quiet.parent = logging.getLogger("offhook.gateway")
        quiet.addFilter(self._is_ours)
        return quiet

    def _is_ours(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            self._metrics.input_errors_total.inc("http", "bad_format")
            return False
        return True

    # --- requests

    def knock(self, request: web.Request) -> None:
        """One request more. Raises `HTTPTooManyRequests`."""
        now_s, source = time.monotonic(), request.remote or ""
        allowed = self._everybody.take(now_s)
        if allowed and not _is_private(source):
            allowance = self._sources.get(source)
            if allowance is None:
                while len(self._sources) >= MAX_SOURCES:
                    self._sources.popitem(last=False)
                allowance = self._sources[source] = Allowance(SOURCE_PER_S, SOURCE_BURST)
            allowed = allowance.take(now_s)
        if not allowed:
            self.complain("more requests than are taken: 429")
            self.refuse("too_many", web.HTTPTooManyRequests(text="too many requests"))

    async def form(self, request: web.Request) -> list[tuple[str, str]]:
        """The fields of a form POST as they were sent, repeated names included. Raises 4xx."""
        if request.content_type != "application/x-www-form-urlencoded":
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text="only application/x-www-form-urlencoded"))
        if (request.charset or "utf-8").lower() not in ("utf-8", "us-ascii"):
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text="only charset utf-8"))
        body = await self._body(request)
        try:
            return parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                encoding="utf-8",
                errors="strict",
                max_num_fields=MAX_FIELDS,
            )
        except UnicodeError:
            self.refuse("not_utf8", web.HTTPBadRequest(text="the form is not UTF-8"))
        except ValueError:
            self.refuse("too_many", web.HTTPBadRequest(text=f"more than {MAX_FIELDS} fields"))

    async def json(self, request: web.Request) -> dict[str, Any]:
        """The JSON object of a POST, empty without a body. Raises 4xx."""
        if not request.can_read_body:
            return {}
        # A browser sends other types across sites without asking; this one it does not.
        if request.content_type != "application/json":
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text="only application/json"))
        try:
            return msgspec.json.decode(await self._body(request), type=dict[str, Any])
        except (ValueError, RecursionError):
            self.refuse("not_json", web.HTTPBadRequest(text="the body must be a JSON object"))

    async def _body(self, request: web.Request) -> bytes:
        body = bytearray()
        if (request.content_length or 0) > MAX_BODY:
            self.refuse("too_large", web.HTTPRequestEntityTooLarge(MAX_BODY, text=f"more than {MAX_BODY} bytes"))
        try:
            async with asyncio.timeout(BODY_S):
                while part := await request.content.readany():
                    body += part
                    if len(body) > MAX_BODY:
                        break
        except TimeoutError:
            self.refuse("timeout", web.HTTPRequestTimeout(text="the body did not come in time"))
        except (web.RequestPayloadError, ConnectionError):
            self.refuse("bad_format", web.HTTPBadRequest(text="the body broke off"))
        if len(body) > MAX_BODY:
            self.refuse("too_large", web.HTTPRequestEntityTooLarge(MAX_BODY, text=f"more than {MAX_BODY} bytes"))
        return bytes(body)

    # --- connections

    def guard(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """A protocol factory that lets a connection to `server` once its first request's headers are there."""
        return lambda: _Waiting(self, server)

    def enter(self, source: str, server: web.Server) -> bool:
        """One connection more, if there is room for it."""
        room = len(server.connections) < self._max_connections and self._waiting.total() < WAITING_MAX
        if not room or (self._waiting[source] >= WAITING_PER_SOURCE and not _is_private(source)):
            self._metrics.input_errors_total.inc("http", "too_many")
            self.complain("more connections than are taken: closed")
            return False
        self._waiting[source] += 1
        return True

    def leave(self, source: str, reason: str = "") -> None:
        """It waits no longer; `reason` when it was thrown out."""
        self._waiting[source] -= 1
        if self._waiting[source] <= 0:
            del self._waiting[source]
        if reason:
            self._metrics.input_errors_total.inc("http", reason)


class _Waiting(asyncio.Protocol):
    """A connection until its first request's headers are complete; then it is the server's.

    aiohttp bounds how long a connection may idle between requests, at the length that proxies need; someone
    who sends a header a minute must not be waited for as long.
    """

    def __init__(self, door: Door, server: web.Server) -> None:
        self._door, self._server = door, server
        self._held = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._source = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        peer = transport.get_extra_info("peername")
        self._source = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not self._door.enter(self._source, self._server):
            transport.abort()  # type: ignore[attr-defined]
            return
        self._transport = transport  # type: ignore[assignment]
        self._timer = asyncio.get_running_loop().call_later(HEAD_S, self._throw_out, "timeout")

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        if not self._held and not data[:1].isalpha():  # TLS, as a rule: no method begins like this
            self._throw_out("bad_format")
            return
        seen = max(0, len(self._held) - 3)
        self._held += data
        if self._held.find(b"\r\n\r\n", seen) < 0:
            if len(self._held) > MAX_HEAD:
                self._throw_out("too_large")
            return
        transport = self._transport
        self._gone()
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._held))

    def connection_lost(self, error: Exception | None) -> None:
        self._gone()

    def _throw_out(self, reason: str) -> None:
        if transport := self._transport:
            self._gone(reason)
            transport.abort()

    def _gone(self, reason: str = "") -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport = None
            self._door.leave(self._source, reason)


@lru_cache(maxsize=1_000)
def _is_private(source: str) -> bool:
    try:
        return ipaddress.ip_address(source.partition("%")[0]).is_private
    except ValueError:
        return False
