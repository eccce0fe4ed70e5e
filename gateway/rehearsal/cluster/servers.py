"""Redis servers of the rig: one, or a primary with a replica behind an address that follows the primary."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offhook.gateway.rehearsal.cluster.processes import HAProxy, RigFailed, free_port, started

__all__ = ["RedisPair", "RedisServer", "redis_server"]

# What is left in Redis of calls that are over: every live hash of one, and every place or index that names one.
LEFT = """
local left = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'hash' and redis.call('HEXISTS', key, 'stage') == 1 then
    local held = redis.call('HMGET', key, 'stage', 'owner', 'epoch')
    if held[1] ~= 'ended' then table.insert(left, key .. ' is ' .. table.concat(held, ' ')) end
  elseif kind == 'set' or kind == 'zset' then
    local members = kind == 'set' and redis.call('SMEMBERS', key) or redis.call('ZRANGE', key, 0, -1)
    for _, member in ipairs(members) do
      if string.sub(member, 1, 2) == 'CA' then table.insert(left, key .. ' has ' .. member) end
    end
  end
end
return left
"""


class RedisServer:
    """One server, which can be killed and started again, without a copy on disk."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._log = folder / f"redis-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, replica_of: int = 0) -> None:
        """Answers afterwards. `replica_of`: its primary's port."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--repl-diskless-sync-delay", "0", "--dir", str(self._log.parent)]
        command += ["--replicaof", "127.0.0.1", str(replica_of)] if replica_of else []
        self._process = started(command, self._log)
        for _ in range(5):
            if self.ask("PING") == "PONG":
                return
        raise RigFailed(f"redis-server did not start: {self._log.read_text()[-400:]}")

    def ask(self, *command: str) -> str:
        """Its answer, by redis-cli; a server that starts is waited for."""
        asked = ["redis-cli", "-p", str(self.port), *command]
        for _ in range(40):
            done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode == 0:
                return done.stdout.strip()
            time.sleep(0.05)
        raise RigFailed(f"redis-cli {command[0]}: {done.stderr}")

    def left(self) -> list[str]:
        """What is kept of calls as if they were live."""
        return [line for line in self.ask("EVAL", LEFT, "0").splitlines() if line]

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class RedisPair:
    """A primary and its replica behind a HAProxy of their own, which sends everything to the one that is primary."""

    def __init__(self, folder: Path) -> None:
        self._servers = [RedisServer(folder), RedisServer(folder)]
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self._front = HAProxy(folder, "redis-front", _FRONT.format(port, *(s.port for s in self._servers)), {})

    @property
    def primary(self) -> RedisServer:
        return self._servers[0]

    def start(self) -> None:
        self.primary.start()
        self._servers[1].start(self.primary.port)
        self._front.start()

    async def replicated(self) -> None:
        """Wait until the replica has everything, and the front has found the primary."""
        async with asyncio.timeout(20):
            while "state=online" not in self.primary.ask("INFO", "replication"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while not await self._front.servers_up():  # noqa: ASYNC110  another process's truth
                await asyncio.sleep(0.02)

    def promote(self) -> None:
        """What Sentinel does once it has noticed that the primary is dead."""
        self._servers.reverse()
        self.primary.ask("REPLICAOF", "NO", "ONE")

    async def restore(self) -> None:
        """Both run again, what is there in place."""
        primary, other = self._servers
        if primary._process is None:
            primary.start()
        if other._process is None:
            other.start(primary.port)
        else:
            other.ask("REPLICAOF", "127.0.0.1", str(primary.port))
        await self.replicated()

    def end(self) -> None:
        self._front.end()
        for server in self._servers:
            server.kill()


_FRONT = """
global
  log stdout format raw local0 notice

defaults
  mode tcp
  timeout connect 200ms
  timeout client 1h
  timeout server 1h

listen redis
  bind 127.0.0.1:{0}
  option tcp-check
  tcp-check send info\\ replication\\r\\n
  tcp-check expect string role:master
  default-server check inter 100ms fall 2 rise 1 on-marked-down shutdown-sessions
  server one 127.0.0.1:{1}
  server two 127.0.0.1:{2}
"""


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """One that runs while the block does."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
