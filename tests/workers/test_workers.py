"""Three workers behind one listener: real processes, simulated calls. One parent serves all tests of this file."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.cluster.calls import owner_of
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause
from tests.rig.counting import AGENT, counting_script
from tests.rig.process import in_thread
from tests.rig.workers import AUTH_TOKEN, PUBLIC, Served, workers

pytestmark = pytest.mark.wall_clock
NAMES = ["w-0", "w-1", "w-2"]
HUNG_UP = 'offhook_calls_total{reason="caller_hung_up"'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environ = {"OFFHOOK_MAX_CALLS": "10", "OFFHOOK_DRAIN_S": "5"}
    with (
        in_thread(ModelServer(counting_script(), clock=time.monotonic)) as model,
        workers(tmp_path_factory.mktemp("workers"), AGENT, model, 3, environ) as whole,
    ):
        yield whole


def calls_of(served: Served, count: int, talk_s: float) -> list[SimulatedCall]:
    steps = [Pause(1000 * talk_s), HangUp()]
    return [SimulatedCall(served.url, steps, public_url=PUBLIC, auth_token=AUTH_TOKEN) for _ in range(count)]


async def connected(calls: list[SimulatedCall]) -> list[asyncio.Task[object]]:
    """Placed all at once; returns once each hears the agent."""
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(call.run()) for call in calls]
    async with asyncio.timeout(20):
        while not all(call.truth.agent for call in calls):
            await asyncio.sleep(0.02)
    return tasks


async def test_calls_are_spread_evenly(served: Served) -> None:
    calls = calls_of(served, 9, talk_s=2.0)
    await asyncio.gather(*await connected(calls))
    # Each stream came to the worker that answered its webhook: no second one was needed, and none was taken over.
    assert [len(call.truth.streams) for call in calls] == [1] * 9
    assert Counter(owner_of(call) for call in calls) == dict.fromkeys(NAMES, 3)
    assert served.series('offhook_calls_moved_total{direction="taken"') == {"0": 0, "1": 0, "2": 0}
    assert served.series(HUNG_UP) == {"0": 3, "1": 3, "2": 3}
    ended = json.loads(served.get("/console/api/calls"))
    assert {record["call_sid"] for record in ended} == {call.call_sid for call in calls}
    assert served.get(f"/console/api/calls/{calls[0].call_sid}")


async def test_limit_is_of_all_workers(served: Served) -> None:
    calls = calls_of(served, 13, talk_s=2.0)
    await asyncio.gather(*(call.run() for call in calls))
    assert sum(bool(call.truth.streams) for call in calls) == 10
    assert sum(served.series("offhook_call_capacity").values()) == 10


async def test_killed_worker_loses_no_call(served: Served) -> None:
    calls = calls_of(served, 6, talk_s=4.0)
    tasks = await connected(calls)
    before = served.pids()
    served.kill("w-1")
    await asyncio.gather(*tasks)
    assert {call.truth.ended_by for call in calls} == {"caller"}
    moved = [call for call in calls if len(call.truth.streams) == 2]
    assert len(moved) == 2
    assert "w-1" not in {owner_of(call) for call in moved}
    served.wait_for("worker w-1 ended (SIGKILL)")
    async with asyncio.timeout(20):  # until it is replaced
        while served.series("offhook_worker_starts") != {"0": 1, "1": 2, "2": 1}:
            await asyncio.sleep(0.1)
    after = served.pids()
    assert after["w-1"] != before["w-1"]
    again = calls_of(served, 3, talk_s=0.5)
    await asyncio.gather(*await connected(again))
    assert sorted(owner_of(call) for call in again) == NAMES


async def test_sigterm_drains_all(served: Served) -> None:
    calls = calls_of(served, 3, talk_s=2.0)
    tasks = await connected(calls)
    served.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(served.wait_for, "draining: ", times=3)
    late = calls_of(served, 1, talk_s=0.5)
    await asyncio.gather(*tasks, late[0].run())
    assert {call.truth.ended_by for call in calls} == {"caller"}
    assert not late[0].truth.streams
    assert await asyncio.to_thread(served.process.wait, 10) == 0
    assert served.log.read_text().count("drained in") == 3
    assert not list(Path("/dev/shm").glob(f"offhook-workers-{served.process.pid}-*"))
