"""One scenario with its gateway in the same process, on the quick clock: what `offhook simulate --speed` runs.

    python -m offhook.gateway.cli.quickly SCENARIO FOLDER SPEED [SEED]

Standard error is the gateway's log; what keeps it from starting is the last line, and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from offhook.gateway.agent.load import load_agent
from offhook.gateway.app import Gateway
from offhook.gateway.cli.main import log_to_stderr
from offhook.gateway.config import settings_from
from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.quick_clock import run_quickly
from offhook.gateway.rehearsal.run import ModelAt, gateway_environment, run_scenario
from offhook.gateway.rehearsal.scenario.load import load_scenario
from offhook.gateway.tools.function import THREADS

__all__ = ["gateway_here", "main"]


@asynccontextmanager
async def gateway_here(
    agent_file: Path,
    model: ModelAt | None,
    *,
    auth_token: str,
    log: Path,  # standard error has it
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """As `gateway_process`, in this process: the environment is the gateway's as long as the block."""
    before = dict(os.environ)
    env = gateway_environment(agent_file, model, auth_token) | dict(environment or {})
    os.environ.clear()
    os.environ.update(env)
    try:
        settings = settings_from(env)
        agents = [load_agent(path) for path in settings.agents]
        log_to_stderr(settings.log_level, agents)
        async with Gateway(settings, agents, env).listening() as url:
            yield url
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    scenario, folder, speed, *seed = sys.argv[1:]
    played = run_scenario(
        load_scenario(scenario), Path(folder), seed=int(seed[0]) if seed else None, gateway=gateway_here
    )
    try:
        run_quickly(played, float(speed), lambda: THREADS.busy)
    except OffhookError as error:
        print(f"offhook: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
