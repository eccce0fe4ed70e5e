"""Simulated calls for the tests: many at once, through one real gateway in this process, over real sockets.

A plan is an agent, the model's script and the caller's steps. Each plan's agent has a number of its own, and its
name in the instructions tells the rehearsal model which script a session plays.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from offhook.gateway.app import Gateway
from offhook.gateway.models.gemini.recovery import Patience
from offhook.gateway.rehearsal.model.record import ClientViolation, SessionRecord
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Step
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import SPEED, run_quickly
from offhook.gateway.store.record import CallRecord
from tests.rig.gateway import numbered_agents, serving
from tests.rig.model import id_after

__all__ = [
    "Outcome",
    "Plan",
    "left_behind",
    "place_calls",
]


@dataclass(frozen=True)
class Plan:
    """One call. `agent`: YAML fields beside name, numbers and instructions."""

    steps: Sequence[Step]
    script: Script
    agent: str = "greeting: {text: Greet the caller.}"
    carrier: Carrier = field(default_factory=Carrier)
    during: Callable[[Gateway, SimulatedCall], object] | None = None
    later: Script | tuple[Script, ...] | None = None  # what sessions after the first one play, the last for all others


@dataclass(frozen=True)
class Outcome:
    """What each side recorded of one plan's call: the gateway, the simulated carrier, the rehearsal model."""

    record: CallRecord
    truth: CallTruth
    sessions: list[SessionRecord]
    violations: list[ClientViolation]


def place_calls(
    plans: Mapping[str, Plan],
    *,
    environ: Mapping[str, str] | None = None,
    metrics: list[str] | None = None,
    speed: float = SPEED,
) -> dict[str, Outcome]:
    """Place all calls at once through one gateway, on the quick clock, and wait for their ends. `metrics` receives the
    exposition after the last. `speed` is less where threads take part, 1 where other processes do.
    """
    return run_quickly(lambda _: _place(plans, dict(environ or {}), metrics), speed)


async def _place(plans: Mapping[str, Plan], extra: dict[str, str], metrics: list[str] | None) -> dict[str, Outcome]:
    numbers, agents = numbered_agents({name: plan.agent for name, plan in plans.items()})
    seen: Counter[str] = Counter()

    def script_for(setup: dict) -> Script:
        name = id_after("plan", setup)
        later = plans[name].later
        scripts = (plans[name].script, *(later if isinstance(later, tuple) else (later,) if later else ()))
        seen[name] += 1
        return scripts[min(seen[name], len(scripts)) - 1]

    async with ModelServer(script_for) as model:
        environ = {"OFFHOOK_INSECURE": "1", **extra}
        patience = Patience(total_s=6.0, delays_s=(0.0, 0.5, 1.0))
        async with serving(agents, environ, model=model, patience=patience) as (gateway, url):
            calls = {
                name: SimulatedCall(url, plan.steps, dialled=numbers[name], carrier=plan.carrier)
                for name, plan in plans.items()
            }
            for name, plan in plans.items():
                if plan.during is not None:
                    plan.during(gateway, calls[name])
            truths = dict(zip(calls, await asyncio.gather(*(call.run() for call in calls.values())), strict=True))
            # The carrier may see the end first.
            async with asyncio.timeout(20):
                while gateway.calls or len(gateway.records) < len(plans):  # a record may be redacted first
                    await asyncio.sleep(0.01)
            if metrics is not None:
                metrics.append(gateway.metrics.render().decode())
        for _ in range(200):  # the SDK closes its HTTP clients in tasks of its own
            if not (left := left_behind()):
                break
            await asyncio.sleep(0.01)
        assert not left, f"left behind: {left}"
        assert not model.failures, model.failures
        outcomes = {}
        records = {record.call_sid: record for record in gateway.records.recent(len(plans))}
        for name, call in calls.items():
            mine = [s for s in model.sessions if id_after("plan", s.setup) == name]
            faults = [v for v in model.violations if model.sessions[v.session] in mine]
            outcomes[name] = Outcome(records[call.call_sid], truths[name], mine, faults)
    return outcomes


def left_behind() -> list[str]:
    """Tasks of a gateway that should have ended: of calls, links, tools. The test's and aiohttp's own are expected."""
    gc.collect()
    names = []
    for task in asyncio.all_tasks():
        name, code = task.get_name(), getattr(task.get_coro(), "__qualname__", "")
        if task is asyncio.current_task() or code.startswith(
            ("RequestHandler", "Connection.", "ScriptPlayer.", "_place", "ModelServer")
        ):
            continue
        if code.endswith(("Client.aclose", "Mixin.aclose")):
            continue  # an earlier rig's SDK client, collected just now: its destructor closes it in this loop
        if "aiohttp" in str(task.get_coro()) or "model_" in str(task.get_coro()):
            continue
        names.append(f"{name}: {code}")
    return names
