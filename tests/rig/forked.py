"""`python -m offhook ...` and `python FILE.py`, forked from a process that has done the second of imports.

    with launcher(folder) as python:
        subprocess.run([python, "-m", "offhook", "check", "agent.yaml"])

The launcher passes its arguments, environment, folder and standard streams on, lives as long as the forked process and
ends as it does. Signals are passed on; when it is killed, so is the forked process, whose `sys.executable` it is. Other
modules are executed as ever. A process id is the launcher's: tests that look into the process start a real one.
"""

from __future__ import annotations

import contextlib
import gc
import io
import marshal
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["launcher"]

LAUNCHER = """\
import _signal, _socket, marshal, os, sys
arguments = sys.argv[1:]
ours = arguments[0] == "-m" and arguments[1].partition(".")[0] == "offhook"
if not ours and not arguments[0].endswith(".py"):
    os.execv({python!r}, [{python!r}, *arguments])
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
server.connect({path!r})
body = marshal.dumps((arguments, dict(os.environ), os.getcwd()))
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
server.sendmsg([len(body).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
server.sendall(body)
pid = int.from_bytes(server.recv(8), "big")
nothing = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
for number in (1, 2, 3, 10, 12, 15):
    _signal.signal(number, lambda number, frame: os.kill(pid, number))
code = os.waitstatus_to_exitcode(int.from_bytes(server.recv(8), "big"))
if code < 0:
    _signal.signal(-code, _signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextlib.contextmanager
def launcher(folder: Path) -> Iterator[str]:
    """What stands for `sys.executable`. `folder`: an empty one with a short path."""
    path, file, real = str(folder / "socket"), folder / "python", sys.executable
    command = [real, "-m", "tests.rig.forked", path, str(file)]
    root = Path(__file__).parents[2]
    server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    file.write_text(f"#!{real} -IS\n" + LAUNCHER.format(python=real, path=path))
    file.chmod(0o755)
    try:
        yield str(file)
    finally:
        server.stdin.close()  # it ends, and what it has forked
        server.wait()
        server.stdout.close()


class _Request(Exception):
    def __init__(self, arguments: list[str], environ: dict[str, str], folder: str, streams: list[int]) -> None:
        self.arguments, self.environ, self.folder, self.streams = arguments, environ, folder, streams


class _Server:
    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._wakes, wake = socket.socketpair()
        for end in (self._wakes, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._wake = wake
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._launchers: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakes, selectors.EVENT_READ, self._reap)
        self._selector.register(0, selectors.EVENT_READ, self._end)

    def run(self) -> None:
        """Until standard input ends; `_Request` in each forked process."""
        while True:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _accept(self, _: Any) -> None:
        launcher, _ = self._listener.accept()
        head, streams, _, _ = socket.recv_fds(launcher, 8, 3)
        body, size = b"", int.from_bytes(head, "big")
        while len(body) < size:
            body += launcher.recv(size - len(body))
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (self._listener, self._wakes, self._wake, launcher, *self._launchers.values()):
                one.close()
            self._selector.close()
            raise _Request(*marshal.loads(body), streams)
        for stream in streams:
            os.close(stream)
        launcher.sendall(pid.to_bytes(8, "big"))
        self._launchers[pid] = launcher
        self._selector.register(launcher, selectors.EVENT_READ, lambda _: self._killed(pid))

    def _killed(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._selector.unregister(self._launchers[pid])

    def _reap(self, _: Any) -> None:
        self._wakes.recv(1000)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                launcher = self._launchers.pop(ended[0])
                with contextlib.suppress(KeyError):
                    self._selector.unregister(launcher)
                with contextlib.suppress(OSError):
                    launcher.sendall(ended[1].to_bytes(8, "big"))
                launcher.close()

    def _end(self, _: Any) -> None:
        for pid in self._launchers:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _become(request: _Request, paths: list[str]) -> None:
    """As `python ARGUMENTS` begins."""
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request.environ)
    os.chdir(request.folder)
    encoding, _, errors = request.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = io.TextIOWrapper(open(0, "rb"), encoding)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb"), encoding, errors or "strict", line_buffering=os.isatty(1))  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb"), encoding, "backslashreplace", write_through=True)  # noqa: SIM115
    given = filter(None, request.environ.get("PYTHONPATH", "").split(os.pathsep))
    of_script = request.folder if request.arguments[0] == "-m" else os.path.dirname(request.arguments[0])
    sys.path[:] = [of_script, *given, *paths]
    sys.argv = request.arguments[request.arguments[0] == "-m" :]


def main() -> None:
    path, sys.executable = sys.argv[1:]
    gc.disable()
    import mcp.server.mcpserver  # noqa: F401

    import offhook.gateway.app
    import offhook.gateway.cli.main
    import offhook.gateway.cli.rehearse
    import offhook.gateway.rehearsal.load.search  # noqa: F401  and the others: for what will be forked

    paths = sys.path[1:]
    gc.freeze()
    gc.enable()
    server = _Server(path)
    print("ready", flush=True)
    try:
        server.run()
    except _Request as wanted:
        request = wanted
    _become(request, paths)
    if request.arguments[0] == "-m":
        sys.modules.pop(sys.argv[0], None)  # it is run anew, as `__main__`
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
