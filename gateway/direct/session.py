"""One direct session as its tools see it, and what is kept of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call import prompts
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Outcome
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.store.record import CallRecord, MessageRecord, ToolRecord
from offhook.gateway.tools import LateOutcome, Tool, ToolCall, ToolError, ToolResult
from offhook.gateway.tools.answer import shown
from offhook.gateway.tools.runner import ToolRunner
from offhook.metrics.catalogue import Metrics

__all__ = ["RUNS_MAX", "DirectSession", "Ran"]

RUNS_MAX = 200  # tool calls of one session
KEPT_MAX = 100  # messages and facts, each


@dataclass(frozen=True, slots=True)
class Ran:
    """A run's result for the model, and what the page is to do beside: have the model answer `prompts`, end."""

    response: dict[str, Any]
    prompts: tuple[str, ...]
    outcome: str
    ending: str  # "" while the session goes on
    target: str  # of a transfer


class DirectSession:
    """The host of one session's tools (`ToolHost`). `facts`: of `ToolCall`. `clock`: monotonic seconds."""

    def __init__(
        self,
        agent: Agent,
        tools: Mapping[str, Tool],
        record: CallRecord,
        facts: Mapping[str, Any],
        *,
        metrics: Metrics,
        redactor: Redactor,
        clock: Callable[[], float],
        finished: Callable[[ToolRecord], None],
    ) -> None:
        self.agent, self.record, self.began_s = agent, record, clock()
        self.ending: Ending | None = None
        self._tools, self._facts = tools, dict(facts)
        self._metrics, self._clock, self._reported = metrics, clock, finished
        self._runs: dict[str, tuple[ToolRecord, asyncio.Future[ToolResult | None]]] = {}
        self._prompts: list[str] = []
        self._target = ""
        self._runner = ToolRunner(
            tools,
            self,
            limit=agent.limits.tools_at_once,
            on_finished=self._finished,
            on_fault=lambda error: metrics.task_failures_total.inc("tool"),
            redactor=redactor,
            clock=clock,
        )

    # --- what the page asks for

    async def run(self, call_id: str, name: str, arguments: dict[str, Any]) -> Ran | None:
        """Run a tool as in a call; None where it was cancelled, or the session is over. One run for each `call_id`."""
        if call_id in self._runs:
            return None
        entry = ToolRecord(
            call_id=call_id, name=self._masked(name), arguments=self._shown(arguments), requested_ms=self._ms()
        )
        self.record.tool_calls.append(entry)
        answered: asyncio.Future[ToolResult | None] = asyncio.get_running_loop().create_future()
        self._runs[call_id] = entry, answered
        self._runner.start(ToolCall(call_id, name, arguments, f"{self.record.call_sid}:1:{call_id}", self._facts))
        result = await answered
        if result is None:
            return None
        said, self._prompts = tuple(self._prompts), []
        ending = self.ending.value if self.ending else ""
        return Ran(result.response, said, result.outcome.value, ending, self._target)

    @property
    def is_full(self) -> bool:
        return len(self._runs) >= RUNS_MAX

    def cancel(self, call_id: str) -> None:
        """The model takes this call back; harmless when it is over or unknown."""
        if call_id in self._runs and not self._runs[call_id][1].done():
            self._runner.cancel(call_id)
            self._note(call_id, Outcome.CANCELLED, None)

    async def close(self, ending: Ending) -> None:
        """Cancel what runs, and complete the record."""
        self.ending = self.ending or ending
        for call_id in list(self._runs):
            self.cancel(call_id)
        self.record.duration_ms = self._ms()
        self.record.end_reason, self.record.end_side = self.ending.value, self.ending.side.value
        await self._runner.close()

    # --- the runs

    def _finished(self, call: ToolCall, result: ToolResult) -> None:
        if result.failure:
            self._metrics.tool_failures_total.inc(result.failure)
        self._note(call.call_id, result.outcome, result)

    def _note(self, call_id: str, outcome: Outcome, result: ToolResult | None) -> None:
        entry, answered = self._runs[call_id]
        if answered.done():
            return
        entry.finished_ms, entry.outcome = self._ms(), outcome.value
        if result is not None:
            entry.answer, entry.error = msgspec.json.encode(self._shown(result.response)).decode(), result.record
        self._metrics.tool_calls_total.inc(outcome.value)
        answered.set_result(result)
        self._reported(entry)

    def _ms(self) -> float:
        return (self._clock() - self.began_s) * 1000

    def _masked(self, value: Any) -> Any:
        return self._runner.redactor.value(value)

    def _shown(self, value: Any) -> Any:
        return shown(value, self._runner.redactor)

    # --- what a running tool may do (ToolHost)

    def say(self, text: str) -> None:
        self._prompts.append(prompts.say(text))  # the page has it once the run is over

    def remember(self, key: str, value: str) -> None:
        if len(self.record.remembered) < KEPT_MAX:
            self.record.remembered[key[:200]] = value[:2_000]

    def end_call(self, reason: str, call_id: str) -> None:
        self.ending = Ending.AGENT_HUNG_UP

    def transfer(self, target: str, call_id: str, *, whisper: str = "", warm: bool = False) -> None:
        self.ending, self._target = Ending.TRANSFERRED, target

    def send_digits(self, digits: str) -> bool:
        return False

    @contextmanager
    def keys(self, *, secret: bool) -> Iterator[asyncio.Queue[str]]:
        raise ToolError("The caller has no keypad here. Ask them to say it.", "a direct session has no keys")
        yield

    def ignore_key(self, key: str) -> None: ...

    def take_message(self, recipient: str, text: str) -> None:
        if len(self.record.messages) < KEPT_MAX:
            entry = MessageRecord(at_ms=self._ms(), recipient=self._masked(recipient), text=self._masked(text))
            self.record.messages.append(entry)

    def stop_recording(self) -> bool:
        return False

    def last_words(self, text: str, ending: Ending) -> None:
        self.say(text)
        self.ending = ending

    def afterwards(self, call: ToolCall, state: LateOutcome, what: Any) -> None:
        self._metrics.tool_afterwards_total.inc(state.value)
        entry, _ = self._runs[call.call_id]
        outcome = "" if what is None else msgspec.json.encode(self._shown(what)).decode()
        entry.afterwards = f"{state.value}: {outcome}" if outcome else state.value
