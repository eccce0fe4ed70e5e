"""Admission of calls: the agent for a dialled number, limits, draining, and one answer per call. Pure.

A call is **ringing** from its webhook until its stream claims it with the one-time token, then **live** until it
has ended; both hold a place. A repeated webhook of a call changes nothing: carriers retry, and a signature without a
timestamp can be replayed for ever.

`now_s` is one clock that only grows, the same for all methods.
"""

from __future__ import annotations

import hmac
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import Address, read_address
from offhook.gateway.telephony.bounds import NO_BOUNDS, Bounds, CallerCalls, DailyCost, RefusedCallers
from offhook.gateway.telephony.tokens import TOKEN_LIFE_S, StreamToken, StreamTokens

__all__ = ["Admission", "Admitted", "Refusal", "Refused"]

MAX_ENDED = 10_000  # ended calls remembered against replays: hours of a busy process, about 1 MB


class Refusal(Enum):
    """Why a call is refused; the value is the metric's label."""

    AT_LIMIT = "at_limit"
    DRAINING = "draining"
    NO_AGENT = "no_agent"  # no agent answers the dialled number
    CALLER_REFUSED = "caller_refused"  # the operator refuses this caller
    CALLER_AT_LIMIT = "caller_at_limit"  # the caller has as many calls at once as one caller may have
    CALLER_RATE = "caller_rate"  # the same in the last hour
    COST = "cost"  # the cost of the last 24 hours has reached the limit, of the process or of the agent
    ENDED = "ended"  # a webhook for a call that is over: late or replayed
    FAULT = "internal_error"  # ours: answering the webhook failed (`ring` never returns it)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Connect this call's stream to this agent. `token` is a secret: keep it out of logs."""

    agent: Agent
    token: str
    repeated: bool = False  # the call was admitted before: start nothing twice

    def __repr__(self) -> str:
        return f"Admitted(agent={self.agent.name!r}, repeated={self.repeated})"


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer with this fallback (for `ENDED`, hang up)."""

    reason: Refusal
    fallback: Fallback


@dataclass(frozen=True, slots=True)
class _Known:
    agent: Agent
    token: str
    gives_up_s: float | None  # a stream is awaited until then; None: it came
    live: bool = False  # a stream has come once
    epoch: int = 1  # of this node's ownership, where there are others
    caller: str | None = None  # what `CallerCalls` counts it by; None: not counted


class Admission:
    """The calls of one process that are ringing, live, or have ended lately.

    `total(calls)`: this process has so many; gives the number of all processes that share `max_calls`. `live_costs()`:
    the agent and the USD so far of each call that goes on. Raises `OperatorError` when two agents claim the same
    number, or two claim every number, and for a refused caller that cannot be read.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        max_calls: int,
        *,
        ring_s: float = TOKEN_LIFE_S,
        tokens: StreamTokens | None = None,
        total: Callable[[int], int] = lambda calls: calls,
        bounds: Bounds = NO_BOUNDS,
        live_costs: Callable[[], Iterable[tuple[str, float]]] = tuple,
    ) -> None:
        self.draining = False
        self._by_number, self._any = _by_number(agents)
        self._max_calls, self._ring_s, self._total = max_calls, ring_s, total
        self._tokens = StreamTokens(life_s=ring_s) if tokens is None else tokens
        self._known: dict[str, _Known] = {}
        self._ended: dict[str, None] = {}  # oldest first
        self._bounds, self._live_costs = bounds, live_costs
        self._refused = RefusedCallers(bounds.refused)
        self._callers = CallerCalls(bounds.caller_calls, bounds.caller_calls_per_h)
        self._costs: defaultdict[str, DailyCost] = defaultdict(DailyCost)  # by agent: a closed list

    @property
    def calls(self) -> int:
        """Places taken: ringing and live calls."""
        return len(self._known)

    @property
    def free(self) -> int:
        """Places that are free, here and in the processes that share them."""
        return max(0, self._max_calls - self._total(len(self._known)))

    def agent_for(self, dialled: str) -> Agent | None:
        """The agent that names this number, else the one that names none."""
        found = (self._by_number.get(name) for name in read_address(dialled).names)
        return next((agent for agent in found if agent is not None), self._any)

    def ring(
        self, call_id: str, dialled: str, now_s: float, *, caller: str | None = None, agent: Agent | None = None
    ) -> Admitted | Refused:
        """Admit or refuse a call that rings; `agent` when it is chosen already (outbound calls).

        `caller`: the address of an incoming call's far end, "" when it is withheld; None for a call that we placed, to
        which the bounds do not apply: `cost_reached` is for its placing.

        Repeated for the same call, the answer and its token are the same, whatever has changed meanwhile.
        """
        if known := self._known.get(call_id):
            return Admitted(known.agent, known.token, repeated=True)
        agent = agent or self.agent_for(dialled)
        fallback = agent.fallback if agent else Fallback()
        if call_id in self._ended:
            return Refused(Refusal.ENDED, fallback)
        if self.draining:
            return Refused(Refusal.DRAINING, fallback)
        if agent is None:
            return Refused(Refusal.NO_AGENT, fallback)
        if self._total(len(self._known) + 1) > self._max_calls:
            self._total(len(self._known))
            return Refused(Refusal.AT_LIMIT, fallback)
        name = None
        if caller is not None:
            address = read_address(caller)
            name = self._callers.name_of(address)
            if reason := self._exceeded(address, name, agent, now_s):
                self._total(len(self._known))
                return Refused(reason, fallback)
            self._callers.begin(name, now_s)
        token = self._tokens.mint(call_id, now_s)
        self._known[call_id] = _Known(agent, token, now_s + self._ring_s, caller=name)
        return Admitted(agent, token)

    def read(self, call_id: str, token: str, now_s: float) -> StreamToken | None:
        """What a valid token of any node says; it is not used up."""
        return self._tokens.read(token, call_id, now_s)

    def _exceeded(self, caller: Address, name: str, agent: Agent, now_s: float) -> Refusal | None:
        if caller in self._refused:
            return Refusal.CALLER_REFUSED
        if self._callers.is_at_once(name):
            return Refusal.CALLER_AT_LIMIT
        if self._callers.is_in_hour(name, now_s):
            return Refusal.CALLER_RATE
        return Refusal.COST if self.cost_reached(agent, now_s) else None

    def cost_reached(self, agent: Agent, now_s: float) -> bool:
        """Whether the calls of the last 24 hours have cost what they may: this agent's, or those of the process."""
        most, own = self._bounds.cost_per_day_usd, agent.limits.cost_per_day
        if not most and own is None:
            return False
        spent = {name: cost.total(now_s) for name, cost in self._costs.items()}
        for name, usd in self._live_costs():
            spent[name] = spent.get(name, 0.0) + usd
        return 0 < most <= sum(spent.values()) or (own is not None and spent.get(agent.name, 0.0) >= own)

    def charge(self, agent: Agent, usd: float, now_s: float) -> None:
        """A call of this agent is over and has cost this much."""
        self._costs[agent.name].add(usd, now_s)

    def start(self, call_id: str, token: str, now_s: float) -> Agent | None:
        """A stream claims its call: the agent, once per token; None for a wrong, used or late token, and for one that
        is not the newest.
        """
        known = self._known.get(call_id)
        if known is None or not hmac.compare_digest(known.token.encode(), token.encode("utf-8", "surrogatepass")):
            return None
        if self._tokens.claim(token, call_id, now_s) is None:
            return None
        self._known[call_id] = replace(known, gives_up_s=None, live=True)
        return known.agent

    def again(self, call_id: str, now_s: float) -> Admitted | None:
        """A new token for a call whose stream was lost or never came, to connect another; None: unknown call.

        Draining does not matter: the call was admitted before. The new stream is awaited as the first one was. A
        token that was not used stays valid.
        """
        known = self._known.get(call_id)
        if known is None:
            return None
        token = known.token
        if known.gives_up_s is None or self._tokens.read(token, call_id, now_s) is None:
            token = self._tokens.mint(call_id, now_s, known.epoch)
        self._known[call_id] = replace(known, token=token, gives_up_s=now_s + self._ring_s)
        return Admitted(known.agent, token, repeated=True)

    def adopt(self, call_id: str, agent: Agent, epoch: int, now_s: float, *, live: bool) -> Admitted:
        """A call that another node answered is this one's from now on, whatever the limit: its stream is awaited.

        `live`: a stream had come there.
        """
        self._ended.pop(call_id, None)
        token = self._tokens.mint(call_id, now_s, epoch)
        self._known[call_id] = _Known(agent, token, now_s + self._ring_s, live, epoch)
        self._total(len(self._known))
        return Admitted(agent, token, repeated=True)

    def end(self, call_id: str) -> None:
        """The call is over, however it ended: its place is free, its token void. Harmless when repeated."""
        self._give_back(call_id)
        self._ended.pop(call_id, None)
        while len(self._ended) >= MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[call_id] = None

    def _give_back(self, call_id: str) -> None:
        known = self._known.pop(call_id, None)
        self._total(len(self._known))
        if known is not None and known.caller is not None:
            self._callers.end(known.caller)

    def forget(self, call_id: str) -> None:
        """Another node has the call: its place is free here, and it may come back."""
        self._give_back(call_id)

    def given_up(self, now_s: float) -> list[str]:
        """Ends the calls whose awaited stream has not come in time: their ids. Call it every second."""
        late = [sid for sid, k in self._known.items() if k.gives_up_s is not None and now_s >= k.gives_up_s]
        for call_id in late:
            self.end(call_id)
        return late


def _by_number(agents: Sequence[Agent]) -> tuple[dict[str, Agent], Agent | None]:
    by_number: dict[str, Agent] = {}
    for_any: Agent | None = None
    for agent in agents:
        for number in (name for given in agent.numbers for name in read_address(given).names[:1]):
            if number in by_number:
                raise OperatorError(
                    f"agents {by_number[number].name!r} and {agent.name!r} both name {number}: "
                    "remove it from the `numbers` of one"
                )
            by_number[number] = agent
        if not agent.numbers:
            if for_any is not None:
                raise OperatorError(
                    f"agents {for_any.name!r} and {agent.name!r} both take any number: give one of them its `numbers`"
                )
            for_any = agent
    return by_number, for_any
