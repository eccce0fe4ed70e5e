"""What tokens cost; pure. Prices change and operators can correct them: `prices_from` reads a mapping.

The figures are USD per million tokens as published for the paid tier in October 2026. A session's bill is the
sum over every turn's counts: each turn is charged for the whole context again (Google: Live API pricing).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.models import Usage
from offhook.gateway.yamlfile import read_yaml

__all__ = ["PRICES", "Prices", "check_limit", "cost", "load_prices", "price_of", "prices_from"]


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per million tokens, in one currency."""

    text_in: float
    audio_in: float
    image_in: float
    text_out: float
    audio_out: float


_NOW = Prices(text_in=0.75, audio_in=3.00, image_in=1.00, text_out=4.50, audio_out=12.00)
PRICES: Mapping[str, Prices] = {
    "gemini-3.8-live": _NOW,
    "gemini-3.8-live-extended-thinking": _NOW,
    "gemini-3.1-flash-live-preview": _NOW,
}
"""By model name; a model that is not here has no known cost."""


def prices_from(mapping: Mapping[str, Any]) -> dict[str, Prices]:
    """`PRICES` with the operator's own over them. Raises `OperatorError` naming the model and the field."""
    table = dict(PRICES)
    for model, row in mapping.items():
        try:
            table[model] = msgspec.convert(row, Prices)
        except msgspec.ValidationError as error:
            raise OperatorError(f"prices.{model}: {error}; give USD per million tokens for each") from None
    return table


def load_prices(path: str) -> Mapping[str, Prices]:
    """`PRICES`, with those of a YAML file (model name -> fields of `Prices`) over them; "" for none.

    Raises `OperatorError`.
    """
    if not path:
        return PRICES
    try:
        file = read_yaml(path)
        rows = file.convert(file.value or {}, dict[str, Any])
    except OperatorError as error:
        raise OperatorError(f"OFFHOOK_PRICES: {error}") from None
    return prices_from(rows)


def price_of(model: str, table: Mapping[str, Prices]) -> Prices | None:
    """A model's prices, its name with or without a resource path before it."""
    return table.get(model.rsplit("/", 1)[-1])


def check_limit(agent: Agent, table: Mapping[str, Prices]) -> None:
    """Raises `OperatorError` when the agent has a cost limit and its model no known price."""
    if agent.limits.cost is not None and price_of(agent.model.name, table) is None:
        raise OperatorError(
            f"agent {agent.name}: limits.cost cannot be kept, no price is known for {agent.model.name}: "
            "add it to the file of OFFHOOK_PRICES"
        )


def cost(usage: Usage, prices: Prices) -> float:
    """What one turn costs, in the currency of `prices`. Cached tokens are charged as text."""
    total = (
        (usage.text_in + usage.cached_in) * prices.text_in
        + usage.audio_in * prices.audio_in
        + usage.image_in * prices.image_in
        + usage.text_out * prices.text_out
        + usage.audio_out * prices.audio_out
    )
    return total / 1e6
