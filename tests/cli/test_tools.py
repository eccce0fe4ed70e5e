"""`offhook tools`: tools seen and tried without a phone call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offhook.gateway.cli.main import app
from offhook.gateway.errors import OperatorError

AGENT = """
name: shop
tools:
- function: shop_tools
- {builtin: transfer_call, options: {targets: {sales: "+15550123"}}}
"""
TOOLS = '''
import os
from offhook.gateway.tools import ToolContext, tool

@tool
def price(article: str, count: int = 1, *, context: ToolContext) -> dict:
    """What something costs.

    Args:
        article: Its number.
    """
    context.say("One moment.")
    return {"article": article, "cents": 250 * count, "key": os.environ["SHOP_API_KEY"]}

@tool(outside_effects=True)
async def order(articles: list[str]) -> str:
    """Order it."""
    return f"ordered {len(articles)}"

async def hidden() -> None: ...
'''


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shop_tools.py").write_text(TOOLS)
    (tmp_path / "agent.yaml").write_text(AGENT)
    monkeypatch.setenv("SHOP_API_KEY", "sk-planted-99")
    return str(tmp_path / "agent.yaml")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["tools", *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_what_there_is_is_listed(agent: str) -> None:
    code, out, _ = run("list", agent)
    assert code == 0
    assert "price  (function" in out
    assert "article: string  Its number." in out
    assert "count?: integer" in out
    assert "outside effects" in out
    assert "hidden" not in out
    tools = {tool["name"]: tool for tool in json.loads(run("list", agent, "--json")[1])}
    assert list(tools) == ["price", "order", "transfer_call"]
    assert tools["order"]["outside_effects"]
    assert tools["price"]["parameters"]["required"] == ["article"]


def test_a_tool_is_tried_and_no_secret_shown(agent: str) -> None:
    code, out, err = run("call", agent, "price", "article=A7", "count=2", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["outcome"] == "done"
    assert told["response"]["result"] == {"article": "A7", "cents": 500, "key": "[secret]"}
    assert "would" not in err
    assert "(in a call: say One moment.)" in err


def test_what_acts_outside_is_only_run_when_asked_to(agent: str) -> None:
    _, out, err = run("call", agent, "order", 'articles=["a", "b"]', "--json")
    rehearsed = json.loads(out)
    assert "--really runs it" in err
    assert rehearsed["response"]["rehearsed"] is True
    really = json.loads(run("call", agent, "order", 'articles=["a", "b"]', "--really", "--json")[1])
    assert really["response"]["result"] == "ordered 2"


def test_a_tool_that_fails_says_so_and_exits_with_1(agent: str) -> None:
    code, out, _ = run("call", agent, "price", "count=many", "article=A7")
    assert code == 1
    assert "count must be a whole number, not 'many'." in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "has no tool nothing: one of price, order, transfer_call"),
        (("price", "A7"), "arguments are KEY=VALUE, as in name=A7"),
        (("price", "article=[1"), r"article=\[1: lists, objects and quoted texts are JSON"),
    ],
)
def test_mistakes_of_the_operator_are_said_so(agent: str, arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        run("call", agent, *arguments)


def test_check_says_how_to_list_tools_of_mcp_servers(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("name: a\ntools: [{mcp: {command: 'true'}}]")
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.exception
    assert f"`offhook tools list {path}` lists them" in result.stdout
