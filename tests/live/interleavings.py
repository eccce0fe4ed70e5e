"""Interleavings of all that nodes do to calls, over a store that delays, fails and forgets: what holds after each step.

A request goes through in pieces that the schedule puts in any order: it may wait before it reaches the store, fail,
take effect and lose its answer, or come back late. So two nodes' requests overlap in every way that they can.

`tests/live/test_interleavings.py` takes a few; `python -m tests.bench.bench_interleavings` thousands.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.live import DEAD_AFTER_S, CallStage, LiveStore, Node, StoreAway
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.live.sqlite import SqliteLive
from offhook.gateway.rehearsal.quick_clock import QuickLoop
from offhook.metrics.catalogue import Metrics

__all__ = ["Interleavings", "SqliteInterleavings"]

CALLS = ("CA1", "CA2", "CA3")
NODES = ("a", "b", "c")
TURNS = 12  # of the loop: a request without faults is answered within them
CAP = {"cap:fleet": 2}
METRICS = Metrics(CollectorRegistry(), LABELS)
FAULTS = ("", "", "", "slow", "before", "after", "late")
nodes, calls = st.sampled_from(NODES), st.sampled_from(CALLS)


class FaultyStore:
    """What happens to each request, in its order: `faults`, then nothing.

    slow     it reaches the store later, after others
    before   it fails on its way
    after    it takes effect, and its answer is lost
    late     it takes effect at once, and its answer comes later
    """

    def __init__(self, store: LiveStore, step: Callable[[], Awaitable[None]]) -> None:
        self.store, self._step = store, step
        self.faults: list[str] = []
        self.refused = 0  # requests without an answer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def asked(*args: Any, **more: Any) -> Any:
            fault = self.faults.pop(0) if self.faults else ""
            if fault == "slow":
                await self._step()
            if fault == "before":
                self.refused += 1
                raise StoreAway(name)
            answer = await getattr(self.store, name)(*args, **more)
            if fault == "after":
                self.refused += 1
                raise StoreAway(name)
            if fault == "late":
                await self._step()
            return answer

        return asked


class Owned:
    """A call in one node: each checkpoint says which epoch wrote it, and after how many changes."""

    def __init__(self, epoch: int, lose: Callable[[], None]) -> None:
        self.epoch, self.changes, self.gone, self._lose = epoch, 0, False, lose

    def checkpoint(self) -> tuple[CallStage, bytes]:
        return CallStage.LIVE, f"{self.epoch} {self.changes}".encode()

    def log(self, start: int) -> Sequence[bytes]:
        return [str(n).encode() for n in range(start, self.changes)]

    def superseded(self) -> None:
        assert not self.gone, "fenced twice"
        self.gone = True
        self._lose()


class Interleavings(RuleBasedStateMachine):
    """Three nodes, three calls, room for two. What has happened outside is in `effects`, `records` and `steered`."""

    keys = Bundle("keys")

    def make_store(self) -> LiveStore:
        return MemoryLive(self.loop.time)

    @initialize(forgets=st.sampled_from([False, False, False, True]))
    def begin(self, forgets: bool) -> None:
        self.forgets = forgets
        self.loop = QuickLoop(1e6)  # nothing here waits for anything outside
        self.gates: list[asyncio.Event] = []  # requests that are held up
        self.store = FaultyStore(self.make_store(), self.held_up)
        self.run(self.store.store.open())
        self.fleets = {
            name: Fleet(name, self.store, METRICS, here=lambda name=name: Node(name=name), caps=CAP)  # type: ignore[misc]
            for name in NODES
        }
        self.owned: dict[tuple[str, str], Owned] = {}  # by node and call
        self.owners: dict[tuple[str, int], set[str]] = defaultdict(set)  # by call and epoch
        self.effects: dict[str, int] = defaultdict(int)  # by the tool run's key
        self.records: dict[str, list[bool]] = defaultdict(list)  # by call: whether the store was asked in vain
        self.heads: dict[str, int] = {}
        self.over: set[tuple[str, str]] = set()  # what each node has ended
        self.ended: set[str] = set()  # calls whose end the store has confirmed
        self.emptied = self.failed_open = False
        self.stores = 1  # so far: one that is emptied is another
        self.tasks: set[asyncio.Task[Any]] = set()
        self.writers = [self.loop.create_task(f.checkpoints.run()) for f in self.fleets.values()]

    async def held_up(self) -> None:
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin it, as far as it gets without waiting; the rest happens whenever the schedule lets it."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        self.turn(TURNS)

    def turn(self, times: int) -> None:
        async def turns() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.run(turns())
        for task in [t for t in self.tasks if t.done()]:
            self.tasks.discard(task)
            task.result()

    # --- the schedule

    @rule(faults=st.lists(st.sampled_from(FAULTS), max_size=4))
    def store_behaves(self, faults: list[str]) -> None:
        self.store.faults = list(faults)

    @precondition(lambda self: bool(getattr(self, "gates", None)))
    @rule(which=st.integers(0, 3))
    def a_request_goes_on(self, which: int) -> None:
        self.gates.pop(which % len(self.gates)).set()
        self.turn(2 * TURNS)

    @rule(seconds=st.sampled_from([0.3, 1.5]))
    def time_passes(self, seconds: float) -> None:
        refused = self.store.refused
        self.run(asyncio.sleep(seconds))
        for fleet in self.fleets.values():
            self.start(fleet._beat())
        # A place that is not renewed may be given away: what is held up here may be a beat.
        self.failed_open |= bool(self.gates) or self.store.refused != refused

    @precondition(lambda self: getattr(self, "forgets", False))
    @rule()
    def store_is_emptied(self) -> None:
        """From now on two nodes may have the same epoch: calls go on, and what is over is still left by all."""
        self.run(self.store.store.close())
        self.store.store = self.make_store()
        self.run(self.store.store.open())
        self.emptied = True
        self.stores += 1
        for known in (self.heads, self.ended, self.records):
            known.clear()

    # --- what nodes do

    @rule(name=nodes, call=calls)
    def rings(self, name: str, call: str) -> None:
        self.start(self._ring(name, call))

    async def _ring(self, name: str, call: str) -> None:
        fleet, before = self.fleets[name], self.store.refused
        held = await fleet.ring(call)
        if (
            held is None
            or held.owner != name
            or held.stage is not CallStage.RINGING
            or (name, call) in {*self.owned, *self.over}
        ):
            return
        if await fleet.admit(call):
            if (name, call) not in self.owned:  # the same webhook, repeated, was here meanwhile
                await fleet.give_back(call, held.epoch)
            return
        if self.store.refused != before:
            self.failed_open = True  # caps are kept as far as the store was asked
        if (name, call) not in {*self.owned, *self.over}:
            self.take(name, call, held.epoch)

    def newest(self, call: str) -> int:
        """The highest epoch that a node has the call with; 0 where the store has forgotten what it gave out."""
        return 0 if self.emptied else max((epoch for known, epoch in self.owners if known == call), default=0)

    def take(self, name: str, call: str, epoch: int) -> None:
        self.owned[name, call] = Owned(epoch, lambda: self.fleets[name].checkpoints.lose(call))
        self.owners[call, epoch].add(name)
        self.fleets[name].checkpoints.begin(call, self.owned[name, call], epoch)

    @rule(name=nodes, call=calls)
    def changes(self, name: str, call: str) -> None:
        owned = self.owned.get((name, call))
        if owned is not None and not owned.gone:
            owned.changes += 1
            self.fleets[name].checkpoints.changed(call)
        self.turn(TURNS)

    @rule(name=nodes, call=calls)
    def takes_over(self, name: str, call: str) -> None:
        """As a webhook does that does not find the call here."""
        if (name, call) not in self.owned:
            self.start(self._take_over(name, call))

    async def _take_over(self, name: str, call: str) -> None:
        claim = await self.fleets[name].claim(call)
        self.failed_open |= claim is not None and call not in self.leases()  # it has no place yet
        if claim is not None and (name, call) not in self.owned:
            self.take(name, call, claim.epoch)

    @rule(name=nodes, call=calls)
    def steers(self, name: str, call: str) -> None:
        if (name, call) in self.owned and not self.owned[name, call].gone:
            self.start(self._steer(name, call))

    async def _steer(self, name: str, call: str) -> None:
        """By REST: allowed by an answer of the store alone, which was true when it was given."""
        owned = self.owned[name, call]
        newest = self.newest(call)  # before the question: a later owner may come while the answer is on its way
        if await self.fleets[name].owns(call):
            assert newest <= owned.epoch, "another node's call is steered"

    @rule(target=keys, name=nodes, call=calls, number=st.integers(1, 3))
    def begins_a_tool(self, name: str, call: str, number: int) -> tuple[str, str]:
        key = f"{call}:{number}"
        self.start(self._tool(name, call, key))
        return call, key

    @rule(name=nodes, key=keys)
    def repeats_a_tool(self, name: str, key: tuple[str, str]) -> None:
        """A new owner whose model requests the same again."""
        self.start(self._tool(name, *key))

    async def _tool(self, name: str, call: str, key: str) -> None:
        """As `Journal.begins` and the runner do, for a tool that may not run twice; the line is away."""
        owned = self.owned.get((name, call))
        if owned is None or owned.gone:
            return
        newest = self.newest(call)
        begin = await self.fleets[name].begin_tool(call, key)
        if begin is None or begin.fenced or begin.before is not None:
            return
        assert newest <= owned.epoch, "an owner before has begun a tool"
        self.effects[key] += 1
        await self.fleets[name].tool_done(call, key, "result")

    @rule(name=nodes, call=calls, fault=st.sampled_from(["", "after", "slow", "late"]))
    def ends(self, name: str, call: str, fault: str) -> None:
        if (name, call) in self.owned:
            self.store.faults = [fault, *self.store.faults]
            self.start(self._end(name, call))

    async def _end(self, name: str, call: str) -> None:
        owned = self.owned.pop((name, call), None)
        if owned is None:
            return
        fleet = self.fleets[name]
        self.over.add((name, call))
        if owned.gone:
            fleet.checkpoints.lose(call)
            return
        asked, newest, store = self.store.refused, self.newest(call), self.stores
        if await fleet.end(call) and self.stores == store:
            agreed = self.store.refused == asked
            assert newest <= owned.epoch or not agreed, "an owner before has ended the call"
            self.records[call].append(agreed)
            if agreed:
                self.ended.add(call)

    # --- what must hold

    @invariant()
    def one_owner_per_epoch(self) -> None:
        if not getattr(self, "emptied", True):
            assert all(len(names) == 1 for names in self.owners.values()), "two owners of an epoch"

    @invariant()
    def a_tool_takes_effect_once(self) -> None:
        if not getattr(self, "emptied", True):
            assert all(times == 1 for times in self.effects.values()), "a tool took effect twice"

    @invariant()
    def one_record_with_the_stores_word(self) -> None:
        for agreed in getattr(self, "records", {}).values():
            assert sum(agreed) <= 1, "two records of a call"

    @invariant()
    def no_write_of_an_owner_before(self) -> None:
        if not hasattr(self, "store") or self.emptied:
            return
        for call_id in CALLS:
            head = self.head_of(call_id)
            if head is None:
                continue
            held_epoch, written, entries = head
            assert held_epoch >= written[0] >= self.heads.get(call_id, 0), "an owner before has written"
            self.heads[call_id] = written[0]
            assert entries == written[1], "the log has a hole"

    @invariant()
    def what_is_over_stays_over(self) -> None:
        for call in getattr(self, "ended", ()):
            assert self.stage_of(call) is CallStage.ENDED, "a call that has ended is alive"

    def stage_of(self, call_id: str) -> CallStage:
        return self.store.store._calls[call_id].stage  # type: ignore[attr-defined]

    def head_of(self, call_id: str) -> tuple[int, tuple[int, int], int] | None:
        """The call's epoch, the epoch and changes that its head names, and how long its log is."""
        call = self.store.store._calls.get(call_id)  # type: ignore[attr-defined]
        if call is None or not call.head:
            return None
        epoch, changes = map(int, call.head.split())
        return call.epoch, (epoch, changes), len(call.log)

    @invariant()
    def the_cap_is_kept(self) -> None:
        if not hasattr(self, "store") or self.failed_open or self.emptied:
            return
        live = {call for (_, call), owned in self.owned.items() if not owned.gone and owned.epoch == self.newest(call)}
        assert len(live) <= CAP["cap:fleet"], "more calls than there is room for"

    def leases(self) -> set[str]:
        now_s = self.loop.time()
        held = self.store.store._leases.get("cap:fleet", {})  # type: ignore[attr-defined]
        return {call for call, until_s in held.items() if until_s > now_s}

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.all_end()
        finally:
            self.close()

    def close(self) -> None:
        for task in (*self.writers, *self.tasks):
            task.cancel()
        self.run(_gathered([*self.writers, *self.tasks]))
        self.run(self.store.store.close())
        self.loop.close()

    def all_end(self) -> None:
        """All calls end, in any state of the store: nothing is left."""
        self.store.faults = []
        for _ in range(50):
            while self.gates:
                self.gates.pop().set()
            self.turn(2 * TURNS)
            if not self.tasks:
                break
            self.run(asyncio.sleep(0.5))
        assert not self.tasks, "a request never ends"
        for name, call in list(self.owned):
            self.run(self._end(name, call))
        self.run(asyncio.sleep(DEAD_AFTER_S + 1))
        assert not self.leases(), "a place is still taken"
        assert not any(fleet.checkpoints.call_ids() for fleet in self.fleets.values())
        for call in [] if self.emptied else CALLS:
            held = self.run(self.store.store.holder(call))
            if held is not None and self.newest(call) == held.epoch:  # else its owner never had the answer
                assert self.records[call], "no record of a call"


