"""The HTTP API beside the console: outbound calls, call control, metrics, health, browser tokens.

POST /calls                    place a call; GET /calls/ID its state, POST /calls/ID/ACTION controls it
GET  /calls /calls/ID/PART     past calls, see `history`; GET /percentiles their latency
GET  /openapi.json             all of these, described
GET  /metrics /livez /readyz   for Prometheus and for a process supervisor
GET  /lb                       for a load balancer
POST /console/token            an ephemeral token for a browser that connects to the model itself (off by default)

Requests and answers of /calls are JSON, errors too: `{"error": "..."}`. Calls are reached through `CallControl` alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.live.peers import HOP, Passed
from offhook.gateway.web.access import Access, Lock, secret_of
from offhook.gateway.web.history import PARTS, History
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics
from offhook.metrics.exposition import CONTENT_TYPE, OPENMETRICS_TYPE

__all__ = ["KEY", "KEY_HEADER", "Api", "CallControl", "Conflicting", "TokenFor", "Unavailable"]

ACTIONS = ("hang_up", "hold", "resume", "transfer", "press")

KEY_HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")

log = logging.getLogger(__name__)

# A token for one browser session with the named agent ("": the first), and its model's name. Raises `OperatorError`
# for an unknown agent or settings without tokens, `ModelRefused`.
TokenFor = Callable[[str], Awaitable[tuple[str, str]]]
NO_PART = f"{{action:(?!(?:{'|'.join(PARTS)})$)[^/]+}}"  # so that a part answers 405 with its own methods


class Unavailable(OperatorError):
    """No call can be placed at the moment: answered with 503."""


class Conflicting(OperatorError):
    """The idempotency key belongs to another request: answered with 409."""


class CallControl(Protocol):
    """The process's calls, as the API controls them. `call_id`: of an outbound call, or the carrier's of any call.

    Methods that act return whether it was done; None for an unknown call.
    """

    async def call_out(
        self, to: str, agent: str, *, caller_id: str, variables: dict[str, str], placed_by: str = "", key: str = ""
    ) -> msgspec.Struct:
        """Queue an outbound call, or find the one that was queued with this idempotency key; its state. `placed_by`:
        the operator, for the call's record. Raises `OperatorError` for a call that cannot be placed, `Unavailable`,
        `Conflicting`.
        """
        ...

    async def outbound(self, call_id: str) -> msgspec.Struct | None:
        """The state of an outbound call. Raises `Unavailable`."""
        ...

    async def hang_up(self, call_id: str) -> bool | None: ...

    async def hold(self, call_id: str, music_url: str, line: str) -> bool | None: ...

    async def resume(self, call_id: str) -> bool | None: ...

    def transfer(self, call_id: str, to: str, *, whisper: str, warm: bool) -> bool | None:
        """Raises `OperatorError` for a target that cannot be called."""
        ...

    def press(self, call_id: str, digits: str) -> bool | None: ...

    def say(self, call_id: str, text: str) -> bool | None:
        """Have the agent say it to the caller, word for word."""
        ...

    def note(self, call_id: str, text: str) -> bool | None:
        """Have the model take it into account."""
        ...

    def keep_action(self, call_id: str, who: str, what: str, detail: str, *, done: bool) -> None:
        """Enter in the call's record what an operator did."""
        ...


