"""The Realtime API's prices: USD per million tokens, as published in autumn 2026.

Every response is charged for the whole conversation again, most of it as cached tokens. The caller's transcription is
billed apart, by another model, and is not part of these (OpenAI: model pages, "Managing costs").
"""

from __future__ import annotations

from collections.abc import Mapping

from offhook.gateway.models import Prices

__all__ = ["PRICES"]

_FULL = Prices(
    text_in=4.00, audio_in=32.00, image_in=5.00, text_out=24.00, audio_out=64.00, cached_in=0.40, cached_audio_in=0.40
)
_MINI = Prices(
    text_in=0.60, audio_in=10.00, image_in=0.80, text_out=2.40, audio_out=20.00, cached_in=0.06, cached_audio_in=0.30
)
PRICES: Mapping[str, Prices] = {
    "gpt-realtime-2.1": _FULL,
    "gpt-realtime-2": _FULL,
    "gpt-realtime-2.1-mini": _MINI,
    "gpt-realtime-1.5": Prices(
        text_in=4.00,
        audio_in=32.00,
        image_in=5.00,
        text_out=16.00,
        audio_out=64.00,
        cached_in=0.40,
        cached_audio_in=0.40,
    ),
}
