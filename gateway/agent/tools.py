"""The `http:` and `mcp:` parts of an agent file's tools: their fields, and mistakes in them.

In both, `${NAME}` is an environment variable (secrets belong there). In an HTTP tool `{{name}}` is a variable of the
call and `{name}` an argument from the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

__all__ = [
    "ARGUMENT",
    "ENVIRONMENT",
    "KNOWN",
    "VARIABLE",
    "HttpTool",
    "McpServer",
    "http_mistakes",
    "mcp_mistakes",
    "texts_in",
]

ENVIRONMENT = re.compile(r"\$\{(\w+)\}")
VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
ARGUMENT = re.compile(r"(?<![\{$])\{(\w+)\}(?!\})")
KNOWN = ("caller", "dialled", "call_sid")  # variables that every call has
_SELECT = re.compile(r"(?:\w[\w-]*|\[\d+\])(?:\.\w[\w-]*|\[\d+\])*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class HttpTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request to an HTTP service. Arguments without a place go into the query, or the body of POST, PUT, PATCH.

    Redirects are never followed. Loopback and private addresses are refused unless `allow_private`.
    """

    url: str  # template: https://api.example.com/orders/{order_id}
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    body: dict[str, Any] | None = None  # sent as JSON; "{people}" alone keeps the argument's type
    select: str = ""  # the part of a JSON answer that the model receives: order.items[0].name
    attempt_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 8.0  # of one attempt; the tool's timeout_s bounds all
    max_bytes: Annotated[int, msgspec.Meta(ge=1_000, le=5_000_000)] = 200_000
    idempotent: bool = False  # POST, PATCH: the service honours Idempotency-Key, so the request may be repeated
    allow_private: bool = False  # for a service on your own network


class McpServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One MCP server, whose tools become the agent's: a program (stdio), or an address (streamable HTTP)."""

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}
    only: tuple[str, ...] = ()  # these of its tools; empty: all
    start_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 20.0  # to be up and to list its tools


def http_mistakes(
    tool: HttpTool, parameters: dict[str, Any] | None, variables: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Mistakes in an HTTP tool: (field, what to do). `parameters`: the tool's schema; `variables`: the defined ones."""
    for name in tool.headers:
        if not _HEADER.fullmatch(name):
            yield "headers", f"{name!r} is not the name of a header: use letters, digits and hyphens"
        elif name.lower() in ("host", "content-length", "transfer-encoding", "connection", "idempotency-key"):
            yield f"headers.{name}", "is set by the gateway: remove it"
    origin = ENVIRONMENT.sub("x", re.split(r"(?<=[^:/])[/?]", tool.url, maxsplit=1)[0])
    if "{" in origin:
        yield "url", "takes {arguments} in the path and the query only, never in the scheme, the host or the port"
    elif not ENVIRONMENT.match(tool.url):
        schemes = ("https", "http") if tool.allow_private else ("https",)
        try:
            parts = urlsplit(tool.url)
        except ValueError as error:
            yield "url", str(error)
            return
        if parts.scheme not in schemes:
            yield "url", "must begin with https:// (http:// only with allow_private: true)"
        elif parts.username is not None or parts.password is not None:
            yield "url", "holds a user name: put the credentials into headers, as in Authorization: Basic ${NAME}"
    if "#" in tool.url:
        yield "url", "holds a #fragment, which is never sent: remove it"
    if re.search(r"[^!-~]", VARIABLE.sub("", tool.url)):
        yield "url", "holds a space or a letter outside ASCII: percent-encode it"
    if re.search(r"[{}]", ARGUMENT.sub("", VARIABLE.sub("", ENVIRONMENT.sub("", tool.url)))) and "{" not in origin:
        yield "url", "holds an unmatched brace: write {argument}, {{variable}} or ${NAME}"
    if tool.body is not None and tool.method not in ("POST", "PUT", "PATCH"):
        yield "body", f"is not sent with {tool.method}: use POST, PUT or PATCH"
    if tool.idempotent and tool.method not in ("POST", "PATCH"):
        yield "idempotent", f"is without effect: {tool.method} is repeated anyway, remove it"
    if tool.select and not _SELECT.fullmatch(tool.select):
        yield "select", "must be a path such as order.items[0].name"
    if tool.select and tool.method == "HEAD":
        yield "select", "has nothing to select from, HEAD has no body: remove it"
    places = {"url": [tool.url], "headers": [*tool.headers.values()], "query": [*tool.query.values()]}
    for field, texts in {**places, "body": texts_in(tool.body)}.items():
        for name in (name for text in texts for name in VARIABLE.findall(text)):
            if name not in variables:
                yield field, f"{{{{{name}}}}} is not known: add it to variables, or use one of {', '.join(KNOWN)}"
        for name in (name for text in texts for name in ARGUMENT.findall(text)):
            if field != "headers" and parameters is not None and name not in parameters.get("properties", {}):
                yield field, f"{{{name}}} is not one of the tool's parameters: add it to their properties"


def texts_in(value: Any) -> list[str]:
    """Every text in a body's template."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_in(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts_in(inner)]
    return [value] if isinstance(value, str) else []


def mcp_mistakes(server: McpServer) -> Iterator[tuple[str, str]]:
    """Mistakes in an MCP server: (field, what to do)."""
    if bool(server.command) == bool(server.url):
        yield "", "takes either command (a program) or url (a streamable HTTP address): give one of them"
    elif server.url:
        if not ENVIRONMENT.match(server.url) and urlsplit(server.url).scheme not in ("http", "https"):
            yield "url", "must begin with https:// or http://"
        for field in ("args", "env"):
            if getattr(server, field):
                yield field, "belongs to command: remove it"
    elif server.headers:
        yield "headers", "belongs to url: remove it"
