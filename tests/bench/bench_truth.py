"""What the gateway says of latency against what was: percentiles of each headline segment, four ways.

Calls with known, heavy-tailed delays run through a gateway process; the truth is what carrier and model saw on the
same clock (tests/truth.py), a stretch as wide as this machine was late. "off" is how far a figure lies outside it.

    python -m tests.bench.bench_truth [--calls N] [--turns N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from offhook.metrics.quantiles import exact
from offhook.metrics.segments import BY_NAME
from tests.infra.running import running


def off(got_s: float, least_s: float, most_s: float) -> str:
    """How far outside the truth, in ms and in per cent."""
    out_s = max(least_s - got_s, got_s - most_s, 0.0)
    return f"{out_s * 1000:5.1f} ms {100 * out_s / max(most_s, 1e-9):4.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--turns", type=int, default=40)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), calls=arguments.calls, turns=arguments.turns, faults=False) as live,
    ):
        late = exact(live.late_s)
        print(f"{arguments.calls} calls, {live.took_s:.0f} s; this process late: P50 {(late.p50 or 0) * 1000:.1f} ms, "
              f"P99 {(late.p99 or 0) * 1000:.1f} ms")  # fmt: skip
        print(f"{'segment':22} {'':4} {'samples':>7} {'truth':>19}  {'Prometheus':>10} {'off':>15}  "
              f"{'live JSON':>10} {'off':>15}  {'report':>10} {'off':>15}")  # fmt: skip
        for name in live.truth.samples:
            least, most = exact(live.truth.least(name)), exact(live.truth.most(name))
            of = '{basis="played"}' if name == "turn_gap" else ""
            buckets = f"sum by (le) (rate({BY_NAME[name].metric}_bucket{of}[5m]))"
            for q in ("p50", "p95", "p99"):
                low, high = getattr(least, q), getattr(most, q)
                if low is None:
                    continue
                ways = [live.prometheus.value(f"histogram_quantile(0.{q[1:]}, {buckets})", live.at_s)]
                ways += [live.percentiles[name].get(f"{q}_ms", float("nan")) / 1000]
                reported = live.report["totals"]["segments"].get(name)
                ways += [reported[f"{q}_ms"] / 1000] if reported else []
                told = "".join(f"  {got * 1000:10.1f} {off(got, low, high):>15}" for got in ways)
                print(f"{name:22} {q:4} {least.count:7} {low * 1000:8.1f} - {high * 1000:8.1f}{told}")


if __name__ == "__main__":
    main()
