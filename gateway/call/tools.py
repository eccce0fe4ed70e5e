"""A call's tools: what the model requests, how each run ends, and what a running tool may do with the call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from offhook.gateway.agent.spec import filler_line
from offhook.gateway.call import prompts
from offhook.gateway.call.facts import Transfer
from offhook.gateway.call.head import RunningHead
from offhook.gateway.call.hearing import Hearing
from offhook.gateway.call.model_side import ModelSide
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.tools import LateOutcome, Repeat, Tool, ToolCall, ToolError, ToolResult
from offhook.gateway.tools.answer import SHOWN_BYTES, refusal, shown
from offhook.gateway.tools.runner import Known, ToolJournal, ToolRunner

__all__ = ["CallTools"]

log = logging.getLogger(__name__)

GRACE_S = 5.0  # the runner ends a tool at its timeout; past this the runner itself hangs
IGNORE_KEY_S = 3.0  # callers press # right after a PIN whose length ended it
PENDING_MAX = 100  # tool calls that the model waits for: more is a model gone wrong
REMEMBERED_MAX = 200
_TOO_MANY = "Too many tools are called at once. Wait for their results."
ARGUMENTS_MAX = 4_000  # bytes as JSON
_MOVED = "its process ended while it ran: whether it was carried out is not known"
KEYS_MAX = 100  # pressed and not yet read by the tool that waits for them


def _small(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments that a head may carry. A placeholder of a secret is worth nothing in another process."""
    text = msgspec.json.encode(arguments)
    return None if len(text) > ARGUMENTS_MAX or b'"secret-' in text else arguments


def _may_repeat(tool: Tool, known: Known | None) -> bool:
    """Whether it had not begun, or a second run does no harm."""
    return known is None or tool.repeat is not Repeat.NEVER


