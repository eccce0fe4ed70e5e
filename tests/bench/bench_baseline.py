"""Does `--baseline` find a gateway that is 30 ms slower, and only that one?

    python -m tests.bench.bench_baseline [--trials 20] [--calls 14] [--speed 20] [--json FILE]

After the baseline each trial makes the same run again, and one through a gateway whose audio is 30 ms late: each time a
gateway in a process of its own and `--calls` calls at once, on the wall's clock. With `--speed`, the gateways share a
process with carrier and model, on the quick clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from offhook.gateway.cli.planted.mutations import SLOWER
from offhook.gateway.cli.planted.seams import planted
from offhook.gateway.cli.quickly import gateway_here
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.rehearsal.results.baseline import compare, facts_of, read_baseline
from offhook.gateway.rehearsal.results.report import Report, report_of, samples_of, write_report
from offhook.gateway.rehearsal.run import agent_file_of, gateway_process, rehearse
from offhook.gateway.rehearsal.scenario.load import load_scenario, scenario_file
from offhook.gateway.tools.function import THREADS

SLOWER_PATH = Path(__file__).parent / "slower"
SCENARIO = "caller-speaks-first"  # three seconds, one answer
SEED = 1


async def run(folder: Path, calls: int, speed: float, clock: Clock, *, slower: bool) -> Report:
    """One run of `calls` calls through a gateway of its own."""
    scenario = load_scenario(SCENARIO)
    auth_token = secrets.token_hex(16)
    async with ModelServer(scenario.script(), clock=clock) as model:
        log = folder / "gateway.log"
        agent = agent_file_of(scenario, folder)
        if speed > 1:
            gateway = gateway_here(agent, model, clock=clock, auth_token=auth_token, log=log)
        else:
            environment = {"PYTHONPATH": str(SLOWER_PATH)} if slower else {}
            gateway = gateway_process(agent, model, environment=environment, auth_token=auth_token, log=log)
        async with gateway as url:
            rehearsed = await rehearse(scenario, url, model, auth_token=auth_token, calls=calls, seed=SEED, clock=clock)
    report = report_of([call for _, call in rehearsed])
    report.run = facts_of({SCENARIO: scenario_file(SCENARIO)}, seed=SEED, repeat=calls, speed=speed)
    return report


def measured(folder: Path, calls: int, speed: float, *, slower: bool = False) -> Report:
    if speed <= 1:
        return asyncio.run(run(folder, calls, speed, time.monotonic, slower=slower))
    with planted([SLOWER], listen=not slower):
        return run_quickly(lambda clock: run(folder, calls, speed, clock, slower=slower), speed, lambda: THREADS.busy)


def p50_ms(report: Report, segment: str) -> float:
    found = [ms for call in report.calls for name, ms in samples_of(call) if name == segment]
    return round(float(np.median(found)), 1) if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--calls", type=int, default=14)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    trials = []
    with tempfile.TemporaryDirectory(prefix="offhook-baseline-") as temporary:
        folder, path = Path(temporary), Path(temporary) / "main.json"
        write_report(measured(folder, chosen.calls, chosen.speed), path)
        baseline = read_baseline(path)
        for number in range(1, chosen.trials + 1):
            began_s = time.monotonic()
            again = measured(folder, chosen.calls, chosen.speed)
            slow = measured(folder, chosen.calls, chosen.speed, slower=True)
            same, worse = compare(path, baseline, again), compare(path, baseline, slow)
            trials.append(
                {
                    "same_passes": same.ok,
                    "slower_fails": not worse.ok,
                    "model_to_line_p50_ms": [p50_ms(one, "model_to_line") for one in (baseline, again, slow)],
                    "failures": worse.failures,
                    "false": same.failures,
                    "failed_calls": [one.totals.failed for one in (baseline, again, slow)],
                    "took_s": round(time.monotonic() - began_s, 1),
                }
            )
            print(number, json.dumps(trials[-1]), flush=True)
    passes, fails = (sum(bool(trial[name]) for trial in trials) for name in ("same_passes", "slower_fails"))
    print(f"the same again passes {passes} of {len(trials)}, 30 ms slower fails {fails} of {len(trials)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(trials, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if passes == fails == len(trials) else 1)


if __name__ == "__main__":
    main()
