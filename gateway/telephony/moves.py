"""Calls that move between processes: taken over, handed over, looked after when their process is dead.

Where there is no live store every call is this process's own, and nothing of this happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.call.facts import TELEPHONE, CallFacts
from offhook.gateway.call.head import Taken
from offhook.gateway.call.line import LineFormats
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.errors import PeerError
from offhook.gateway.live import CallStage
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.seal import Seal
from offhook.gateway.telephony.admission import Admission, Admitted, Refusal, Refused
from offhook.gateway.telephony.carrier import Carrier, Feature, Kind, NextStep, Ringing
from offhook.gateway.telephony.leg import RETURN_S, Leg
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.status import CallStatus
from offhook.gateway.telephony.survival import MOVES_MAX, Journal, Survival, read_claim, tools_in_flight
from offhook.gateway.telephony.tokens import CLOCKS_APART_S, TOKEN_LIFE_S
from offhook.metrics.catalogue import Metrics

__all__ = ["Moves", "OpenCall"]

log = logging.getLogger(__name__)

QUIET_LOOK_S = 0.05
WRITTEN_S = 1.0
BRING_EVERY_S = 0.1  # a REST request for each call of a dead process
BRING_AGAIN_S = 60.0


class OpenCall(Protocol):
    """How the process opens a call."""

    def __call__(self, facts: CallFacts, agent: Agent, rang_s: float | None, taken: Taken | None = None) -> Call: ...


class Ring(Protocol):
    """`Switchboard.ring`."""

    def __call__(self, carrier: Carrier, ringing: Ringing, now_s: float, *, epoch: int) -> Admitted | Refused: ...


class Moves:
    """Of all calls of the process. `legs` are the switchboard's, `carriers` all that it was opened with.

    What a call that comes here needs is the switchboard's, too: `ring` and `follows` are its methods, `new_leg(carrier,
    ringing, agent, outbound)` enters its leg, `connect(call, leg)` connects what only the two have together.
    """

    def __init__(
        self,
        settings: Settings,
        admission: Admission,
        metrics: Metrics,
        agents: Mapping[str, Agent],
        legs: dict[str, Leg],
        carriers: Sequence[Carrier],
        fleet: Fleet,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        open_call: OpenCall,
        ring: Ring,
        follows: Callable[[str, float], NextStep | None],
        new_leg: Callable[[Carrier, Ringing, Agent, OutboundCall | None], Leg],
        connect: Callable[[Call, Leg], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self._seal = Seal(settings.fleet_key)
        self._admission, self._metrics, self._agents, self._fleet = admission, metrics, agents, fleet
        self._legs, self._carriers, self._clock, self._wall = legs, carriers, clock, wall
        self._open_call, self._ring, self._follows, self._spawn = open_call, ring, follows, spawn
        self._new_leg, self._connect = new_leg, connect
        self._survivals: dict[str, Survival] = {}
        self._reaping = False

    async def fleet_is_full(self, call_id: str) -> bool:
        """Whether all processes together have as many calls as they may; else this one has its place among them."""
        if not await self._fleet.admit(call_id):
            return False
        self._metrics.calls_rejected_total.inc(Refusal.AT_LIMIT.value)
        log.info("call %s refused: %s over all processes", call_id, Refusal.AT_LIMIT.value)
        return True

    def keep(self, call: Call, leg: Leg, epoch: int, taken: Taken | None = None) -> None:
        """Write checkpoints of it from now on, where there is a live store."""
        if not self._fleet.shared:
            return
        call_id, checkpoints = call.facts.call_sid, self._fleet.checkpoints
        call.on_change = partial(checkpoints.changed, call_id)
        call.on_words = partial(checkpoints.changed_a_little, call_id)
        call.tools.journal = Journal(call, self._fleet, self._seal)
        survival = Survival(call, leg, self._seal, self._wall, self._moved, taken=taken)
        self._survivals[call_id] = survival
        checkpoints.begin(call_id, survival, epoch)

    def _moved(self, call: Call) -> None:
        """Another process has the call: nothing of it is done or recorded here any more."""
        call_id = call.facts.call_sid
        self._fleet.checkpoints.lose(call_id)
        self._survivals.pop(call_id, None)
        self._admission.forget(call_id)
        if leg := self._legs.pop(call_id, None):
            leg.carrier.forget(call_id)
        call.moved()

    def over(self, call_id: str) -> None:
        """The call is over here: no checkpoint of it is written any more."""
        self._survivals.pop(call_id, None)

    async def hand_over(self, call: Call, quiet_s: float) -> bool:
        """Let another process go on with the call: from a quiet moment, waited for `quiet_s`. False: it cannot.

        The caller is heard by the model until the state is written. Its session is closed before the stream is, or it
        would be in use when the other process resumes it.
        """
        call_id, checkpoints = call.facts.call_sid, self._fleet.checkpoints
        survival = self._survivals.get(call_id)
        if survival is None:
            return False
        for _ in range(round(quiet_s / QUIET_LOOK_S)):
            if call.ending is not None or call.state.quiet:
                break
            await asyncio.sleep(QUIET_LOOK_S)
        if call.ending is not None:
            return False
        survival.stage = CallStage.HANDOVER
        checkpoints.changed(call_id)
        if not await checkpoints.written(call_id, WRITTEN_S) or call.ending is not None:
            survival.stage = CallStage.LIVE
            checkpoints.changed(call_id)
            return False
        await call.model.link.close()
        await checkpoints.written(call_id, WRITTEN_S)  # what changed since; as a rule nothing
        self._metrics.calls_moved_total.inc("handed_over")
        self._moved(call)
        return True

    def look_after_dead_nodes(self) -> None:
        """After each beat: calls whose process is dead and whose carrier has not noticed are brought here."""
        carrier = self._bringing_carrier()
        if carrier is not None and not self._reaping and not self._admission.draining and (dead := self._fleet.dead()):
            self._reaping = True
            self._spawn(self._reap(carrier, [node.name for node in dead]))

    def _bringing_carrier(self) -> Carrier | None:
        return next((carrier for carrier in self._carriers if Feature.BRING in carrier.can), None)

    async def hang_up_of_dead(self, call_id: str, owner: str) -> bool:
        """End a call whose process is dead, at its carrier; False: that process answers, or the call cannot be had."""
        carrier = self._bringing_carrier()
        if carrier is None or await self._fleet.peers.answers(owner):
            return False
        ringing = Ringing(call_id, "", "", "", TELEPHONE)
        if not await self.ended_elsewhere(carrier, ringing, self._clock(), Ending.AGENT_HUNG_UP):
            return False
        try:
            return await carrier.hang_up(call_id)
        except PeerError as error:
            log.warning("call %s: %s", call_id, error)
            return False

    async def _reap(self, carrier: Carrier, names: Sequence[str]) -> None:
        try:
            for name in names:
                for call_id, epoch in await self._fleet.calls_of(name):
                    if await self._fleet.peers.answers(name):
                        break  # it lives, without the store
                    if await self._fleet.burn(f"bring:{call_id}:{epoch}", BRING_AGAIN_S):
                        await self._bring(carrier, call_id, name)
                        await asyncio.sleep(BRING_EVERY_S)
        finally:
            self._reaping = False

    async def _bring(self, carrier: Carrier, call_id: str, owner: str) -> None:
        log.warning("call %s: %s, which has it, is dead", call_id, owner)
        try:
            up = await carrier.bring(call_id)
        except PeerError as error:
            log.warning("call %s: %s", call_id, error)
            return
        if not up:
            ringing = Ringing(call_id, "", "", "", TELEPHONE, status=CallStatus.COMPLETED)
            await self.ended_elsewhere(carrier, ringing, self._clock())

    async def ended_elsewhere(
        self, carrier: Carrier, ringing: Ringing, now_s: float, ending: Ending | None = None
    ) -> bool:
        """A call whose process does not answer has ended, by the carrier's report or by `ending`: its record is
        completed here. False: it cannot be had.
        """
        call_id, wall_s = ringing.call_id, self._wall()
        claim = await self._fleet.claim(call_id)
        taken = claim and read_claim(claim, self._seal, call_id, wall_s, ringing.formats.takes.rate_hz)
        agent = self._agents.get(taken.record.agent) if taken else None
        if not claim:
            return False
        if not taken or agent is None:  # nothing is known of it that a record could be made of
            await self._fleet.give_back(call_id, claim.epoch)
            return ending is not None
        log.info("call %s: it has ended, and %s, which had it, does not answer", call_id, claim.owner)
        in_flight = await tools_in_flight(self._fleet, self._seal, taken)
        leg = self._new_leg(carrier, ringing, agent, None)
        leg.on_hang_up()
        self._admission.adopt(call_id, agent, claim.epoch, now_s, live=True)
        call = self._open_call(self._facts_of(taken, ringing), agent, None, taken)
        call.tools.take_up(in_flight, again=False)  # for the record
        self.keep(call, leg, claim.epoch, taken)
        completed = ringing.status is CallStatus.COMPLETED
        call.conclude(taken.ending or ending or (Ending.CALLER_HUNG_UP if completed else Ending.STREAM_LOST))
        return True

    async def token_here(self, carrier: Carrier, call_id: str, token: str, formats: LineFormats, now_s: float) -> str:
        """The token with which a stream claims its call here, when its token is valid in any process: the same one, or
        that of a call which is taken over because its stream has come here. "" for one that was used before.
        """
        read = self._admission.read(call_id, token, now_s)
        if read is None:
            return token  # the claim refuses and counts it
        if not await self._fleet.burn(read.token_id, TOKEN_LIFE_S + CLOCKS_APART_S):
            return ""
        if call_id in self._legs:
            return token
        held = await self._fleet.holder(call_id)
        if held is None or held.epoch != read.epoch or held.stage is CallStage.ENDED:
            return ""  # a stream of an owner before
        log.info("call %s: its stream has come here and not to %s", call_id, held.owner)
        answer = await self.take_over(carrier, Ringing(call_id, "", "", "", formats), now_s)
        return answer.token if isinstance(answer, Admitted) else ""

    async def take_over(self, carrier: Carrier, ringing: Ringing, now_s: float) -> Admitted | NextStep | None:
        """Another process's call, whose stream is over, goes on here: connect its next stream with the token; or do
        what follows it. None: it cannot be had.

        A call of which nothing is known begins anew.
        """
        call_id, wall_s = ringing.call_id, self._wall()
        claim = await self._fleet.claim(call_id)
        if claim is None:
            return None
        self._metrics.calls_moved_total.inc("taken")
        taken = read_claim(claim, self._seal, call_id, wall_s, ringing.formats.takes.rate_hz)
        agent = self._agents.get(taken.record.agent) if taken is not None else None
        if taken is None or agent is None or not taken.record.streams:
            log.info("call %s: taken over from %s before it was connected", call_id, claim.owner)
            answer = self._ring(carrier, ringing, now_s, epoch=claim.epoch)
            return answer if isinstance(answer, Admitted) else NextStep(Kind.FALLBACK)
        log.info(
            "call %s: taken over from %s (epoch %d, owed: %s)", call_id, claim.owner, claim.epoch, taken.owed.value
        )
        in_flight = await tools_in_flight(self._fleet, self._seal, taken)
        leg = self._new_leg(carrier, ringing, agent, None)
        leg.own_number, leg.caller_id = taken.head.leg.own_number, taken.head.leg.caller_id
        leg.taken_over(now_s)
        follows = taken.head.leg.follows
        if follows is not None:
            leg.decide(NextStep(Kind(follows.kind), follows.target, follows.whisper, follows.starts), now_s)
        elif claim.moves > MOVES_MAX:
            log.error("call %s: taken over %d times in a minute, and given up", call_id, claim.moves)
            leg.decide(NextStep(Kind.FALLBACK), now_s)
        admitted = self._admission.adopt(call_id, agent, claim.epoch, now_s, live=True)
        call = self._open_call(self._facts_of(taken, ringing), agent, None, taken)
        self._connect(call, leg)
        notes = call.tools.take_up(in_flight, again=leg.next is None and taken.ending is None)
        self.keep(call, leg, claim.epoch, taken)
        if leg.next is None:
            call.resume(taken, notes, RETURN_S)
        else:
            call.conclude(taken.ending or Ending.INTERNAL_ERROR)
        return self._follows(call_id, now_s) or admitted

    def _facts_of(self, taken: Taken, ringing: Ringing) -> CallFacts:
        record = taken.record
        return CallFacts(
            call_sid=record.call_sid,
            caller=record.caller,
            dialled=record.dialled,
            direction=record.direction,
            simulated=record.simulated,
            effects=frozenset(taken.head.effects),
            started_at=record.started_at,
            parameters=taken.head.parameters,
            formats=ringing.formats,
        )
