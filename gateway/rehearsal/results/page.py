"""The report of a run as a page: verdicts, recordings, pictures, latency. The page loads no remote resources.

Recordings and pictures are files in the folder of their call. The template is `page.html.j2`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.results.baseline import Comparison, Distribution
from offhook.gateway.rehearsal.results.report import LINE_SEGMENTS, CallReport, Report
from offhook.metrics.segments import BY_NAME

__all__ = ["page", "write_page"]

CURVE_W, CURVE_H = 260, 60  # pixels


@dataclass(frozen=True, slots=True)
class _Turn:
    at_ms: float
    side: str
    text: str
    gap_ms: float | None
    heard_ms: float | None = None
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    """One call; `recording` and `picture` are links, "" for none."""

    name: str
    report: CallReport
    recording: str
    picture: str
    turns: list[_Turn]


def write_page(
    runs: Sequence[tuple[str, Report]], whole: Report, path: Path, compared: Comparison | None = None
) -> None:
    """Write the page of these named runs next to their files; `whole` has the figures of all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(runs, whole, path.parent, compared))


def page(runs: Sequence[tuple[str, Report]], whole: Report, folder: Path, compared: Comparison | None = None) -> str:
    """The page's text; links are relative to `folder`."""
    tolerated = sum(count.tolerated for count in whole.scenarios)
    failed = whole.totals.failed - tolerated
    runs = sorted(runs, key=lambda run: (run[1].ok, run[0]))
    return _template().render(
        headline=f"{whole.totals.calls} calls, "
        + (f"{failed} failed" if failed else "enough passed" if tolerated else "all expectations met"),
        failed=failed,
        runs=runs,
        whole=whole,
        compared=compared,
        curves=[_curves(d) for d in compared.distributions] if compared else [],
        segments=[(name, *_segment(name), found) for name, found in whole.totals.segments.items()],
        calls=[
            _call(name, call, report.paths, f"-{number}" if len(report.calls) > 1 else "", folder)
            for name, report in runs
            for number, call in enumerate(report.calls, 1)
        ],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("offhook.gateway.rehearsal.results", ""),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"ms": _ms, "seconds": _seconds, "words": lambda text: text.replace("_", " ")}
    return environment.get_template("page.html.j2")


def _segment(name: str) -> tuple[bool, str]:
    """Whether a segment is a headline figure, and its two ends."""
    segment = BY_NAME.get(name)
    if segment is None:
        return False, LINE_SEGMENTS.get(name, "").replace("->", "→")
    return segment.headline, f"{segment.start} → {segment.end}"


def _call(name: str, call: CallReport, paths: dict[str, str], suffix: str, folder: Path) -> _Call:
    def link(kind: str) -> str:
        path = paths.get(f"{kind}{suffix}")
        return os.path.relpath(path, folder) if path else ""

    return _Call(name + suffix, call, link("recording"), link("picture"), _turns(call))


def _turns(call: CallReport) -> list[_Turn]:
    """Both sides' turns, in order of time."""
    turns = [
        _Turn(turn.onset_ms, "caller", turn.text or f"({turn.kind})", turn.answered_ms) for turn in call.line.caller
    ]
    heard = {reply.generation: reply for reply in call.line.replies}
    for turn in call.record.turns if call.record else ():
        reply = heard.get(turn.generation)
        turns.append(
            _Turn(
                turn.reply_started_ms or 0.0,
                "agent",
                (turn.heard_text if turn.interrupted else turn.reply_text) or f"({turn.kind})",
                turn.segments.get("turn_gap"),
                reply.heard_ms if reply else turn.heard_ms,
                turn.interrupted,
            )
        )
    return sorted(turns, key=lambda turn: turn.at_ms)


@dataclass(frozen=True, slots=True)
class _Curves:
    """A segment of two runs: the share of samples up to each time, as points of a picture of 260 by 60."""

    distribution: Distribution
    before: str
    now: str
    to_ms: float


def _curves(distribution: Distribution) -> _Curves:
    both = [*distribution.before_ms, *distribution.now_ms]
    to_ms = max(both) or 1.0

    def points(samples_ms: Sequence[float]) -> str:
        places = [f"0,{CURVE_H}"]
        for n, ms in enumerate(sorted(samples_ms)):
            x = CURVE_W * max(ms, 0.0) / to_ms
            places += [f"{x:.1f},{CURVE_H * (1 - (n + up) / len(samples_ms)):.1f}" for up in (0, 1)]
        return " ".join([*places, f"{CURVE_W},0"]) if samples_ms else ""

    return _Curves(distribution, points(distribution.before_ms), points(distribution.now_ms), to_ms)


def _ms(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _seconds(ms: float, places: int) -> str:
    return f"{ms / 1000:.{places}f}"
