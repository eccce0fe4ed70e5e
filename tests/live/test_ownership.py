"""Thousands of interleavings of ring, write, claim, steer and end by three nodes over a store that fails before or
after it has done what was asked, or forgets everything: what must hold after each step.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.live import CallStage, Claim, Node, StoreAway
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.rehearsal.quick_clock import QuickLoop
from offhook.metrics.catalogue import Metrics

CALL = "CA1"
NODES = ("a", "b", "c")
nodes = st.sampled_from(NODES)
METRICS = Metrics(CollectorRegistry(), LABELS)


class FaultyStore:
    """A memory store with a schedule of faults: each request fails "before" or "after" its effect, or not."""

    def __init__(self, store: MemoryLive) -> None:
        self.store, self.fault = store, ""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def asked(*args: Any, **more: Any) -> Any:
            if self.fault == "before":
                raise StoreAway(name)
            answer = await getattr(self.store, name)(*args, **more)
            if self.fault == "after":
                raise StoreAway(name)
            return answer

        return asked


class Owned:
    """A call in one node: its checkpoints say which epoch wrote them."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.changes, self.superseded_at = epoch, 0, None

    def checkpoint(self) -> tuple[CallStage, bytes]:
        return CallStage.LIVE, f"{self.epoch} {self.changes}".encode()

    def log(self, start: int) -> Sequence[bytes]:
        return [str(n).encode() for n in range(start, self.changes)]

    def superseded(self) -> None:
        assert self.superseded_at is None, "fenced twice"
        self.superseded_at = self.changes


class Ownership(RuleBasedStateMachine):
    @initialize(forgets=st.sampled_from([False, False, False, True]))
    def begin(self, forgets: bool) -> None:
        self.forgets = forgets
        self.loop = QuickLoop(1e6)  # nothing here waits for anything outside
        self.store = FaultyStore(MemoryLive(self.loop.time))
        self.fleets = {
            name: Fleet(name, self.store, METRICS, here=lambda name=name: Node(name=name))  # type: ignore[arg-type, misc]
            for name in NODES
        }
        self.owned: dict[str, Owned] = {}
        self.owners: dict[int, set[str]] = defaultdict(set)  # by epoch
        self.ended: list[tuple[str, bool]] = []  # by whom, and whether the store had said so
        self.heads: list[int] = []  # epochs of the heads seen, in order
        self.emptied = False
        self.run(self.ring("a"))

    def run(self, work: Any) -> Any:
        async def whole() -> Any:
            writers = [asyncio.ensure_future(f.checkpoints.run()) for f in self.fleets.values()]
            result = await work
            for _ in range(6):
                await asyncio.sleep(0)
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            return result

        return self.loop.run_until_complete(whole())

    async def ring(self, name: str) -> None:
        held = await self.fleets[name].ring(CALL)
        if held is not None and held.owner == name and held.stage is not CallStage.ENDED and not self.owned.get(name):
            self.take(name, held.epoch)

    def take(self, name: str, epoch: int) -> None:
        self.owned[name] = Owned(epoch)
        self.owners[epoch].add(name)
        self.fleets[name].checkpoints.begin(CALL, self.owned[name], epoch)

    @rule(fault=st.sampled_from(["", "", "before", "after"]))
    def store_behaves(self, fault: str) -> None:
        self.store.fault = fault

    @rule(name=nodes)
    def rings(self, name: str) -> None:
        self.run(self.ring(name))

    @rule(name=nodes)
    def changes(self, name: str) -> None:
        if (owned := self.owned.get(name)) is not None and owned.superseded_at is None:
            owned.changes += 1
            self.fleets[name].checkpoints.changed(CALL)
        self.run(asyncio.sleep(1.5))  # past the pause of a writer whose store is away

    @rule(name=nodes)
    def takes_over(self, name: str) -> None:
        """As a webhook does that does not find the call here."""
        if self.owned.get(name) is not None:
            return
        claim: Claim | None = self.run(self.fleets[name].claim(CALL))
        if claim is not None:
            self.take(name, claim.epoch)

    @rule(name=nodes)
    def steers(self, name: str) -> None:
        owned = self.owned.get(name)
        if owned is None or owned.superseded_at is not None:
            return
        may = self.run(self.fleets[name].owns(CALL))
        held = self.loop.run_until_complete(self.store.store.holder(CALL))
        if may and held is not None:
            assert held.epoch <= owned.epoch, "another node's call is steered"
        assert not (may and self.store.fault), "steered without asking"

    @rule(name=nodes)
    def ends(self, name: str) -> None:
        owned = self.owned.pop(name, None)
        if owned is None:
            return
        if owned.superseded_at is not None:
            self.fleets[name].checkpoints.forget(CALL)
            return
        if self.run(self.fleets[name].end(CALL)):
            self.ended.append((name, not self.store.fault))

    @precondition(lambda self: self.forgets)
    @rule()
    def store_is_emptied(self) -> None:
        self.store.store = MemoryLive(self.loop.time)
        self.owners.clear()
        self.emptied = True

    @invariant()
    def one_owner_per_epoch(self) -> None:
        assert all(len(names) == 1 for names in getattr(self, "owners", {}).values())

    @invariant()
    def epochs_of_heads_only_grow(self) -> None:
        if not hasattr(self, "store"):
            return
        call = self.store.store._calls.get(CALL)
        if call is not None and call.head:
            epoch = int(call.head.split()[0])
            assert call.epoch >= epoch
            if not self.emptied and self.heads:
                assert epoch >= self.heads[-1], "an owner before has written"
            self.heads.append(epoch)
            if call.owner in self.owned and call.epoch == self.owned[call.owner].epoch == epoch:
                assert len(call.log) == int(call.head.split()[1]), "the log has a hole"

    @invariant()
    def one_record_by_the_store(self) -> None:
        if not getattr(self, "emptied", True):
            assert sum(sure for _, sure in self.ended) <= 1

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()


Ownership.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestOwnership = Ownership.TestCase
