"""Ingress limits of the HTTP server: connections, request rates, size and form of bodies.

A source on a private network is a proxy or the operator. Its connections carry the requests of many clients, so the
limits per source do not apply to it; those over all sources do.
"""

from __future__ import annotations

import asyncio
import codecs
import ipaddress
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError

from offhook.gateway.web.allowance import Allowance
from offhook.metrics.catalogue import Metrics

__all__ = ["KEEP_ALIVE_S", "Limits"]

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # a webhook has about 2 kB
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 200  # a webhook has about 40
BODY_S = 5.0  # to receive a whole body; a slower client is an attack
HEAD_S = 10.0  # from the connection to the end of the first request's headers
MAX_HEAD = 64 * 1024  # the HTTP parser has limits of its own below this
KEEP_ALIVE_S = 75.0  # longer than proxies keep theirs, or they would send a request on a closing connection
SPARE_CONNECTIONS = 1_000  # in addition to one per call for its stream
WAITING_MAX = 500  # connections that have not sent a request yet
WAITING_PER_SOURCE = 50
SOURCE_PER_S, SOURCE_BURST = 50.0, 200.0  # requests; a call takes about five
ALL_PER_S, ALL_BURST = 1_000.0, 2_000.0
MAX_SOURCES = 10_000
WARN_EVERY_S = 10.0  # an attack must not fill the log


