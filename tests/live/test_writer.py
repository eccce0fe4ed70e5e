"""Checkpoints written behind, and their encryption."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.live import CallStage, StoreAway, Write, Written
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.live.seal import Seal
from offhook.gateway.live.writer import Checkpoints
from offhook.metrics.catalogue import Metrics


class CountingStore(MemoryLive):
    """Keeps each write; is away while told so."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop().time)
        self.away, self.writes = False, []

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        if self.away:
            raise StoreAway("away")
        self.writes += writes
        return await super().write(writes)


class Counter:
    """A call that counts its changes."""

    def __init__(self) -> None:
        self.count, self.gone = 0, False

    def checkpoint(self) -> tuple[CallStage, bytes]:
        return CallStage.LIVE, str(self.count).encode()

    def log(self, start: int) -> Sequence[bytes]:
        return [b"entry"] * (self.count - start)

    def superseded(self) -> None:
        self.gone = True


async def test_changes_coalesce_and_nothing_is_lost() -> None:
    store = CountingStore()
    checkpoints, call = Checkpoints("a", store, Metrics(CollectorRegistry(), LABELS)), Counter()
    writer = asyncio.create_task(checkpoints.run())
    checkpoints.begin("CA1", call, 1)
    for _ in range(100):
        call.count += 1
        checkpoints.changed("CA1")
    assert await checkpoints.written("CA1", 5.0)
    assert [write.head for write in store.writes] == [b"100"]
    store.away = True
    for _ in range(100):
        call.count += 1
        checkpoints.changed("CA1")
        await asyncio.sleep(0)
    assert not await checkpoints.written("CA1", 0.5)
    store.away = False
    assert await checkpoints.written("CA1", 5.0)
    assert [(write.head, write.log_at, len(write.log)) for write in store.writes[1:]] == [(b"200", 100, 100)]
    store._calls.clear()  # the store was emptied
    call.count += 1
    checkpoints.changed("CA1")
    assert await checkpoints.written("CA1", 5.0)
    assert len(store._calls["CA1"].log) == 201
    await store.claim("CA1", "b")
    checkpoints.changed("CA1")
    assert not await checkpoints.written("CA1", 5.0)
    assert call.gone
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def test_words_are_written_twice_a_second_at_most() -> None:
    store = CountingStore()
    checkpoints, call = Checkpoints("a", store, Metrics(CollectorRegistry(), LABELS)), Counter()
    writer = asyncio.create_task(checkpoints.run())
    checkpoints.begin("CA1", call, 1)
    await asyncio.sleep(0.1)
    for _ in range(100):
        checkpoints.changed_a_little("CA1")
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.6)
    assert 4 <= len(store.writes) <= 6  # in 2 s, and the first
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


def test_what_is_kept_can_be_read_with_the_key_alone() -> None:
    old, new = Seal(["the first key"]), Seal(["the second key", "the first key"])
    sealed = old.seal(b"handle-canary", "CA1")
    assert b"canary" not in sealed
    assert new.open(sealed, "CA1") == b"handle-canary"  # while the key is replaced
    assert old.open(new.seal(b"x", "CA1"), "CA1") is None
    assert new.open(sealed, "CA2") is None
    assert sealed != old.seal(b"handle-canary", "CA1")


@pytest.mark.parametrize("damaged", [b"", b"short", b"x" * 100])
def test_what_is_damaged_is_not_read(damaged: bytes) -> None:
    assert Seal(["a key"]).open(damaged, "CA1") is None
