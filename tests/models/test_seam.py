"""The seam to a model: what links count goes to metrics that exist, under labels that they know."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.models import LINK_METRICS, LinkCount, Problem
from offhook.gateway.models.gemini.link import SESSION_RESULTS
from offhook.gateway.models.openai.recovery import ERRORS
from offhook.metrics.catalogue import INPUT_ERRORS, MODEL_ERRORS, Metrics, Tally
from offhook.metrics.catalogue import SESSION_RESULTS as KNOWN_RESULTS

REASONS = {
    LinkCount.SESSION_FAILED: (*SESSION_RESULTS.values(), "refused"),
    LinkCount.MALFORMED: INPUT_ERRORS,
    LinkCount.MODEL_ERROR: {*MODEL_ERRORS, *(cause.value for cause in ERRORS)},
}


@pytest.mark.parametrize("what", LINK_METRICS)
def test_a_count_has_a_metric_with_these_labels(what: LinkCount) -> None:
    name, *labels = LINK_METRICS[what]
    tally = getattr(Metrics(CollectorRegistry(), LABELS), name)
    assert isinstance(tally, Tally)
    for reason in REASONS.get(what, (None,)):
        given = [*labels, *([reason] if reason else [])]
        assert all(value in known for value, known in zip(given, tally._known, strict=True)), given


def test_failed_sessions_have_results_of_the_catalogue() -> None:
    assert {*SESSION_RESULTS.values(), "refused", "ready"} == set(KNOWN_RESULTS)


def test_counts_without_a_metric_are_these() -> None:
    assert set(LinkCount) - set(LINK_METRICS) == {
        LinkCount.NOTE_OMITTED,
        LinkCount.MESSAGE_DROPPED,
        LinkCount.RESULT_DROPPED,
        LinkCount.REPEATED,
        LinkCount.HANDLE,
        LinkCount.TURN_CUT,
    }


def test_a_problem_reads_as_a_line() -> None:
    assert str(Problem("voice", "use one of Kore, Puck")) == "voice: use one of Kore, Puck"
