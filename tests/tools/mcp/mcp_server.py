"""A real MCP server for tests, over stdio, or over HTTP when a port is given. It keeps a diary in a file."""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # it is started twenty times, and lives for a second

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("library", log_level="ERROR")
DIARY = Path(os.environ.get("DIARY", os.devnull))


def note(text: str) -> None:
    with DIARY.open("a") as diary:
        diary.write(text + "\n")


class Book(BaseModel):
    """One title."""

    title: str
    year: int | None = None


@server.tool()
def find_books(about: str, at_most: int = 3) -> list[str]:
    """Find books about something."""
    return [f"{about}, volume {i + 1}" for i in range(at_most)]


@server.tool()
def shelve(book: Book) -> str:
    """Put a book onto the shelf."""
    return f"{book.title} ({book.year})"


@server.tool()
def reserve(title: str, ctx: Context) -> str:
    """Reserve a book; the same key reserves once."""
    meta: Any = ctx.request_context.meta or {}
    note(f"reserve {meta.get('idempotencyKey')}")
    return title


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("no such book")


@server.tool()
async def hang() -> str:
    """Never answers."""
    note("begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note("cancelled")
        raise
    return "done"


@server.tool()
def everything() -> str:
    """Answers ten megabytes."""
    return "x" * 10_000_000


@server.tool()
def tell_secrets() -> str:
    """Repeats what it was given."""
    print("secret on stderr:", os.environ.get("LIBRARY_KEY"), file=sys.stderr, flush=True)
    raise ValueError(os.environ.get("LIBRARY_KEY"))


@server.tool()
def surroundings() -> list[str]:
    """The names of the environment it sees."""
    return sorted(os.environ)


@server.tool()
def where() -> str:
    """Its directory."""
    return str(Path.cwd())


@server.tool()
def die() -> str:
    """Ends the server."""
    note("died")
    os._exit(3)


if __name__ == "__main__":
    note(f"started {os.getpid()}")
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
    note("ended")
