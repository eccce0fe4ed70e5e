"""The circuit breaker, by its own clock."""

from __future__ import annotations

from offhook.gateway.tools.breaker import Breaker


def failing(times: int, now_s: float = 0.0) -> Breaker:
    breaker = Breaker(failures_max=3, open_s=20.0)
    for _ in range(times):
        assert breaker.admits(now_s)
        breaker.ended(now_s, False)
    return breaker


def test_only_failures_in_a_row_open_the_breaker() -> None:
    assert not failing(3).admits(0.0)
    breaker = failing(2)
    breaker.ended(0.0, True)
    breaker.ended(0.0, False)
    breaker.ended(0.0, False)
    assert breaker.admits(0.0)


def test_after_its_time_a_breaker_allows_one_attempt() -> None:
    breaker = failing(3)
    assert not breaker.admits(19.9)
    assert breaker.admits(20.0)
    assert not breaker.admits(20.0)


def test_the_trial_decides() -> None:
    breaker = failing(3)
    assert breaker.admits(20.0)
    breaker.ended(21.0, False)
    assert not breaker.admits(40.9)
    assert breaker.admits(41.0)
    breaker.ended(41.5, True)
    assert breaker.admits(41.5)
    assert breaker.admits(41.5)


def test_a_cancelled_trial_leaves_the_place_to_another() -> None:
    breaker = failing(3)
    assert breaker.admits(20.0)
    breaker.ended(20.5, None)
    assert breaker.is_open
    assert breaker.admits(20.5)
