"""Who may use what: the secrets of the console and of the API, and requests of web pages in insecure mode.

The console token is accepted as a bearer token, as the password of HTTP Basic with any user name, so that a browser
prompts for it, and in the cookie that the sign-in link sets. No header proves that a request is local: a proxy and a
tunnel are local peers, too. Without a token the console is open in insecure mode alone, where all of the gateway is.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64decode
from binascii import Error as BadBase64
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from math import ceil
from urllib.parse import unquote, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from offhook.gateway.live.peers import HOP, WHO
from offhook.gateway.web.connections import prove
from offhook.gateway.web.limits import Limits, source_of
from offhook.metrics.catalogue import Metrics

__all__ = ["Access", "Lock", "is_local_host", "programs_only", "refuse_foreign", "secret_of", "who_of"]

FORWARDING = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP")
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
FAILURES_MAX = 10  # wrong secrets of one source in a row; after that one more every FAILURE_S
FAILURE_S = 6.0
HELD_S = 1.0  # what the answer to a further wrong secret waits
MAX_SOURCES = 10_000
COOKIE = "offhook_console"


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


def who_of(request: web.Request) -> str:
    """Who acts, for a record: the user name that the browser gave for the console's password, and its address."""
    if _is_of_peer(request) and WHO in request.headers:
        return _shown(unquote(request.headers[WHO]), 100)
    name = ""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with suppress(BadBase64, ValueError):
            name = b64decode(value.strip(), validate=True).partition(b":")[0].decode("utf-8", "replace")
    return f"{_shown(name, 40) or 'console'} ({request.remote or 'no address'})"


def _shown(name: str, most: int) -> str:
    return "".join(letter for letter in name if letter.isprintable())[:most].strip()


def _is_of_peer(request: web.Request) -> bool:
    """Whether another process passes on what its console was asked for. No page can send either header elsewhere."""
    return HOP in request.headers and request.headers.get("Authorization", "").partition(" ")[0].lower() == "bearer"


