"""What a model's link reports besides audio and words: sessions, tokens, counts, durations (`ModelSink`)."""

from __future__ import annotations

from offhook.gateway.call.spending import Spending
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.models import LINK_METRICS, LinkCount, Prices, Usage
from offhook.metrics.catalogue import WorstPerSecond
from offhook.metrics.segments import UPLINK_FORWARD

__all__ = ["ModelSide"]


class ModelSide:
    """One call's account of its model. `prices`: None where they are not known."""

    def __init__(self, wiring: Wiring, prices: Prices | None) -> None:
        self._clock, self._metrics, self._timeline, self._feed = (
            wiring.clock,
            wiring.metrics,
            wiring.timeline,
            wiring.feed,
        )
        self._spending = Spending(prices, wiring.agent.limits.cost)
        self._uplink_forward = WorstPerSecond(wiring.metrics, UPLINK_FORWARD)
        self.was_ready = False  # once
        self.session = 0  # grows with each session that does not know of the one before

    def observe(self, event: e.Event) -> None:
        """Count what an event says of the link; the call feeds it."""
        if isinstance(event, e.ModelReady):
            self._metrics.model_sessions_total.inc("ready")
            if self.was_ready:
                self._metrics.model_reconnects_total.inc("resumed" if event.resumed else "fresh")
            self.was_ready = True
            self.session += not event.resumed
        elif isinstance(event, e.ModelFailed):
            if self.was_ready:
                self._metrics.model_reconnects_total.inc("failed")
            self._timeline.error("the model could not be reached")

    def usage(self, usage: Usage) -> None:
        """Tokens of one turn; near the cost limit the caller is warned, past it the call ends."""
        self._metrics.tokens_total.inc("input", by=usage.input_total)
        self._metrics.tokens_total.inc("output", by=usage.output_total)
        self._spending.add(usage, self._timeline.record.usage)
        if self._spending.warns():
            self._feed(e.CostWarning(self._clock()))
        elif self._spending.is_over:
            self._feed(e.EndRequested(self._clock(), Ending.COST_LIMIT))

    def count(self, what: LinkCount, by: float = 1, reason: str = "") -> None:
        """To the metric that `LINK_METRICS` names."""
        if (row := LINK_METRICS.get(what)) is not None:
            name, *labels = row
            getattr(self._metrics, name).inc(*labels, *filter(None, (reason,)), by=by)

    def segment(self, name: str, seconds: float) -> None:
        """A duration that the link measured itself."""
        if name == "uplink_forward":  # of every frame
            self._uplink_forward.add(self._clock(), seconds)
        else:
            self._timeline.model_segment(name, seconds)

    def flush(self) -> None:
        """Report what is still held back for the metrics."""
        self._uplink_forward.flush()
