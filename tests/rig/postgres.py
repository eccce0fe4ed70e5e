"""A Postgres server of the tests' own: real, in a temporary folder, with a database for each who asks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.needs import require

__all__ = ["PostgresServer", "postgres_server"]

OPTIONS = "-c fsync=off -c listen_addresses= -c max_connections=40 -c shared_buffers=64MB"


class PostgresServer:
    """Reached by a socket in its folder."""

    def __init__(self, bin_folder: Path, folder: Path) -> None:
        self._bin, self._folder, self._data = bin_folder, folder, folder / "data"

    def run(self, program: str, *arguments: str) -> None:
        """One of Postgres' programs, not as root, which it refuses."""
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(self._bin / program), *arguments]
        done = subprocess.run(command, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"{program}: {done.stderr}{done.stdout}"

    def start(self) -> None:
        """Up and reachable afterwards."""
        log = str(self._folder / "log")
        self.run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-o", f"{OPTIONS} -k {self._folder}", "start")

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """At once, connections or not."""
        self.run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.run("createdb", "-h", str(self._folder), "-U", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self._folder}"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """While the block runs. Skips the test where Postgres is missing."""
    require("asyncpg")
    found = shutil.which("initdb")
    places = (
        [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    if not places:
        require("postgres")
    folder = Path(tempfile.mkdtemp(prefix="offhook-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = PostgresServer(places[0], folder)
    try:
        server.run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):  # a test may have killed it
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
