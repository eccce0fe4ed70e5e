"""What an operator does to calls from the console. Each action is entered in the call's record, with who did it.

POST /console/api/steer/SID/ACTION    hang_up, transfer (`to`), say (`text`), note (`text`), hold, resume
POST /console/api/steer               place a call (`to`, `agent`)

Requests come from the console's own page, signed in with more than the read-only token (`Access.check`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from offhook.gateway.errors import OperatorError
from offhook.gateway.live.peers import Passed
from offhook.gateway.web.access import Access, who_of
from offhook.gateway.web.api import CallControl
from offhook.gateway.web.limits import Limits

__all__ = ["OperatorActions"]

TEXT_MAX = 500  # characters of a line or a note


class OperatorActions:
    """The routes; the calls are behind `control`. `elsewhere`: the answer of the process that has the call, where there
    are others; None: none has it.
    """

    def __init__(
        self,
        access: Access,
        limits: Limits,
        control: CallControl,
        elsewhere: Callable[[web.Request, Mapping[str, str]], Awaitable[Passed | None]] | None = None,
    ) -> None:
        self._access, self._limits, self._control, self._elsewhere = access, limits, control, elsewhere

    def routes(self) -> list[web.RouteDef]:
        """Beside the console's."""
        return [web.post("/console/api/steer", self._place), web.post("/console/api/steer/{sid}/{action}", self._act)]

    async def _body(self, request: web.Request) -> dict[str, str]:
        await self._access.check(request, acts=True)
        body = await self._limits.json(request)
        if not all(isinstance(value, str) and len(value) <= TEXT_MAX for value in body.values()):
            raise web.HTTPBadRequest(text=f"fields must be strings of at most {TEXT_MAX} characters\n")
        return body

    async def _place(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        try:
            placed: Any = await self._control.call_out(
                body.get("to", ""), body.get("agent", ""), caller_id="", variables={}, placed_by=who_of(request)
            )
        except OperatorError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        return _json(placed, 202)

    async def _act(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        sid, action = request.match_info["sid"], request.match_info["action"]
        detail = body.get("to" if action == "transfer" else "text", "").strip()
        if action in ("transfer", "say", "note") and not detail:
            raise web.HTTPBadRequest(text="write something first\n")
        try:
            done = await self._do(sid, action, detail)
        except OperatorError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        if (
            done is None
            and self._elsewhere is not None
            and (passed := await self._elsewhere(request, body)) is not None
        ):
            return web.Response(status=passed.status, body=passed.body, content_type=passed.content_type)
        if done is None:
            raise web.HTTPNotFound(text="no such call, or no such action\n")
        self._control.keep_action(sid, who_of(request), action, detail, done=done)
        return _json({"done": done}, 200 if done else 409)

    async def _do(self, sid: str, action: str, detail: str) -> bool | None:
        control = self._control
        match action:
            case "hang_up":
                return await control.hang_up(sid)
            case "transfer":
                return control.transfer(sid, detail, whisper="", warm=False)
            case "say":
                return control.say(sid, detail)
            case "note":
                return control.note(sid, detail)
            case "hold":
                return await control.hold(sid, "", "")
            case "resume":
                return await control.resume(sid)
        return None


def _json(value: object, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
