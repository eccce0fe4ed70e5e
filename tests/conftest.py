"""Which clock a test's event loop keeps: the quick one, unless the test is marked `wall_clock` or `clock_speed`."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import multiprocessing.spawn
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import cache, partial
from pathlib import Path

import certifi
import pytest

from offhook.gateway.rehearsal.quick_clock import QuickLoop
from tests.needs import require
from tests.rig.chromium import Chromium, chromium_of
from tests.rig.forked import launcher

END_CERTIFICATE = b"-----END CERTIFICATE-----\n"

# Containers set it: each of a hundred Pythons would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Each client of google-genai reads all authorities of the world three times, 60 ms of CPU. No test reaches the world:
# one authority stands for them, here and in the processes of tests.
_authority = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115  until the process ends
_authority.write(Path(certifi.where()).read_bytes().partition(END_CERTIFICATE)[0] + END_CERTIFICATE)
_authority.flush()
os.environ["SSL_CERT_FILE"] = _authority.name

if "PYTEST_XDIST_WORKER" not in os.environ:  # a folder of all processes of a run: the workers inherit its name
    _shared = tempfile.TemporaryDirectory()
    os.environ["TESTS_SHARED"] = _shared.name
    os.environ["NODE_COMPILE_CACHE"] = f"{_shared.name}/node"  # each use of a browser begins a Playwright driver

gc.disable()  # what is imported and collected stays: looking for garbage in it took a tenth of all tests' time


COMPILED = any((Path(__file__).parent / "__pycache__").glob("test_*.pyc"))

LONG = {  # at the end they would be waited for: `make test` gives a file to one worker
    "test_running_gateway.py",
    "test_rehearsals_doc.py",
    "test_machine_reachable.py",
    "test_vad.py",
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("wall_clock"):
        return {"wall": asyncio.new_event_loop}
    if (marked := item.get_closest_marker("clock_speed")) is not None:
        return {"quick": partial(QuickLoop, *marked.args)}
    return {"quick": QuickLoop}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """In a new checkout one worker collects first, and the others find the modules compiled: six seconds each."""
    if "PYTEST_XDIST_WORKER" not in os.environ or COMPILED:
        return (yield)
    with Path(os.environ["TESTS_SHARED"], "collects").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH)
        return (yield)


WAITING = "wall_clock", "clock_speed"  # the marks of tests that wait for other processes


@cache
def _waiting(path: Path) -> str:
    """How many tests of a file wait for other processes, as its text and its folder's conftest.py say: "", "some" or
    "all".
    """
    text = path.read_text()
    if re.search(rf"^pytestmark = .*({'|'.join(WAITING)})", text, re.MULTILINE):
        return "all"
    fixtures = path.with_name("conftest.py")
    if fixtures.exists() and path.parent.name != "tests":
        text += fixtures.read_text()
    return "some" if any(mark in text for mark in WAITING) else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Each of the two runs of `make test` collects no file that is wholly the other's."""
    if not re.fullmatch(r"test_.*\.py", collection_path.name):
        return None
    of_the_other = {"wall_clock or clock_speed": "", "not (wall_clock or clock_speed)": "all"}
    return _waiting(collection_path) == of_the_other.get(config.getoption("markexpr")) or None


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before those of the other run are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those first that measure or place one call at a time, then others that wait for processes, then what computes:
    beside their like they find the machine punctual. Of each, the long files first: a file is one worker's.
    """

    for item in items:
        waits, said = any(map(item.get_closest_marker, WAITING)), _waiting(item.path)
        if said == ("" if waits else "all"):  # the run that it belongs to does not collect it
            raise pytest.UsageError(f"{item.nodeid}: one of the marks {WAITING}, and the text of its file, disagree")

    def haste(item: pytest.Item) -> int:
        marked = item.get_closest_marker("wall_clock")
        return 2 if marked is None else 0 if marked.kwargs.get("calm") else 1

    items.sort(key=lambda item: (haste(item), item.path.name not in LONG))


@pytest.fixture(scope="session")
def forking_python() -> Iterator[str]:
    """A launcher of forked processes, of one server for all workers: see `tests.rig.forked`."""
    with launcher(Path(os.environ["TESTS_SHARED"])) as python:
        yield python


@pytest.fixture(scope="module")
def forked(forking_python: str) -> Iterator[None]:
    """Processes of `offhook` that the module's tests start, or have started, are forked: none imports for a second."""
    spawned = multiprocessing.spawn.get_executable()
    multiprocessing.spawn.set_executable(forking_python)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", forking_python)
        yield
    multiprocessing.spawn.set_executable(spawned)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A browser for every test of this process: see `tests.rig.chromium`."""
    require("chromium", "playwright")
    with tempfile.TemporaryDirectory() as folder, chromium_of(Path(folder)) as running:
        yield running
