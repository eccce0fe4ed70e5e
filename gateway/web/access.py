"""Access to the console and to `/metrics`: by the console token or, without one, from this machine alone.

The token is accepted as a bearer token or as the password of HTTP Basic with any user name, so that a browser prompts
for it. Without a token only a loopback peer is admitted, and only if the request shows no sign of being forwarded: no
forwarding header, and a host name of this machine (a tunnel, and a page whose own name resolves to 127.0.0.1, both
send another one).
"""

from __future__ import annotations

import hmac
import ipaddress
from base64 import b64decode
from binascii import Error as BadBase64
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256

from aiohttp import web

from offhook.metrics.catalogue import Metrics

__all__ = ["Access", "is_local", "secret_of"]

FORWARDING = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP")
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
FAILURES_MAX = 10  # wrong passwords of one source in a row; after that one more every FAILURE_S
FAILURE_S = 6.0
MAX_SOURCES = 10_000


def secret_of(authorization: str) -> bytes | None:
    """The bearer token, or the password of HTTP Basic, out of an Authorization header; None when it holds neither."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            name, colon, password = b64decode(value.strip(), validate=True).partition(b":")
        except (BadBase64, ValueError):
            return b""
        return password if colon else name
    return None


def is_local(remote: str | None, host: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine and was not forwarded by a proxy or a tunnel."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_loopback or any(name in headers for name in FORWARDING):
        return False
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower() in LOCAL_NAMES


class Access:
    """Access control of the console and of `/metrics`. Refusals are counted as `auth_failures_total`.

    `token` "": requests from this machine alone. `clock`: monotonic seconds.
    """

    def __init__(self, token: str, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._digest = sha256(token.encode()).digest() if token else b""
        self._metrics = metrics
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # source -> (failures, counted at)

    def check(self, request: web.Request, kind: str = "console") -> None:
        """Admit a request. Raises 401, 403 or 429; `kind`: the label that a refusal is counted under."""
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin") and request.headers.get("Sec-Fetch-Mode") != "navigate":
            # Another site's page: the browser would add the stored password.
            self._metrics.auth_failures_total.inc(kind)
            raise web.HTTPForbidden(text="cross-site requests are refused\n")
        if not self._digest:
            if is_local(request.remote, request.host, request.headers):
                return
            self._metrics.auth_failures_total.inc(kind)
            raise web.HTTPForbidden(text="only this machine has access: set OFFHOOK_CONSOLE_TOKEN to allow logins\n")
        source = request.remote or ""
        if (wait_s := self._locked_s(source)) > 0:
            self._metrics.auth_failures_total.inc(kind)
            raise web.HTTPTooManyRequests(
                text="too many failed logins: try again later\n", headers={"Retry-After": str(int(wait_s) + 1)}
            )
        secret = secret_of(request.headers.get("Authorization", ""))
        if secret is not None and hmac.compare_digest(sha256(secret).digest(), self._digest):
            return
        self._metrics.auth_failures_total.inc(kind)
        if secret is not None:  # a browser's first request has no password: not an attempt
            self._failed(source)
        raise web.HTTPUnauthorized(
            text="login required: any user name, OFFHOOK_CONSOLE_TOKEN as the password (or as a bearer token)\n",
            headers={"WWW-Authenticate": 'Basic realm="Offhook", charset="UTF-8"'},
        )

    def _recent(self, source: str) -> float:
        failures, at_s = self._failures.get(source, (0.0, 0.0))
        return max(0.0, failures - (self._clock() - at_s) / FAILURE_S)

    def _locked_s(self, source: str) -> float:
        return (self._recent(source) - (FAILURES_MAX - 1)) * FAILURE_S

    def _failed(self, source: str) -> None:
        self._failures[source] = self._recent(source) + 1, self._clock()
        self._failures.move_to_end(source)
        while len(self._failures) > MAX_SOURCES:
            self._failures.popitem(last=False)
