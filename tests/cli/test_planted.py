"""Mutations planted into gateways: what catches them, and what the run of all of them reports."""

from __future__ import annotations

import pytest

from offhook.gateway.cli.planted.mutations import MUTATIONS
from offhook.gateway.cli.planted.process import PlantedAnswer, PlantedOrder, play
from offhook.gateway.cli.planted.run import Catch, Found, PlantedReport, candidates
from offhook.gateway.cli.planted.seams import Mutation
from offhook.gateway.rehearsal.scenario.expect import KINDS

STANDING = {"rules", "whole", "agent_level", "caller_audio", "clocks", "released"}


@pytest.mark.parametrize(
    ("scenario", "mutation", "kind", "words"),
    [
        ("barge-in-stop", "no-clear", "barge_in_stopped_within_ms", "the agent went on talking over"),
        ("webhook-twice", "lost-tail", "whole", "the caller heard 380 ms less than the model's 900 ms"),
        ("hang-up-in-greeting", "session-kept", "released", "1 sessions of the model are open although no call"),
    ],
)
def test_a_mutation_is_caught_by_what_it_breaks(scenario, mutation, kind, words):
    answer = play(PlantedOrder(scenario=scenario, seed=1, mutation=mutation), speed=20.0)
    assert not answer.error
    assert words in answer.failed[kind]


def test_listening_mutations_change_nothing():
    answer = play(PlantedOrder(scenario="webhook-twice", seed=1), speed=20.0)
    assert not answer.failed
    assert not answer.error
    assert {"lost-tail", "marks-unread", "no-greeting"} <= answer.reached.keys()
    assert "tool-twice" not in answer.reached, "the scenario has no tool"


def test_each_mutation_is_named_by_an_expectation():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
    for mutation in MUTATIONS:
        assert mutation.named_by
        assert mutation.named_by <= KINDS.keys() | STANDING
        assert (mutation.call is None) != (mutation.agent is None)


def test_candidates_are_the_shortest_that_name_it():
    mutation = Mutation("late", "", frozenset({"no_gap"}))

    def clean(scenario: str, lasted_s: float, **changed) -> PlantedAnswer:
        fields = {"kinds": ["no_gap"], "reached": {"late": 1}, **changed}
        return PlantedAnswer(scenario=scenario, seed=1, mutation="", lasted_s=lasted_s, **fields)

    runs = [
        clean("long", 9.0),
        clean("short", 2.0),
        clean("other kind", 1.0, kinds=["rules"]),
        clean("not reached", 1.0, reached={}),
        clean("fails anyway", 1.0, failed={"no_gap": "a gap"}),
    ]
    assert candidates(mutation, runs, matrix=False) == ["short", "long"]
    assert candidates(mutation, runs, matrix=True) == ["other kind", "short", "long"]


def test_a_catch_by_chance_does_not_count():
    caught = Found(mutation="a", about="", caught=[Catch(scenario="x", failed={"whole": "less"})])
    chance = Found(mutation="b", about="", by_chance=[Catch(scenario="y", failed={"rules": "broken"})])
    report = PlantedReport(found=[caught] * 19 + [chance], clean=20, false_alarms=[])
    assert (report.recall, report.precision, report.ok) == (0.95, 0.95, True)
    assert not PlantedReport(found=[caught] * 18 + [chance] * 2, clean=20, false_alarms=[]).ok
    alarm = Catch(scenario="z", failed={"no_gap": "a gap"})
    assert not PlantedReport(found=[caught], clean=20, false_alarms=[alarm]).ok
