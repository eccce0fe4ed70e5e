"""`offhook faults --url`: the faults that a carrier or a model can cause, for any gateway.

Its counters, its record and its process are not accessible: what is required is what the line and the rehearsal model
show. A case without a requirement of that kind is listed as not possible from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from offhook.gateway.rehearsal.faults.run import CAUSED, Case, CaseResult, FaultReport, Required, until
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.outside import OtherGateway, OtherModel, call_to
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import Clock

__all__ = ["faults_outside", "judged"]

CLOSED_WITHIN_S = 15.0


async def faults_outside(
    cases: Sequence[Case], gateway: OtherGateway, model: OtherModel | None, *, console: Console, clock: Clock
) -> FaultReport:
    """Run the cases one after the other, each prints a line. `model`: where the gateway has its model."""
    results = []
    for case in cases:
        result = CaseResult(number=case.number, name=case.name, calls=0, took_s=0.0, faults=[], words="")
        if case.outside is None:
            result.skipped = "not possible from outside"
        elif case.of_model and model is None:
            result.skipped = "the model causes it: name where the gateway has its model, with --model-at"
        else:
            await _run(case, case.outside, gateway, model, clock, result)
        mark = "[dim]–[/]" if result.skipped else "[green]✓[/]" if result.ok else "[red]✗[/]"
        console.print(f"{mark} {case.number}  {case.name}  [dim]{result.skipped or result.words}[/]")
        for fault in result.faults:
            console.print(f"      [red]{fault}[/]")
        results.append(result)
    return FaultReport(cases=results)


async def _run(
    case: Case, wanted: Required, gateway: OtherGateway, model: OtherModel | None, clock: Clock, result: CaseResult
) -> None:
    began_s = clock()
    if model is not None:
        model.script = case.script
    server = model.server if model is not None else None
    first, first_fault = (len(server.sessions), len(server.violations)) if server else (0, 0)
    carrier = replace(case.carrier, status_callbacks=False)
    truth = await call_to(gateway, case.steps, carrier=carrier, clock=clock).run()
    sessions = server.sessions[first:] if server else []
    await until(lambda: all(session.closed_at_s is not None for session in sessions), CLOSED_WITHIN_S)
    broken = [fault.what for fault in server.violations[first_fault:]] if server else []
    result.calls = 1
    result.faults = [*judged(wanted, truth, sessions), *(f"model: {what}" for what in broken)]
    result.took_s = round(clock() - began_s, 1)
    lasted_s = truth.ended_s - truth.rang_s
    heard = f"the agent was heard {len(truth.agent)} times"
    result.words = f"ended by {truth.ended_by} after {lasted_s:.0f} s; {heard}; {len(sessions)} model sessions"


def judged(wanted: Required, truth: CallTruth, sessions: Sequence[SessionRecord]) -> list[str]:
    """What is wrong with a call, by what the line and the model show."""
    found = [f"{fault.code}: {fault.what}" for fault in truth.violations if fault.code not in CAUSED]
    if not any(stream.started_s is not None for stream in truth.streams):
        return [*found, f"the call was not connected: ended by {truth.ended_by}"]
    if wanted.answers is not None:
        found += [f"{step.step}: {step.failed}" for step in truth.steps if step.failed]
        if truth.ended_by != "caller":
            found.append(f"the call did not continue: ended by {truth.ended_by}")
        if len(truth.agent) < wanted.answers:
            found.append(f"the agent was heard {len(truth.agent)} times, not {wanted.answers}")
    lasted_s = truth.ended_s - truth.rang_s
    if wanted.ends_within_s is not None and (truth.ended_by == "caller" or lasted_s > wanted.ends_within_s):
        found.append(f"the gateway did not end the call within {wanted.ends_within_s:g} s")
    if open_ := sum(session.closed_at_s is None for session in sessions):
        found.append(f"{open_} sessions of the model are open although the call is over")
    return found
