"""The live store of one machine: an SQLite file in shared memory, which several processes open.

It survives the kill of every process, not a restart of the machine, which ends the calls as well. One thread runs
whole transactions; the event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.live import (
    CALL_LIFE_S,
    DEAD_AFTER_S,
    ENDED_LIFE_S,
    MOVES_WITHIN_S,
    TOOL_LIFE_S,
    Begin,
    CallStage,
    Claim,
    Held,
    Node,
    StoreAway,
    ToolRun,
    Write,
    Written,
)

__all__ = ["SqliteLive"]

BUSY_S = 2.0  # writers wait for each other: a transaction takes about 0.1 ms
FORGET_NODE_S = 600.0
SWEEP_EVERY = 100  # calls that ring between two removals of what has expired
SCHEMA = """
create table if not exists calls (call_id text primary key, owner text not null, epoch integer not null,
  stage text not null, head blob not null default x'', moves text not null default '', expires_s real not null);
create index if not exists calls_by_owner on calls (owner);
create table if not exists log (call_id text, n integer, entry blob, primary key (call_id, n)) without rowid;
create table if not exists tools (call_id text, key text, run blob, expires_s real, primary key (call_id, key))
  without rowid;
create table if not exists burnt (token_id text primary key, expires_s real) without rowid;
create table if not exists leases (scope text, call_id text, expires_s real, primary key (scope, call_id))
  without rowid;
