"""What agents show beside their calls: lists a caller makes by voice, as whoever watches sees them grow.

An agent's `board` is a function of its own that returns `[{name, kind, items: [{text, done, person}]}]`. It is asked
while somebody watches, one question at a time; what it answers is checked and cut before it is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

__all__ = ["Board", "Boards"]

log = logging.getLogger(__name__)

WAIT_S = 0.5  # for an answer; a slower one is shown with a later snapshot
MAX_LISTS, MAX_ITEMS, MAX_CHARACTERS = 24, 100, 200


class _Item(msgspec.Struct):
    text: str
    done: bool = False
    person: str = ""


class _List(msgspec.Struct):
    name: str
    kind: str = ""
    items: list[_Item] = []
    more: int = 0  # items that are not shown


class Board(msgspec.Struct):
    """One agent's lists, the last known; `error` says why there is nothing newer."""

    agent: str
    lists: list[_List] = []
    error: str = ""


class Boards:
    """`ask`: agent's name -> its board function; awaiting it may take any time and raise anything."""

    def __init__(self, ask: Mapping[str, Callable[[], Awaitable[Any]]]) -> None:
        self._ask = ask
        self._boards = {name: Board(name) for name in ask}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def now(self) -> list[Board]:
        """What is known now, after a short wait for news."""
        for name in self._ask:
            if name not in self._asking or self._asking[name].done():
                self._asking[name] = asyncio.create_task(self._look(name), name=f"board {name}")
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=WAIT_S)
        return list(self._boards.values())

    async def close(self) -> None:
        """Ask no more."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _look(self, name: str) -> None:
        board = self._boards[name]
        try:
            board.lists, board.error = _shown(await self._ask[name]()), ""
        except Exception as error:
            what = "it is not a list of lists" if isinstance(error, msgspec.ValidationError) else type(error).__name__
            if not board.error:  # once, and not each second
                log.warning("the board of agent %s cannot be shown: %s", name, what)
            board.error = f"cannot be shown: {what}"


def _shown(answer: Any) -> list[_List]:
    lists = msgspec.convert(answer, list[_List], from_attributes=True)
    for shown in lists[:MAX_LISTS]:
        shown.more = max(0, len(shown.items) - MAX_ITEMS)
        shown.items = shown.items[:MAX_ITEMS]
        shown.name, shown.kind = shown.name[:MAX_CHARACTERS], shown.kind[:MAX_CHARACTERS]
        for item in shown.items:
            item.text, item.person = item.text[:MAX_CHARACTERS], item.person[:MAX_CHARACTERS]
    return lists[:MAX_LISTS]
