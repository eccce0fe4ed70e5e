"""`python -m offhook ...`, `python FILE.py` and `python -c CODE`, forked from a process that has imported the package.

    with launcher(folder) as python:
        subprocess.run([python, "-m", "offhook", "check", "agent.yaml"])

The launcher passes its arguments, environment, folder and files on, lives as long as the forked process and ends as it
does. Signals are passed on; when it is killed, so is the forked process, whose `sys.executable` it is. What that spawns
by `multiprocessing` is forked, too. Other modules are executed as ever. A process id is the launcher's: tests that look
into the process start a real one.

All who name the same folder use one server, which ends after the last of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
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
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["launcher"]

FILES_MAX = 250  # of one message

LAUNCHER = """\
import _signal, _socket, marshal, os, sys
arguments = sys.argv[1:]
if arguments[-1] == "--multiprocessing-fork":
    arguments = arguments[arguments.index("-c"):]
ours = arguments[1].partition(".")[0] == "offhook" if arguments[0] == "-m" else arguments[0] == "-c"
ours = ours and "multiprocessing.resource_tracker" not in arguments[1]  # it outlives its user
if not ours and not arguments[0].endswith(".py"):
    os.execv({python!r}, [{python!r}, *arguments])
files = [0, 1, 2]
for name in os.listdir("/dev/fd"):
    try:
        if int(name) > 2 and os.get_inheritable(int(name)):
            files.append(int(name))
    except OSError:
        pass
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
server.connect({path!r})
body = marshal.dumps((arguments, dict(os.environ), os.getcwd(), files))
numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in files)
server.sendmsg([len(body).to_bytes(8, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
server.sendall(body)
pid = int.from_bytes(server.recv(8), "big")
nothing = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
for number in files[3:]:
    os.close(number)
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
    """What stands for `sys.executable`. `folder`: has a short path."""
    file, users = folder / "python", folder / "users"
    server = None
    with _locked(folder):
        if not users.exists():
            os.mkfifo(users)
        try:
            user = os.open(users, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody reads: there is no server, or it has ended
                raise
            reads = os.open(users, os.O_RDONLY | os.O_NONBLOCK)
            user = os.open(users, os.O_WRONLY)
            server = _started(folder / "socket", file, reads)
            os.close(reads)
    try:
        yield str(file)
    finally:
        os.close(user)
        if server is not None:
            server.wait()  # for the other users, too: its computing is ours


def _started(path: Path, file: Path, users: int) -> subprocess.Popen[bytes]:
    real = sys.executable
    path.unlink(missing_ok=True)
    command = [real, "-m", "tests.rig.forked", str(path), str(file)]
    server = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=users, stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server.stdout as printed:
        assert printed.readline() == b"ready\n"
    file.write_text(f"#!{real} -IS\n" + LAUNCHER.format(python=real, path=str(path)))
    file.chmod(0o755)
    return server


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Request(Exception):
    def __init__(
        self, arguments: list[str], environ: dict[str, str], folder: str, numbers: list[int], files: list[int]
    ) -> None:
        self.arguments, self.environ, self.folder = arguments, environ, folder
        self.numbers, self.files = numbers, files  # what each file is called there, and here


class _Server:
    """Standard input: a pipe that all users hold."""

    def __init__(self, path: str) -> None:
        self._folder = Path(path).parent
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
        """Until the last user has gone; `_Request` in each forked process."""
        while True:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _accept(self, _: Any) -> None:
        launcher, _ = self._listener.accept()
        head, files, _, _ = socket.recv_fds(launcher, 8, FILES_MAX)
        body, size = b"", int.from_bytes(head, "big")
        while len(body) < size:
            body += launcher.recv(size - len(body))
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (self._listener, self._wakes, self._wake, launcher, *self._launchers.values()):
                one.close()
            self._selector.close()
            arguments, environ, folder, numbers = marshal.loads(body)
            raise _Request(arguments, environ, folder, numbers, files)
        for file in files:
            os.close(file)
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
        with _locked(self._folder):
            try:
                os.read(0, 1)
            except BlockingIOError:  # one has come
                return
            for pid in self._launchers:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)


def _become(request: _Request, paths: list[str]) -> None:
    """As `python ARGUMENTS` begins."""
    beyond = max(*request.numbers, *request.files) + 1
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD, beyond) for file in request.files]
    for file in request.files:
        os.close(file)
    for file, number in zip(aside, request.numbers, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request.environ)
    os.chdir(request.folder)
    encoding, _, errors = request.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = io.TextIOWrapper(open(0, "rb"), encoding)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb"), encoding, errors or "strict", line_buffering=os.isatty(1))  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb"), encoding, "backslashreplace", write_through=True)  # noqa: SIM115
    given = filter(None, request.environ.get("PYTHONPATH", "").split(os.pathsep))
    first = request.arguments[0]
    of_script = {"-m": request.folder, "-c": ""}.get(first, os.path.dirname(first))
    sys.path[:] = [of_script, *given, *paths]
    sys.argv = request.arguments[request.arguments[0] == "-m" :]


def main() -> None:
    path, sys.executable = sys.argv[1:]
    gc.disable()
    import mcp.server.mcpserver  # noqa: F401

    import offhook.gateway.app
    import offhook.gateway.cli.main
    import offhook.gateway.cli.rehearse
    import offhook.gateway.rehearsal.load.search
    import offhook.gateway.rehearsal.results.picture  # noqa: F401  and the others: for what will be forked

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
    if request.arguments[0] == "-c":
        code = sys.argv.pop(1)
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(code, vars(sys.modules["__main__"]))
    elif request.arguments[0] == "-m":
        sys.modules.pop(sys.argv[0], None)  # it is run anew, as `__main__`
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
