"""The console's routes: the page, its JSON, and its stream of server-sent events. Read only.

GET /console                              the page; GET /console/static/FILE its scripts and styles
GET /console/events?window=5m             a snapshot every second
GET /console/api/percentiles?window=5m    every segment's percentiles: 1m, 5m or 1h
GET /console/api/calls                    records of ended calls, newest first
GET /console/api/calls/SID                the record of one ended call
GET /console/api/calls/SID/PART           what can be downloaded of it, see `web.history`
GET /console/api/history                  past calls; history/names, history/percentiles
GET /console/api/view/SID                 a call as the page shows it, active or ended
GET /console/api/me                       what this sign-in may do: `{"acts": true}`
GET /console/api/node?window=5m           this process' part of a snapshot, for its peers
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from aiohttp import web

from offhook.gateway.live.peers import HOP
from offhook.gateway.store import Records
from offhook.gateway.store.columns import without_number
from offhook.gateway.store.record import CallRecord
from offhook.gateway.web.access import Access
from offhook.gateway.web.console.boards import Boards
from offhook.gateway.web.console.nodes import NodeView, counts_of, segments_of, whole
from offhook.gateway.web.console.views import (
    WINDOWS,
    LiveCall,
    SegmentView,
    active_call,
    bars_of,
    ended_call,
    last_turns,
)
from offhook.gateway.web.files import HEADERS, PageFiles
from offhook.gateway.web.history import History
from offhook.metrics.catalogue import Metrics
from offhook.metrics.segments import OUTSIDE

__all__ = ["Console"]

STATIC = Path(__file__).parent / "static"
EVERY_S = 1.0
REFRESH_S = {"1m": 0.0, "5m": 0.0, "1h": 5.0}  # an hour's percentiles are expensive and change slowly
AT_ONCE = 10  # calls rendered before the loop is yielded to the calls themselves
MAX_CLIENTS = 50
SEND_S = 5.0  # to send one snapshot; a slower client is disconnected and can reconnect
SHOWN_ENDED = 25
SHOWN_TURNS = 12
MAX_LISTED = 1_000


class Console:
    """The console of one process. `live` and `live_record` give the active calls, `records` the ended ones.

    `peers(path)`: what the other processes answer to the same request, those that do; a request of a peer's is answered
    for this process alone. `may_listen(sid)`: whether an operator may hear this active call. `about`: fixed facts shown
    on the page (version, capacity, agents, simulated).
    """

    def __init__(
        self,
        access: Access,
        metrics: Metrics,
        records: Records,
        *,
        live: Callable[[], Sequence[LiveCall]],
        live_record: Callable[[str], CallRecord | None],
        draining: Callable[[], bool],
        about: Mapping[str, object],
        history: History | None = None,
        boards: Boards | None = None,
        peers: Callable[[str], Awaitable[Sequence[bytes]]] | None = None,
        may_listen: Callable[[str], bool] = lambda sid: False,
    ) -> None:
        self._may_listen = may_listen
        self._peers = peers
        self._access, self._metrics, self._records = access, metrics, records
        self._live, self._live_record, self._draining = live, live_record, draining
        self._about, self._history = dict(about), history
        self._boards = boards or Boards({})
        self._files = PageFiles("/console", STATIC, "index.html", access)
        self._clients: dict[str, int] = {}  # window -> clients
        self._latest: dict[str, bytes] = {}
        self._cached: dict[str, tuple[float, list[SegmentView]]] = {}
        self._updated = asyncio.Condition()
        self._broadcaster: asyncio.Task[None] | None = None
        self._closed = False

    def routes(self) -> list[web.RouteDef]:
        """For the server's application."""
        return [
            *self._files.routes(),
            web.get("/console/events", self._events, allow_head=False),
            web.get("/console/api/percentiles", self._percentiles),
            web.get("/console/api/calls", self._calls),
            web.get("/console/api/calls/{sid}", self._call),
            web.get("/console/api/view/{sid}", self._view),
            web.get("/console/api/me", self._me),
            web.get("/console/api/node", self._node),
            *self._history_routes(),
        ]

    def _history_routes(self) -> list[web.RouteDef]:
        if (history := self._history) is None:
            return []
        return [
            web.get("/console/api/history", partial(self._past, history.calls)),
            web.get("/console/api/history/names", partial(self._past, history.names)),
            web.get("/console/api/history/percentiles", partial(self._past, history.percentiles)),
            web.get("/console/api/calls/{id}/{part}", partial(self._past, history.part)),
        ]

    async def close(self) -> None:
        """Disconnect every client."""
        self._closed = True
        async with self._updated:
            self._updated.notify_all()
        if self._broadcaster is not None:
            self._broadcaster.cancel()
            await asyncio.gather(self._broadcaster, return_exceptions=True)
        await self._boards.close()

    async def _past(
        self, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], request: web.Request
    ) -> web.StreamResponse:
        await self._files.check_access(request)
        try:
            response = await answer(request)
        except web.HTTPException as refused:
            refused.headers.update(HEADERS)
            raise
        response.headers.update(HEADERS)
        return response

    # --- JSON

    async def _percentiles(self, request: web.Request) -> web.Response:
        await self._files.check_access(request)
        window = _window(request)
        view = await self._whole(window)
        segments = [msgspec.structs.replace(row, points=[]) for row in segments_of(view)]
        return _json({"window_s": WINDOWS[window][0], "segments": segments, "outside": OUTSIDE})

    async def _calls(self, request: web.Request) -> web.Response:
        await self._files.check_access(request)
        records = [without_number(record) for record in self._records.recent(MAX_LISTED)]
        if answers := await self._asked(request):
            for answer in answers:
                records += msgspec.json.decode(answer, type=list[CallRecord])
            records.sort(key=lambda record: record.started_at, reverse=True)
        return _json(records[:MAX_LISTED])

    async def _call(self, request: web.Request) -> web.Response:
        await self._files.check_access(request)
        record = await self._records.get(request.match_info["sid"])
        if record is not None:
            return _json(without_number(record))
        for answer in await self._asked(request):
            return _passed(answer)
        raise web.HTTPNotFound(text="unknown call, or it has not ended yet\n", headers=HEADERS)

    async def _view(self, request: web.Request) -> web.Response:
        await self._files.check_access(request)
        sid = request.match_info["sid"]
        live = self._live_record(sid)
        record = live or await self._records.get(sid)
        if record is None:
            for answer in await self._asked(request):
                return _passed(answer)
            raise web.HTTPNotFound(text="unknown call\n", headers=HEADERS)
        bars = [bars_of(turn, record.tool_calls) for turn in record.turns]
        heard = live is not None and self._may_listen(sid)
        return _json({"live": live is not None, "listen": heard, "record": without_number(record), "bars": bars})

    async def _me(self, request: web.Request) -> web.Response:
        await self._files.check_access(request)
        return _json({"acts": not self._access.only_reads(request)})

    async def _node(self, request: web.Request) -> web.Response:
        await self._files.check_access(request)
        return _json(await self._own(_window(request)))

    async def _asked(self, request: web.Request) -> Sequence[bytes]:
        """What the other processes answer to this request; nothing to a peer's."""
        return await self._peers(request.raw_path) if self._peers is not None and HOP not in request.headers else ()

    # --- live

    async def _events(self, request: web.Request) -> web.StreamResponse:
        await self._files.check_access(request)
        window = _window(request)
        if self._closed or sum(self._clients.values()) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text="too many open consoles\n", headers=HEADERS)
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        self._clients[window] = self._clients.get(window, 0) + 1
        try:
            if self._broadcaster is None or self._broadcaster.done():
                self._broadcaster = asyncio.create_task(self._broadcast(), name="console")
            seen = b""
            while not self._closed:
                if (latest := self._latest.get(window, b"")) and latest is not seen:
                    seen = latest
                    async with asyncio.timeout(SEND_S):
                        await response.write(b"event: snapshot\ndata: " + latest + b"\n\n")
                async with self._updated:
                    await self._updated.wait()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # gone
        finally:
            self._clients[window] -= 1
            if not self._clients[window]:
                self._latest.pop(window, None)  # the next client gets no stale snapshot
        return response

    async def _broadcast(self) -> None:
        """One snapshot a second for all clients of a window; ends with the last client."""
        loop = asyncio.get_running_loop()
        while any(self._clients.values()):
            due_s = loop.time() + EVERY_S
            for window in [name for name, clients in self._clients.items() if clients]:
                self._latest[window] = await self._snapshot(window)
            async with self._updated:
                self._updated.notify_all()
            await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def _snapshot(self, window: str) -> bytes:
        now_s = asyncio.get_running_loop().time()
        cached_s, segments = self._cached.get(window, (0.0, []))
        fresh = not segments or now_s - cached_s >= REFRESH_S[window]
        view = await self._whole(window, counts=fresh)
        if fresh:
            segments = segments_of(view)
            self._cached[window] = now_s, segments
        return msgspec.json.encode(
            {
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "window": window,
                **self._about,
                "draining": self._draining(),
                "calls": view.calls,
                "ended": view.ended,
                "ended_count": view.ended_count,
                "turns": view.turns,
                "segments": segments,
                "outside": OUTSIDE,
                "boards": await self._boards.now(),
            }
        )

    async def _whole(self, window: str, *, counts: bool = True) -> NodeView:
        """Of this process and its peers."""
        views = [await self._own(window, counts=counts)]
        for answer in await self._peers(f"/console/api/node?window={window}") if self._peers is not None else ():
            views.append(msgspec.json.decode(answer, type=NodeView))
            await asyncio.sleep(0)
        return whole(views, SHOWN_ENDED, SHOWN_TURNS)

    async def _own(self, window: str, *, counts: bool = True) -> NodeView:
        live = self._live()
        ended = list(self._records.recent(SHOWN_ENDED))
        view = NodeView(ended_count=len(self._records))
        for call in live:
            view.calls.append(active_call(call))
            if len(view.calls) % AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        view.turns = last_turns([*(call.record for call in live), *ended[:SHOWN_TURNS]], SHOWN_TURNS)
        await asyncio.sleep(0)
        view.ended = [ended_call(record) for record in ended]
        if counts:
            await counts_of(self._metrics, window, view)
        return view


def _window(request: web.Request) -> str:
    window = request.query.get("window", "5m")
    if window not in WINDOWS:
        raise web.HTTPBadRequest(text=f"window must be one of {', '.join(WINDOWS)}\n", headers=HEADERS)
    return window


def _passed(answer: bytes) -> web.Response:
    return web.Response(body=answer, content_type="application/json", headers=HEADERS)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=HEADERS)
