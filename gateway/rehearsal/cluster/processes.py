"""Several gateway processes behind a real HAProxy, with the shipped configuration, over one live store.

Everything is on loopback. A process started here has a session of its own and none of this process's descriptors.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp

from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.model.reached import ModelAt, model_environ
from offhook.gateway.rehearsal.quick_clock import Clock, running_clock
from offhook.gateway.rehearsal.run import environment_without, tail_of

__all__ = [
    "AUTH_TOKEN",
    "CONSOLE_TOKEN",
    "FLEET_KEY",
    "PUBLIC",
    "Cluster",
    "GatewayProcess",
    "HAProxy",
    "RigFailed",
    "cluster",
    "free_port",
]

PUBLIC, AUTH_TOKEN, FLEET_KEY = "https://voice.example.com", "auth-token-canary", "fleet-key-canary-1"
CONSOLE_TOKEN = "console-token-canary"
START_S = 30.0  # a second on an idle machine


class RigFailed(OffhookError):
    """A process of the rig did not do what the rig needs of it; the message has the end of its log."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def shipped_config() -> str:
    """`infra/haproxy/haproxy.cfg`, of the checkout or of the installed package."""
    here = Path(__file__).resolve()
    places = (here.parent / "haproxy.cfg", here.parents[3] / "infra" / "haproxy" / "haproxy.cfg")
    return next(place for place in places if place.exists()).read_text(encoding="utf-8")


def started(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process of the rig; its output is appended to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


class GatewayProcess:
    """One `offhook serve`."""

    def __init__(self, name: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.name, self.port, self.admin_port = name, free_port(), free_port()
        self.log_file, self.data_dir = folder / f"{name}.log", folder / f"{name}-data"
        self._environ = {
            **environ,
            "OFFHOOK_REPLICA": name,
            "OFFHOOK_PORT": str(self.port),
            "OFFHOOK_ADMIN_PORT": str(self.admin_port),
            "OFFHOOK_DATA_DIR": str(self.data_dir),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        self.process = started([sys.executable, "-m", "offhook", "serve"], self.log_file, self._environ)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class HAProxy:
    """One HAProxy with this configuration; `environ`: what it takes from the environment."""

    def __init__(self, folder: Path, name: str, config: str, environ: Mapping[str, str]) -> None:
        self._config, self._log = folder / f"{name}.cfg", folder / f"{name}.log"
        self._stats = folder / f"{name}.sock"
        # The rig asks the balancer which servers are up.
        config = config.replace("\nglobal\n", f"\nglobal\n  stats socket {self._stats} mode 600\n", 1)
        self._config.write_text(config, encoding="utf-8")
        self._environ = {**os.environ, **environ}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._processes.append(started(["haproxy", "-f", str(self._config)], self._log, self._environ))

    def reload(self) -> None:
        """A new process takes the listeners over; the old one serves its streams until they end."""
        old = str(self._processes[-1].pid)
        command = ["haproxy", "-f", str(self._config), "-sf", old]
        self._processes.append(started(command, self._log, self._environ))

    async def servers_up(self) -> set[str]:
        """The servers that its checks have found up."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._stats))
        except OSError:
            return set()
        try:
            writer.write(b"show stat\n")
            page = (await reader.read()).decode()
        finally:
            writer.close()
        rows = [row.split(",") for row in page.splitlines() if row and not row.startswith("#")]
        return {row[1] for row in rows if row[1] not in ("FRONTEND", "BACKEND") and row[17] in ("UP", "no check")}

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


class Cluster:
    """`url`: HAProxy's. `gateways` by name."""

    def __init__(
        self, folder: Path, environ: Mapping[str, str], count: int, clock: Clock, *, watched: bool = True
    ) -> None:
        self.clock = clock
        self.gateways = {f"gw{n}": GatewayProcess(f"gw{n}", folder, environ) for n in range(count)}
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        lines = shipped_config().splitlines()
        if not watched:
            lines = [line for line in lines if not line.strip().startswith(("default-server", "option httpchk"))]
            lines = [line for line in lines if "disable-on-404" not in line]
        used = [line for line in lines if "gw" not in line or any(f" {name} " in line for name in self.gateways)]
        bound = {f"OFFHOOK_GW{name[2:]}": f"127.0.0.1:{g.port}" for name, g in self.gateways.items()}
        self.balancer = HAProxy(
            folder, "haproxy", "\n".join(used) + "\n", {**bound, "OFFHOOK_BIND": f"127.0.0.1:{port}"}
        )
        self.http = aiohttp.ClientSession()

    async def start(self) -> None:
        for gateway in self.gateways.values():
            gateway.start()
        self.balancer.start()
        await self.all_up()

    async def all_up(self) -> None:
        """Each gateway answers, the balancer has found it up, and its peers have seen it."""
        for name in self.gateways:
            await self.up(name)
            if len(self.gateways) > 1:
                await self._until(partial(self._sees_all, name), f"{name}'s peers")

    async def _sees_all(self, name: str) -> bool:
        return await self.metric(name, "offhook_fleet_nodes ") >= len(self.gateways)

    async def up(self, name: str) -> None:
        """The gateway answers, and the balancer has found it up."""

        async def found() -> bool:
            return name in await self.balancer.servers_up()

        await self._until(found, name)

    async def _until(self, ready: Callable[[], Awaitable[bool]], what: str) -> None:
        ends_s = self.clock() + START_S
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                if await ready():
                    return
            if self.clock() > ends_s:
                logs = "\n".join(tail_of(gateway.log_file) for gateway in self.gateways.values())
                raise RigFailed(f"{what}: not up within {START_S:.0f} s\n{logs}")
            await asyncio.sleep(0.05)

    async def restart(self, names: Sequence[str]) -> None:
        """These gateways anew, whatever became of them."""
        for name in names:
            self.gateways[name].end()
            self.gateways[name].start()
        await self.all_up()

    async def metric(self, name: str, line: str) -> float:
        """The sum of the lines of this gateway's metrics that begin with `line`; 0 without one."""
        headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
        async with self.http.get(f"{self.gateways[name].admin_url}/metrics", headers=headers) as answer:
            rows = (await answer.text()).splitlines()
        return sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(line))

    async def close(self) -> None:
        await self.http.close()
        for gateway in self.gateways.values():
            gateway.end()
        self.balancer.end()


@asynccontextmanager
async def cluster(
    folder: Path,
    agent: str,
    model: ModelAt,
    live: str,
    *,
    count: int = 3,
    environ: Mapping[str, str] | None = None,
    watched: bool = True,
) -> AsyncIterator[Cluster]:
    """`agent`: YAML. `live`: OFFHOOK_LIVE. `watched` False: the balancer does not check its gateways, and closes no
    stream of one that hangs. The gateways' logs and records are in `folder`.
    """
    path = folder / "agent.yaml"
    path.write_text(agent, encoding="utf-8")
    whole = {
        **environment_without(("TWILIO_", "OFFHOOK_", "GOOGLE_", "GEMINI_", "OPENAI_")),
        **model_environ(model),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OFFHOOK_AGENT": str(path),
        "OFFHOOK_LIVE": live,
        "OFFHOOK_FLEET_KEY": FLEET_KEY,
        "OFFHOOK_PUBLIC_URL": PUBLIC,
        "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN,
        "OFFHOOK_SIMULATED": "1",
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        **(environ or {}),
    }
    rig = Cluster(folder, whole, count, running_clock(), watched=watched)
    try:
        await rig.start()
        yield rig
    finally:
        await rig.close()
