"""Postgres by asyncpg: `pip install 'offhook[postgres]'`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from offhook.gateway.errors import OperatorError
from offhook.gateway.store.database import DatabaseAway, Dialect, NotStorable, Transaction, Work

__all__ = ["PostgresDatabase"]

T = TypeVar("T")
CONNECTIONS = 4  # of one process: a writer, deliveries of webhooks, readers
CONNECT_S = 5.0
STATEMENT_S = 10.0


class PostgresDatabase:
    """Implements `CallDatabase`. It connects when it is first used, and again after the connection was lost."""

    dialect: Dialect = "postgres"

    def __init__(self, url: str) -> None:
        try:
            import asyncpg
        except ModuleNotFoundError:
            raise OperatorError("OFFHOOK_DATABASE_URL needs asyncpg: pip install 'offhook[postgres]'") from None
        parts = urlsplit(url)
        if parts.scheme not in ("postgres", "postgresql"):
            raise OperatorError("OFFHOOK_DATABASE_URL must look like postgresql://user:password@host:5432/database")
        self._asyncpg, self._url = asyncpg, url
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def write(self, work: Work[T]) -> T:
        async with self._session() as session:
            return await work(session)

    read = write

    async def close(self) -> None:
        if self._pool is not None:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self._pool.close()
            except (TimeoutError, OSError, self._asyncpg.PostgresError, self._asyncpg.InterfaceError):
                self._pool.terminate()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Transaction]:
        try:
            async with self._opening:
                if self._pool is None:
                    self._pool = await self._asyncpg.create_pool(
                        self._url, min_size=0, max_size=CONNECTIONS, timeout=CONNECT_S, command_timeout=STATEMENT_S
                    )
            async with self._pool.acquire(timeout=CONNECT_S) as connection, connection.transaction():
                yield _Transaction(connection)
        except (OSError, TimeoutError) as error:
            raise DatabaseAway(f"{self.where}: {str(error) or type(error).__name__}") from error
        except (self._asyncpg.PostgresError, self._asyncpg.InterfaceError) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> DatabaseAway | NotStorable:
        """`NotStorable` for values that can never be written; whatever else is wrong may pass."""
        state = getattr(error, "sqlstate", None) or ""
        if isinstance(error, self._asyncpg.UniqueViolationError):  # another process took the key: the next try sees it
            return DatabaseAway(f"{self.where}: {error}")
        if state[:2] in ("22", "23") or isinstance(error, self._asyncpg.DataError):
            return NotStorable(str(error))
        return DatabaseAway(f"{self.where}: {error}")


@lru_cache(maxsize=256)
def _numbered(sql: str) -> str:
    first, *rest = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


def _plain(values: Iterable[Any]) -> list[Any]:
    """Without NUL, which Postgres' text cannot hold."""
    return [value.replace("\0", "") if isinstance(value, str) else value for value in values]


class _Transaction(Transaction):
    dialect: Dialect = "postgres"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = await self._connection.fetch(_numbered(sql), *_plain(values))
        return found

    async def run(self, sql: str, *values: Any) -> int:
        done: str = await self._connection.execute(_numbered(sql), *_plain(values))  # "UPDATE 3"
        count = done.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        await self._connection.executemany(_numbered(sql), map(_plain, values))

    async def script(self, sql: str) -> None:
        await self._connection.execute(sql)
