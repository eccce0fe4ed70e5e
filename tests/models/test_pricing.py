"""What a call costs, by the published prices and the operator's."""

import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.models import Usage
from offhook.gateway.models.gemini.prices import PRICES
from offhook.gateway.models.pricing import cost, prices_from

LIVE = PRICES["gemini-3.8-live"]


def test_a_minute_each_way_costs_the_published_price():
    # 25 tokens a second: 0.005 USD a minute in, 0.018 out (rounded there)
    assert cost(Usage(audio_in=1500), LIVE) == pytest.approx(0.0045)
    assert cost(Usage(audio_out=1500), LIVE) == pytest.approx(0.018)


def test_each_kind_has_its_price():
    usage = Usage(text_in=400_000, audio_in=600_000, image_in=100_000, text_out=200_000, audio_out=100_000)
    assert cost(usage, LIVE) == pytest.approx(0.4 * 0.75 + 0.6 * 3 + 0.1 * 1 + 0.2 * 4.5 + 0.1 * 12)
    assert cost(Usage(), LIVE) == 0


def test_totals_and_names_cost_nothing():
    assert cost(Usage(input_total=100, output_total=100, by_name={"total": 200}), LIVE) == 0


def test_cached_tokens_cost_as_much_as_text():
    assert cost(Usage(cached_in=1_000_000), LIVE) == pytest.approx(0.75)


def test_the_operators_prices_are_checked():
    row = {"text_in": 1, "audio_in": 2, "image_in": 3, "text_out": 4, "audio_out": 5}
    table = prices_from({"my-model": row}, PRICES)
    assert table["my-model"].audio_out == 5
    assert table["gemini-3.8-live"] == LIVE
    with pytest.raises(OperatorError, match=r"prices\.my-model: .*audio_out"):
        prices_from({"my-model": {**row, "audio_out": "dear"}}, PRICES)
    with pytest.raises(OperatorError, match="audio_uot"):
        prices_from({"my-model": {**row, "audio_uot": 1}}, PRICES)
