"""The picture of a load: calls over time, CPU and memory of the gateway, lateness of the frames."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.load.search import LATE_S, LoadReport

__all__ = ["draw_load"]

_INK, _FAINT, _GRID, _CALLS, _CPU, _MEMORY = "#212529", "#868e96", "#e9ecef", "#0c8599", "#6741d9", "#f08c00"
_GOOD, _BAD = "#2f9e44", "#e03131"


def draw_load(report: LoadReport, path: Path) -> None:
    """Draw it into a PNG, 1400 pixels wide."""
    figure = Figure(figsize=(14.0, 9.0), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    calls, cpu, late = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2, 2), "hspace": 0.12})
    at_s = [moment.at_s for moment in report.moments]

    calls.step(at_s, [moment.wanted for moment in report.moments], where="post", color=_FAINT, lw=1.0, label="wanted")
    calls.plot(at_s, [moment.calls for moment in report.moments], color=_CALLS, lw=1.8, label="in the gateway")
    calls.set_ylabel("calls")
    calls.legend(loc="upper left", frameon=False)
    for step in report.steps:
        colour = _GOOD if step.ok else _BAD
        for axes in (calls, cpu, late):
            axes.axvspan(step.began_s, step.ended_s, color=colour, alpha=0.08, lw=0)
        middle_s = (step.began_s + step.ended_s) / 2
        mark = f"{step.calls}\n{'good' if step.ok else 'failed'}"
        calls.annotate(mark, (middle_s, step.calls), (0, 6), textcoords="offset points", ha="center", color=colour)
        figures = [(step.frames.p50_ms, "o", "P50"), (step.frames.p99_ms, "D", "P99")]
        for ms, marker, name in figures:
            if ms is not None:
                late.plot(middle_s, ms, marker, color=colour, ms=6)
                late.annotate(f"{name} {ms:.1f}", (middle_s, ms), (8, -3), textcoords="offset points", color=_INK)

    cpu.plot(at_s, [100 * moment.cpu_share for moment in report.moments], color=_CPU, lw=1.5)
    cpu.set_ylabel("CPU, % of a core", color=_CPU)
    cpu.set_ylim(bottom=0)
    memory = cpu.twinx()
    memory.plot(at_s, [moment.memory_mib for moment in report.moments], color=_MEMORY, lw=1.5)
    memory.set_ylabel("memory, MiB", color=_MEMORY)
    memory.set_ylim(bottom=0)
    late.axhline(1000 * LATE_S, color=_BAD, lw=1.0, ls=(0, (4, 2)))
    late.set_ylabel("frame lateness, ms")
    late.set_ylim(bottom=0)
    late.set_xlabel("seconds")
    for axes in (calls, cpu, late, memory):
        for side in ("top", "right"):
            axes.spines[side].set_visible(axes is memory and side == "right")
        axes.grid(axis="y", color=_GRID)
        axes.set_axisbelow(True)
    calls.set_ylim(bottom=0, top=1.25 * max([step.calls for step in report.steps], default=1))

    failed = "" if report.first_failed is None else f", {report.first_failed} failed"
    figure.suptitle(f"{report.highest_good} calls carried{failed}", x=0.02, ha="left", fontsize=16, fontweight="bold")
    about = " · ".join(report.conditions.get(name, "") for name in ("machine", "system", "calls", "held", "at"))
    figure.text(0.02, 0.925, about, color=_FAINT, fontsize=9)
    if report.reasons:
        figure.text(0.02, 0.015, f"{report.first_failed}: {'; '.join(report.reasons)}"[:200], color=_BAD, fontsize=9)
    png = BytesIO()
    figure.savefig(png, format="png")
    write_whole(path, png.getvalue())
