"""The two listeners of a served gateway, and one in insecure mode, over raw requests: no header opens anything."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.run import gateway_environment
from tests.rig.process import python_path, spawn

pytestmark = [pytest.mark.wall_clock, pytest.mark.usefixtures("forked")]

GUARDED = ("/console", "/console/api/calls", "/console/events", "/console/static/app.js", "/metrics")
PRETENCES: tuple[dict[str, str], ...] = (
    {},
    {"Host": "localhost"},
    {"Host": "127.0.0.1:8081"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    {"Authorization": "Bearer "},
    {"Cookie": "offhook_console="},
)


@dataclass
class Served:
    """A gateway process: its URL, what it printed as the console's link, its log."""

    url: str
    link: str
    process: subprocess.Popen[str]

    @property
    def admin(self) -> str:
        return self.link.partition("/console")[0]


@contextmanager
def started(environ: dict[str, str]) -> Iterator[Served]:
    process, url = spawn(["-m", "offhook", "serve"], environ)
    assert process.stdout is not None
    try:
        yield Served(url, process.stdout.readline().strip().rpartition(" ")[2], process)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@asynccontextmanager
async def serve(folder: Path, **environment: str) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    (folder / "agent.yaml").write_text("name: desk\n")
    async with ModelServer(Script()) as model, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        environ = gateway_environment(folder / "agent.yaml", model, secrets.token_hex(16))
        environ |= {"OFFHOOK_CONSOLE_TOKEN": "", "PYTHONPATH": python_path(), **environment}
        with started(environ) as served:
            yield served, http


async def status(http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> int:
    async with http.get(url, headers=headers, allow_redirects=False) as answer:
        return answer.status


async def test_console_and_metrics_are_not_public(tmp_path: Path) -> None:
    async with serve(tmp_path) as (served, http):
        for path in (*GUARDED, "/console/sign-in"):
            for headers in PRETENCES:
                assert await status(http, served.url + path, headers) == 404, (path, headers)
        for path in GUARDED:
            for headers in PRETENCES:
                assert await status(http, served.admin + path, headers) == 401, (path, headers)
        for path in ("/twilio/status", "/twilio/media", "/calls/1"):
            assert await status(http, served.admin + path) == 404, path
        assert await status(http, served.url + "/livez") == 200
        assert await status(http, served.admin + "/livez") == 200
        async with http.post(f"{served.url}/console/token", json={}) as answer:
            assert answer.status == 404


async def test_the_printed_link_signs_a_browser_in(tmp_path: Path) -> None:
    async with serve(tmp_path) as (served, http):
        assert served.link.startswith(f"{served.admin}/console/sign-in?token=")
        async with http.get(served.link, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/console")
            assert answer.headers["Cache-Control"] == "no-store"
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        token = served.link.partition("token=")[2]
        assert token not in cookie
        signed_in = {"Cookie": cookie.partition(";")[0]}
        for path in (*GUARDED[:2], "/metrics"):
            assert await status(http, served.admin + path, signed_in) == 200, path
            assert await status(http, served.url + path, signed_in) == 404, path
        assert await status(http, f"{served.admin}/metrics", {"Authorization": f"Bearer {token}"}) == 200
        cross = {**signed_in, "Sec-Fetch-Site": "cross-site"}
        assert await status(http, f"{served.admin}/console/api/calls", cross) == 403
        assert await status(http, f"{served.link[:-1]}x") == 403


async def test_a_configured_token_opens_both(tmp_path: Path) -> None:
    token = "chosen-by-the-operator"
    async with serve(tmp_path, OFFHOOK_CONSOLE_TOKEN=token) as (served, http):
        assert served.link == f"{served.admin}/console"  # the token is not printed
        for base in (served.url, served.admin):
            for path in GUARDED:
                assert await status(http, base + path, {"Host": "localhost"}) == 401, path
            assert await status(http, f"{base}/metrics", {"Authorization": f"Bearer {token}"}) == 200
            assert await status(http, f"{base}/console/sign-in?token={token}") == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"X-Forwarded-For": "203.0.113.9"},
    ],
    ids=str,
)
async def test_insecure_mode_refuses_web_pages(insecure: Served, headers: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as http:
        form = {"CallSid": "CA" + "1" * 32, "To": "+15550100", "CallStatus": "ringing"}
        async with http.post(f"{insecure.url}/twilio/voice", data=form, headers=headers) as answer:
            assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{insecure.url}/twilio/media", headers=headers)
        assert refused.value.status == 403
        assert await status(http, f"{insecure.url}/console/api/calls", headers) == 403 or "navigate" in str(headers)
        async with http.get(f"{insecure.url}/metrics") as answer:
            counted = await answer.text()
    assert 'offhook_auth_failures_total{kind="insecure"}' in counted
    assert 'offhook_auth_failures_total{kind="insecure"} 0' not in counted
    assert "\noffhook_calls_active 0\n" in counted


async def test_insecure_mode_answers_programs(insecure: Served) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{insecure.url}/twilio/status", data={"CallSid": "CA" + "1" * 32}) as answer:
            assert answer.status == 204
        own = {"Sec-Fetch-Site": "same-origin", "Origin": insecure.url}
        assert await status(http, f"{insecure.url}/console/static/app.js", own) == 200
        socket = await http.ws_connect(f"{insecure.url}/twilio/media")
        await socket.close()


@pytest.fixture(scope="module")
def insecure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    agent = tmp_path_factory.mktemp("insecure") / "agent.yaml"
    agent.write_text("name: desk\n")
    environ = gateway_environment(agent, None, "") | {
        "TWILIO_AUTH_TOKEN": "",
        "OFFHOOK_PUBLIC_URL": "",
        "OFFHOOK_CONSOLE_TOKEN": "",
        "OFFHOOK_INSECURE": "1",
        "GEMINI_API_KEY": "none",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9",
        "PYTHONPATH": python_path(),
    }
    with started(environ) as served:
        yield served
