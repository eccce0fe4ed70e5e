"""The runner of `offhook faults`: each case has its own gateway process, calls through it, and one fault.

After each case the same checks run: every frame of the callers that the gateway received was forwarded to the model or
counted as dropped; no sample of a dropped reply was sent after its `clear`; every call ended once, with a record; and
the process released its descriptors and tasks. The gateway is observed only through its sockets, metrics and log.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console

from offhook.gateway.errors import OffhookError, OperatorError
from offhook.gateway.rehearsal.account import CONSOLE_TOKEN
from offhook.gateway.rehearsal.load.scrape import Scrape, scrape
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import Mute, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Step
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.run import PUBLIC_URL, gateway_process
from offhook.gateway.rehearsal.scenario.standing import CALLER_DROPS
from offhook.gateway.store.record import CallRecord

__all__ = [
    "CAUSED",
    "Case",
    "CaseResult",
    "FaultReport",
    "Required",
    "Rig",
    "Seen",
    "always",
    "chosen",
    "faults",
    "until",
]

# Warnings of the carrier that the faults themselves cause: the webhook, the stream and its refusals.
CAUSED = frozenset({11200, 31920, 31921, 31924, 31930})
SETTLE_S = 15.0  # the time in which the end of a call is reported everywhere
IN_FLIGHT = 3  # frames that may be in transit when a call ends
COMPLAINTS = ("Traceback", "was never retrieved", "was destroyed but it is pending", "was never awaited")


@dataclass(frozen=True, slots=True)
class Seen:
    """The evidence after the calls of a case."""

    truths: Sequence[CallTruth]
    records: Sequence[CallRecord | None]
    sessions: Sequence[SessionRecord]
    before: Scrape
    after: Scrape
    log: str
    noted: Mapping[str, Any]  # the result of `during` or `whole`

    def increase(self, name: str) -> float:
        """The increase of a counter, all its series together."""
        return self.after.total(name) - self.before.total(name)

    def increase_of(self, series: str) -> float:
        return self.after.get(series) - self.before.get(series)

    @property
    def truth(self) -> CallTruth:
        return self.truths[0]

    @property
    def record(self) -> CallRecord:
        """The first call's."""
        record = self.records[0]
        return record if record is not None else CallRecord(call_sid="", end_reason="(no record)")


@dataclass(slots=True)
class Rig:
    """The gateway and model of one case."""

    url: str
    auth_token: str
    model: ModelServer
    http: aiohttp.ClientSession
    folder: Path
    clock: Clock
    truths: list[CallTruth] = field(default_factory=list)

    def call(self, steps: Sequence[Step], carrier: Carrier | None = None) -> SimulatedCall:
        return SimulatedCall(
            self.url,
            steps,
            public_url=PUBLIC_URL,
            auth_token=self.auth_token,
            carrier=carrier or Carrier(),
            clock=self.clock,
        )

    async def run(self, call: SimulatedCall) -> CallTruth:
        truth = await call.run()
        self.truths.append(truth)
        return truth

    async def counters(self) -> Scrape:
        return await scrape(self.http, self.url, self.clock, CONSOLE_TOKEN)


