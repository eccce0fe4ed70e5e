"""Outbound calls in SQLite and in Postgres: found by their keys, claimed by one process, at one rate for all."""

from __future__ import annotations

import asyncio
from functools import partial

from offhook.gateway.store.columns import hash_number
from offhook.gateway.store.database import CallDatabase
from offhook.gateway.store.outbound import (
    CLAIM_MS,
    DIAL_MS,
    KEPT_MS,
    OutboundTable,
    Row,
    drop_old_outbound,
    forget_outbound,
)

NUMBER_KEY = b"a key of the numbers"
GAP_MS = 1_000.0


class Nodes:
    """Processes that share a database and a clock."""

    def __init__(self, database: CallDatabase) -> None:
        self.now_s = 1_000.0
        self.a, self.b = (OutboundTable(database, name, NUMBER_KEY, lambda: self.now_s) for name in "ab")

    async def waits(self, id: str, key: str | None = None, digest: str = "d", most: int = 9) -> Row | None:
        return await self.a.submit(Row(id, digest, "{}", "waiting"), key, "+15550100", most)

    async def claimed(self, node: OutboundTable, most: int = 9, behind_ms: float = 0.0) -> list[str]:
        return [row.id for row in await node.claim(GAP_MS, behind_ms, most)]


async def test_a_key_is_one_call_however_many_ask(database: CallDatabase) -> None:
    nodes = Nodes(database)
    rows = await asyncio.gather(
        *(t.submit(Row(f"{n}", f"digest {n}", "{}", "waiting"), "order 17", "+1", 9) for n, t in
          enumerate([nodes.a, nodes.b] * 4))
    )  # fmt: skip
    assert len({row.id for row in rows if row is not None}) == 1
    assert len({row.digest for row in rows if row is not None}) == 1  # of the first: the others see that it differs
    assert len(await nodes.claimed(nodes.b)) == 1
    nodes.now_s += 60
    assert await nodes.claimed(nodes.a, behind_ms=60_000) == [rows[0].id if rows[0] else ""]  # its lease is over


async def test_calls_without_a_key_are_all_placed(database: CallDatabase) -> None:
    nodes = Nodes(database)
    assert await nodes.waits("1", most=2)
    assert await nodes.waits("2", most=2)
    assert await nodes.waits("3", most=2) is None  # full
    assert await nodes.waits("4", "k", most=3)
    assert (await nodes.waits("5", "k", most=3)) == Row("4", "d", "{}", "waiting")  # a known key, though it is full


async def test_the_rate_is_that_of_all_processes(database: CallDatabase) -> None:
    nodes = Nodes(database)
    for n in range(20):
        await nodes.waits(f"{n}", most=99)
    left = 0
    for _ in range(20):  # 5 s
        left += sum(map(len, await asyncio.gather(nodes.claimed(nodes.a), nodes.claimed(nodes.b))))
        nodes.now_s += 0.25
    assert left == 5
    nodes.now_s += 1.0
    assert await nodes.b.take_turn(GAP_MS)  # a briefing has its turn at the same rate
    assert await nodes.claimed(nodes.a) == []
    nodes.now_s -= 3_600.0  # the clock of one was an hour ahead
    assert await nodes.claimed(nodes.a) != []


async def test_a_claim_that_was_left_is_due_again(database: CallDatabase) -> None:
    nodes = Nodes(database)
    await nodes.waits("1")
    assert await nodes.claimed(nodes.a) == ["1"]
    nodes.now_s += CLAIM_MS / 1000 - 1
    assert not await nodes.b.is_due()
    assert await nodes.claimed(nodes.b) == []
    nodes.now_s += 1
    assert await nodes.b.is_due()
    assert await nodes.claimed(nodes.b) == ["1"]
    assert not await nodes.a.begin("1")  # the first is too late: it asks the carrier for nothing
    assert await nodes.b.begin("1")
    assert not await nodes.b.cancel("1")


async def test_a_call_in_doubt_is_settled_by_one(database: CallDatabase) -> None:
    nodes = Nodes(database)
    await nodes.waits("1")
    await nodes.claimed(nodes.a)
    assert await nodes.a.begin("1")
    nodes.now_s += DIAL_MS / 1000 - 1
    assert await nodes.b.in_doubt() is None
    nodes.now_s += 1
    assert await nodes.b.is_due()
    rows = await asyncio.gather(nodes.a.in_doubt(), nodes.b.in_doubt())
    (row,) = (row for row in rows if row is not None)
    assert (row.id, row.status, row.placing_ms) == ("1", "placing", 1_000_000)
    assert await nodes.claimed(nodes.a) == []  # it does not wait
    await nodes.b.save("1", "queued", "CA1", "", "")
    assert await nodes.a.not_ours(["CA1", "CA2"]) == ["CA2"]
    nodes.now_s += 1_000
    assert await nodes.a.in_doubt() is None


async def test_a_canceled_call_is_not_placed(database: CallDatabase) -> None:
    nodes = Nodes(database)
    for n in "123":
        await nodes.waits(n)
    assert await nodes.b.cancel("1")
    assert await nodes.claimed(nodes.a) == ["2"]
    assert await nodes.b.cancel("2")
    assert not await nodes.a.begin("2")
    nodes.now_s += 1
    assert await nodes.claimed(nodes.a) == ["3"]
    await nodes.a.give_back()  # the process ends
    nodes.now_s += 1
    assert await nodes.claimed(nodes.b) == ["3"]
    assert await nodes.b.begin("3")
    assert await nodes.b.put_back("3", pause_ms=5_000)  # the carrier is busy
    nodes.now_s += 4
    assert await nodes.claimed(nodes.a) == []
    nodes.now_s += 1
    assert await nodes.claimed(nodes.a) == ["3"]


async def test_what_is_kept_is_forgotten(database: CallDatabase) -> None:
    nodes = Nodes(database)
    for n in "1234":
        await nodes.waits(n)
    for n in "123":
        await nodes.a.save(n, "completed", f"CA{n}", "human", "")
    await database.write(partial(forget_outbound, number_hash="", call_sids=["CA1"]))
    assert [bool(await nodes.a.find(n)) for n in "1234"] == [False, True, True, True]
    number_hash = hash_number("+15550100", NUMBER_KEY)
    await database.write(partial(forget_outbound, number_hash=number_hash, call_sids=[]))
    assert [bool(await nodes.a.find(n)) for n in "1234"] == [False, False, False, True]
    await database.write(partial(drop_old_outbound, now_ms=1_000_001 + KEPT_MS))
    assert await nodes.a.find("4") is None
