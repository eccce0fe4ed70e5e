"""An exception that nobody foresaw, raised within each kind of tool: logged with its call, and answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offhook.gateway.agent.builtins import Options
from offhook.gateway.agent.spec import HttpTool, McpServer, ToolSettings
from offhook.gateway.conversation.events import Outcome
from offhook.gateway.tools import Tool
from offhook.gateway.tools.builtins import builtin_tool
from offhook.gateway.tools.function import function_tool
from offhook.gateway.tools.http.client import HttpClient
from tests.needs import require
from tests.tools.hosts import Desk

SECRET = "planted-canary-4711"


class Planted(Exception):
    """Raised on purpose."""


def fail(*_: object, **__: object) -> Any:
    raise Planted(SECRET)


def in_a_thread() -> Tool:
    def broken() -> str:
        return str(fail())

    return function_tool(broken)


def in_the_loop() -> Tool:
    async def broken() -> str:
        return str(fail())

    return function_tool(broken)


def http() -> Tool:
    service = HttpClient()
    service._attempt = fail  # type: ignore[method-assign]
    settings = ToolSettings(name="broken", http=HttpTool(url="https://example.com/?key=${KEY}"))
    return service.tool(settings, {"KEY": SECRET})


def mcp() -> Tool:
    require("mcp")
    from offhook.gateway.tools.mcp.tools import McpTools

    server = McpTools(ToolSettings(name="x", mcp=McpServer(url="https://x/?key=${KEY}")), {"KEY": SECRET})

    class Client:
        call_tool = staticmethod(fail)

    server._client = Client()  # type: ignore[assignment]
    tool = server._tool("broken", "broken", "", {})
    assert tool is not None
    return tool


def builtin() -> Tool:
    return builtin_tool("end_call", Options())


@pytest.mark.parametrize("kind", [in_a_thread, in_the_loop, http, mcp, builtin])
async def test_a_planted_failure_is_logged_and_answered(kind: Callable[[], Tool], caplog: Any) -> None:
    tool = kind()
    desk = Desk(tool, secrets={"KEY": SECRET})
    desk.host.end_call = fail  # type: ignore[method-assign]
    arguments = {"reason": "done"} if kind is builtin else {}
    result = await desk.ask(tool.name, **arguments)
    assert result.outcome is Outcome.FAILED
    assert result.response["status"] == "error"
    assert result.failure in ("exception", "unreachable")
    assert "Planted" in result.record
    (line,) = [line for line in caplog.messages if "Planted" in line]
    assert line.startswith(f"call CA1: tool {tool.name} failed\nTraceback")
    assert SECRET not in caplog.text + str(result)
    assert desk.faults == []
