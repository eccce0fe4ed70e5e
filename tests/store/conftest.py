"""Both databases: every test that takes `database` runs over each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from offhook.gateway.store.database import CallDatabase
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.postgres import PostgresDatabase
from offhook.gateway.store.sqlite import SqliteDatabase
from tests.rig.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.wall_clock)])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CallDatabase]:
    """A database without a schema."""
    database: CallDatabase
    if request.param == "sqlite":
        database = SqliteDatabase(tmp_path / "calls.sqlite3")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        database = PostgresDatabase(server.new_database())
    yield database
    await database.close()


@pytest.fixture
async def database(empty: CallDatabase) -> CallDatabase:
    """A database with the newest schema."""
    await migrate(empty)
    return empty
