"""What other processes answer: requests for a call of theirs, their part of the console, the metrics of all workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from urllib.parse import quote

import msgspec
from aiohttp import web

from offhook.gateway.live import CallStage
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.peers import HOP, WHO, Passed
from offhook.gateway.telephony.moves import Moves
from offhook.gateway.web.access import who_of
from offhook.gateway.workers.whole import joined
from offhook.gateway.workers.worker import Worker

__all__ = ["Elsewhere"]

CONSOLE_S = 0.3  # what the console waits for a peer; one that is later is not shown this time
CONTROL_S = 2.0  # what a request of the API waits for the process that has the call
MOVING = b'{"error": "the call is moving to another process: try again"}'


class Elsewhere:
    """The other processes, as the listeners of this one (`node`) ask them. `operator_token`: which all of them take."""

    def __init__(self, fleet: Fleet, moves: Moves, node: str, operator_token: str, worker: Worker | None) -> None:
        self.fleet, self._moves, self.node = fleet, moves, node
        self._operator_token, self._worker = operator_token, worker

    async def of_api(self, request: web.Request, body: bytes) -> Passed | None:
        """The answer of the process that has this call, to a request of the API; None: no process has it."""
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        return await self._pass_on(request, request.match_info["id"], headers, body)

    async def of_operator(self, request: web.Request, body: Mapping[str, str]) -> Passed | None:
        """The same for what an operator does on the console."""
        headers = {
            "Authorization": f"Bearer {self._operator_token}",
            "Content-Type": "application/json",
            WHO: quote(who_of(request)),
        }
        return await self._pass_on(request, request.match_info["sid"], headers, msgspec.json.encode(body))

    async def _pass_on(
        self, request: web.Request, call_id: str, headers: Mapping[str, str], body: bytes
    ) -> Passed | None:
        if HOP in request.headers:
            return None
        held, peers = await self.fleet.holder(call_id), self.fleet.peers
        if held is not None and held.stage is CallStage.ENDED:
            return None
        ask = partial(peers.request, headers=headers, body=body, timeout_s=CONTROL_S)
        if held is not None and held.owner != self.node:
            answer = await ask(held.owner, request.method, request.raw_path)
            if answer is None and request.path.endswith("/hang_up"):
                done = await self._moves.hang_up_of_dead(call_id, held.owner)
                answer = Passed(200, b'{"done": true}', "application/json") if done else None
            return answer or Passed(409, MOVING, "application/json")
        for name in list(peers.nodes) if held is None else ():  # an outbound call's own id
            answer = await ask(name, request.method, request.raw_path)
            if answer is not None and answer.status != 404:
                return answer
        return None

    async def whole_metrics(self, own: bytes, accept: str) -> bytes:
        """The workers' metrics as one page. A worker that does not answer is left out, as a dead process is."""
        worker = self._worker
        assert worker is not None
        answers = await self._of_peers("/metrics", worker.siblings, CONTROL_S, accept)
        pages = {worker.slot: own} | {worker.siblings[name]: answer for name, answer in answers.items()}
        return await joined((str(slot), pages[slot]) for slot in sorted(pages))

    async def consoles(self, path_qs: str) -> list[bytes]:
        return list((await self._of_peers(path_qs, list(self.fleet.peers.nodes), CONSOLE_S)).values())

    async def _of_peers(
        self, path_qs: str, names: Iterable[str], timeout_s: float, accept: str = "*/*"
    ) -> dict[str, bytes]:
        """What these processes answer to an operator's request, those that do, by name."""
        names, peers = list(names), self.fleet.peers
        headers = {"Authorization": f"Bearer {self._operator_token}", "Accept": accept}
        asked = (peers.request(name, "GET", path_qs, headers=headers, timeout_s=timeout_s) for name in names)
        answers = zip(names, await asyncio.gather(*asked), strict=True)
        return {name: answer.body for name, answer in answers if answer is not None and answer.status == 200}
