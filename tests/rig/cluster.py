"""Several gateway processes behind a real HAProxy, with the shipped configuration, over one live store.

Everything is on loopback. A process started here has a session of its own and none of the test's descriptors.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from offhook.gateway.live.peers import HOP
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rig.model import model_environ
from tests.rig.process import python_path

__all__ = ["AUTH_TOKEN", "FLEET_KEY", "PUBLIC", "Cluster", "GatewayProcess", "cluster"]

PUBLIC, AUTH_TOKEN, FLEET_KEY = "https://voice.example.com", "auth-token-canary", "fleet-key-canary-1"
CONSOLE_TOKEN = "console-token-canary"
CONFIG = Path(__file__).parents[2] / "infra" / "haproxy" / "haproxy.cfg"
START_S = 30.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class GatewayProcess:
    """One `offhook serve`."""

    def __init__(self, name: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.name, self.port, self.admin_port = name, free_port(), free_port()
        self._log = folder / f"{name}.log"
        self._environ = {
            **environ,
            "OFFHOOK_REPLICA": name,
            "OFFHOOK_PORT": str(self.port),
            "OFFHOOK_ADMIN_PORT": str(self.admin_port),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "offhook", "serve"],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def end(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Cluster:
    """`url`: HAProxy's. `gateways` by name."""

    def __init__(self, folder: Path, environ: Mapping[str, str], count: int) -> None:
        self._folder = folder
        self.gateways = {f"gw{n}": GatewayProcess(f"gw{n}", folder, environ) for n in range(count)}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._proxy: subprocess.Popen[bytes] | None = None
        self.http = aiohttp.ClientSession()

    async def start(self) -> None:
        for gateway in self.gateways.values():
            gateway.start()
        for gateway in self.gateways.values():
            await self.up(gateway)
        bound = {f"OFFHOOK_GW{name[2:]}": f"127.0.0.1:{g.port}" for name, g in self.gateways.items()}
        config = CONFIG.read_text(encoding="utf-8").splitlines()
        used = [line for line in config if "gw" not in line or any(f" {name} " in line for name in self.gateways)]
        path = self._folder / "haproxy.cfg"
        path.write_text("\n".join(used) + "\n", encoding="utf-8")
        with (self._folder / "haproxy.log").open("ab") as out:
            self._proxy = subprocess.Popen(  # noqa: ASYNC220  it takes a millisecond, once
                ["haproxy", "-f", str(path)],
                env={**os.environ, "OFFHOOK_BIND": f"127.0.0.1:{self.port}", **bound},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        await self._answers(self.url + "/twilio/media")
        async with asyncio.timeout(START_S):
            for name in self.gateways:
                while await self.metric(name, "offhook_fleet_nodes ") < len(self.gateways):
                    await asyncio.sleep(0.05)

    async def up(self, gateway: GatewayProcess) -> None:
        await self._answers(gateway.url + "/livez")

    async def _answers(self, url: str) -> None:
        ends_s = time.monotonic() + START_S
        while True:
            try:
                async with self.http.get(url) as answer:
                    if answer.status < 500:
                        return
            except aiohttp.ClientError:
                pass
            if time.monotonic() > ends_s:
                logs = "\n".join(g.log[-2000:] for g in self.gateways.values())
                raise RuntimeError(f"{url} does not answer\n{logs}")
            await asyncio.sleep(0.05)

    async def records(self, call_sids: Sequence[str]) -> dict[str, list[tuple[str, dict]]]:
        """Every record of these calls, with the gateway that has it, of those that run."""
        found: dict[str, list[tuple[str, dict]]] = {sid: [] for sid in call_sids}
        for name, gateway in self.gateways.items():
            if gateway.process is None or gateway.process.poll() is not None:
                continue
            for sid in call_sids:
                headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}", HOP: "1"}  # its own, without its peers'
                url = f"http://127.0.0.1:{gateway.admin_port}/console/api/calls/{sid}"
                async with self.http.get(url, headers=headers) as answer:
                    if answer.status == 200:
                        record = await answer.json()
                        if record.get("end_reason"):
                            found[sid].append((name, record))
        return found

    async def metric(self, name: str, line: str) -> float:
        """The value of a line of this gateway's metrics that begins with `line`; 0 without one."""
        url = f"http://127.0.0.1:{self.gateways[name].admin_port}/metrics"
        async with self.http.get(url, headers={"Authorization": f"Bearer {CONSOLE_TOKEN}"}) as answer:
            for row in (await answer.text()).splitlines():
                if row.startswith(line):
                    return float(row.rpartition(" ")[2])
        return 0.0

    async def close(self) -> None:
        await self.http.close()
        for gateway in self.gateways.values():
            gateway.end()
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.wait()


@asynccontextmanager
async def cluster(
    folder: Path, agent: str, model: ModelServer, live: str, *, count: int = 3, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Cluster]:
    """`agent`: YAML. `live`: OFFHOOK_LIVE."""
    path = folder / "agent.yaml"
    path.write_text(agent, encoding="utf-8")
    whole = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OFFHOOK_", "TWILIO_"))},
        **model_environ(model),
        "PYTHONPATH": python_path(),
        "OFFHOOK_AGENT": str(path),
        "OFFHOOK_LIVE": live,
        "OFFHOOK_FLEET_KEY": FLEET_KEY,
        "OFFHOOK_PUBLIC_URL": PUBLIC,
        "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN,
        "OFFHOOK_SIMULATED": "1",
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        **(environ or {}),
    }
    rig = Cluster(folder, whole, count)
    try:
        await rig.start()
        yield rig
    finally:
        await rig.close()
