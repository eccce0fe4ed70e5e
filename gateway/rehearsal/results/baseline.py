"""A run of rehearsals against an earlier one: slower, interrupted later, heard less, tools called differently.

A latency is worse when it clears three hurdles: a share of the baseline (`WORSE_SHARE`), an absolute floor
(`FLOOR_MS`), and a permutation test whose permutations stay within a scenario, so that it is the same whatever
scenarios a segment comes from. Below `SAMPLES_MIN` samples on either side nothing is judged.
"""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.results.report import CallReport, Report, RunFacts, samples_of
from offhook.metrics.segments import BY_NAME

__all__ = ["Comparison", "Distribution", "compare", "facts_of", "read_baseline", "show_comparison"]

SAMPLES_MIN = {50: 12, 95: 60}  # by percentile: below, one call would decide it
FLOOR_MS = {50: 10.0, 95: 20.0}
WORSE_SHARE = 0.10
P_MAX = 0.001  # chance of such a difference between equal runs, for each judged figure
PERMUTATIONS = 4_000
TIE_SHARE = 1e-3
UNHEARD = "reply_unheard"
OURS = {UNHEARD: "what was sent of a reply and not heard, of replies that no one interrupted"}


class Distribution(msgspec.Struct, kw_only=True):
    """One segment of both runs, in ms. `p_value` by percentile where there were samples enough."""

    name: str
    before_ms: list[float]
    now_ms: list[float]
    p_values: dict[int, float] = {}
    worse: list[int] = []  # percentiles that are

    @property
    def judged(self) -> bool:
        return bool(self.p_values)


class Comparison(msgspec.Struct, kw_only=True):
    """`failures`: a sentence for each; `notes`: what could not be judged."""

    before: RunFacts
    distributions: list[Distribution]
    failures: list[str] = []
    notes: list[str] = []

    @property
    def ok(self) -> bool:
        return not self.failures