class Api:
    """`lock`: of the API token; without a secret no call can be placed or controlled.

    `not_ready()`: why `/readyz` answers 503 and `/lb` 404, "" when ready.

    `elsewhere(request, body)`: the answer of the process that has the call, where there are others; None: none has it.

    `whole(page, accept)`: this process's metrics and those of the others that share its listener, as one page.

    `token_for` None: browser tokens are off. `exemplars`: metrics carry trace IDs, in OpenMetrics only.
    """

    def __init__(
        self,
        limits: Limits,
        access: Access,
        metrics: Metrics,
        control: CallControl,
        *,
        lock: Lock,
        not_ready: Callable[[], str],
        token_for: TokenFor | None,
        exemplars: bool,
        history: History | None = None,
        document: Mapping[str, Any] | None = None,
        elsewhere: Callable[[web.Request, bytes], Awaitable[Passed | None]] | None = None,
        whole: Callable[[bytes, str], Awaitable[bytes]] | None = None,
    ) -> None:
        self._elsewhere, self._whole = elsewhere, whole
        self._limits, self._access, self._metrics, self._control = limits, access, metrics, control
        self._lock = lock
        self._history, self._document = history, msgspec.json.encode(document)
        self._not_ready, self._token_for, self._exemplars = not_ready, token_for, exemplars

    def routes(self) -> list[web.RouteDef]:
        """Of calls."""
        return [
            *self._past_routes(),
            web.post("/calls", _errors_as_json(self._place)),
            web.get("/calls/{id}", _errors_as_json(self._outbound)),
            *(web.post(f"/calls/{{id}}/{action}", _errors_as_json(self._act)) for action in ACTIONS),
            web.post(f"/calls/{{id}}/{NO_PART}", _errors_as_json(self._unknown_action)),
        ]

    def _past_routes(self) -> list[web.RouteDef]:
        if (history := self._history) is None:
            return []
        return [
            web.get("/openapi.json", _errors_as_json(self._described)),
            web.get("/calls", _errors_as_json(partial(self._past, history.calls))),
            web.get("/percentiles", _errors_as_json(partial(self._past, history.percentiles))),
            *(web.get(f"/calls/{{id}}/{part}", _errors_as_json(partial(self._past, history.part))) for part in PARTS),
        ]

    def health_routes(self) -> list[web.RouteDef]:
        """For supervisors and balancers: whether the process lives, and whether it takes calls."""
        return [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/lb", self._lb)]

    def operator_routes(self) -> list[web.RouteDef]:
        """What the console token opens."""
        return [web.get("/metrics", self._render_metrics), web.post("/console/token", self._browser_token)]

    # --- calls

    async def _authorized(self, request: web.Request) -> dict[str, Any]:
        """The JSON body of a request that carries the API token. Raises 4xx."""
        given = secret_of(request.headers.get("Authorization", ""))
        if not await self._lock.check(request, given, "api"):  # the console token does not fit
            raise web.HTTPUnauthorized(
                text="set OFFHOOK_API_TOKEN and send it as a bearer token", headers={"WWW-Authenticate": "Bearer"}
            )
        return await self._limits.json(request) if request.method == "POST" else {}

    async def _unknown_action(self, request: web.Request) -> web.Response:
        await self._authorized(request)
        raise web.HTTPNotFound(text=f"there are {', '.join(ACTIONS)}")

    async def _past(
        self, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], request: web.Request
    ) -> web.StreamResponse:
        await self._authorized(request)
        return await answer(request)

    async def _described(self, request: web.Request) -> web.Response:
        self._limits.check_rate(request)
        return web.Response(body=self._document, content_type="application/json")

    async def _place(self, request: web.Request) -> web.Response:
        body = await self._authorized(request)
        if unknown := body.keys() - {"to", "agent", "from", "variables"}:
            raise web.HTTPBadRequest(text=f"unknown field: {min(unknown)[:60]}")
        texts = _strings(body, "to", "agent", "from")
        variables = body.get("variables", {})
        if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
            raise web.HTTPBadRequest(text="variables must be an object whose values are strings")
        key = request.headers.get(KEY_HEADER, "")
        if KEY_HEADER in request.headers and not KEY.fullmatch(key):
            raise web.HTTPBadRequest(text=f"{KEY_HEADER} must be 1 to 255 printable ASCII characters")
        try:
            placed = await self._control.call_out(
                texts["to"], texts["agent"], caller_id=texts["from"], variables=variables, key=key
            )
        except Unavailable as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        except Conflicting as error:
            raise web.HTTPConflict(text=str(error)) from None
        except OperatorError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return _json(placed, status=202)

    async def _outbound(self, request: web.Request) -> web.Response:
        await self._authorized(request)
        try:
            placed = await self._control.outbound(request.match_info["id"])
        except Unavailable as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        if placed is None:
            if (passed := await self._passed_on(request, {})) is not None:
                return passed
            raise web.HTTPNotFound(text="unknown call")
        return _json(placed)

    async def _act(self, request: web.Request) -> web.Response:
        """`hang_up`, `hold` (music, say), `resume`, `transfer` (to, whisper, warm), `press` (digits)."""
        body = await self._authorized(request)
        texts = _strings(body, "music", "say", "to", "whisper", "digits")
        if texts["music"] and not texts["music"].startswith(("https://", "http://")):
            raise web.HTTPBadRequest(text="music must be the URL of a sound file")
        warm = body.get("warm", False)
        if not isinstance(warm, bool):
            raise web.HTTPBadRequest(text="warm must be true or false")
        call_id, control = request.match_info["id"], self._control
        done: bool | None = None
        match request.path.rpartition("/")[2]:
            case "hang_up":
                try:
                    done = await control.hang_up(call_id)
                except OperatorError as error:
                    raise web.HTTPServiceUnavailable(text=str(error)) from None
            case "hold":
                done = await control.hold(call_id, texts["music"], texts["say"])
            case "resume":
                done = await control.resume(call_id)
            case "transfer" if texts["to"]:
                try:
                    done = control.transfer(call_id, texts["to"], whisper=texts["whisper"], warm=warm)
                except OperatorError as error:
                    raise web.HTTPBadRequest(text=str(error)) from None
            case "press" if texts["digits"]:
                done = control.press(call_id, texts["digits"])
        if done is None:
            if (passed := await self._passed_on(request, body)) is not None:
                return passed
            raise web.HTTPNotFound(text="unknown call or action")
        return _json({"done": done}, status=200 if done else 409)

    async def _passed_on(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        """The answer of the process that has this call; None: no other one has."""
        if self._elsewhere is None:
            return None
        passed = await self._elsewhere(request, msgspec.json.encode(body) if request.method == "POST" else b"")
        if passed is None:
            return None
        headers = {"Retry-After": "1"} if passed.status == 409 else None
        return web.Response(status=passed.status, body=passed.body, content_type=passed.content_type, headers=headers)

    # --- for operators

    async def _render_metrics(self, request: web.Request) -> web.Response:
        await self._access.check(request, "metrics")
        openmetrics = self._exemplars and "application/openmetrics-text" in request.headers.get("Accept", "")
        body = await self._metrics.render_in_slices(openmetrics)
        if self._whole is not None and HOP not in request.headers:
            body = await self._whole(body, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": OPENMETRICS_TYPE if openmetrics else CONTENT_TYPE})

    async def _livez(self, request: web.Request) -> web.Response:
        self._limits.check_health_rate(request)
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        self._limits.check_health_rate(request)
        if reason := self._not_ready():
            return web.Response(status=503, text=f"{reason}\n")
        return web.Response(text="ready\n")

    async def _lb(self, request: web.Request) -> web.Response:
        """For a balancer that closes the streams of a server that fails: draining or full is 404, no failure.

        HAProxy's `http-check disable-on-404`: no new calls, and the ones there are stay.
        """
        self._limits.check_health_rate(request)
        if reason := self._not_ready():
            return web.Response(status=404, text=f"{reason}\n")
        return web.Response(text="takes calls\n")

    async def _browser_token(self, request: web.Request) -> web.Response:
        """A token for one session from a browser to the model, locked to an agent's setup: `{"agent": NAME}`."""
        await self._access.check(request, acts=True, programs=True)
        if self._token_for is None:
            raise web.HTTPNotFound(text="browser tokens are off: set OFFHOOK_BROWSER_TOKENS=1\n")
        name = _strings(await self._limits.json(request), "agent")["agent"]
        try:
            token, model = await self._token_for(name)
        except OperatorError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        except ModelRefused as error:
            log.warning("browser token: %s", error)
            raise web.HTTPBadGateway(text="the model's API did not issue a token\n") from None
        answer = _json({"token": token, "model": model})
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _strings(body: dict[str, Any], *names: str) -> dict[str, str]:
    """These fields of a body, "" where absent. Raises 400 for one that is not a string."""
    found = {name: body.get(name, "") for name in names}
    if wrong := [name for name, value in found.items() if not isinstance(value, str)]:
        raise web.HTTPBadRequest(text=f"{', '.join(wrong)} must be {'strings' if wrong[1:] else 'a string'}")
    return found


def _errors_as_json(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Handler:
    """The same handler, its HTTP errors answered as JSON: `{"error": ...}`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPError as error:
            refusal = _json({"error": (error.text or error.reason).strip()}, status=error.status)
            for name in ("WWW-Authenticate", "Retry-After"):
                if name in error.headers:
                    refusal.headers[name] = error.headers[name]
            return refusal

    return answer


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
