"""Deliveries of webhooks: out of the outbox, signed, at least once, in order per call, tried again for a day."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from offhook.gateway.config import Settings
from offhook.gateway.errors import OperatorError
from offhook.gateway.store.database import CallDatabase, DatabaseAway, Transaction
from offhook.gateway.store.outbox import Delivery, claim, delivered, failed, waiting
from offhook.gateway.tools.http.guard import GuardedResolver, url_refusal
from offhook.gateway.webhooks.events import check_kinds
from offhook.gateway.webhooks.signature import headers_of, keys_of
from offhook.metrics.catalogue import Metrics

__all__ = ["Deliveries", "Receiver", "receiver_for", "retry_at_ms"]

log = logging.getLogger(__name__)

AT_ONCE = 20  # attempts under way
ANSWER_S = 15.0  # as the Standard Webhooks specification advises
LEASE_MS = 60_000  # a process that dies holds up a delivery for as long
POLL_S = 1.0  # what other processes wrote, and what is due again
TOGETHER_S = 0.1  # what comes within it is one transaction: a transaction costs the calls' event loop some 0.2 ms
COUNTED_S = 5.0
AWAY_S = 5.0
CLOSE_S = 2.0
FIRST_MS, MOST_MS, GIVE_UP_MS = 5_000, 4 * 3_600_000, 24 * 3_600_000
GONE = 410  # the receiver wants no more of these
ERROR_LENGTH = 200


def retry_at_ms(delivery: Delivery, now_ms: int, share: float) -> int | None:
    """When to try again after this failed attempt; None: never. `share` in [0, 1): the jitter."""
    if now_ms - delivery.created_ms >= GIVE_UP_MS:
        return None
    wait_ms = min(FIRST_MS * 2 ** (delivery.attempts - 1), MOST_MS)
    return now_ms + int(wait_ms * (0.75 + share / 2))


class Receiver:
    """The operator's endpoint. `resolver` looks its name up, the system's unless given."""

    def __init__(
        self, url: str, keys: Sequence[bytes], *, private: bool, resolver: AbstractResolver | None = None
    ) -> None:
        self.url, self._keys, self._private, self._resolver = url, keys, private, resolver
        self._http: aiohttp.ClientSession | None = None

    async def send(self, id: str, body: bytes, at_s: int) -> tuple[int, str]:
        """One attempt: the status, and what went wrong; status 0 without an answer."""
        if self._http is None:
            connector = aiohttp.TCPConnector(resolver=GuardedResolver(private=self._private, resolver=self._resolver))
            self._http = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        headers = {**headers_of(id, at_s, body, self._keys), "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with self._http.post(
                self.url, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as answer:
                status = answer.status
        except TimeoutError:
            return 0, f"no answer within {ANSWER_S:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            return 0, str(getattr(error, "os_error", None) or error)[:ERROR_LENGTH] or type(error).__name__
        if 300 <= status < 400:
            return (
                status,
                f"answered {status}: redirects are not followed, set the final address",
            )
        return status, "" if status < 300 else f"answered {status}"

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None


def receiver_for(settings: Settings) -> Receiver | None:
    """The configured receiver, None without one. Raises `OperatorError`."""
    check_kinds(settings.webhook_events)
    if not settings.webhook_url:
        return None
    if not settings.webhook_secrets:
        raise OperatorError("OFFHOOK_WEBHOOK_URL needs OFFHOOK_WEBHOOK_SECRET, which signs what is delivered")
    if not settings.data_dir:
        raise OperatorError("OFFHOOK_WEBHOOK_URL needs OFFHOOK_DATA_DIR, where events wait until they are delivered")
    keys = keys_of(settings.webhook_secrets)
    refusal = url_refusal(URL(settings.webhook_url), private=settings.webhook_private)
    if refusal:
        hint = refusal.replace("allow_private: true", "OFFHOOK_WEBHOOK_PRIVATE=1")
        raise OperatorError(f"OFFHOOK_WEBHOOK_URL: {hint}")
    return Receiver(settings.webhook_url, keys, private=settings.webhook_private)


class Deliveries:
    """The task that delivers. `clock` gives wall-clock seconds."""

    def __init__(
        self, database: CallDatabase, receiver: Receiver, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._database, self._receiver, self._metrics, self._clock = database, receiver, metrics, clock
        self._woken = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._attempted: list[tuple[int, str, int | None]] = []  # (seq, error, due again): not yet in the outbox
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once the schema is there."""
        self._task = asyncio.create_task(self._deliver_forever(), name="webhooks")

    def wake(self) -> None:
        """Something is due."""
        self._woken.set()

    async def close(self) -> None:
        """What is under way has a moment; then it is given up, and due again after its lease."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        tasks = set(self._under_way)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(DatabaseAway, TimeoutError):  # due again after their leases
            async with asyncio.timeout(CLOSE_S):
                await self._turn(0)
        await self._receiver.close()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    async def _deliver_forever(self) -> None:
        counted_s = -COUNTED_S
        while True:
            wait_s = POLL_S
            try:
                self._woken.clear()
                claimed = await self._turn(AT_ONCE - len(self._under_way))
                for delivery in claimed:
                    task = asyncio.create_task(self._deliver(delivery), name=f"webhook {delivery.id}")
                    self._under_way.add(task)
                    task.add_done_callback(self._done)
                if self._clock() - counted_s >= COUNTED_S:
                    counted_s = self._clock()
                    counts = await self._database.read(waiting)
                    self._metrics.webhooks_waiting.set(counts.get("waiting", 0))
            except DatabaseAway:
                wait_s = AWAY_S  # the store reports it
            except Exception:
                log.exception("webhooks: the outbox cannot be read")
                self._metrics.task_failures_total.inc("webhooks")
                wait_s = AWAY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
                    await asyncio.sleep(TOGETHER_S)
            except TimeoutError:
                pass

    async def _turn(self, limit: int) -> list[Delivery]:
        """Note what was attempted and claim up to `limit`, in one transaction; none where there is nothing to do."""
        if not (self._attempted or limit):
            return []
        attempted, self._attempted = self._attempted, []
        now_ms = self._now_ms()

        async def work(session: Transaction) -> list[Delivery]:
            for seq, error, due_ms in attempted:
                await (failed(session, seq, error, due_ms) if error else delivered(session, seq))
            return await claim(session, now_ms, LEASE_MS, limit) if limit else []

        try:
            return await self._database.write(work)
        except (DatabaseAway, asyncio.CancelledError):
            self._attempted = attempted + self._attempted
            raise

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._woken.set()  # a place is free, and the next of its call may be due
        if not task.cancelled() and (error := task.exception()):
            log.error("webhooks: a delivery failed", exc_info=error)
            self._metrics.task_failures_total.inc("webhooks")

    async def _deliver(self, delivery: Delivery) -> None:
        status, error = await self._receiver.send(delivery.id, delivery.body or b"", int(self._clock()))
        due_ms = None
        if not error:
            self._metrics.webhooks_total.inc("delivered")
        else:
            due_ms = None if status == GONE else retry_at_ms(delivery, self._now_ms(), random.random())
            self._metrics.webhooks_total.inc("failed" if due_ms is not None else "dead")
            if due_ms is None:
                log.error(
                    "webhooks: %s %s is not delivered: %s; `offhook webhooks retry`", delivery.kind, delivery.id, error
                )
        self._attempted.append((delivery.seq, error, due_ms))
