"""What one stream may send: each rule, its word, and that breaking it costs no more than the frame."""

from __future__ import annotations

import pytest

from offhook.gateway.carriers.twilio.guard import GAP_MAX, MESSAGES_BURST, StreamGuard
from offhook.gateway.carriers.twilio.messages import Dtmf, Mark, Media
from offhook.gateway.web.allowance import Allowance

FRAME = bytes([0xFF]) * 160


def frame(sequence: int, timestamp_ms: int = 0, payload: bytes = FRAME, sid: str = "MZ1") -> Media:
    return Media(payload, timestamp_ms, sequence, sequence, sid)


def guard() -> StreamGuard:
    return StreamGuard("MZ1", 100.0, sequence=1)


def test_a_sound_stream_breaks_nothing():
    g = guard()
    for n in range(500):
        now_s = 100.0 + n * 0.02
        assert not g.floods(now_s)
        assert g.take(frame(2 + n, n * 20 + 53))
        assert g.audio(frame(2 + n, n * 20 + 53), now_s) == n * 20 + 53
    assert g.take(Mark("r1.1.0", 502, "MZ1"))
    assert g.take(Dtmf("1", 503, "MZ1"))
    assert g.broken == []


@pytest.mark.parametrize(
    ("sequences", "taken", "broken"),
    [
        ([2, 3, 3, 4], [True, True, False, True], ["repeated"]),
        ([2, 4, 3, 5], [True, True, False, True], ["gap", "repeated"]),
        ([2, 2**50, 3, 4], [True, True, True, True], ["gap"]),  # not a count: it must not make all later ones old
        ([2, 2 + GAP_MAX, 3], [True, True, False], ["gap", "repeated"]),
        ([0, 0, 0], [True] * 3, []),  # a carrier that does not count
    ],
)
def test_counts(sequences: list[int], taken: list[bool], broken: list[str]):
    g = guard()
    assert [g.take(frame(n)) for n in sequences] == taken
    assert g.broken == broken


def test_another_stream_s_messages_are_left_out():
    g = guard()
    assert not g.take(frame(2, sid="MZ2"))
    assert g.take(frame(2, sid=""))
    assert g.broken == ["wrong_call"]


@pytest.mark.parametrize("timestamp_ms", [3_600_000, 2**53, 0])
def test_a_clock_that_jumps_is_put_right(timestamp_ms: int):
    g = guard()
    assert g.audio(frame(2, 500), 100.5) == 500
    assert g.audio(frame(3, timestamp_ms), 100.52) == 520
    assert g.audio(frame(4, 540), 100.54) == 540
    assert g.broken == ["bad_time"]


def test_audio_faster_than_time_is_dropped():
    g = guard()
    taken = [g.audio(frame(n, 0), 100.0) is not None for n in range(1000)]
    assert sum(taken) == 250  # five seconds of it
    assert g.broken == ["too_many"] * 750
    late = guard()
    assert all(late.audio(frame(n, n * 20), 110.0) is not None for n in range(500))  # ten seconds in one go


def test_a_file_header_is_no_audio():
    g = guard()
    assert g.audio(frame(2, 0, b"RIFF\x24\x00\x00\x00WAVEfmt "), 100.0) is None
    assert g.broken == ["bad_audio"]


def test_a_flood():
    g = guard()
    assert not any(g.floods(100.0) for _ in range(int(MESSAGES_BURST)))
    assert g.floods(100.0)
    assert not g.floods(101.0)


def test_an_allowance_fills_up_to_its_burst():
    allowance = Allowance(10.0, 3.0)
    assert [allowance.take(50.0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take(50.1)
    assert [allowance.take(99.0) for _ in range(4)] == [True, True, True, False]
    assert not allowance.take(98.0)  # a clock that goes back gives nothing
