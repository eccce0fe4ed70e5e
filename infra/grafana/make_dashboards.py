"""Writes the four Grafana dashboards (dashboards/*.json) from the catalogue of segments.

    pip install grafana-foundation-sdk
    python infra/grafana/make_dashboards.py

Every latency panel shows its sample count and withholds percentiles that too few samples stand behind (P95 below
20, P99 below 300); its description is the segment's definition and its threshold line the default target.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, text, timeseries
from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models
from grafana_foundation_sdk.models import text as text_models

from offhook.metrics import segments as s
from offhook.metrics.canary import LINE_ANSWER, LINE_BARGEIN_SILENCE
from offhook.metrics.quantiles import MIN_SAMPLES_P95, MIN_SAMPLES_P99
from offhook.metrics.segments import Segment

ROOT = Path(__file__).resolve().parents[2]


__all__ = ["dashboards"]

OUT = Path(__file__).parent / "dashboards"

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
PODS = 'job="offhook",namespace=~"$namespace",pod=~"$pod"'
FLEET = 'job="offhook"'  # recorded over all replicas

HOW_TO_READ = (
    f"{s.OUTSIDE} A percentile is only shown where enough samples stand behind it: "
    f"P95 from {MIN_SAMPLES_P95}, P99 from {MIN_SAMPLES_P99} in its window; the count is in every panel. "
    "Turns interrupted before their first sound are in none. Percentiles of different segments do not add up."
)

Query = tuple[str, str]  # expression, legend


# --- panels


def panel(builder: Any, title: str, unit: str, about: str, width: int, height: int = 8) -> Any:
    """What all panels share."""
    return builder.title(title).description(about).unit(unit).datasource(SOURCE).span(width).height(height)


def with_queries(builder: Any, queries: Sequence[Query]) -> Any:
    for ref, (expr, legend) in zip("ABCDEFGHIJ", queries, strict=False):
        builder = builder.with_target(prometheus.Dataquery().expr(expr).legend_format(legend).range().ref_id(ref))
    return builder


def limits(green_below: float | None) -> board.ThresholdsConfig:
    """Green below the limit, red above; only green without one."""
    steps = [models.Threshold(value=None, color="green")]
    if green_below is not None:
        steps.append(models.Threshold(value=green_below, color="red"))
    return board.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def graph(
    title: str,
    unit: str,
    about: str,
    queries: Sequence[Query],
    *,
    limit: float | None = None,
    width: int = 8,
    stacked: bool = False,
) -> Any:
    """Lines over time; a dashed line at the limit."""
    built = with_queries(panel(timeseries.Panel(), title, unit, about, width), queries)
    built = built.thresholds(limits(limit)).min(0).fill_opacity(30 if stacked else 8).line_width(1.5)
    built = built.show_points(common_models.VisibilityMode.NEVER).legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    if limit is not None:
        line = common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
        built = built.thresholds_style(line)
    if stacked:
        built = built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    return built


def number(title: str, unit: str, about: str, expr: str, *, limit: float | None = None, width: int = 4) -> Any:
    """The present value, with a sparkline; red above the limit."""
    built = with_queries(panel(stat.Panel(), title, unit, about, width, height=4), [(expr, "")])
    return built.thresholds(limits(limit)).no_value("too few samples").graph_mode(common_models.BigValueGraphMode.AREA)


def note(content: str, height: int = 3) -> Any:
    built = text.Panel().title("").transparent(True).span(24).height(height)
    return built.mode(text_models.TextMode.MARKDOWN).content(content)


def title_of(segment: Segment) -> str:
    """The segment's name as people write it."""
    title = segment.name.replace("_", " ").replace("bargein", "barge-in").replace("rtt", "round trip")
    return title[0].upper() + title[1:]


def about_segment(segment: Segment, window: str = "5 minutes") -> str:
    target = f" Default target: {segment.target_s:g} s." if segment.target_s else ""
    outside = "" if s.OUTSIDE in segment.help else f" {s.OUTSIDE}"
    return f"{segment.help}{target} Last {window} at each point; bars: samples.{outside}"


def percentiles(buckets: str, on: str, count: str, prefix: str, *names: str) -> list[Query]:
    """Each of the percentiles `names`, where enough samples stand behind it."""
    known = {"P50": (0.5, 1), "P95": (0.95, MIN_SAMPLES_P95), "P99": (0.99, MIN_SAMPLES_P99)}
    return [
        (f"histogram_quantile({q}, {buckets}) and on ({on}) {count} >= {minimum}", f"{prefix}{name}")
        for name, (q, minimum) in ((name, known[name]) for name in names)
    ]


