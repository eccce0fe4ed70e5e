"""SQLite: a writer and readers in threads of their own, each with its connection. Whole transactions run there."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from offhook.gateway.store.database import DatabaseAway, Dialect, NotStorable, Transaction, Work

__all__ = ["SqliteDatabase", "translated"]

T = TypeVar("T")
READERS = 2
LOCKED_S = 5.0  # another process may write for as long
READ_MAX_S = 10.0
CACHE_KIB = 32_768
CHECK_STEPS = 50_000  # of SQLite's virtual machine between two looks at the clock


class SqliteDatabase:
    """Implements `CallDatabase` over one file in WAL mode, which other processes may have open too."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.where, self._clock = path, str(path), clock
        self._writer = ThreadPoolExecutor(1, "store-write")
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []

    async def write(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, work, "begin immediate")

    async def read(self, work: Work[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._transact, work, "begin")

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        for connection in self._open:
            connection.close()

    def _transact(self, work: Work[T], begin: str) -> T:
        try:
            connection = self._connection()
            deadline_s = self._clock() + READ_MAX_S
            late = (lambda: self._clock() > deadline_s) if begin == "begin" else None
            connection.set_progress_handler(late, CHECK_STEPS)
            connection.execute(begin)
            try:
                result = _completed(work(_Transaction(connection)))
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise translated(error, self.where) from error
        return result

    def _connection(self) -> sqlite3.Connection:
        known: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if known is not None:
            return known
        connection = sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None, check_same_thread=False)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        self._local.connection = connection
        self._open.append(connection)
        return connection


def translated(error: sqlite3.Error, where: str) -> DatabaseAway | NotStorable:
    """`NotStorable` for values that can never be written; whatever else is wrong may pass."""
    lasting = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
    return NotStorable(str(error)) if isinstance(error, lasting) else DatabaseAway(f"{where}: {error}")


def _completed(work: Awaitable[T]) -> T:
    """The result of work that awaits nothing but its session, which waits for nothing."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a transaction awaited something else than its session")


class _Transaction(Transaction):
    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def rows(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        return self._connection.execute(sql, values).fetchall()

    async def run(self, sql: str, *values: Any) -> int:
        return self._connection.execute(sql, values).rowcount

    async def many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, values)

    async def script(self, sql: str) -> None:
        statement = ""
        for line in sql.splitlines(keepends=True):  # executescript would commit first
            statement += line
            if sqlite3.complete_statement(statement):
                self._connection.execute(statement)
                statement = ""