def is_local_host(host: str) -> bool:
    """Whether a Host header names this machine. A page whose own name resolves to 127.0.0.1 sends another one."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower() in LOCAL_NAMES


def refuse_foreign(request: web.Request, metrics: Metrics, *, own_page: bool = False) -> None:
    """In insecure mode: refuse what a web page, a proxy or a tunnel sends, and count it. Raises 403.

    `own_page`: a page of the gateway itself may send it.
    """
    headers = request.headers
    origins, sites = headers.getall("Origin", []), headers.getall("Sec-Fetch-Site", [])
    own_origin, own_sites = ([f"http://{request.host}"], ("none", "same-origin")) if own_page else ([], ("none",))
    if own_page and headers.get("Sec-Fetch-Mode") == "navigate" and not origins:
        own_sites = (*own_sites, *sites)  # a link elsewhere leads to the page
    if (
        is_local_host(request.host)
        and all(origin in own_origin for origin in origins)
        and all(site in own_sites for site in sites)
        and not any(name in headers for name in FORWARDING)
    ):
        return
    metrics.auth_failures_total.inc("insecure")
    raise web.HTTPForbidden(
        text="OFFHOOK_INSECURE=1 answers programs on this machine only: no web page, proxy or tunnel\n"
    )


def programs_only(metrics: Metrics) -> Middleware:
    """For the application in insecure mode: `refuse_foreign` on all paths but those that `Access` guards."""

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(("/console", "/metrics")):
            refuse_foreign(request, metrics)
        return await handler(request)

    return checked


class Lock:
    """One secret that requests show. The right one always passes; wrong ones are counted, logged and slowed per source.

    `secret` "": nothing passes. `name`: of its variable, for the log. `clock`: monotonic seconds.
    """

    def __init__(self, secret: str, name: str, limits: Limits, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._digest = sha256(secret.encode()).digest() if secret else b""
        self._name, self._limits, self._metrics, self._clock = name, limits, metrics, clock
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # source -> (failures, counted at)

    def fits(self, given: bytes | None) -> bool:
        return bool(self._digest) and given is not None and hmac.compare_digest(sha256(given).digest(), self._digest)

    async def check(self, request: web.Request, given: bytes | None, kind: str) -> bool:
        """Whether the request shows the secret, `given`. Raises 429; `kind`: the label a failure is counted under.

        None is no attempt: a browser's first request has no password.
        """
        if self.fits(given):
            prove(request)
            return True
        self._metrics.auth_failures_total.inc(kind)
        self._limits.check_rate(request)
        if given is None or not self._digest:
            return False
        self._limits.warn_throttled(f"refused a wrong {self._name}", request.remote or "")
        wait_s = self._failed(source_of(request.remote or ""))
        if wait_s > 0:
            await asyncio.sleep(HELD_S)
            headers = {"Retry-After": str(ceil(wait_s))}
            raise web.HTTPTooManyRequests(text="too many wrong secrets: try again later\n", headers=headers)
        return False

    def _failed(self, source: str) -> float:
        """Count a failure; how long until wrong secrets of this source are answered at once again, in seconds."""
        now_s = self._clock()
        failures, at_s = self._failures.get(source, (0.0, 0.0))
        failures = min(max(0.0, failures - (now_s - at_s) / FAILURE_S) + 1.0, FAILURES_MAX + 1.0)
        self._failures[source] = failures, now_s
        self._failures.move_to_end(source)
        while len(self._failures) > MAX_SOURCES:
            self._failures.popitem(last=False)
        return (failures - FAILURES_MAX) * FAILURE_S


class Access:
    """Access control of the console and of `/metrics`. Refusals are counted as `auth_failures_total`.

    `token` "": open, for insecure mode. `insecure`: requests of web pages other than the console's are refused. `link`:
    the token was made at start, and a browser may sign in with a link that contains it. `read_token`: another that
    opens the console to look at, and nothing that acts. `public_url`: where a proxy serves the console.
    """

    def __init__(
        self,
        token: str,
        limits: Limits,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        insecure: bool = False,
        link: bool = False,
        read_token: str = "",
        public_url: str = "",
    ) -> None:
        self._lock = Lock(token, "console token", limits, metrics, clock)
        self._limits, self._metrics = limits, metrics
        self._open, self._insecure = not token, insecure
        self._link = link
        # What the cookie holds: not the token, which opens more. The same in all processes with this token.
        self._session = sha256(b"session:" + token.encode()).hexdigest()
        self._read_lock = Lock(read_token, "read-only console token", limits, metrics, clock)
        self._public_netloc = urlsplit(public_url).netloc

    def routes(self) -> list[web.RouteDef]:
        """The sign-in link, where there is one."""
        return [web.get("/console/sign-in", self._sign_in, allow_head=False)] if self._link else []

    async def check(
        self, request: web.Request, kind: str = "console", *, acts: bool = False, programs: bool = False
    ) -> None:
        """Admit a request. Raises 401, 403 or 429; `kind`: the label that a refusal is counted under.

        `acts`: it changes something, or costs. It must come from the console's own page, or with `programs` from a
        program, and with more than the read-only token.
        """
        of_program = programs and "Origin" not in request.headers
        if acts and not of_program and not _is_of_peer(request):
            self.check_origin(request)
        if self._insecure:
            refuse_foreign(request, self._metrics, own_page=True)
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin") and request.headers.get("Sec-Fetch-Mode") != "navigate":
            # Another site's page: the browser would add the stored password.
            self._metrics.auth_failures_total.inc(kind)
            raise web.HTTPForbidden(text="cross-site requests are refused\n")
        if self._open and self._insecure:
            self._limits.check_rate(request)
            return
        cookie = request.cookies.get(COOKIE, "") if self._link else ""
        if cookie and hmac.compare_digest(cookie.encode("utf-8", "surrogatepass"), self._session.encode()):
            prove(request)
            return
        given = secret_of(request.headers.get("Authorization", ""))
        if self._read_lock.fits(given):
            prove(request)
            if not acts:
                return
            self._metrics.auth_failures_total.inc(kind)
            raise web.HTTPForbidden(text="this token only reads: sign in with OFFHOOK_CONSOLE_TOKEN to act\n")
        if await self._lock.check(request, given, kind):
            return
        hint = "the link printed at start signs a browser in" if self._link else "OFFHOOK_CONSOLE_TOKEN as the password"
        raise web.HTTPUnauthorized(
            text=f"login required: {hint} (any user name; programs: as a bearer token)\n",
            headers={"WWW-Authenticate": 'Basic realm="Offhook", charset="UTF-8"'},
        )

    def only_reads(self, request: web.Request) -> bool:
        """Whether an admitted request shows the read-only token."""
        return self._read_lock.fits(secret_of(request.headers.get("Authorization", "")))

    async def check_socket(self, request: web.Request) -> None:
        """A WebSocket of the console's own page, which shows a token in its first message, or of a process that passes
        it on. Raises as `check`.
        """
        if _is_of_peer(request):
            await self.check(request, acts=True)
            return
        if self._insecure:
            refuse_foreign(request, self._metrics, own_page=True)
        self.check_origin(request)

    def check_origin(self, request: web.Request) -> None:
        """Only the console's own page: a browser names its origin in each request that acts. Raises 403."""
        origin = request.headers.get("Origin", "")
        netloc = urlsplit(origin).netloc if origin.isprintable() else ""
        own = (request.host, self._public_netloc)
        if netloc and netloc in own and (not self._insecure or is_local_host(netloc)):
            return
        self._metrics.auth_failures_total.inc("console")
        self._limits.check_rate(request)
        raise web.HTTPForbidden(text="only the console's own page may do this\n")

    async def _sign_in(self, request: web.Request) -> web.Response:
        """The link printed at start: the token becomes a cookie, and leaves the address bar."""
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        given = request.query.get("token", "").encode("utf-8", "surrogatepass")
        if not await self._lock.check(request, given, "console"):
            raise web.HTTPForbidden(
                text="this link is of another start of the gateway: see its output\n", headers=headers
            )
        answer = web.Response(status=303, headers={**headers, "Location": "/console"})
        answer.set_cookie(COOKIE, self._session, path="/console", httponly=True, samesite="Strict")
        return answer