class Limits:
    """The limits of one process. Every refusal is counted in `input_errors_total` under its reason.

    `clock`: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, max_calls: int, clock: Callable[[], float]) -> None:
        self._metrics, self._clock = metrics, clock
        self._max_connections = max_calls + SPARE_CONNECTIONS
        self._waiting: Counter[str] = Counter()  # by source: connections that have not sent a request yet
        self._all = Allowance(ALL_PER_S, ALL_BURST)
        self._sources: OrderedDict[str, Allowance] = OrderedDict()
        self._warned: dict[str, tuple[float, int]] = {}  # text -> (logged at, suppressed since)

    def refuse(self, reason: str, error: web.HTTPException) -> NoReturn:
        """Count the refusal under `reason` and raise `error`."""
        self._metrics.input_errors_total.inc("http", reason)
        raise error from None

    def warn_throttled(self, text: str) -> None:
        """Log a warning, the same text at most once in 10 s."""
        now_s = self._clock()
        logged_s, suppressed = self._warned.get(text, (-inf, 0))
        if now_s - logged_s < WARN_EVERY_S:
            self._warned[text] = logged_s, suppressed + 1
            return
        self._warned[text] = now_s, 0
        log.warning("%s%s", text, f" ({suppressed} more suppressed)" if suppressed else "")

    def http_log(self) -> logging.Logger:
        """The HTTP server's logger. Unreadable requests are counted, not logged: a sender could fill the log."""
        quiet = logging.Logger("offhook.gateway.http")
        quiet.parent = logging.getLogger("offhook.gateway")
        quiet.addFilter(self._is_own_error)
        return quiet

    def _is_own_error(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            self._metrics.input_errors_total.inc("http", "bad_format")
            return False
        return True

    # --- requests

    def check_rate(self, request: web.Request) -> None:
        """Count a request against the rate limits. Raises `HTTPTooManyRequests`."""
        now_s, source = self._clock(), request.remote or ""
        allowed = self._all.take(now_s)
        if allowed and not _is_private(source):
            allowance = self._sources.get(source)
            if allowance is None:
                while len(self._sources) >= MAX_SOURCES:
                    self._sources.popitem(last=False)
                allowance = self._sources[source] = Allowance(SOURCE_PER_S, SOURCE_BURST)
            allowed = allowance.take(now_s)
        if not allowed:
            self.warn_throttled("request rate above the limit: answering 429")
            self.refuse("too_many", web.HTTPTooManyRequests(text="too many requests"))

    async def form(self, request: web.Request) -> list[tuple[str, str]]:
        """The fields of a form POST in the order sent, repeated names included. Raises 4xx.

        Names and values that are not in the form's charset keep their bytes as surrogates (`surrogateescape`).
        """
        if request.content_type != FORM:
            self.refuse(
                "bad_format",
                web.HTTPUnsupportedMediaType(text=f"Content-Type must be {FORM}"),
            )
        charset = _ascii_superset((request.charset or "utf-8").strip("\"' "))
        if not charset:
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text="charset must be utf-8"))
        if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text="the body must not be compressed"))
        body = await self._body(request)
        try:
            pairs = parse_qsl(
                body.decode("ascii", "surrogateescape"),
                keep_blank_values=True,
                encoding="ascii",
                errors="surrogateescape",
                max_num_fields=MAX_FIELDS,
            )
        except ValueError:
            self.refuse("too_many", web.HTTPBadRequest(text=f"more than {MAX_FIELDS} fields"))
        return [(_in_charset(name, charset), _in_charset(value, charset)) for name, value in pairs]

    async def json(self, request: web.Request) -> dict[str, Any]:
        """The JSON object in the body of a POST, empty without a body. Raises 4xx."""
        if not request.can_read_body:
            return {}
        # Other types would let a browser send the request across sites without a CORS preflight.
        if request.content_type != "application/json":
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text="Content-Type must be application/json"))
        try:
            return msgspec.json.decode(await self._body(request), type=dict[str, Any])
        except (ValueError, RecursionError):
            self.refuse("not_json", web.HTTPBadRequest(text="the body must be a JSON object"))

    async def _body(self, request: web.Request) -> bytes:
        body = bytearray()
        if (request.content_length or 0) > MAX_BODY:
            self.refuse("too_large", web.HTTPRequestEntityTooLarge(MAX_BODY, text=f"body exceeds {MAX_BODY} bytes"))
        try:
            async with asyncio.timeout(BODY_S):
                while part := await request.content.readany():
                    body += part
                    if len(body) > MAX_BODY:
                        break
        except TimeoutError:
            self.refuse("timeout", web.HTTPRequestTimeout(text="the body was not received in time"))
        except (web.RequestPayloadError, ConnectionError):
            self.refuse("bad_format", web.HTTPBadRequest(text="the connection closed before the end of the body"))
        if len(body) > MAX_BODY:
            self.refuse("too_large", web.HTTPRequestEntityTooLarge(MAX_BODY, text=f"body exceeds {MAX_BODY} bytes"))
        return bytes(body)

    # --- connections

    def guard(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """A protocol factory: hands a connection to `server` once the headers of its first request are complete."""
        return lambda: _Waiting(self, server)

    def admit(self, source: str, server: web.Server) -> bool:
        """Count a new connection; False when it exceeds a limit and must be closed."""
        room = len(server.connections) < self._max_connections and self._waiting.total() < WAITING_MAX
        if not room or (self._waiting[source] >= WAITING_PER_SOURCE and not _is_private(source)):
            self._metrics.input_errors_total.inc("http", "too_many")
            self.warn_throttled("connections above the limit: closing new ones")
            return False
        self._waiting[source] += 1
        return True

    def release(self, source: str, reason: str = "") -> None:
        """A connection is no longer without a request; `reason`: why it was closed instead."""
        self._waiting[source] -= 1
        if self._waiting[source] <= 0:
            del self._waiting[source]
        if reason:
            self._metrics.input_errors_total.inc("http", reason)


class _Waiting(asyncio.Protocol):
    """A connection until the headers of its first request are complete; the server's protocol takes over then.

    aiohttp limits how long a connection may idle between requests, and proxies need that limit to be long. A client
    that sends a header a minute must be closed sooner.
    """

    def __init__(self, limits: Limits, server: web.Server) -> None:
        self._limits, self._server = limits, server
        self._held = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._source = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        peer = transport.get_extra_info("peername")
        self._source = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not self._limits.admit(self._source, self._server):
            transport.abort()  # type: ignore[attr-defined]
            return
        self._transport = transport  # type: ignore[assignment]
        self._timer = asyncio.get_running_loop().call_later(HEAD_S, self._close, "timeout")

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
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
        transport = self._transport
        self._detach()
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._held))

    def connection_lost(self, error: Exception | None) -> None:
        self._detach()

    def _close(self, reason: str) -> None:
        if transport := self._transport:
            self._detach(reason)
            transport.abort()

    def _detach(self, reason: str = "") -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport = None
            self._limits.release(self._source, reason)


@lru_cache(maxsize=100)
def _ascii_superset(charset: str) -> str:
    """The name of a charset in which ASCII bytes are ASCII; "" for any other (UTF-16, unknown ones)."""
    try:
        name = codecs.lookup(charset).name
        return name if FORM.encode("ascii").decode(name) == FORM else ""
    except (LookupError, ValueError, TypeError, AttributeError):  # no charset, or no text encoding (base64)
        return ""


def _in_charset(text: str, charset: str) -> str:
    """Bytes as `surrogateescape` keeps them, in this charset; unchanged where they are not in it."""
    if text.isascii():
        return text
    try:
        return text.encode("ascii", "surrogateescape").decode("utf-8" if charset == "ascii" else charset)
    except UnicodeError:
        return text


@lru_cache(maxsize=1_000)
def _is_private(source: str) -> bool:
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    # A socket for both families reports IPv4 clients as ::ffff:192.0.2.1, all of which count as private.
    return (getattr(address, "ipv4_mapped", None) or address).is_private
