"""Calls we place: a queue that respects the carrier's rate, and each call's status to its end. Pure but for ids.

Twilio places one call a second for an account unless agreed otherwise, and queues the rest for up to a day where
nobody sees them; so they wait here, where they can be counted and refused.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict, deque

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.telephony.leg import FINAL, rank

__all__ = ["LOOK_S", "Outbound", "Placed", "QueueFull", "can_be_called"]

CALLS_PER_S = 1.0
MAX_QUEUED = 1_000  # a quarter of an hour at one a second
LOOK_S = 0.25  # `due` is asked so often: a faster rate is made up for within this
MAX_KEPT = 2_000
BUSY_S = 5.0  # the carrier said 429: let others through first
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}|sips?:[^\s<>\"]{1,200}")
_MAX_VARIABLES = 50


def can_be_called(to: str) -> bool:
    """Whether this is a number (E.164) or a SIP address."""
    return to.isascii() and _NUMBER.fullmatch(to) is not None


class QueueFull(OperatorError):
    """Too many calls are waiting already."""


class Placed(msgspec.Struct, kw_only=True):
    """One call we place, and how far it has come. `status`: waiting, placing, then Twilio's own words; `failed`
    also when Twilio would not take it, with `error`.
    """

    id: str
    to: str
    agent: str
    caller_id: str
    variables: dict[str, str] = {}
    conference: str = ""  # a warm transfer's briefing call: where the one who answers goes then
    status: str = "waiting"
    call_sid: str = ""
    answered_by: str = ""
    error: str = ""

    @property
    def over(self) -> bool:
        return self.status in FINAL

    def told(self, status: str) -> bool:
        """A status callback, in whatever order they come; True when it is news."""
        if rank(status) <= rank(self.status):
            return False
        self.status = status
        return True


class Outbound:
    """The queue. `now_s` is one clock that only grows."""

    def __init__(self, calls_per_s: float = CALLS_PER_S, max_queued: int = MAX_QUEUED) -> None:
        self._gap_s, self._max_queued = 1.0 / calls_per_s, max_queued
        self._waiting: deque[Placed] = deque()
        self._kept: OrderedDict[str, Placed] = OrderedDict()
        self._next_s = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Calls at the carrier that have not been answered: each may need a place at any moment."""
        return sum(p.status in ("placing", "queued", "initiated", "ringing") for p in self._kept.values())

    def submit(
        self,
        to: str,
        agent: Agent,
        *,
        caller_id: str = "",
        variables: dict[str, str] | None = None,
        conference: str = "",
    ) -> Placed:
        """Queue a call. Raises `OperatorError` for one that cannot be placed, `QueueFull`."""
        if not can_be_called(to):
            raise OperatorError(f"cannot call {to[:60]!r}: give a number as +15551234567, or a SIP address")
        caller_id = caller_id or agent.outbound.caller_id or next(iter(agent.numbers), "")
        if not can_be_called(caller_id):
            raise OperatorError(
                f"agent {agent.name!r} has no number to call from: set outbound.caller_id in its file, or `from`"
            )
        if len(variables or {}) > _MAX_VARIABLES:
            raise OperatorError(f"more than {_MAX_VARIABLES} variables")
        if len(self._waiting) >= self._max_queued:
            raise QueueFull(f"{self._max_queued} calls are waiting already: try again later")
        placed = Placed(
            id=secrets.token_hex(8),
            to=to,
            agent=agent.name,
            caller_id=caller_id,
            variables=variables or {},
            conference=conference,
        )
        self._waiting.append(placed)
        self._kept[placed.id] = placed
        while len(self._kept) > MAX_KEPT:
            oldest = next(iter(self._kept.values()))
            if not oldest.over:
                break
            self._kept.popitem(last=False)
        return placed

    def due(self, now_s: float, free: int) -> Placed | None:
        """The call to be placed now, if any may be; `free`: places for calls that are left in this process."""
        if not self._waiting or now_s < self._next_s or free <= self.under_way:
            return None
        behind_s = LOOK_S if self._gap_s < LOOK_S else 0.0  # 0 where asking keeps up: strictly one per gap
        self._next_s = max(self._next_s, now_s - behind_s) + self._gap_s
        placed = self._waiting.popleft()
        placed.status = "placing"
        return placed

    def back_off(self, placed: Placed, now_s: float) -> None:
        """The carrier was too busy: this call is the next one, later."""
        placed.status = "waiting"
        self._waiting.appendleft(placed)
        self._next_s = max(self._next_s, now_s + BUSY_S)

    def cancel(self, placed: Placed) -> bool:
        """Take a call out of the queue; False when it has left it."""
        if placed not in self._waiting:
            return False
        self._waiting.remove(placed)
        placed.status = "canceled"
        return True

    def of_conference(self, conference: str) -> list[Placed]:
        """Briefing calls that are not over."""
        return [p for p in self._kept.values() if p.conference == conference and not p.over]

    def find(self, call_id: str) -> Placed | None:
        return self._kept.get(call_id)

    def stop(self) -> None:
        """The process ends: what is still waiting is not placed."""
        while self._waiting:
            self._waiting.popleft().status = "canceled"
