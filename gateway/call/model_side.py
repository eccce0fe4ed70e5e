"""One call's side of its model: the link's life, what is sent to it besides audio, what it reports besides audio.

Audio and words come to `speaking`, tool calls to `tools`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from offhook.gateway.call import prompts
from offhook.gateway.call.spending import Spending
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.models import LINK_METRICS, LinkCount, ModelLink, Prices, Usage
from offhook.metrics.catalogue import WorstPerSecond
from offhook.metrics.segments import UPLINK_FORWARD

__all__ = ["ModelSide"]


class ModelSide:
    """`link_for()` makes a link to the model; `prices`: None where they are not known."""

    def __init__(self, wiring: Wiring, link_for: Callable[[], ModelLink], prices: Prices | None) -> None:
        self._agent, self._clock, self._metrics = wiring.agent, wiring.clock, wiring.metrics
        self._timeline, self._feed, self._faults = wiring.timeline, wiring.feed, wiring.faults
        self._changed = wiring.changed
        self._link_for = link_for
        self._spending = Spending(prices, wiring.agent.limits.cost)
        self._uplink_forward = WorstPerSecond(wiring.metrics, UPLINK_FORWARD)
        self._old_links: list[ModelLink] = []
        self._tasks: list[asyncio.Task[Any]] = []  # one runs the link; others, of before the stream, may be closing
        self.link = link_for()
        self.last_words = ""  # of the last `SayAndEnd`
        self.taken_up = ""  # what the model is told of a reply that was cut when the call moved
        self.was_ready = False  # once
        self.session = 0  # grows with each session that does not know of the one before

    # --- the link's life

    def run(self) -> None:
        """Connect now."""
        self._tasks.append(asyncio.create_task(self._follow(self.link), name=f"model {self._timeline.record.call_sid}"))

    async def _follow(self, link: ModelLink) -> None:
        if not await self._faults.owned("link", link.run()) and link is self.link:
            failed = e.ModelFailed(self._clock())
            self._faults.safely("link", self.observe, failed)
            self._faults.safely("link", self._feed, failed)

    def restore(self, session: int, spent_usd: float) -> None:
        """The call began elsewhere: session numbers and cost go on."""
        self.session, self.was_ready = session, True
        self._spending.restore(spent_usd)

    def renew(self) -> ModelLink:
        """Close this link; a new one, which is not run yet, takes its place."""
        self._old_links.append(self.link)
        self._tasks.append(asyncio.create_task(self._faults.owned("closing", self.link.close())))
        self.link = self._link_for()
        return self.link

    def closers(self) -> list[Callable[[], Awaitable[None]]]:
        """What has to be closed at the end of the call."""
        return [link.close for link in (self.link, *self._old_links)]

    def cancel(self) -> None:
        """Cancel what is left after closing, or instead of it."""
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """As `cancel`, and wait for it a moment."""
        self.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    # --- commands

    def prompt(self, command: c.SendPrompt) -> None:
        """Have the model speak."""
        if command.prompt in (c.Prompt.TAKE_UP, c.Prompt.NUDGE) and self.taken_up:
            text, self.taken_up = self.taken_up, ""
        else:
            text = prompts.text_of(command.prompt, self._agent, self.last_words)
        self.link.prompt(text)

    def report_heard(self, command: c.ReportHeard) -> None:
        """How much of a reply was heard, in samples and, where its text is known, in words."""
        text = self._timeline.heard_text(command.generation, command.heard)
        note = None if text is None else prompts.heard_note(text, ask=self._agent.repair.mode == "ask")
        self.link.heard(command.generation, command.heard, note)

    def key_pressed(self, key: str) -> None:
        """A key that no tool takes."""
        self.link.note(prompts.key_note(key))

    # --- reports (ModelSink)

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
        if what is LinkCount.HANDLE:
            self._changed()
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
