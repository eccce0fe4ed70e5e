"""The live store of many machines: Valkey, or Redis 7.0 and newer, through redis-py (`pip install offhook[redis]`).

Each decision is one script over the keys of one call (its id in braces: one slot of a cluster). Times are the server's.
Nothing waits for a server that does not answer: after `FAILURES_MAX` failures in a row requests fail at once, and one
a second tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.live import (
    CALL_LIFE_S,
    DEAD_AFTER_S,
    ENDED_LIFE_S,
    MOVES_WITHIN_S,
    TOOL_LIFE_S,
    Begin,
    CallStage,
    Claim,
    Held,
    Node,
    StoreAway,
    ToolRun,
    Write,
    Written,
)

__all__ = ["RedisLive"]

log = logging.getLogger(__name__)

PREFIX = "offhook:"
TIMEOUT_S = 0.25  # an answer takes 0.3 ms
CONNECTIONS = 16  # a dozen calls that end at once ask for two each
PROTOCOL = 2  # RESP3 costs a connection two more round trips, for pushes that are not used
CONNECTION_S = 1.0  # waiting for one is no failure of the server: who asks has a limit of its own
FAILURES_MAX = 3
RETRY_S = 1.0
FORGET_NODE_S = 600

# KEYS of every script of a call: its hash, its log. The hash: owner, epoch, stage, head, moves.
_NOW = "local t = redis.call('TIME') local now = t[1] + t[2] / 1000000 "
_RING = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', 1, 'stage', 'ringing')
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'stage')
"""
_WRITE = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'stage')
if held[1] and (held[2] == 'ended' or tonumber(held[1]) > tonumber(ARGV[2])) then return 'fenced' end
local at = tonumber(ARGV[6])
if at == 0 then redis.call('DEL', KEYS[2])
elseif redis.call('LLEN', KEYS[2]) ~= at then return 'behind' end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2], 'stage', ARGV[3], 'head', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
for n = 7, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[n]) end
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 'kept'
"""
_CLAIM = (
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'stage', 'head', 'moves')
if not held[2] or held[3] == 'ended' then return false end
if ARGV[2] ~= '' and held[2] ~= ARGV[2] then return false end
local moves, count = '', 1
for s in string.gmatch(held[5] or '', '%S+') do
  if now - tonumber(s) < tonumber(ARGV[3]) then moves = moves .. s .. ' ' count = count + 1 end
end
if held[3] == 'handover' then count = count - 1 else moves = moves .. string.format('%.3f', now) end
local epoch = tonumber(held[2]) + 1
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch, 'stage', 'live', 'moves', moves)
return {held[1] or '', epoch, held[3], held[4] or '', count, redis.call('LRANGE', KEYS[2], 0, -1)}
"""
)
_END = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'stage', 'owner')
if held[1] and (held[1] ~= ARGV[1] or (held[2] == 'ended' and held[3] ~= ARGV[3])) then return false end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'stage', 'ended', 'owner', ARGV[3])
redis.call('HDEL', KEYS[1], 'head')
redis.call('DEL', KEYS[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {held[3] or ''}
"""
# KEYS: the call's hash, the run. ARGV: epoch, a run that begins, its life.
_BEGIN_TOOL = """
local held = redis.call('HMGET', KEYS[1], 'epoch', 'stage')
if held[1] and (held[2] == 'ended' or tonumber(held[1]) > tonumber(ARGV[1])) then return {1} end
local run = redis.call('GET', KEYS[2])
if run then return {0, run} end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return {0}
"""
# KEYS: the scopes' sorted sets. ARGV: call, life, a cap per scope.
_ADMIT = (
    _NOW
    + """
for n = 1, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[n], '-inf', now)
  if not redis.call('ZSCORE', KEYS[n], ARGV[1]) and redis.call('ZCARD', KEYS[n]) >= tonumber(ARGV[2 + n]) then
    return n
  end
end
for n = 1, #KEYS do
  redis.call('ZADD', KEYS[n], now + ARGV[2], ARGV[1])
  redis.call('EXPIRE', KEYS[n], 3600)
end
return 0
"""
)
# KEYS: one scope. ARGV: life, calls that have a place in it.
_RENEW = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for n = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[n]) end
redis.call('EXPIRE', KEYS[1], 3600)
return 1
"""
)
_BEAT = (
    _NOW
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])) do
  redis.call('HDEL', KEYS[1], name) redis.call('ZREM', KEYS[2], name)
end
local out = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  table.insert(out, redis.call('HGET', KEYS[1], name) or '')
  table.insert(out, tostring(now - redis.call('ZSCORE', KEYS[2], name)))
