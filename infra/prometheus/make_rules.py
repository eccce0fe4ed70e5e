"""Writes rules/percentiles.yml and rules/service_levels.yml, the recording rules.

    python infra/prometheus/make_rules.py

Recording rules are the same few lines for each segment and window; alerts are written by hand (alerts.yml).
The percentiles aggregate over replicas before the quantile is taken, and are withheld where too few samples
stand behind them: P95 below 20, P99 below 300, in the rule's own window.
"""

from pathlib import Path

import yaml

from offhook.metrics.quantiles import MIN_SAMPLES_P95, MIN_SAMPLES_P99
from offhook.metrics.segments import BARGEIN_DETECT, BARGEIN_SILENCE, BARGEIN_STOP, SEGMENTS, TURN_GAP, Segment

ROOT = Path(__file__).resolve().parents[2]


__all__ = ["FAULTS", "rule_files"]

RULES = Path(__file__).parent / "rules"

QUANTILES = (("p50", 0.50, 1), ("p95", 0.95, MIN_SAMPLES_P95), ("p99", 0.99, MIN_SAMPLES_P99))
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "3d")

# Endings that are the service's doing: the caller had a call and lost it, or never got an agent.
FAULTS = "internal_error|model_lost|model_unreachable|server_stopped"


def percentile_rules(segment: Segment, window: str) -> list[dict[str, str]]:
    """Rate of the buckets, number of samples, and the percentiles over them."""
    by = f"job, {segment.label}" if segment.label else "job"
    base = f"job:{segment.metric}"
    rate, count = f"job:{segment.metric}_bucket:rate{window}", f"job:{segment.metric}_count:increase{window}"
    rules = [
        {"record": rate, "expr": f"sum by ({by}, le) (rate({segment.metric}_bucket[{window}]))"},
        {"record": count, "expr": f"sum by ({by}) (increase({segment.metric}_count[{window}]))"},
    ]
    for name, q, minimum in QUANTILES:
        expr = f"histogram_quantile({q}, {rate}) and ignoring (le) {count} >= {minimum}"
        rules.append({"record": f"{base}:{name}_{window}", "expr": expr})
    return rules


def service_level_rules(window: str) -> list[dict[str, str]]:
    """For each of the three service levels: how many there were, how many were bad, and their ratio.

    "Within the target" is exact, because each target is a bucket boundary.
    """

    def increase(series: str) -> str:
        return f"sum by (job) (increase({series}[{window}]))"

    def beyond_target(segment: Segment, everything: str) -> str:
        within = increase(f'{segment.metric}_bucket{{le="{segment.target_s}"}}')
        return f"{everything} - {within}"

    totals = {
        "turns": increase(f"{TURN_GAP.metric}_count"),
        "bargeins": increase(f"{BARGEIN_SILENCE.metric}_count"),
        "calls": increase("offhook_calls_total"),
    }
    recorded = {name: f"job:offhook_{name}:increase{window}" for name in totals}
    bad = {
        "turns": beyond_target(TURN_GAP, recorded["turns"]),
        "bargeins": beyond_target(BARGEIN_SILENCE, recorded["bargeins"]),
        "calls": increase(f'offhook_calls_total{{reason=~"{FAULTS}"}}'),
    }
    rules = []
    for name, total in totals.items():
        bad_record = f"job:offhook_{name}_bad:increase{window}"
        rules += [
            {"record": recorded[name], "expr": total},
            {"record": bad_record, "expr": bad[name]},
            {"record": f"job:offhook_{name}_bad:ratio{window}", "expr": f"{bad_record} / {recorded[name]}"},
        ]
    return rules


def rule_files() -> dict[str, str]:
    """File name -> text, for everything this script writes."""
    with_percentiles = [s for s in SEGMENTS if s.headline or s in (BARGEIN_DETECT, BARGEIN_STOP)]  # parts of a headline
    groups = {
        "percentiles": {
            window: [rule for segment in with_percentiles for rule in percentile_rules(segment, window)]
            for window in ("5m", "1h")
        },
        "service_levels": {window: service_level_rules(window) for window in WINDOWS},
    }
    head = "# Written by infra/prometheus/make_rules.py: change that, not this.\n"
    return {
        f"{kind}.yml": head
        + yaml.safe_dump(
            {"groups": [{"name": f"offhook_{kind}_{w}", "rules": rules} for w, rules in by_window.items()]},
            sort_keys=False,
            width=1000,
        )
        for kind, by_window in groups.items()
    }


if __name__ == "__main__":
    for name, text in rule_files().items():
        (RULES / name).write_text(text)
        print(f"wrote {(RULES / name).relative_to(ROOT)}")
