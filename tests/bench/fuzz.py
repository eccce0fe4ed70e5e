"""Fuzz everything that reads what comes from outside, one target after the other.

    python -m tests.bench.fuzz [--seconds 600] [--seed N] [TARGET ...]

Targets: the parsers of `fuzz_parsers` (carrier, model, form, agent, scenario), guided by coverage where atheris is
installed (`make fuzz` installs it on Linux) and by chance elsewhere; `media`, the media endpoint of a served gateway
(`fuzz_media`), and `link`, the model link against a model that misbehaves (`fuzz_link`). Each runs as a process of its
own; a finding ends its target, and the input is kept below out/fuzz/. Figures: out/fuzz.json.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["main"]

OUT = Path("out/fuzz")
RSS_MIB = 1_024  # of a target's process
ENDPOINTS = ("media", "link")


def guided(name: str, seconds: float, seed: int) -> None:
    """One parser under atheris, in this process, which it ends. libFuzzer prints the figures."""
    import atheris

    with atheris.instrument_imports(include=["offhook", "yaml"]):
        from tests.bench.fuzz_parsers import MAX_INPUT, TARGETS, mutate
    target = TARGETS[name]
    corpus = OUT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(data)

    def bend(data: bytes, limit: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, limit))
        return mutate(target, rng, data, limit)

    options = {
        "max_total_time": int(seconds), "max_len": MAX_INPUT, "rss_limit_mb": RSS_MIB, "timeout": 20, "seed": seed,
        "artifact_prefix": f"{OUT}/{name}-", "print_final_stats": 1,
    }  # fmt: skip
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)],
        target.timed,
        custom_mutator=bend,
    )
    atheris.Fuzz()


def by_chance(name: str, seconds: float, seed: int) -> None:
    """One parser under seeded mutation alone."""
    from tests.bench.fuzz_parsers import TARGETS, run

    until_s, inputs, batch = time.monotonic() + seconds, 0, 200
    while time.monotonic() < until_s:
        run(TARGETS[name], batch, seed + inputs)
        inputs += batch
    print(f"stat::number_of_executed_units: {inputs}")


def endpoint(name: str, seconds: float, seed: int) -> int:
    """A target with sockets. Prints its figures."""
    import logging

    logging.disable(logging.WARNING)
    if name == "media":
        from tests.bench import fuzz_media

        media = asyncio.run(fuzz_media.fuzz(seconds, seed))
        findings, inputs = [*media.escaped, *media.left_over], media.messages
    else:
        from tests.bench import fuzz_link

        until_s, inputs, findings = time.monotonic() + seconds, 0, list[str]()
        while time.monotonic() < until_s and not findings:
            link = asyncio.run(fuzz_link.fuzz(fuzz_link.AT_ONCE, seed + inputs))
            inputs += link.scripts
            findings += link.broken
    print(f"stat::number_of_executed_units: {inputs}")
    for line in dict.fromkeys(findings):
        print(f"FOUND: {line[:500]}")
    return bool(findings)


def one(name: str, seconds: float, seed: int) -> dict[str, object]:
    """Run a target in its process: its figures."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.fuzz",
        "--inside",
        name,
        "--seconds",
        f"{seconds:g}",
        "--seed",
        f"{seed}",
    ]
    began_s = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    log = OUT / f"{name}.log"
    with log.open("w") as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
    text = log.read_text(errors="replace")
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    edges = re.findall(r"cov: (\d+)", text)
    return {
        "target": name, "inputs": int(found[1]) if found else 0, "seconds": round(time.monotonic() - began_s),
        "edges": int(edges[-1]) if edges else None, "seed": seed, "finding": code != 0, "log": str(log),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 10**6))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside in ENDPOINTS:
        return endpoint(arguments.inside, arguments.seconds, arguments.seed)
    is_guided = importlib.util.find_spec("atheris") is not None
    if arguments.inside:
        (guided if is_guided else by_chance)(arguments.inside, arguments.seconds, arguments.seed)
        return 0

    from tests.bench.fuzz_parsers import TARGETS

    known = [*TARGETS, *ENDPOINTS]
    if unknown := [name for name in arguments.targets if name not in known]:
        parser.error(f"no target {unknown[0]}; there are {', '.join(known)}")
    print("guided by coverage (atheris)" if is_guided else "by chance: atheris is not installed", flush=True)
    figures = Path("out/fuzz.json")
    report: dict[str, object] = json.loads(figures.read_text()) if figures.is_file() else {}
    code = 0
    for name in arguments.targets or known:
        done = one(name, arguments.seconds, arguments.seed)
        report[name] = done
        figures.write_text(json.dumps(report, indent=1) + os.linesep)
        code |= bool(done["finding"])
        said = f"a finding: see {done['log']}" if done["finding"] else "nothing found"
        print(f"{name:9} {done['inputs']:>9,} inputs in {done['seconds']} s, {said}", flush=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
