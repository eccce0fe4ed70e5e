"""What measuring costs: an observation, a frame's share, a scrape, and the stall a scrape puts on the event loop.

    python tests/bench/bench_metrics.py

All figures are of this machine and this run; the ratios are what may be compared.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from offhook.gateway.labels import LABELS
from offhook.metrics.catalogue import Metrics, WorstPerSecond
from offhook.metrics.quantiles import exact
from offhook.metrics.segments import SEGMENTS, TURN_GAP, UPLINK_RELATIVE_DELAY

N = 200_000


def each_us(work: Callable[[], None], n: int) -> float:
    """Best of five, microseconds for each of n."""
    best_s = float("inf")
    for _ in range(5):
        start_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s / n * 1e6


def touch_all(metrics: Metrics, seconds: float) -> None:
    """One more sample in every series, so that nothing cached can be used."""
    for segment in SEGMENTS:
        if not segment.rig_only:
            for label in segment.values or ("",):
                metrics.observe(segment, seconds, label)


def observing() -> None:
    rng = random.Random(1)
    samples = [rng.lognormvariate(-0.4, 0.4) for _ in range(N)]
    metrics = Metrics(CollectorRegistry(), LABELS)
    theirs = Histogram("a", "b", buckets=TURN_GAP.buckets_s(), registry=CollectorRegistry())
    worst = WorstPerSecond(metrics, UPLINK_RELATIVE_DELAY)
    times = [i * 0.02 for i in range(N)]

    def ours_work() -> None:
        for sample in samples:
            metrics.observe(TURN_GAP, sample, "played")

    def theirs_work() -> None:
        for sample in samples:
            theirs.observe(sample)

    def frame_work() -> None:
        for now_s, sample in zip(times, samples, strict=True):
            worst.add(now_s, sample)

    def count_work() -> None:
        for _ in samples:
            metrics.frames_in.inc()

    ours, client = each_us(ours_work, N), each_us(theirs_work, N)
    frame, count = each_us(frame_work, N), each_us(count_work, N)
    print(f"observe, histogram and windows      {ours:6.2f} us")
    print(f"prometheus_client, same buckets     {client:6.2f} us   ratio {client / ours:.2f}")
    print(f"per-frame segment (worst a second)  {frame:6.2f} us")
    print(f"frame counted                       {count:6.2f} us")
    per_call = 50 * (2 * frame + 2 * count) + 2 * ours
    print(f"so one call, 50 frames/s, two per-frame segments, two counters: {per_call / 1e4:.4f} % of a core")


def rendering() -> None:
    metrics = Metrics(CollectorRegistry(), LABELS, tools=[f"tool_{i}" for i in range(8)])
    text = metrics.render()
    lines = len(text.splitlines())
    print(f"\nexposition: {lines:,} lines, {len(text) / 1000:.0f} kB")
    times: dict[str, list[float]] = {"generate_latest": [], "render, all changed": [], "render, unchanged": []}
    for i in range(40):
        touch_all(metrics, 0.01 * (i + 1))
        for name, work in (
            ("render, all changed", metrics.render),
            ("render, unchanged", metrics.render),
            ("generate_latest", lambda: generate_latest(metrics.registry)),
        ):
            start_s = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start_s)
    for name, seconds in times.items():
        middle = sorted(seconds)[len(seconds) // 2]
        print(f"{name:20} median {middle * 1e3:6.2f} ms, worst {max(seconds) * 1e3:6.2f} ms")


async def stall(render: Callable[[Metrics], Awaitable[object]] | None, seconds: float = 10.0) -> list[float]:
    """Lateness of a 20 ms ticker, in seconds, while something is rendered five times a second."""
    metrics = Metrics(CollectorRegistry(), LABELS, tools=[f"tool_{i}" for i in range(8)])
    metrics.render()
    late_s: list[float] = []

    async def scrapes() -> None:
        while render is not None:
            touch_all(metrics, 0.3)
            await render(metrics)
            await asyncio.sleep(0.2003)  # drifts through the ticker's phase

    scraping = asyncio.create_task(scrapes())
    start_s = time.perf_counter()
    for i in range(1, int(seconds / 0.02)):
        due_s = start_s + i * 0.02
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        late_s.append(max(0.0, time.perf_counter() - due_s))
    scraping.cancel()
    return late_s


def stalling() -> None:
    async def whole(metrics: Metrics) -> None:
        metrics.render()

    async def latest(metrics: Metrics) -> None:
        generate_latest(metrics.registry)

    print("\nlateness of a 20 ms ticker under five scrapes a second, every series changed:")
    for name, render in (
        ("no scrape", None),
        ("render_in_slices", Metrics.render_in_slices),
        ("render", whole),
        ("generate_latest", latest),
    ):
        late_s = asyncio.run(stall(render))
        summary = exact(late_s)
        p99 = summary.p99 or max(late_s)
        print(f"{name:20} P99 {p99 * 1e3:6.2f} ms, worst {max(late_s) * 1e3:6.2f} ms, {summary.count} ticks")


if __name__ == "__main__":
    observing()
    rendering()
    stalling()