@dataclass(frozen=True, slots=True)
class Required:
    """What is required of any gateway: the call goes on, and the agent is heard at least `answers` times; or it ends
    the call within `ends_within_s`.
    """

    answers: int | None = None
    ends_within_s: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One fault and its required result.

    `check` returns what is wrong. `during` runs besides the calls, `whole` instead of them; their result is
    `Seen.noted`. `lost`: how many frames of the callers may be lost, uncounted, on a broken connection. `limits`:
    resource limits of the gateway process, by the names of `resource`. `quick`: the case takes seconds. `outside`: what
    another gateway is required to do; None: the fault cannot be caused, or its result not seen, from outside.
    """

    number: int
    name: str
    check: Callable[[Seen], Sequence[str]]
    steps: Sequence[Step] = ()
    script: Script = field(default_factory=Script)
    agent: str = "greeting: {text: Greet the caller.}"
    carrier: Carrier = field(default_factory=Carrier)
    calls: int = 1
    during: Callable[[Rig, SimulatedCall], Awaitable[Mapping[str, Any]]] | None = None
    whole: Callable[[Rig], Awaitable[Mapping[str, Any]]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    quick: bool = True
    outside: Required | None = None

    @property
    def of_model(self) -> bool:
        """Whether the model causes it."""
        script = self.script
        return bool(script.faults or script.refuse_resumes or script.setup_delay_ms) or any(
            isinstance(action, Mute) for reply in script.replies for action in reply.do
        )


class CaseResult(msgspec.Struct, kw_only=True):
    """The result of a case: `faults` is empty if it passed, `words` is a summary. `skipped`: why it was not run."""

    number: int
    name: str
    calls: int
    took_s: float
    faults: list[str]
    words: str
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return not self.faults


class FaultReport(msgspec.Struct, kw_only=True):
    """All cases of a run."""

    cases: list[CaseResult]

    @property
    def ok(self) -> bool:
        return all(case.ok for case in self.cases)


async def faults(cases: Sequence[Case], *, parallel: int, console: Console, clock: Clock) -> FaultReport:
    """Run the cases, `parallel` at once; each prints a line as it ends."""
    slots = asyncio.Semaphore(parallel)

    async def one(case: Case) -> CaseResult:
        async with slots:
            began_s = clock()
            with tempfile.TemporaryDirectory(prefix="offhook-faults-") as folder:
                try:
                    outcome = await _run(case, Path(folder), clock)
                except OffhookError as error:
                    faults = [str(error)]
                    outcome = CaseResult(
                        number=case.number, name=case.name, calls=0, took_s=0.0, faults=faults, words=""
                    )
            outcome.took_s = round(clock() - began_s, 1)
        console.print(
            f"{'[green]✓' if outcome.ok else '[red]✗'}[/] {case.number}  {case.name}  [dim]{outcome.words}[/]"
        )
        for fault in outcome.faults:
            console.print(f"      [red]{fault}[/]")
        return outcome

    return FaultReport(cases=list(await asyncio.gather(*map(one, cases))))


async def _run(case: Case, folder: Path, clock: Clock) -> CaseResult:
    outcome = CaseResult(number=case.number, name=case.name, calls=0, took_s=0.0, faults=[], words="")
    agent = folder / "agent.yaml"
    agent.write_text(f"name: under-fault\n{case.agent}\n", encoding="utf-8")
    auth_token = secrets.token_hex(16)
    log = folder / "gateway.log"
    serving = ModelServer(case.script, keep_audio=False, keep_arrivals=True, clock=clock)
    async with serving as model, aiohttp.ClientSession() as http:
        async with gateway_process(
            agent, model, auth_token=auth_token, log=log, environment=case.environment, limits=case.limits
        ) as url:
            rig = Rig(url, auth_token, model, http, folder, clock)
            await rig.counters()  # opens the connection of the next scrapes
            before = await rig.counters()
            noted = await _calls(case, rig)
            after = await _settled(rig, before)
            headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
            async with http.get(f"{url}/console/api/calls", headers=headers) as response:
                every = msgspec.json.decode(await response.read(), type=list[CallRecord])
        for failure in model.failures:
            raise failure
    log_text = await asyncio.to_thread(log.read_text, "utf-8", "replace")
    kept = {record.call_sid: record for record in every}
    records = [kept.get(truth.call_sid) for truth in rig.truths]
    seen = Seen(rig.truths, records, model.sessions, before, after, log_text, noted)
    outcome.calls = len(rig.truths)
    outcome.faults = [*case.check(seen), *always(seen, every, lost=case.lost)]
    outcome.words = _summary(seen)
    return outcome


async def _calls(case: Case, rig: Rig) -> Mapping[str, Any]:
    if case.whole is not None:
        return await case.whole(rig)
    calls = [rig.call(case.steps, case.carrier) for _ in range(case.calls)]
    beside = asyncio.create_task(_during(case, rig, calls[0])) if case.during else None

    async def place(n: int, call: SimulatedCall) -> None:
        await asyncio.sleep(0.05 * n)
        await rig.run(call)

    await asyncio.gather(*(place(n, call) for n, call in enumerate(calls)))
    return await beside if beside is not None else {}


async def _during(case: Case, rig: Rig, call: SimulatedCall) -> Mapping[str, Any]:
    assert case.during is not None
    return await case.during(rig, call)


async def _settled(rig: Rig, before: Scrape) -> Scrape:
    """The counters once no call is active and no more descriptors are open than before, or after `SETTLE_S`."""
    deadline_s = rig.clock() + SETTLE_S
    while True:
        after = await rig.counters()
        quiet = not after.get("offhook_calls_active")
        if quiet and after.get("process_open_fds") <= before.get("process_open_fds"):
            return (
                await rig.counters()
            )  # a page is rendered in slices: a call may have ended between two slices of the last one
        if rig.clock() > deadline_s:
            return after
        await asyncio.sleep(0.1)


def always(seen: Seen, every: Sequence[CallRecord], *, lost: int = 0) -> list[str]:
    """The checks after every case; returns the failed ones."""
    found = []
    got, down, dropped = _frames(seen)
    missing = got - down - dropped
    if missing > IN_FLIGHT * max(1, len(seen.truths)) + lost or missing < -IN_FLIGHT * max(1, len(seen.truths)):
        found.append(f"{got:.0f} frames received, {down:.0f} reached the model, {dropped:.0f} were counted as dropped")
    if n := seen.increase("offhook_samples_after_clear_total"):
        found.append(f"{n:.0f} samples of a dropped reply were sent after its clear")
    with_stream = [truth for truth in seen.truths if any(stream.started_s is not None for stream in truth.streams)]
    ended = seen.increase("offhook_calls_total")
    sids = [record.call_sid for record in every]
    if ended != len(sids) or len(set(sids)) != len(sids):
        found.append(f"{ended:.0f} ends were counted for {len(set(sids))} calls with {len(sids)} records")
    if absent := [truth.call_sid for truth in with_stream if truth.call_sid not in sids]:
        found.append(f"{len(absent)} calls left no record")
    if n := seen.after.get("offhook_calls_active"):
        found.append(f"{n:.0f} calls are still active")
    if n := seen.increase("offhook_stuck_calls_total"):
        found.append(f"{n:.0f} calls did not end by themselves")
    if (n := seen.after.get("process_open_fds") - seen.before.get("process_open_fds")) > 0:
        found.append(f"{n:.0f} more descriptors are open than before")
    if complaints := [text for text in COMPLAINTS if text in seen.log]:
        found.append(f"the log has {', '.join(complaints)}")
    for truth in seen.truths:
        found += [f"{fault.code}: {fault.what}" for fault in truth.violations if fault.code not in CAUSED]
    return found


def _frames(seen: Seen) -> tuple[float, float, float]:
    """Frames of the callers: received by the gateway, received by the model, counted as dropped."""
    got = seen.increase_of('offhook_frames_total{direction="inbound"}')
    arrived = sum(session.audio_bytes for session in seen.sessions) / 640
    dropped = sum(seen.increase_of(f'offhook_frames_dropped_total{{reason="{reason}"}}') for reason in CALLER_DROPS)
    return got, arrived, dropped


def _summary(seen: Seen) -> str:
    got, arrived, dropped = _frames(seen)
    ends: dict[str, int] = {}
    for record in seen.records:
        if record is not None:
            ends[record.end_reason] = ends.get(record.end_reason, 0) + 1
    endings = ", ".join(f"{n} {reason}" for reason, n in ends.items()) or "no call"
    sessions = f"{len(seen.sessions)} model sessions"
    return f"{endings}; {sessions}; frames {got:.0f} received, {arrived:.0f} at the model, {dropped:.0f} dropped"


async def until(ready: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Wait for a condition; returns whether it was met in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not ready():  # noqa: ASYNC110 - another task's truth
                await asyncio.sleep(0.01)
    return ready()


def chosen(cases: Sequence[Case], numbers: Sequence[int], quick: bool) -> list[Case]:
    """The cases to run: these numbers, or all, or the quick ones. Raises `OperatorError`."""
    known = {case.number for case in cases}
    if unknown := set(numbers) - known:
        raise OperatorError(f"no case {min(unknown)}; there are {', '.join(map(str, sorted(known)))}")
    return [case for case in cases if (not numbers or case.number in numbers) and (case.quick or not quick)]