end
return out
"""
)

T = TypeVar("T")


class RedisLive:
    """Implements `LiveStore`. `url`: redis://, rediss:// or unix://, as redis-py reads it. `clock`: seconds, monotonic,
    for the pause after failures.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url, self._clock = url, clock
        self._failures, self._retry_s = 0, 0.0
        self._scopes: set[str] = set()  # in which calls of this node have places
        self._connected = False  # all of `CONNECTIONS`, ahead of their use
        self._behind: set[asyncio.Future[Any]] = set()  # what nobody waits for

    async def open(self) -> None:
        """Does not connect: a server that is away at the start must not keep this node from answering calls."""
        try:
            import redis.asyncio as client
            from redis.exceptions import RedisError
            from redis.retry import Retry
        except ImportError:
            raise OperatorError(
                "OFFHOOK_LIVE names a Redis server, and redis-py is missing: pip install 'offhook[redis]'"
            ) from None
        from redis.backoff import NoBackoff

        self._errors: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
        try:
            pool = client.BlockingConnectionPool.from_url(
                self._url,
                max_connections=CONNECTIONS,
                timeout=CONNECTION_S,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                protocol=PROTOCOL,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise OperatorError(f"OFFHOOK_LIVE cannot be used: {error}") from None
        self._redis = redis = client.Redis(connection_pool=pool)
        self._ring, self._write, self._claim = (redis.register_script(s) for s in (_RING, _WRITE, _CLAIM))
        self._end, self._admit, self._renew = (redis.register_script(s) for s in (_END, _ADMIT, _RENEW))
        self._beat, self._begin_tool = redis.register_script(_BEAT), redis.register_script(_BEGIN_TOOL)

    async def close(self) -> None:
        await self._settled()
        await self._redis.aclose(close_connection_pool=True)

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do this without anybody waiting for it; the store away is all that may become of it."""
        task = asyncio.ensure_future(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        task.add_done_callback(_look)

    async def _settled(self) -> None:
        """Wait for what is done behind; each request has its own limit."""
        if self._behind:
            await asyncio.wait(self._behind)

    async def _connect_all(self) -> None:
        """Open the connections before they are needed: the calls of a node that dies come at once, and a connection
        takes longer than what is asked on it.
        """
        await self._ask(asyncio.gather(*(self._redis.ping() for _ in range(CONNECTIONS))))

    async def _ask(self, request: Awaitable[T], *, again: bool = False) -> T:
        """The answer; shielded, as a command that is cancelled leaves its answer to the next one on its connection."""
        if not again and self._failures >= FAILURES_MAX and self._clock() < self._retry_s:
            if asyncio.iscoroutine(request):
                request.close()
            raise StoreAway("the live store is away")
        self._retry_s = self._clock() + RETRY_S
        try:
            asked = asyncio.ensure_future(request)
            asked.add_done_callback(_look)  # whoever asked may have left
            answer = await asyncio.shield(asked)
        except self._errors as error:
            # The other idle connections are as old: each would cost a request when the server is back.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            self._connected = False
            self._failures += 1
            if self._failures == FAILURES_MAX:
                log.warning("the live store is away (%s): calls go on without it", type(error).__name__)
            raise StoreAway(f"the live store did not answer: {type(error).__name__}") from None
        if self._failures >= FAILURES_MAX:
            log.warning("the live store is back")
        self._failures = 0
        return answer

    async def _sure(self, request: Callable[[], Awaitable[T]]) -> T:
        """The answer to what is asked once and not again: a connection that broke meanwhile costs it nothing."""
        was_away = self._failures >= FAILURES_MAX
        try:
            return await self._ask(request())
        except StoreAway:
            if was_away:
                raise
        return await self._ask(request(), again=True)

    # --- calls

    async def ring(self, call_id: str, owner: str) -> Held:
        arguments: list[str | float] = [owner, int(CALL_LIFE_S)]
        held = _held(await self._sure(lambda: self._ring(keys=_keys(call_id), args=arguments)))
        assert held is not None
        if held.owner == owner:
            self._later(self._index(None, owner, call_id))
        return held

    async def _index(self, before: str | None, owner: str | None, call_id: str) -> None:
        """Which calls a node has, for who takes them when it is dead: a hint beside the call itself."""
        pipeline = self._redis.pipeline(transaction=False)
        if before:
            pipeline.srem(f"{PREFIX}calls:{before}", call_id)
        if owner:
            pipeline.sadd(f"{PREFIX}calls:{owner}", call_id)
            pipeline.expire(f"{PREFIX}calls:{owner}", int(CALL_LIFE_S))
        await self._ask(_executed(pipeline))

    async def holder(self, call_id: str) -> Held | None:
        key, _ = _keys(call_id)
        return _held(await self._sure(lambda: self._redis.hmget(key, ["owner", "epoch", "stage"])))

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        pipeline = self._redis.pipeline(transaction=False)
        for one in writes:
            fixed = (one.owner, one.epoch, one.stage.value, one.head, int(CALL_LIFE_S), one.log_at)
            await self._write(keys=_keys(one.call_id), args=[*fixed, *one.log], client=pipeline)
        return [Written(answer.decode()) for answer in await self._ask(_executed(pipeline))]

    async def claim(self, call_id: str, owner: str, *, expect_epoch: int | None = None) -> Claim | None:
        arguments: list[str | float] = [owner, "" if expect_epoch is None else expect_epoch, MOVES_WITHIN_S]
        found = await self._sure(lambda: self._claim(keys=_keys(call_id), args=arguments))
        if not found:
            return None
        before, epoch, stage, head, moves, entries = found
        self._later(self._index(before.decode(), owner, call_id))
        return Claim(before.decode(), int(epoch), CallStage(stage.decode()), head, tuple(entries), int(moves))

    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        arguments: list[str | float] = [epoch, int(ENDED_LIFE_S), owner]
        answer = await self._sure(lambda: self._end(keys=_keys(call_id), args=arguments))
        if not answer:
            return False
        await self._settled()
        pipeline = self._redis.pipeline(transaction=False)
        for scope in self._scopes:
            pipeline.zrem(PREFIX + scope, call_id)
        pipeline.srem(f"{PREFIX}calls:{answer[0].decode()}", call_id)
        await self._ask(_executed(pipeline))
        return True

    # --- tokens, places, tools

    async def burn(self, token_id: str, life_s: float) -> bool:
        return bool(await self._ask(self._redis.set(f"{PREFIX}stream:{token_id}", 1, nx=True, ex=int(life_s) + 1)))

    async def admit(self, call_id: str, caps: Mapping[str, int]) -> str:
        scopes = list(caps)
        keys = [PREFIX + scope for scope in scopes]
        arguments: list[str | float] = [call_id, DEAD_AFTER_S, *caps.values()]
        full = int(await self._ask(self._admit(keys=keys, args=arguments)))
        if full:
            return scopes[full - 1]
        self._scopes.update(scopes)
        return ""

    async def tool_run(self, call_id: str, key: str) -> ToolRun | None:
        found = await self._ask(self._redis.get(_tool_key(call_id, key)))
        return None if found is None else msgspec.json.decode(found, type=ToolRun)

    async def begin_tool(self, call_id: str, epoch: int, key: str) -> Begin:
        arguments: list[str | bytes | float] = [epoch, msgspec.json.encode(ToolRun()), int(TOOL_LIFE_S)]
        keys = [_keys(call_id)[0], _tool_key(call_id, key)]
        fenced, *run = await self._ask(self._begin_tool(keys=keys, args=arguments))
        return Begin(bool(fenced), msgspec.json.decode(run[0], type=ToolRun) if run else None)

    async def note_tool(self, call_id: str, key: str, run: ToolRun) -> None:
        await self._ask(self._redis.set(_tool_key(call_id, key), msgspec.json.encode(run), ex=int(TOOL_LIFE_S)))

    # --- nodes

    async def beat(self, node: Node, call_ids: Sequence[str], scopes: Sequence[str] = ()) -> list[Node]:
        self._scopes.update(scopes)
        pipeline = self._redis.pipeline(transaction=False)
        for scope in scopes:
            await self._renew(keys=[PREFIX + scope], args=[DEAD_AFTER_S, *call_ids], client=pipeline)
        arguments: list[str | bytes | float] = [node.name, msgspec.json.encode(node), FORGET_NODE_S]
        await self._beat(keys=[PREFIX + "{nodes}", PREFIX + "{nodes}:beats"], args=arguments, client=pipeline)
        found = (await self._ask(_executed(pipeline)))[-1]
        if not self._connected:
            self._connected = True
            self._later(self._connect_all())
        pairs = zip(found[::2], found[1::2], strict=True)
        return [
            msgspec.structs.replace(msgspec.json.decode(body, type=Node), age_s=max(0.0, float(age)))
            for body, age in pairs
            if body
        ]

    async def leave(self, name: str) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hdel(PREFIX + "{nodes}", name)
        pipeline.zrem(PREFIX + "{nodes}:beats", name)
        await self._ask(_executed(pipeline))

    async def calls_of(self, name: str) -> list[tuple[str, int]]:
        found = []
        await self._settled()
        members = await self._ask(self._redis.smembers(f"{PREFIX}calls:{name}"))
        for call_id in (bytes(member).decode() for member in members):  # type: ignore[arg-type]
            held = await self.holder(call_id)
            if held is not None and held.owner == name and held.stage is not CallStage.ENDED:
                found.append((call_id, held.epoch))
            else:
                await self._index(name, None, call_id)
        return found


def _look(asked: asyncio.Future[Any]) -> None:
    if not asked.cancelled():
        asked.exception()


async def _executed(pipeline: Any) -> list[Any]:
    """Its answers. It gives its connection back in any case: by itself it keeps one that fails while scripts are
    loaded, and a pool without connections never finds the server again.
    """
    async with pipeline:
        answers: list[Any] = await pipeline.execute()
        return answers


def _keys(call_id: str) -> list[str]:
    return [f"{PREFIX}call:{{{call_id}}}", f"{PREFIX}call:{{{call_id}}}:log"]


def _tool_key(call_id: str, key: str) -> str:
    return f"{PREFIX}call:{{{call_id}}}:tool:{key}"


def _held(found: Sequence[Any]) -> Held | None:
    owner, epoch, stage = found
    return None if epoch is None else Held((owner or b"").decode(), int(epoch), CallStage(stage.decode()))
