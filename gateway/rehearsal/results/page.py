"""The report of a run as a page: verdicts, recordings to listen to, pictures, latency. Nothing is fetched from afar.

Recordings and pictures stand beside the page, in the folder of their call.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from offhook.gateway.rehearsal.results.report import LINE_SEGMENTS, CallReport, Percentiles, Report
from offhook.metrics.segments import BY_NAME

__all__ = ["page", "write_page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #212529; --faint: #6c757d; --line: #dee2e6; --paper: #fff; --bad: #c92a2a;
  --good: #2b8a3e; --soft: #f8f9fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9ecef; --faint: #adb5bd; --line: #495057; --paper: #1a1b1e;
  --bad: #ff8787; --good: #69db7c; --soft: #25262b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 0; }
a { color: inherit; } .faint { color: var(--faint); } .bad { color: var(--bad); } .good { color: var(--good); }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; }
section { border-top: 2px solid var(--line); margin-top: 2rem; padding-top: 1rem; }
ul { margin: .4rem 0; padding-left: 0; list-style: none; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
audio { width: 100%; margin: .6rem 0 0; } summary { cursor: pointer; }
"""
_WITHHELD = "too few samples: P95 from 20 on, P99 from 300 on"


def write_page(runs: Sequence[tuple[str, Report]], whole: Report, path: Path) -> None:
    """The page of these named runs, beside whose files it is to stand; `whole` holds the figures of all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(runs, whole, path.parent), encoding="utf-8")


def page(runs: Sequence[tuple[str, Report]], whole: Report, folder: Path) -> str:
    """The page's text; links lead from `folder`."""
    failed = whole.totals.failed
    said = f"{whole.totals.calls} calls, " + (f"{failed} failed" if failed else "all expectations met")
    runs = sorted(runs, key=lambda run: (run[1].ok, run[0]))
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(said)}</title><style>{_STYLE}</style>",
        f'<h1>Rehearsed calls: <span class="{"bad" if failed else "good"}">{escape(said)}</span></h1>',
        f'<p class="faint">{escape(whole.at)} · Offhook {escape(whole.offhook)}</p>',
        _contents(runs),
        f"<h2>Latency over {whole.totals.calls} calls</h2>",
        _segments(whole.totals.segments),
        f'<p class="faint">{escape(whole.note)}</p>',
    ]
    for name, report in runs:
        for number, call in enumerate(report.calls, 1):
            suffix = f"-{number}" if len(report.calls) > 1 else ""
            parts.append(_call(name, call, report.paths, suffix, folder))
    return "\n".join(parts) + "\n</html>\n"


def _contents(runs: Sequence[tuple[str, Report]]) -> str:
    rows = []
    for name, report in runs:
        calls = report.calls
        verdicts = [verdict for call in calls for verdict in call.verdicts]
        bad = [verdict.words for verdict in verdicts if not verdict.ok]
        words = "; ".join(bad) or f"{len(verdicts)} of {len(verdicts)}"
        seconds = sum(call.line.duration_ms for call in calls) / 1000
        rows.append(
            (_mark(report.ok), f'<a href="#{escape(name)}">{escape(name)}</a>', escape(words), f"{seconds:.1f} s")
        )
    return _table(("", "call", "expectations met", "length"), rows, figures=(3,))


def _call(name: str, call: CallReport, paths: dict[str, str], suffix: str, folder: Path) -> str:
    line = call.line
    ended = call.end_reason.replace("_", " ")
    parts = [
        f'<section id="{escape(name + suffix)}"><h2>{_mark(call.ok)} {escape(name + suffix)}</h2>',
        f'<p class="faint">{line.duration_ms / 1000:.1f} s, ended by {escape(ended)}</p><ul>',
        *(f"<li>{_mark(v.ok)} {escape(v.words)}</li>" for v in call.verdicts),
        "</ul>",
    ]
    if recording := paths.get(f"recording{suffix}"):
        source = escape(os.path.relpath(recording, folder))
        parts.append(f'<audio controls preload="none" src="{source}"></audio>')
        parts.append('<p class="faint">left: what the caller said; right: what the caller heard</p>')
    if picture := paths.get(f"picture{suffix}"):
        source = escape(os.path.relpath(picture, folder))
        parts.append(f'<a href="{source}"><img loading="lazy" src="{source}" alt="the call on an axis of time"></a>')
    parts.append(
        f"<details><summary>Turns, barge-ins, tools</summary>{_turns(call)}{_others(call)}</details></section>"
    )
    return "\n".join(parts)


