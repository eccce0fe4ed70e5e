"""Who may look, and what the answers carry, over real sockets."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from offhook.gateway.web import access
from offhook.gateway.web.access import FAILURES_MAX, is_local_host, secret_of
from tests.web.console.console_rig import staged

PATHS = (
    "/console",
    "/console/static/app.js",
    "/console/events",
    "/console/api/percentiles",
    "/console/api/calls",
    "/console/api/calls/CA1",
    "/console/api/view/CA1",
)
TOKEN = "correct horse: battery"  # a colon, because basic's password may hold one


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


@asynccontextmanager
async def console(token: str = "") -> AsyncIterator[Any]:
    """A function that gets a path; gives status and headers."""
    async with staged({"OFFHOOK_CONSOLE_TOKEN": token} if token else {}) as stage, aiohttp.ClientSession() as session:

        async def get(path: str, headers: Mapping[str, str] = {}) -> tuple[int, Any]:
            async with session.get(stage.url + path, headers=headers, timeout=aiohttp.ClientTimeout(30)) as answer:
                return answer.status, answer.headers

        get.metrics = stage.gateway.metrics  # type: ignore[attr-defined]
        yield get


async def test_without_a_token_only_localhost_is_allowed() -> None:
    async with console() as get:
        assert (await get("/console"))[0] == 200
        for headers in (
            {"X-Forwarded-For": "203.0.113.9"},
            {"Forwarded": "for=203.0.113.9"},
            {"Via": "1.1 proxy"},
            {"Host": "voice.example.com"},  # a tunnel; a page whose name was made to resolve to 127.0.0.1
            {"Host": "localhost.evil.example:8080"},
        ):
            for path in (*PATHS, "/metrics"):
                assert (await get(path, headers))[0] == 403, (path, headers)


async def test_with_a_token_every_path_needs_it() -> None:
    async with console(TOKEN) as get:
        for path in (*PATHS, "/metrics"):
            status, headers = await get(path)
            assert status == 401, path
            assert headers["WWW-Authenticate"].startswith("Basic "), path
        for right in (basic("anyone", TOKEN), basic("", TOKEN), {"Authorization": f"Bearer {TOKEN}"}):
            for path in ("/console", "/console/api/percentiles", "/metrics"):
                assert (await get(path, right))[0] == 200, (path, right)
        for wrong in (basic("anyone", "guess"), basic(TOKEN, ""), {"Authorization": "Bearer "}):
            assert (await get("/console", wrong))[0] == 401, wrong


async def test_right_secret_passes_wrong_ones_are_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "HELD_S", 0.05)
    async with console(TOKEN) as get:
        statuses = [(await get("/console", basic("x", f"guess {i}")))[0] for i in range(FAILURES_MAX + 5)]
        assert statuses == [401] * FAILURES_MAX + [429] * 5
        clock = asyncio.get_running_loop().time
        began_s = clock()
        status, headers = await get("/console", basic("x", "guess"))
        assert status == 429
        assert clock() - began_s > 0.04
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert (await get("/console", basic("x", TOKEN)))[0] == 200
        counted = get.metrics.registry.get_sample_value("offhook_auth_failures_total", {"kind": "console"})
        assert counted == FAILURES_MAX + 6


async def test_cross_site_page_is_refused_despite_password() -> None:
    async with console(TOKEN) as get:
        cross = {**basic("x", TOKEN), "Sec-Fetch-Site": "cross-site"}
        assert (await get("/console/api/calls", cross))[0] == 403
        assert (await get("/console/events", {**cross, "Sec-Fetch-Mode": "no-cors"}))[0] == 403
        assert (await get("/console", {**cross, "Sec-Fetch-Mode": "navigate"}))[0] == 200  # a link in a chat


async def test_every_answer_is_locked_down() -> None:
    async with console() as get:
        for path in PATHS:
            for headers in ({}, {"Via": "1.1 proxy"}):
                _, got = await get(path, headers)
                policy = got["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert got["Cache-Control"] == "no-store"
                assert got["X-Frame-Options"] == "DENY"
                assert got["X-Content-Type-Options"] == "nosniff"
                assert got["Cross-Origin-Resource-Policy"] == "same-origin"
                assert "Access-Control-Allow-Origin" not in got


async def test_only_the_consoles_own_files_are_served() -> None:
    async with console() as get:
        for name in ("../pages.py", "%2e%2e/pages.py", "..%2Fpages.py", "/etc/passwd", "vendor/", "nothing.js"):
            assert (await get(f"/console/static/{name}"))[0] == 404, name


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        ("", None),
        ("Digest abc", None),
        ("Bearer abc", b"abc"),
        ("bearer  abc ", b"abc"),
        ("Basic " + b64encode(b"me:a:b").decode(), b"a:b"),
        ("Basic " + b64encode("me:ä€".encode()).decode(), "ä€".encode()),
        ("Basic not base64!", b""),
        ("Basic ", b""),
    ],
)
def test_secret_of(header: str, secret: bytes | None) -> None:
    assert secret_of(header) == secret


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("LOCALHOST:1", True),
        ("voice.example.com", False),
        ("localhost.evil.example:8080", False),
        ("", False),
    ],
)
def test_is_local_host(host: str, local: bool) -> None:
    assert is_local_host(host) is local
