"""A call that another process had: ended there, and away from here and back, with one gateway on the quick clock."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.call.call import Call
from offhook.gateway.call.facts import TELEPHONE
from offhook.gateway.call.head import VERSION, Head, RunningHead
from offhook.gateway.live import CallStage, ToolRun, Write
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.live.seal import Seal
from offhook.gateway.rehearsal.model.script import script_from
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.store.record import CallRecord, ToolRecord
from offhook.gateway.telephony.admission import Admitted
from offhook.gateway.telephony.carrier import Ringing
from offhook.gateway.telephony.status import CallStatus
from tests.rig.gateway import FLEET_KEY, node_environ, serving

CALL = "CA" + "7" * 32
TOOL = ToolRecord(call_id="t1", name="book", requested_ms=1.0)


@asynccontextmanager
async def alone(store: MemoryLive) -> AsyncIterator[Gateway]:
    async with (
        ModelServer(script_from({"replies": []})) as model,
        serving([parse_agent("name: shop\n")], node_environ("a"), model=model, live=store) as (gateway, _),
    ):
        yield gateway


async def ended_in_b(clock: Clock, run: ToolRun) -> CallRecord:
    """Process b had the call, and a tool of it in flight, of which `run` is noted; the carrier reports its end here."""
    store, seal = MemoryLive(clock), Seal([FLEET_KEY])
    record = CallRecord(call_sid=CALL, agent="shop", streams=["MZ1"], tool_calls=[TOOL])
    head = Head(v=VERSION, wall_s=clock(), record=record, phase="listening", tools=[RunningHead("t1", "book", "key")])
    sealed = seal.seal(msgspec.json.encode(head), CALL)
    if run.done:
        run = ToolRun(done=True, result=base64.b64encode(seal.seal(b'{"table": 4}', CALL)).decode())
    async with alone(store) as gateway:
        await store.ring(CALL, "b")
        await store.write([Write(CALL, "b", 1, CallStage.LIVE, sealed)])
        await store.note_tool(CALL, "key", run)
        ringing = Ringing(CALL, "", "", "", TELEPHONE, status=CallStatus.COMPLETED)
        board = gateway.switchboard
        assert await board.moves.ended_elsewhere(board._carriers[0], ringing, clock())
        async with asyncio.timeout(10):
            while (kept := await gateway.records.get(CALL)) is None:
                await asyncio.sleep(0.01)
        return kept


@pytest.mark.parametrize(("done", "outcome", "answer"), [(True, "done", '{"table":4}'), (False, "failed", "")])
def test_a_call_ended_elsewhere_has_its_tools(done: bool, outcome: str, answer: str) -> None:
    record = run_quickly(lambda clock: ended_in_b(clock, ToolRun(done=done)))
    assert [(tool.outcome, tool.answer) for tool in record.tool_calls] == [(outcome, answer)]
    assert record.end_reason == "caller_hung_up"


async def away_and_back(clock: Clock) -> tuple[Call, Gateway]:
    """The call moves to b and back while what was here of it still closes; the process afterwards."""
    store = MemoryLive(clock)
    ringing = Ringing(CALL, "+15550100", "+15550199", "+15550199", TELEPHONE)
    async with alone(store) as gateway:
        board = gateway.switchboard
        await store.ring(CALL, "a")
        board.ring(board._carriers[0], ringing, clock())
        first = gateway.calls[CALL]
        assert await gateway.fleet.checkpoints.written(CALL, 5.0)
        await store.claim(CALL, "b")
        board.moves._moved(first)
        assert isinstance(await board.moves.take_over(board._carriers[0], ringing, clock()), Admitted)
        assert not first._teardown._gone.is_set()
        successor = gateway.calls[CALL]
        await first.over()
        assert successor is not first
        assert gateway.calls == {CALL: successor}
        assert not gateway._draining.idle.is_set()
        assert await gateway.records.get(CALL) is None
        return successor, gateway


def test_a_call_that_came_back_stays() -> None:
    successor, gateway = run_quickly(away_and_back)
    assert (successor.record.end_reason, gateway.calls) == ("server_stopped", {})
