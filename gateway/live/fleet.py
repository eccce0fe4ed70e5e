"""This node's side of the live store: its beat, the calls it has, and each question that may not stop a call.

Without a store this node is alone: every answer is the one that lets a call go on, and nothing is awaited.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from offhook.gateway.live import (
    BEAT_S,
    DEAD_AFTER_S,
    Begin,
    CallStage,
    Claim,
    Held,
    LiveStore,
    Node,
    StoreAway,
    ToolRun,
)
from offhook.gateway.live.peers import Peers
from offhook.gateway.live.writer import Checkpoints
from offhook.metrics.catalogue import Metrics

__all__ = ["ASK_S", "Fleet"]

log = logging.getLogger(__name__)

ASK_S = 0.25  # what a webhook waits for the store; an answer takes 0.3 ms
ENDS = 3  # times that the end of a call is told to a store that does not answer in time
TOOL_S = 0.05  # what a tool waits for the note that it begins

T = TypeVar("T")


class Fleet:
    """`here()` describes this node, at each beat; `on_beat()` is called after each. `caps`: how many calls all nodes
    together may have, by scope.
    """

    def __init__(
        self,
        name: str,
        store: LiveStore | None,
        metrics: Metrics,
        *,
        here: Callable[[], Node],
        caps: Mapping[str, int] | None = None,
    ) -> None:
        self._caps = dict(caps or {})
        self.name, self.shared, self._here, self._metrics = name, store is not None, here, metrics
        self._store = store
        self.peers = Peers()
        self.checkpoints = Checkpoints(name, store, metrics)
        self.on_beat: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []
        self._asked: dict[tuple[str, str], asyncio.Future[Any]] = {}  # by question and call: under way

    async def open(self) -> None:
        """Before the first request. Raises `OperatorError`."""
        if self._store is not None:
            await self._store.open()
            await self.peers.open()

    async def join(self) -> None:
        """This node listens: its peers may see it."""
        if self._store is None:
            return
        await self._beat()
        self._tasks = [
            asyncio.create_task(self._beats(), name="live beat"),
            asyncio.create_task(self.checkpoints.run(), name="live writer"),
        ]

    async def close(self) -> None:
        """After the last call."""
        if self._store is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(StoreAway):
            await self._store.leave(self.name)
        await self.peers.close()
        await self._store.close()

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._beat()
                self.on_beat()
            except Exception as error:
                log.error("the beat failed", exc_info=error)
                self._metrics.task_failures_total.inc("live")

    async def _beat(self) -> None:
        assert self._store is not None
        beat = self._store.beat(self._here(), self.checkpoints.call_ids(), list(self._caps))
        nodes = await self._ask(beat, None, limit_s=BEAT_S)
        if nodes is not None:
            self.peers.nodes = {node.name: node for node in nodes if node.name != self.name}
            self._metrics.fleet_nodes.set(sum(node.age_s < 2 * BEAT_S for node in nodes))

    async def _ask(self, request: Awaitable[T], otherwise: T, limit_s: float = ASK_S) -> T:
        """The store's answer, or `otherwise` when it is away."""
        try:
            async with asyncio.timeout(limit_s):
                return await request
        except (StoreAway, TimeoutError):
            self._metrics.live_store_errors_total.inc()
            return otherwise

    async def _ask_once(self, question: str, call_id: str, ask: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """As `_ask`. A webhook that is repeated meanwhile gets the same answer: one of two could be late and be
        `otherwise`, and the call be accepted by one and given back by the other.
        """
        asked = self._asked.get((question, call_id))
        if asked is None:
            asked = self._asked[question, call_id] = asyncio.ensure_future(self._ask(ask(), otherwise))
            asked.add_done_callback(lambda _: self._asked.pop((question, call_id)))
        answer: T = await asyncio.shield(asked)
        return answer

    def others(self) -> list[Node]:
        """The nodes that could take a call over now, the least loaded first."""
        alive = (self.peers.alive(name) for name in self.peers.nodes)
        fit = [node for node in alive if node is not None and not node.draining and node.calls < node.capacity]
        return sorted(fit, key=lambda node: node.calls / node.capacity)

    def dead(self) -> list[Node]:
        """Nodes whose beats have stopped."""
        return [node for node in self.peers.nodes.values() if node.age_s >= DEAD_AFTER_S]

    # --- calls

    async def ring(self, call_id: str) -> Held | None:
        """Who has this call that rings, this node if nobody does; None: not known, and this node answers it."""
        if (store := self._store) is None:
            return None
        return await self._ask_once("ring", call_id, lambda: store.ring(call_id, self.name), None)

    async def holder(self, call_id: str) -> Held | None:
        """Who has this call; None: not known, or the store is away."""
        return await self._ask(self._store.holder(call_id), None) if self._store is not None else None

    async def claim(self, call_id: str, *, expect_epoch: int | None = None) -> Claim | None:
        """Take the call over; None: it cannot be had."""
        if self._store is None:
            return None
        claim = self._store.claim(call_id, self.name, expect_epoch=expect_epoch)
        return await self._ask(claim, None, limit_s=BEAT_S)  # without it the call ends

    async def owns(self, call_id: str) -> bool:
        """Whether this node may act on the call outside, now. One that another node has taken is forgotten here;
        while the store is away nobody may.
        """
        epoch = self.checkpoints.epoch(call_id)
        if self._store is None or epoch is None:
            return not self.checkpoints.has_lost(call_id)
        held = await self._ask(self._store.holder(call_id), Held("", -1, CallStage.LIVE))
        if held is None or held.epoch == epoch:
            return True  # the store may have been emptied
        if held.epoch > epoch:
            self.checkpoints.fenced(call_id, epoch)
        return False

    async def has_lost(self, call_id: str) -> bool:
        """Whether another node is known to have the call, by the store's answer too; then it is forgotten here."""
        epoch = self.checkpoints.epoch(call_id)
        if self._store is None or epoch is None:
            return self.checkpoints.has_lost(call_id)
        held = await self._ask(self._store.holder(call_id), None)
        if held is None or held.epoch <= epoch:
            return False
        self.checkpoints.fenced(call_id, epoch)
        return self.checkpoints.epoch(call_id) in (None, epoch)  # with another one the call is here again

    async def end(self, call_id: str) -> bool:
        """The call is over: whether it is this node's to record. While the store is away it is."""
        epoch = self.checkpoints.forget(call_id)
        if self._store is None or epoch is None:
            return not self.checkpoints.has_lost(call_id)  # it may have been lost in its last moments
        for _ in range(ENDS):
            known = await self._ask(self._store.end(call_id, self.name, epoch), None, limit_s=BEAT_S)
            if known is not None:
                return known
        return True

    async def give_back(self, call_id: str, epoch: int) -> None:
        """A call that this node was first to have is not taken: it was refused."""
        if self._store is not None:
            await self._ask(self._store.end(call_id, self.name, epoch), False)

    async def burn(self, token_id: str, life_s: float) -> bool:
        """Use up a one-time token; while the store is away the process's own memory has to do."""
        return await self._ask(self._store.burn(token_id, life_s), True) if self._store is not None else True

    async def admit(self, call_id: str) -> str:
        """A place for the call in every scope: "" or the scope that is full. While the store is away there is room."""
        if (store := self._store) is None or not self._caps:
            return ""
        return await self._ask_once("admit", call_id, lambda: store.admit(call_id, self._caps), "")

    async def calls_of(self, name: str) -> list[tuple[str, int]]:
        """The calls that a node has."""
        return await self._ask(self._store.calls_of(name), [], limit_s=BEAT_S) if self._store is not None else []

    # --- tools

    async def begin_tool(self, call_id: str, key: str) -> Begin | None:
        """Whether a tool run with outside effects may begin, and is noted; None: the store is away, and it is not."""
        epoch = self.checkpoints.epoch(call_id)
        if self._store is None or epoch is None:
            return Begin(fenced=self.checkpoints.has_lost(call_id))
        begin = await self._ask(self._store.begin_tool(call_id, epoch, key), None, limit_s=TOOL_S)
        if begin is not None and begin.fenced:
            self.checkpoints.fenced(call_id, epoch)
        return begin

    async def tool_done(self, call_id: str, key: str, result: str) -> None:
        """The run is done; its result is kept unless the store is away."""
        if self._store is not None:
            run = ToolRun(done=True, result=result)
            await self._ask(self._store.note_tool(call_id, key, run), None, limit_s=TOOL_S)

    async def tool_run(self, call_id: str, key: str) -> ToolRun | None:
        """What is known of a tool run of a call that was taken over; while the store is away it may have begun."""
        return await self._ask(self._store.tool_run(call_id, key), ToolRun()) if self._store is not None else None
