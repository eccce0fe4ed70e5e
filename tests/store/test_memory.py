"""Records in memory: the newest are kept."""

from __future__ import annotations

from offhook.gateway.store import Records
from offhook.gateway.store.memory import MemoryRecords
from offhook.gateway.store.record import CallRecord


def kept(*names: str, most: int = 3) -> Records:
    records = MemoryRecords(most)
    for name in names:
        records.keep(CallRecord(call_sid=name))
    return records


def sids(records: Records, limit: int = 10) -> list[str]:
    return [record.call_sid for record in records.recent(limit)]


async def test_a_kept_record_is_found() -> None:
    found = await kept("CA1", "CA2").get("CA1")
    assert found is not None
    assert found.call_sid == "CA1"


async def test_an_unknown_call_has_no_record() -> None:
    assert await kept("CA1").get("CA2") is None


def test_the_newest_come_first_up_to_the_limit() -> None:
    assert sids(kept("CA1", "CA2", "CA3"), limit=2) == ["CA3", "CA2"]


async def test_beyond_the_most_the_oldest_is_dropped() -> None:
    records = kept("CA1", "CA2", "CA3", "CA4")
    assert (len(records), sids(records)) == (3, ["CA4", "CA3", "CA2"])
    assert await records.get("CA1") is None


def test_a_second_record_of_a_call_replaces_the_first() -> None:
    records = kept("CA1", "CA2", "CA1")
    assert sids(records) == ["CA1", "CA2"]
