"""Listening in: an operator hears both sides of a live call in the browser, half a second late.

POST /console/api/listen/SID    `{"token"}`: good for one socket, within ten seconds
GET  /console/listen/socket     the WebSocket; its first message is `{"type": "start", "token"}`

Needs what steering needs: the console's own page, signed in with more than the read-only token. The socket sends
binary messages of whole pairs, 160 bytes of the caller and 160 of the agent (mu-law, 8 kHz), `muted` while the caller
enters a secret, and `over`. A token of another process leads there: its messages are passed on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec
from aiohttp import WSMsgType, web

from offhook.gateway.live.peers import HOP, Passed
from offhook.gateway.web.access import Access, who_of
from offhook.gateway.web.connections import prove
from offhook.gateway.web.files import HEADERS
from offhook.gateway.web.limits import Limits, is_full, source_of
from offhook.gateway.web.relay import Peer, relay
from offhook.metrics.catalogue import Metrics

__all__ = ["Heard", "ListenIn"]

TOKEN_LIFE_S = 10.0  # the page opens its socket at once
START_S = 5.0
SEND_EVERY_S = 0.1  # five pairs in one message; of the half second that a listener is late
SEND_S = 5.0  # for one message: a browser that stopped reading is cut off
WAITING_SPARE = 8  # sockets without a start, beside one for each listener
MESSAGE_MAX = 1_024  # a listener sends its start, and nothing else


class Heard(Protocol):
    """A call as one operator hears it (`call.tap.Listening`)."""

    muted: bool
    over: bool

    def take(self) -> bytes: ...

    def leave(self) -> None: ...


class _Start(msgspec.Struct, frozen=True, tag="start"):
    token: str


class ListenIn:
    """The routes of one process. `most`: who may listen at once. `node`: its name among its peers.

    `may_listen(sid)`: why not, "" where they may; None for a call that is not here. `listen(sid, who)` begins: None
    where they may not any more. `elsewhere`: the answer of the process that has the call; `peer`: a socket to one by
    its name, None where it is gone.
    """

    def __init__(
        self,
        access: Access,
        limits: Limits,
        metrics: Metrics,
        *,
        most: int,
        node: str,
        listen: Callable[[str, str], Heard | None],
        may_listen: Callable[[str], str | None],
        elsewhere: Callable[[web.Request, Mapping[str, str]], Awaitable[Passed | None]] | None,
        peer: Peer,
        clock: Callable[[], float],
    ) -> None:
        self._access, self._limits, self._metrics, self._clock = access, limits, metrics, clock
        self._most, self._node, self._listen, self._may_listen = most, node, listen, may_listen
        self._elsewhere, self._peer = elsewhere, peer
        self._tokens: dict[str, tuple[str, str, float]] = {}  # -> call, who, until when; oldest first
        self._waiting: list[str] = []  # the sources of sockets without a start
        self._listening = 0

    def routes(self) -> list[web.RouteDef]:
        """Beside the console's."""
        return [
            web.post("/console/api/listen/{sid}", self._begin),
            web.get("/console/listen/socket", self._socket, allow_head=False),
        ]

    async def _begin(self, request: web.Request) -> web.Response:
        await self._access.check(request, acts=True)
        body = await self._limits.json(request)
        sid, now_s = request.match_info["sid"], self._clock()
        why_not = self._may_listen(sid)
        if why_not is None:
            passed = None if self._elsewhere is None else await self._elsewhere(request, body)
            if passed is None:
                raise web.HTTPNotFound(text="no such call, or it is over\n", headers=HEADERS)
            return web.Response(
                status=passed.status, body=passed.body, content_type=passed.content_type, headers=HEADERS
            )
        if why_not:
            raise web.HTTPConflict(text=f"{why_not}\n", headers=HEADERS)
        self._tokens = {token: given for token, given in self._tokens.items() if given[2] > now_s}
        if self._listening + len(self._tokens) >= self._most:
            self._refuse_full("as many listen as OFFHOOK_LISTENERS allows: stop one first")
        token = f"{self._node}.{secrets.token_urlsafe(32)}"
        self._tokens[token] = sid, who_of(request), now_s + TOKEN_LIFE_S
        answer = msgspec.json.encode({"token": token})
        return web.Response(status=201, body=answer, content_type="application/json", headers=HEADERS)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        await self._access.check_socket(request)
        source = source_of(request.remote or "")
        if is_full(self._waiting, source, self._most + WAITING_SPARE):
            self._refuse_full("too many sockets without a start")
        socket = web.WebSocketResponse(compress=False, heartbeat=20.0, max_msg_size=MESSAGE_MAX, timeout=2.0)
        if not socket.can_prepare(request).ok:
            self._limits.refuse("bad_format", web.HTTPBadRequest(text="this is a WebSocket address\n"))
        if (transport := request.transport) is None:  # the page left before the upgrade was answered
            return web.Response(status=400)
        self._waiting.append(source)
        try:
            await socket.prepare(request)
            token = await self._await_start(socket)
        except ConnectionError:
            return socket if socket.prepared else web.Response(status=400)
        finally:
            self._waiting.remove(source)
        if token is None:
            return socket
        node = token.rpartition(".")[0]
        if node != self._node and HOP not in request.headers:
            await self._pass_on(request, socket, node, token)
            return socket
        sid, who, until_s = self._tokens.pop(token, ("", "", 0.0))
        heard = self._listen(sid, who) if self._clock() < until_s else None
        if heard is None:
            self._metrics.auth_failures_total.inc("stream_token")
            await socket.close(code=1008, message=b"unknown token, or no such call")
            return socket
        prove(request)
        self._metrics.listen_ins_total.inc()
        await self._send(socket, transport, heard)
        return socket

    async def _await_start(self, socket: web.WebSocketResponse) -> str | None:
        """The token of the first message; None, counted, after having closed a socket whose first one is another."""
        reason = "timeout"
        try:
            async with asyncio.timeout(START_S):
                message = await socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return None
            reason = "bad_order"
            if message.type is WSMsgType.TEXT:
                return msgspec.json.decode(message.data, type=_Start).token
        except TimeoutError:
            pass
        except (ValueError, RecursionError):
            reason = "bad_field"
        self._metrics.input_errors_total.inc("http", reason)
        await socket.close(code=1008, message=b"no start")
        return None

    async def _send(self, socket: web.WebSocketResponse, transport: asyncio.Transport, heard: Heard) -> None:
        """Until the call is over or the page has left. What the page sends is read for its close alone."""
        self._listening += 1
        leaving, muted = asyncio.create_task(_left(socket), name="listener"), False
        try:
            while not leaving.done():
                over = heard.over
                async with asyncio.timeout(SEND_S):
                    if heard.muted is not muted:
                        muted = heard.muted
                        await socket.send_str(f'{{"type":"muted","muted":{str(muted).lower()}}}')
                    if codes := heard.take():
                        await socket.send_bytes(codes)
                    if over:
                        await socket.send_str('{"type":"over"}')
                        await socket.close()
                        return
                await asyncio.wait([leaving], timeout=SEND_EVERY_S)
        except TimeoutError:
            transport.abort()
        except ConnectionError:
            pass  # gone
        finally:
            self._listening -= 1
            heard.leave()
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _pass_on(self, request: web.Request, socket: web.WebSocketResponse, node: str, token: str) -> None:
        """The call is another process's: what that sends is sent on."""
        async with self._peer(node, "/console/listen/socket") as there:
            if there is None:
                await socket.close(code=1008, message=b"unknown token, or its process is gone")
                return
            await there.send_str(msgspec.json.encode(_Start(token)).decode())
            await relay(socket, there, partial(prove, request))

    def _refuse_full(self, text: str) -> None:
        self._limits.refuse("too_many", web.HTTPTooManyRequests(text=f"{text}\n", headers=HEADERS))


async def _left(socket: web.WebSocketResponse) -> None:
    """Wait until the page has closed its socket."""
    while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass
