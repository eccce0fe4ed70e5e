"""What a call costs, by the published prices and the operator's."""

import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.models.pricing import PRICES, cost, prices_from

LIVE = PRICES["gemini-3.8-live"]


def test_a_minute_each_way_costs_what_the_price_list_says_of_a_minute():
    # 25 tokens a second: 0.005 USD a minute in, 0.018 out (rounded there)
    assert cost({"promptTokenCount": 1500, "promptTokensDetails.AUDIO": 1500}, LIVE) == pytest.approx(0.0045)
    assert cost({"responseTokenCount": 1500, "responseTokensDetails.AUDIO": 1500}, LIVE) == pytest.approx(0.018)


def test_what_has_no_modality_is_text_and_thoughts_are_text_out():
    usage = {
        "promptTokenCount": 1_000_000,
        "promptTokensDetails.AUDIO": 600_000,
        "promptTokensDetails.IMAGE": 100_000,
        "toolUsePromptTokenCount": 100_000,
        "responseTokenCount": 200_000,
        "responseTokensDetails.AUDIO": 100_000,
        "thoughtsTokenCount": 100_000,
    }
    assert cost(usage, LIVE) == pytest.approx(0.4 * 0.75 + 0.6 * 3 + 0.1 * 1 + 0.2 * 4.5 + 0.1 * 12)


def test_details_that_exceed_the_total_are_never_a_refund():
    assert cost({"promptTokenCount": 5, "promptTokensDetails.AUDIO": 10}, LIVE) == pytest.approx(30e-6)
    assert cost({}, LIVE) == 0


def test_turns_add_up():
    turns = [{"promptTokenCount": 100 * n, "responseTokenCount": 30} for n in range(1, 6)]
    total = {k: sum(t[k] for t in turns) for k in turns[0]}
    assert sum(cost(t, LIVE) for t in turns) == pytest.approx(cost(total, LIVE))


def test_the_operators_prices_are_checked():
    row = {"text_in": 1, "audio_in": 2, "image_in": 3, "text_out": 4, "audio_out": 5}
    table = prices_from({"my-model": row})
    assert table["my-model"].audio_out == 5
    assert table["gemini-3.8-live"] == LIVE
    with pytest.raises(OperatorError, match=r"prices\.my-model: .*audio_out"):
        prices_from({"my-model": {**row, "audio_out": "dear"}})
    with pytest.raises(OperatorError, match="audio_uot"):
        prices_from({"my-model": {**row, "audio_uot": 1}})
