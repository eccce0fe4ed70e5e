"""The database of the store: transactions over SQLite or Postgres, with one text for the statements of both.

Statements have `?` for their values. The work is an async function over a `Transaction`; SQLite runs the whole of it in
its own thread, Postgres on the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

from offhook.gateway.errors import OffhookError

__all__ = ["CallDatabase", "DatabaseAway", "Dialect", "NotStorable", "Transaction", "Work"]

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]


class DatabaseAway(OffhookError):
    """The database cannot be reached, is locked or full: what was to be written waits."""


class NotStorable(OffhookError):
    """The database does not take these values, now or later."""


class Transaction(Protocol):
    """One transaction."""

    dialect: Dialect

    async def rows(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        """The rows of a query, or of a statement with `returning`."""
        ...

    async def run(self, sql: str, *values: Any) -> int:
        """How many rows a statement changed."""
        ...

    async def many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """A statement with each of these."""
        ...

    async def script(self, sql: str) -> None:
        """Several statements without values."""
        ...


Work = Callable[[Transaction], Awaitable[T]]


class CallDatabase(Protocol):
    """`write` and `read` raise `DatabaseAway` and `NotStorable`; an exception undoes the transaction."""

    dialect: Dialect
    where: str  # for messages, without its password

    async def write(self, work: Work[T]) -> T: ...

    async def read(self, work: Work[T]) -> T: ...

    async def close(self) -> None: ...
