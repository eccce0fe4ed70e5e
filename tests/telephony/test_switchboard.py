"""The switchboard with a carrier on paper: each call from its webhook to what follows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.call.call import Call
from offhook.gateway.call.facts import CallFacts, Transfer
from offhook.gateway.call.line import LineFormats
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.state import Phase
from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.labels import LABELS
from offhook.gateway.live import Node
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.telephony import switchboard as module
from offhook.gateway.telephony.admission import Admission, Admitted, Refusal, Refused
from offhook.gateway.telephony.bounds import NO_BOUNDS, Bounds
from offhook.gateway.telephony.carrier import CarrierBusy, Feature, Hold, Keys, Kind, NextStep, Ringing
from offhook.gateway.telephony.following import FALLBACK_AFTER
from offhook.gateway.telephony.leg import RETURN_S, STRIKES_MAX
from offhook.gateway.telephony.outbound import BUSY_S, OutboundCall
from offhook.gateway.telephony.placing import CostReached
from offhook.gateway.telephony.status import AnsweredBy, CallStatus
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.telephony.transfer import DECLINED, UNREACHED
from offhook.media.formats import MULAW_8K
from offhook.metrics.catalogue import Metrics
from tests.telephony.paper_carrier import PaperCarrier

TELEPHONE = LineFormats(MULAW_8K, MULAW_8K)
DESK = parse_agent("name: desk\nnumbers: ['+15550199']\nfallback: {say: Call again.}\n")
LEAVES = parse_agent("name: leaves\nnumbers: ['+15550198']\noutbound: {on_machine: leave_message, message: Call us.}\n")
HUMAN = "+15550170002"
HANG_UP = NextStep(Kind.HANG_UP)


@dataclass
class PaperLine:
    closed: bool = False

    async def close(self) -> None:
        self.closed = True


@dataclass
class PaperCall:
    """What the switchboard uses of a `Call`; what it did to it is in `done`."""

    facts: CallFacts
    agent: Agent
    rang_s: float | None
    line: Any = None
    ending: Ending | None = None
    phase: Phase = Phase.SPEAKING
    tools: Any = field(default_factory=lambda: SimpleNamespace(transfer_to=None, on_digits=None))
    silent: float = 0.0
    remembered: dict[str, str] = field(default_factory=dict)
    record: Any = field(default_factory=lambda: SimpleNamespace(answered_by="", errors=[]))
    done: list[Any] = field(default_factory=list)

    @property
    def timeline(self) -> Any:
        return SimpleNamespace(error=self.record.errors.append)

    def silent_s(self, now_s: float) -> float:
        return self.silent if self.line is not None else 0.0

    def detach(self, grace_s: float) -> None:
        self.line = None
        self.done.append(("detach", grace_s))

    def hung_up(self) -> None:
        self.done.append("hung_up")
        self.ending = self.ending or Ending.CALLER_HUNG_UP

    def line_lost(self) -> None:
        self.done.append("line_lost")
        self.ending = self.ending or Ending.STREAM_LOST

    def stop(self, ending: Ending) -> None:
        self.done.append(("stop", ending))
        self.ending = self.ending or ending

    def cancel_reply(self) -> None:
        self.done.append("cancel_reply")

    def say_and_end(self, text: str, ending: Ending) -> None:
        self.done.append(("say_and_end", text))


class Rig:
    """A switchboard of two agents. `now_s` is its clock."""

    def __init__(
        self, *, can: frozenset[Feature] = frozenset(Feature), max_calls: int = 5, bounds: Bounds = NO_BOUNDS
    ) -> None:
        self.now_s = 1_000.0
        self.carrier = PaperCarrier(can=can)
        self.calls: dict[str, Call] = {}
        self.metrics = Metrics(CollectorRegistry(), LABELS)
        self.admission = Admission([DESK, LEAVES], max_calls, bounds=bounds)
        self.board = Switchboard(
            Settings(max_calls=max_calls),
            self.admission,
            self.metrics,
            {agent.name: agent for agent in (DESK, LEAVES)},
            self.calls,
            self._open,
            clock=lambda: self.now_s,
            fleet=Fleet("a", None, self.metrics, here=lambda: Node(name="a")),
        )

    def _open(self, facts: CallFacts, agent: Agent, rang_s: float | None) -> Call:
        call = self.calls[facts.call_sid] = cast(Call, PaperCall(facts, agent, rang_s))
        return call

    async def opened(self) -> Rig:
        await self.board.open([self.carrier])
        return self

    def ring(self, call_id: str = "C1", **more: Any) -> Admitted | Refused:
        fields = {"caller": "+15550100", "dialled": "+15550199", "own_number": "+15550199", "formats": TELEPHONE}
        return self.board.ring(self.carrier, Ringing(call_id, **(fields | more)), self.now_s)

    def talking(self, call_id: str = "C1", **more: Any) -> PaperCall:
        """A call whose stream has come."""
        answer = self.ring(call_id, **more)
        assert isinstance(answer, Admitted)
        return self.stream(call_id, answer.token)

    def stream(self, call_id: str, token: str, stream_id: str = "S1") -> PaperCall:
        call = cast(PaperCall, self.board.claim(call_id, token, stream_id, self.now_s))
        assert call is not None
        call.line = PaperLine()
        return call

    def over(self, call: PaperCall, ending: Ending) -> None:
        """The conversation has ended and its parts are closed."""
        call.ending = ending
        del self.calls[call.facts.call_sid]
        self.board.call_over(cast(Call, call))

    def line_gone(self, call: PaperCall) -> None:
        self.board.line_gone(cast(Call, call), self.now_s)

    async def outbound(self, agent: str = "desk", to: str = HUMAN) -> OutboundCall:
        """An outbound call that the carrier has taken."""
        call = await self.board.operators.call_out(to, agent)
        await self.tick()
        return call

    async def tick(self, after_s: float = 2.0) -> None:
        self.now_s += after_s
        self.board.tick(self.now_s)
        await self.settle()

    async def settle(self) -> None:
        while self.board._tasks:
            await asyncio.gather(*self.board._tasks)

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        return self.carrier.asked


@pytest.fixture
async def rig() -> Rig:
    return await Rig().opened()


# --- a call arrives


async def test_a_repeated_ring_is_one_call(rig: Rig):
    first, again = rig.ring(), rig.ring()
    assert isinstance(first, Admitted)
    assert isinstance(again, Admitted)
    assert (again.repeated, again.token) == (True, first.token)
    call = cast(PaperCall, rig.calls["C1"])
    assert (call.agent, call.rang_s, call.facts.direction) == (DESK, 1_000.0, "inbound")


async def test_a_call_above_the_limit_is_refused():
    rig = await Rig(max_calls=1).opened()
    rig.ring()
    answer = rig.ring("C2")
    assert isinstance(answer, Refused)
    assert answer.fallback == DESK.fallback
    assert rig.board.leg("C2") is None


async def test_a_token_opens_one_stream(rig: Rig):
    answer = rig.ring()
    assert isinstance(answer, Admitted)
    assert rig.board.claim("C1", "wrong", "S1", rig.now_s) is None
    assert rig.board.claim("C1", answer.token, "S1", rig.now_s) is rig.calls["C1"]
    assert rig.board.claim("C1", answer.token, "S2", rig.now_s) is None


async def test_a_stream_that_never_comes_is_lost(rig: Rig):
    rig.ring()
    await rig.tick(61.0)
    assert cast(PaperCall, rig.calls["C1"]).done == ["line_lost"]


async def test_old_legs_are_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_LEGS", 2)
    long = rig.talking("LONG")
    for n in range(4):
        rig.over(rig.talking(f"C{n}"), Ending.CALLER_HUNG_UP)
        rig.board._admission.end(f"C{n}")
    assert rig.board.leg("C0") is None
    assert rig.board.leg("LONG") is not None
    assert "C0" in rig.carrier.forgotten
    assert "LONG" not in rig.carrier.forgotten
    assert long.done == []


# --- a call goes on


async def test_a_lost_line_may_return(rig: Rig):
    call = rig.talking()
    line = call.line
    rig.line_gone(call)
    token = rig.board.reconnect("C1", rig.now_s)
    await rig.settle()
    assert line.closed
    assert call.done[0] == ("detach", RETURN_S)
    assert token
    rig.stream("C1", token, "S2")
    assert call.ending is None


async def test_lines_that_die_young_are_given_up(rig: Rig):
    call = rig.talking()
    for n in range(STRIKES_MAX):
        rig.line_gone(call)
        token = rig.board.reconnect("C1", rig.now_s)
        assert token
        rig.stream("C1", token, f"S{n + 2}")
    rig.line_gone(call)
    assert call.done[-1] == "line_lost"


async def test_a_carrier_of_one_stream_loses_the_call(rig: Rig):
    call = rig.talking(reconnects=False)
    rig.line_gone(call)
    assert call.done == ["line_lost"]


async def test_a_new_stream_closes_the_old_line(rig: Rig):
    call = rig.talking()
    old = call.line
    admitted = rig.board._admission.again("C1", rig.now_s)
    assert admitted
    rig.stream("C1", admitted.token, "S2")
    await rig.settle()
    assert old.closed


async def test_silence_of_the_media_is_a_lost_line(rig: Rig):
    call = rig.talking()
    call.silent = 7.9
    await rig.tick()
    assert call.done == []
    call.silent = 8.1
    await rig.tick()
    assert call.done == [("detach", RETURN_S)]
    assert call.record.errors == ["no audio from the carrier for 8 s"]


async def test_a_reported_stream_end_is_checked(rig: Rig):
    call = rig.talking()
    rig.board.stream_ended("C1", "an earlier one", rig.now_s)
    await rig.tick(3.0)
    assert call.line is not None
    rig.board.stream_ended("C1", "S1", rig.now_s)
    await rig.tick(1.9)
    assert call.line is not None
    await rig.tick(0.2)
    assert call.line is None
    assert call.record.errors == ["the carrier ended the stream and its socket did not show it"]


@pytest.mark.parametrize(
    ("status", "done"), [("completed", ["hung_up"]), ("failed", ["line_lost"]), ("ringing", []), (None, [])]
)
async def test_status_reports_end_calls(rig: Rig, status: str | None, done: list[str]):
    call = rig.talking()
    rig.board.status("C1", CallStatus(status) if status else None, rig.now_s)
    assert call.done == done


async def test_a_final_status_before_the_ring_is_kept(rig: Rig):
    rig.board.status("C1", CallStatus.RINGING, rig.now_s)
    rig.board.status("C2", CallStatus.COMPLETED, rig.now_s)
    assert isinstance(rig.ring("C1"), Admitted)
    answer = rig.ring("C2")  # a captured webhook, or one that was overtaken
    assert isinstance(answer, Refused)
    assert answer.reason is Refusal.ENDED
    assert list(rig.calls) == ["C1"]


# --- what follows


@pytest.mark.parametrize("ending", [e for e in Ending if e is not Ending.TRANSFERRED])
async def test_what_follows_an_ending(rig: Rig, ending: Ending):
    rig.over(rig.talking(), ending)
    follows = rig.board.follows("C1", rig.now_s)
    assert follows == (NextStep(Kind.FALLBACK) if ending in FALLBACK_AFTER else HANG_UP)
    assert rig.asked == [("follow", "C1", follows)]  # once


async def test_a_transfer_dials_its_target(rig: Rig):
    call = rig.talking()
    call.tools.transfer_to = Transfer(HUMAN, "Ann")
    assert rig.board.follows("C1", rig.now_s) is None
    call.ending = Ending.TRANSFERRED
    assert rig.board.follows("C1", rig.now_s) == NextStep(Kind.DIAL, HUMAN, "Ann")
    rig.over(call, Ending.TRANSFERRED)
    assert len(rig.asked) == 1


async def test_a_failed_dial_gives_the_fallback_alone(rig: Rig):
    rig.talking()
    assert rig.board.dial_failed("C1").say == "Call again."
    assert rig.board.dial_failed("unknown") == Fallback(say=UNREACHED)


async def test_giving_up_means_the_fallback(rig: Rig):
    call = rig.talking()
    assert rig.board.give_up("C1", rig.now_s) == NextStep(Kind.FALLBACK)
    assert call.ending is Ending.STREAM_LOST


# --- hold and keys


async def test_hold_and_resume(rig: Rig):
    rig.talking()
    assert await rig.board.operators.hold("C1", "https://music", "One moment.")
    assert await rig.board.operators.resume("C1")
    assert rig.asked == [("interrupt", "C1", Hold("https://music", "One moment.")), ("resume", "C1")]
    assert not await rig.board.operators.hold("unknown")


async def test_a_hold_that_fails_is_false(rig: Rig):
    rig.talking()
    rig.carrier.refuses.append(PeerError("no"))
    assert not await rig.board.operators.hold("C1")


async def test_only_keys_are_sent(rig: Rig):
    call = rig.talking()
    assert call.tools.on_digits
    call.tools.on_digits("12w#</Play>")
    await rig.settle()
    assert rig.asked == [("interrupt", "C1", Keys("12w#"))]


async def test_a_carrier_without_features_is_not_asked():
    rig = await Rig(can=frozenset()).opened()
    call = rig.talking()
    assert call.tools.on_digits is None
    assert not await rig.board.operators.hold("C1")
    assert not await rig.board.operators.resume("C1")
    with pytest.raises(OperatorError, match="cannot be placed"):
        await rig.board.operators.call_out(HUMAN, "desk")
    assert rig.asked == []


# --- outbound calls


async def test_an_outbound_call_to_its_end(rig: Rig):
    outbound = await rig.outbound()
    assert outbound.status == "queued"
    call_id = outbound.call_sid
    rig.board.status(call_id, CallStatus.RINGING, rig.now_s, outbound_id=outbound.id)
    call = rig.talking(call_id, outbound_id=outbound.id, is_outbound=True, caller="+15550199", dialled=HUMAN)
    assert call.facts.direction == "outbound"
    rig.board.amd_result(call_id, outbound.id, AnsweredBy.HUMAN, "person")
    rig.board.status(call_id, CallStatus.COMPLETED, rig.now_s, outbound_id=outbound.id)
    rig.over(call, Ending.CALLER_HUNG_UP)
    assert (outbound.status, call.record.answered_by) == ("completed", "person")


async def test_a_busy_carrier_gets_the_call_later(rig: Rig):
    rig.carrier.refuses.append(CarrierBusy("429"))
    outbound = await rig.outbound()
    assert outbound.status == "waiting"
    await rig.tick(BUSY_S)
    assert outbound.status == "queued"


async def test_a_refused_call_has_failed(rig: Rig):
    rig.carrier.refuses.append(PeerError("not a number"))
    outbound = await rig.outbound()
    assert (outbound.status, outbound.error) == ("failed", "not a number")


async def test_the_cost_of_a_day_stops_placing_calls():
    rig = await Rig(bounds=Bounds(cost_per_day_usd=1.0)).opened()
    waiting = await rig.board.operators.call_out(HUMAN, "desk")
    rig.admission.charge(DESK, 1.0, rig.now_s)
    await rig.tick()
    assert (waiting.status, rig.asked) == ("failed", [])
    assert "cost per day" in waiting.error
    with pytest.raises(CostReached):
        await rig.board.operators.call_out(HUMAN, "desk")
    rejected = rig.metrics.registry.get_sample_value("offhook_calls_rejected_total", {"reason": "cost"})
    assert rejected == 2
    rig.now_s += 86_400.0
    assert (await rig.outbound()).status == "queued"


async def test_a_ringing_outbound_call_is_hung_up(rig: Rig):
    outbound = await rig.outbound()
    assert await rig.board.operators.hang_up(outbound)
    assert rig.asked[-1] == ("hang_up", outbound.call_sid)
    outbound.on_status(CallStatus.CANCELED)
    assert not await rig.board.operators.hang_up(outbound)


# --- answering machines


async def answered(rig: Rig, agent: str, result: AnsweredBy, *, early: bool = False) -> PaperCall:
    outbound = await rig.outbound(agent)
    if early:
        rig.board.amd_result(outbound.call_sid, outbound.id, result, result.value)
    call = rig.talking(outbound.call_sid, outbound_id=outbound.id, is_outbound=True)
    if not early:
        rig.board.amd_result(outbound.call_sid, outbound.id, result, result.value)
    await rig.tick(0.25)
    return call


GONE = ["cancel_reply", ("stop", Ending.ANSWERED_BY_MACHINE)]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("agent", "result", "done"),
    [
        ("desk", AnsweredBy.HUMAN, []),
        ("desk", AnsweredBy.UNKNOWN, []),
        ("desk", AnsweredBy.MACHINE, GONE),
        ("desk", AnsweredBy.FAX, GONE),
        ("leaves", AnsweredBy.MACHINE, [("say_and_end", "Call us.")]),
        ("leaves", AnsweredBy.FAX, GONE),
    ],
)
async def test_an_amd_result_is_applied_once(rig: Rig, agent: str, result: AnsweredBy, done: list[Any], early: bool):
    call = await answered(rig, agent, result, early=early)
    await rig.tick()
    assert call.done == done


async def test_a_message_waits_for_the_reply_under_way(rig: Rig):
    outbound = await rig.outbound("leaves")
    call = rig.talking(outbound.call_sid, outbound_id=outbound.id, is_outbound=True)
    call.phase = Phase.THINKING
    rig.board.amd_result(outbound.call_sid, outbound.id, AnsweredBy.MACHINE, "machine")
    assert call.done == []
    call.phase = Phase.SPEAKING
    await rig.tick(0.25)
    assert call.done == [("say_and_end", "Call us.")]


# --- warm transfers


async def briefing(rig: Rig) -> tuple[PaperCall, PaperCall, OutboundCall]:
    """A caller who waits in the conference, and the briefing call that is under way."""
    caller = rig.talking()
    caller.tools.transfer_to = Transfer(HUMAN, "Ann wants a table.", warm=True)
    rig.over(caller, Ending.TRANSFERRED)
    await rig.tick()
    (outbound,) = rig.board.outbound.of_conference("offhook-C1")
    human = rig.talking(outbound.call_sid, outbound_id=outbound.id, is_outbound=True)
    return caller, human, outbound


async def test_a_caller_waits_while_the_human_is_briefed(rig: Rig):
    _, human, outbound = await briefing(rig)
    assert rig.asked == [("follow", "C1", NextStep(Kind.JOIN, "offhook-C1")), ("place", HUMAN)]
    assert (outbound.caller_id, outbound.variables) == ("+15550199", {"about": "Ann wants a table."})
    assert human.agent.name == "desk (briefing)"


async def test_a_human_who_agrees_joins(rig: Rig):
    _, human, outbound = await briefing(rig)
    rig.over(human, Ending.AGENT_HUNG_UP)
    await rig.settle()
    assert rig.asked[-1] == ("follow", outbound.call_sid, NextStep(Kind.JOIN, "offhook-C1", starts=True))
    rig.board.status(outbound.call_sid, CallStatus.COMPLETED, rig.now_s, outbound_id=outbound.id)
    await rig.settle()
    assert not [asked for asked in rig.asked if asked[0] == "fall_back"]  # they met


async def test_a_human_who_declines_ends_the_wait_once(rig: Rig):
    _, human, outbound = await briefing(rig)
    human.remembered[DECLINED] = "yes"
    rig.over(human, Ending.AGENT_HUNG_UP)
    rig.board.status(outbound.call_sid, CallStatus.COMPLETED, rig.now_s, outbound_id=outbound.id)
    await rig.settle()
    assert [asked for asked in rig.asked if asked[0] == "fall_back"] == [
        ("fall_back", "C1", rig.board.dial_failed("C1"))
    ]


async def test_refused_briefing_call_ends_the_wait(rig: Rig):
    caller = rig.talking()
    caller.tools.transfer_to = Transfer(HUMAN, "", warm=True)
    rig.over(caller, Ending.TRANSFERRED)
    rig.carrier.refuses.append(PeerError("no"))
    await rig.tick()
    assert rig.asked[-1][:2] == ("fall_back", "C1")


async def test_a_caller_who_leaves_ends_the_briefing(rig: Rig):
    _, human, outbound = await briefing(rig)
    rig.board.status("C1", CallStatus.COMPLETED, rig.now_s)
    await rig.settle()
    assert human.done == [("stop", Ending.AGENT_HUNG_UP)]
    assert rig.board.follows(outbound.call_sid, rig.now_s) == HANG_UP


async def test_without_conferences_the_target_is_dialled():
    rig = await Rig(can=frozenset()).opened()
    caller = rig.talking()
    caller.tools.transfer_to = Transfer(HUMAN, "Ann", warm=True)
    rig.over(caller, Ending.TRANSFERRED)
    assert rig.asked == [("follow", "C1", NextStep(Kind.DIAL, HUMAN, "Ann"))]


# --- the end of the process


async def test_close_waits_for_requests_under_way(rig: Rig):
    done = asyncio.Event()

    async def slow() -> None:
        await asyncio.sleep(0.01)
        done.set()

    rig.board._spawn(slow())
    queued = await rig.board.operators.call_out(HUMAN, "desk")
    await rig.board.close()
    assert done.is_set()
    assert queued.status == "canceled"
