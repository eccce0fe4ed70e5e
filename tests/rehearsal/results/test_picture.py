"""The picture of a call: the right size, everything on it, and no words over other words."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.results.picture import draw, figure_of
from offhook.gateway.store.record import ToolRecord
from offhook.media.mulaw import encode
from tests.rehearsal.results.paper_call import paper_record, paper_truth


def sounding(truth: CallTruth) -> CallTruth:
    rng = np.random.default_rng(3)
    left, right = np.zeros(88_000, np.int16), np.zeros(88_160, np.int16)
    for utterance in truth.spoken:
        left[utterance.onset_place : utterance.end_place] = rng.normal(
            0, 4000, utterance.end_place - utterance.onset_place
        )
    for run in truth.played:
        right[run.place : run.place + run.samples] = rng.normal(0, 4000, run.samples)
    truth.left, truth.right = encode(left), encode(right)
    return truth


def words_of(figure) -> dict[str, object]:
    [axes] = figure.axes
    figure.canvas.draw()
    texts = [text for text in [*axes.texts, *axes.get_yticklabels(), *figure.texts] if text.get_text().strip()]
    return {text.get_text(): text.get_window_extent() for text in texts}


@pytest.mark.parametrize("stretch", [1, 3, 30], ids=["11 s", "33 s", "5 minutes"])
def test_texts_do_not_overlap(stretch):
    truth, record = sounding(paper_truth()), paper_record()
    if stretch > 1:  # the same call followed by long silence: everything is crowded to the left
        silence = bytes([0xFF]) * 88_000 * (stretch - 1)
        truth.left, truth.right = truth.left + silence, truth.right + silence
    figure = figure_of(truth, call_report(truth, record, scenario="paper"))
    boxes = words_of(figure)
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or down <= 1, f"{one!r} over {other!r}"
    for words, box in boxes.items():
        assert box.x0 >= 0, f"{words!r} runs off the left"
        assert box.x1 <= 1600, f"{words!r} runs off the right"


def test_turns_barge_in_tools_and_answers_are_marked():
    truth = sounding(paper_truth())
    shown = " ".join(" ".join(words_of(figure_of(truth, call_report(truth, paper_record(), scenario="paper")))).split())
    for words in ("paper", "a table", "no, two", "Hello.", "Let me", "[not heard:", "Two it is.", "620 ms", "1020 ms"):
        assert words in shown
    assert "barge-in: clear after 120 ms, silence after 140 ms" in shown
    assert "3.0 s dropped unheard" in shown
    assert "look: cancelled after 1.6 s" in shown
    assert "end_call: done after 1 ms" in shown
    assert "silent after 140 ms" in shown


def test_tools_close_together_get_separate_rows():
    truth, record = sounding(paper_truth()), paper_record()
    record.tool_calls = [
        ToolRecord(call_id=str(n), name="look", requested_ms=3000 + 100 * n, finished_ms=3050 + 100 * n, outcome="done")
        for n in range(2)
    ]
    figure = figure_of(truth, call_report(truth, record))
    rows = {text.get_position()[1] for text in figure.axes[0].texts if text.get_text().strip().startswith("look")}
    assert len(rows) == 2


def test_picture_is_1600_px_even_for_an_empty_call(tmp_path):
    for name, truth in (
        ("full", sounding(paper_truth())),
        ("empty", CallTruth(call_sid="CA0", ended_by="webhook_failed")),
    ):
        path = tmp_path / "deep" / f"{name}.png"
        draw(truth, call_report(truth, paper_record() if name == "full" else None), path)
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        assert int.from_bytes(header[16:20], "big") == 1600


def test_a_dismissed_barge_in_is_labelled():
    truth, record = sounding(paper_truth()), paper_record()
    record.barge_ins[0].verdict = "dismissed"
    words = " ".join(words_of(figure_of(truth, call_report(truth, record))))
    assert "barge-in dismissed: clear after 120 ms" in words
    assert "3.0 s kept for later" in words
