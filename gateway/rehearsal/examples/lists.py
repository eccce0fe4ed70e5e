"""Lists kept by voice: shopping, reading, work. Create, add, tick off, merge, assign. Kept in SQLite.

The file is named by OFFHOOK_LISTS_DB; without it the lists are new at each start. `snapshot()` is all there is, for
a page that shows the lists during the call.
"""

from __future__ import annotations

import re
import sqlite3
from difflib import get_close_matches
from typing import Any, Literal

from offhook import ToolContext, ToolError, tool
from offhook.gateway.rehearsal.examples.database import Database

__all__ = [
    "add_to_list",
    "assign",
    "create_list",
    "merge_lists",
    "read_list",
    "show_lists",
    "snapshot",
    "tick_off",
]

Kind = Literal["shopping", "reading", "work"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS lists (id INTEGER PRIMARY KEY, name TEXT UNIQUE COLLATE NOCASE, kind TEXT);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY, list INTEGER REFERENCES lists (id) ON DELETE CASCADE, text TEXT COLLATE NOCASE,
    done INTEGER DEFAULT 0, person TEXT DEFAULT '', UNIQUE (list, text)
)
"""

database = Database.named_by("OFFHOOK_LISTS_DB", SCHEMA)


def snapshot() -> list[dict[str, Any]]:
    """Every list with its items, as JSON: `[{name, kind, items: [{text, done, person}]}]`."""
    with database.changing() as db:
        return [_list(db, row) for row in db.execute("SELECT * FROM lists ORDER BY id").fetchall()]


def _list(db: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
    items = db.execute("SELECT text, done, person FROM items WHERE list = ? ORDER BY id", (row["id"],))
    return {
        "name": row["name"],
        "kind": row["kind"],
        "items": [{"text": item["text"], "done": bool(item["done"]), "person": item["person"]} for item in items],
    }


def _plain(name: str) -> str:
    """ "My shopping list" -> "shopping"; what is left of "the list" is itself."""
    text = " ".join(name.split()).strip(" .,!?\"'")
    return re.sub(r"^(?:the|my|our|a)\s+|\s+list$", "", text, flags=re.I).strip() or text


def _found(db: sqlite3.Connection, name: str) -> sqlite3.Row:
    """The list that was meant. Raises `ToolError` with the names there are."""
    rows = db.execute("SELECT * FROM lists ORDER BY id").fetchall()
    by_name: dict[str, sqlite3.Row] = {row["name"].lower(): row for row in rows}
    close = get_close_matches(_plain(name).lower(), by_name, n=1, cutoff=0.75)
    if close:
        return by_name[close[0]]
    of_kind: list[sqlite3.Row] = [row for row in rows if row["kind"] == _plain(name).lower()]
    if len(of_kind) == 1:
        return of_kind[0]
    raise ToolError(f"There is no list {name}. The lists are: {', '.join(row['name'] for row in rows) or 'none yet'}.")


def _item(db: sqlite3.Connection, row: sqlite3.Row, text: str) -> int:
    """The id of the item that was meant. Raises `ToolError` with the items there are."""
    rows = db.execute("SELECT id, text FROM items WHERE list = ? ORDER BY id", (row["id"],)).fetchall()
    by_text = {item["text"].lower(): item["id"] for item in rows}
    close = get_close_matches(text.strip().lower(), by_text, n=1, cutoff=0.6)
    if not close:
        raise ToolError(f"There is no {text} on {row['name']}. On it: {', '.join(by_text) or 'nothing'}.")
    return int(by_text[close[0]])


def _add(db: sqlite3.Connection, row: sqlite3.Row, items: list[str]) -> tuple[list[str], list[str]]:
    """What was added, and what stood there already."""
    added: list[str] = []
    known: list[str] = []
    for text in dict.fromkeys(" ".join(item.split()) for item in items):
        if text:
            fresh = db.execute("INSERT OR IGNORE INTO items (list, text) VALUES (?, ?)", (row["id"], text)).rowcount
            (added if fresh else known).append(text)
    return added, known


@tool(on_barge_in="finish")
def create_list(name: str, context: ToolContext, kind: Kind = "shopping", items: list[str] | None = None) -> Any:
    """Create a list, with items if some were named already.

    Args:
        name: What it is called, without the word list.
        kind: What it is for.
        items: What is to stand on it.
    """

    def act(db: sqlite3.Connection) -> Any:
        plain = _plain(name)
        if db.execute("SELECT 1 FROM lists WHERE name = ?", (plain,)).fetchone():
            raise ToolError(f"There is a list {plain} already: add to it, or take another name.")
        db.execute("INSERT INTO lists (name, kind) VALUES (?, ?)", (plain, kind))
        row = _found(db, plain)
        _add(db, row, items or [])
        return _list(db, row)

    return database.once(context.idempotency_key, act)


@tool(on_barge_in="finish")
def add_to_list(name: str, items: list[str], context: ToolContext) -> Any:
    """Add items to a list. What stands on it already is not added twice.

    Args:
        name: The list.
        items: One text per item.
    """

    def act(db: sqlite3.Connection) -> Any:
        row = _found(db, name)
        added, known = _add(db, row, items)
        count = db.execute("SELECT count(*) FROM items WHERE list = ?", (row["id"],)).fetchone()[0]
        return {"list": row["name"], "added": added, "already_there": known, "items_now": count}

    return database.once(context.idempotency_key, act)


@tool
def read_list(name: str) -> Any:
    """What stands on a list.

    Args:
        name: The list.
    """
    with database.changing() as db:
        return _list(db, _found(db, name))


@tool
def show_lists() -> Any:
    """The names of all lists, and how many items on each are open."""
    return [{"name": one["name"], "kind": one["kind"], "open": _open(one)} for one in snapshot()]


def _open(one: dict[str, Any]) -> int:
    return sum(not item["done"] for item in one["items"])


@tool(on_barge_in="finish")
def tick_off(name: str, item: str, context: ToolContext) -> Any:
    """Mark an item as bought, read or done.

    Args:
        name: The list.
        item: The item.
    """

    def act(db: sqlite3.Connection) -> Any:
        row = _found(db, name)
        db.execute("UPDATE items SET done = 1 WHERE id = ?", (_item(db, row, item),))
        return {"list": row["name"], "open": _open(_list(db, row))}

    return database.once(context.idempotency_key, act)


@tool(on_barge_in="finish")
def merge_lists(name: str, into: str, context: ToolContext) -> Any:
    """Move everything on one list to another, and drop the first. Ask before you do it.

    Args:
        name: The list that goes.
        into: The list that stays.
    """

    def act(db: sqlite3.Connection) -> Any:
        goes, stays = _found(db, name), _found(db, into)
        if goes["id"] == stays["id"]:
            raise ToolError(f"{name} and {into} are the same list.")
        # What stands on both is open if it is open on one, and keeps the person it has.
        db.execute(
            "UPDATE items AS kept SET done = min(kept.done, gone.done), "
            "person = CASE kept.person WHEN '' THEN gone.person ELSE kept.person END "
            "FROM items AS gone WHERE kept.list = ? AND gone.list = ? AND kept.text = gone.text",
            (stays["id"], goes["id"]),
        )
        db.execute("UPDATE OR IGNORE items SET list = ? WHERE list = ?", (stays["id"], goes["id"]))
        db.execute("DELETE FROM items WHERE list = ?", (goes["id"],))
        db.execute("DELETE FROM lists WHERE id = ?", (goes["id"],))
        return _list(db, stays)

    return database.once(context.idempotency_key, act)


@tool(on_barge_in="finish")
def assign(name: str, person: str, context: ToolContext, item: str = "") -> Any:
    """Give an item, or a whole list, to a person.

    Args:
        name: The list.
        person: Who is to see to it.
        item: The item; everything that is open on the list unless given.
    """

    def act(db: sqlite3.Connection) -> Any:
        row = _found(db, name)
        if item:
            db.execute("UPDATE items SET person = ? WHERE id = ?", (person, _item(db, row, item)))
        else:
            db.execute("UPDATE items SET person = ? WHERE list = ? AND done = 0", (person, row["id"]))
        return _list(db, row)

    return database.once(context.idempotency_key, act)
