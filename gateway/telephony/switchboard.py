"""The calls of the process at their carriers: from the first webhook to what follows the conversation.

Carriers report here (`ring`, `claim`, `line_gone`, `hung_up`, `status`, `amd_result` ...), operators' requests arrive
at `operators`, and what is to be done to a call at its carrier goes out through `Carrier`.
Each call has a `Leg` here, which outlives its `Call`.

`now_s` is the clock that the switchboard was given.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.call.call import Call
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.config import Settings
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.numbers import AddressKind, first_number, read_address
from offhook.gateway.store.outbound import OutboundTable
from offhook.gateway.telephony.admission import Admission, Admitted, Refused
from offhook.gateway.telephony.carrier import Carrier, Feature, Kind, NextStep, Ringing
from offhook.gateway.telephony.following import decide, decide_next
from offhook.gateway.telephony.leg import RETURN_S, Leg, StreamLoss
from offhook.gateway.telephony.machines import AnsweringMachines
from offhook.gateway.telephony.moves import Moves, OpenCall
from offhook.gateway.telephony.operators import Operators
from offhook.gateway.telephony.outbound import OutboundCall, OutboundQueue
from offhook.gateway.telephony.placing import Placing
from offhook.gateway.telephony.status import FINAL, AnsweredBy, CallStatus
from offhook.gateway.telephony.transfer import WarmTransfers, without_human
from offhook.metrics.catalogue import Metrics

__all__ = ["Switchboard"]

log = logging.getLogger(__name__)

MAX_LEGS = 2_000  # ended calls remembered for the requests that their carrier still makes
MEDIA_SILENCE_S = 8.0  # a live stream brings a frame every 20 ms, even of silence; a dead one may stay open
REPORTED_END_S = 2.0  # from the carrier's report that a stream ended to the end of its socket
CLOSE_TASKS_S = 2.0


class Switchboard:
    """All calls at all carriers. `calls` are the process's live ones, by id; `open_call(facts, agent, rang_s)` adds one
    (`rang_s`: when its webhook arrived; None for a stream without one), `open_call(facts, agent, None, taken)` one that
    another process began. `outbound`: where outbound calls wait; None: in this process.
    """

    def __init__(
        self,
        settings: Settings,
        admission: Admission,
        metrics: Metrics,
        agents: Mapping[str, Agent],
        calls: Mapping[str, Call],
        open_call: OpenCall,
        *,
        clock: Callable[[], float],
        fleet: Fleet,
        wall: Callable[[], float] = time.time,
        outbound: OutboundTable | None = None,
    ) -> None:
        self._settings, self._admission, self._metrics, self.fleet = settings, admission, metrics, fleet
        self._agents, self._calls, self._open_call, self._clock = agents, calls, open_call, clock
        self._carriers: list[Carrier] = []
        self._legs: OrderedDict[str, Leg] = OrderedDict()
        self._machines = AnsweringMachines()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.outbound = OutboundQueue(settings.calls_per_s)
        self.placing = Placing(
            self.outbound,
            outbound,
            admission,
            metrics,
            agents,
            self._carriers,
            clock=clock,
            briefing_over=lambda briefing: self._transfers.briefing_over(briefing),
            has_lost=fleet.has_lost,
            spawn=self._spawn,
        )
        self.operators = Operators(self.placing, agents, calls, self._legs, spawn=self._spawn)
        self._transfers = WarmTransfers(
            self._legs, self.outbound, decide=decide, hang_up=self.operators.hang_up, spawn=self._spawn
        )

        self.moves = Moves(
            settings,
            admission,
            metrics,
            agents,
            self._legs,
            self._carriers,
            fleet,
            clock=clock,
            wall=wall,
            open_call=open_call,
            ring=self.ring,
            follows=self.follows,
            new_leg=self._new_leg,
            connect=self._connect_parts,
            spawn=self._spawn,
        )

    # --- life

    async def open(self, carriers: Sequence[Carrier]) -> None:
        """Before the first request. The first carrier that can `PLACE` places outbound calls."""
        self._carriers += carriers
        for carrier in carriers:
            await carrier.open()

    async def close(self) -> None:
        """After the last call: once its carrier has fetched what follows it, or a moment later."""
        await self.placing.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TASKS_S)
        await asyncio.gather(*(carrier.close() for carrier in self._carriers))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tick(self, now_s: float) -> None:
        """Several times a second: streams that never came or are dead, AMD results that wait, outbound calls due."""
        for call_id in self._admission.given_up(now_s):
            if call := self._calls.get(call_id):
                call.line_lost()
        for call in list(self._calls.values()):
            if leg := self._legs.get(call.facts.call_sid):
                self._check_leg(leg, call, now_s)
        for carrier in self._carriers:
            carrier.tick(now_s)
        self.placing.tick(now_s)

    def _check_leg(self, leg: Leg, call: Call, now_s: float) -> None:
        if call.ending is None and call.silent_s(now_s) > MEDIA_SILENCE_S:
            call.timeline.error(f"no audio from the carrier for {MEDIA_SILENCE_S:.0f} s")
            self.line_gone(call, now_s)
        if leg.reported_end_s is not None and now_s - leg.reported_end_s > REPORTED_END_S:
            leg.reported_end_s = None
            if call.line is not None:
                call.timeline.error("the carrier ended the stream and its socket did not show it")
                self.line_gone(call, now_s)
        if leg.amd_result is not None:
            self._machines.apply(leg, call)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- for carriers: what they may look up

    def call(self, call_id: str) -> Call | None:
        """The live call."""
        return self._calls.get(call_id)

    def leg(self, call_id: str) -> Leg | None:
        """A call's leg, while it is live and for some time after."""
        return self._legs.get(call_id)

    def fallback_for(self, call_id: str, own_number: str) -> Fallback:
        """What this caller gets when we cannot serve them."""
        if leg := self._legs.get(call_id):
            return leg.fallback
        agent = self._admission.agent_for(own_number)
        return agent.fallback if agent else Fallback()

    def caller_id_for(self, call_id: str, caller: str, own_number: str) -> str:
        """The number that a dialled target of this caller is to see; "" where it can be the caller's own.

        `caller`, `own_number`: as the carrier reports them, for a call without a leg.
        """
        if leg := self._legs.get(call_id):
            return leg.caller_id
        return _caller_id(caller, own_number, self._admission.agent_for(own_number))

    # --- for carriers: a call arrives

    def ring(
        self, carrier: Carrier, ringing: Ringing, now_s: float, *, by_webhook: bool = True, epoch: int = 1
    ) -> Admitted | Refused:
        """A call rings, inbound or outbound: admit it and open its `Call`, once, or refuse it.

        The carrier connects an admitted call's stream with the token. `by_webhook` False: its stream is here already.
        `epoch`: of this process's ownership, by the live store.
        """
        outbound = self.outbound.find(ringing.outbound_id)
        agent = self.operators.agent_of(outbound) if outbound is not None else self._agents.get(ringing.agent)
        caller = None if ringing.is_outbound or ringing.agent else ringing.caller
        answer = self._admission.ring(ringing.call_id, ringing.own_number, now_s, caller=caller, agent=agent)
        if not isinstance(answer, Admitted):
            self._metrics.calls_rejected_total.inc(answer.reason.value)
            log.info("call %s refused: %s", ringing.call_id, answer.reason.value)
            return answer
        leg = self._legs.get(ringing.call_id)
        if leg is None:
            leg = self._new_leg(carrier, ringing, answer.agent, outbound)
        if not answer.repeated:
            facts = CallFacts(
                call_sid=ringing.call_id,
                caller=read_address(ringing.caller).text,  # "" for a withheld number
                dialled=read_address(ringing.dialled).text,
                direction="outbound" if ringing.is_outbound else "inbound",
                simulated=self._settings.simulated,
                effects=frozenset(self._settings.simulated_effects),
                started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                parameters=outbound.variables if outbound is not None else {},
                formats=ringing.formats,
            )
            call = self._open_call(facts, answer.agent, now_s if by_webhook else None)
            self._connect_parts(call, leg)
            if outbound is not None and outbound.placed_by:
                call.timeline.action(now_s, outbound.placed_by, "place", "", done=True)
            if leg.reconnects:
                self.moves.keep(call, leg, epoch)
        return answer

    def _connect_parts(self, call: Call, leg: Leg) -> None:
        if Feature.KEYS in leg.carrier.can:
            call.tools.on_digits = partial(self.operators.press, call, leg)

    @property
    def draining(self) -> bool:
        """No new calls are taken."""
        return self._admission.draining

    def _new_leg(self, carrier: Carrier, ringing: Ringing, agent: Agent, outbound: OutboundCall | None) -> Leg:
        while len(self._legs) >= MAX_LEGS + len(self._calls):
            oldest = next(iter(self._legs))
            if oldest in self._calls:  # a very long call counts as younger from now on
                self._legs.move_to_end(oldest)
                continue
            self._legs.pop(oldest).carrier.forget(oldest)
        leg = Leg(
            call_id=ringing.call_id,
            carrier=carrier,
            own_number=ringing.own_number,
            caller_id=_caller_id(ringing.caller, ringing.own_number, agent),
            fallback=agent.fallback,
            outbound=outbound,
            reconnects=ringing.reconnects,
            status=ringing.status,
        )
        if outbound is not None:
            outbound.call_sid = leg.call_id
            leg.amd_result = self._machines.early(outbound)
        self._legs[leg.call_id] = leg
        return leg

    def claim(self, call_id: str, token: str, stream_id: str, now_s: float) -> Call | None:
        """The call that this stream proves to belong to, once per token.

        None when it proves nothing (counted), or the call is over.
        """
        if self._admission.start(call_id, token, now_s) is None:
            self._metrics.auth_failures_total.inc("stream_token")
            return None
        call, leg = self._calls.get(call_id), self._legs.get(call_id)
        if call is None or call.ending is not None:
            return None
        if leg is not None:
            leg.stream_up(stream_id, now_s)
        self._leave_line(call)  # the last one, if its end was not seen
        return call

    # --- for carriers: a call goes on

    def hung_up(self, call: Call) -> None:
        """The far end hung up."""
        if leg := self._legs.get(call.facts.call_sid):
            leg.on_hang_up()
        call.hung_up()

    def line_gone(self, call: Call, now_s: float) -> None:
        """The call's stream is lost, by whatever sign: another may come, or the call is over."""
        leg = self._legs.get(call.facts.call_sid)
        self._leave_line(call)
        if leg is None:
            call.line_lost()
            return
        match leg.stream_lost(leg.stream_id, now_s):
            case StreamLoss.RETURNS:
                call.detach(leg.away_max_s if leg.away else RETURN_S)
            case StreamLoss.FINAL:
                call.line_lost()
            case StreamLoss.STALE:
                pass

    def reconnect(self, call_id: str, now_s: float) -> str | None:
        """A token for another stream of a live call, once its `Leg.reconnect` agreed; None: the call is not live."""
        call, admitted = self._calls.get(call_id), None
        if call is not None:
            admitted = self._admission.again(call_id, now_s)
        if call is None or admitted is None:
            return None
        self._leave_line(call)
        call.detach(RETURN_S)
        log.info("call %s: its stream is lost, connecting another", call_id)
        return admitted.token

    def _leave_line(self, call: Call) -> None:
        """Close the call's line without waiting for the far end."""
        if call.line is not None:
            self._spawn(call.line.close())

    def status(self, call_id: str, status: CallStatus | None, now_s: float, *, outbound_id: str = "") -> None:
        """The carrier reports how far a call has come; None for a status that has no equal here."""
        if status is None:
            return
        outbound = self.outbound.find(outbound_id)
        if outbound is not None and outbound.on_status(status):
            outbound.call_sid = outbound.call_sid or call_id
            log.info("call %s (outbound): %s", call_id, status.value)
            if outbound.over:
                self._machines.early(outbound)
            if outbound.over and outbound.conference:
                self._transfers.briefing_over(outbound)
        leg, call = self._legs.get(call_id), self._calls.get(call_id)
        if leg is None and call is None and status in FINAL:
            self._admission.end(call_id)  # its webhook is late, or was captured: no call begins with it
        if leg is None or not leg.on_status(status) or not leg.over:
            return
        if call is not None:
            # "completed" is a hang-up; calls with another final status never had a stream.
            if status is CallStatus.COMPLETED:
                call.hung_up()
            else:
                call.line_lost()
        if leg.next is not None and leg.next.kind is Kind.JOIN:
            self._transfers.caller_left(leg, now_s)

    def stream_ended(self, call_id: str, stream_id: str, now_s: float) -> None:
        """The carrier reports, apart from the stream itself, that it ended.

        As a rule the socket shows it already, or in a moment and with more detail; `tick` ends a stream that does not.
        """
        leg = self._legs.get(call_id)
        if leg is not None and leg.stream_id == stream_id:
            leg.reported_end_s = now_s

    def amd_result(self, call_id: str, outbound_id: str, result: AnsweredBy, as_reported: str) -> None:
        """Answering machine detection of an outbound call: its first result counts. `as_reported` goes into records."""
        outbound = self.outbound.find(outbound_id)
        if outbound is not None and not outbound.answered_by:
            self._machines.answered(outbound, self._legs.get(call_id), self._calls.get(call_id), result, as_reported)

    # --- what follows a conversation

    def follows(self, call_id: str, now_s: float) -> NextStep | None:
        """What follows the call; None while its conversation goes on, or for a call that is not known."""
        leg, call = self._legs.get(call_id), self._calls.get(call_id)
        if leg is not None and call is not None and call.ending is not None:
            decide_next(leg, call, self._transfers, now_s)
        return leg.next if leg is not None else None

    def give_up(self, call_id: str, now_s: float) -> NextStep:
        """No stream can be connected any more: the call ends with the fallback, unless something else was decided."""
        leg = self._legs[call_id]
        if call := self._calls.get(call_id):
            call.line_lost()
        decide(leg, NextStep(Kind.FALLBACK), now_s)
        assert leg.next is not None
        return leg.next

    def dial_failed(self, call_id: str) -> Fallback:
        """The target of a transfer did not answer: the fallback for its caller, without a human to connect to."""
        leg = self._legs.get(call_id)
        return without_human(leg.fallback if leg is not None else Fallback(say=""))

    def call_over(self, call: Call) -> None:
        """Every part of this call is closed."""
        self.moves.over(call.facts.call_sid)
        if leg := self._legs.get(call.facts.call_sid):
            decide_next(leg, call, self._transfers, self._clock())
            if leg.outbound is not None and leg.outbound.answered_by:
                call.record.answered_by = leg.outbound.answered_by


def _caller_id(caller: str, own_number: str, agent: Agent | None) -> str:
    """ "" for a caller with a telephone number; else the first number of ours that a target may see."""
    if read_address(caller).kind is AddressKind.NUMBER:
        return ""
    return first_number([own_number, *((agent.outbound.caller_id, *agent.numbers) if agent else ())])
