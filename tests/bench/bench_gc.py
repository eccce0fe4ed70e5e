"""Pauses of the garbage collector in a gateway under calls, by generation, and what a call costs it.

    python -m tests.bench.bench_gc [calls] [--seconds S]

A pause is the collecting thread's own CPU time, so that other processes on the machine do not lengthen it. Callers
and model are those of `bench_calls`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.bench_calls import calls_main, gateway_environ
from tests.rig.process import spawn


def gateway_main(out: str) -> None:
    """`offhook serve`, with a line for each collection in `out`: generation, ms, objects freed, objects tracked."""
    from offhook.gateway.cli.main import main

    lines = Path(out).open("w", buffering=1)  # noqa: SIM115, for the life of the process
    began_s = 0.0

    def collected(phase: str, info: dict[str, int]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = time.thread_time()
            return
        took_ms = (time.thread_time() - began_s) * 1000
        tracked = len(gc.get_objects()) if info["generation"] == 2 else 0
        lines.write(f"{info['generation']} {took_ms:.3f} {info['collected']} {tracked}\n")

    gc.callbacks.append(collected)
    sys.argv[1:] = ["serve"]
    main()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/collections"
        with gateway_environ(folder) as environ:
            process, url = spawn(["-m", "tests.bench.bench_gc", "--gateway", out], environ)
            try:
                before = len(Path(out).read_text().splitlines())
                asyncio.run(calls_main(url, process.pid, arguments.calls, arguments.seconds))
                time.sleep(1.0)
            finally:
                process.kill()
                process.wait()
        lines = [line.split() for line in Path(out).read_text().splitlines()[before:]]
    print(f"{arguments.calls} calls, {arguments.seconds:g} s")
    for generation in "012":
        pauses_ms = sorted(float(ms) for g, ms, _, _ in lines if g == generation)
        if pauses_ms:
            freed = sum(int(freed) for g, _, freed, _ in lines if g == generation)
            median_ms = pauses_ms[len(pauses_ms) // 2]
            print(
                f"generation {generation}: {len(pauses_ms):5} collections, median {median_ms:7.3f} ms,"
                f" longest {pauses_ms[-1]:7.3f} ms, {freed} objects freed"
            )
    tracked = [int(tracked) for g, _, _, tracked in lines if g == "2"]
    if tracked:
        print(f"tracked after a full collection: {tracked[0]} to {max(tracked)} objects")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--gateway"]:
        gateway_main(sys.argv[2])
    else:
        main()
