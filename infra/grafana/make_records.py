"""Writes the Grafana dashboard over the store in Postgres (records/records.json): calls, costs, latency, faults.

    python infra/grafana/make_records.py

Its statements are those of a Grafana data source of the type PostgreSQL; they read `calls` and `latency` alone, which
hold no words, and numbers masked. Make a role for it: `grant select on calls, latency to grafana`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from offhook.metrics.quantiles import MIN_SAMPLES_P95, bin_limit_s

__all__ = ["dashboard", "statements"]

OUT = Path(__file__).parent / "records" / "records.json"
SOURCE = {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}
SPAN = "started_ms between $__unixEpochFrom()::bigint * 1000 and $__unixEpochTo()::bigint * 1000"
AGENT = "agent in ($agent)"
TIME = "$__unixEpochGroupAlias(started_ms / 1000, $__interval)"
GROWTH = bin_limit_s(1) / bin_limit_s(0)  # of one bin to the next
MIDDLE_MS = f"{bin_limit_s(0) * GROWTH**-0.5 * 1000!r} * power({GROWTH!r}, min(bin))"


def latency(segment: str) -> str:
    """P50 and P95 by agent, out of the stored counts; a P95 only where enough samples stand behind it."""
    return (
        "with counts as (select agent, b.key::int as bin, sum(b.value::bigint) as n "
        "from latency cross join lateral jsonb_each_text(bins::jsonb) b "
        f"where width_s = 3600 and segment = '{segment}' and {AGENT} "
        "and start_s between $__unixEpochFrom()::bigint and $__unixEpochTo()::bigint group by 1, 2), "
        "ranks as (select agent, bin, sum(n) over (partition by agent order by bin) as upto, "
        "sum(n) over (partition by agent) as total from counts) "
        f"select agent, max(total) as samples, (select {MIDDLE_MS} from ranks r where r.agent = k.agent "
        'and upto >= 0.5 * total) as "P50", '
        f"case when max(total) >= {MIN_SAMPLES_P95} then (select {MIDDLE_MS} from ranks r where r.agent = k.agent "
        'and upto >= 0.95 * total) end as "P95" from ranks k group by agent order by agent'
    )


def over_time(metric: str, value: str) -> str:
    """A line for each `metric`."""
    return f"select {TIME}, {metric} as metric, {value} from calls where {SPAN} and {AGENT} group by 1, 2 order by 1"


FAILED = "avg(case when end_side in ('gateway', 'model') then 1.0 else 0.0 end) as share"
MEDIAN = "percentile_cont(0.5) within group (order by duration_ms) as length"
SLOWEST = (
    "select call_sid, agent, number_shown as number, to_timestamp(started_ms / 1000) as began, turn_gap_ms, "
    f"barge_in_ms, end_reason, errors from calls where {SPAN} and {AGENT} and turn_gap_ms >= 1000 "
    "order by turn_gap_ms desc limit 50"
)
GAP = "Caller's last speech frame to the reply's first voice played."
SILENCE = "Caller's first speech over the agent to silence."
# fmt: off
PANELS = (  # title, kind, unit, what it shows, statement, width
    ("Calls", "timeseries", "short", "Calls that began, by why they ended.",
     over_time("end_reason", "count(*) as calls"), 12),
    ("Cost", "timeseries", "currencyUSD", "Cost of the tokens, by agent, as far as prices are known.",
     over_time("agent", "sum(cost_usd) as cost"), 12),
    ("Calls that failed", "timeseries", "percentunit", "Share of the calls that the gateway or the model ended.",
     over_time("agent", FAILED), 8),
    ("Length of calls", "timeseries", "ms", "Median length of a call, by agent.", over_time("agent", MEDIAN), 8),
    ("Tokens", "timeseries", "short", "Tokens, by model.", over_time("model", "sum(tokens) as tokens"), 8),
    ("Turn gap", "table", "ms", GAP, latency("turn_gap"), 12),
    ("Barge-in to silence", "table", "ms", SILENCE, latency("bargein_silence"), 12),
    ("Slowest calls", "table", "ms", "Calls with the slowest turns.", SLOWEST, 24),
)
# fmt: on


def statements() -> dict[str, str]:
    """The statement of each panel."""
    return {title: sql for title, _, _, _, sql, _ in PANELS}


def dashboard() -> str:
    """The JSON."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, (title, kind, unit, about, sql, width) in enumerate(PANELS, 1):
        if x + width > 24:
            x, y = 0, y + 8
        target = {
            "refId": "A",
            "datasource": SOURCE,
            "format": "time_series" if kind == "timeseries" else "table",
            "rawQuery": True,
            "editorMode": "code",
            "rawSql": sql,
        }
        panels.append(
            {
                "id": number,
                "type": kind,
                "title": title,
                "description": about,
                "datasource": SOURCE,
                "gridPos": {"x": x, "y": y, "w": width, "h": 8},
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
                "targets": [target],
            }
        )
        x += width
    variables = [
        {"name": "datasource", "type": "datasource", "query": SOURCE["type"], "label": "Postgres"},
        {
            "name": "agent",
            "type": "query",
            "datasource": SOURCE,
            "query": "select distinct agent from calls order by agent",
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"]},
            "refresh": 2,
        },
    ]
    whole = {
        "uid": "offhook-records",
        "title": "Offhook: records",
        "description": "Past calls, out of the store in Postgres.",
        "tags": ["offhook"],
        "schemaVersion": 39,
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }
    return json.dumps(whole, indent=2) + "\n"


if __name__ == "__main__":
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(dashboard())
