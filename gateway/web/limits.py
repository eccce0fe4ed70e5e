"""Ingress limits of the HTTP server: request rates, size and form of bodies. Connections: see `connections`.

A request with a valid signature or secret has no rate: it is never refused for what others sent. The handlers check
that first, and every other request takes from its source's allowance, then from the one over all sources. A source on a
private network is a proxy or the operator and carries the requests of many clients: it has the latter only.
"""

from __future__ import annotations

import asyncio
import codecs
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from offhook.gateway.web.allowance import Allowance
from offhook.metrics.catalogue import Metrics

__all__ = ["FORM", "PER_ADDRESS", "Limits", "is_full", "is_private", "source_of"]

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # a webhook has about 2 kB
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 200  # a webhook has about 40
BODY_S = 5.0  # to receive a whole body; a slower client is an attack
SOURCE_PER_S, SOURCE_BURST = 50.0, 200.0  # requests; a call takes about five
ALL_PER_S, ALL_BURST = 1_000.0, 2_000.0
HEALTH_PER_S, HEALTH_BURST = 500.0, 500.0  # /livez and /readyz: a flood elsewhere must not fail a supervisor's probe
MAX_SOURCES = 10_000
PER_ADDRESS = 4  # of what a page holds, for one public address; private ones are proxies or the operator
WARN_EVERY_S = 10.0  # an attack must not fill the log


class Limits:
    """The limits of one process. Every refusal is counted in `input_errors_total` under its reason.

    `clock`: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics, self._clock = metrics, clock
        self._all = Allowance(ALL_PER_S, ALL_BURST)
        self._health = Allowance(HEALTH_PER_S, HEALTH_BURST)
        self._sources: OrderedDict[str, Allowance] = OrderedDict()
        self._warned: dict[str, tuple[float, int]] = {}  # text -> (logged at, suppressed since)

    def refuse(self, reason: str, error: web.HTTPException) -> NoReturn:
        """Count the refusal under `reason` and raise `error`."""
        self._metrics.input_errors_total.inc("http", reason)
        raise error from None

    def warn_throttled(self, text: str, source: str = "") -> None:
        """Log a warning, the same text at most once in 10 s. `source`: the address named in it."""
        now_s = self._clock()
        logged_s, suppressed = self._warned.get(text, (-inf, 0))
        if now_s - logged_s < WARN_EVERY_S:
            self._warned[text] = logged_s, suppressed + 1
            return
        self._warned[text] = now_s, 0
        named = f" (from {source})" if source else ""
        log.warning("%s%s%s", text, named, f" ({suppressed} more suppressed)" if suppressed else "")

    # --- requests

    def check_rate(self, request: web.Request) -> None:
        """Count a request that proves nothing against the rate limits. Raises `HTTPTooManyRequests`."""
        self._take(request, self._all)

    def check_health_rate(self, request: web.Request) -> None:
        """The same for `/livez` and `/readyz`, whose allowance no other path spends."""
        self._take(request, self._health)

    def _take(self, request: web.Request, over_all: Allowance) -> None:
        now_s, source = self._clock(), source_of(request.remote or "")
        allowed = is_private(source) or self._of(source).take(now_s)
        if not (allowed and over_all.take(now_s)):
            self.warn_throttled("request rate above the limit: answering 429")
            self.refuse("too_many", web.HTTPTooManyRequests(text="too many requests"))

    def _of(self, source: str) -> Allowance:
        """The allowance of a source; the one unused longest gives way to a new one."""
        allowance = self._sources.get(source)
        if allowance is None:
            while len(self._sources) >= MAX_SOURCES:
                self._sources.popitem(last=False)
            allowance = self._sources[source] = Allowance(SOURCE_PER_S, SOURCE_BURST)
        else:
            self._sources.move_to_end(source)
        return allowance

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

    async def file(self, request: web.Request, content_type: str, most: int) -> bytes:
        """The body of a POST as it is, of this type and at most so many bytes. Raises 4xx."""
        if request.content_type != content_type:
            self.refuse("bad_format", web.HTTPUnsupportedMediaType(text=f"Content-Type must be {content_type}"))
        return await self._body(request, most)

    async def _body(self, request: web.Request, most: int = MAX_BODY) -> bytes:
        body = bytearray()
        if (request.content_length or 0) > most:
            self.refuse("too_large", web.HTTPRequestEntityTooLarge(most, text=f"body exceeds {most} bytes"))
        try:
            async with asyncio.timeout(BODY_S):
                while part := await request.content.readany():
                    body += part
                    if len(body) > most:
                        break
        except TimeoutError:
            self.refuse("timeout", web.HTTPRequestTimeout(text="the body was not received in time"))
        except (web.RequestPayloadError, ConnectionError, RuntimeError) as error:
            # aiohttp raises RuntimeError when the connection is closed before the body is read.
            if isinstance(error, RuntimeError) and request.transport is not None:
                raise
            self.refuse("bad_format", web.HTTPBadRequest(text="the connection closed before the end of the body"))
        if len(body) > most:
            self.refuse("too_large", web.HTTPRequestEntityTooLarge(most, text=f"body exceeds {most} bytes"))
        return bytes(body)


@lru_cache(maxsize=1_000)
def source_of(address: str) -> str:
    """The source that an address belongs to: itself, or the /64 of an IPv6 address, which one client commands."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_private:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)


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


def is_full(sources: Sequence[str], source: str, most: int) -> bool:
    """Whether there is no place for one more of `source`, beside those of `sources`."""
    return len(sources) >= most or (not is_private(source) and sources.count(source) >= PER_ADDRESS)


@lru_cache(maxsize=1_000)
def is_private(source: str) -> bool:
    """Whether a source is on a private network or this machine."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    # A socket for both families reports IPv4 clients as ::ffff:192.0.2.1, all of which count as private.
    return (getattr(address, "ipv4_mapped", None) or address).is_private
