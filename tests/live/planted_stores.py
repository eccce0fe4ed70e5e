"""Live stores with one fault each, and for each a short schedule of `Interleavings` that finds it.

`tests/live/test_interleavings.py` runs the schedules; `python -m tests.bench.bench_interleavings --planted` counts how
many random ones it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from offhook.gateway.live import Begin, CallStage, Claim, Held, LiveStore, Write, Written
from offhook.gateway.live.memory import MemoryLive
from tests.live.interleavings import Interleavings

__all__ = ["PLANTED", "Planted", "over", "run"]

LATEST = 1_000  # an epoch that no owner has


class UnfencedWrite(MemoryLive):
    def _write(self, write: Write) -> Written:
        call = self._find(write.call_id)
        return super()._write(write if call is None else write._replace(epoch=max(write.epoch, call.epoch)))


class RevivingWrite(MemoryLive):
    def _write(self, write: Write) -> Written:
        call = self._find(write.call_id)
        if call is not None and call.stage is CallStage.ENDED:
            call.stage = CallStage.LIVE
        return super()._write(write)


class HoleyLog(MemoryLive):
    def _write(self, write: Write) -> Written:
        return super()._write(write._replace(log=write.log[1:]) if write.log_at else write)


class UnfencedTool(MemoryLive):
    async def begin_tool(self, call_id: str, epoch: int, key: str) -> Begin:
        return await super().begin_tool(call_id, LATEST, key)


class ForgottenKey(MemoryLive):
    async def begin_tool(self, call_id: str, epoch: int, key: str) -> Begin:
        return (await super().begin_tool(call_id, epoch, key))._replace(before=None)


class OneTooMany(MemoryLive):
    async def admit(self, call_id: str, caps: Mapping[str, int]) -> str:
        return await super().admit(call_id, {scope: cap + 1 for scope, cap in caps.items()})


class SameEpoch(MemoryLive):
    async def claim(self, call_id: str, owner: str, *, expect_epoch: int | None = None) -> Claim | None:
        claim = await super().claim(call_id, owner, expect_epoch=expect_epoch)
        if claim is None:
            return None
        self._calls[call_id].epoch -= 1
        return claim._replace(epoch=claim.epoch - 1)


class ClaimOfEnded(MemoryLive):
    async def claim(self, call_id: str, owner: str, *, expect_epoch: int | None = None) -> Claim | None:
        call = self._find(call_id)
        if call is not None and call.stage is CallStage.ENDED:
            call.stage = CallStage.LIVE
        return await super().claim(call_id, owner, expect_epoch=expect_epoch)


class RingsForAll(MemoryLive):
    async def ring(self, call_id: str, owner: str) -> Held:
        return (await super().ring(call_id, owner))._replace(owner=owner)


class UnfencedEnd(MemoryLive):
    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        call = self._find(call_id)
        return await super().end(call_id, owner, epoch if call is None else call.epoch)


class EndOnce(MemoryLive):
    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        call = self._find(call_id)
        return (call is None or call.stage is not CallStage.ENDED) and await super().end(call_id, owner, epoch)


class EndForAll(MemoryLive):
    """Each owner of the same epoch ends it: there are two once the store was emptied."""

    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        call = self._find(call_id)
        if call is not None and call.stage is CallStage.ENDED:
            call.owner = owner
        return await super().end(call_id, owner, epoch)


class Planted(NamedTuple):
    """`found`: what the check that fails says. `schedule`: rules of `Interleavings` and their arguments."""

    store: type[MemoryLive]
    found: str
    schedule: Sequence[tuple[Any, ...]]


RINGS, MOVES = ("rings", "a", "CA1"), ("takes_over", "b", "CA1")
PLANTED = (
    Planted(UnfencedWrite, "an owner before has written", [RINGS, MOVES, ("changes", "a", "CA1")]),
    Planted(
        RevivingWrite,
        "a call that has ended is alive",
        [
            RINGS,
            ("store_behaves", ["slow"]),
            ("changes", "a", "CA1"),
            ("ends", "a", "CA1", ""),
            ("a_request_goes_on", 0),
        ],
    ),
    Planted(HoleyLog, "the log has a hole", [RINGS, *2 * [("changes", "a", "CA1")]]),
    Planted(UnfencedTool, "an owner before has begun a tool", [RINGS, MOVES, ("begins_a_tool", "a", "CA1", 1)]),
    Planted(
        ForgottenKey,
        "a tool took effect twice",
        [RINGS, ("begins_a_tool", "a", "CA1", 1), ("repeats_a_tool", "a", ("CA1", "CA1:1"))],
    ),
    Planted(OneTooMany, "more calls than there is room for", [RINGS, ("rings", "a", "CA2"), ("rings", "a", "CA3")]),
    Planted(SameEpoch, "two owners of an epoch", [RINGS, MOVES]),
    Planted(ClaimOfEnded, "a call that has ended is alive", [RINGS, ("ends", "a", "CA1", ""), MOVES]),
    Planted(
        RingsForAll,
        "two owners of an epoch",
        [("store_behaves", ["", "", "slow"]), RINGS, ("rings", "b", "CA1")],  # before its first checkpoint
    ),
    Planted(UnfencedEnd, "an owner before has ended the call", [RINGS, MOVES, ("ends", "a", "CA1", "")]),
    Planted(EndOnce, "no record of a call", [RINGS, ("ends", "a", "CA1", "after")]),
    Planted(
        EndForAll,
        "two records of a call",
        [RINGS, ("store_is_emptied",), ("rings", "b", "CA1"), ("ends", "b", "CA1", ""), ("ends", "a", "CA1", "")],
    ),
)


def over(store: type[MemoryLive]) -> type[Interleavings]:
    """The interleavings over this store."""

    class Over(Interleavings):
        def make_store(self) -> LiveStore:
            return store(self.loop.time)

    return Over


def run(machine: Interleavings, schedule: Sequence[tuple[Any, ...]]) -> None:
    """This schedule alone; raises `AssertionError` with what a check says."""
    checks = [name for name, part in vars(Interleavings).items() if hasattr(part, "hypothesis_stateful_invariant")]
    assert checks
    machine.begin(forgets=True)
    try:
        for name, *arguments in schedule:
            getattr(machine, name)(*arguments)
            for check in checks:
                getattr(machine, check)()
        machine.all_end()
    finally:
        machine.close()
