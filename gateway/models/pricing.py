"""What tokens cost. A provider's `Model.prices` has the published figures; the operator's own replace them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.models import Prices, Usage
from offhook.gateway.yamlfile import read_yaml

__all__ = ["check_limit", "cost", "costs", "load_prices", "price_of", "prices_from"]


def prices_from(mapping: Mapping[str, Any], published: Mapping[str, Prices]) -> dict[str, Prices]:
    """`published` with the operator's own over them. Raises `OperatorError` naming the model and the field."""
    table = dict(published)
    for model, row in mapping.items():
        try:
            table[model] = msgspec.convert(row, Prices)
        except msgspec.ValidationError as error:
            raise OperatorError(f"prices.{model}: {error}; give USD per million tokens for each") from None
    return table


def load_prices(path: str, published: Mapping[str, Prices]) -> Mapping[str, Prices]:
    """`published`, with those of a YAML file (model name -> fields of `Prices`) over them; "" for none.

    Raises `OperatorError`.
    """
    if not path:
        return published
    try:
        file = read_yaml(path)
        rows = file.convert(file.value or {}, dict[str, Any])
    except OperatorError as error:
        raise OperatorError(f"OFFHOOK_PRICES: {error}") from None
    return prices_from(rows, published)


def price_of(model: str, table: Mapping[str, Prices]) -> Prices | None:
    """A model's prices, its name with or without a resource path before it."""
    return table.get(model.rsplit("/", 1)[-1])


def check_limit(agent: Agent, model: str, table: Mapping[str, Prices], cost_per_day_usd: float = 0.0) -> None:
    """Raises `OperatorError` when the agent has a cost limit and its model (`Model.name_of`) no known price.

    `cost_per_day_usd`: the limit of the process, 0 for none.
    """
    limits = {
        "limits.cost": agent.limits.cost,
        "limits.cost_per_day": agent.limits.cost_per_day,
        "OFFHOOK_COST_PER_DAY": cost_per_day_usd or None,
    }
    given = next((name for name, usd in limits.items() if usd is not None), "")
    if given and price_of(model, table) is None:
        raise OperatorError(
            f"agent {agent.name}: {given} cannot be kept, no price is known for {model}: "
            "add it to the file of OFFHOOK_PRICES"
        )


def costs(usage: Usage, prices: Prices) -> dict[str, float]:
    """What each part of one turn costs, in the currency of `prices`. Cached tokens without a row of their own are
    charged as text.
    """
    cached = prices.text_in if prices.cached_in is None else prices.cached_in
    cached_audio = cached if prices.cached_audio_in is None else prices.cached_audio_in
    parts = {
        "text_in": usage.text_in * prices.text_in,
        "cached_in": usage.cached_in * cached,
        "cached_audio_in": usage.cached_audio_in * cached_audio,
        "audio_in": usage.audio_in * prices.audio_in,
        "image_in": usage.image_in * prices.image_in,
        "text_out": usage.text_out * prices.text_out,
        "audio_out": usage.audio_out * prices.audio_out,
    }
    return {name: price / 1e6 for name, price in parts.items() if price}


def cost(usage: Usage, prices: Prices) -> float:
    """What one turn costs."""
    return sum(costs(usage, prices).values())
