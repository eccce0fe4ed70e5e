"""Transcript: in media order, each reply with the words that were heard."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.conversation.transcript import (
    Passage,
    Sounded,
    Transcript,
    agent_said,
    caller_said,
    heard_text,
    lines,
    reply_text,
)

SECOND = 8_000


def said(*pieces: tuple[str, int]) -> Transcript:
    t = Transcript()
    for text, received in pieces:
        t = agent_said(t, 1, text, received)
    return t


# --- what was heard


def test_all_of_it():
    t = said(("We have a table", 0), (" at eight.", SECOND))
    assert reply_text(t, 1) == "We have a table at eight."
    assert heard_text(t, 1, 2 * SECOND, 2 * SECOND) == "We have a table at eight."


def test_none_of_it():
    t = said(("We have a table", 0))
    assert heard_text(t, 1, 0, 2 * SECOND) == ""
    assert heard_text(t, 1, 0, 0) == ""
    assert heard_text(t, 7, SECOND, SECOND) == ""
    assert reply_text(t, 7) == ""


@pytest.mark.parametrize(
    ("heard_s", "text"),
    [(0.2, ""), (0.5, "one"), (1.0, "one two"), (1.4, "one two"), (1.5, "one two three"), (1.99, "one two three")],
)
def test_text_at_once_is_spread_and_cut_at_word_end(heard_s, text):
    t = said(("one two three four", 0))
    assert heard_text(t, 1, int(heard_s * SECOND), 2 * SECOND) == text


def test_text_ahead_of_audio_begins_on_arrival():
    """A pause of two seconds between the sentences: the second is not heard while it lasts."""
    t = said(("Let me see.", 0), (" Friday is full.", 3 * SECOND))
    assert heard_text(t, 1, 3 * SECOND, 4 * SECOND) == "Let me see."
    assert heard_text(t, 1, int(3.8 * SECOND), 4 * SECOND) == "Let me see. Friday is"


def test_text_behind_its_audio_ends_where_it_arrived():
    t = said(("Let me see.", SECOND), (" Friday is full.", 4 * SECOND))
    assert heard_text(t, 1, SECOND, 4 * SECOND) == "Let me see."
    assert heard_text(t, 1, int(0.5 * SECOND), 4 * SECOND) == "Let"


def test_late_text_is_spread_evenly():
    t = said(("one two", 2 * SECOND), (" three four", 2 * SECOND))
    assert heard_text(t, 1, SECOND, 2 * SECOND) == "one two"


def test_text_without_spaces_is_cut_by_character():
    t = said(("金曜日の夜は大変込み合っておりますので少々お待ちくださいませ今すぐ確認いたします", 0))
    heard = heard_text(t, 1, SECOND, 2 * SECOND)
    assert 15 <= len(heard) <= 25


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.text(alphabet="ab ", min_size=1, max_size=12), st.integers(0, 9_000)), min_size=1, max_size=9
    ),
    st.integers(1, 9_000),
    st.lists(st.integers(0, 10_000), min_size=2, max_size=2),
)
def test_more_heard_is_never_fewer_words(pieces, received, heard):
    """Whatever the pieces: a beginning of the text, whole words, and growing with what was heard."""
    t = said(*pieces)
    text = reply_text(t, 1)
    less, more = (heard_text(t, 1, h, received) for h in sorted(heard))
    assert text.startswith(more)
    assert more.startswith(less)
    cut_word = more and more != text and text[len(more)] != " "
    assert not cut_word or len(max(text.split(), key=len)) > 24, "only writing without spaces is cut anywhere"


# --- the caller's lines


def test_pieces_of_one_speech_are_one_line():
    t = caller_said(Transcript(), " I would like", 1.0, False)
    t = caller_said(t, " a table.", 1.0, True)
    assert lines(t, {}) == [Passage(1.0, "caller", "I would like a table.")]


def test_finished_is_best_effort():
    t = caller_said(Transcript(), "Hello,", 1.0, True)
    t = caller_said(t, " it is me.", 1.0, True)
    assert [line.text for line in lines(t, {})] == ["Hello, it is me."]


def test_a_new_speech_is_a_new_line():
    t = caller_said(Transcript(), "Hello.", 1.0, True)
    t = caller_said(t, "Is anybody there?", 5.0, True)
    assert [line.text for line in lines(t, {})] == ["Hello.", "Is anybody there?"]


def test_a_pause_for_breath_is_none():
    t = caller_said(Transcript(), "A table", 1.0, False)
    t = caller_said(t, " for two.", 2.5, False)
    assert lines(t, {}) == [Passage(1.0, "caller", "A table for two.")]


def test_the_agents_answer_closes_the_callers_line():
    t = caller_said(Transcript(), "A table.", 1.0, False)
    t = agent_said(t, 1, "For when?", 0)
    t = caller_said(t, "Friday.", 6.0, False)
    assert [line.text for line in lines(t, {1: Sounded(3.0, 800, 800)})] == ["A table.", "For when?", "Friday."]
    late = caller_said(agent_said(caller_said(Transcript(), "A ta", 1.0, False), 1, "When?", 0), "ble.", 1.0, True)
    assert lines(late, {}) == [Passage(1.0, "caller", "A table.")]


def test_a_repeated_transcript_is_left_out():
    t = caller_said(Transcript(), "I would like a table.", 1.0, True)
    t = caller_said(t, " I would like a table.", 51.0, True)
    assert len(lines(t, {})) == 1
    no = caller_said(caller_said(Transcript(), " no", 1.0, False), " no", 1.0, False)
    assert lines(no, {})[0].text == "no no"


# --- in order


def test_lines_are_in_the_order_of_the_media():
    """The caller's words are written down after the agent has begun to answer them."""
    t = agent_said(Transcript(), 1, "Welcome.", 0)
    t = agent_said(t, 2, "Saturday is fine.", 0)
    t = caller_said(t, "Saturday?", 4.0, True)
    sounded = {2: Sounded(6.0, SECOND // 2, SECOND), 1: Sounded(0.5, SECOND, SECOND)}
    assert lines(t, sounded) == [
        Passage(0.5, "agent", "Welcome.", "Welcome."),
        Passage(4.0, "caller", "Saturday?"),
        Passage(6.0, "agent", "Saturday is fine.", "Saturday"),
    ]


def test_what_never_sounded_did_not_stand_on_the_line():
    t = agent_said(agent_said(Transcript(), 1, "Too late.", 0), 2, " ", 0)
    t = caller_said(t, " ", 1.0, True)
    assert lines(t, {2: Sounded(1.0, 0, 800)}) == []
