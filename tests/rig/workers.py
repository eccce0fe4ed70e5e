"""`offhook serve --workers N` as a process of its own, its workers found by their names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rig.process import python_path

__all__ = ["AUTH_TOKEN", "PUBLIC", "Served", "workers"]

PUBLIC, AUTH_TOKEN, CONSOLE_TOKEN = "https://voice.example.com", "auth-token-canary", "console-token-canary"
WAIT_S = 30.0


class Served:
    """`url`: of the shared listener, `admin_url` of the console and the metrics."""

    def __init__(self, process: subprocess.Popen[bytes], names: list[str], url: str, admin_url: str, log: Path) -> None:
        self.process, self.names, self.url, self.admin_url, self.log = process, names, url, admin_url, log

    def pids(self) -> dict[str, int]:
        """The processes of the workers, by name."""
        found = {}
        for pid in _children(self.process.pid):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = next((v.partition(b"=")[2] for v in variables if v.startswith(b"OFFHOOK_REPLICA=")), b"")
            if name:
                found[name.decode()] = pid
        return found

    def kill(self, name: str) -> None:
        os.kill(self.pids()[name], signal.SIGKILL)

    def get(self, path: str) -> str:
        """A page of the admin listener."""
        request = Request(self.admin_url + path, headers={"Authorization": f"Bearer {CONSOLE_TOKEN}"})
        with urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def series(self, name: str) -> dict[str, float]:
        """The value of this series by worker. `name`: with its labels, without the worker's."""
        family, _, labels = name.partition("{")
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith(f'{family}{{worker="') and labels in line:
                found[line.split('"')[1]] = float(line.rpartition(" ")[2])
        return found

    def wait_for(self, what: str, times: int = 1) -> None:
        """Until the log says this so often."""
        ends_s = time.monotonic() + WAIT_S
        while self.log.read_text().count(what) < times:
            assert time.monotonic() < ends_s, f"{what!r} is not in the log:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def workers(
    folder: Path, agent: str, model: ModelServer, count: int, environ: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """`agent`: YAML."""
    path, log = folder / "agent.yaml", folder / "log"
    path.write_text(agent, encoding="utf-8")
    whole = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OFFHOOK_", "TWILIO_"))},
        **model_environ(model),
        "PYTHONPATH": python_path(),
        "OFFHOOK_AGENT": str(path),
        "OFFHOOK_REPLICA": "w",
        "OFFHOOK_PORT": "0",
        "OFFHOOK_PUBLIC_URL": PUBLIC,
        "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN,
        "OFFHOOK_SIMULATED": "1",
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        **(environ or {}),
    }
    command = [sys.executable, "-m", "offhook", "serve", "--workers", str(count)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, env=whole, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode().split() for _ in range(2)]
        assert all(lines), log.read_text()
        url, console = lines[0][-1], lines[1][-1]
        names = [f"w-{slot}" for slot in range(count)]
        yield Served(process, names, url, console.removesuffix("/console"), log)
    finally:
        for pid in (process.pid, *_children(process.pid)) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        process.wait()