def latency(segment: Segment, width: int = 8) -> Any:
    """P50, P95 and P99 of the last five minutes with the sample count as bars on the right."""
    by = f"{segment.label}, " if segment.label else ""
    on = segment.label or ""
    prefix = f"{{{{{segment.label}}}}} " if segment.label else ""
    buckets = f"sum by ({by}le) (rate({segment.metric}_bucket{{{PODS}}}[5m]))"
    count = f"sum by ({on}) (increase({segment.metric}_count{{{PODS}}}[5m]))"
    queries = percentiles(buckets, on, count, prefix, "P50", "P95", "P99")
    built = graph(
        title_of(segment),
        "s",
        about_segment(segment),
        [*queries, (count, f"{prefix}samples")],
        limit=segment.target_s,
        width=width,
    )
    return with_counts_on_the_right(built)


def of_the_canary(title: str, segment: Segment) -> Any:
    """P50 and P95 of a day, as the alerts read them: a call each quarter of an hour makes few samples."""
    metric = f"offhook_canary_{segment.name}_seconds"
    buckets = f"sum by (job, le) (increase({metric}_bucket[1d]))"
    count = f"sum by (job) (increase({metric}_count[1d]))"
    queries = [*percentiles(buckets, "job", count, "{{job}} ", "P50", "P95"), (count, "{{job}} samples")]
    return with_counts_on_the_right(graph(title, "s", about_segment(segment, "day"), queries))


def with_counts_on_the_right(built: Any) -> Any:
    return built.override_by_regexp(
        ".*samples",
        [
            models.DynamicConfigValue(id_val="unit", value="short"),
            models.DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
            models.DynamicConfigValue(id_val="custom.drawStyle", value="bars"),
            models.DynamicConfigValue(id_val="custom.fillOpacity", value=15),
            models.DynamicConfigValue(id_val="custom.lineWidth", value=0),
            models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "gray"}),
        ],
    )


def recorded_percentiles(segment: Segment, width: int) -> Any:
    """The fleet's recorded percentiles (infra/prometheus/rules/percentiles.yml) with the sample count."""
    prefix = f"{{{{{segment.label}}}}} " if segment.label else ""
    queries = [(f"job:{segment.metric}:{name}_5m{{{FLEET}}}", prefix + name.upper()) for name in ("p50", "p95", "p99")]
    queries.append((f"job:{segment.metric}_count:increase5m{{{FLEET}}}", f"{prefix}samples"))
    title = f"{title_of(segment)}, all replicas"
    return with_counts_on_the_right(
        graph(title, "s", about_segment(segment), queries, limit=segment.target_s, width=width)
    )


def rate_of(metric: str, by: str, extra: str = "", window: str = "$__rate_interval") -> str:
    return f"sum by ({by}) (rate({metric}{{{PODS}{extra}}}[{window}]))"


# --- the four dashboards


