"""HTTP tools: a request to a service as the agent file describes it, and its answer for the model.

`guard` decides what may be reached, `request` what is sent, `body` how an answer is read. Here: time, size, retries,
the circuit breaker, and errors twice, a plain sentence for the model and the details for the operator.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from offhook.gateway.agent.spec import ToolSettings
from offhook.gateway.agent.tools import HttpTool
from offhook.gateway.errors import OperatorError
from offhook.gateway.retry_after import retry_after_s
from offhook.gateway.tools import Repeat, Tool, ToolCall, ToolError, ToolHost
from offhook.gateway.tools.breaker import Breaker
from offhook.gateway.tools.conduct import conducted, given_parameters
from offhook.gateway.tools.environment import Environment
from offhook.gateway.tools.http.body import MediaType, decoded, inflate, media_type, parsed
from offhook.gateway.tools.http.guard import AddressRefused, GuardedResolver, url_refusal
from offhook.gateway.tools.http.request import Request, arguments_named, request_of, select

__all__ = ["HttpClient"]

ATTEMPTS = 3
PAUSES_S = (0.2, 0.6)  # between attempts, each up to half as long again: callers are waiting
LAST_ATTEMPT_MIN_S = 0.5
CONNECTIONS_PER_HOST = 25  # a service that hangs must not take the connections of the others
TEXT_MAX = 500  # characters of a refusal, for the model and the record
_SAFE = ("GET", "HEAD")
_REPEATABLE = ("GET", "HEAD", "PUT", "DELETE")
_PASSING = (429, 500, 502, 503, 504)  # may be gone in a moment
_UNKNOWN = " It is not known whether this took effect: check before you try again."


@dataclass(frozen=True, slots=True)
class _Failure:
    """Of one attempt: the sentence for the model, the record, and whether another attempt makes sense."""

    reason: str  # of `ToolError`
    message: str
    record: str
    again: bool = False
    sent: bool = True  # the service may have acted on it
    wait_s: float = 0.0  # at least this long before another attempt (`Retry-After`)


class HttpClient:
    """What the HTTP tools of all agents of a process share: connections, and a circuit breaker for each host.

    `start` before the first call, `close` after the last. `resolver` looks names up (the system's unless given),
    `clock` gives monotonic seconds.
    """

    def __init__(
        self, *, resolver: AbstractResolver | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolver, self._clock = resolver, clock
        self._breakers: dict[str, Breaker] = defaultdict(Breaker)
        # Two, since a pooled connection into the private network must not serve a tool that may not go there.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def start(self) -> None:
        for private in (False, True):
            self._sessions[private] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=GuardedResolver(private=private, resolver=self._resolver),
                    limit_per_host=CONNECTIONS_PER_HOST,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a small body can inflate to a large one
                trust_env=False,  # a proxy would connect to what the guard never saw
            )

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def tool(self, settings: ToolSettings, environ: Mapping[str, str], known: Mapping[str, str] | None = None) -> Tool:
        """The tool of these settings. `known`: the agent's variables. Raises `OperatorError` for what cannot work."""
        assert settings.http is not None
        environment = Environment(environ, f"tool {settings.name}")
        spec = _filled_in(settings.http, environment)
        try:
            url = URL(spec.url.replace("{", "").replace("}", ""))
            refusal = url_refusal(url, private=spec.allow_private)
        except ValueError as error:
            refusal = str(error)
        if refusal:
            raise OperatorError(f"tool {settings.name}: http.url: {environment.mask(refusal)}")
        origin = url.origin()
        named = arguments_named(spec)
        parameters = given_parameters(settings) or {
            "type": "object",
            "properties": {name: {"type": "string"} for name in named},
            "required": named,
        }

        async def run(call: ToolCall, host: ToolHost) -> Any:
            try:
                return await self._run(spec, origin, settings.timeout_s, environment, call, known or {})
            except ToolError as error:
                where = f"{settings.http.method} {settings.http.url}" if settings.http else ""
                record = environment.mask(f"{where}: {error.record or error}")
                raise ToolError(environment.mask(str(error)), record, error.reason) from None

        tool = Tool(settings.name, settings.description, parameters, run, timeout_s=0.0, repeat=_repeat_of(spec))
        return conducted(tool, settings)

    async def _run(
        self,
        spec: HttpTool,
        origin: URL,
        timeout_s: float,
        environment: Environment,
        call: ToolCall,
        known: Mapping[str, str],
    ) -> Any:
        facts = {key: value for key, value in call.facts.items() if isinstance(value, str)}
        of_call = call.facts.get("variables")
        variables = {**known, **(of_call if isinstance(of_call, dict) else {}), **facts}
        request = request_of(spec, call.arguments, variables)
        if request.url.origin() != origin:  # cannot happen; if it does, nothing is sent
            raise ToolError(
                "This service may not be reached.", f"the values lead to {request.url.origin()}", "address_refused"
            )
        if spec.method not in _SAFE:
            request.headers["Idempotency-Key"] = call.idempotency_key
        repeatable = _repeat_of(spec) is not Repeat.NEVER
        host = f"{request.url.host}:{request.url.port}"
        breaker = self._breakers[host]
        deadline_s = self._clock() + timeout_s * 0.95  # our own sentence is better than the runner's timeout
        attempt = 0
        while True:
            if not breaker.admits(self._clock()):
                raise ToolError(
                    "The service is out of order just now. Offer to try again in a while.",
                    f"not sent: {host} failed {breaker.failures_max} times in a row, so its circuit breaker is open",
                    "left_alone",
                )
            attempt += 1
            well: bool | None = None
            try:
                limit_s = max(0.05, min(spec.attempt_s, deadline_s - self._clock()))
                found = await self._attempt(spec, request, limit_s, environment)
                well = not (isinstance(found, _Failure) and found.again)
            finally:
                breaker.ended(self._clock(), well)
            if not isinstance(found, _Failure):
                return found
            pause_s = PAUSES_S[attempt - 1] * random.uniform(1.0, 1.5) if attempt < ATTEMPTS else 0.0
            pause_s = max(pause_s, found.wait_s)  # a service that wants more time than there is gets no other attempt
            time_left = self._clock() + pause_s + LAST_ATTEMPT_MIN_S < deadline_s
            if found.again and (repeatable or not found.sent) and attempt < ATTEMPTS and time_left:
                await asyncio.sleep(pause_s)
                continue
            unknown = _UNKNOWN if found.again and found.sent and spec.method not in _SAFE else ""
            times = f" ({attempt} attempts)" if attempt > 1 else ""
            raise ToolError(found.message + unknown, found.record + times, found.reason)

    async def _attempt(self, spec: HttpTool, request: Request, limit_s: float, environment: Environment) -> Any:
        """One request: the result for the model, or a `_Failure`."""
        headers = {"Accept": "application/json, text/*;q=0.5", "Accept-Encoding": "gzip", **request.headers}
        if request.body is not None:
            headers.setdefault("Content-Type", "application/json")
        session = self._sessions.get(spec.allow_private)
        if session is None:
            raise ToolError(
                "This does not work just now.", "called before the tools were started, or after they were closed"
            )
        try:
            async with session.request(
                spec.method,
                request.url,
                data=request.body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit_s),
            ) as response:
                body, cut = await _body(response, spec.max_bytes)
        except TimeoutError:
            return _Failure("timeout", "The service did not answer in time.", f"no answer within {limit_s:.1f} s", True)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                record = str(error.os_error)
                return _Failure("address_refused", "This service may not be reached.", record, sent=False)
            record = f"no connection: {error.os_error or error}"
            return _Failure("unreachable", "The service cannot be reached just now.", record, True, sent=False)
        except (aiohttp.ClientError, OSError) as error:
            record = f"the connection broke: {type(error).__name__}"
            return _Failure("unreachable", "The connection to the service broke.", record, True)
        except ValueError as error:
            return _Failure("bad_answer", "The service gave an answer that cannot be read.", str(error))
        kind = media_type(response.headers.get("Content-Type", ""))
        try:
            text = decoded(body, kind, cut=cut)
        except ValueError as error:
            if response.status < 400:
                return _Failure("bad_answer", "The service gave an answer that cannot be read.", str(error))
            text = body.decode("utf-8", "replace")
        return _result(spec, response, kind, environment.mask(text), cut)


