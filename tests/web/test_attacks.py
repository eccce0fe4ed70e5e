"""The attacks of `attacks.py` on a served gateway, as short as they can be; `make attack` has them for longer."""

from __future__ import annotations

import pytest

from tests.web.attacks import ATTACKS, Outcome, may_have_namespace, run

pytestmark = [pytest.mark.wall_clock, pytest.mark.usefixtures("forked")]

SECONDS = 0.5


@pytest.fixture(scope="module", params=["public addresses", "a proxy's address"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    public = request.param == "public addresses"
    if public and not may_have_namespace():
        pytest.skip("public addresses need root, unshare and ip: a network namespace")
    return {one.name: one for one in run(list(ATTACKS), public=public, seconds=SECONDS)}


def carrier_is_answered(outcome: Outcome) -> None:
    assert outcome.refusals == {}
    assert outcome.signed == outcome.answered
    assert outcome.signed >= 20


def test_idle_connections_do_not_shut_the_carrier_out(outcomes: dict[str, Outcome]) -> None:
    carrier_is_answered(outcomes["idle_keep_alive"])
    assert outcomes["idle_keep_alive"].figures["connections"] > 200


def test_silent_ones_do_not_shut_the_carrier_out(outcomes: dict[str, Outcome]) -> None:
    carrier_is_answered(outcomes["silent_connections"])
    assert outcomes["silent_connections"].figures["connections"] >= 550


def test_slow_bodies_do_not_shut_the_carrier_out(outcomes: dict[str, Outcome]) -> None:
    carrier_is_answered(outcomes["slow_bodies"])
    assert outcomes["slow_bodies"].figures["connections"] >= 1_000


def test_a_flood_without_signatures_spends_nothing(outcomes: dict[str, Outcome]) -> None:
    carrier_is_answered(outcomes["unsigned_flood"])
    figures = outcomes["unsigned_flood"].figures
    assert figures["403"] > 100
    assert "204" not in figures
    assert "200" not in figures


def test_garbage_does_not_shut_the_carrier_out(outcomes: dict[str, Outcome]) -> None:
    carrier_is_answered(outcomes["garbage"])
    figures = outcomes["garbage"].figures
    assert figures["400"] > 0
    assert figures["names its server"] == 0
    assert "other" not in figures


def test_the_right_secret_passes_while_others_guess(outcomes: dict[str, Outcome]) -> None:
    carrier_is_answered(outcomes["guessing"])
    figures = outcomes["guessing"].figures
    assert {name for name in figures if name.startswith("right")} == {"right 200", "right 404"}  # 404: no such call
    assert {name for name in figures if name.startswith("wrong")} == {"wrong 401", "wrong 429"}


def test_attacks_do_not_fill_the_log(outcomes: dict[str, Outcome]) -> None:
    for outcome in outcomes.values():
        assert outcome.figures["log lines"] < 20, outcome.name
        assert outcome.figures["log lines with a secret"] == 0, outcome.name
    assert outcomes["guessing"].figures["log lines"] >= 2  # failures are logged