def overview() -> Any:
    turn_gap = s.TURN_GAP.metric
    played = f'{{{FLEET},basis="played"}}'
    about_gap = f"{s.TURN_GAP.help} Last hour, all replicas; the count stands beside it."
    rejected = f"sum(increase(offhook_calls_rejected_total{{{PODS}}}[1h]))"
    ended = f"sum(increase(offhook_calls_total{{{PODS}}}[1h]))"
    return [
        note(HOW_TO_READ),
        number("Calls now", "short", "Calls in progress.", f"sum(offhook_calls_active{{{PODS}}})"),
        number("Turn gap P50, last hour", "s", about_gap, f"job:{turn_gap}:p50_1h{played}", limit=s.TURN_GAP.target_s),
        number("Turn gap P95, last hour", "s", about_gap, f"job:{turn_gap}:p95_1h{played}", limit=s.TURN_GAP.target_s),
        number("Turn gap P99, last hour", "s", about_gap, f"job:{turn_gap}:p99_1h{played}", limit=1.4),
        number(
            "Turns, last hour",
            "short",
            "Samples behind the turn gap's percentiles beside it.",
            f"job:{turn_gap}_count:increase1h{played}",
        ),
        number(
            "Callers sent to the fallback, last hour",
            "percentunit",
            "Calls rejected over all calls, whatever the reason.",
            f"{rejected} / ({rejected} + {ended})",
            limit=0.05,
        ),
        recorded_percentiles(s.TURN_GAP, width=12),
        recorded_percentiles(s.BARGEIN_SILENCE, width=12),
        graph(
            "Calls ended by reason",
            "cpm",
            "Calls ended each minute, by reason.",
            [(f"60 * {rate_of('offhook_calls_total', 'reason')} > 0", "{{reason}}")],
            stacked=True,
        ),
        graph(
            "Calls rejected by reason",
            "cpm",
            "Calls answered with the fallback each minute.",
            [(f"60 * {rate_of('offhook_calls_rejected_total', 'reason')}", "{{reason}}")],
            stacked=True,
        ),
        graph(
            "Turns and barge-ins",
            "cpm",
            "Measured turns, and barge-ins by verdict, each minute.",
            [
                (f"60 * sum(rate({turn_gap}_count{{{PODS}}}[$__rate_interval]))", "turns"),
                (f"60 * {rate_of('offhook_barge_ins_total', 'verdict')}", "barge-in {{verdict}}"),
            ],
        ),
        graph(
            "Budget burnt, one hour",
            "short",
            "Share of bad events over the share allowed: 1 spends the month's budget in a month. "
            f"Slow turns (5 % allowed), slow barge-ins (5 %), failed calls (0.1 %). {s.OUTSIDE}",
            [
                (f"job:offhook_turns_bad:ratio1h{{{FLEET}}} / 0.05", "turns over 1.2 s"),
                (f"job:offhook_bargeins_bad:ratio1h{{{FLEET}}} / 0.05", "barge-ins over 300 ms"),
                (f"job:offhook_calls_bad:ratio1h{{{FLEET}}} / 0.001", "calls failed"),
            ],
            limit=6,
        ),
        graph(
            "What the budgets stand on, one hour",
            "short",
            "Events of the last hour behind the ratios beside it.",
            [
                (f"job:offhook_turns:increase1h{{{FLEET}}}", "turns"),
                (f"job:offhook_bargeins:increase1h{{{FLEET}}}", "barge-ins"),
                (f"job:offhook_calls:increase1h{{{FLEET}}}", "calls"),
            ],
        ),
        graph(
            "Tool calls by outcome",
            "cpm",
            "Tool calls each minute; each has exactly one outcome.",
            [(f"60 * {rate_of('offhook_tool_calls_total', 'outcome')}", "{{outcome}}")],
            stacked=True,
        ),
    ]


def median(segment: Segment) -> str:
    return f"histogram_quantile(0.5, sum by (le) (rate({segment.metric}_bucket{{{PODS}}}[5m])))"


