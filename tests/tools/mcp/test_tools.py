"""MCP servers that are real processes: listed, called, cancelled, killed, brought back, gone for good."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import ToolSettings
from offhook.gateway.agent.tools import McpServer
from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import ToolCall, ToolError, ToolHost
from offhook.gateway.tools.build import Toolbox, build_tools
from offhook.gateway.tools.http.client import HttpClient
from offhook.metrics.catalogue import TOOL_FAILURES
from tests.needs import require
from tests.tools.mcp.odd_server import SCHEMAS

if TYPE_CHECKING:
    from offhook.gateway.tools.mcp.tools import McpTools

require("mcp")

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

SERVER = str(Path(__file__).with_name("mcp_server.py"))
SECRET = "planted-canary-4711"
HOST = cast(ToolHost, None)
BACK_SOON = "offhook.gateway.tools.mcp.tools.BACK_SOON_S"


def source_of(settings: ToolSettings, environ: dict[str, str], **named: Any) -> McpTools:
    """With the `mcp` package: a second, for the worker that runs this file."""
    from offhook.gateway.tools.mcp.tools import McpTools

    return McpTools(settings, environ, **named)


def stdio(diary: Path, *, only: tuple[str, ...] = (), **settings: Any) -> ToolSettings:
    env = {"DIARY": str(diary), "LIBRARY_KEY": "${KEY}", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return ToolSettings(mcp=McpServer(command=sys.executable, args=(SERVER,), env=env, only=only), **settings)


@asynccontextmanager
async def started(settings: ToolSettings, **kwargs: Any) -> AsyncIterator[McpTools]:
    tools = source_of(settings, {"KEY": SECRET, "GATEWAY_SECRET": "x"}, **kwargs)
    await tools.start()
    try:
        yield tools
    finally:
        await tools.close()


async def call(tools: McpTools, name: str, key: str = "CA1:s1:1", **arguments: Any) -> Any:
    return await tools.tools[name].run(ToolCall("1", name, arguments, key), HOST)


async def refused(tools: McpTools, name: str, **arguments: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        await call(tools, name, **arguments)
    assert SECRET not in f"{caught.value!r} {caught.value.record}"
    assert caught.value.reason in TOOL_FAILURES
    return caught.value


async def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    path = tmp_path / "diary"
    path.touch()
    return path


def server_pids(diary: Path) -> list[int]:
    return [int(line.split()[1]) for line in diary.read_text().splitlines() if line.startswith("started")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]


async def test_a_program_is_listed_called_and_ended(diary: Path, tmp_path: Path) -> None:
    async with started(stdio(diary), directory=str(tmp_path)) as tools:
        found = tools.tools["find_books"]
        assert found.description == "Find books about something."
        assert found.parameters["required"] == ["about"]
        assert await call(tools, "find_books", about="tea", at_most=2) == ["tea, volume 1", "tea, volume 2"]
        assert await call(tools, "shelve", book={"title": "Tea"}) == "Tea (None)"
        assert await call(tools, "where") == str(tmp_path)
        (pid,) = server_pids(diary)
        assert alive(pid)
    assert not alive(pid)
    assert "ended" in diary.read_text(), "by closing its input, not by a signal"


async def test_its_children_end_and_its_pipes_are_closed(diary: Path, tmp_path: Path) -> None:
    """A child that has inherited the pipes, of which one ignores what ends the others."""
    children = f'sleep 60 & echo $! >{tmp_path}/child; (trap \'\' TERM; exec sleep 5) & exec "$0" "$@"'
    alone = stdio(diary).mcp
    assert alone is not None
    beside = msgspec.structs.replace(alone, command="sh", args=("-c", children, alone.command, *alone.args))
    open_before = len(os.listdir("/proc/self/fd"))
    async with started(ToolSettings(mcp=beside)):
        assert len(os.listdir("/proc/self/fd")) > open_before
        child = int((tmp_path / "child").read_text())
    assert len(os.listdir("/proc/self/fd")) == open_before
    async with asyncio.timeout(10):
        while alive(child):  # its new parent reaps it
            await asyncio.sleep(0.01)


async def test_schemas_are_plain_enough_for_any_model(diary: Path) -> None:
    async with started(stdio(diary)) as tools:
        for tool in tools.tools.values():
            text = json.dumps(tool.parameters)
            assert "$ref" not in text
            assert "$defs" not in text
            assert tool.parameters["type"] == "object"
        assert tools.tools["shelve"].parameters["properties"]["book"]["properties"]["title"] == {"type": "string"}


async def test_selected_tools_are_imported_with_a_prefix(diary: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = stdio(diary, only=("find_books", "fly"), name="my-library", on_barge_in="finish", timeout_s=7.0)
    async with started(settings) as tools:
        assert list(tools.tools) == ["my_library_find_books"]
        tool = tools.tools["my_library_find_books"]
        assert (tool.on_barge_in, tool.timeout_s) == (ToolPolicy.FINISH, 7.0)
        assert await call(tools, "my_library_find_books", about="tea", at_most=1) == ["tea, volume 1"]
    assert "has no tool fly; it has find_books, shelve" in caplog.text


async def test_wrong_arguments_and_exceptions_are_reported(diary: Path) -> None:
    async with started(stdio(diary)) as tools:
        error = await refused(tools, "find_books", at_most="many")
        assert str(error).startswith("This did not work: ")
        assert "about" in str(error)
        assert str(await refused(tools, "fail")).startswith("This did not work: ")
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]


async def test_an_abandoned_call_is_cancelled_in_the_server(diary: Path) -> None:
    async with started(stdio(diary)) as tools:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await call(tools, "hang")
        await until(lambda: "cancelled" in diary.read_text())
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]


async def test_ten_megabytes_are_refused_without_blocking(diary: Path) -> None:
    async with started(stdio(diary)) as tools:
        worst_s = 0.0

        async def feel() -> None:
            nonlocal worst_s
            while True:
                before_s = time.perf_counter()
                await asyncio.sleep(0.001)
                worst_s = max(worst_s, time.perf_counter() - before_s - 0.001)

        feeling = asyncio.create_task(feel())
        error = await refused(tools, "everything")
        feeling.cancel()
        assert str(error) == "The answer was too long or could not be read. Ask for less."
        assert worst_s < 0.2, "the package alone holds the loop for 0.3 s on a quiet machine; here it is 0.005 s"
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]
        assert len(server_pids(diary)) == 1


async def test_the_idempotency_key_reaches_the_server(diary: Path) -> None:
    async with started(stdio(diary)) as tools:
        await call(tools, "reserve", key="CA1:s1:7", title="Tea")
        await call(tools, "reserve", key="CA1:s1:7", title="Tea")
    assert diary.read_text().count("reserve CA1:s1:7") == 2


@pytest.mark.parametrize("how", ["by itself", "by a signal"])
async def test_a_server_that_dies_is_started_again(
    diary: Path, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(stdio(diary)) as tools:
        monkeypatch.setattr(BACK_SOON, 30.0)  # a busy machine starts it in more than 2 s
        if how == "by itself":
            error = await refused(tools, "die")
            assert str(error).startswith("This broke off. It is not known whether it took effect")
        else:
            os.kill(server_pids(diary)[0], signal.SIGKILL)
            await until(lambda: "its connection is gone" in caplog.text)
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]
        assert len(server_pids(diary)) == 2


async def test_an_absent_server_is_reported_and_retried(
    tmp_path: Path, diary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "server"
    program.write_text(f'#!/bin/sh\n[ -e "{tmp_path}/broken" ] && exit 1\nexec {sys.executable} {SERVER}\n')
    program.chmod(0o755)
    settings = ToolSettings(mcp=McpServer(command=str(program), env={"DIARY": str(diary)}))
    monkeypatch.setattr(BACK_SOON, 0.05)
    async with started(settings) as tools:
        (tmp_path / "broken").touch()
        await refused(tools, "die")
        await until(lambda: "next try in 1 s" in caplog.text)
        error = await refused(tools, "find_books", about="tea")
        assert str(error) == "This cannot be used just now. Offer to try again in a while."
        (tmp_path / "broken").unlink()
        monkeypatch.setattr(BACK_SOON, 30.0)
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]


@pytest.mark.parametrize(
    "text",
    ["exit 1", "sleep 60", "echo rubbish; echo '{\"a\":1}'; echo '[]'; cat > /dev/null", "echo $KEY >&2; exit 1"],
)
async def test_the_gateway_starts_despite_a_broken_server(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    program = tmp_path / "server"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    settings = ToolSettings(mcp=McpServer(command=str(program), start_s=0.5, env={"KEY": "${KEY}"}))
    async with asyncio.timeout(30), started(settings) as tools:
        assert tools.tools == {}
        assert f"MCP server {program.name}: " in caplog.text
    assert SECRET not in caplog.text


async def test_secrets_neither_leak_nor_reach_the_server(
    diary: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with started(stdio(diary)) as tools:
        names = await call(tools, "surroundings")
        assert "LIBRARY_KEY" in names
        assert not {"GATEWAY_SECRET", "GEMINI_API_KEY", "TWILIO_AUTH_TOKEN", "PYTEST_CURRENT_TEST"} & set(names)
        await refused(tools, "tell_secrets")
        await until(lambda: "says: secret on stderr" in caplog.text)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


def test_an_invalid_server_is_reported_at_the_start() -> None:
    with pytest.raises(OperatorError, match=r"mcp\.command: no such program: there-is-none"):
        source_of(ToolSettings(mcp=McpServer(command="there-is-none")), {})
    with pytest.raises(OperatorError, match=r"MCP server x: mcp\.headers\.Authorization: TOKEN is not in the env"):
        source_of(ToolSettings(name="x", mcp=McpServer(url="https://x", headers={"Authorization": "${TOKEN}"})), {})


def test_without_the_extra_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("offhook.gateway.tools.mcp.tools", "offhook.gateway.tools.mcp.transport"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    agent = parse_agent("name: a\ntools:\n  - mcp: {url: 'https://x'}")
    with pytest.raises(OperatorError, match=r"pip install 'offhook\[mcp\]'"):
        build_tools(agent, {}, HttpClient())


# --- over HTTP


@asynccontextmanager
async def http_server(diary: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {**os.environ, "DIARY": str(diary), "LIBRARY_KEY": SECRET}
    process = await asyncio.create_subprocess_exec(
        sys.executable, SERVER, str(port), env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        await until(listens)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


async def test_an_http_server_is_used_again_after_a_restart(
    diary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp?key=${{KEY}}"
    settings = ToolSettings(mcp=McpServer(url=url, headers={"Authorization": "Bearer ${KEY}"}))
    async with http_server(diary, port):
        tools = source_of(settings, {"KEY": SECRET})
        await tools.start()
        assert await call(tools, "find_books", about="tea", at_most=2) == ["tea, volume 1", "tea, volume 2"]
        assert str(await refused(tools, "fail")).startswith("This did not work: ")
        await refused(tools, "tell_secrets")
        error = await refused(tools, "everything")
        assert str(error) == "The answer was too long or could not be read. Ask for less."
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await call(tools, "hang")
        await until(lambda: "cancelled" in diary.read_text())
        error = await refused(tools, "die")
        assert str(error).startswith("This broke off.")
    monkeypatch.setattr(BACK_SOON, 0.05)
    error = await refused(tools, "find_books", about="tea")
    assert str(error) == "This cannot be used just now. Offer to try again in a while."
    monkeypatch.setattr(BACK_SOON, 30.0)
    async with http_server(diary, port):
        assert await call(tools, "find_books", about="tea", at_most=1) == ["tea, volume 1"]
        await tools.close()
    assert SECRET not in caplog.text


# --- the cases of the field: legal and unusual


def odd(**settings: Any) -> ToolSettings:
    server = str(Path(__file__).with_name("odd_server.py"))
    return ToolSettings(mcp=McpServer(command=sys.executable, args=(server,)), **settings)


async def test_an_odd_servers_tools_are_declared_and_called(caplog: pytest.LogCaptureFixture) -> None:
    async with started(odd()) as tools:
        names = list(tools.tools)
        assert all(re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII) for name in names)
        assert {"_2fa_send", "get_weather", "na_ve", "set_addresses", "page", "two", "tree"} <= set(names)
        assert len(names) == len(SCHEMAS) - 2
        assert await call(tools, "_2fa_send") == "ran 2fa_send"
        assert await call(tools, "get_weather") == "ran get_weather"
        ran = {await call(tools, name) for name in names if name.startswith(("get_weather_", "xxx"))}
        assert ran == {"ran get.weather", "ran get-weather", f"ran {'x' * 70}a", f"ran {'x' * 70}b"}
        properties = {name: tool.parameters["properties"] for name, tool in tools.tools.items()}
        assert properties["set_addresses"]["work"] == properties["set_addresses"]["home"]
        assert properties["page"]["page"]["properties"] == {"n": {"type": "integer"}}
        assert properties["two"] == {"x": {"type": "string"}, "y": {"type": "integer"}}
        assert "The same as Node" in json.dumps(properties["tree"])
    assert "tool elsewhere is left out: https://example.com/schema.json refers to another document" in caplog.text
    assert "tool broken is left out: " in caplog.text


async def test_embedded_resources_are_returned() -> None:
    async with started(odd()) as tools:
        told = await call(tools, "hours")
        assert told.splitlines() == [
            "successfully read",
            "Nine to five.",
            "(file:///a.pdf: application/pdf, which is not text)",
            "(menu, file:///menu: What there is.)",
            "(image/png, which is not text)",
        ]
        assert "Nine to five." in str(await refused(tools, "fails"))


async def test_two_tools_of_one_name_are_named_at_start(caplog: pytest.LogCaptureFixture) -> None:
    agent = parse_agent("name: a\ntools:\n  - {builtin: end_call}\n")
    own = build_tools(agent, {}, HttpClient()).own
    first, second = (source_of(odd(), {}) for _ in range(2))
    second.name = "other"
    toolbox = Toolbox({**own, "hours": own["end_call"]}, [first, second])
    await toolbox.start()
    try:
        assert toolbox.tools["hours"] is own["end_call"]
        assert toolbox.tools["page"] is first.tools["page"]
        assert "tool page of other is not used: another tool has this name" in caplog.text
        assert caplog.text.count("tool hours of ") == 2
    finally:
        await toolbox.close()


@pytest.mark.parametrize(
    ("prefix", "names", "expected"),
    [
        ("", ["2fa"], ["_2fa"]),
        ("my-lib", ["find.books", "find-books"], ["my_lib_find_books", "my_lib_find_books_2"]),
        ("", ["a.b", "a_b"], ["a_b_2", "a_b"]),
        ("", ["", "…"], ["_", "__2"]),
        ("", ["x" * 70, "x" * 71], ["x" * 64, "x" * 62 + "_2"]),
        ("9", ["a"], ["_9_a"]),
    ],
)
def test_names_are_mapped_uniquely(prefix: str, names: list[str], expected: list[str]) -> None:
    from offhook.gateway.tools.mcp.tools import declared_names

    assert list(declared_names(prefix, names).items()) == list(zip(names, expected, strict=True))
