"""Attacks on the public listener of a served gateway, and the carrier's signed webhooks meanwhile.

`python -m tests.web.attacks` (`make attack`) prints a table. As root it runs in a network namespace of its own, where
the attackers have public addresses; otherwise, or with `--proxy`, all come from loopback, as from a proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.twilio_wire import sign
from offhook.gateway.rehearsal.run import PUBLIC_URL, gateway_process
from tests.rig.process import python_path

__all__ = ["ATTACKS", "Outcome", "attacked", "in_namespace", "may_have_namespace"]

API_TOKEN, CONSOLE_TOKEN = "attacked-api-token", "attacked-console-token"
ANSWER_S = 10.0  # Twilio waits 15 s
STRENGTH_S = 60.0  # to open an attack's connections, on a loaded machine
PROBE_EVERY_S = 0.03
WEBHOOKS_MIN = 20
PUBLIC_NET = "52.0.0.0/8"


@dataclass
class Outcome:
    """What an attack did. `signed`: webhooks sent meanwhile, `answered` of them as they should be."""

    name: str
    signed: int = 0
    answered: int = 0
    slowest_ms: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)  # of signed webhooks, by what came instead of an answer


@dataclass
class Target:
    """The gateway, and the addresses of those who reach it."""

    port: int
    auth_token: str
    public: bool  # the attackers have public addresses
    seconds: float
    log: Path
    figures: dict[str, float] = field(default_factory=dict)
    enough: asyncio.Event = field(default_factory=asyncio.Event)  # webhooks were answered meanwhile

    async def hold(self) -> None:
        """For the attack's time, and on a slow machine until the carrier has sent webhooks enough to tell."""
        await asyncio.sleep(self.seconds)
        await self.enough.wait()

    def lasts(self, began_s: float) -> bool:
        """The same for an attack that repeats something."""
        return time.monotonic() < began_s + self.seconds or not self.enough.is_set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Until an attack has come to its strength."""
        async with asyncio.timeout(STRENGTH_S):
            while not reached():
                await asyncio.sleep(0.02)

    def attacker(self, number: int = 0) -> tuple[str, int]:
        return (f"52.0.113.{number + 1}" if self.public else f"127.0.0.{number + 2}"), 0

    async def connect(self, source: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=source)

    async def ask(self, request: bytes, source: tuple[str, int]) -> int:
        """The status of the answer to one request on a connection of its own."""
        reader, writer = await self.connect(source)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n")
            return int(head.split()[1])
        finally:
            writer.close()

    def webhook(self, *, signed: bool, keep: bool = False) -> bytes:
        """A status callback of a call that does not exist: it has no effect."""
        form = {"CallSid": "CA" + secrets.token_hex(16), "CallStatus": "completed"}
        url = f"{PUBLIC_URL}/twilio/status"
        return request_of(
            "POST",
            "/twilio/status",
            {"X-Twilio-Signature": sign(url, form, self.auth_token if signed else "another token")},
            urlencode(form).encode(),
            keep=keep,
        )


def request_of(method: str, path: str, headers: dict[str, str], body: bytes = b"", *, keep: bool = False) -> bytes:
    lines = {"Host": "voice.example.com", "Connection": "keep-alive" if keep else "close", **headers}
    if body:
        lines |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
    return (
        f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    ).encode() + body


# --- attacks: each lasts `target.seconds`, while the carrier goes on


async def idle_keep_alive(target: Target) -> None:
    """1,100 keep-alive connections from one address: each sent a request, and is idle."""

    async def one() -> asyncio.StreamWriter | None:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await target.connect(target.attacker())
            writer.write(request_of("GET", "/livez", {}, keep=True))
            await reader.readuntil(b"\r\n\r\n")
            return writer
        return None

    opened = [one_ for _ in range(11) for one_ in await asyncio.gather(*(one() for _ in range(100)))]
    target.figures["connections"] = sum(writer is not None for writer in opened)
    await target.hold()
    for writer in filter(None, opened):
        writer.close()


async def silent_connections(target: Target) -> None:
    """Ten addresses with 55 connections each that send nothing; closed ones are opened again."""
    await _keep_open(target, addresses=10, each=55, sent=b"")


async def slow_bodies(target: Target) -> None:
    """Webhooks with a signature that is wrong, whose bodies do not arrive."""
    head = target.webhook(signed=False).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    await _keep_open(target, addresses=20, each=60, sent=head)


async def _keep_open(target: Target, *, addresses: int, each: int, sent: bytes) -> None:
    """Connections that send this and wait; closed ones are opened again."""
    opened = Counter[str]()

    async def one(number: int) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await target.connect(target.attacker(number))
                opened["connections"] += 1
                writer.write(sent)
                with suppress(OSError):
                    await reader.read(1)
                writer.close()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(one(number)) for number in range(addresses) for _ in range(each)]
    await target.until(lambda: opened["connections"] >= len(tasks))
    await target.hold()
    target.figures.update(opened)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def unsigned_flood(target: Target) -> None:
    """Unsigned and wrongly signed webhooks and unknown paths, as many as go through eight connections."""
    statuses = Counter[str]()
    began_s = time.monotonic()
    batch = b"".join(
        [
            *(request_of("POST", "/twilio/voice", {}, b"CallSid=CA1", keep=True) for _ in range(10)),
            *(target.webhook(signed=False, keep=True) for _ in range(5)),
            *(request_of("GET", "/.env", {}, keep=True) for _ in range(5)),
        ]
    )

    async def one(number: int) -> None:
        while target.lasts(began_s):
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await target.connect(target.attacker(number))
                while target.lasts(began_s):
                    writer.write(batch)
                    for _ in range(20):
                        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)
                        statuses[head[9:12].decode()] += 1
                        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                        await reader.readexactly(int(length or b"0"))
                writer.close()

    await asyncio.gather(*(one(number) for number in range(8)))
    target.figures["requests per s"] = round(statuses.total() / (time.monotonic() - began_s))
    for status, count in statuses.items():
        target.figures[status] = count


async def guessing(target: Target) -> None:
    """Wrong secrets for the API and the console, 200 at once; the right ones meanwhile, from the same address."""
    statuses = Counter[str]()
    began_s = time.monotonic()
    paths = {"/calls/1": API_TOKEN, "/console/api/calls": CONSOLE_TOKEN, "/metrics": CONSOLE_TOKEN}

    async def guess(path: str) -> None:
        while target.lasts(began_s):
            with suppress(OSError, asyncio.IncompleteReadError):
                wrong = {"Authorization": f"Bearer {secrets.token_hex(8)}"}
                statuses[f"wrong {await target.ask(request_of('GET', path, wrong), target.attacker())}"] += 1
            await asyncio.sleep(0.02)

    async def right(path: str, secret: str) -> None:
        while target.lasts(began_s):
            given = {"Authorization": f"Bearer {secret}"}
            status: object = "closed"
            with suppress(OSError, asyncio.IncompleteReadError):
                status = await target.ask(request_of("GET", path, given), target.attacker())
            statuses[f"right {status}"] += 1
            await asyncio.sleep(0.1)

    guesses = [guess(path) for path in paths for _ in range(4)]
    await asyncio.gather(*guesses, *(right(path, secret) for path, secret in paths.items()))
    target.figures.update(statuses)


async def garbage(target: Target) -> None:
    """TLS handshakes, bytes of chance, requests that no parser takes; a connection each."""
    answers = Counter[str]()
    began_s = time.monotonic()
    kinds = (b"\x16\x03\x01\x02\x00", os.urandom(300), b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n")

    async def one(number: int) -> None:
        while target.lasts(began_s):
            with suppress(OSError):
                reader, writer = await target.connect(target.attacker(number))
                writer.write(kinds[number % len(kinds)])
                answer = b""
                with suppress(OSError, TimeoutError):
                    answer = await asyncio.wait_for(reader.read(1_000), 1.0)
                answers["400" if answer.startswith(b"HTTP/1.1 400 ") else "closed" if not answer else "other"] += 1
                answers["names its server"] += b"\r\nServer:" in answer
                writer.close()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(one(number) for number in range(12)))
    target.figures.update(answers)


ATTACKS: dict[str, Callable[[Target], Awaitable[None]]] = {
    one.__name__: one for one in (idle_keep_alive, silent_connections, slow_bodies, unsigned_flood, guessing, garbage)
}


# --- the carrier


class CarrierThread:
    """Signed webhooks, each on a connection of its own, while the block runs; the last ones are waited for.

    They have a thread and a loop of their own: on the attackers' loop, which opens a thousand connections at once, a
    webhook waits for most of a second between its connection and its first byte, and the gateway closes it as idle.
    """

    def __init__(self, target: Target, outcome: Outcome) -> None:
        self._target, self._outcome = target, outcome
        self._attackers = asyncio.get_running_loop()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), name="carrier")

    async def __aenter__(self) -> None:
        self._thread.start()

    async def __aexit__(self, *exc: object) -> None:
        self._over.set()
        await asyncio.to_thread(self._thread.join)

    async def _send(self) -> None:
        source = ("54.172.60.1" if self._target.public else "127.0.0.1", 0)
        pending: set[asyncio.Task[None]] = set()
        while not self._over.is_set():
            task = asyncio.create_task(self._one(source))
            pending.add(task)
            task.add_done_callback(pending.discard)
            await asyncio.sleep(PROBE_EVERY_S)
        await asyncio.gather(*pending)

    async def _one(self, source: tuple[str, int]) -> None:
        target, outcome = self._target, self._outcome
        outcome.signed += 1
        began_s = time.monotonic()
        try:
            status: object = await asyncio.wait_for(target.ask(target.webhook(signed=True), source), ANSWER_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            status = type(error).__name__
        outcome.slowest_ms = max(outcome.slowest_ms, round(1000 * (time.monotonic() - began_s)))
        if status == 204:
            outcome.answered += 1
        else:
            outcome.refusals[str(status)] = outcome.refusals.get(str(status), 0) + 1
        if outcome.answered + sum(outcome.refusals.values()) >= WEBHOOKS_MIN:
            self._attackers.call_soon_threadsafe(target.enough.set)


@asynccontextmanager
async def served(public: bool, seconds: float, folder: Path) -> AsyncIterator[Target]:
    """A gateway process with both secrets, which listens where the attackers are."""
    agent, log, auth_token = folder / "agent.yaml", folder / "gateway.log", secrets.token_hex(16)
    agent.write_text("name: desk\n")
    environment = {"OFFHOOK_API_TOKEN": API_TOKEN, "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN}
    async with (
        ModelServer(Script()) as model,
        gateway_process(agent, model, auth_token=auth_token, log=log, environment=environment) as url,
    ):
        yield Target(urlsplit(url).port or 0, auth_token, public, seconds, log)


async def attacked(names: list[str], *, public: bool, seconds: float) -> list[Outcome]:
    """Each attack in turn, all on one gateway: what one leaves behind must not harm the next either."""
    outcomes, seen = [], 0
    with tempfile.TemporaryDirectory(prefix="offhook-attack-") as folder:
        async with served(public, seconds, Path(folder)) as target:
            for name in names:
                outcome = Outcome(name)
                target.figures, target.enough = {}, asyncio.Event()
                async with CarrierThread(target, outcome):
                    await ATTACKS[name](target)
                outcome.figures = target.figures
                lines = target.log.read_text().splitlines()
                outcome.figures["log lines"] = len(lines) - seen
                outcome.figures["log lines with a secret"] = sum(
                    secret in line for line in lines[seen:] for secret in (API_TOKEN, CONSOLE_TOKEN, target.auth_token)
                )
                seen = len(lines)
                outcomes.append(outcome)
    return outcomes


# --- in a network namespace


def may_have_namespace() -> bool:
    """Whether this user may make a network namespace, and the programs for it are there."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def in_namespace(arguments: list[str]) -> list[str]:
    """A command that runs this module where all of `PUBLIC_NET` and the carrier's addresses are this machine's."""
    prepare = f"ip link set lo up && ip route add local {PUBLIC_NET} dev lo && ip route add local 54.0.0.0/8 dev lo"
    run = ["sh", "-c", f'{prepare} && exec "$@"', "sh", sys.executable, "-m", "tests.web.attacks", *arguments]
    return ["unshare", "--net", *run]