def anatomy() -> Any:
    first_audio, onset, played = (
        median(segment) for segment in (s.MODEL_FIRST_AUDIO, s.OUTPUT_ONSET_SENT, s.OUTPUT_ONSET_PLAYED)
    )
    heat = panel(
        heatmap.Panel(),
        "Turn gap, all turns",
        "short",
        f"{about_segment(s.TURN_GAP)} Each column counts the turns of one interval by their length.",
        width=12,
        height=9,
    ).with_target(
        prometheus.Dataquery()
        .expr(f"sum by (le) (increase({s.TURN_GAP.metric}_bucket{{{PODS}}}[$__rate_interval]))")
        .legend_format("{{le}}")
        .format(prometheus_models.PromQueryFormat.HEATMAP)
        .range()
        .ref_id("A")
    )
    heat = (
        heat.calculate(False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .cell_values(heatmap.CellValues().unit("short"))
        .color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .show_tooltip()
        .show_y_histogram()
    )
    stack = graph(
        "Where a median turn goes",
        "s",
        "Medians, stacked: last speech to the model's first audio (endpointing and model), first audio to "
        f"first voice sent, and the rest until it is played. Medians do not add up exactly. {s.OUTSIDE} Bars: turns.",
        [
            (first_audio, "speech end to model audio"),
            (onset, "model audio to voice sent"),
            (f"clamp_min({played} - {first_audio} - {onset}, 0)", "voice sent to voice played"),
            (f"sum(increase({s.OUTPUT_ONSET_PLAYED.metric}_count{{{PODS}}}[5m]))", "samples"),
        ],
        limit=s.TURN_GAP.target_s,
        width=12,
        stacked=True,
    ).height(9)
    stack = with_counts_on_the_right(stack).override_by_regexp(
        ".*samples",
        [models.DynamicConfigValue(id_val="custom.stacking", value={"mode": "none", "group": "samples"})],
    )
    rows = [
        ("The turn", (s.TURN_GAP, s.MODEL_FIRST_AUDIO, s.OUTPUT_ONSET_PLAYED)),
        ("From the microphone to the model", (s.UPLINK_RELATIVE_DELAY, s.UPLINK_FORWARD, s.UPLINK_GAP)),
        ("The model", (s.ENDPOINT_DELAY, s.MODEL_FIRST_EVENT, s.OUTPUT_ONSET_SENT)),
        ("Barge-in", (s.BARGEIN_SILENCE, s.BARGEIN_DETECT, s.BARGEIN_STOP, s.BARGEIN_CLEAR_SENT)),
        ("Tools and links", (s.TOOL_CALL, s.TOOL_TO_AUDIO, s.LINK_RTT)),
        ("Setting up", (s.WEBHOOK_RESPONSE, s.STREAM_SETUP, s.MODEL_SETUP, s.ANSWER_TO_GREETING)),
    ]
    panels: list[Any] = [note(HOW_TO_READ), heat, stack]
    for title, row in rows:
        panels.append(board.Row(title))
        panels += [latency(segment, width=24 // len(row)) for segment in row]
    return panels


def resources() -> Any:
    cpu = f"rate(process_cpu_seconds_total{{{PODS}}}[$__rate_interval])"
    return [
        note(HOW_TO_READ),
        graph(
            "CPU", "percentunit", "Share of one core; the process has one busy thread.", [(cpu, "{{pod}}")], limit=0.7
        ),
        graph(
            "CPU per call",
            "percentunit",
            "Share of one core for each call in progress.",
            [(f"{cpu} / (offhook_calls_active{{{PODS}}} > 0)", "{{pod}}")],
        ),
        graph(
            "Places taken",
            "percentunit",
            "Calls in progress over the replica's capacity.",
            [(f"offhook_calls_active{{{PODS}}} / offhook_call_capacity{{{PODS}}}", "{{pod}}")],
            limit=0.85,
        ),
        latency(s.EVENT_LOOP_LAG),
        latency(s.UPLINK_GAP),
        latency(s.UPLINK_FORWARD),
        graph("Memory", "bytes", "Resident memory.", [(f"process_resident_memory_bytes{{{PODS}}}", "{{pod}}")]),
        graph(
            "File descriptors",
            "percentunit",
            "Open descriptors over the limit; each call holds a few sockets.",
            [(f"process_open_fds{{{PODS}}} / process_max_fds{{{PODS}}}", "{{pod}}")],
            limit=0.8,
        ),
        graph(
            "Garbage collections",
            "ops",
            "By generation; the third stops the loop longest.",
            [(rate_of("python_gc_collections_total", "generation"), "generation {{generation}}")],
        ),
        graph(
            "Telephone frames",
            "ops",
            "20 ms frames each second: 50 for each call and direction.",
            [(rate_of("offhook_frames_total", "direction"), "{{direction}}")],
        ),
        graph(
            "Frames dropped",
            "ops",
            "20 ms frames thrown away each second, by reason.",
            [(rate_of("offhook_frames_dropped_total", "reason"), "{{reason}}")],
        ),
        graph(
            "Marks outstanding",
            "short",
            "Marks sent and not yet echoed: grows when the carrier is behind.",
            [(f"offhook_marks_outstanding{{{PODS}}}", "{{pod}}")],
        ),
        graph(
            "Tokens",
            "short",
            "Tokens each minute, as the model counts them: the largest part of the bill.",
            [(f"60 * {rate_of('offhook_tokens_total', 'direction')}", "{{direction}}")],
        ),
        graph(
            "Build",
            "short",
            "Replicas by version.",
            [(f"count by (version, python) (offhook_build_info{{{PODS}}})", "{{version}} on {{python}}")],
        ),
    ]


def reliability() -> Any:
    def each_minute(title: str, about: str, metric: str, by: str, legend: str, extra: str = "") -> Any:
        return graph(title, "cpm", about, [(f"60 * {rate_of(metric, by, extra)}", legend)])

    return [
        note(HOW_TO_READ),
        each_minute(
            "Calls ended by a fault of ours",
            "The service level allows 0.1 % of calls.",
            "offhook_calls_total",
            "reason",
            "{{reason}}",
            ',reason=~"internal_error|model_lost|model_unreachable|server_stopped"',
        ),
        each_minute(
            "Calls lost by the carrier",
            "Streams that died or never came.",
            "offhook_calls_total",
            "reason",
            "{{reason}}",
            ',side="carrier"',
        ),
        graph(
            "Must stay zero",
            "short",
            "Calls of which something did not end; samples sent after a clear; exceptions; blocks; hanging tools.",
            [
                (f"sum(offhook_stuck_calls_total{{{PODS}}})", "stuck calls"),
                (f"sum(offhook_samples_after_clear_total{{{PODS}}})", "samples after clear"),
                (f"sum by (part) (offhook_task_failures_total{{{PODS}}})", "exceptions: {{part}}"),
                (f"sum by (by) (offhook_loop_blocked_total{{{PODS}}})", "event loop blocked: {{by}}"),
                (f"sum(offhook_tool_threads_abandoned{{{PODS}}})", "hanging tool threads"),
            ],
            limit=1,
        ),
        board.Row("The model"),
        each_minute(
            "Sessions by result", "Model sessions dialled.", "offhook_model_sessions_total", "result", "{{result}}"
        ),
        each_minute(
            "Reconnects by result",
            "In mid-call; about every ten minutes by the provider's design.",
            "offhook_model_reconnects_total",
            "result",
            "{{result}}",
        ),
        latency(s.MODEL_RECONNECT_GAP),
        each_minute(
            "Provider's errors by reason",
            "Of sessions and of single responses; quota and key end calls with the fallback.",
            "offhook_model_errors_total",
            "reason",
            "{{reason}}",
        ),
        each_minute("Calls by provider", "Calls begun.", "offhook_model_calls_total", "provider", "{{provider}}"),
        board.Row("Replicas"),
        graph(
            "Draining",
            "short",
            "1 while a replica takes no new calls.",
            [(f"offhook_draining{{{PODS}}}", "{{pod}}")],
        ),
        board.Row("The canary"),
        graph(
            "Calls of the canary",
            "short",
            "Placed by `offhook canary`, in an hour: those that met all expectations, and those that did not.",
            [("sum by (job, result) (increase(offhook_canary_calls_total[1h]))", "{{job}} {{result}}")],
        ),
        of_the_canary("The canary's answers", LINE_ANSWER),
        of_the_canary("The canary's barge-ins, to silence", LINE_BARGEIN_SILENCE),
        board.Row("Operators"),
        graph(
            "Listening in",
            "short",
            "How often an operator began to listen in on a call, in an hour.",
            [(f"sum(increase(offhook_listen_ins_total{{{PODS}}}[1h]))", "listen-ins")],
        ),
        board.Row("What was refused, and what was not seen"),
        each_minute(
            "Refused requests",
            "Without a valid signature or token.",
            "offhook_auth_failures_total",
            "kind",
            "{{kind}}",
        ),
        each_minute(
            "Pictures from callers",
            "Queued for the model, refused, and queued but not sent.",
            "offhook_pictures_total",
            "result",
            "{{result}}",
        ),
        graph(
            "Unreadable messages",
            "cpm",
            "By the peer that sent them.",
            [(f"60 * {rate_of('offhook_input_errors_total', 'peer, reason')} > 0", "{{peer}} {{reason}}")],
        ),
        graph(
            "Segments without an end",
            "cpm",
            "Begun and never ended, so not in the percentiles. Interruptions are among them.",
            [
                (
                    f"60 * {rate_of('offhook_segment_incomplete_total', 'segment, reason')} > 0",
                    "{{segment}} {{reason}}",
                )
            ],
        ),
    ]


def dashboard(title: str, about: str, panels: Sequence[Any]) -> str:
    """The dashboard's JSON, the same for the same input."""
    built = (
        board.Dashboard(title)
        .description(about)
        .tags(["offhook"])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            board.DashboardLink("Offhook")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["offhook"])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(board.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(query_variable("namespace", "label_values(offhook_build_info, namespace)"))
        .with_variable(query_variable("pod", 'label_values(offhook_build_info{namespace=~"$namespace"}, pod)'))
    )
    for one in panels:
        built = built.with_row(one) if isinstance(one, board.Row) else built.with_panel(one)
    plain = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    for number_, one in enumerate(plain["panels"], start=1):
        one["id"] = number_
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def query_variable(name: str, query: str) -> Any:
    return (
        board.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def dashboards() -> dict[str, str]:
    """File name -> text of each dashboard."""
    return {
        "overview.json": dashboard(
            "Offhook overview", f"Calls and turns: rate, errors, duration. {s.OUTSIDE}", overview()
        ),
        "latency.json": dashboard(
            "Offhook latency anatomy", f"Where the milliseconds of a turn go. {s.OUTSIDE}", anatomy()
        ),
        "resources.json": dashboard(
            "Offhook resources", f"Utilisation, saturation, errors of each replica. {s.OUTSIDE}", resources()
        ),
        "reliability.json": dashboard(
            "Offhook reliability", f"Faults of peers and what became of them. {s.OUTSIDE}", reliability()
        ),
    }


if __name__ == "__main__":
    for name, content in dashboards().items():
        (OUT / name).write_text(content)
        print(f"wrote {(OUT / name).relative_to(ROOT)}")