def _repeat_of(spec: HttpTool) -> Repeat:
    if spec.method in _SAFE:
        return Repeat.SAFE
    return Repeat.BY_KEY if spec.method in _REPEATABLE or spec.idempotent else Repeat.NEVER


def _filled_in(spec: HttpTool, environment: Environment) -> HttpTool:
    def filled(value: Any, field: str) -> Any:
        if isinstance(value, str):
            return environment.fill(value, field)
        if isinstance(value, dict):
            return {key: filled(inner, f"{field}.{key}") for key, inner in value.items()}
        return [filled(inner, field) for inner in value] if isinstance(value, list) else value

    parts = {field: filled(getattr(spec, field), f"http.{field}") for field in ("url", "headers", "query", "body")}
    return msgspec.structs.replace(spec, **parts)


async def _body(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """The body, at most `limit` bytes of it, and whether there was more. The rest is never read."""
    data, ended = bytearray(), True
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > limit:
            ended = False
            break
    body, cut = inflate(bytes(data), ", ".join(response.headers.getall("Content-Encoding", ())), limit, ended=ended)
    if cut or not ended:
        response.close()  # or the rest would be read to use the connection again
        cut = True
    return body, cut


def _result(spec: HttpTool, response: aiohttp.ClientResponse, kind: MediaType, text: str, cut: bool) -> Any:
    """The result for the model, or a `_Failure`."""
    status = response.status
    if 300 <= status < 400:
        target = response.headers.get("Location", "nowhere")[:TEXT_MAX]
        record = f"answered {status}, a redirect to {target}: redirects are not followed, put the final address in url"
        return _Failure("status", "The service has moved.", record)
    if status >= 400:
        record = f"answered {status}: {text[:TEXT_MAX]}"
        if status >= 500 or status == 429:
            wait_s = retry_after_s(response.headers)
            record += f" (Retry-After: {wait_s:g} s)" if wait_s else ""
            message = f"The service had an error ({status})."
            return _Failure("status", message, record, status in _PASSING, wait_s=wait_s)
        if status in (401, 403, 407):  # between the operator and the service
            return _Failure("status", f"The service did not allow this ({status}).", record)
        why = f": {text[:TEXT_MAX]}" if text and kind.name != "text/html" else "."
        return _Failure("status", f"The service refused this ({status}){why}", record)
    if status == 206:
        record = "answered 206: a part of the answer, though the whole was requested"
        return _Failure("bad_answer", "The service gave an answer that cannot be used.", record)
    if spec.method == "HEAD" or status in (204, 205) or not text.strip():
        return {"status": status}
    if not kind.is_json and not spec.select:
        if not kind.is_text:
            return _Failure("bad_answer", "The service gave an answer that is not text.", f"answered with {kind.name}")
        return text + (f" [cut after {spec.max_bytes} bytes]" if cut else "")
    if cut:
        record = f"the answer is longer than max_bytes ({spec.max_bytes})"
        return _Failure("bad_answer", "The service's answer was too long to be used. Ask for less.", record)
    try:
        value = parsed(text)
    except ValueError as error:
        record = f"not JSON but {kind.name or 'without a Content-Type'}: {error}"
        return _Failure("bad_answer", "The service gave an answer that cannot be read.", record)
    try:
        return select(value, spec.select) if spec.select else value
    except LookupError as error:
        record = f"select {spec.select}: {error}"
        return _Failure("bad_answer", "The service's answer lacks the field that is needed.", record)
