"""The dashboard over the store: each of its statements runs on a real Postgres and finds something."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from offhook.gateway.store.columns import entry_of
from offhook.gateway.store.database import Transaction
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.postgres import PostgresDatabase
from offhook.gateway.store.writing import write_entries
from tests.infra.infra_files import INFRA
from tests.rig.postgres import postgres_server
from tests.store.made import KEY, NOON_MS, record

FROM_S, TO_S = NOON_MS // 1000 - 3_600, NOON_MS // 1000 + 3_600


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_records", INFRA / "grafana" / "make_records.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_grafana_sends(sql: str) -> str:
    """With its macros replaced (Grafana's documentation of the PostgreSQL data source)."""
    sql = sql.replace("$__unixEpochFrom()", str(FROM_S)).replace("$__unixEpochTo()", str(TO_S))
    sql = re.sub(r"\$__unixEpochGroupAlias\(([^,]+), \$__interval\)", r'floor((\1) / 60) * 60 as "time"', sql)
    return sql.replace("$agent", "'desk','night'")


async def rows_of(session: Transaction, sql: str) -> Sequence[Sequence[Any]]:
    return await session.rows(sql)


def test_the_dashboard_is_what_the_script_makes() -> None:
    made = script()
    assert made.OUT.read_text() == made.dashboard(), "run python infra/grafana/make_records.py"


@pytest.mark.wall_clock
async def test_every_statement_finds_something() -> None:
    calls = [record(f"CA{i}", at_ms=NOON_MS + i, gap_ms=1_000.0 + i, agent="desk") for i in range(30)]
    with postgres_server() as server:
        database = PostgresDatabase(server.new_database())
        await migrate(database)
        entries = [entry_of(one, 1, KEY) for one in calls]
        await database.write(partial(write_entries, entries=entries, node="n"))
        found = {}
        for title, sql in script().statements().items():
            rows = await database.read(partial(rows_of, sql=as_grafana_sends(sql)))
            found[title] = [tuple(row) for row in rows]
        await database.close()
    assert all(found.values()), found
    ((agent, samples, p50, p95),) = found["Turn gap"]
    assert (agent, samples) == ("desk", 30)
    assert p50 == pytest.approx(1_014, rel=0.011)
    assert p95 == pytest.approx(1_028, rel=0.011)
    assert found["Cost"][0][2] == pytest.approx(0.3)
