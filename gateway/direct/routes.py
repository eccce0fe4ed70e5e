"""The page of direct sessions, and what it asks the gateway for.

GET  /console/direct?agent=NAME    the page; /console/direct/static/FILE its scripts
POST /console/direct               begin a session: `{"agent"}` -> `{"session_id", "key", "url", "greeting"}`
POST /console/direct/ID/tool       `{"key", "id", "name", "arguments"}` -> the message to the model, and what follows
POST /console/direct/ID/cancel     `{"key", "id"}`: the model takes the call back
POST /console/direct/ID/end        `{"key"}`

The token for the model is that of `POST /console/token`. All need the console's sign-in; a session's `key` belongs to
the page that began it. Files, address and messages of the model are the provider's, handed in as `Provider`.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call import prompts
from offhook.gateway.conversation.commands import Prompt
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.direct.session import DirectSession
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.store.record import CallRecord, ToolRecord
from offhook.gateway.tools import Tool
from offhook.gateway.web.access import Access
from offhook.gateway.web.files import HEADERS, PageFiles
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics

__all__ = ["DirectSessions", "Keeper", "Provider"]

LIFE_S = 1_800.0  # as the token's: then a page that has not said that it ended is given up
CALLER = "web:direct"  # the record's caller
ID_MAX = 200  # characters of a tool call's id and name


class Provider(Protocol):
    """A model that a page can talk to. `page_files`: the page's files; page.html is the page."""

    page_files: Path

    def page_url(self) -> str:
        """The address of the WebSocket; the token is its `access_token`."""

    def page_message(
        self, agent: Agent, tool: Tool | None, request: tuple[str, str], response: dict[str, Any], *, silent: bool
    ) -> dict[str, Any]:
        """A tool's result as the page is to send it. `request`: the model's id and name of the call."""


class Keeper(Protocol):
    """Where sessions are kept: as calls are."""

    def started(self, record: CallRecord) -> None: ...

    def tool_finished(self, record: CallRecord, rules: tuple[str, ...], tool: ToolRecord) -> None: ...

    def ended(self, record: CallRecord, rules: tuple[str, ...]) -> None: ...