def facts_of(
    scenarios: Mapping[str, Path],
    *,
    seed: int | None,
    repeat: int,
    speed: float,
    provider: str = "",
    voice: str = "",
    real: bool = False,
) -> RunFacts:
    """What two runs must share to be compared. `scenarios`: their files by name."""
    return RunFacts(
        scenarios={name: sha256(path.read_bytes()).hexdigest()[:16] for name, path in sorted(scenarios.items())},
        machine=f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        seed=seed,
        repeat=repeat,
        speed=speed,
        provider=provider,
        voice=voice,
        real=real,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def read_baseline(path: Path) -> Report:
    """A report that `offhook simulate --json` wrote. Raises `OperatorError`."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise OperatorError(f"{path}: no report of `offhook simulate --json`: {error}") from None
    if report.run is None:
        raise OperatorError(f"{path}: has no facts of its run (scenarios, machine, seed): write it again with --json")
    return report


def _refuse_unlike(before: RunFacts, now: RunFacts, path: Path) -> None:
    def refuse(what: str) -> None:
        raise OperatorError(f"{path}: {what}: write a new baseline with `offhook simulate --json`")

    if missing := sorted(now.scenarios.keys() ^ before.scenarios.keys()):
        refuse(
            f"other scenarios ({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} only in one of the runs)"
        )
    if changed := [name for name, digest in now.scenarios.items() if before.scenarios[name] != digest]:
        refuse(f"scenarios that have changed since ({', '.join(changed[:5])})")
    for what, there, here in (
        ("machine", before.machine, now.machine),
        ("seed", before.seed, now.seed),
        ("speed", before.speed, now.speed),
        ("provider", before.provider, now.provider),
        ("real", before.real, now.real),
        ("voice", before.voice or "the scenarios' own", now.voice or "the scenarios' own"),
    ):
        if there != here:
            refuse(f"made with another {what} ({there} instead of {here})")


def compare(path: Path, baseline: Report, report: Report) -> Comparison:
    """`report` against `baseline`, which was read from `path`. Raises `OperatorError` for runs unlike each other."""
    assert baseline.run is not None
    assert report.run is not None
    _refuse_unlike(baseline.run, report.run, path)
    before, now = _by_segment(baseline.calls), _by_segment(report.calls)
    found = Comparison(before=baseline.run, distributions=[])
    for name in sorted({*before, *now}, key=lambda name: (name not in OURS, name not in BY_NAME, name)):
        distribution = _distribution(name, before.get(name, {}), now.get(name, {}))
        found.distributions.append(distribution)
        for q in distribution.worse:
            then_ms, now_ms = (float(np.percentile(ms, q)) for ms in (distribution.before_ms, distribution.now_ms))
            found.failures.append(
                f"{name}: P{q} {now_ms:.0f} ms, {now_ms - then_ms:.0f} ms above the baseline's {then_ms:.0f} "
                f"({len(distribution.now_ms)} samples against {len(distribution.before_ms)}, "
                f"permutation test p = {distribution.p_values[q]:.4f})"
            )
    few = [d.name for d in found.distributions if not d.judged]
    if few:
        least = SAMPLES_MIN[50]
        found.notes.append(f"too few samples to judge (below {least} on one side): {', '.join(few)}. Raise --repeat.")
    _compare_tools(baseline.calls, report.calls, found)
    return found


def _by_segment(calls: Iterable[CallReport]) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by segment and scenario."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for call in calls:
        for name, ms in samples_of(call):
            found[name][call.scenario].append(ms)
        interrupted = {turn.generation for turn in call.record.turns if turn.interrupted} if call.record else set()
        for reply in call.line.replies:
            if reply.generation not in interrupted:
                found[UNHEARD][call.scenario].append(reply.sent_ms - reply.heard_ms)
    return found


def _distribution(name: str, before: Mapping[str, list[float]], now: Mapping[str, list[float]]) -> Distribution:
    ours = [ms for scenario in sorted(now) for ms in now[scenario]]
    theirs = [ms for scenario in sorted(before) for ms in before[scenario]]
    made = Distribution(name=name, before_ms=theirs, now_ms=ours)
    shared = before.keys() & now.keys()
    groups = [(np.array(before[scenario]), np.array(now[scenario])) for scenario in sorted(shared)]
    sizes = [sum(len(pair[side]) for pair in groups) for side in (0, 1)]
    judged = [q for q, least in SAMPLES_MIN.items() if min(sizes) >= least]
    if judged:
        made.p_values = _p_values(groups, judged)
    for q in judged:
        then_ms = float(np.percentile(np.concatenate([pair[0] for pair in groups]), q))
        worse_ms = float(np.percentile(np.concatenate([pair[1] for pair in groups]), q)) - then_ms
        if worse_ms >= max(FLOOR_MS[q], WORSE_SHARE * then_ms) and made.p_values[q] <= P_MAX:
            made.worse.append(q)
    return made


def _p_values(groups: list[tuple[NDArray[np.float64], NDArray[np.float64]]], qs: list[int]) -> dict[int, float]:
    """One-sided: the share of permutations in which the second run is as much slower, by percentile."""
    if all(np.ptp(np.concatenate(pair)) == 0.0 for pair in groups):  # every permutation is what was measured
        return dict.fromkeys(qs, 1.0)
    random = np.random.default_rng(0)
    before, now = [], []
    for theirs, ours in groups:
        both = np.tile(np.concatenate([theirs, ours]), (PERMUTATIONS + 1, 1))
        both[1:] = random.permuted(both[1:], axis=1)  # the first row is what was measured
        before.append(both[:, : len(theirs)])
        now.append(both[:, len(theirs) :])
    ours, theirs = np.hstack(now), np.hstack(before)
    differences = _row_percentiles(ours, qs) - _row_percentiles(theirs, qs)
    # On the quick clock most samples are alike, and half of all permutations have the same median: means decide then.
    differences = differences + TIE_SHARE * (np.mean(ours, axis=1) - np.mean(theirs, axis=1))
    return {q: float(np.mean(row >= row[0] - 1e-9)) for q, row in zip(qs, differences, strict=True)}


def _row_percentiles(rows: NDArray[np.float64], qs: list[int]) -> NDArray[np.float64]:
    """As numpy's, which partitions across the rows: sorting each row takes a third of its time."""
    rows = np.sort(rows, axis=1)
    below, share = np.divmod(np.array(qs) / 100.0 * (rows.shape[1] - 1), 1.0)
    at = below.astype(np.intp)
    low, high = rows[:, at], rows[:, np.minimum(at + 1, rows.shape[1] - 1)]
    between: NDArray[np.float64] = (low + share * (high - low)).T
    return between


def _compare_tools(before: Iterable[CallReport], now: Iterable[CallReport], found: Comparison) -> None:
    """Where the baseline's calls of a scenario agree, this run's are held against them."""
    then: dict[str, set[str]] = defaultdict(set)
    for call in before:
        then[call.scenario].add(_tools_called(call))
    failed: set[str] = set()
    for call in now:
        known = then[call.scenario]
        if len(known) > 1:
            note = f"{call.scenario}: tools were called differently within the baseline, and are not judged"
            if note not in found.notes:
                found.notes.append(note)
        elif (called := _tools_called(call)) not in known and call.scenario not in failed:
            failed.add(call.scenario)
            found.failures.append(f"{call.scenario}: called {called or 'no tool'} instead of {min(known) or 'no tool'}")


def _tools_called(call: CallReport) -> str:
    tools = call.record.tool_calls if call.record else []
    return ", ".join(f"{t.name}({json.dumps(t.arguments, sort_keys=True)}) -> {t.outcome}" for t in tools)


def show_comparison(found: Comparison, console: Console) -> None:
    """Both runs side by side, then what is worse."""
    table = Table(title="Against the baseline, ms", title_justify="left", box=None, pad_edge=False)
    for column in ("segment", "n before", "n now", "P50 before", "P50 now", "P95 before", "P95 now", ""):
        table.add_column(column, justify="left" if column in ("segment", "") else "right")
    for d in found.distributions:
        figures = []
        for q in (50, 95):
            enough = min(len(d.before_ms), len(d.now_ms)) >= SAMPLES_MIN[q]
            figures += [f"{np.percentile(ms, q):.1f}" if enough else "–" for ms in (d.before_ms, d.now_ms)]
        verdict = Text("worse", "bold red") if d.worse else Text("" if d.judged else "too few samples", "dim")
        table.add_row(d.name, str(len(d.before_ms)), str(len(d.now_ms)), *figures, verdict)
    console.print(table)
    for failure in found.failures:
        console.print(Text("✗ ", "bold red") + Text(failure))
    for note in found.notes:
        console.print(Text(note, "dim"))
    if found.ok:
        console.print(Text("✓ ", "green") + Text("not worse than the baseline"))