class CallTools:
    """The host of one call's tools (`ToolHost`), and the carrier-out of the machine's tool commands."""

    def __init__(
        self,
        wiring: Wiring,
        tools: Mapping[str, Tool],
        remembered: dict[str, str],
        *,
        hearing: Hearing,
        model: ModelSide,
        say_and_end: Callable[[str, Ending], None],
        redactor: Redactor | None,
    ) -> None:
        self._facts, self._agent, self._tools, self.remembered = wiring.facts, wiring.agent, tools, remembered
        self._timeline, self._metrics = wiring.timeline, wiring.metrics
        self._clock, self._feed, self._safely = wiring.clock, wiring.feed, wiring.faults.safely
        self._changed = wiring.changed
        self._hearing, self._model, self._say_and_end = hearing, model, say_and_end
        agent = wiring.agent
        self._runner = ToolRunner(
            tools,
            self,
            limit=agent.limits.tools_at_once,
            on_finished=self._finished,
            on_fault=lambda error: wiring.faults.report("tool", error),
            redactor=redactor,
            clock=wiring.clock,
            journal=lambda: self.journal,
        )
        self.journal: ToolJournal | None = None  # set where another process could go on with the call
        self.unnoted: set[str] = set()  # idempotency keys of runs that the journal has no note of
        self._again: set[str] = set()  # calls of a session before: the model is sent their results as text
        self._requests: dict[str, ToolCall] = {}
        self._results: dict[str, ToolResult] = {}
        self._keys: asyncio.Queue[str] | None = None  # a tool takes the caller's key presses
        self._ignored = "", 0.0  # a key that is dropped, and until when
        self.transfer_to: Transfer | None = None
        self.on_digits: Callable[[str], bool] | None = None  # the carrier's side, where it can press keys

    # --- the model's requests

    def requested(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        """The model calls a tool."""
        now_s = self._clock()
        if len(self._requests) >= PENDING_MAX and call_id not in self._requests:
            self._metrics.tool_failures_total.inc("too_many")
            self._timeline.error(f"tool {self.masked(name)[:60]}: not run, {PENDING_MAX} tool calls are pending")
            self._model.link.tool_result(call_id, name, refusal(_TOO_MANY), c.Speak.SILENT)
            return
        key = f"{self._facts.call_sid}:{self._model.session}:{call_id}"
        self._requests[call_id] = self._call_of(call_id, name, arguments, key)
        self._safely("tool", self._note_request, call_id, name, arguments, now_s)
        self._feed_request(call_id, name, now_s)

    def _call_of(self, call_id: str, name: str, arguments: dict[str, Any], key: str) -> ToolCall:
        facts = self._facts
        of_call = {
            "call_sid": facts.call_sid,
            "caller": facts.caller,
            "dialled": facts.dialled,
            "direction": facts.direction,
            "simulated": facts.simulated,
            "effects": facts.effects,
            "variables": {**self._agent.variables, **facts.parameters},
        }
        return ToolCall(call_id, name, arguments, key, of_call)

    def _feed_request(self, call_id: str, name: str, now_s: float) -> None:
        tool = self._tools.get(name)
        if tool is None:
            self._feed(e.ToolRequested(now_s, call_id))
            return
        filler_s = tool.filler_after_ms / 1000 if tool.filler else None
        limit_s = tool.timeout_s + GRACE_S
        self._feed(e.ToolRequested(now_s, call_id, tool.on_barge_in, tool.silent, filler_s, limit_s))

    def _note_request(self, call_id: str, name: str, arguments: dict[str, Any], now_s: float) -> None:
        self._timeline.tool_started(call_id, self.masked(name), self._shown(arguments), now_s)

    # --- another process

    def running(self) -> list[RunningHead]:
        """Requests without an outcome, for a process that goes on with the call."""
        return [
            RunningHead(r.call_id, r.name, r.idempotency_key, _small(r.arguments), r.idempotency_key in self.unnoted)
            for r in self._requests.values()
        ]

    def take_up(self, in_flight: Iterable[tuple[RunningHead, Known | None]], *, again: bool) -> list[str]:
        """What the model is told of the tools that were running in the process before. One that may run again does,
        with its idempotency key, at `run_again`, unless `again` is False.
        """
        notes, now_s = [], self._clock()
        for running, known in in_flight:
            tool, name = self._tools.get(running.name), running.name
            if known is not None and known.response is not None:
                shown_response = msgspec.json.encode(self._shown(known.response)).decode()
                self._timeline.tool_moved(running.call_id, e.Outcome.DONE, shown_response, "", now_s)
                notes.append(prompts.moved_tool(name, known.response, done=True))
            elif again and tool is not None and running.arguments is not None and _may_repeat(tool, known):
                call = self._call_of(running.call_id, name, running.arguments, running.key)
                self._requests[running.call_id] = call
                self._again.add(running.call_id)
                self._timeline.tool_again(running.call_id, now_s)
                notes.append(prompts.tool_again(name))
            else:
                self._timeline.tool_moved(running.call_id, e.Outcome.FAILED, "", _MOVED, now_s)
                notes.append(prompts.moved_tool(name, None, done=False))
        return notes

    def run_again(self) -> None:
        """The call goes on here: run what `take_up` has kept."""
        for call_id in list(self._again):
            self._feed_request(call_id, self._requests[call_id].name, self._clock())

    # --- the machine's commands

    def run(self, command: c.RunTool) -> None:
        """Start a requested run."""
        self._changed()
        self._runner.start(self._requests[command.call_id])

    def cancel(self, command: c.CancelTool) -> None:
        """Stop a run; the model gets no result of it."""
        self._runner.cancel(command.call_id)
        self._again.discard(command.call_id)
        self._model.link.tool_cancelled(command.call_id)
        self._requests.pop(command.call_id, None)
        self._changed()

    def answer(self, command: c.AnswerTool) -> None:
        """Send a run's result to the model, once."""
        request, result = self._requests.pop(command.call_id, None), self._results.pop(command.call_id, None)
        if request is None or result is None:
            return
        if command.call_id in self._again:
            self._again.discard(command.call_id)
            text = prompts.result_of_again(request.name, result.response)
            (self._model.link.note if command.speak in (None, c.Speak.SILENT) else self._model.link.prompt)(text)
        elif command.speak is not None:
            self._model.link.tool_result(command.call_id, request.name, result.response, command.speak)
        else:
            self._model.link.note(prompts.late_result_note(request.name, result.response))

    def filler(self, command: c.PlayFiller) -> str:
        """The filler of this slow call: the sound to play, or "" where there is none or the model says a line."""
        request = self._requests.get(command.call_id)
        tool = self._tools.get(request.name) if request else None
        if tool is None or not tool.filler:
            return ""
        if line := filler_line(tool.filler):
            self.say(line)
            return ""
        return tool.filler

    def _finished(self, call: ToolCall, result: ToolResult) -> None:
        self._results[call.call_id] = result
        self._changed()
        self._safely("tool", self._note_result, call, result)  # the model is answered, whatever becomes of the record
        self._feed(e.ToolFinished(self._clock(), call.call_id, result.outcome))

    def _note_result(self, call: ToolCall, result: ToolResult) -> None:
        if result.failure:
            self._metrics.tool_failures_total.inc(result.failure)
        response = msgspec.json.encode(self._shown(result.response)).decode()
        self._timeline.tool_told(call.call_id, response, result.record)
        if result.record:
            self._timeline.error(f"tool {self.masked(call.name)}: {result.record}")

    # --- keys

    def drops_key(self, key: str) -> bool:
        """Whether this key belongs to an entry that a tool has ended, and is to have no effect."""
        ignored, until_s = self._ignored
        self._ignored = "", 0.0
        return key == ignored and self._clock() <= until_s

    def key_pressed(self, key: str) -> bool:
        """Whether a tool takes this key."""
        if self._keys is None:
            return False
        if not self._keys.full():
            self._keys.put_nowait(key)
        return True

    # --- what a running tool may do (ToolHost)

    def say(self, text: str) -> None:
        self._safely("tool", self._model.link.prompt, prompts.say(text))  # from threads it is a callback of the loop

    def remember(self, key: str, value: str) -> None:
        if len(self.remembered) < REMEMBERED_MAX or key in self.remembered:
            self.remembered[key] = value[:SHOWN_BYTES]
            self._changed()
        else:
            self._timeline.error(f"{key[:60]} is not remembered: there are {REMEMBERED_MAX} facts")

    def end_call(self, reason: str, call_id: str) -> None:
        self._feed(e.EndRequested(self._clock(), Ending.AGENT_HUNG_UP, call_id))

    def transfer(self, target: str, call_id: str, *, whisper: str = "", warm: bool = False) -> None:
        self.transfer_to = Transfer(target, whisper, warm)
        self._feed(e.EndRequested(self._clock(), Ending.TRANSFERRED, call_id))

    def send_digits(self, digits: str) -> bool:
        return self.on_digits is not None and self.on_digits(digits)

    @contextmanager
    def keys(self, *, secret: bool) -> Iterator[asyncio.Queue[str]]:
        if self._keys is not None:
            raise ToolError("The caller is entering something already.", "two tools wait for keys")
        self._keys = asyncio.Queue(KEYS_MAX)
        if secret:
            self._hearing.hide(True)
        try:
            yield self._keys
        finally:
            self._keys = None
            if secret:
                self._hearing.hide(False)

    def ignore_key(self, key: str) -> None:
        self._ignored = key, self._clock() + IGNORE_KEY_S

    def take_message(self, recipient: str, text: str) -> None:
        self._timeline.message(self.masked(recipient), self.masked(text), self._clock())

    def stop_recording(self) -> bool:
        return self._hearing.stop_recording()

    def last_words(self, text: str, ending: Ending) -> None:
        self._say_and_end(text, ending)

    def afterwards(self, call: ToolCall, state: LateOutcome, what: Any) -> None:
        self._safely("tool", self._note_late_outcome, call, state, what)

    def _note_late_outcome(self, call: ToolCall, state: LateOutcome, what: Any) -> None:
        outcome = "" if what is None else msgspec.json.encode(self._shown(what)).decode()
        self._timeline.tool_afterwards(call.call_id, state.value, outcome)
        log.warning("call %s: tool %s was abandoned, %s: %s", self._facts.call_sid, call.name, state.value, outcome)

    # ---

    def masked(self, value: Any) -> Any:
        """`value` without secrets."""
        return self._runner.redactor.value(value)

    def _shown(self, value: Any) -> Any:
        return shown(value, self._runner.redactor)

    async def close(self) -> None:
        """Cancel what runs and wait for it, within the runner's bounds."""
        await self._runner.close()