create table if not exists nodes (name text primary key, body blob, beat_s real) without rowid;
"""

T = TypeVar("T")


class SqliteLive:
    """Implements `LiveStore`. `wall`: seconds of the machine's wall clock, the same for all its processes."""

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        self._path, self._wall = Path(path), wall
        self._thread: ThreadPoolExecutor | None = None
        self._rung = 0

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)
        except (OSError, sqlite3.Error) as error:
            raise OperatorError(f"the live store {self._path} cannot be used ({error}): see OFFHOOK_LIVE") from None

    def _connect(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        self._path.chmod(0o600)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=off")  # the file is in memory: it does not outlive the machine's kernel
        self._db.executescript(SCHEMA)

    async def close(self) -> None:
        if self._thread is not None:
            with suppress(StoreAway):
                await self._run(lambda db: db.close(), plain=True)
            self._thread.shutdown(wait=False)
            self._thread = None

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, plain: bool = False) -> T:
        """`work` in one transaction; `plain`: without one."""

        def transaction() -> T:
            if plain:
                return work(self._db)
            self._db.execute("begin immediate")
            try:
                result = work(self._db)
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")
            return result

        if self._thread is None:
            raise StoreAway("the live store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except (sqlite3.Error, RuntimeError) as error:
            raise StoreAway(f"the live store failed: {error}") from None

    # --- calls

    async def ring(self, call_id: str, owner: str) -> Held:
        def work(db: sqlite3.Connection) -> Held:
            now_s = self._wall()
            self._rung += 1
            if self._rung % SWEEP_EVERY == 0:
                self._sweep(db, now_s)
            db.execute(
                "insert into calls (call_id, owner, epoch, stage, expires_s) values (?, ?, 1, ?, ?) "
                "on conflict do nothing",
                (call_id, owner, CallStage.RINGING.value, now_s + CALL_LIFE_S),
            )
            held = _held(db, call_id)
            assert held is not None
            return held

        return await self._run(work)

    def _sweep(self, db: sqlite3.Connection, now_s: float) -> None:
        db.execute("delete from calls where expires_s <= ?", (now_s,))
        db.execute("delete from log where call_id not in (select call_id from calls)")
        for table in ("tools", "burnt", "leases"):
            db.execute(f"delete from {table} where expires_s <= ?", (now_s,))

    async def holder(self, call_id: str) -> Held | None:
        return await self._run(lambda db: _held(db, call_id), plain=True)

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        return await self._run(lambda db: [self._write(db, write) for write in writes])

    def _write(self, db: sqlite3.Connection, write: Write) -> Written:
        held = _held(db, write.call_id)
        if held is not None and (held.stage is CallStage.ENDED or held.epoch > write.epoch):
            return Written.FENCED
        if write.log_at:
            (entries,) = db.execute("select count(*) from log where call_id = ?", (write.call_id,)).fetchone()
            if entries != write.log_at:
                return Written.BEHIND
        else:
            db.execute("delete from log where call_id = ?", (write.call_id,))
        db.execute(
            "insert into calls (call_id, owner, epoch, stage, head, expires_s) values (?, ?, ?, ?, ?, ?) "
            "on conflict (call_id) do update set owner = excluded.owner, epoch = excluded.epoch, "
            "stage = excluded.stage, head = excluded.head, expires_s = excluded.expires_s",
            (
                write.call_id,
                write.owner,
                write.epoch,
                write.stage.value,
                write.head,
                self._wall() + CALL_LIFE_S,
            ),
        )
        rows = [(write.call_id, write.log_at + n, entry) for n, entry in enumerate(write.log)]
        db.executemany("insert into log values (?, ?, ?)", rows)
        return Written.KEPT

    async def claim(self, call_id: str, owner: str, *, expect_epoch: int | None = None) -> Claim | None:
        def work(db: sqlite3.Connection) -> Claim | None:
            row = db.execute("select owner, epoch, stage, head, moves from calls where call_id = ?", (call_id,))
            found = row.fetchone()
            if found is None or found[2] == CallStage.ENDED.value or expect_epoch not in (None, found[1]):
                return None
            before, epoch, stage, head, moves = found
            now_s = self._wall()
            lately = [s for s in moves.split() if now_s - float(s) < MOVES_WITHIN_S]
            lately += [f"{now_s:.3f}"] if stage != CallStage.HANDOVER.value else []
            db.execute(
                "update calls set owner = ?, epoch = ?, stage = ?, moves = ? where call_id = ?",
                (owner, epoch + 1, CallStage.LIVE.value, " ".join(lately), call_id),
            )
            log = db.execute("select entry from log where call_id = ? order by n", (call_id,)).fetchall()
            return Claim(before, epoch + 1, CallStage(stage), head, tuple(entry for (entry,) in log), len(lately))

        return await self._run(work)

    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            held = _held(db, call_id)
            if held is not None and (held.epoch != epoch or (held.stage is CallStage.ENDED and held.owner != owner)):
                return False
            db.execute(
                "insert into calls (call_id, owner, epoch, stage, expires_s) values (?, ?, ?, ?, ?) "
                "on conflict (call_id) do update set owner = excluded.owner, stage = excluded.stage, head = x'', "
                "expires_s = excluded.expires_s",
                (call_id, owner, epoch, CallStage.ENDED.value, self._wall() + ENDED_LIFE_S),
            )
            db.execute("delete from log where call_id = ?", (call_id,))
            db.execute("delete from leases where call_id = ?", (call_id,))
            return True

        return await self._run(work)

    # --- tokens, places, tools

    async def burn(self, token_id: str, life_s: float) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            now_s = self._wall()
            db.execute("delete from burnt where token_id = ? and expires_s <= ?", (token_id, now_s))
            row = (token_id, now_s + life_s)
            return db.execute("insert into burnt values (?, ?) on conflict do nothing", row).rowcount == 1

        return await self._run(work)

    async def admit(self, call_id: str, caps: Mapping[str, int]) -> str:
        def work(db: sqlite3.Connection) -> str:
            now_s = self._wall()
            for scope, cap in caps.items():
                (taken,) = db.execute(
                    "select count(*) from leases where scope = ? and call_id <> ? and expires_s > ?",
                    (scope, call_id, now_s),
                ).fetchone()
                if taken >= cap:
                    return scope
            rows = [(scope, call_id, now_s + DEAD_AFTER_S) for scope in caps]
            db.executemany("insert or replace into leases values (?, ?, ?)", rows)
            return ""

        return await self._run(work)

    async def tool_run(self, call_id: str, key: str) -> ToolRun | None:
        return await self._run(lambda db: _tool_run(db, call_id, key), plain=True)

    async def begin_tool(self, call_id: str, epoch: int, key: str) -> Begin:
        def work(db: sqlite3.Connection) -> Begin:
            held = _held(db, call_id)
            if held is not None and (held.stage is CallStage.ENDED or held.epoch > epoch):
                return Begin(fenced=True)
            before = _tool_run(db, call_id, key)
            if before is None:
                db.execute("insert into tools values (?, ?, ?, ?)", self._tool_row(call_id, key, ToolRun()))
            return Begin(fenced=False, before=before)

        return await self._run(work)

    async def note_tool(self, call_id: str, key: str, run: ToolRun) -> None:
        row = self._tool_row(call_id, key, run)
        await self._run(lambda db: db.execute("insert or replace into tools values (?, ?, ?, ?)", row))

    def _tool_row(self, call_id: str, key: str, run: ToolRun) -> tuple[str, str, bytes, float]:
        return call_id, key, msgspec.json.encode(run), self._wall() + TOOL_LIFE_S

    # --- nodes

    async def beat(self, node: Node, call_ids: Sequence[str], scopes: Sequence[str] = ()) -> list[Node]:
        def work(db: sqlite3.Connection) -> list[Node]:
            now_s = self._wall()
            db.execute("insert or replace into nodes values (?, ?, ?)", (node.name, msgspec.json.encode(node), now_s))
            db.execute("delete from nodes where beat_s < ?", (now_s - FORGET_NODE_S,))
            rows = [(scope, call_id, now_s + DEAD_AFTER_S) for scope in scopes for call_id in call_ids]
            db.executemany("insert or replace into leases values (?, ?, ?)", rows)
            found = db.execute("select body, beat_s from nodes").fetchall()
            return [
                msgspec.structs.replace(msgspec.json.decode(body, type=Node), age_s=max(0.0, now_s - beat_s))
                for body, beat_s in found
            ]

        return await self._run(work)

    async def leave(self, name: str) -> None:
        await self._run(lambda db: db.execute("delete from nodes where name = ?", (name,)))

    async def calls_of(self, name: str) -> list[tuple[str, int]]:
        query = "select call_id, epoch from calls where owner = ? and stage <> ? and expires_s > ?"
        arguments = (name, CallStage.ENDED.value, self._wall())
        return await self._run(lambda db: db.execute(query, arguments).fetchall(), plain=True)


def _tool_run(db: sqlite3.Connection, call_id: str, key: str) -> ToolRun | None:
    found = db.execute("select run from tools where call_id = ? and key = ?", (call_id, key)).fetchone()
    return None if found is None else msgspec.json.decode(found[0], type=ToolRun)


def _held(db: sqlite3.Connection, call_id: str) -> Held | None:
    row = db.execute("select owner, epoch, stage from calls where call_id = ?", (call_id,)).fetchone()
    return None if row is None else Held(row[0], row[1], CallStage(row[2]))