class DirectSessions:
    """`offered`: the agents whose model a page can talk to, by name; `tools_of(name)`: an agent's tools at the moment;
    `model_of(agent)`: its model's name, for the record. `most`: sessions at once.

    `draining()`: no new ones. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        provider: Provider | None,
        offered: Mapping[str, Agent],
        tools_of: Callable[[str], Mapping[str, Tool]],
        model_of: Callable[[Agent], str],
        access: Access,
        limits: Limits,
        metrics: Metrics,
        keeper: Keeper,
        redactor: Redactor,
        *,
        most: int,
        simulated: bool,
        effects: frozenset[str],
        draining: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._provider, self._offered, self._tools_of, self._model_of = provider, offered, tools_of, model_of
        self._access, self._limits = access, limits
        self._metrics, self._keeper, self._redactor = metrics, keeper, redactor
        self._most, self._simulated, self._effects = most, simulated, effects
        self._draining, self._clock = draining, clock
        self._live: dict[str, tuple[str, DirectSession]] = {}  # with its key
        self._closing: set[asyncio.Task[None]] = set()
        if provider is not None:
            where = urlsplit(provider.page_url())
            policy = HEADERS["Content-Security-Policy"]
            connect = policy.replace("connect-src 'self'", f"connect-src 'self' {where.scheme}://{where.netloc}")
            headers = {**HEADERS, "Content-Security-Policy": connect}
            self._files = PageFiles("/console/direct", provider.page_files, "page.html", access, headers)

    def routes(self) -> list[web.RouteDef]:
        """Beside the console's; none where no page can talk to a model."""
        if self._provider is None or not self._offered or not self._most:
            return []
        return [
            *self._files.routes(),
            web.post("/console/direct", self._begin),
            web.post("/console/direct/{id}/tool", self._tool),
            web.post("/console/direct/{id}/cancel", self._cancel),
            web.post("/console/direct/{id}/end", self._end),
        ]

    def offers(self, agent: str) -> bool:
        """Whether this agent has the page."""
        return agent in self._offered

    def tick(self, now_s: float) -> None:
        """Give up the sessions whose tokens have expired."""
        for session_id, (_, session) in list(self._live.items()):
            if now_s - session.began_s > LIFE_S:
                self._over(session_id, Ending.STREAM_LOST)

    async def close(self) -> None:
        """End all; returns once their records are kept."""
        for session_id in list(self._live):
            self._over(session_id, Ending.SERVER_STOPPED)
        await asyncio.gather(*self._closing, return_exceptions=True)

    # --- a session

    async def _begin(self, request: web.Request) -> web.Response:
        await self._files.check_access(request, acts=True)
        name = str((await self._limits.json(request)).get("agent", ""))
        if name not in self._offered:
            text = f"no such agent, or its model takes no page: one of {', '.join(self._offered)}\n"
            raise web.HTTPBadRequest(text=text, headers=HEADERS)
        if self._draining():
            raise web.HTTPServiceUnavailable(text="this gateway is draining: try another\n", headers=HEADERS)
        if len(self._live) >= self._most:
            text = "as many direct sessions as calls from browsers are allowed: end one first\n"
            self._limits.refuse("too_many", web.HTTPTooManyRequests(text=text, headers=HEADERS))
        assert self._provider is not None
        agent = self._offered[name]
        session_id, key = f"direct-{secrets.token_hex(12)}", secrets.token_urlsafe(32)
        record = CallRecord(
            call_sid=session_id,
            agent=name,
            model=self._model_of(agent),
            caller=CALLER,
            simulated=self._simulated,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        facts = {
            "call_sid": session_id,
            "caller": CALLER,
            "dialled": "",
            "direction": record.direction,
            "simulated": self._simulated,
            "effects": self._effects,
            "variables": dict(agent.variables),
        }
        session = DirectSession(
            agent,
            self._tools_of(name),
            record,
            facts,
            metrics=self._metrics,
            redactor=self._redactor,
            clock=self._clock,
            finished=lambda tool: self._keeper.tool_finished(record, agent.redact, tool),
        )
        self._live[session_id] = key, session
        self._keeper.started(record)
        greeting = prompts.text_of(Prompt.GREETING, agent) if agent.greeting.text else ""
        begun = {"session_id": session_id, "key": key, "url": self._provider.page_url(), "greeting": greeting}
        return _json({**begun, "simulated": self._simulated}, 201)

    async def _asked(self, request: web.Request) -> tuple[DirectSession, dict[str, Any]]:
        """The session of a page's request, and the request's body. Raises 4xx."""
        await self._files.check_access(request, acts=True)
        body = await self._limits.json(request)
        key, session = self._live.get(request.match_info["id"], ("", None))
        given = str(body.get("key", "")).encode("utf-8", "surrogatepass")
        if session is None or not hmac.compare_digest(key.encode(), given):
            self._metrics.auth_failures_total.inc("stream_token")
            raise web.HTTPNotFound(text="no such session of this page\n", headers=HEADERS)
        return session, body

    async def _tool(self, request: web.Request) -> web.Response:
        session, body = await self._asked(request)
        call_id, name, arguments = body.get("id"), body.get("name"), body.get("arguments", {})
        texts = isinstance(call_id, str) and isinstance(name, str) and 0 < len(call_id) <= ID_MAX >= len(name)
        if not (texts and isinstance(arguments, dict)):
            text = f"id and name must be strings of at most {ID_MAX} characters, arguments an object\n"
            self._limits.refuse("bad_field", web.HTTPBadRequest(text=text, headers=HEADERS))
        if session.is_full:
            text = "this session has called as many tools as one may\n"
            self._limits.refuse("too_many", web.HTTPTooManyRequests(text=text, headers=HEADERS))
        ran = await session.run(str(call_id), str(name), arguments)
        if ran is None:
            return _json({"cancelled": True}, 409)
        assert self._provider is not None
        tool = self._tools_of(session.agent.name).get(str(name))
        silent = tool is not None and tool.silent
        request_of = str(call_id), str(name)
        message = self._provider.page_message(session.agent, tool, request_of, ran.response, silent=silent)
        follows = {"prompts": ran.prompts, "outcome": ran.outcome, "ending": ran.ending, "target": ran.target}
        return _json({"message": message, **follows})

    async def _cancel(self, request: web.Request) -> web.Response:
        session, body = await self._asked(request)
        session.cancel(str(body.get("id", "")))
        return _json({})

    async def _end(self, request: web.Request) -> web.Response:
        await self._asked(request)
        self._over(request.match_info["id"], Ending.CALLER_HUNG_UP)
        return _json({})

    def _over(self, session_id: str, ending: Ending) -> None:
        _, session = self._live.pop(session_id)

        async def close() -> None:
            try:
                await session.close(ending)
            finally:
                self._keeper.ended(session.record, session.agent.redact)

        task = asyncio.create_task(close(), name=f"end of {session_id}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _json(value: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, content_type="application/json", status=status, headers=HEADERS)
