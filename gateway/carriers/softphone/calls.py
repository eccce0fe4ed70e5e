"""The softphone's calls: the page, the request that begins a call, its socket, and what follows a lost one.

GET  /console/talk?agent=NAME    the page; /console/talk/static/FILE its scripts and styles
POST /console/talk               begin a call: `{"agent", "wide"}` -> `{"call_id", "key", "token"}`
POST /console/talk/ID            after the socket ended: `{"key"}` -> `{"token"}` of another, or `{"over"}`
POST /console/talk/ID/picture    a JPEG picture for the model, where the agent takes any; its own request, since on the
                                 socket it would hold the audio up
GET  /console/talk/socket        the WebSocket; its first message is `start`, with the token

All but the socket need the console's sign-in; the socket shows the token instead, which is good for one. A call's `key`
belongs to the page that began it: no other can take its audio over.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.line import LineFormats, PictureRefusal
from offhook.gateway.call.pictures import PICTURE_MAX_BYTES, PICTURE_MAX_SIDE
from offhook.gateway.carriers.softphone import messages, stream
from offhook.gateway.config import Settings
from offhook.gateway.live.peers import HOP, Passed
from offhook.gateway.telephony.admission import Admitted
from offhook.gateway.telephony.carrier import Carrier, Kind, Ringing
from offhook.gateway.telephony.status import CallStatus
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.telephony.tokens import node_of
from offhook.gateway.web.access import Access
from offhook.gateway.web.connections import prove
from offhook.gateway.web.files import HEADERS, PageFiles
from offhook.gateway.web.limits import Limits, is_full, source_of
from offhook.gateway.web.relay import Peer, relay
from offhook.metrics.catalogue import Metrics

__all__ = ["Softphones"]

STATIC = Path(__file__).parent / "static"
CALLER = "web:console"  # the record's caller
WAITING_SPARE = 8  # sockets without a start, beside one for each call
READ_MAX_BYTES = 2 * PICTURE_MAX_BYTES  # of a picture; what is smaller, the call judges and counts
REFUSED = {
    PictureRefusal.NOT_ALLOWED: (403, "this agent takes no pictures: set `pictures: true` in its file"),
    PictureRefusal.NOT_JPEG: (415, "this is not a JPEG picture"),
    PictureRefusal.TOO_LARGE: (
        413,
        f"pictures have at most {PICTURE_MAX_SIDE} pixels a side and {PICTURE_MAX_BYTES // 1024} KiB",
    ),
    PictureRefusal.TOO_MANY: (429, "too many pictures: wait a moment"),
}


@dataclass(frozen=True, slots=True)
class _Phone:
    """What the gateway keeps of one page's call."""

    key: str
    source: str
    formats: LineFormats


