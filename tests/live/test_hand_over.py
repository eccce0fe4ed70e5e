"""A call that its process hands over: what the model hears of the caller while the live store takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.live import CallStage, StoreAway, Write, Written
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.rehearsal.model.script import script_from
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from tests.rig.gateway import node_environ, serving

TAKES_S = 0.6


class SlowStore(MemoryLive):
    """Takes `TAKES_S` for the state of a call that is handed over; then refuses it while `away`."""

    away = False
    kept_s = 0.0

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        if not self.kept_s and any(write.stage is CallStage.HANDOVER for write in writes):
            await asyncio.sleep(TAKES_S)
            if self.away:
                raise StoreAway("away")
            self.kept_s = asyncio.get_running_loop().time()
        return await super().write(writes)


@asynccontextmanager
async def talking(store: SlowStore) -> AsyncIterator[tuple[Gateway, ModelServer, SimulatedCall]]:
    """A call in the midst of its silence, which the model hears."""
    agent = parse_agent("name: shop\nfallback: {say: We are closed.}\n")
    async with (
        ModelServer(script_from({"replies": []})) as model,
        serving([agent], node_environ("a"), model=model, live=store) as (gateway, url),
    ):
        call = SimulatedCall(url)
        running = asyncio.create_task(call.run())
        async with asyncio.timeout(10):
            while not (model.sessions and len(model.sessions[0].audio_arrivals) > 50):
                await asyncio.sleep(0.02)
        yield gateway, model, call
        call.hang_up()
        await running


async def test_the_caller_is_heard_until_state_is_kept() -> None:
    store = SlowStore(asyncio.get_running_loop().time)
    async with talking(store) as (gateway, model, call):
        assert await gateway.switchboard.moves.hand_over(gateway.calls[call.call_sid], 0.0)
        async with asyncio.timeout(10):
            while not (len(model.sessions) > 1 and model.sessions[1].audio_arrivals):
                await asyncio.sleep(0.02)
        first, second = model.sessions
        assert first.audio_arrivals[-1][0] > store.kept_s - 0.1
        assert first.closed_at_s is not None
        assert store.kept_s <= first.closed_at_s <= second.opened_at_s
        assert call.truth.streams[0].closed_s is not None
        assert first.closed_at_s <= call.truth.streams[0].closed_s  # or it would be in use when it is resumed
    assert not model.violations


async def test_a_call_that_cannot_move_keeps_its_model() -> None:
    store = SlowStore(asyncio.get_running_loop().time)
    async with talking(store) as (gateway, model, call):
        store.away = True
        assert not await gateway.switchboard.moves.hand_over(gateway.calls[call.call_sid], 0.0)
        heard = len(model.sessions[0].audio_arrivals)
        await asyncio.sleep(1.0)
        assert len(model.sessions[0].audio_arrivals) > heard + 20
        assert call.streaming
        store.away = False
        await asyncio.sleep(2.0)  # the store is asked again a second after it was away
        assert store._calls[call.call_sid].stage is CallStage.LIVE
