"""The live store of a single process, or of several gateways in one: nothing outlives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from offhook.gateway.live import (
    CALL_LIFE_S,
    DEAD_AFTER_S,
    ENDED_LIFE_S,
    MOVES_WITHIN_S,
    Begin,
    CallStage,
    Claim,
    Held,
    Node,
    ToolRun,
    Write,
    Written,
)

__all__ = ["MemoryLive"]


@dataclass(slots=True)
class _Call:
    owner: str
    epoch: int
    stage: CallStage
    expires_s: float
    head: bytes = b""
    log: list[bytes] = field(default_factory=list)
    moves_s: list[float] = field(default_factory=list)
    tools: dict[str, ToolRun] = field(default_factory=dict)


class MemoryLive:
    """Implements `LiveStore`. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[str, _Call] = {}
        self._burnt: dict[str, float] = {}
        self._leases: dict[str, dict[str, float]] = {}  # scope -> call -> expiry
        self._nodes: dict[str, tuple[Node, float]] = {}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ring(self, call_id: str, owner: str) -> Held:
        call = self._find(call_id)
        if call is None:
            self._drop_expired()
            call = self._calls[call_id] = _Call(owner, 1, CallStage.RINGING, self._clock() + CALL_LIFE_S)
        return Held(call.owner, call.epoch, call.stage)

    async def holder(self, call_id: str) -> Held | None:
        call = self._find(call_id)
        return None if call is None else Held(call.owner, call.epoch, call.stage)

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        return [self._write(write) for write in writes]

    def _write(self, write: Write) -> Written:
        call = self._find(write.call_id)
        if call is None:
            if write.log_at:
                return Written.BEHIND
            call = self._calls[write.call_id] = _Call(write.owner, write.epoch, write.stage, 0.0)
        if call.stage is CallStage.ENDED or call.epoch > write.epoch:
            return Written.FENCED
        if write.log_at and len(call.log) != write.log_at:
            return Written.BEHIND
        call.owner, call.epoch, call.stage, call.head = write.owner, write.epoch, write.stage, write.head
        call.log[write.log_at :] = write.log
        call.expires_s = self._clock() + CALL_LIFE_S
        return Written.KEPT

    async def claim(self, call_id: str, owner: str, *, expect_epoch: int | None = None) -> Claim | None:
        call = self._find(call_id)
        if call is None or call.stage is CallStage.ENDED or expect_epoch not in (None, call.epoch):
            return None
        now_s, before = self._clock(), call
        call.moves_s = [s for s in call.moves_s if now_s - s < MOVES_WITHIN_S]
        call.moves_s += [now_s] if call.stage is not CallStage.HANDOVER else []
        claim = Claim(before.owner, call.epoch + 1, before.stage, call.head, tuple(call.log), len(call.moves_s))
        call.owner, call.epoch, call.stage = owner, call.epoch + 1, CallStage.LIVE
        return claim

    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        call = self._find(call_id)
        if call is None:
            call = self._calls[call_id] = _Call(owner, epoch, CallStage.LIVE, 0.0)
        if call.epoch != epoch or (call.stage is CallStage.ENDED and call.owner != owner):
            return False
        call.owner = owner
        call.stage, call.expires_s = CallStage.ENDED, self._clock() + ENDED_LIFE_S
        call.head, call.log = b"", []
        for leases in self._leases.values():
            leases.pop(call_id, None)
        return True

    async def burn(self, token_id: str, life_s: float) -> bool:
        now_s = self._clock()
        self._burnt = {i: s for i, s in self._burnt.items() if s > now_s}
        if token_id in self._burnt:
            return False
        self._burnt[token_id] = now_s + life_s
        return True

    async def admit(self, call_id: str, caps: Mapping[str, int]) -> str:
        now_s = self._clock()
        for scope, cap in caps.items():
            leases = self._leases[scope] = {i: s for i, s in self._leases.get(scope, {}).items() if s > now_s}
            if call_id not in leases and len(leases) >= cap:
                return scope
        for scope in caps:
            self._leases[scope][call_id] = now_s + DEAD_AFTER_S
        return ""

    async def tool_run(self, call_id: str, key: str) -> ToolRun | None:
        call = self._find(call_id)
        return None if call is None else call.tools.get(key)

    async def begin_tool(self, call_id: str, epoch: int, key: str) -> Begin:
        call = self._find(call_id)
        if call is None:
            return Begin(fenced=False)
        if call.stage is CallStage.ENDED or call.epoch > epoch:
            return Begin(fenced=True)
        before = call.tools.get(key)
        call.tools.setdefault(key, ToolRun())
        return Begin(fenced=False, before=before)

    async def note_tool(self, call_id: str, key: str, run: ToolRun) -> None:
        if (call := self._find(call_id)) is not None:
            call.tools[key] = run

    async def beat(self, node: Node, call_ids: Sequence[str], scopes: Sequence[str] = ()) -> list[Node]:
        now_s = self._clock()
        self._nodes[node.name] = node, now_s
        for scope in scopes:
            self._leases.setdefault(scope, {}).update(dict.fromkeys(call_ids, now_s + DEAD_AFTER_S))
        return [msgspec.structs.replace(n, age_s=now_s - beat_s) for n, beat_s in self._nodes.values()]

    async def leave(self, name: str) -> None:
        self._nodes.pop(name, None)

    async def calls_of(self, name: str) -> list[tuple[str, int]]:
        return [(i, c.epoch) for i, c in self._calls.items() if c.owner == name and c.stage is not CallStage.ENDED]

    def _find(self, call_id: str) -> _Call | None:
        call = self._calls.get(call_id)
        return call if call is not None and (not call.expires_s or call.expires_s > self._clock()) else None

    def _drop_expired(self) -> None:
        now_s = self._clock()
        for call_id in [i for i, c in self._calls.items() if c.expires_s and c.expires_s <= now_s]:
            del self._calls[call_id]
