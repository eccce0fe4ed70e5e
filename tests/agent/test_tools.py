"""The `http:` and `mcp:` parts of an agent file: errors with line and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import AgentFileError

HEAD = "name: a\nvariables: {tenant: t}\ntools:\n  - name: orders\n    description: d\n"  # its tool goes on in line 6


def agent(text: str) -> Agent:
    return parse_agent(HEAD + "".join(f"    {line}\n" for line in text.splitlines()), path="a.yaml")


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("http: {url: 'https://a.example', nope: 1}", 6, "tools[0].http.nope", "is not a field"),
        ("http: {}", 6, "tools[0].http", "required field `url`"),
        ("http:\n  url: https://a.example\n  method: FETCH", 8, "tools[0].http.method", "invalid enum"),
        ("http:\n  url: http://a.example", 7, "tools[0].http.url", "must begin with https"),
        ("http:\n  url: ftp://a.example\n  allow_private: true", 7, "tools[0].http.url", "must begin with https"),
        ("http:\n  url: //a.example/x", 7, "tools[0].http.url", "must begin with https"),
        ("http:\n  url: https://u:p@a.example/", 7, "tools[0].http.url", "user name"),
        ("http:\n  url: 'https://{host}/x'", 7, "tools[0].http.url", "never in the scheme, the host or the port"),
        ("http:\n  url: 'https://a.example{x}/'", 7, "tools[0].http.url", "never in the scheme"),
        ("http:\n  url: 'https://a.example:{port}/'", 7, "tools[0].http.url", "never in the scheme"),
        ("http:\n  url: 'https://{{tenant}}.example/'", 7, "tools[0].http.url", "never in the scheme"),
        ("http:\n  url: '${BASE}{path}'", 7, "tools[0].http.url", "never in the scheme"),
        ("http:\n  url: 'https:///{x}'", 7, "tools[0].http.url", "never in the scheme"),
        ("http:\n  url: 'https://[::1'", 7, "tools[0].http.url", "IPv6"),
        ("http:\n  url: 'https://a.example/{x'", 7, "tools[0].http.url", "an unmatched brace"),
        ("http:\n  url: https://a.example/#x", 7, "tools[0].http.url", "fragment"),
        ("http:\n  url: https://a.example/a b", 7, "tools[0].http.url", "percent-encode"),
        ("http:\n  url: 'https://a.example/{{nobody}}'", 7, "tools[0].http.url", "is not known"),
        (
            "http:\n  url: 'https://a.example/{x}'\nparameters: {type: object, properties: {y: {type: string}}}",
            7,
            "tools[0].http.url",
            "not one of the tool's parameters",
        ),
        ("http:\n  url: https://a.example\n  body: {a: 1}", 8, "tools[0].http.body", "is not sent with GET"),
        ("http:\n  url: https://a.example\n  idempotent: true", 8, "tools[0].http.idempotent", "without effect"),
        ("http:\n  url: https://a.example\n  select: 'a..b'", 8, "tools[0].http.select", "must be a path"),
        ("http:\n  url: https://a.example\n  max_bytes: 10", 8, "tools[0].http.max_bytes", ">= 1000"),
        ("http:\n  url: https://a.example\n  headers: {'a b': x}", 8, "tools[0].http.headers", "name of a header"),
        ("http:\n  url: https://a.example\n  headers:\n    Host: x", 9, "tools[0].http.headers.Host", "remove it"),
        ("mcp: {}", 6, "tools[0].mcp", "either command"),
        ("mcp: {command: x, url: 'https://x'}", 6, "tools[0].mcp", "either command"),
        ("mcp:\n  url: ws://x", 7, "tools[0].mcp.url", "https"),
        ("mcp:\n  url: https://x\n  args: [a]", 8, "tools[0].mcp.args", "belongs to command"),
        ("mcp:\n  command: x\n  headers: {a: b}", 8, "tools[0].mcp.headers", "belongs to url"),
    ],
)
def test_a_mistake_is_named_with_line_and_field(text: str, line: int, field: str, says: str) -> None:
    with pytest.raises(AgentFileError, match=says) as caught:
        agent(text)
    assert (caught.value.line, caught.value.field) == (line, field)


@pytest.mark.parametrize("field", ["name", "description"])
def test_an_http_tool_needs_a_name_and_a_description(field: str) -> None:
    both = {"name": "orders", "description": "d"}
    text = ", ".join(f"{key}: {value}" for key, value in both.items() if key != field)
    with pytest.raises(AgentFileError, match=f"an http tool needs a {field}"):
        parse_agent("name: a\ntools: [{" + text + ", http: {url: 'https://a.example'}}]")


def test_a_valid_value_is_accepted() -> None:
    tool = agent(
        "http:\n  url: '${BASE}/{{tenant}}/orders/{order_id}?by={{caller}}'\n  method: POST\n"
        "  headers: {Authorization: 'Bearer ${TOKEN}', X-Json: '{\"a\": {b}}'}\n  body: {note: '{note}'}\n"
        "  idempotent: true\n  select: order.items[0].line-total"
    ).tools[0]
    assert tool.http is not None
    assert tool.http.select == "order.items[0].line-total"
    server = agent("mcp: {command: uvx, args: [server], env: {KEY: '${KEY}'}, only: [search]}").tools[0].mcp
    assert server is not None
    assert server.only == ("search",)


DOCUMENT = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.S))
def test_examples_of_the_documentation_are_accepted(example: str) -> None:
    assert parse_agent("name: a\n" + example).tools
