"""Reports as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from offhook.gateway.rehearsal.results.report import (
    LINE_SEGMENTS,
    SAME_MS,
    CallReport,
    LineReport,
    Report,
)
from offhook.gateway.store.record import CallRecord, TurnRecord
from offhook.metrics.segments import BY_NAME

__all__ = ["show", "show_totals"]


def show(report: Report, console: Console | None = None) -> None:
    """The report as tables: per call for a few calls, totals and verdicts for any number."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    for call in report.calls if len(report.calls) <= 3 else ():
        _show_call(call, console)
    show_totals(report, console)
    several = len(report.calls) > 1
    for call in report.calls:
        for verdict in call.verdicts:
            if verdict.ok and several:
                continue
            mark = Text(f"{verdict.mark} ", {"✓": "green", "✗": "bold red"}.get(verdict.mark, "dim"))
            console.print(mark + Text(f"{call.scenario} {call.call_sid}: " if several else "") + Text(verdict.words))
    if several:
        met = report.totals.calls - report.totals.failed
        console.print(Text(f"{met} of {report.totals.calls} calls met all expectations", "bold"))
    console.print()
    console.print(Text(report.note, "dim"))
    console.print()
    for name, path in report.paths.items():
        if name == "report" or not several:
            console.print(Text(f"{name:10} ", "dim") + Text(path), soft_wrap=True)


def _table(title: str, *columns: str, left: Sequence[str] = ()) -> Table:
    """Figures are right-aligned and never cut; the `left` columns hold text."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        if column in left:
            table.add_column(column, overflow="fold", ratio=1 if column == "text" else None)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _show_call(call: CallReport, console: Console) -> None:
    record, line = call.record, call.line
    head = f"{call.scenario or 'call'}: {line.duration_ms / 1000:.1f} s, ended by {call.end_reason or line.ended_by}"
    console.print()
    console.print(Text(head, "bold"))
    if record is not None:
        console.print()
        console.print(_turn_table(record, line))
        if line.barge_ins or record.barge_ins:
            console.print()
            console.print(_barge_in_table(record, line))
        if record.tool_calls:
            console.print()
            table = _table("Tools", "tool", "called at", "took", "outcome", left=("tool", "outcome"))
            for tool in record.tool_calls:
                took = None if tool.finished_ms is None else tool.finished_ms - tool.requested_ms
                table.add_row(tool.name, _s(tool.requested_ms), _int(took), tool.outcome)
            console.print(table)
    for fault in [*line.failed_steps, *line.violations, *call.model_violations, *(record.errors if record else ())]:
        console.print(Text(f"! {fault}", "red"))


def _turn_table(record: CallRecord, line: LineReport) -> Table:
    table = _table(
        "Turns (ms)",
        *("", "text", "answered", "turn gap", "model", "onset", "heard", "of", "gap"),
        left=("text",),
    )
    by_generation = {reply.generation: reply for reply in line.replies}
    caller = [turn for turn in line.caller if turn.kind == "say"]
    rows: list[tuple[float, tuple[str | Text, ...]]] = []
    for utterance in caller:
        rows.append(
            (
                utterance.onset_ms,
                ("", Text(f"caller: {utterance.text}", "cyan"), _int(utterance.answered_ms), *[""] * 6),
            )
        )
    for turn in record.turns:
        heard = by_generation.get(turn.generation)
        text = Text(f"agent: {_shorter(turn)}", "magenta")
        if turn.interrupted:
            text.append(" ✂", "bold red")
        at_ms = turn.reply_started_ms if turn.reply_started_ms is not None else 0.0
        segments = turn.segments
        rows.append(
            (
                at_ms,
                (
                    str(turn.number),
                    text,
                    "",
                    _int(segments.get("turn_gap")),
                    _int(segments.get("model_first_audio")),
                    _one(segments.get("output_onset_sent")),
                    _int(heard.heard_ms if heard else turn.heard_ms),
                    _int(turn.received_ms),
                    _int(heard.longest_gap_ms if heard else turn.longest_gap_ms),
                ),
            )
        )
    for _, row in sorted(rows, key=lambda pair: pair[0]):
        table.add_row(*row)
    return table


def _shorter(turn: TurnRecord) -> str:
    return (turn.heard_text if turn.interrupted else turn.reply_text) or f"({turn.kind})"


def _barge_in_table(record: CallRecord, line: LineReport) -> Table:
    table = _table(
        "Barge-ins (ms from the caller's first audible sample)",
        *("at", "decided", "sent", "received", "silent", "measured", "heard", "after", "verdict"),
        left=("verdict",),
    )
    for barge in record.barge_ins:
        true = min(
            (b for b in line.barge_ins if b.clear_ms is not None and abs(b.clear_ms - barge.decided_ms) < SAME_MS),
            key=lambda b: abs((b.clear_ms or 0.0) - barge.decided_ms),
            default=None,
        )
        zero = true.onset_ms if true else barge.onset_ms
        onset = true is not None or "bargein_detect" in barge.segments
        table.add_row(
            _s(zero),
            _one(barge.decided_ms - zero if onset else None),
            _one(barge.clear_sent_ms - zero if onset and barge.clear_sent_ms is not None else None),
            _one(true.onset_to_clear_ms if true else None),
            _one(true.onset_to_silence_ms if true else None),
            _one(barge.segments.get("bargein_silence")),
            _int(barge.heard_ms),
            str(true.old_samples_after_clear if true else record.samples_after_clear),
            barge.verdict.replace("_", " "),
        )
    return table


def show_totals(report: Report, console: Console) -> None:
    """The percentiles of all segments over all calls."""
    if not report.totals.segments:
        return
    wide = console.width >= 140
    columns = ["segment", "n", "P50", "P95", "P99", "max", *(["from -> to"] if wide else [])]
    title = f"Segments over {report.totals.calls} call{'s' if report.totals.calls != 1 else ''} (ms)"
    table = _table(title, *columns, left=("segment", "from -> to"))
    for name, found in report.totals.segments.items():
        segment = BY_NAME.get(name)
        span = f"{segment.start} -> {segment.end}" if segment else LINE_SEGMENTS.get(name, "")
        figures = (found.p50_ms, found.p95_ms, found.p99_ms, found.max_ms)
        table.add_row(
            Text(name, "bold" if segment is not None and segment.headline else ""),
            str(found.count),
            *(_one(ms) for ms in figures),
            *([Text(span, "dim")] if wide else []),
        )
    console.print()
    console.print(table)
    console.print()


def _int(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f}"


def _one(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.1f}"


def _s(ms: float) -> str:
    return f"{ms / 1000:.2f} s"
