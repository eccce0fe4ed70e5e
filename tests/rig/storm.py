"""Calls through a cluster one of whose gateways is killed: what each moved call went through, by the carrier and the
model, which know nothing of the gateway's code.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offhook.gateway.live.peers import HOP
from offhook.gateway.rehearsal.cluster.calls import owner_of
from offhook.gateway.rehearsal.cluster.processes import AUTH_TOKEN, CONSOLE_TOKEN, PUBLIC, Cluster
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from tests.rig.model import id_after

__all__ = ["Storm", "StormCall"]


@dataclass
class StormCall:
    """One call and what became of it. Seconds from the moment its stream was closed."""

    call: SimulatedCall
    sessions: list[SessionRecord] = field(default_factory=list)
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def moved(self) -> bool:
        return len(self.call.truth.streams) > 1

    @property
    def closed_s(self) -> float:
        """After the kill, when its first stream was closed at the carrier."""
        assert self.call.truth.streams[0].closed_s is not None
        return self.call.truth.streams[0].closed_s

    @property
    def audio_s(self) -> float | None:
        """Until the caller's audio reached the model session that goes on."""
        arrivals = [at_s for session in self.sessions for at_s, _ in session.audio_arrivals if at_s > self.closed_s]
        return min(arrivals) - self.closed_s if arrivals else None

    @property
    def resumed(self) -> bool:
        """The model session was resumed with the handle."""
        return any(session.resumed_from is not None for session in self.sessions)

    @property
    def told(self) -> list[str]:
        """What the model was told after the move."""
        return [t.text for session in self.sessions for t in session.texts if t.at_s > self.closed_s]


class Storm:
    """`count` calls through a cluster. They last until `hang_up`."""

    def __init__(self, rig: Cluster, model: ModelServer, count: int) -> None:
        self._rig, self._model = rig, model
        self.calls = [
            StormCall(SimulatedCall(rig.url, [], public_url=PUBLIC, auth_token=AUTH_TOKEN)) for _ in range(count)
        ]
        self._tasks: list[asyncio.Task[Any]] = []

    async def begin(self, spread_s: float = 0.05) -> None:
        """Place them; returns once all are connected and the agent is heard."""
        for one in self.calls:
            self._tasks.append(asyncio.create_task(one.call.run()))
            await asyncio.sleep(spread_s)
        async with asyncio.timeout(30):
            while not all(one.call.truth.agent for one in self.calls):
                await asyncio.sleep(0.02)

    def busiest(self) -> str:
        """The gateway with most of them."""
        owners = [owner_of(one.call) for one in self.calls if not one.call.over]
        return max(set(owners), key=owners.count)

    def on(self, name: str) -> list[StormCall]:
        """The calls that this gateway has."""
        return [one for one in self.calls if owner_of(one.call) == name and not one.call.over]

    async def go_on(self, calls: list[StormCall], within_s: float = 30.0) -> None:
        """Wait until each of these calls has moved, and the agent has said the rest."""
        async with asyncio.timeout(within_s):
            while not all(one.moved and self._said_the_rest(one) for one in calls):
                await asyncio.sleep(0.05)

    def _said_the_rest(self, one: StormCall) -> bool:
        """The model has said it, and the caller hears no more."""
        mine = (s for s in self._model.sessions if s.setup and id_after("plan", s.setup) == one.call.call_sid)
        said = any(s.resumed_from is not None and any(r.ended == "complete" for r in s.replies) for s in mine)
        return said and not one.call.truth.agent[-1].open

    def hang_up(self) -> None:
        """All callers do."""
        for one in self.calls:
            one.call.hang_up()

    def kill(self, name: str) -> None:
        self._rig.gateways[name].signal(signal.SIGKILL)

    async def end(self) -> Mapping[str, StormCall]:
        """Wait for the calls, collect what the model and the gateways have of them."""
        await asyncio.gather(*self._tasks)
        by_sid = {one.call.call_sid: one for one in self.calls}
        async with asyncio.timeout(10):
            while True:
                records = await self._records(list(by_sid))
                if all(records.values()):
                    break
                await asyncio.sleep(0.1)
        for session in self._model.sessions:
            if one := by_sid.get(id_after("plan", session.setup)):
                one.sessions.append(session)
        for sid, found in records.items():
            by_sid[sid].records = found
        return by_sid

    async def _records(self, call_sids: Sequence[str]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """Every record of these calls, with the gateway that has it, of those that run."""
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {sid: [] for sid in call_sids}
        headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}", HOP: "1"}  # its own, without its peers'
        for name, gateway in self._rig.gateways.items():
            for sid in call_sids if gateway.runs else ():
                url = f"{gateway.admin_url}/console/api/calls/{sid}"
                async with self._rig.http.get(url, headers=headers) as answer:
                    record = await answer.json() if answer.status == 200 else {}
                    if record.get("end_reason"):
                        found[sid].append((name, record))
        return found
