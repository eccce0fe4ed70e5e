"""Outbound calls: a queue that keeps to the carrier's rate, and each call's status to its end. Pure but for ids.

A carrier places about one call a second for an account unless agreed otherwise, and queues the rest for up to a day
where they cannot be seen. So they wait here, where they are counted and can be refused.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict, deque
from typing import NamedTuple

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import DIALABLE, mistake_in, read_address
from offhook.gateway.telephony.status import FINAL, CallStatus, order_of

__all__ = [
    "BUSY_S",
    "LOOK_S",
    "MAX_QUEUED",
    "IdempotencyKey",
    "KeyReused",
    "OutboundCall",
    "OutboundQueue",
    "QueueFull",
    "check_same",
    "key_of",
    "made_call",
    "to_be_called",
]

CALLS_PER_S = 1.0
MAX_QUEUED = 1_000  # a quarter of an hour at one a second
LOOK_S = 0.25  # the interval at which `due` is called: a faster rate is made up for within it
MAX_KEPT = 2_000
BUSY_S = 5.0  # pause after the carrier answered "too many requests"
MAX_CHARACTERS = 250  # of an address to call
_MAX_VARIABLES = 50
_UNANSWERED = frozenset({CallStatus.PLACING, CallStatus.QUEUED, CallStatus.INITIATED, CallStatus.RINGING})


def to_be_called(to: str) -> str:
    """The normal form of an address that can be called. Raises `OperatorError` that says what to write."""
    what = mistake_in(to, DIALABLE) if len(to) <= MAX_CHARACTERS else "is too long"
    if what:
        raise OperatorError(f"cannot call {to[:60]!r}: it {what}")
    return read_address(to).text


class QueueFull(OperatorError):
    """The queue of outbound calls is full."""


class KeyReused(OperatorError):
    """The idempotency key belongs to a request that asked for something else."""


class IdempotencyKey(NamedTuple):
    """An idempotency key, and the digest of what was asked with it."""

    text: str
    digest: str


def key_of(text: str, *asked: object) -> IdempotencyKey | None:
    """None for a request without a key."""
    return IdempotencyKey(text, hashlib.sha256(msgspec.json.encode(asked)).hexdigest()) if text else None


class OutboundCall(msgspec.Struct, kw_only=True):
    """One outbound call and how far it has come: the API's JSON, field by field.

    `call_sid`: its id at the carrier, empty until it has one. `answered_by`: the AMD result in the carrier's own terms.
    `error`: why the carrier refused it, with status `failed`.
    """

    id: str
    to: str
    agent: str
    caller_id: str
    variables: dict[str, str] = {}
    conference: str = ""  # a warm transfer's briefing call: the conference in which the caller waits
    status: CallStatus = CallStatus.WAITING
    call_sid: str = ""
    answered_by: str = ""
    error: str = ""
    placed_by: str = ""  # the operator who placed it on the console

    @property
    def over(self) -> bool:
        return self.status in FINAL

    def on_status(self, status: CallStatus) -> bool:
        """A status report, in whatever order they arrive; True when the status changed."""
        if order_of(status) <= order_of(self.status):
            return False
        self.status = status
        return True


def made_call(
    to: str,
    agent: Agent,
    *,
    caller_id: str = "",
    variables: dict[str, str] | None = None,
    conference: str = "",
    placed_by: str = "",
) -> OutboundCall:
    """A call that waits. Raises `OperatorError` for one that cannot be placed."""
    to = to_be_called(to)
    caller_id = caller_id or agent.outbound.caller_id or next(iter(agent.numbers), "")
    if not caller_id:
        raise OperatorError(
            f"agent {agent.name!r} has no number to call from: set outbound.caller_id in its file, or `from`"
        )
    if what := mistake_in(caller_id, DIALABLE):
        raise OperatorError(f"cannot call from {caller_id[:60]!r}: it {what}")
    caller_id = read_address(caller_id).text
    if len(variables or {}) > _MAX_VARIABLES:
        raise OperatorError(f"more than {_MAX_VARIABLES} variables")
    return OutboundCall(
        id=secrets.token_hex(8),
        to=to,
        agent=agent.name,
        caller_id=caller_id,
        variables=variables or {},
        conference=conference,
        placed_by=placed_by,
    )


def check_same(key: IdempotencyKey, digest: str) -> None:
    """Raise `KeyReused` when the key came with another request, of this digest."""
    if key.digest != digest:
        raise KeyReused("this Idempotency-Key was used for another call: use a new key for each call that you ask for")


class OutboundQueue:
    """Outbound calls that wait, and those placed lately. `now_s` is one clock that only grows."""

    def __init__(self, calls_per_s: float = CALLS_PER_S, max_queued: int = MAX_QUEUED) -> None:
        self.gap_s, self._max_queued = 1.0 / calls_per_s, max_queued
        self.behind_s = LOOK_S if self.gap_s < LOOK_S else 0.0  # 0 where `due` is called often enough: one per gap
        self._waiting: deque[OutboundCall] = deque()
        self._kept: OrderedDict[str, OutboundCall] = OrderedDict()
        self._keys: dict[str, tuple[str, OutboundCall]] = {}  # by idempotency key, oldest first
        self._next_s = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def unanswered(self) -> int:
        """Calls at the carrier that were not answered yet: each may need a place at any moment."""
        return sum(call.status in _UNANSWERED for call in self._kept.values())

    def submit(
        self,
        to: str,
        agent: Agent,
        *,
        caller_id: str = "",
        variables: dict[str, str] | None = None,
        conference: str = "",
        placed_by: str = "",
        key: IdempotencyKey | None = None,
    ) -> OutboundCall:
        """Queue a call, or find the one that was queued with this idempotency key. Raises `OperatorError` for one that
        cannot be placed, `QueueFull`, `KeyReused`.
        """
        call = made_call(
            to, agent, caller_id=caller_id, variables=variables, conference=conference, placed_by=placed_by
        )
        if key is not None and key.text in self._keys:
            digest, known = self._keys[key.text]
            check_same(key, digest)
            return known
        if len(self._waiting) >= self._max_queued:
            raise QueueFull(f"{self._max_queued} calls are queued already: try again later")
        self._waiting.append(call)
        if key is not None:
            self._keys[key.text] = key.digest, call
        self.keep(call)
        return call

    def keep(self, call: OutboundCall) -> None:
        """Follow it to its end."""
        self._kept[call.id] = call
        while len(self._kept) > MAX_KEPT:
            oldest = next(iter(self._kept.values()))
            if not oldest.over:
                break
            self.drop(oldest)
        while len(self._keys) > MAX_KEPT:
            del self._keys[next(iter(self._keys))]

    def drop(self, call: OutboundCall) -> None:
        """It is not this process's any more."""
        self._kept.pop(call.id, None)

    def due(self, now_s: float, free: int) -> OutboundCall | None:
        """The call to place now, if any; `free`: places for calls that are left in this process."""
        if not self._waiting or now_s < self._next_s or free <= self.unanswered:
            return None
        self._next_s = max(self._next_s, now_s - self.behind_s) + self.gap_s
        call = self._waiting.popleft()
        call.status = CallStatus.PLACING
        return call

    def back_off(self, call: OutboundCall, now_s: float) -> None:
        """The carrier refused for its rate: this call is the next one, later."""
        call.status = CallStatus.WAITING
        self._waiting.appendleft(call)
        self._next_s = max(self._next_s, now_s + BUSY_S)

    def cancel(self, call: OutboundCall) -> bool:
        """Take a call out of the queue; False when it has left it."""
        if call not in self._waiting:
            return False
        self._waiting.remove(call)
        call.status = CallStatus.CANCELED
        return True

    def of_conference(self, conference: str) -> list[OutboundCall]:
        """Briefing calls that are not over."""
        return [call for call in self._kept.values() if call.conference == conference and not call.over]

    def find(self, outbound_id: str) -> OutboundCall | None:
        return self._kept.get(outbound_id)

    def stop(self) -> None:
        """The process ends: calls that still wait are not placed."""
        while self._waiting:
            self._waiting.popleft().status = CallStatus.CANCELED
