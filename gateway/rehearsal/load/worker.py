"""The processes of `offhook load`: the rehearsal model, and callers that keep a number of calls in progress.

    python -m offhook.gateway.rehearsal.load.worker model MIX
    python -m offhook.gateway.rehearsal.load.worker callers MIX

Both receive lines of JSON on standard input and respond with lines on standard output; they exit at the end of standard
input. The load generator is thus not measured with the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.load.scrape import Late
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.outside import OtherGateway, address_of, call_to, seen_outside
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.run import fetch_record
from offhook.gateway.rehearsal.scenario.expect import judge, kept_to_the_rules
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario
from offhook.metrics.quantiles import exact

__all__ = ["LATE_S", "Callers", "Lateness", "Mix", "Order", "Part", "WorkerReport", "mark_of"]

LATE_S = 0.005  # a frame later than this is late
PAUSE_S = 0.25  # between a caller's calls
CLOCK_S = 0.020
# Kinds of expectation about the model or the whole gateway: with many calls they cannot be related to one.
OF_ONE_CALL = frozenset({"told_model", "tool_answers", "model_sessions", "counted"})
_MARK = re.compile(r"\[part (\d+) of the mix\]")


class Part(msgspec.Struct, kw_only=True):
    """One scenario of the mix: its file, and the number under which its agent is reached."""

    scenario: str
    dials: str


class Mix(msgspec.Struct, kw_only=True):
    """The scenarios of the processes. `judged`: check all expectations, which needs our gateway and model.

    `outside`: a gateway of another kind, judged by what the line shows. `model_at`: where the rehearsal model listens,
    HOST:PORT, with its certificate in `model_ca`; otherwise at any port.
    """

    parts: list[Part]
    url: str = ""
    public_url: str = ""
    auth_token: str | None = None
    console_token: str = ""
    judged: bool = True
    outside: OtherGateway | None = None
    model_at: str = ""
    model_ca: str = ""


class Order(msgspec.Struct, kw_only=True):
    """Keep `calls` in progress, reached evenly within `ramp_s`; report what happened since the last order."""

    calls: int
    ramp_s: float = 0.0


class WorkerReport(msgspec.Struct, kw_only=True):
    """What a process of callers counted since its last report: calls ended, failures by reason, its own lateness."""

    live: int
    ended: int
    failed: int
    reasons: dict[str, int]
    clock_p99_ms: float | None
    frames: int
    unseen: list[str] = []  # expectations that cannot be seen from outside


def mark_of(part: int) -> str:
    """A text for an agent's instructions, by which the model selects the script."""
    return f"[part {part} of the mix]"


async def model_main(mix: Mix, clock: Clock) -> None:
    """Serve the scripts of all parts: print the URL and the certificate's path, then a `Late` for each input line."""
    scenarios = [load_scenario(part.scenario) for part in mix.parts]

    def script_for(setup: dict[str, Any]) -> Script:
        found = _MARK.search(str(setup.get("systemInstruction", "")))
        return scenarios[int(found[1]) if found else 0].script()

    host, port = address_of(mix.model_at) if mix.model_at else ("127.0.0.1", 0)
    tls = bool(mix.model_ca) or not mix.model_at
    serving = ModelServer(script_for, host=host, port=port, keep_audio=False, keep_arrivals=True, tls=tls, clock=clock)
    async with serving as server:
        if mix.model_ca:
            certificate = await asyncio.to_thread(Path(server.ca_path).read_bytes)
            await asyncio.to_thread(write_whole, Path(mix.model_ca), certificate)
        _send([server.url, server.ca_path])
        lateness = Lateness()
        async for _ in _lines():
            _send(lateness.since(server.sessions))


class Lateness:
    """How much later than the fastest frame of its call a caller's frame arrives at the model.

    A frame is due at its position in the audio. The first second of a session does not count: audio from before the
    end of the setup arrives at once.
    """

    def __init__(self) -> None:
        self._fastest_s: dict[int, float] = {}

    def since(self, sessions: Sequence[SessionRecord]) -> Late:
        """Lateness of all frames since the last call of this method; their arrival times are dropped."""
        late_ms: list[float] = []
        for session in sessions:
            if not session.audio_arrivals:
                continue
            arrivals, session.audio_arrivals = session.audio_arrivals, []
            bytes_a_second = 2 * session.audio_rate_hz
            delays_s = [at_s - count / bytes_a_second for at_s, count in arrivals if count > bytes_a_second]
            fastest_s = min([*delays_s, self._fastest_s.get(session.index, inf)])
            self._fastest_s[session.index] = fastest_s
            late_ms += [1000.0 * (delay_s - fastest_s) for delay_s in delays_s]
        found = exact(late_ms)
        return Late(found.count, found.p50, found.p99, sum(ms > 1000.0 * LATE_S for ms in late_ms))


