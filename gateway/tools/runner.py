"""Runs the tool calls of one call: validated, bounded, cancellable, each answered once, all awaited at the end."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from offhook.gateway.conversation.events import Outcome
from offhook.gateway.errors import OffhookError, cancelled_from_outside
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.tools import LateOutcome, Repeat, Secret, Tool, ToolCall, ToolError, ToolHost, ToolResult
from offhook.gateway.tools.answer import ANSWER_LIMIT, Exact, answer, clipped, clipped_text, refusal, text_of
from offhook.gateway.tools.schema import BadArguments

__all__ = ["Known", "NotOurs", "ToolJournal", "ToolRunner"]

log = logging.getLogger(__name__)

MAX_REMEMBERED = 100  # runs of one call, against repeats: at 16 kB an answer never more than 2 MB
RECORD_LIMIT = 2_000  # characters of an error
CLOSE_S = 3.0  # at the call's end, for a tool that is slow to react to its cancellation

_NOT_BEGUN = "This was not begun, because the line is being restored. Try again in a moment."
_DONE_BEFORE = "a repeat of a run in another process, which had ended: not run again"
_OUT_OF_ORDER = "This is out of order just now. Offer to try again in a while."
_UNSURE = ToolResult(
    Outcome.FAILED,
    refusal("This was begun before and then interrupted. It may have been done: do not try again, say so."),
    "a repeat of a run that was cancelled: not run again",
)


class NotOurs(OffhookError):
    """The call is not, or may not be, this process's any more: nothing of it may reach the outside."""


@dataclass(frozen=True, slots=True)
class Known:
    """A run with this key began in another process. `response`: what the model is sent, once it is done."""

    response: dict[str, Any] | None = None


class ToolJournal(Protocol):
    """Where runs with outside effects are noted, for a process that takes the call over. Neither method waits long."""

    async def begins(self, key: str) -> Known | None:
        """A run is to begin, and is noted; `Known` when there was one before. Raises `NotOurs`."""
        ...

    async def done(self, key: str, response: Mapping[str, Any]) -> None: ...


