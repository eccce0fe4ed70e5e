"""Simulated calls for the tests: many at once, through one real gateway in this process, over real sockets.

A plan is an agent, the model's script and the caller's steps; each gets a number of its own, and the rehearsal
model knows by the instructions which script a session plays.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.config import settings_from
from offhook.gateway.models.gemini.recovery import Patience
from offhook.gateway.rehearsal.model.record import SessionRecord, Violation
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import Carrier, SimulatedCall
from offhook.gateway.rehearsal.phone.steps import Step
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import SPEED, run_quickly
from offhook.gateway.store.record import CallRecord

SOUNDS = Path(__file__).parents[2] / "gateway" / "rehearsal" / "sounds"

__all__ = [
    "SOUNDS",
    "Outcome",
    "Plan",
    "left_behind",
    "place_calls",
    "sound",
]


def sound(part: str) -> Path:
    """The bundled line whose file name holds `part`."""
    (path,) = [p for p in SOUNDS.glob("*.wav") if part in p.name]
    return path


@dataclass(frozen=True)
class Plan:
    """One call. `agent`: YAML fields beside name, numbers and instructions."""

    steps: Sequence[Step]
    script: Script
    agent: str = "greeting: {text: Greet the caller.}"
    carrier: Carrier = field(default_factory=Carrier)
    during: Callable[[Gateway, SimulatedCall], object] | None = None
    later: Script | None = None  # what sessions after the first one play


@dataclass(frozen=True)
class Outcome:
    """What came of one plan."""

    record: CallRecord
    truth: CallTruth
    sessions: list[SessionRecord]
    violations: list[Violation]


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
    return run_quickly(_place(plans, dict(environ or {}), metrics), speed)


async def _place(plans: Mapping[str, Plan], extra: dict[str, str], metrics: list[str] | None) -> dict[str, Outcome]:
    numbers = {name: f"+1555020{i:04d}" for i, name in enumerate(plans)}
    agents = [
        parse_agent(
            f"name: {name}\nnumbers: ['{numbers[name]}']\ninstructions: 'plan {name}.'\n{plan.agent}\n",
            directory=str(SOUNDS),
        )
        for name, plan in plans.items()
    ]

    def plan_of(setup: dict) -> str:
        text = setup["systemInstruction"]["parts"][0]["text"]
        return text.partition("plan ")[2].partition(".")[0]

    seen: set[str] = set()

    def script_for(setup: dict) -> Script:
        name = plan_of(setup)
        later = plans[name].later if name in seen else None
        seen.add(name)
        return later or plans[name].script

    async with ModelServer(script_for) as model:
        environ = {
            "GOOGLE_GEMINI_BASE_URL": model.url,
            "SSL_CERT_FILE": model.ca_path,
            "GEMINI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_SIMULATED": "1",
            **extra,
        }
        with mock.patch.dict(os.environ, environ):
            gateway = Gateway(settings_from(environ), agents, environ)
            gateway.models.patience = Patience(total_s=6.0, delays_s=(0.0, 0.5, 1.0))
            async with gateway.listening() as url:
                calls = {
                    name: SimulatedCall(url, plan.steps, dialled=numbers[name], carrier=plan.carrier)
                    for name, plan in plans.items()
                }
                for name, plan in plans.items():
                    if plan.during is not None:
                        plan.during(gateway, calls[name])
                truths = dict(zip(calls, await asyncio.gather(*(call.run() for call in calls.values())), strict=True))
                # The carrier may know of the end first.
                async with asyncio.timeout(20):
                    while gateway.calls:
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
        for name, call in calls.items():
            mine = [s for s in model.sessions if plan_of(s.setup) == name]
            faults = [v for v in model.violations if model.sessions[v.session] in mine]
            outcomes[name] = Outcome(gateway.records[call.call_sid], truths[name], mine, faults)
    return outcomes


def left_behind() -> list[str]:
    """Tasks of a gateway that should have gone: of calls, links, tools. The test's and aiohttp's own are fine."""
    gc.collect()
    names = []
    for task in asyncio.all_tasks():
        name, code = task.get_name(), getattr(task.get_coro(), "__qualname__", "")
        if task is asyncio.current_task() or code.startswith(
            ("RequestHandler", "Link.", "Turns.", "_place", "ModelServer")
        ):
            continue
        if code.endswith(("Client.aclose", "Mixin.aclose")):
            continue  # an earlier rig's SDK client, collected just now: its destructor closes it in this loop
        if "aiohttp" in str(task.get_coro()) or "model_" in str(task.get_coro()):
            continue
        names.append(f"{name}: {code}")
    return names
