"""Calls driven from Python: a test speaks and waits step by step, instead of a script.

Each call has its own rehearsal model and gateway process, in a thread with its own event loop: a test may run in any
event loop and may block it without a gap in the caller's speech.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from offhook.gateway.rehearsal.phone import voice
from offhook.gateway.rehearsal.phone.call import SimulatedCall, StepFailed
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.run import run_scenario
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from offhook.gateway.yamlfile import write_yaml
from offhook.media.mulaw import RATE_HZ

__all__ = ["HandCall", "Offhook"]

T = TypeVar("T")


class HandCall:
    """A call in progress. A step that is impossible raises `AssertionError` with the reason.

    `report` is available once the call is over: after `hang_up` or `ended`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: SimulatedCall, over: Future[CallReport]) -> None:
        self._loop, self._call, self._over = loop, call, over

    async def say(self, line: str) -> None:
        """Speak a line (a text, or the path of a WAV file) and wait for its end."""
        await asyncio.to_thread(voice.line, line, RATE_HZ)
        await self._do(f"say {line!r}", self._call.say(line))

    async def say_over(self, line: str, *, after_ms: float = 1_000.0) -> None:
        """Speak a line over the agent once the agent has been audible for `after_ms`."""
        await asyncio.to_thread(voice.line, line, RATE_HZ)
        await self._do(f"say {line!r} over the agent", self._call.agent_has_talked(after_ms))
        await self._do(f"say {line!r} over the agent", self._call.say(line))

    async def agent_starts(self, *, timeout_ms: float = 15_000.0) -> None:
        """Wait until the agent is audible."""
        await self._do("hear the agent", self._call.agent_starts(None, timeout_ms))

    async def agent_speaks(self, *, timeout_ms: float = 15_000.0) -> float:
        """Wait until the agent has finished its next utterance; returns the duration in ms."""
        interval = await self._do("hear the agent to the end", self._call.agent_ends(None, timeout_ms))
        return 1000.0 * (interval.end_s - interval.start_s)

    async def cough(self) -> None:
        await self._do("cough", self._call.cough())

    async def press(self, keys: str) -> None:
        """Press keys, 100 ms apart."""
        await self._do(f"press {keys}", self._call.press(keys))

    async def pause(self, ms: float) -> None:
        """Stay silent."""
        await self._do("pause", self._call.pause(ms))

    async def ended(self, *, timeout_ms: float = 15_000.0) -> CallReport:
        """Wait until the other side has ended the call; returns the report."""
        await self._do("see the call end", self._call.ended(timeout_ms))
        return await asyncio.wrap_future(self._over)

    async def hang_up(self) -> CallReport:
        """Hang up; returns the call's report."""
        self._loop.call_soon_threadsafe(self._call.hang_up)
        return await asyncio.wrap_future(self._over)

    @property
    def report(self) -> CallReport:
        """The call's report: record, line, verdicts. Raises `AssertionError` while the call is in progress."""
        assert self._over.done(), "the call is in progress: hang up or wait for its end before you read the report"
        return self._over.result()

    async def _do(self, what: str, doing: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(doing, self._loop))
        except StepFailed as failed:
            raise AssertionError(f"the caller could not {what}: {failed}") from None


class Offhook:
    """Places calls; leaving the block hangs up the calls in progress and waits for their ends.

    `directory`: the folder of agent files and sounds. `out`: recordings, pictures and reports, one folder per call.
    """

    def __init__(self, directory: Path, out: Path, *, real_model: bool = False) -> None:
        self._directory, self._out, self._real_model = directory, out, real_model
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="offhook calls", daemon=True)
        self._calls: list[tuple[SimulatedCall, Future[CallReport]]] = []

    def __enter__(self) -> Offhook:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            for call, _over in self._calls:
                self._loop.call_soon_threadsafe(call.hang_up)
            for _call, over in self._calls:
                over.result(timeout=60)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def call(
        self,
        agent: str | Path | Mapping[str, Any],
        *,
        model: Sequence[Mapping[str, Any]] | Mapping[str, Any] = (),
        carrier: Mapping[str, Any] | None = None,
        caller: Mapping[str, Any] | None = None,
    ) -> HandCall:
        """Call this agent (a file, or its fields); returns once the call is answered.

        `model`: the replies of the rehearsal model, or a whole `model` section of a scenario; by default it answers
        each turn with a sentence. `carrier` and `caller` (number, dials): as in a scenario. Raises `ScenarioError`.
        """
        number = len(self._calls) + 1
        scripted = {"replies": [dict(reply) for reply in model]} if not isinstance(model, Mapping) else dict(model)
        fields = {
            "name": f"call {number}",
            "agent": dict(agent) if isinstance(agent, Mapping) else str(agent),
            "caller": {**(caller or {}), "steps": ["hang_up"]},
            "carrier": dict(carrier or {}),
            "model": {"default": {"say": "Of course."}, **scripted},
        }
        text = write_yaml(fields)
        scenario = await asyncio.to_thread(parse_scenario, text, path="offhook.call(...)", directory=self._directory)
        placed: Future[SimulatedCall] = Future()
        running = run_scenario(
            replace(scenario, steps=()),
            self._out / f"call-{number}",
            real_model=self._real_model,
            watch=placed.set_result,
        )
        report = asyncio.run_coroutine_threadsafe(running, self._loop)
        over: Future[CallReport] = Future()

        def ended(done: Future[Any]) -> None:
            if error := done.exception():
                over.set_exception(error)
                if not placed.done():
                    placed.set_exception(error)
            else:
                over.set_result(done.result().calls[0])

        report.add_done_callback(ended)
        call = await asyncio.wrap_future(placed)
        self._calls.append((call, over))
        while not call.over and not any(stream.started_s is not None for stream in call.truth.streams):  # noqa: ASYNC110 - the call is answered in another thread
            await asyncio.sleep(0.01)
        return HandCall(self._loop, call, over)
