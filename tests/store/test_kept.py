"""Nothing is lost and nothing is there twice: databases away, locked or refusing, processes that die."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.store.columns import CallEvent, Entry, entry_of
from offhook.gateway.store.database import CallDatabase, DatabaseAway, Work
from offhook.gateway.store.history import CallQuery, count_calls
from offhook.gateway.store.kept import KeptRecords
from offhook.gateway.store.outbox import listed
from offhook.gateway.store.postgres import PostgresDatabase
from offhook.gateway.store.record import ToolRecord
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.store.spool import Spool
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.store.upkeep import forget
from offhook.gateway.webhooks.events import CallEvents
from offhook.metrics.catalogue import Metrics
from tests.rig.postgres import PostgresServer
from tests.rig.process import python_path
from tests.store.made import KEY, NOON_MS, record


class Flaky:
    """A database that is away while told so."""

    def __init__(self, database: CallDatabase) -> None:
        self._database = database
        self.dialect, self.where, self.away = database.dialect, database.where, True
        self.read, self.close = database.read, database.close

    async def write(self, work: Work) -> object:
        if self.away:
            raise DatabaseAway("away")
        return await self._database.write(work)


def kept(database: CallDatabase, folder: Path, metrics: Metrics | None = None) -> KeptRecords:
    metrics = metrics or Metrics(CollectorRegistry(), LABELS)
    return KeptRecords(database, Spool(folder), KEY, metrics, node="n")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def stored(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("select call_sid from calls order by call_sid")]
    except sqlite3.OperationalError:  # no schema yet
        return []
    finally:
        connection.close()


def ended(name: str) -> CallEvent:
    return CallEvent(f"{name}-ended", name, "call.ended", b"{}", NOON_MS)


async def test_a_kept_record_outlives_the_process(tmp_path: Path) -> None:
    for name in ("CA1", "CA2"):
        records = kept(SqliteDatabase(tmp_path / "db"), tmp_path)
        await records.open()
        records.keep(record(name), (ended(name),))
        assert [one.call_sid for one in records.recent(1)] == [name]
        await records.close()
    records = kept(SqliteDatabase(tmp_path / "db"), tmp_path)
    await records.open()
    assert (len(records), {one.call_sid for one in records.recent(9)}) == (2, {"CA1", "CA2"})
    assert (await records.database.read(lambda s: listed(s, None, 9)))[0].id == "CA2-ended"
    await records.close()


async def test_a_database_that_is_away_loses_nothing(tmp_path: Path) -> None:
    flaky = Flaky(SqliteDatabase(tmp_path / "db"))
    metrics = Metrics(CollectorRegistry(), LABELS)
    records = kept(flaky, tmp_path, metrics)
    await records.open()
    for i in range(120):
        records.keep(record(f"CA{i:03}"), (ended(f"CA{i:03}"),))
    records.emit(CallEvent("alone", "CA000", "tool.finished", b"{}", NOON_MS))
    await until(lambda: not records._handed)
    assert stored(tmp_path / "db") == []
    flaky.away = False
    await until(lambda: len(stored(tmp_path / "db")) == 120)
    await records.close()
    assert "offhook_records_failed_total" in metrics.render().decode()


async def test_a_locked_file_delays_and_loses_nothing(tmp_path: Path) -> None:
    records = kept(SqliteDatabase(tmp_path / "db"), tmp_path)
    await records.open()
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("begin exclusive")
    records.keep(record("CA1"))
    await until(lambda: not records._handed)
    other.execute("rollback")
    other.close()
    await until(lambda: stored(tmp_path / "db") == ["CA1"])
    await records.close()


async def test_a_full_database_delays_and_loses_nothing(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "db")
    records = kept(database, tmp_path)
    await records.open()
    (writer, *_) = (one for one in database._open if not one.in_transaction)
    ((pages,),) = writer.execute("pragma page_count").fetchall()
    for connection in database._open:
        connection.execute(f"pragma max_page_count = {pages}")
    for i in range(80):
        records.keep(record(f"CA{i:02}", said=" ".join(f"word{i}x{n}" for n in range(200))))
    await until(lambda: records._away and not records._handed)
    assert len(stored(tmp_path / "db")) < 80
    for connection in database._open:
        connection.execute("pragma max_page_count = 1000000")
    await until(lambda: len(stored(tmp_path / "db")) == 80)
    await records.close()


async def test_a_call_forgotten_elsewhere_leaves_memory(tmp_path: Path) -> None:
    records = kept(SqliteDatabase(tmp_path / "db"), tmp_path)
    await records.open()
    records.keep(record("CA1"))
    records.keep(record("CA2"))
    await records.drop_forgotten()  # they wait yet: none is dropped
    await until(lambda: len(stored(tmp_path / "db")) == 2)
    other = SqliteDatabase(tmp_path / "db")
    assert (await forget(other, CallQuery(call_sid="CA1"), Recordings())).calls == ["CA1"]
    await other.close()
    async with asyncio.timeout(10):
        while await records.waiting():
            await asyncio.sleep(0.01)
    await records.drop_forgotten()
    assert ([one.call_sid for one in records.recent(9)], len(records)) == (["CA2"], 1)
    assert await records.get("CA1") is None
    await records.close()


async def test_a_refused_record_holds_up_no_other(tmp_path: Path) -> None:
    records = kept(SqliteDatabase(tmp_path / "db"), tmp_path)
    bad = entry_of(record("bad"), 1, KEY)
    assert bad.row is not None
    records.spool.put([Entry((), (*bad.row[:3], None, *bad.row[4:]), bad.record), entry_of(record("good"), 1, KEY)])
    await records.open()
    await until(lambda: stored(tmp_path / "db") == ["good"])
    await records.close()
    spooled = sqlite3.connect(tmp_path / "spool-0.sqlite3")
    assert "NOT NULL" in spooled.execute("select error from refused").fetchone()[0]
    spooled.close()


async def test_two_processes_share_one_file(tmp_path: Path) -> None:
    both = [kept(SqliteDatabase(tmp_path / "db"), tmp_path) for _ in range(2)]
    assert both[0].spool.path != both[1].spool.path
    await asyncio.gather(*(one.open() for one in both))
    for i in range(60):
        for one in both:
            one.keep(record(f"CA{i:02}"), (ended(f"CA{i:02}"),))
    await asyncio.gather(*(one.close() for one in both))
    assert len(stored(tmp_path / "db")) == 60


CHILD = """
import asyncio, os, sys
from pathlib import Path
from tests.store.made import KEY, record
from offhook.gateway.store.columns import entry_of
from offhook.gateway.store.spool import Spool
spool = Spool(Path(sys.argv[1]))
spool.put(entry_of(record(f"CA{i}"), 1, KEY) for i in range(5))
os.kill(os.getpid(), 9)
"""


@pytest.mark.wall_clock
async def test_a_killed_process_leaves_its_spool_behind(tmp_path: Path) -> None:
    child = [sys.executable, "-c", CHILD, str(tmp_path)]
    mine = Spool(tmp_path)  # so that the child's is another
    await asyncio.to_thread(subprocess.run, child, env={"PYTHONPATH": python_path()}, check=False)
    mine.close()
    records = kept(SqliteDatabase(tmp_path / "db"), tmp_path)
    await records.open()
    await until(lambda: len(stored(tmp_path / "db")) == 5)
    await records.close()


@pytest.mark.wall_clock
async def test_a_killed_postgres_loses_nothing(tmp_path: Path, postgres: PostgresServer) -> None:
    database = PostgresDatabase(postgres.new_database())
    records = kept(database, tmp_path)
    await records.open()
    records.keep(record("CA0"), (ended("CA0"),))
    async with asyncio.timeout(10):
        while await records.waiting():
            await asyncio.sleep(0.01)
    postgres.kill()
    for i in range(1, 20):
        records.keep(record(f"CA{i}"), (ended(f"CA{i}"),))
    await until(lambda: records._away)
    async with asyncio.timeout(20):
        while True:
            try:
                await asyncio.to_thread(postgres.start)
                break
            except AssertionError:  # the old children are still going
                await asyncio.sleep(0.2)
        while await records.waiting():
            await asyncio.sleep(0.02)
    assert await database.read(count_calls) == 20
    assert len(await database.read(lambda s: listed(s, None, 99))) == 20
    await records.close()


async def test_an_event_of_two_processes_is_kept_once(tmp_path: Path) -> None:
    """Both owners of a call report the same tool: the old one did not know yet that it had lost the call."""
    tool = ToolRecord(call_id="t1", name="book", requested_ms=1.0)
    for node in ("a", "b"):
        (event,) = CallEvents((), lambda node=node: ord(node)).tool_finished(record("CA1"), tool)  # type: ignore[misc]
        records = kept(SqliteDatabase(tmp_path / "db"), tmp_path / node)
        await records.open()
        records.emit(event)
        await records.close()
    records = kept(SqliteDatabase(tmp_path / "db"), tmp_path / "a")
    await records.open()
    kinds = [one.kind for one in await records.database.read(lambda s: listed(s, None, 9))]
    await records.close()
    assert kinds == ["tool.finished"]
