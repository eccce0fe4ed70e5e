"""Runs tool calls of one call: one task each, really cancelled, awaited at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from gateway.conversation.events import Outcome
from gateway.tools import Tool, ToolCall, ToolHost, ToolResult

__all__ = ["ToolRunner"]

log = logging.getLogger(__name__)


class ToolRunner:
    """`on_finished(call, result)` is told of each run that was not cancelled."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        host: ToolHost,
        *,
        limit: int,
        on_finished: Callable[[ToolCall, ToolResult], None],
    ) -> None:
        self._tools, self._host, self._on_finished = tools, host, on_finished
        self._slots = asyncio.Semaphore(limit)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, call: ToolCall) -> None:
        """Begin this run."""
        self._tasks[call.call_id] = asyncio.create_task(self._run(call), name=f"tool {call.name}")

    def cancel(self, call_id: str) -> None:
        """Stop this run; its result is not told."""
        if task := self._tasks.get(call_id):
            task.cancel()

    async def close(self) -> None:
        """Stop all runs and wait until they are gone."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, call: ToolCall) -> None:
        tool = self._tools.get(call.name)
        if tool is None:
            message = f"There is no tool named {call.name}."
            self._on_finished(call, ToolResult(Outcome.FAILED, {"status": "error", "message": message}))
            return
        try:
            async with self._slots, asyncio.timeout(tool.timeout_s):
                value = await tool.run(call, self._host)
            result = ToolResult(Outcome.DONE, {"status": "ok", "result": value})
        except TimeoutError:
            result = ToolResult(Outcome.TIMED_OUT, {"status": "error", "message": "This takes too long just now."})
        except Exception as error:
            log.exception("tool %s failed", call.name)
            response = {"status": "error", "message": "This did not work."}
            result = ToolResult(Outcome.FAILED, response, f"{type(error).__name__}: {error}")
        self._on_finished(call, result)