class Inline(ThreadPoolExecutor):
    """Runs what it is given at once, so that the schedule alone decides the order."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


class SqliteInterleavings(Interleavings):
    """The same over SQLite."""

    def make_store(self) -> LiveStore:
        self.folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        return InlineSqlite(f"{self.folder.name}/live.db", self.loop.time)

    def head_of(self, call_id: str) -> tuple[int, tuple[int, int], int] | None:
        db = self.store.store._db  # type: ignore[attr-defined]
        row = db.execute("select epoch, head from calls where call_id = ?", (call_id,)).fetchone()
        if row is None or not row[1]:
            return None
        epoch, changes = map(int, row[1].split())
        (entries,) = db.execute("select count(*) from log where call_id = ?", (call_id,)).fetchone()
        return row[0], (epoch, changes), entries

    def stage_of(self, call_id: str) -> CallStage:
        db = self.store.store._db  # type: ignore[attr-defined]
        return CallStage(db.execute("select stage from calls where call_id = ?", (call_id,)).fetchone()[0])

    def leases(self) -> set[str]:
        rows = self.store.store._db.execute(  # type: ignore[attr-defined]
            "select call_id from leases where scope = 'cap:fleet' and expires_s > ?", (self.loop.time(),)
        )
        return {call for (call,) in rows}


class InlineSqlite(SqliteLive):
    async def open(self) -> None:
        self._thread = Inline(1)
        self._connect()


async def _gathered(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
