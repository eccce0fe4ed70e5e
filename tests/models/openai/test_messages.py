"""Bytes on the wire and back."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.errors import Malformed
from offhook.gateway.models.openai import messages as wire
from offhook.gateway.models.openai.memory import CallSoFar
from offhook.gateway.models.openai.prices import PRICES
from offhook.gateway.models.pricing import cost

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def test_audio_is_sent_as_the_carrier_sent_it() -> None:
    codes = bytes(range(160))
    sent = json.loads(wire.append(codes))
    assert sent == {"type": "input_audio_buffer.append", "audio": base64.b64encode(codes).decode()}


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4) | st.binary(max_size=40))
def test_any_message_is_an_event_or_malformed(message: Any) -> None:
    data = message if isinstance(message, bytes) else json.dumps({"type": "response.done", **message}).encode()
    with contextlib.suppress(Malformed):
        assert isinstance(wire.parse(data).type, str)


@given(JSON)
def test_any_usage_is_counted_without_an_error(counts: Any) -> None:
    usage = wire.usage_of(counts if isinstance(counts, dict) else {"input_tokens": counts})
    assert min(usage.text_in, usage.audio_in, usage.cached_in, usage.text_out, usage.audio_out) >= 0


def test_cached_tokens_are_part_of_the_input() -> None:
    usage = wire.usage_of(
        {
            "total_tokens": 1_500,
            "input_tokens": 1_200,
            "output_tokens": 300,
            "input_token_details": {
                "text_tokens": 400,
                "audio_tokens": 800,
                "cached_tokens": 900,
                "cached_tokens_details": {"text_tokens": 300, "audio_tokens": 600},
            },
            "output_token_details": {"text_tokens": 100, "audio_tokens": 200},
        }
    )
    assert (usage.text_in, usage.audio_in, usage.cached_in, usage.cached_audio_in) == (100, 200, 300, 600)
    assert (usage.text_out, usage.audio_out, usage.input_total, usage.output_total) == (100, 200, 1_200, 300)
    dollars = (100 * 4 + 200 * 32 + 900 * 0.4 + 100 * 24 + 200 * 64) / 1e6
    assert cost(usage, PRICES["gpt-realtime-2.1"]) == pytest.approx(dollars)


@pytest.mark.parametrize("text", ['{"day": "Fri', "[1]", "7", "null"])
def test_arguments_that_were_cut_off_are_none(text: str) -> None:
    assert wire.arguments_of(text) is None


def test_call_so_far_has_what_was_heard_in_order() -> None:
    so_far = CallSoFar()
    so_far.agent_words(1, "Good morning, this is the Blue Door.")
    so_far.caller_spoke("item_1")
    so_far.agent_words(2, "On Friday there is one by the window.")
    so_far.caller_words("item_1", "A table, please.")  # transcripts come late
    so_far.cut(2, 0.5)
    assert so_far.items() == [
        ("assistant", "Good morning, this is the Blue Door."),
        ("user", "A table, please."),
        ("assistant", "On Friday there is"),
    ]
    for turn in range(3, 500):
        so_far.agent_words(turn, "x" * 500)
    assert sum(len(text) for _, text in so_far.items()) <= 6_000


def test_another_process_goes_on_with_the_call_so_far() -> None:
    there, here = CallSoFar(), CallSoFar()
    there.caller_words("item_1", "A table for two.")
    there.agent_words(7, "For which day?")
    here.restore(there.kept())
    here.agent_words(1, "Go on.")
    assert here.items() == [("user", "A table for two."), ("assistant", "For which day?"), ("assistant", "Go on.")]
