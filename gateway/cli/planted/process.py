"""Rehearsals of mutated gateways on the quick clock: the processes behind `offhook faults --planted`.

    python -m offhook.gateway.cli.planted.process SPEED

Receives a `PlantedOrder` per line of standard input and answers with a `PlantedAnswer` per line of standard output, in
order. The gateway of each order is a new one, in this process.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from offhook.gateway.agent.load import load_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.app import Gateway
from offhook.gateway.cli.planted.mutations import MUTATIONS
from offhook.gateway.cli.planted.seams import Mutation, planted
from offhook.gateway.cli.serve import log_to_stderr
from offhook.gateway.config import settings_from
from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.account import account_for, environment_of
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.run import PUBLIC_URL, agent_file_of, gateway_environment, rehearse
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario
from offhook.gateway.tools.function import THREADS

__all__ = ["PlantedAnswer", "PlantedOrder", "play"]


_TOOLS = ("offhook.gateway.rehearsal.examples.", "offhook.gateway.rehearsal.scenarios.")


class PlantedOrder(msgspec.Struct, kw_only=True):
    """Play a scenario with a mutation; "": none, and all of them listen."""

    scenario: str
    seed: int
    mutation: str = ""


class PlantedAnswer(msgspec.Struct, kw_only=True):
    """`failed`: words of failed verdicts by kind of expectation, `kinds` all kinds that were judged; `reached`: how
    often each mutation was, or would have been, at work. `error`: the rehearsal itself failed.
    """

    scenario: str
    seed: int
    mutation: str
    failed: dict[str, str] = {}
    kinds: list[str] = []
    reached: dict[str, int] = {}
    lasted_s: float = 0.0
    error: str = ""


def play(order: PlantedOrder, speed: float, mutations: Sequence[Mutation] = MUTATIONS) -> PlantedAnswer:
    """Play one call through a gateway in this process."""
    answer = PlantedAnswer(scenario=order.scenario, seed=order.seed, mutation=order.mutation)
    chosen = [one for one in mutations if one.name == order.mutation] if order.mutation else mutations
    with planted(chosen, listen=not order.mutation) as there, tempfile.TemporaryDirectory() as folder:

        async def rehearsed(clock: Clock) -> CallReport:
            return await _rehearsed(load_scenario(order.scenario), Path(folder), order.seed, there.agent, clock)

        try:
            report = run_quickly(rehearsed, speed, lambda: THREADS.busy)
        except Exception as error:  # of a gateway that was broken on purpose
            answer.error = str(error) if isinstance(error, OffhookError) else repr(error)
        else:
            answer.failed = {verdict.expectation: verdict.words for verdict in report.verdicts if verdict.failed}
            answer.kinds = sorted({verdict.expectation for verdict in report.verdicts})
            answer.lasted_s = report.line.duration_ms / 1000
        answer.reached = there.reached()
    for module in [name for name in sys.modules if name.startswith(_TOOLS)]:
        del sys.modules[module]  # their books and lists are in memory: the next call is to find them as this one did
    return answer


async def _rehearsed(
    scenario: Scenario, folder: Path, seed: int, changed: Callable[[Agent], Agent], clock: Clock
) -> CallReport:
    auth_token = secrets.token_hex(16)
    account = account_for(scenario, auth_token, PUBLIC_URL, clock)
    async with ModelServer(scenario.script(), clock=clock) as model, account as twilio:
        environ = gateway_environment(agent_file_of(scenario, folder), model, auth_token)
        environ |= environment_of(scenario, twilio)
        settings = settings_from(environ)
        agents = [changed(load_agent(path)) for path in settings.agents]
        log_to_stderr("critical", agents, environ)
        async with Gateway(settings, agents, environ, clock).listening() as url:
            [(_, report)] = await rehearse(
                scenario, url, model, auth_token=auth_token, seed=seed, twilio=twilio, clock=clock
            )
    return report


def main() -> None:
    speed = float(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a tool prints is no answer
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(play(msgspec.json.decode(line, type=PlantedOrder), speed)) + b"\n")


if __name__ == "__main__":
    main()
