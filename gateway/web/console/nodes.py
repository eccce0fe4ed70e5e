"""What one process knows for the console's page, and the same of several: counts are added, never percentiles."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from offhook.gateway.web.console.views import (
    WINDOWS,
    ActiveCall,
    EndedCall,
    SegmentView,
    TurnView,
    points_of,
    segment_view,
)
from offhook.metrics.catalogue import Metrics
from offhook.metrics.quantiles import Counts
from offhook.metrics.segments import SEGMENTS

__all__ = ["NodeView", "counts_of", "segments_of", "whole"]


class NodeView(msgspec.Struct):
    """One process' part of the page. `counts`, `history`: by segment, of the window."""

    calls: list[ActiveCall] = []
    ended: list[EndedCall] = []
    ended_count: int = 0
    turns: list[TurnView] = []
    counts: dict[str, Counts] = {}
    history: dict[str, list[Counts]] = {}


async def counts_of(metrics: Metrics, window: str, view: NodeView) -> None:
    """Fill in the counts of every segment that has samples. Yields to the calls after each."""
    for segment in SEGMENTS:
        if segment.rig_only:
            continue
        counts = metrics.counts(segment, WINDOWS[window][0])
        await asyncio.sleep(0)
        if counts.bins:
            view.counts[segment.name] = counts
            view.history[segment.name] = metrics.history(segment, *WINDOWS[window])
            await asyncio.sleep(0)


def whole(views: Sequence[NodeView], ended: int, turns: int) -> NodeView:
    """The page of these processes together, with so many ended calls and turns at most."""
    one = NodeView(ended_count=sum(view.ended_count for view in views))
    one.calls = sorted((call for view in views for call in view.calls), key=lambda call: call.started_at)
    if len(views) == 1:
        one.calls, one.ended, one.turns = views[0].calls, views[0].ended[:ended], views[0].turns[:turns]
    else:
        all_ended = (call for view in views for call in view.ended)
        one.ended = sorted(all_ended, key=lambda call: call.started_at, reverse=True)[:ended]
        one.turns = sorted((turn for view in views for turn in view.turns), key=lambda turn: turn.at, reverse=True)
        del one.turns[turns:]
    for view in views:
        for name, counts in view.counts.items():
            one.counts.setdefault(name, Counts()).add(counts)
            history = one.history.setdefault(name, [Counts() for _ in view.history[name]])
            for total, part in zip(history, view.history[name], strict=True):
                total.add(part)
    return one


def segments_of(view: NodeView) -> list[SegmentView]:
    """Every segment's row, with its points."""
    rows = []
    for segment in SEGMENTS:
        if not segment.rig_only:
            row = segment_view(view.counts.get(segment.name, Counts()), segment)
            points = points_of(view.history[segment.name]) if row.count else []
            rows.append(msgspec.structs.replace(row, points=points))
    return rows
