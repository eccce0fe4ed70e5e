import random
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.metrics.quantiles import Counts, SlidingWindow, Summary, exact, summarise

seconds = st.floats(min_value=1e-5, max_value=3600, allow_nan=False)


def windowed(samples: list[float]) -> Summary:
    window = SlidingWindow()
    for sample in samples:
        window.observe(100.0, sample)
    return window.window(100.0, 60)


def shapes(n: int) -> dict[str, list[float]]:
    rng = random.Random(7)
    return {
        "log-normal": [rng.lognormvariate(-0.4, 0.4) for _ in range(n)],
        "heavy-tailed": [0.2 * rng.paretovariate(1.3) for _ in range(n)],
        "bimodal": [rng.gauss(0.5, 0.02) if rng.random() < 0.9 else rng.gauss(3.0, 0.2) for _ in range(n)],
        "20 ms steps": [0.02 * ceil(rng.lognormvariate(3, 0.3)) for _ in range(n)],
        "constant": [0.8] * n,
        "sub-millisecond": [rng.expovariate(1 / 0.0004) + 1e-5 for _ in range(n)],
    }


class TestExact:
    def test_nearest_rank(self) -> None:
        summary = exact([float(i) for i in range(1000, 0, -1)])
        assert summary == Summary(count=1000, p50=500.0, p95=950.0, p99=990.0, max=1000.0)

    def test_no_samples(self) -> None:
        assert exact([]) == Summary(0, None, None, None, None)

    @pytest.mark.parametrize(
        ("n", "p95", "p99"), [(1, False, False), (19, False, False), (20, True, False), (299, True, False)]
    )
    def test_withheld_below_the_minimum(self, n: int, p95: bool, p99: bool) -> None:
        for summary in (exact([0.5] * n), windowed([0.5] * n)):
            assert summary.count == n
            assert summary.p50 is not None
            assert (summary.p95 is not None) == p95
            assert (summary.p99 is not None) == p99

    def test_p99_given_from_300_samples(self) -> None:
        assert exact([0.5] * 300).p99 == 0.5
        assert windowed([0.5] * 300).p99 == pytest.approx(0.5, rel=0.01)


class TestTruth:
    @pytest.mark.parametrize("shape", shapes(1))
    def test_window_is_within_one_percent_of_exact(self, shape: str) -> None:
        samples = shapes(5000)[shape]
        got, true = windowed(samples), exact(samples)
        assert got.count == true.count == 5000
        assert got.max == true.max
        for name in ("p50", "p95", "p99"):
            assert getattr(got, name) == pytest.approx(getattr(true, name), rel=0.01), name

    @given(st.lists(seconds, min_size=1, max_size=400))
    def test_any_samples(self, samples: list[float]) -> None:
        got, true = windowed(samples), exact(samples)
        assert (got.p95 is None) == (true.p95 is None)
        assert (got.p99 is None) == (true.p99 is None)
        for name in ("p50", "p95", "p99", "max"):
            if getattr(true, name) is not None:
                assert getattr(got, name) == pytest.approx(getattr(true, name), rel=0.0101), name

    def test_zero_and_the_very_small_are_counted(self) -> None:
        got = windowed([0.0, 1e-9, 1e-7])
        assert got.count == 3
        assert got.p50 is not None
        assert got.p50 <= 1e-6


class TestSliding:
    def test_samples_leave_the_window(self) -> None:
        window = SlidingWindow()
        window.observe(1000.2, 0.1)
        for now_s, expected in [(1000.9, 1), (1030.0, 1), (1059.0, 1), (1062.0, 0)]:
            assert window.window(now_s, 60).count == expected, now_s
        assert window.window(1290.0, 300).count == 1
        assert window.window(1400.0, 300).count == 0
        assert window.window(4500.0, 3600).count == 1
        assert window.window(4700.0, 3600).count == 0

    @given(st.lists(st.floats(0, 30), min_size=1, max_size=300), st.sampled_from([5, 60, 300, 3600]))
    def test_count_is_right_to_the_slot(self, pauses: list[float], span_s: int) -> None:
        window, times, now_s = SlidingWindow(), [], 50_000.0
        for pause in pauses:
            now_s += pause
            times.append(now_s)
            window.observe(now_s, 0.3)
        slot_s = 1 if span_s <= 300 else 60
        surely = sum(t > now_s - span_s + slot_s for t in times)
        at_most = sum(t > now_s - span_s - slot_s for t in times)
        assert surely <= window.window(now_s, span_s).count <= at_most

    def test_a_steady_stream_counts_in_every_span(self) -> None:
        window = SlidingWindow()
        for i in range(2 * 3600):
            window.observe(i + 0.5, 0.3)
        now_s = 2 * 3600 - 0.5
        assert window.window(now_s, 60).count == pytest.approx(60, abs=1)
        assert window.window(now_s, 300).count == pytest.approx(300, abs=31)
        assert window.window(now_s, 3600).count == pytest.approx(3600, abs=31)

    def test_history_holds_each_sample_in_one_interval(self) -> None:
        window, now_s = SlidingWindow(), 7 * 3600.0 + 42.5
        for span_s, points in [(60, 30), (300, 60), (3600, 60)]:
            window = SlidingWindow()
            width_s = span_s / points
            for i in range(4 * points):  # four in each stretch, the newest stretch still going on
                window.observe((int(now_s / width_s) - points + 1 + i / 4) * width_s, 0.1 + i // 4)
                if (int(now_s / width_s) - points + 1 + (i + 1) / 4) * width_s > now_s:
                    break
            history = window.history(now_s, span_s, points)
            assert len(history) == points
            for i, counts in enumerate(history[:-1]):
                assert sum(counts.bins.values()) == 4, (span_s, i)
                assert counts.max_s == pytest.approx(0.1 + i)
            assert 1 <= sum(history[-1].bins.values()) <= 4

    def test_old_slots_are_let_go(self) -> None:
        window = SlidingWindow()
        for i in range(3 * 3600):
            window.observe(float(i), 0.001 * (i % 100 + 1))
        assert len(window._seconds) <= 301
        assert len(window._minutes) <= 62


class TestMerging:
    def test_counts_of_two_replicas_are_added_not_averaged(self) -> None:
        quick, slow = SlidingWindow(), SlidingWindow()
        here = [0.3] * 900
        there = [2.0] * 100
        for sample in here:
            quick.observe(5.0, sample)
        for sample in there:
            slow.observe(5.0, sample)
        both = Counts()
        both.add(quick.counts(5.0, 60))
        both.add(slow.counts(5.0, 60))
        true = exact(here + there)
        assert summarise(both).p95 == pytest.approx(true.p95, rel=0.01)
        assert summarise(both).count == 1000

    def test_reading_does_not_change_the_window(self) -> None:
        window = SlidingWindow()
        window.observe(5.0, 0.3)
        first = window.counts(5.0, 60)
        first.add(first)
        assert window.window(5.0, 60).count == 1
