"""One scenario with its gateway in the same process, on the quick clock: the process behind `offhook simulate --speed`.

    python -m offhook.gateway.cli.quickly SCENARIO FOLDER SPEED VOICE [SEED]

VOICE: "" for the scenario's own.

Standard error is the gateway's log. An error at the start is its last line, and exit code 2.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # imports leave no garbage: looking for it takes a fifth of their time

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from offhook.gateway.agent.load import load_agent
from offhook.gateway.app import Gateway
from offhook.gateway.cli.main import log_to_stderr
from offhook.gateway.config import settings_from
from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.model.reached import ModelAt
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.rehearsal.results.report import Report
from offhook.gateway.rehearsal.run import gateway_environment, run_scenario
from offhook.gateway.rehearsal.scenario.load import load_scenario
from offhook.gateway.rehearsal.scenario.voices import voices_named
from offhook.gateway.tools.function import THREADS

__all__ = ["gateway_here", "main"]


@asynccontextmanager
async def gateway_here(
    agent_file: Path,
    model: ModelAt | None,
    *,
    clock: Clock,
    auth_token: str,
    log: Path,  # standard error instead
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """As `gateway_process`, in this process and on this clock; the gateway reads the environment it is handed."""
    environ = gateway_environment(agent_file, model, auth_token) | dict(environment or {})
    settings = settings_from(environ)
    agents = [load_agent(path) for path in settings.agents]
    log_to_stderr(settings.log_level, agents, environ)
    async with Gateway(settings, agents, environ, clock).listening() as url:
        yield url


def main() -> None:
    scenario, folder, speed, voice, *seed = sys.argv[1:]
    gc.freeze()
    gc.enable()

    async def rehearsed(clock: Clock) -> Report:
        return await run_scenario(
            load_scenario(scenario, voices_named(voice)),
            Path(folder),
            seed=int(seed[0]) if seed else None,
            environment={name: value for name, value in os.environ.items() if name == "OFFHOOK_PROVIDER"},
            gateway=partial(gateway_here, clock=clock),
            clock=clock,
        )

    try:
        run_quickly(rehearsed, float(speed), lambda: THREADS.busy)
    except OffhookError as error:
        print(f"offhook: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