def run(names: list[str], *, public: bool, seconds: float) -> list[Outcome]:
    """The attacks in a process of their own, in a namespace when the attackers are to have public addresses."""
    arguments = ["--inside", "public" if public else "proxy", "--seconds", str(seconds), *names]
    command = in_namespace(arguments) if public else [sys.executable, "-m", "tests.web.attacks", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": python_path()}, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3_000:])
    return [Outcome(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]


def show(outcomes: list[Outcome], where: str) -> None:
    print(f"\n{where}\n{'attack':20} {'signed webhooks answered':>26} {'slowest':>9}  figures")
    for one in outcomes:
        share = f"{one.answered} of {one.signed}, {one.answered / max(1, one.signed):.1%}"
        figures: dict[str, Any] = {**one.figures, **{f"REFUSED {k}": v for k, v in one.refusals.items()}}
        words = ", ".join(f"{name} {value:g}" for name, value in sorted(figures.items()))
        print(f"{one.name:20} {share:>26} {one.slowest_ms:6.0f} ms  {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ATTACKS)}; none: all")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each attack lasts")
    parser.add_argument("--proxy", action="store_true", help="no public addresses, though this user may have them")
    parser.add_argument("--inside", choices=("public", "proxy"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.names or list(ATTACKS)
    if given.inside:
        found = asyncio.run(attacked(names, public=given.inside == "public", seconds=given.seconds))
        print(json.dumps([vars(one) for one in found]))
        return
    outcomes = []
    if may_have_namespace() and not given.proxy:
        outcomes += (found := run(names, public=True, seconds=given.seconds))
        show(found, "from public addresses")
    outcomes += (found := run(names, public=False, seconds=given.seconds))
    show(found, "through a proxy: all from loopback")
    if any(one.answered < one.signed for one in outcomes):
        raise SystemExit("signed webhooks were refused")


if __name__ == "__main__":
    main()
