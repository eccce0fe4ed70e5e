"""Webhooks are delivered at least once, in order per call, signed, and only where they may go."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook, WebhookVerificationError

from offhook.gateway.config import settings_from
from offhook.gateway.errors import OperatorError
from offhook.gateway.labels import LABELS
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.phone.steps import HangUp, Say, WaitForAgent
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.store.columns import CallEvent, Entry
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.outbox import Delivery, listed, retry_dead, waiting
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.store.writing import write_entries
from offhook.gateway.webhooks.deliver import Deliveries, receiver_for, retry_at_ms
from offhook.gateway.webhooks.signature import headers_of, keys_of
from offhook.metrics.catalogue import Metrics
from tests.calls.lines import GREETING, HELLO, SATURDAY
from tests.rig.calls import Plan, place_calls
from tests.rig.process import in_thread
from tests.webhooks.receiver import SECRET, served

NEWER = "whsec_" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
DAY_MS = 86_400_000
DOCS = Path(__file__).parents[2] / "docs" / "records.md"


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(tmp_path / "db")
    await migrate(database)
    yield database
    await database.close()


@asynccontextmanager
async def delivering(
    database: SqliteDatabase, url: str, clock: Callable[[], float] | None = None
) -> AsyncIterator[Deliveries]:
    settings = settings_from(
        {
            "OFFHOOK_WEBHOOK_URL": url,
            "OFFHOOK_WEBHOOK_SECRET": SECRET,
            "OFFHOOK_WEBHOOK_PRIVATE": "1",
            "OFFHOOK_DATA_DIR": ".",
        }
    )
    receiver = receiver_for(settings)
    assert receiver is not None
    deliveries = Deliveries(database, receiver, Metrics(CollectorRegistry(), LABELS), clock or running_clock())
    deliveries.start()
    yield deliveries
    await deliveries.close()


async def put(database: SqliteDatabase, *names: str) -> None:
    """Events `CALL/KIND`."""
    at_ms = int(running_clock()() * 1000)
    events = tuple(CallEvent(name, name.partition("/")[0], "call.ended", name.encode(), at_ms) for name in names)
    await database.write(partial(write_entries, entries=[Entry(events)], node="n"))


async def until(database: SqliteDatabase, **counts: int) -> None:
    async with asyncio.timeout(120):
        while await database.read(waiting) != counts:
            await asyncio.sleep(0.05)


async def test_a_failing_receiver_gets_all_in_order(outbox: SqliteDatabase) -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    attempts: list[str] = []
    rng = random.Random(1)

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        attempts.append(request.headers["webhook-id"])
        if rng.random() < 0.2:
            return web.Response(status=503)
        assert request.headers["webhook-id"] == body.decode()
        seen[body.decode().partition("/")[0]].append(body.decode())
        return web.Response(status=204)

    names = [f"CA{call}/{number}" for number in range(5) for call in range(20)]
    async with served(receive) as url, delivering(outbox, url):
        await put(outbox, *names)
        await until(outbox, delivered=100)
    assert all(got == [f"{call}/{number}" for number in range(5)] for call, got in seen.items())
    assert len(seen) == 20
    assert len(attempts) > 100
    assert all(one.body is None for one in await outbox.read(lambda s: listed(s, None, 200)))


async def test_what_was_delivered_at_the_end_is_noted(outbox: SqliteDatabase) -> None:
    """The process ends between the receiver's answer and the transaction that would note it."""
    answered = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        answered.set()
        return web.Response()

    async with served(receive) as url:
        async with delivering(outbox, url):
            await put(outbox, "CA1/a")
            await answered.wait()
        assert await outbox.read(waiting) == {"delivered": 1}


async def test_a_deliverer_that_dies_is_followed_by_another(outbox: SqliteDatabase) -> None:
    got: list[str] = []
    begun = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        begun.set()
        if not got:
            got.append("first attempt")
            await asyncio.sleep(3_600)
        got.append((await request.read()).decode())
        return web.Response()

    async with served(receive) as url:
        async with delivering(outbox, url):
            await put(outbox, "CA1/a", "CA1/b")
            await begun.wait()  # and it is cancelled in the midst of it
        async with delivering(outbox, url):
            await until(outbox, delivered=2)
    assert got == ["first attempt", "CA1/a", "CA1/b"]


