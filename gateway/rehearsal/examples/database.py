"""A small SQLite file for tools: written by one thread at a time, and each call's work done once."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Database"]


class Database:
    """`path` of the file, or `:memory:` for one that lives as long as the process."""

    def __init__(self, path: str, schema: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()  # tools run in threads
        self._connection.executescript(f"{schema}; CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, answer TEXT)")

    @classmethod
    def named_by(cls, variable: str, schema: str) -> Database:
        """The file an environment variable names; without it, memory."""
        return cls(os.environ.get(variable) or ":memory:", schema)

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """An exclusive transaction, rolled back if the block raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def once(self, key: str, act: Callable[[sqlite3.Connection], Any]) -> Any:
        """What `act` answers; for a key that was here before, what it answered then, without acting again."""
        with self.changing() as db:
            found = db.execute("SELECT answer FROM done WHERE key = ?", (key,)).fetchone()
            if found is not None:
                return json.loads(found["answer"])
            answer = act(db)
            db.execute("INSERT INTO done VALUES (?, ?)", (key, json.dumps(answer)))
            return answer
