"""The picture of a call: the caller's speech above, the audible agent below, on one axis of time."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from io import BytesIO
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from numpy.typing import NDArray

from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.results.report import CallReport, LineBargeIn
from offhook.gateway.store.record import TurnRecord
from offhook.media.mulaw import RATE_HZ, decode

__all__ = ["draw", "figure_of"]

_DPI = 100
_CHARACTER = 0.56  # mean width of the font's characters, in its size
_WIDTH_IN, _HEIGHT_IN = 16.0, 8.6
_INK, _FAINT, _GRID = "#212529", "#868e96", "#e9ecef"
_CALLER, _AGENT = "#0c8599", "#6741d9"
_CUT, _TOOL, _DONE = "#e03131", "#f08c00", "#2f9e44"
_MODEL, _GATEWAY, _PLAYING = "#ced4da", "#343a40", "#91a7ff"
_CLEAN = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # the background of text, so that no line crosses it

# Lanes, from the top, in units of the axis.
_CALLER_Y, _AGENT_Y, _HALF = 7.85, 3.85, 0.95
_CALLER_TEXT_Y, _AGENT_TEXT_Y = _CALLER_Y + _HALF + 0.22, _AGENT_Y - _HALF - 0.22
_ANSWER_Y = 6.15
_TOOLS_Y, _TOOL_HEIGHT = 0.95, 0.42
_TOP, _BOTTOM = 10.35, -0.1


@dataclass(frozen=True, slots=True)
class _Scale:
    """Converts between seconds and pixels, to fit text."""

    seconds: float
    pixels: float

    def width_px(self, seconds: float) -> float:
        return seconds / self.seconds * self.pixels

    def columns(self, seconds: float, size_pt: float) -> int:
        """The number of characters of this size that fit into `seconds`."""
        return int(self.width_px(seconds) / (_CHARACTER * size_pt * _DPI / 72))

    def seconds_of(self, text: str, size_pt: float, *, bold: bool = False) -> float:
        """The width of the longest line of this text, in seconds."""
        longest = max(len(line) for line in text.split("\n"))
        per_character = _CHARACTER * (1.18 if bold else 1.0)
        return longest * per_character * size_pt * _DPI / 72 / self.pixels * self.seconds

    def px(self, pixels: float) -> float:
        """The width of `pixels`, in seconds."""
        return pixels / self.pixels * self.seconds


def draw(truth: CallTruth, report: CallReport, path: Path) -> None:
    """Draw one call into a PNG, 1600 pixels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png = BytesIO()
    figure_of(truth, report).savefig(png, format="png")
    write_whole(path, png.getvalue())


def figure_of(truth: CallTruth, report: CallReport) -> Figure:
    """The picture, not yet a file."""
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.055, 0.115, 0.93, 0.765))
    zero_s = next((s.started_s for s in truth.streams if s.started_s is not None), truth.began_s)
    begin_s = truth.began_s - zero_s
    end_s = max(begin_s + len(truth.right) / RATE_HZ, begin_s + 1.0)
    scale = _Scale(end_s - begin_s, 0.93 * _WIDTH_IN * _DPI)

    _frame(axes, begin_s, end_s)
    _waveform(axes, decode(truth.left), begin_s, _CALLER_Y, _CALLER, scale)
    _waveform(axes, decode(truth.right), begin_s, _AGENT_Y, _AGENT, scale)
    _holes(axes, truth, zero_s, scale)
    free_s = begin_s  # end of the last barge-in's text
    plays_s = [begin_s + run.place / RATE_HZ for run in truth.played]
    for barge_in in report.line.barge_ins:
        until_s = min((at_s for at_s in plays_s if 1000 * at_s >= (barge_in.silent_ms or 0.0)), default=end_s)
        free_s = _barge_in(axes, barge_in, scale, until_s, end_s, free_s)
    _caller_texts(axes, report, scale, end_s)
    _agent_texts(axes, report, scale, end_s)
    _answers(axes, report, scale)
    _segments(axes, report, scale)
    _tools(axes, report, scale, end_s)
    _title(figure, report)
    _legend(figure, report)
    return figure


