from itertools import pairwise

import pytest

from offhook.metrics.segments import BY_NAME, GROWTH, GROWTH_HEADLINE, SEGMENTS, TURN_GAP, Segment


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda s: s.name)
class TestEverySegment:
    def test_buckets_keep_the_promised_width(self, segment: Segment) -> None:
        bounds = segment.buckets_s()
        growth = GROWTH_HEADLINE if segment.headline else GROWTH
        assert list(bounds) == sorted(set(bounds))
        assert bounds[0] == segment.lower_s
        assert bounds[-1] == segment.upper_s
        for low, high in pairwise(bounds):
            assert high / low <= growth * 1.0001  # five digits of rounding

    def test_every_threshold_is_a_boundary(self, segment: Segment) -> None:
        assert set(segment.thresholds_s) <= set(segment.buckets_s())
        if segment.target_s is not None:
            assert segment.target_s in segment.buckets_s()

    def test_help_names_start_and_end(self, segment: Segment) -> None:
        assert segment.help.startswith(f"{segment.start} -> {segment.end}.")
        assert "\n" not in segment.help

    def test_boundaries_are_short(self, segment: Segment) -> None:
        assert max(len(repr(b)) for b in segment.buckets_s()) <= 10


def test_headline_segments_are_the_ones_the_product_is_judged_by() -> None:
    assert {s.name for s in SEGMENTS if s.headline} == {
        "uplink_relative_delay",
        "model_first_audio",
        "output_onset_sent",
        "output_onset_played",
        "bargein_silence",
        "turn_gap",
    }
    assert all(s.target_s for s in SEGMENTS if s.headline)


def test_number_of_buckets_follows_range_and_growth() -> None:
    # 20 ms to 5 s: 115 boundaries at 5 %, 59 at 10 %: ceil(ln(hi/lo)/ln r) + 1.
    assert len(Segment("x", "a", "b", 0.02, 5.0, headline=True).buckets_s()) == 115
    assert len(Segment("x", "a", "b", 0.02, 5.0).buckets_s()) == 59


def test_names_are_unique_and_follow_prometheus_conventions() -> None:
    assert len(BY_NAME) == len(SEGMENTS)
    for segment in SEGMENTS:
        assert segment.metric == f"offhook_{segment.name}_seconds"
        assert segment.name.replace("_", "").isalpha()
        assert not segment.name.endswith(("_seconds", "_ms"))


def test_turn_gap_says_what_is_outside_it() -> None:
    assert "Twilio's edge" in TURN_GAP.help
    assert "230 to 300 ms" in TURN_GAP.help
