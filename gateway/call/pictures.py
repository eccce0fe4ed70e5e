"""The pictures that a caller shows the model: what is let through, and what is counted. None of them is kept."""

from __future__ import annotations

from collections.abc import Callable

from offhook.gateway.call.line import PictureRefusal
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.models import ModelLink
from offhook.gateway.web.allowance import Allowance
from offhook.media.jpeg import jpeg_size

__all__ = ["PICTURE_MAX_BYTES", "PICTURE_MAX_SIDE", "Pictures"]

PICTURE_MAX_SIDE = 768  # pixels: what models take unscaled; more would be paid for and scaled down
PICTURE_MAX_BYTES = 256 * 1024  # one of that size has 40 to 150 kB
BURST = 3.0  # stills that somebody picks one after another


class Pictures:
    """One call's. `link()`: to the model, which says how many pictures it takes."""

    def __init__(self, wiring: Wiring, link: Callable[[], ModelLink]) -> None:
        self._record, self._metrics, self._clock = wiring.timeline.record, wiring.metrics, wiring.clock
        self._link = link
        self.per_s = link().can.pictures_per_s if wiring.agent.pictures else 0.0
        self._allowance = Allowance(self.per_s, BURST)

    def take(self, jpeg: bytes) -> PictureRefusal | None:
        """Queue a picture for the model, or say why not."""
        refusal = self._refusal(jpeg)
        if refusal is None:
            self._record.pictures += 1
            self._link().picture(jpeg)
        else:
            self._record.pictures_refused += 1
        self._metrics.pictures_total.inc("queued" if refusal is None else refusal.value)
        return refusal

    def _refusal(self, jpeg: bytes) -> PictureRefusal | None:
        if not self.per_s:
            return PictureRefusal.NOT_ALLOWED
        if len(jpeg) > PICTURE_MAX_BYTES:
            return PictureRefusal.TOO_LARGE
        size = jpeg_size(jpeg)
        if size is None:
            return PictureRefusal.NOT_JPEG
        if max(size) > PICTURE_MAX_SIDE:
            return PictureRefusal.TOO_LARGE
        return None if self._allowance.take(self._clock()) else PictureRefusal.TOO_MANY
