"""What measuring costs of a call: the share of the gateway's CPU that is spent in metrics while calls talk.

Two ways, in turn under the same calls: the gateway as it is, with a clock of CPU time around everything that
feeds a metric; and the gateway's CPU with metrics and with their functions replaced by
nothing, in pairs.

    python -m tests.bench.bench_metrics_share [--calls N] [--pairs N] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.bench_calls import calls_main
from tests.rig.process import spawn


def feeders() -> list[tuple[type, Callable[..., Any]]]:
    """Everything on the call path that feeds a metric, with its class."""
    from prometheus_client import Counter, Gauge

    from offhook.gateway.call.teardown import Teardown
    from offhook.metrics.catalogue import Metrics, Tally, WorstPerSecond

    return [
        (Metrics, Metrics.observe),
        (Metrics, Metrics.incomplete),
        (Tally, Tally.inc),
        (WorstPerSecond, WorstPerSecond.add),
        (WorstPerSecond, WorstPerSecond.flush),
        (Counter, Counter.inc),
        (Gauge, Gauge.set),
        (Teardown, Teardown.publish_counters),
    ]


def gateway_main(kind: str) -> None:
    """`offhook serve`, with the feeders timed ("timed") or made to do nothing ("mute"). SIGUSR1 writes the times."""
    from offhook.gateway.cli.main import app

    spent_ns, depth = 0, 0
    counted: dict[str, int] = {}
    outermost = [0]

    def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*arguments: Any, **named: Any) -> Any:
            nonlocal spent_ns, depth
            counted[name] = counted.get(name, 0) + 1
            if depth:  # inside another one, which is timed
                return inner(*arguments, **named)
            depth = 1
            began_ns = time.thread_time_ns()  # of this thread alone: the machine may be busy with others
            try:
                return inner(*arguments, **named)
            finally:
                spent_ns += time.thread_time_ns() - began_ns
                depth = 0
                outermost[0] += 1

        return outer

    def mute(*arguments: Any, **named: Any) -> None:
        return None

    nothing = timed("nothing", lambda: None)
    for _ in range(20_000):
        nothing()
    clock_ns = spent_ns / outermost[0]  # of which the clock itself
    spent_ns, outermost[0] = 0, 0
    counted.clear()

    for owner, feeder in feeders() if kind != "plain" else []:
        setattr(owner, feeder.__name__, mute if kind == "mute" else timed(feeder.__qualname__, feeder))

    def tell(*_: object) -> None:
        told = {
            "spent_s": (spent_ns - clock_ns * outermost[0]) / 1e9,
            "cpu_s": time.process_time(),
            "counted": dict(counted),
        }
        path = Path(os.environ["FIGURES"])
        path.with_suffix(".part").write_text(json.dumps(told))
        path.with_suffix(".part").rename(path)

    signal.signal(signal.SIGUSR1, tell)
    app(["serve"])


def ask(process: subprocess.Popen[str], path: Path) -> dict[str, Any]:
    path.unlink(missing_ok=True)
    process.send_signal(signal.SIGUSR1)
    until_s = time.monotonic() + 10
    while not path.exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ca, figures = f"{folder}/ca.pem", Path(folder) / "figures.json"
        model, model_url = spawn(["-m", "tests.bench.bench_calls", "--model", ca], dict(os.environ))
        agent = Path(folder) / "agent.yaml"
        agent.write_text("name: bench\ngreeting: {text: Greet the caller.}\n")
        environ = {
            **os.environ,
            "GOOGLE_GEMINI_BASE_URL": model_url,
            "SSL_CERT_FILE": ca,
            "GEMINI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": str(agent),
            "OFFHOOK_MAX_CALLS": "1000",
            "OFFHOOK_LOG_LEVEL": "warning",
            "OPENBLAS_NUM_THREADS": "1",
            "FIGURES": str(figures),
        }

        def run(kind: str) -> tuple[float, dict[str, Any]]:
            process, url = spawn(["-m", "tests.bench.bench_metrics_share", "--gateway", kind], environ)
            try:
                before = ask(process, figures)
                each_ms, _ = asyncio.run(calls_main(url, process.pid, arguments.calls, arguments.seconds))
                after = ask(process, figures)
            finally:
                process.kill()
                process.wait()
            spent_s, used_s = after["spent_s"] - before["spent_s"], after["cpu_s"] - before["cpu_s"]
            return each_ms, {**after, "share": spent_s / used_s}

        each_ms, told = run("timed")
        print(f"a clock around each: {100 * told['share']:.2f} % of the gateway's CPU, {each_ms:.2f} ms a call-second")
        for name, count in sorted(told["counted"].items(), key=lambda item: -item[1]):
            print(f"  {name:22} {count / arguments.calls / (arguments.seconds + 3):8.2f} a call-second")
        gains = []
        for index in range(arguments.pairs):
            kinds = ("plain", "mute") if index % 2 else ("mute", "plain")
            found = {kind: run(kind)[0] for kind in kinds}
            gains.append(1 - found["mute"] / found["plain"])
            print(
                f"with {found['plain']:6.2f}, without {found['mute']:6.2f} ms a call-second: {100 * gains[-1]:+.1f} %"
            )
        if gains:
            print(f"median of the pairs: {100 * statistics.median(gains):+.1f} %")
        model.kill()
        model.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--gateway"]:
        gateway_main(sys.argv[2])
    else:
        main()