class ToolRunner:
    """Runs tools and reports each result that was not cancelled by `on_finished(call, result)`.

    A call with the idempotency key of an earlier one gets that one's result; it does not run twice. `on_fault(error)`:
    an exception that is not the tool's, out of `on_finished` for example; the call's result is then an error.
    `journal()`: of runs with outside effects, where there is one.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        host: ToolHost,
        *,
        limit: int,
        on_finished: Callable[[ToolCall, ToolResult], None],
        on_fault: Callable[[BaseException], None],
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.monotonic,
        journal: Callable[[], ToolJournal | None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._tools, self._host, self._on_finished, self._on_fault = tools, host, on_finished, on_fault
        self._clock = clock
        self.redactor = redactor or Redactor()
        self._secrets: dict[str, str] = {}  # the model's placeholder -> the secret
        self._slots = asyncio.Semaphore(limit)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._first: OrderedDict[str, asyncio.Future[ToolResult]] = OrderedDict()

    def start(self, call: ToolCall) -> None:
        """Begin this run."""
        name = f"tool {call.name} of call {call.facts.get('call_sid', '-')}"  # in the log where it blocks the loop
        task = asyncio.create_task(self._run(call), name=name)
        self._tasks[call.call_id] = task

        def gone(_: asyncio.Task[None]) -> None:
            if self._tasks.get(call.call_id) is task:
                del self._tasks[call.call_id]
            if not task.cancelled() and (error := task.exception()) is not None:
                self._on_fault(error)
                try:
                    self._on_finished(call, self._failed(call, f"internal error: {type(error).__name__}"))
                except Exception as again:
                    self._on_fault(again)

        task.add_done_callback(gone)

    def cancel(self, call_id: str) -> None:
        """Stop this run; its result is not reported."""
        if task := self._tasks.get(call_id):
            task.cancel()

    async def close(self) -> None:
        """Stop all runs and wait until they have ended; one that does not end is abandoned, and logged."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in left:
                log.error("%s does not react to its cancellation", task.get_name())

    async def _run(self, call: ToolCall) -> None:
        first = self._first.get(call.idempotency_key)
        if first is None:
            first = self._first[call.idempotency_key] = asyncio.get_running_loop().create_future()
            while len(self._first) > MAX_REMEMBERED:
                self._first.popitem(last=False)
            try:
                result = await self._result(call)
            except BaseException:
                first.set_result(_UNSURE)
                raise
            first.set_result(result)
        else:
            result = await asyncio.shield(first)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # it did not stop in time: its outcome is for the record alone
            state = LateOutcome.FINISHED if result.outcome is Outcome.DONE else LateOutcome.FAILED
            self._host.afterwards(call, state, result.record or result.response.get("result"))
            return
        self._on_finished(call, result)

    async def _result(self, call: ToolCall) -> ToolResult:
        """Raises `CancelledError` alone."""
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolResult(
                Outcome.FAILED,
                refusal(f"There is no tool named {self.redactor.text(call.name)}."),
                "no such tool",
                "unknown_tool",
            )
        try:
            arguments = tool.arguments.checked(self._meant(call.arguments))
            if tool.outside_effects and call.facts.get("simulated") and not _allowed(call):
                return ToolResult(Outcome.DONE, _REHEARSED, "")
            if tool.breaker is not None and not tool.breaker.admits(self._clock()):
                record = f"not run: it failed {tool.breaker.failures_max} times in a row"
                return ToolResult(Outcome.FAILED, refusal(_OUT_OF_ORDER), record, "left_alone")
            validated = ToolCall(call.call_id, call.name, arguments, call.idempotency_key, call.facts)
            journal = self._journal() if tool.repeat is not Repeat.SAFE else None
            value = await self._bounded(tool, validated, journal)
            if isinstance(value, Known):
                return _UNSURE if value.response is None else ToolResult(Outcome.DONE, value.response, _DONE_BEFORE)
            plain, whole = clipped(value, 2 * ANSWER_LIMIT)
            # A secret in a tool's answer would be spoken.
            plain = self._hidden(plain)
            result = ToolResult(Outcome.DONE, answer(Exact(plain, whole), self.redactor))
            if journal is not None:
                await journal.done(call.idempotency_key, result.response)
            return result
        except NotOurs as error:
            return ToolResult(Outcome.FAILED, refusal(_NOT_BEGUN), f"not begun: {error}", "not_ours")
        except BadArguments as error:
            message = error.told(self.redactor)
            return ToolResult(
                Outcome.FAILED, refusal(message, retryable=True), f"wrong arguments: {message}", "arguments"
            )
        except TimeoutError:
            return ToolResult(
                Outcome.TIMED_OUT,
                refusal("This takes too long just now."),
                f"no answer within {tool.timeout_s:g} s",
                "timeout",
            )
        except ToolError as error:
            message = clipped_text(text_of(error), self.redactor, RECORD_LIMIT)
            record = clipped_text(text_of(error.record or error), self.redactor, RECORD_LIMIT)
            return ToolResult(Outcome.FAILED, refusal(message), record, error.reason)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            return self._failed(call, "CancelledError, by itself")
        except GeneratorExit:
            raise
        except BaseException as error:  # KeyboardInterrupt and SystemExit, too: the tool's, not the process's
            log.error(
                "call %s: tool %s failed\n%s",
                call.facts.get("call_sid", "-"),
                call.name,
                self.redactor.text("".join(traceback.format_exception(error, limit=20))[-10 * RECORD_LIMIT :]),
            )
            return self._failed(call, f"{type(error).__name__}: {text_of(error)}")

    async def _bounded(self, tool: Tool, call: ToolCall, journal: ToolJournal | None) -> Any:
        """Run it within its time, when one of the call's slots is free; `Known` where it must not run again.

        To the breaker it fails where it takes too long or what it needs is not there; what else it raises may be due
        to its arguments.
        """
        well: bool | None = None
        begun = False
        try:
            async with asyncio.timeout(tool.timeout_s), self._slots:
                known = await journal.begins(call.idempotency_key) if journal is not None else None
                if known is not None and (known.response is not None or tool.repeat is Repeat.NEVER):
                    return known
                begun = True
                value = await tool.run(call, self._host)
            well = True
            return value
        except OSError:  # TimeoutError is one
            well = False if begun else None
            raise
        finally:
            if tool.breaker is not None:
                tool.breaker.ended(self._clock(), well)

    def _meant(self, arguments: Any) -> Any:
        """The arguments with the secrets in place of the model's placeholders."""
        if not self._secrets or not isinstance(arguments, Mapping):
            return arguments
        return {name: self._secrets.get(v, v) if isinstance(v, str) else v for name, v in arguments.items()}

    def _hidden(self, value: Any) -> Any:
        """A tool's exact result with placeholders for its secrets, which are masked everywhere from now on."""
        if isinstance(value, dict):
            return {key: self._hidden(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._hidden(item) for item in value]
        if not isinstance(value, Secret):
            return value
        placeholder = f"secret-{len(self._secrets) + 1}"
        self._secrets[placeholder] = value.value
        self.redactor = self.redactor.knowing(value.value)
        return placeholder

    def _failed(self, call: ToolCall, what: str) -> ToolResult:
        record = clipped_text(what, self.redactor, RECORD_LIMIT)
        return ToolResult(Outcome.FAILED, refusal("This did not work."), record, "exception")


_REHEARSED = {
    "status": "ok",
    "rehearsed": True,
    "message": "This is a rehearsal: nothing was really done. Go on as if it had worked.",
}


def _allowed(call: ToolCall) -> bool:
    effects = call.facts.get("effects", ())
    return call.name in effects or "*" in effects
