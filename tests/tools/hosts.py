"""A call as tools see it, which writes down what they ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from offhook.gateway.conversation.endings import Ending
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.tools import LateOutcome, Tool, ToolCall, ToolResult
from offhook.gateway.tools.runner import ToolRunner

__all__ = ["FACTS", "Desk", "Host"]

FACTS = {
    "call_sid": "CA1",
    "caller": "+15550101",
    "dialled": "+15550100",
    "simulated": False,
    "effects": frozenset(),
    "variables": {"shop": "north"},
}


class Host:
    """A `ToolHost`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.remembered: dict[str, str] = {}
        self.after: list[tuple[str, LateOutcome, Any]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.pressed: asyncio.Queue[str] = asyncio.Queue()
        self.can_press = True

    def say(self, text: str) -> None:
        self.said.append(text)

    def remember(self, key: str, value: str) -> None:
        self.remembered[key] = value

    def end_call(self, reason: str, call_id: str) -> None:
        self.asked.append(("end_call", call_id))

    def transfer(self, target: str, call_id: str, *, whisper: str = "", warm: bool = False) -> None:
        self.asked.append(("transfer", target, whisper, warm))

    def send_digits(self, digits: str) -> bool:
        self.asked.append(("press", digits))
        return self.can_press

    @contextmanager
    def keys(self, *, secret: bool) -> Iterator[asyncio.Queue[str]]:
        self.asked.append(("keys", secret))
        yield self.pressed
        self.asked.append(("no more keys",))

    def ignore_key(self, key: str) -> None:
        self.asked.append(("ignore key", key))

    def take_message(self, recipient: str, text: str) -> None:
        self.asked.append(("message", recipient, text))

    def stop_recording(self) -> bool:
        self.asked.append(("stop recording",))
        return self.can_press

    def last_words(self, text: str, ending: Ending) -> None:
        self.asked.append(("last words", text, ending))

    def afterwards(self, call: ToolCall, state: LateOutcome, what: Any) -> None:
        self.after.append((call.call_id, state, what))


class Desk:
    """A runner with such a host: `await desk.ask("book", day="Friday")` is one tool call's result."""

    def __init__(self, *tools: Tool, limit: int = 4, secrets: Mapping[str, str] | None = None) -> None:
        self.host = Host()
        self.results: dict[str, ToolResult] = {}
        self.faults: list[BaseException] = []
        self._changed = asyncio.Event()
        self._calls = 0
        self.runner = ToolRunner(
            {tool.name: tool for tool in tools},
            self.host,
            limit=limit,
            on_finished=self._finished,
            on_fault=self.faults.append,
            redactor=Redactor((secrets or {}).values()),
        )

    def _finished(self, call: ToolCall, result: ToolResult) -> None:
        self.results[call.call_id] = result
        self._changed.set()

    def start(self, name: str, arguments: Any = None, *, key: str = "", facts: Mapping[str, Any] | None = None) -> str:
        self._calls += 1
        call_id = f"call-{self._calls}"
        call = ToolCall(call_id, name, arguments or {}, key or f"CA1:1:{call_id}", {**FACTS, **(facts or {})})
        self.runner.start(call)
        return call_id

    async def result(self, call_id: str) -> ToolResult:
        async with asyncio.timeout(10):
            while call_id not in self.results:
                self._changed.clear()
                await self._changed.wait()
        return self.results[call_id]

    async def ask(self, name: str, /, **arguments: Any) -> ToolResult:
        return await self.result(self.start(name, arguments))

    async def until(self, what: Any) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(10):
            while not what():
                await asyncio.sleep(0.005)
