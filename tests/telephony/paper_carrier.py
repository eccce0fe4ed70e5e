"""A carrier on paper, and what a switchboard needs beside it: everything that happens is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.errors import PeerError
from offhook.gateway.telephony.carrier import Feature, Hold, Keys, NextStep
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.telephony.outbound import OutboundCall

__all__ = ["PaperCarrier", "leg_at"]


@dataclass
class PaperCarrier:
    """Does what it is asked at once, unless `refuses` holds an error for it."""

    name: str = "paper"
    can: frozenset[Feature] = frozenset(Feature)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    refuses: list[PeerError] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    rings: dict[str, list[str]] = field(default_factory=dict)  # what was placed, by address
    hangs: bool = False  # it takes a call, and its answer never comes
    hung: asyncio.Event = field(default_factory=asyncio.Event)  # it has taken one

    def _ask(self, *what: Any) -> None:
        if self.refuses:
            raise self.refuses.pop(0)
        self.asked.append(what)

    def routes(self) -> list[web.RouteDef]:
        return []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def place(self, call: OutboundCall, agent: Agent) -> str:
        self._ask("place", call.to)
        self.rings.setdefault(call.to, []).append(f"OUT-{call.id}")
        if self.hangs:
            self.hung.set()
            await asyncio.sleep(3600)
        return f"OUT-{call.id}"

    async def placed(self, call: OutboundCall, since_s: float) -> Sequence[str]:
        if self.refuses:
            raise self.refuses.pop(0)
        return self.rings.get(call.to, [])

    async def hang_up(self, call_id: str) -> bool:
        self._ask("hang_up", call_id)
        return True

    def follow(self, call_id: str, step: NextStep, now_s: float) -> None:
        self.asked.append(("follow", call_id, step))

    async def interrupt(self, call_id: str, what: Hold | Keys) -> bool:
        self._ask("interrupt", call_id, what)
        return True

    async def resume(self, call_id: str) -> bool:
        self._ask("resume", call_id)
        return True

    async def fall_back(self, call_id: str, fallback: Fallback) -> bool:
        self._ask("fall_back", call_id, fallback)
        return True

    async def bring(self, call_id: str) -> bool:
        self._ask("bring", call_id)
        return True

    def tick(self, now_s: float) -> None: ...

    def forget(self, call_id: str) -> None:
        self.forgotten.append(call_id)


def leg_at(call_id: str = "CA1", **more: Any) -> Leg:
    """A leg of a paper carrier."""
    return Leg(call_id, PaperCarrier(), "+15550199", Fallback(), **more)
