"""Real proxies before a served gateway, configured as `offhook tunnel-help` prints it: only what is signed passes."""

from __future__ import annotations

import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from typer.testing import CliRunner

from offhook.gateway.cli.main import app
from offhook.gateway.rehearsal.model.script import Reply, Say, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, WaitForAgent
from offhook.gateway.rehearsal.run import gateway_process
from tests.infra.live_prometheus import free_port
from tests.needs import require
from tests.rig.process import python_path

pytestmark = [pytest.mark.wall_clock, pytest.mark.usefixtures("forked")]

NAME = "voice.example.com"
GUARDED = ("/console", "/console/api/calls", "/console/events", "/console/sign-in?token=x", "/metrics")
PRETENCES: tuple[dict[str, str], ...] = (
    {},
    {"Host": "localhost"},
    {"Host": "127.0.0.1:8081"},
    {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    {"Connection": "Upgrade", "Upgrade": "websocket"},
)
AGENT = "name: desk\ngreeting: {text: Greet the caller.}\n"
SCRIPT = Script((Reply("text", (Say("Hello", length_ms=400),)),))


def printed(proxy: str, gateway_port: int) -> str:
    """The configuration that the command prints."""
    environ = {"OFFHOOK_PUBLIC_URL": f"https://{NAME}", "OFFHOOK_PORT": f"{gateway_port}"}
    return CliRunner(env=environ).invoke(app, ["tunnel-help", proxy]).output


def replaced(text: str, what: str, by: object) -> str:
    assert what in text, f"not in the configuration any more: {what}"
    return text.replace(what, str(by))


def nginx(text: str, port: int, folder: Path, chain: Path, key: Path) -> list[str]:
    """Its command; the printed file is changed in the port and the certificate's place alone."""
    text = replaced(text, "listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    text = replaced(text, f"/etc/letsencrypt/live/{NAME}/fullchain.pem", chain)
    text = replaced(text, f"/etc/letsencrypt/live/{NAME}/privkey.pem", key)
    (folder / "offhook.conf").write_text(text)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder}/offhook.conf; }}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(text: str, port: int, folder: Path, chain: Path, key: Path) -> list[str]:
    """The same."""
    both = folder / "both.pem"
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    text = replaced(text, "bind :443", f"bind 127.0.0.1:{port}")
    text = replaced(text, f"/etc/haproxy/certs/{NAME}.pem", both)
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(500):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


class Here(AbstractResolver):
    """Every name is this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]  # fmt: skip

    async def close(self) -> None: ...


@asynccontextmanager
async def behind(proxy: str, folder: Path) -> AsyncIterator[tuple[str, str, ssl.SSLContext]]:
    """A gateway without a console token behind the proxy: the proxy's URL, the auth token, whom to trust."""
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    (folder / "agent.yaml").write_text(AGENT)
    token, port, log = secrets.token_hex(16), free_port(), folder / "gateway.log"
    environment = {
        "OFFHOOK_PUBLIC_URL": f"https://{NAME}",
        "OFFHOOK_CONSOLE_TOKEN": "",
        "PYTHONPATH": python_path(),
    }
    async with (
        ModelServer(SCRIPT) as model,
        gateway_process(folder / "agent.yaml", model, auth_token=token, log=log, environment=environment) as url,
    ):
        make = {"nginx": nginx, "haproxy": haproxy}[proxy]
        text = printed(proxy, int(url.rpartition(":")[2]))
        with running(make(text, port, folder, chain, key), port, folder / "proxy.log"):
            yield f"https://{NAME}:{port}", token, trust


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
async def test_behind_a_proxy_only_signed_requests_pass(proxy: str, tmp_path: Path) -> None:
    require(proxy)
    async with behind(proxy, tmp_path) as (url, token, trust):
        call = SimulatedCall(
            url, (WaitForAgent("end"), HangUp()), public_url=f"https://{NAME}", auth_token=token, dialled="+15550199"
        )

        def session() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, resolver=Here()))

        async with session() as http:
            for path in GUARDED:
                for headers in PRETENCES:
                    async with http.get(url + path, headers=headers, allow_redirects=False) as answer:
                        assert answer.status in (400, 404), (path, headers)
                        assert answer.status == 404 or "Upgrade" in headers
            async with http.post(f"{url}/twilio/voice", data={"CallSid": call.call_sid}) as answer:
                assert answer.status == 403
            async with http.get(f"{url}/livez") as answer:
                assert answer.status == 200

        def opened() -> None:
            call._leg.session = session()

        call._leg.open = opened  # type: ignore[method-assign]
        truth = await call.run()
        assert truth.violations == []
        assert [fetched.status for fetched in truth.fetched if fetched.status >= 400] == []
        assert len(truth.agent) == 1, "the agent is heard over the stream's WebSocket"
        assert truth.ended_by == "caller"