def _frame(axes: Axes, begin_s: float, end_s: float) -> None:
    axes.set_xlim(begin_s, end_s)
    axes.set_ylim(_BOTTOM, _TOP)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.set_yticks(
        [_CALLER_Y, _ANSWER_Y, _AGENT_Y, _TOOLS_Y],
        ["caller\nsays", "answer\nafter", "caller\nhears", "tools"],
    )
    axes.tick_params(axis="y", length=0, pad=10, labelsize=11, labelcolor=_INK)
    for label, colour in zip(axes.get_yticklabels(), (_CALLER, _INK, _AGENT, _TOOL), strict=True):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.tick_params(axis="x", colors=_FAINT, labelsize=10)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    step = next(s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800) if (end_s - begin_s) / s <= 20)
    axes.set_xticks(np.arange(0.0, end_s, step))
    axes.set_xlabel("seconds since the stream's start", color=_FAINT, fontsize=10)


def _waveform(axes: Axes, samples: NDArray[np.int16], begin_s: float, y: float, colour: str, scale: _Scale) -> None:
    """Lowest and highest sample of each pixel column."""
    axes.axhline(y, color=colour, linewidth=0.6, alpha=0.5)
    block = max(1, int(scale.seconds * RATE_HZ / scale.pixels))
    whole = samples[: len(samples) // block * block].reshape(-1, block)
    if not len(whole):
        return
    at_s = begin_s + (np.arange(len(whole)) + 0.5) * block / RATE_HZ
    loudest = max(4_000.0, float(np.abs(samples.astype(np.int32)).max()))
    low, high = whole.min(axis=1) / loudest, whole.max(axis=1) / loudest
    axes.fill_between(at_s, y + _HALF * low, y + _HALF * high, color=colour, linewidth=0.4, step="mid")


def _text(axes: Axes, at_s: float, y: float, text: str, colour: str, size_pt: float = 10.0, **more: object) -> None:
    axes.text(at_s, y, text, color=colour, fontsize=size_pt, linespacing=1.25, **more)  # type: ignore[arg-type]


def _wrapped(text: str, columns: int, most_lines: int) -> list[str]:
    if columns < 6 or not text:
        return []
    return textwrap.wrap(" ".join(text.split()), columns, max_lines=most_lines, placeholder=" …")


def _caller_texts(axes: Axes, report: CallReport, scale: _Scale, end_s: float) -> None:
    turns = report.line.caller
    for index, turn in enumerate(turns):
        start_s, stop_s = turn.onset_ms / 1000, turn.end_ms / 1000
        axes.add_patch(
            Rectangle((start_s, _CALLER_Y - _HALF), stop_s - start_s, 2 * _HALF, color=_CALLER, alpha=0.07, lw=0)
        )
        following_s = turns[index + 1].onset_ms / 1000 if index + 1 < len(turns) else end_s
        room_s = min(following_s - start_s, max(stop_s - start_s, scale.px(200)))
        lines = _wrapped(turn.text or f"({turn.kind})", scale.columns(room_s, 10), 4)
        _text(axes, start_s, _CALLER_TEXT_Y, "\n".join(lines), _CALLER, va="bottom")


def _agent_texts(axes: Axes, report: CallReport, scale: _Scale, end_s: float) -> None:
    replies = [reply for reply in report.line.replies if reply.started_ms is not None]
    turns = {turn.generation: turn for turn in report.record.turns} if report.record else {}
    for index, reply in enumerate(replies):
        start_s, stop_s = (reply.started_ms or 0.0) / 1000, (reply.ended_ms or 0.0) / 1000
        axes.add_patch(
            Rectangle((start_s, _AGENT_Y - _HALF), stop_s - start_s, 2 * _HALF, color=_AGENT, alpha=0.06, lw=0)
        )
        turn = turns.get(reply.generation)
        if turn is None:
            continue
        following_s = (replies[index + 1].started_ms or 0.0) / 1000 if index + 1 < len(replies) else end_s
        # The width of the whole reply, heard or not.
        meant_s = max(stop_s - start_s, reply.sent_ms / 1000, scale.px(200))
        columns = scale.columns(min(following_s - start_s, meant_s) - 0.1, 10)
        heard = turn.heard_text if turn.interrupted else turn.reply_text
        lines = _wrapped(heard or f"({turn.kind})", columns, 4)
        _text(axes, start_s, _AGENT_TEXT_Y, "\n".join(lines), _AGENT, va="top")
        unheard = turn.reply_text.strip()[len(heard.strip()) :].strip() if turn.interrupted else ""
        rest = _wrapped(f"[not heard: {unheard}]", columns, 5 - len(lines)) if unheard else []
        if rest:
            down = len(lines) * _line_height(axes)
            _text(axes, start_s, _AGENT_TEXT_Y - down, "\n".join(rest), "#adb5bd", style="italic", va="top")


def _line_height(axes: Axes) -> float:
    """Of a line of 10 pt text, in units of the lanes."""
    pixels = axes.get_window_extent().height
    return 10.0 * 1.25 * 1.17 * _DPI / 72 / pixels * (_TOP - _BOTTOM)


def _barge_in(axes: Axes, barge_in: LineBargeIn, scale: _Scale, until_s: float, end_s: float, free_s: float) -> float:
    """Draw the caller's onset, the silence after it, and the dropped audio up to `until_s`.

    Text is drawn only where the axis is free, from `free_s` on; returns the end of the text.
    """
    onset_s = barge_in.onset_ms / 1000
    silent_s = barge_in.silent_ms / 1000 if barge_in.silent_ms is not None else onset_s
    axes.plot(
        [onset_s, onset_s], [_AGENT_Y - _HALF, _CALLER_Y + _HALF], color=_CUT, linewidth=1.0, linestyle=(0, (4, 2))
    )
    dismissed = barge_in.verdict == "dismissed"
    name = "barge-in dismissed" if dismissed else "barge-in"
    if barge_in.silent_ms is None:
        text = f"{name}: never stopped"
    else:
        axes.add_patch(
            Rectangle((onset_s, _AGENT_Y - _HALF), silent_s - onset_s, 2 * _HALF, facecolor=_CUT, alpha=0.35, lw=0)
        )
        gone_s = min(barge_in.discarded_ms / 1000, until_s - silent_s - scale.px(2))
        axes.add_patch(
            Rectangle(
                (silent_s, _AGENT_Y - 0.36),
                gone_s,
                0.72,
                facecolor="none",
                edgecolor="#ced4da",
                hatch="////",
                linewidth=0.8,
            )
        )
        axes.plot([silent_s, silent_s], [_AGENT_Y - _HALF, _AGENT_Y + _HALF], color=_CUT, linewidth=1.6)
        clear_ms, silence_ms = barge_in.onset_to_clear_ms, barge_in.onset_to_silence_ms
        if clear_ms is None or silence_ms is None:  # known by the record alone: a key, or the model's report
            text = f"{name}: no onset detected"
        else:
            text = f"{name}: clear after {clear_ms:.0f} ms,\nsilence after {silence_ms:.0f} ms"
        gone = f"{barge_in.discarded_ms / 1000:.1f} s " + ("kept for later" if dismissed else "dropped unheard")
        if scale.seconds_of(gone, 9) < gone_s:
            at_s = silent_s + gone_s / 2
            _text(axes, at_s, _AGENT_Y, gone, _FAINT, 9, ha="center", va="center", bbox=_CLEAN)
    text_s, aside_s = scale.seconds_of(text, 10, bold=True), scale.px(6)
    right = onset_s + aside_s + text_s < end_s
    first_s = onset_s + aside_s if right else onset_s - aside_s - text_s
    if first_s < free_s:
        return free_s
    _text(
        axes,
        first_s,
        _AGENT_Y + _HALF + 0.12,
        text,
        _CUT,
        10,
        va="bottom",
        fontweight="bold",
        bbox=_CLEAN,
    )
    return first_s + text_s


def _holes(axes: Axes, truth: CallTruth, zero_s: float, scale: _Scale) -> None:
    """Draw where a stream was lost, until the next one was up and until the agent was heard again."""
    for stream, following in zip(truth.streams, truth.streams[1:], strict=False):
        if stream.closed_by != "network" or stream.closed_s is None or following.started_s is None:
            continue
        lost_s, up_s = stream.closed_s - zero_s, following.started_s - zero_s
        plays_s = (truth.began_s + run.place / RATE_HZ for run in truth.played)
        heard_s = min((at_s for at_s in plays_s if at_s > stream.closed_s), default=following.started_s) - zero_s
        height = _CALLER_Y + _HALF - (_AGENT_Y - _HALF)
        axes.add_patch(Rectangle((lost_s, _AGENT_Y - _HALF), up_s - lost_s, height, color=_CUT, alpha=0.3, lw=0))
        axes.add_patch(Rectangle((lost_s, _AGENT_Y - _HALF), heard_s - lost_s, 2 * _HALF, color=_CUT, alpha=0.12, lw=0))
        axes.plot([lost_s, lost_s], [_AGENT_Y - _HALF, _CALLER_Y + _HALF], color=_CUT, linewidth=1.4)
        moved = urlsplit(stream.url).path != urlsplit(following.url).path
        text = f"stream lost, next after {1000 * (up_s - lost_s):.0f} ms{' on another process' if moved else ''};\n"
        text += f"agent heard again after {1000 * (heard_s - lost_s):.0f} ms"
        at_s = lost_s + scale.px(6)
        _text(axes, at_s, _AGENT_Y + _HALF + 0.12, text, _CUT, 10, va="bottom", fontweight="bold", bbox=_CLEAN)


def _answers(axes: Axes, report: CallReport, scale: _Scale) -> None:
    """Draw the time from the caller's last sound to the agent's first, with the gateway's share if it is known."""
    free_s = -inf  # end of the last text: a text that does not fit is only in the tables
    for turn in report.line.caller:
        if turn.kind != "say" or turn.answered_ms is None or turn.answered_ms <= 0:
            continue
        start_s, stop_s = turn.end_ms / 1000, (turn.end_ms + turn.answered_ms) / 1000
        up_ms, down_ms = turn.line_to_model_ms, turn.model_to_line_ms
        added_ms = up_ms + down_ms if up_ms is not None and down_ms is not None else None
        axes.plot([start_s, start_s], [_ANSWER_Y - 0.1, _CALLER_Y - _HALF], color=_FAINT, linewidth=0.8)
        axes.plot([stop_s, stop_s], [_AGENT_Y + _HALF, _ANSWER_Y + 0.1], color=_FAINT, linewidth=0.8)
        axes.add_patch(Rectangle((start_s, _ANSWER_Y - 0.1), stop_s - start_s, 0.2, facecolor=_MODEL, lw=0))
        if added_ms is not None:
            share_s = min(added_ms / 1000, stop_s - start_s)
            where = (stop_s - share_s, _ANSWER_Y - 0.1)
            axes.add_patch(Rectangle(where, share_s, 0.2, facecolor=_GATEWAY, edgecolor=_GATEWAY, lw=1.0))
        aside_s = stop_s + scale.px(5)
        if aside_s < free_s:
            continue
        text = f"{turn.answered_ms:.0f} ms"
        free_s = aside_s + scale.seconds_of("gateway 00.0 ms", 9)
        _text(axes, aside_s, _ANSWER_Y + 0.06, text, _INK, 11, va="bottom", fontweight="bold", bbox=_CLEAN)
        if added_ms is not None:
            share = f"gateway {added_ms:.1f} ms"
            _text(axes, aside_s, _ANSWER_Y - 0.06, share, _FAINT, 9, va="top", bbox=_CLEAN)


def _segments(axes: Axes, report: CallReport, scale: _Scale) -> None:
    """Draw the answers of a call from the segments of its record, where no ground truth exists."""
    free_s = -inf
    for turn in _measured(report):
        gap_ms, start_s = turn.segments["turn_gap"], (turn.caller_ended_ms or 0.0) / 1000
        model_ms = turn.segments.get("model_first_audio", 0.0)
        onset_ms = min(turn.segments.get("output_onset_sent", 0.0), gap_ms - model_ms)
        at_s = start_s
        for ms, colour in ((model_ms, _MODEL), (onset_ms, _GATEWAY), (gap_ms - model_ms - onset_ms, _PLAYING)):
            axes.add_patch(Rectangle((at_s, _ANSWER_Y - 0.1), max(0.0, ms) / 1000, 0.2, facecolor=colour, lw=0))
            at_s += max(0.0, ms) / 1000
        aside_s = start_s + gap_ms / 1000 + scale.px(5)
        if aside_s >= free_s:
            free_s = aside_s + scale.seconds_of("00000 ms ", 11)
            _text(axes, aside_s, _ANSWER_Y, f"{gap_ms:.0f} ms", _INK, 11, va="center", fontweight="bold", bbox=_CLEAN)


def _measured(report: CallReport) -> list[TurnRecord]:
    """The turns to draw by their segments: none where a rehearsal measured the answers."""
    if report.record is None or any(turn.answered_ms is not None for turn in report.line.caller):
        return []
    return [turn for turn in report.record.turns if "turn_gap" in turn.segments and turn.caller_ended_ms is not None]


def _tools(axes: Axes, report: CallReport, scale: _Scale, end_s: float) -> None:
    """Draw a bar for each tool call; a label that would overlap the next one moves down a row."""
    taken: list[float] = []  # per row: the end of its last label
    for tool in report.record.tool_calls if report.record else ():
        start_s = tool.requested_ms / 1000
        stop_s = tool.finished_ms / 1000 if tool.finished_ms is not None else end_s
        colour = {"done": _DONE, "cancelled": _CUT}.get(tool.outcome, _TOOL)
        took_s = stop_s - start_s
        took = f"{took_s:.1f} s" if took_s >= 1 else f"{took_s * 1000:.0f} ms"
        text = f"{tool.name}: {tool.outcome or 'unfinished'} after {took}"
        text_s = scale.seconds_of(f" {text} ", 10)
        inside = text_s < took_s
        left = not inside and stop_s + text_s > end_s
        first_s = start_s - text_s if left else start_s
        last_s = stop_s if inside or left else stop_s + text_s
        row = next((index for index, until_s in enumerate(taken) if until_s < first_s), len(taken))
        if row == len(taken):
            taken.append(0.0)
        taken[row] = last_s
        y = _TOOLS_Y - row * 0.52
        axes.add_patch(
            FancyBboxPatch(
                (start_s, y - _TOOL_HEIGHT / 2),
                max(took_s, scale.px(2)),
                _TOOL_HEIGHT,
                boxstyle="square,pad=0",
                facecolor=colour,
                alpha=0.85,
                linewidth=0,
            )
        )
        if inside:
            _text(axes, (start_s + stop_s) / 2, y, text, "white", 10, ha="center", va="center")
        else:
            at_s, side = (start_s, "right") if left else (stop_s, "left")
            _text(axes, at_s, y, f" {text} ", colour, 10, ha=side, va="center")


def _title(figure: Figure, report: CallReport) -> None:
    line = report.line
    figure.text(0.012, 0.955, report.scenario or "call", fontsize=17, fontweight="bold", color=_INK, va="center")
    about = [f"{line.duration_ms / 1000:.1f} s", f"ended by {report.end_reason.replace('_', ' ')}"]
    answers = [turn.answered_ms for turn in line.caller if turn.answered_ms is not None and turn.kind == "say"]
    if answers:
        about.append("answers after " + ", ".join(f"{ms:.0f}" for ms in answers[:8]) + " ms")
    stops = [b.onset_to_silence_ms for b in line.barge_ins if b.onset_to_silence_ms is not None]
    if stops:
        about.append("silent after " + ", ".join(f"{ms:.0f}" for ms in stops[:8]) + " ms")
    failed = [verdict for verdict in report.verdicts if verdict.failed]
    if report.verdicts:
        unseen = sum(not verdict.seen for verdict in report.verdicts)
        met = f"all expectations met{f', {unseen} not seen from outside' if unseen else ''}"
        about.append(f"{len(failed)} expectations failed" if failed else met)
    figure.text(0.012, 0.917, "   ·   ".join(about), fontsize=11, color=_CUT if failed else _FAINT, va="center")


def _legend(figure: Figure, report: CallReport) -> None:
    handles: list[Patch | Line2D] = [
        Patch(color=_CALLER, label="caller, as sent"),
        Patch(color=_AGENT, label="agent, as heard"),
        Patch(color=_MODEL, label="answer: model hears the end, thinks"),
    ]
    if any(None not in (turn.line_to_model_ms, turn.model_to_line_ms) for turn in report.line.caller):
        handles.append(Patch(color=_GATEWAY, label="gateway's share"))
    if _measured(report):
        handles.append(Patch(color=_PLAYING, label="until it is played"))
    if report.line.barge_ins:
        handles.append(Line2D([], [], color=_CUT, linestyle=(0, (4, 2)), label="caller speaks over the agent"))
        handles.append(Patch(facecolor="white", edgecolor="#ced4da", hatch="////", label="taken out of the queue"))
    outcomes = {tool.outcome for tool in report.record.tool_calls} if report.record else set()
    for outcome, colour in (("done", _DONE), ("cancelled", _CUT)):
        if outcome in outcomes:
            handles.append(Patch(color=colour, label=f"tool {outcome}"))
    if outcomes - {"done", "cancelled"}:
        handles.append(Patch(color=_TOOL, label="tool failed or unfinished"))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncol=len(handles),
        frameon=False,
        fontsize=10,
        labelcolor=_INK,
        bbox_to_anchor=(0.5, 0.002),
        handlelength=1.4,
        columnspacing=1.6,
    )
