"""The parts of workers that need no processes: the page of counters, the routing, the metrics of the whole."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from offhook.gateway.cli.serve import workers_wanted
from offhook.gateway.errors import OperatorError
from offhook.gateway.workers.page import Page
from offhook.gateway.workers.routing import Place, Routing
from offhook.gateway.workers.whole import joined

NAMES = ("w-0", "w-1", "w-2")
VOICE, NAMED = b"POST /carrier/voice HTTP/1.1\r\n\r\n", b"GET /carrier/n/w-1/media HTTP/1.1\r\n\r\n"


def page_of(folder: Path, *, now_s: float = 100.0) -> Page:
    page = Page(folder / "page", 3, create=True)
    for slot in range(3):
        page.beat(slot, now_s)
    return page


def test_new_call_goes_where_least_is_to_do(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    page.total(0, 2)
    page.total(2, 1)
    assert page.least_loaded(0, 100.0) == 1
    page.sent(0, 1)
    page.sent(2, 1)  # underway to it
    assert page.least_loaded(0, 100.0) == 2
    page.gone(0, 1)
    page.gone(2, 1)
    assert page.least_loaded(0, 100.0) == 1
    assert page.least_loaded(0, 102.0) == 0  # the others have not beaten for long


def test_successor_inherits_no_load(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    page.total(1, 7)
    page.sent(0, 1)
    page.clear(1)
    assert (page.load(1), page.takes_connections(1)) == (0, False)
    assert page.total(0, 3) == 3


def test_two_workers_share_one_limit(tmp_path: Path) -> None:
    one, other = page_of(tmp_path), Page(tmp_path / "page", 3)
    assert one.total(0, 3) == 3
    assert other.total(1, 4) == 7


@pytest.mark.parametrize(
    ("head", "place"),
    [
        (NAMED, Place(1, True)),
        (NAMED.replace(b"w-1", b"w-0"), Place(0, True)),
        (VOICE, Place(2, False)),
        (NAMED.replace(b"w-1", b"elsewhere"), Place(2, False)),
        (b"GET /metrics HTTP/1.1", Place(0, True)),
        (b"GET /readyz?x HTTP/1.1", Place(0, True)),
        (b"GET /consoles HTTP/1.1", Place(2, False)),
        (b"GET http://host/carrier/n/w-1/media HTTP/1.1", Place(2, False)),
    ],
)
def test_head_says_where_it_belongs(tmp_path: Path, head: bytes, place: Place) -> None:
    page = page_of(tmp_path)
    page.total(0, 1)
    page.total(1, 1)
    routing = Routing(tmp_path, NAMES, 0, page, lambda: 100.0)
    assert routing.place(head) == place


def test_dead_worker_is_named_in_vain(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    page.dead(1)
    assert Routing(tmp_path, NAMES, 0, page, lambda: 100.0).place(NAMED).slot != 1


@pytest.mark.wall_clock
async def test_connection_in_a_dead_queue_is_kept(tmp_path: Path) -> None:
    page, now = page_of(tmp_path), asyncio.get_running_loop().time
    sender, receiver = (Routing(tmp_path, NAMES, slot, page, now) for slot in (0, 1))
    sender.open()
    receiver.open()
    got: list[bytes] = []
    receiver.received = lambda fd, head, gone: (got.append(head), os.close(fd))[0]  # type: ignore[func-returns-value]
    ours, _theirs = socket.socketpair()
    taken: list[bool] = []
    assert sender.send(NAMED, ours.fileno(), taken.append)
    async with asyncio.timeout(5):
        while not taken:
            await asyncio.sleep(0.001)
    assert (got, taken) == ([NAMED], [True])

    asyncio.get_running_loop().remove_reader(receiver._in.fileno())  # type: ignore[union-attr]  # it hangs, and dies
    for _ in range(15):  # more than its queue holds
        assert sender.send(NAMED, ours.fileno(), taken.append)
    receiver._in.close()  # type: ignore[union-attr]
    async with asyncio.timeout(5):
        while len(taken) < 16:
            await asyncio.sleep(0.001)
    assert taken == [True] + 15 * [False]
    assert not page.takes_connections(1)
    receiver._in = None
    receiver.close()
    sender.close()
    ours.close()
    _theirs.close()


async def test_metrics_of_workers_are_one_page() -> None:
    one = b'# HELP a_total A.\n# TYPE a_total counter\na_total{x="y"} 1\na_total{x="# HELP z"} 2\n'
    one += b"# HELP b B.\n# TYPE b gauge\nb 3\n"
    other = one.replace(b" 1\n", b" 5\n") + b'# HELP c C.\n# TYPE c gauge\nc 1 # {t="1"} 2\n# EOF\n'
    assert (await joined([("0", one), ("1", other)])).decode() == (
        "# HELP a_total A.\n# TYPE a_total counter\n"
        'a_total{worker="0",x="y"} 1\na_total{worker="0",x="# HELP z"} 2\n'
        'a_total{worker="1",x="y"} 5\na_total{worker="1",x="# HELP z"} 2\n'
        '# HELP b B.\n# TYPE b gauge\nb{worker="0"} 3\nb{worker="1"} 3\n'
        '# HELP c C.\n# TYPE c gauge\nc{worker="1"} 1 # {t="1"} 2\n'
        "# EOF\n"
    )


@pytest.mark.parametrize("given", ["0", "65", "-1", "many", "1.5", ""])
def test_bad_number_of_workers_is_refused(given: str) -> None:
    with pytest.raises(OperatorError, match="--workers must be auto"):
        workers_wanted(given)
