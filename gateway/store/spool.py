"""The spool: what waits on this disk until the database or the bucket has it. One file per process, next to each other.

A process takes the first file that no other has locked, so that it ships what a dead one left.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.store.columns import CallEvent, Entry
from offhook.gateway.store.recordings import Finishing

with contextlib.suppress(ImportError):  # not on Windows, where records stay in memory
    import fcntl

__all__ = ["Spool"]

MOST_FILES = 1_000


class Spool:
    """Blocking; used from one thread at a time. Every method but the first raises `sqlite3.Error`."""

    def __init__(self, folder: Path) -> None:
        """Raises `OperatorError` when the folder cannot be used."""
        if os.name == "nt":
            raise OperatorError("OFFHOOK_DATA_DIR needs file locks, which Windows does not have: unset it")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock, self.path = _taken(folder)
        except OSError as error:
            raise OperatorError(f"OFFHOOK_DATA_DIR {folder}: {error.strerror}: choose a folder to write to") from None
        self._connection: sqlite3.Connection | None = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute("create table if not exists waiting (id integer primary key autoincrement, entry blob)")
            connection.execute("create table if not exists refused (id integer primary key, entry blob, error text)")
            connection.execute(
                "create table if not exists recordings (id integer primary key autoincrement, work blob, at_ms integer)"
            )
            self._connection = connection
        return self._connection

    def adopt(self) -> int:
        """Take over what other files hold that no process has locked; how many entries."""
        adopted = 0
        for path in sorted(self.path.parent.glob("spool-*.sqlite3")):
            if path == self.path:
                continue
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                adopted += self._move_from(path)
            except (BlockingIOError, sqlite3.Error):
                continue  # it is in use, or empty
            finally:
                os.close(lock)
        return adopted

    def _move_from(self, path: Path) -> int:
        """After a crash between both commits the entries are in both files: the database takes each once."""
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            rows = connection.execute("select id, entry from waiting order by id").fetchall()
            work = connection.execute("select id, work, at_ms from recordings order by id").fetchall()
            if rows or work:
                self._put([data for _, data in rows], [(data, at_ms) for _, data, at_ms in work])
                connection.executemany("delete from waiting where id = ?", [(number,) for number, _ in rows])
                connection.executemany("delete from recordings where id = ?", [(number,) for number, *_ in work])
        finally:
            connection.close()
        return len(rows) + len(work)

    def put(self, entries: Iterable[Entry], work: Iterable[tuple[Finishing, int]] = ()) -> None:
        """Add these, all or none; they are on the disk afterwards. `work`: recordings, each with the time (ms)."""
        encode = msgspec.msgpack.encode
        self._put([encode(entry) for entry in entries], [(encode(one), at_ms) for one, at_ms in work])

    def _put(self, entries: Sequence[bytes], work: Sequence[tuple[bytes, int]], done: int | None = None) -> None:
        connection = self._opened()
        connection.execute("begin immediate")
        try:
            connection.executemany("insert into waiting (entry) values (?)", [(data,) for data in entries])
            connection.executemany("insert into recordings (work, at_ms) values (?, ?)", work)
            connection.execute("delete from recordings where id = ?", (done,))
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise

    def first(self, limit: int) -> list[tuple[int, Entry]]:
        """The oldest ones."""
        rows = self._opened().execute("select id, entry from waiting order by id limit ?", (limit,)).fetchall()
        return [(number, msgspec.msgpack.decode(data, type=Entry)) for number, data in rows]

    def remove(self, numbers: Sequence[int]) -> None:
        """The database has these."""
        self._opened().executemany("delete from waiting where id = ?", [(number,) for number in numbers])

    def set_aside(self, number: int, error: str) -> None:
        """The database will never take this one: it is kept for people to look at, and holds up nothing."""
        connection = self._opened()
        connection.execute("begin immediate")
        connection.execute(
            "insert or replace into refused (id, entry, error) select id, entry, ? from waiting where id = ?",
            (error, number),
        )
        connection.execute("delete from waiting where id = ?", (number,))
        connection.execute("commit")

    def recordings(self) -> list[tuple[int, Finishing, int]]:
        """What is to be done of recordings, oldest first, each with the time at which it was put."""
        rows = self._opened().execute("select id, work, at_ms from recordings order by id").fetchall()
        return [(number, msgspec.msgpack.decode(data, type=Finishing), at_ms) for number, data, at_ms in rows]

    def finished(self, number: int, event: CallEvent | None) -> None:
        """A recording is done; `event` waits from now on."""
        self._put([msgspec.msgpack.encode(Entry((event,)))] if event is not None else [], [], number)

    def __len__(self) -> int:
        (count,) = self._opened().execute("select count(*) from waiting").fetchone()
        return int(count)

    def close(self) -> None:
        """Leave the file to the next process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        os.close(self._lock)


def _taken(folder: Path) -> tuple[int, Path]:
    """The descriptor that holds the lock, and the spool's file."""
    for number in range(MOST_FILES):
        descriptor = os.open(folder / f"spool-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return descriptor, folder / f"spool-{number}.sqlite3"
    raise OSError(24, "every spool file is in use by another process")