def _turns(call: CallReport) -> str:
    rows: list[tuple[float, tuple[str, ...]]] = []
    for said in call.line.caller:
        words = escape(said.text or f"({said.kind})")
        rows.append((said.onset_ms, (f"{said.onset_ms / 1000:.2f}", "caller", words, _ms(said.answered_ms), "")))
    heard = {reply.generation: reply for reply in call.line.replies}
    for turn in call.record.turns if call.record else ():
        at_ms = turn.reply_started_ms or 0.0
        words = escape(turn.heard_text if turn.interrupted else turn.reply_text) or f"({turn.kind})"
        cut = ' <span class="bad">interrupted</span>' if turn.interrupted else ""
        reply = heard.get(turn.generation)
        length = _ms(reply.heard_ms if reply else turn.heard_ms)
        rows.append((at_ms, (f"{at_ms / 1000:.2f}", "agent", words + cut, _ms(turn.segments.get("turn_gap")), length)))
    ordered = [row for _, row in sorted(rows, key=lambda row: row[0])]
    return _table(("s", "", "said", "answered after / turn gap, ms", "heard, ms"), ordered, figures=(0, 3, 4))


def _others(call: CallReport) -> str:
    parts = []
    if call.line.barge_ins:
        rows = [
            (escape(b.text), _ms(b.onset_to_clear_ms), _ms(b.onset_to_silence_ms), escape(b.verdict.replace("_", " ")))
            for b in call.line.barge_ins
        ]
        parts.append(_table(("over the agent", "to clear, ms", "to silence, ms", "verdict"), rows, figures=(1, 2)))
    tools = call.record.tool_calls if call.record else []
    if tools:
        rows = []
        for tool in tools:
            took = None if tool.finished_ms is None else tool.finished_ms - tool.requested_ms
            rows.append((escape(tool.name), f"{tool.requested_ms / 1000:.2f}", _ms(took), escape(tool.outcome)))
        parts.append(_table(("tool", "asked at, s", "took, ms", "outcome"), rows, figures=(1, 2)))
    errors = call.record.errors if call.record else []
    if errors:
        parts.append("<ul>" + "".join(f'<li class="bad">{escape(error)}</li>' for error in errors) + "</ul>")
    return "".join(parts)


def _segments(segments: dict[str, Percentiles]) -> str:
    rows = []
    for name, found in segments.items():
        segment = BY_NAME.get(name)
        span = f"{segment.start} → {segment.end}" if segment else LINE_SEGMENTS.get(name, "").replace("->", "→")
        strong = segment is not None and segment.headline
        shown = f"<strong>{escape(name)}</strong>" if strong else escape(name)
        figures = (_ms(found.p50_ms), _tail(found.p95_ms), _tail(found.p99_ms), _ms(found.max_ms))
        rows.append((shown, str(found.count), *figures, f'<span class="faint">{escape(span)}</span>'))
    return _table(("segment, ms", "n", "P50", "P95", "P99", "max", "from → to"), rows, figures=(1, 2, 3, 4, 5))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, figures: Sequence[int] = ()) -> str:
    """Cells are HTML already."""
    kind = [' class="n"' if index in figures else "" for index in range(len(heads))]
    head = "".join(f"<th{k}>{escape(words)}</th>" for k, words in zip(kind, heads, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{k}>{cell}</td>" for k, cell in zip(kind, row, strict=True)) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _mark(ok: bool) -> str:
    return '<span class="good">✓</span>' if ok else '<span class="bad">✗</span>'


def _ms(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def _tail(ms: float | None) -> str:
    return f'<abbr title="{_WITHHELD}">–</abbr>' if ms is None else _ms(ms)