class Callers:
    """Keeps a number of calls in progress, one scenario after the other."""

    def __init__(self, mix: Mix, clock: Clock) -> None:
        self._mix, self._clock = mix, clock
        self._scenarios = [replace(load_scenario(part.scenario), dials=part.dials) for part in mix.parts]
        self._calls: dict[asyncio.Task[None], SimulatedCall | None] = {}
        self._wanted = 0
        self._placed = 0
        self._leaving: set[asyncio.Task[None]] = set()
        self._reasons: Counter[str] = Counter()
        self._ended = self._failed = self._frames = 0
        self._late_ms: list[float] = []
        self._unseen: set[str] = set()

    async def run(self) -> None:
        clock = asyncio.create_task(self._watch_clock())
        ramp: asyncio.Task[None] | None = None
        _send(["ready"])
        async for line in _lines():
            order = msgspec.json.decode(line, type=Order)
            if order.calls != self._wanted:
                if ramp is not None:
                    ramp.cancel()
                ramp = asyncio.create_task(self.reach(order))
            _send(self.report())
        clock.cancel()
        if ramp is not None:
            ramp.cancel()
        await self.leave()

    async def leave(self) -> None:
        """Hang up everywhere, and wait for the ends."""
        await self.reach(Order(calls=0))
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def reach(self, order: Order) -> None:
        """Have this many calls in progress, within the order's ramp."""
        self._wanted = order.calls
        staying = [task for task in self._calls if task not in self._leaving]
        for task in staying[order.calls :]:
            self._leaving.add(task)
            if call := self._calls[task]:
                call.hang_up()
        more = order.calls - len(staying)
        for _ in range(more):
            task = asyncio.create_task(self._caller())
            self._calls[task] = None
            task.add_done_callback(self._gone)
            await asyncio.sleep(order.ramp_s / more)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._calls.pop(task, None)
        self._leaving.discard(task)

    async def _caller(self) -> None:
        """Place one call after the other until an order stops this caller."""
        me = asyncio.current_task()
        assert me is not None
        while me not in self._leaving:
            scenario = self._scenarios[self._placed % len(self._scenarios)]
            self._placed += 1
            try:
                await self._one(me, scenario, self._placed)
            except Exception as error:
                self._ended += 1
                self._failed += 1
                self._reasons[f"{scenario.name}: the simulated caller failed: {error!r}"] += 1
            await asyncio.sleep(PAUSE_S)

    async def _one(self, me: asyncio.Task[None], scenario: Scenario, number: int) -> None:
        mix = self._mix
        common: dict[str, Any] = {
            "caller": f"+1555{number % 10_000_000:07d}",
            "dialled": scenario.dials,
            "carrier": replace(scenario.carrier, seed=number, status_callbacks=mix.outside is None),
            "directory": scenario.directory,
            "clock": self._clock,
        }
        if mix.outside is not None:
            call = call_to(mix.outside, scenario.steps, **common)
        else:
            public_url = mix.public_url or None
            call = SimulatedCall(mix.url, scenario.steps, public_url=public_url, auth_token=mix.auth_token, **common)
        self._calls[me] = call
        truth = await call.run()
        self._calls[me] = None
        self._frames += sum(stream.frames for stream in truth.streams)
        if me in self._leaving:  # an order ended the call early: it does not count
            return
        record = await fetch_record(mix.url, truth, mix.console_token) if mix.judged else None
        report = call_report(truth, record, scenario=scenario.name, by_marks=mix.outside is None)
        verdicts = [kept_to_the_rules(report)]
        if mix.judged:
            verdicts += [judge(one, report) for one in scenario.expect if one.kind not in OF_ONE_CALL]
        if mix.outside is not None:
            for one in scenario.expect:
                verdicts += seen_outside(one, report)
            self._unseen.update(verdict.words for verdict in verdicts if not verdict.seen)
        bad = [verdict.words for verdict in verdicts if verdict.failed]
        if not truth.streams:
            announced = "; ".join(f"{one.verb} {one.text}".strip() for one in truth.announced)
            bad.insert(0, f"not connected: {announced or truth.ended_by}")
        elif not truth.agent:
            bad.insert(0, "the agent was never heard")
        self._ended += 1
        self._failed += bool(bad)
        if bad:
            self._reasons[re.sub(r"\d+(\.\d+)?", "N", f"{scenario.name}: {bad[0]}")] += 1

    async def _watch_clock(self) -> None:
        """Measure how late this process is, which limits the accuracy of its other figures."""
        due_s = self._clock()
        while True:
            due_s = max(due_s + CLOCK_S, self._clock())
            await asyncio.sleep(due_s - self._clock())
            self._late_ms.append(1000.0 * (self._clock() - due_s))

    def report(self) -> WorkerReport:
        """What was counted since the last report."""
        live = sum(call is not None and not call.over for call in self._calls.values())
        made = WorkerReport(
            live=live,
            ended=self._ended,
            failed=self._failed,
            reasons=dict(self._reasons),
            clock_p99_ms=exact(self._late_ms).p99,
            frames=self._frames,
            unseen=sorted(self._unseen),
        )
        self._ended = self._failed = self._frames = 0
        self._reasons.clear()
        self._late_ms.clear()
        return made


class _lines:
    """Lines of standard input, to its end."""

    def __aiter__(self) -> _lines:
        return self

    async def __anext__(self) -> str:
        line: str = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise StopAsyncIteration
        return line


def _send(what: Any) -> None:
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    import uvloop

    kind, path = sys.argv[1:]
    mix = msgspec.json.decode(Path(path).read_bytes(), type=Mix)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group; the parent reports it
        if kind == "model":
            uvloop.run(model_main(mix, time.monotonic))
            return
        callers = Callers(mix, time.monotonic)
        gc.freeze()
        uvloop.run(callers.run())


if __name__ == "__main__":
    main()
