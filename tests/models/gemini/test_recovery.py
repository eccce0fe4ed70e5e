"""The way back: each cause as the steps that are taken when nothing helps, then what always holds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.models.gemini.recovery import PATIENCE, Cause, Connect, GiveUp, Tried, cause_of, next_step


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (1000, "The operation was cancelled.", Cause.LIFETIME),
        (1001, "", Cause.NETWORK),
        (1006, "", Cause.NETWORK),
        (1007, "Request contains an invalid argument.", Cause.INVALID),
        (1008, "models/x is not found", Cause.REFUSED),
        (1008, "The operation was aborted.", Cause.BACKEND),
        (1009, "message too big", Cause.TOO_BIG),
        (1011, "Internal error encountered.", Cause.BACKEND),
        (1011, "Deadline expired before operation could complete.", Cause.LIFETIME),
        (1011, "keepalive ping timeout", Cause.BACKEND),
        (1013, "", Cause.BUSY),
        (1015, "its certificate is not trusted", Cause.FORBIDDEN),
        (401, "", Cause.FORBIDDEN),
        (404, "", Cause.FORBIDDEN),
        (429, "", Cause.BUSY),
        (503, "", Cause.BUSY),
        (0, "no answer", Cause.BACKEND),
    ],
)
def test_codes(code, reason, cause):
    assert cause_of(code, reason) is cause


def story(cause: Cause, has_handle: bool, took_s: float = 0.1, then: Cause | None = None) -> str:
    """The steps when every attempt fails: r resume, f fresh, b fresh and bare, each with its pause, then !."""
    tried, now_s, out = Tried(), 100.0, []
    while True:
        tried, step = next_step(tried, cause, now_s, has_handle=has_handle)
        if isinstance(step, GiveUp):
            return " ".join([*out, "!"])
        kind = "r" if step.resume else "b" if step.bare else "f"
        out.append(f"{kind}{step.after_s:g}")
        now_s += step.after_s + took_s
        cause = then or cause


@pytest.mark.parametrize(
    ("cause", "has_handle", "steps"),
    [
        (Cause.NETWORK, True, "r0 r0.5 r1 r2 r4 f0 f0.5 f1 !"),
        (Cause.LIFETIME, True, "r0 r0.5 r1 r2 r4 f0 f0.5 f1 !"),
        (Cause.ROTATION, True, "r0 r0.5 r1 r2 r4 f0 f0.5 f1 !"),
        (Cause.BACKEND, True, "r0 r0.5 f0 f0.5 f1 !"),
        (Cause.STUCK, True, "r0 f0 f0.5 f1 !"),
        (Cause.INVALID, True, "f0 !"),
        (Cause.TOO_BIG, True, "f0 !"),
        (Cause.REFUSED, True, "r0 f0 b0 !"),
        (Cause.FORBIDDEN, True, "!"),
        (Cause.NETWORK, False, "f0 f0.5 f1 f2 f4 f4 f4 f4 !"),
        (Cause.INVALID, False, "f0 !"),
        (Cause.REFUSED, False, "f0 b0 !"),
    ],
)
def test_the_steps_of_each_cause(cause, has_handle, steps):
    assert story(cause, has_handle) == steps


@pytest.mark.parametrize(
    ("then", "steps"),
    [
        (Cause.NETWORK, "f0 f0.5 f1 f2 f4 f4 f4 f4 !"),
        (Cause.BUSY, "f0 f0.5 f1 f2 f4 f4 f4 f4 !"),
        (Cause.BACKEND, "f0 f0.5 f1 !"),
        (Cause.INVALID, "f0 !"),
        (Cause.REFUSED, "f0 b0 !"),
        (Cause.FORBIDDEN, "f0 !"),
    ],
)
def test_a_start_that_fails(then, steps):
    assert story(Cause.START, False, then=then) == steps


def test_time_ends_it_too():
    assert story(Cause.NETWORK, True, took_s=10.0) == "r0 r0.5 r1 !"


def test_an_invalid_handle_is_not_used_again():
    tried, step = next_step(Tried(), Cause.NETWORK, 1.0, has_handle=True)
    assert step == Connect(0.0, resume=True)
    tried, step = next_step(tried, Cause.INVALID, 1.1, has_handle=True)
    assert step == Connect(0.0, resume=False)
    tried, step = next_step(tried, Cause.NETWORK, 1.2, has_handle=True)
    assert isinstance(step, Connect)
    assert not step.resume, "nor after yet another loss"


@given(
    st.lists(st.tuples(st.sampled_from(list(Cause)), st.booleans(), st.floats(0, 40)), min_size=30, max_size=60),
)
def test_no_order_of_losses_goes_on_for_ever(losses):
    tried, now_s = Tried(), 0.0
    for cause, has_handle, took_s in losses:
        tried, step = next_step(tried, cause, now_s, has_handle=has_handle)
        if isinstance(step, GiveUp):
            break
        assert step.resume <= has_handle
        assert step.after_s <= max(PATIENCE.delays_s)
        assert now_s - tried.since_s < PATIENCE.total_s
        now_s += step.after_s + took_s
    assert isinstance(step, GiveUp)
    assert tried.attempts <= PATIENCE.attempts


def test_every_cause_has_a_way():
    for cause, has_handle in itertools.product(Cause, (True, False)):
        assert story(cause, has_handle).endswith("!")