class Softphones(Carrier):
    """A carrier whose far end is a page: it is called, and calls nobody. What follows a conversation, the page asks for
    when its socket has ended; no other process can bring its calls, for the socket is gone with its own. `agents`: by
    name.

    `elsewhere`: the answer of the process that has the call, where there are others; `peer`: a socket to one by its
    name. The page's requests and its socket may reach any of them.
    """

    name = "softphone"

    def __init__(
        self,
        settings: Settings,
        access: Access,
        metrics: Metrics,
        limits: Limits,
        board: Switchboard,
        agents: Mapping[str, Agent],
        *,
        clock: Callable[[], float],
        elsewhere: Callable[[web.Request, Mapping[str, str]], Awaitable[Passed | None]] | None,
        peer: Peer,
    ) -> None:
        self._settings, self._access, self._metrics, self._limits = settings, access, metrics, limits
        self._board, self._agents, self._clock = board, agents, clock
        self._elsewhere, self._peer = elsewhere, peer
        self._phones: dict[str, _Phone] = {}
        self._waiting: list[str] = []  # the sources of sockets without a start
        self._streams = 0
        self._files = PageFiles("/console/talk", STATIC, "page.html", access)

    def routes(self) -> list[web.RouteDef]:
        """Beside the console's; none when no calls are allowed."""
        if not self._settings.softphone_calls:
            return []
        return [
            *self._files.routes(),
            web.get("/console/talk/socket", self._socket, allow_head=False),
            web.post("/console/talk", self._begin),
            web.post("/console/talk/{sid}", self._after),
            web.post("/console/talk/{sid}/picture", self._picture),
        ]

    def forget(self, call_id: str) -> None:
        self._phones.pop(call_id, None)

    # --- a call

    async def _begin(self, request: web.Request) -> web.Response:
        await self._files.check_access(request, acts=True)
        body = await self._limits.json(request)
        agent = self._agents.get(str(body.get("agent", "")))
        if agent is None:
            raise web.HTTPBadRequest(text=f"no such agent: one of {', '.join(self._agents)}\n", headers=HEADERS)
        source = source_of(request.remote or "")
        live = [phone.source for call_id, phone in self._phones.items() if self._board.call(call_id) is not None]
        if is_full(live, source, self._settings.softphone_calls):
            self._refuse_full("as many calls from browsers as OFFHOOK_SOFTPHONE_CALLS allows: end one first")
        call_id, formats = (
            f"web-{secrets.token_hex(12)}",
            messages.WIDE if body.get("wide") is True else messages.TELEPHONE,
        )
        ringing = Ringing(
            call_id,
            CALLER,
            next(iter(agent.numbers), ""),
            own_number=next(iter(agent.numbers), ""),
            formats=formats,
            status=CallStatus.RINGING,
            agent=agent.name,
        )
        answer = self._board.ring(self, ringing, self._clock(), by_webhook=False)
        if not isinstance(answer, Admitted):
            return _json({"refused": answer.reason.value, "says": answer.fallback.say}, 503)
        phone = self._phones[call_id] = _Phone(secrets.token_urlsafe(32), source, formats)
        begun: dict[str, Any] = {"call_id": call_id, "key": phone.key, "token": answer.token}
        call = self._board.call(call_id)
        if call is not None and call.pictures.per_s:
            every_ms = round(1000 / call.pictures.per_s)
            begun["pictures"] = {"every_ms": every_ms, "side": PICTURE_MAX_SIDE, "bytes": PICTURE_MAX_BYTES}
        return _json({**begun, "simulated": self._settings.simulated}, 201)

    async def _after(self, request: web.Request) -> web.Response:
        """The page's socket ended, and the page did not end it: another socket, or what became of the call."""
        await self._files.check_access(request, acts=True)
        body = await self._limits.json(request)
        call_id, now_s = request.match_info["sid"], self._clock()
        ask = self._elsewhere if call_id not in self._phones else None
        if ask is not None and (passed := await ask(request, body)) is not None:
            return web.Response(
                status=passed.status, body=passed.body, content_type=passed.content_type, headers=HEADERS
            )
        self._check_key(call_id, str(body.get("key", "")))
        leg = self._board.leg(call_id)
        step = self._board.follows(call_id, now_s)
        returns = step is None and leg is not None and leg.reconnect(now_s)
        if returns and (token := self._board.reconnect(call_id, now_s)):
            return _json({"token": token})
        if leg is None:
            return _json({"over": Kind.HANG_UP.value})
        step = step or self._board.give_up(call_id, now_s)
        says = leg.fallback.say if step.kind is Kind.FALLBACK else ""
        return _json({"over": step.kind.value, "target": step.target, "says": says})

    def _check_key(self, call_id: str, given: str) -> None:
        """Raises 404, counted, for another page's call."""
        phone = self._phones.get(call_id)
        if phone is None or not hmac.compare_digest(phone.key.encode(), given.encode("utf-8", "surrogatepass")):
            self._metrics.auth_failures_total.inc("stream_token")
            raise web.HTTPNotFound(text="no such call of this page\n", headers=HEADERS)

    async def _picture(self, request: web.Request) -> web.Response:
        await self._files.check_access(request, acts=True)
        call_id = request.match_info["sid"]
        self._check_key(call_id, request.headers.get("X-Call-Key", ""))
        jpeg = await self._limits.file(request, "image/jpeg", READ_MAX_BYTES)
        call = self._board.call(call_id)
        if call is None or call.ending is not None:
            raise web.HTTPNotFound(text="the call is over\n", headers=HEADERS)
        refusal = call.picture(jpeg)
        if refusal is None:
            return _json({"queued": len(jpeg)}, 202)
        status, text = REFUSED[refusal]
        return web.Response(text=f"{text}\n", status=status, headers=HEADERS)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        await self._access.check_socket(request)
        source = source_of(request.remote or "")
        if is_full(self._waiting, source, self._settings.softphone_calls + WAITING_SPARE):
            self._refuse_full("too many sockets without a start")
        socket = stream.new_socket()
        if not socket.can_prepare(request).ok:
            self._limits.refuse("bad_format", web.HTTPBadRequest(text="this is a WebSocket address\n"))
        if (transport := request.transport) is None:  # the page left before the upgrade was answered
            return web.Response(status=400)
        self._waiting.append(source)
        try:
            await socket.prepare(request)
            start = await stream.await_start(socket, self._metrics)
        except ConnectionError:
            return socket if socket.prepared else web.Response(status=400)
        finally:
            self._waiting.remove(source)
        if start is None:
            return socket
        phone = self._phones.get(start.call_id)
        if phone is None and HOP not in request.headers:
            async with self._peer(node_of(start.token), "/console/talk/socket") as there:
                if there is not None:
                    await there.send_str(msgspec.json.encode(start).decode())
                    await relay(socket, there, partial(prove, request))
                    return socket
        self._streams += 1
        stream_id = f"{start.call_id}-{self._streams}"
        call = self._board.claim(start.call_id, start.token, stream_id, self._clock())
        if call is None or phone is None:
            await socket.close(code=1008, message=b"unknown call or token")
            return socket
        prove(request)
        await stream.carry(
            socket,
            transport,
            call,
            stream_id,
            phone.formats,
            self._metrics,
            self._clock,
            hung_up=self._board.hung_up,
            lost=lambda call: self._board.line_gone(call, self._clock()),
        )
        return socket

    # --- limits

    def _refuse_full(self, text: str) -> None:
        self._limits.refuse("too_many", web.HTTPTooManyRequests(text=f"{text}\n", headers=HEADERS))


def _json(value: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, content_type="application/json", status=status, headers=HEADERS)