async def test_a_gone_receiver_makes_them_dead_until_retried(outbox: SqliteDatabase) -> None:
    status = 410

    async def receive(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with served(receive) as url, delivering(outbox, url) as deliveries:
        await put(outbox, "CA1/a", "CA1/b")
        await until(outbox, dead=2)
        assert (await outbox.read(lambda s: listed(s, "dead", 9)))[0].error == "answered 410"
        status = 200
        now_ms = int(running_clock()() * 1000)
        assert await outbox.write(partial(retry_dead, now_ms=now_ms)) == 2
        deliveries.wake()
        await until(outbox, delivered=2)


def test_waits_double_for_a_day() -> None:
    at_ms, waits = 0, []
    for attempts in range(1, 100):
        due_ms = retry_at_ms(Delivery(1, "i", "s", "k", b"", 0, 0, attempts, "waiting", ""), at_ms, 0.5)
        if due_ms is None:
            break
        waits.append((due_ms - at_ms) // 1000)
        at_ms = due_ms
    assert waits[:4] == [5, 10, 20, 40]
    assert max(waits) == 4 * 3_600
    assert DAY_MS <= at_ms < DAY_MS + 4 * 3_600_000


@pytest.mark.parametrize("receivers_secret", [SECRET, NEWER])
def test_a_request_has_a_signature_of_each_secret(receivers_secret: str) -> None:
    body = b'{"type": "call.ended"}'
    headers = headers_of("id-1", int(time.time()), body, keys_of([NEWER, SECRET]))
    assert Webhook(receivers_secret).verify(body, headers) == {"type": "call.ended"}
    with pytest.raises(WebhookVerificationError):
        Webhook(receivers_secret).verify(body + b" ", headers)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OFFHOOK_WEBHOOK_SECRET": ""}, "needs OFFHOOK_WEBHOOK_SECRET"),
        ({"OFFHOOK_WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "24 bytes or more"),
        ({"OFFHOOK_WEBHOOK_SECRET": "whsec_no base64"}, "24 bytes or more"),
        ({"OFFHOOK_DATA_DIR": ""}, "needs OFFHOOK_DATA_DIR"),
        ({"OFFHOOK_WEBHOOK_URL": "http://hooks.example.com"}, "only https is allowed; OFFHOOK_WEBHOOK_PRIVATE=1"),
        ({"OFFHOOK_WEBHOOK_URL": "https://169.254.169.254/"}, "link-local"),
        ({"OFFHOOK_WEBHOOK_URL": "https://10.0.0.1/"}, "a private network"),
        ({"OFFHOOK_WEBHOOK_EVENTS": "call.end"}, "did you mean call.ended"),
    ],
)
def test_an_unusable_receiver_is_refused(environ: dict[str, str], says: str) -> None:
    good = {
        "OFFHOOK_WEBHOOK_URL": "https://hooks.example.com/x",
        "OFFHOOK_WEBHOOK_SECRET": SECRET,
        "OFFHOOK_DATA_DIR": ".",
    }
    with pytest.raises(OperatorError, match=says):
        receiver_for(settings_from({**good, **environ}))


async def test_a_name_that_leads_inside_is_not_reached() -> None:
    environ = {
        "OFFHOOK_WEBHOOK_URL": "https://localhost:9443/x",
        "OFFHOOK_WEBHOOK_SECRET": SECRET,
        "OFFHOOK_DATA_DIR": ".",
    }
    receiver = receiver_for(settings_from(environ))
    assert receiver is not None
    status, error = await receiver.send("i", b"{}", 1)
    await receiver.close()
    assert status == 0
    assert "loopback" in error


async def test_the_receiver_of_the_docs_works() -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if "Webhook(" in block)
    space: dict[str, Any] = {}
    exec(code, space)
    assert len([line for line in code.splitlines() if line]) <= 10
    async with served(space["received"]) as url:
        environ = {"OFFHOOK_WEBHOOK_URL": url, "OFFHOOK_WEBHOOK_SECRET": SECRET}
        environ |= {"OFFHOOK_WEBHOOK_PRIVATE": "1", "OFFHOOK_DATA_DIR": "."}
        right = receiver_for(settings_from(environ))
        wrong = receiver_for(settings_from({**environ, "OFFHOOK_WEBHOOK_SECRET": NEWER}))
        body = b'{"type": "call.ended", "data": {"call_sid": "CA1"}}'
        assert right is not None
        assert wrong is not None
        assert await right.send("one", body, int(time.time())) == (204, "")
        assert (await wrong.send("two", body, int(time.time())))[0] == 500
        await asyncio.gather(right.close(), wrong.close())
    assert space["seen"] == {"one"}


def test_a_served_call_reports_itself_in_order(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        Webhook(SECRET).verify(body, dict(request.headers))
        got.append(json.loads(body))
        return web.Response()

    plan = Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForAgent("end"), HangUp()),
        Script((GREETING, Reply("caller", (CallTool("remember", {"key": "day", "value": "Friday"}), SATURDAY)))),
        agent=f"greeting: {{text: Greet.}}\ntools: [{{builtin: remember}}]\n"
        f"recording: {{enabled: true, directory: {tmp_path}}}",
    )
    with in_thread(served(receive)) as url:
        environ = {
            "OFFHOOK_DATA_DIR": str(tmp_path),
            "OFFHOOK_WEBHOOK_URL": url,
            "OFFHOOK_WEBHOOK_SECRET": SECRET,
            "OFFHOOK_WEBHOOK_PRIVATE": "1",
        }
        outcome = place_calls({"reported": plan}, environ=environ, speed=4.0)["reported"]
        left = asyncio.run(_deliver_what_is_left(tmp_path, url))
    assert left == {"delivered": 5}
    kinds = list(dict.fromkeys(event["type"] for event in got))  # one may have come twice
    assert kinds == ["call.started", "tool.finished", "call.ended", "call.transcript", "recording.ready"]
    data = {event["type"]: event["data"] for event in got}
    assert {one["call_sid"] for one in data.values()} == {outcome.record.call_sid}
    assert data["call.started"]["caller"] == outcome.record.caller
    assert data["call.started"]["simulated"] is True
    assert data["tool.finished"]["tool"]["outcome"] == "done"
    assert data["call.ended"]["end_reason"] == outcome.record.end_reason
    assert data["call.transcript"]["transcript"][0]["who"] == "agent"


async def _deliver_what_is_left(folder: Path, url: str) -> dict[str, int]:
    """Those that the gateway's end left under way."""
    database = SqliteDatabase(folder / "offhook.sqlite3")
    await database.write(lambda s: s.run("update outbox set due_ms = 0 where state = 'waiting'"))
    async with delivering(database, url, time.time):
        async with asyncio.timeout(20):
            while (counts := await database.read(waiting)).get("waiting"):
                await asyncio.sleep(0.02)
    await database.close()
    return counts
