"""Boards: lists that agents show on the console beside their calls, such as those a caller makes by voice.

An agent's `board` is a function of its own that returns `[{name, kind, items: [{text, done, person}]}]`. It is called
while a console is open, one call at a time; its result is validated and truncated before it is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

__all__ = ["Board", "Boards"]

log = logging.getLogger(__name__)

WAIT_S = 0.5  # for a result; a slower one is shown with a later snapshot
MAX_LISTS, MAX_ITEMS, MAX_CHARACTERS = 24, 100, 200


class _Item(msgspec.Struct):
    text: str
    done: bool = False
    person: str = ""


class _List(msgspec.Struct):
    name: str
    kind: str = ""
    items: list[_Item] = []
    more: int = 0  # number of items left out


class Board(msgspec.Struct):
    """One agent's lists, as last returned; `error`: why there are no newer ones."""

    agent: str
    lists: list[_List] = []
    error: str = ""


class Boards:
    """`functions`: agent's name -> its board function; awaiting it may take any time and raise anything."""

    def __init__(self, functions: Mapping[str, Callable[[], Awaitable[Any]]]) -> None:
        self._functions = functions
        self._boards = {name: Board(name) for name in functions}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def now(self) -> list[Board]:
        """The boards as last returned, after at most `WAIT_S` for newer ones."""
        for name in self._functions:
            if name not in self._running or self._running[name].done():
                self._running[name] = asyncio.create_task(self._refresh(name), name=f"board {name}")
        if self._running:
            await asyncio.wait(self._running.values(), timeout=WAIT_S)
        return list(self._boards.values())

    async def close(self) -> None:
        """Cancel the calls in progress."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _refresh(self, name: str) -> None:
        board = self._boards[name]
        try:
            board.lists, board.error = _shown(await self._functions[name]()), ""
        except Exception as error:
            what = (
                "the result is not a list of lists"
                if isinstance(error, msgspec.ValidationError)
                else type(error).__name__
            )
            if not board.error:  # once, not every second
                log.warning("the board of agent %s cannot be shown: %s", name, what)
            board.error = f"cannot be shown: {what}"


def _shown(result: Any) -> list[_List]:
    lists = msgspec.convert(result, list[_List], from_attributes=True)
    for shown in lists[:MAX_LISTS]:
        shown.more = max(0, len(shown.items) - MAX_ITEMS)
        shown.items = shown.items[:MAX_ITEMS]
        shown.name, shown.kind = shown.name[:MAX_CHARACTERS], shown.kind[:MAX_CHARACTERS]
        for item in shown.items:
            item.text, item.person = item.text[:MAX_CHARACTERS], item.person[:MAX_CHARACTERS]
    return lists[:MAX_LISTS]
