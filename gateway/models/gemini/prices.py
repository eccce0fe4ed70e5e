"""The Live API's prices: USD per million tokens, as published for the paid tier in October 2026.

A session's bill is the sum over every turn's counts: each turn is charged for the whole context again (Google: Live
API pricing).
"""

from __future__ import annotations

from collections.abc import Mapping

from offhook.gateway.models import Prices

__all__ = ["PRICES"]

_NOW = Prices(text_in=0.75, audio_in=3.00, image_in=1.00, text_out=4.50, audio_out=12.00)
PRICES: Mapping[str, Prices] = {
    "gemini-3.8-live": _NOW,
    "gemini-3.8-live-extended-thinking": _NOW,
    "gemini-3.1-flash-live-preview": _NOW,
}
