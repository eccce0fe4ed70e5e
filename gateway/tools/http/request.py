"""An HTTP tool's request, made of its template and a call's arguments, and what is selected from the answer. No I/O.

Arguments come from a model that repeats what a caller said: none may change the host, climb the path or add a
header. They are percent-encoded, and what would still climb is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from yarl import URL

from offhook.gateway.agent.tools import ARGUMENT, VARIABLE, HttpTool, texts_in
from offhook.gateway.tools import ToolError

__all__ = ["Request", "arguments_named", "request_of", "select"]

URL_MAX = 4_000  # characters
_HOLE = re.compile(rf"{VARIABLE.pattern}|{ARGUMENT.pattern}")
_WHOLE = re.compile(r"\{(\w+)\}\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """Ready to be sent; `body` is JSON, or None for none."""

    url: URL
    headers: dict[str, str]
    body: bytes | None


def arguments_named(spec: HttpTool) -> list[str]:
    """The arguments that the template names, in order, each once."""
    texts = [spec.url, *spec.query.values(), *texts_in(spec.body)]
    return list(dict.fromkeys(name for text in texts for name in ARGUMENT.findall(text)))


def request_of(spec: HttpTool, arguments: Mapping[str, Any], variables: Mapping[str, str]) -> Request:
    """The request for these arguments. `spec` is filled from the environment. Raises `ToolError`."""
    try:
        return _request(spec, arguments, variables)
    except UnicodeEncodeError as error:
        raise ToolError("One of the values given cannot be used here.", str(error), "arguments") from None


def _request(spec: HttpTool, arguments: Mapping[str, Any], variables: Mapping[str, str]) -> Request:
    given = {name: value for name, value in arguments.items() if value is not None}
    named = set(arguments_named(spec))
    rest = {name: value for name, value in given.items() if name not in named}

    url = _HOLE.sub(lambda hole: quote(_hole_text(hole, given, variables, needed=True), safe=""), spec.url)
    path = _decoded(url.partition("://")[2].partition("/")[2].partition("?")[0])
    if any(part in (".", "..") for part in re.split(r"[/\\]", path)) or not path.isprintable():
        raise ToolError("One of the values given cannot be used here.", f"the path would become /{path!r}", "arguments")
    query = [
        (name, _HOLE.sub(lambda hole: _hole_text(hole, given, variables, needed=True), text))
        for name, text in spec.query.items()
        if all(argument in given for argument in ARGUMENT.findall(text))
    ]
    body: Any = None
    if spec.method in ("POST", "PUT", "PATCH"):
        body = rest if spec.body is None else _filled(spec.body, given, variables)
    else:
        for name, value in rest.items():
            values = value if isinstance(value, list) else [value]
            query += [(name, _text(item)) for item in values]
    if query:
        pairs = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
        url += ("&" if "?" in url else "?") + pairs
    if len(url) > URL_MAX:
        raise ToolError(
            "One of the values given is too long.", f"the address would be {len(url)} characters long", "arguments"
        )

    headers = {
        name: _HOLE.sub(lambda hole: _hole_text(hole, {}, variables), text) for name, text in spec.headers.items()
    }
    for name, text in headers.items():
        if not text.isprintable():
            raise ToolError(
                "This does not work for this caller.", f"the header {name} would hold a line break", "arguments"
            )
    return Request(URL(url, encoded=True), headers, None if body is None else msgspec.json.encode(body))


def _hole_text(
    hole: re.Match[str], given: Mapping[str, Any], variables: Mapping[str, str], *, needed: bool = False
) -> str:
    """The text for one `{{variable}}` or `{argument}`; an empty one could change what the path means."""
    if variable := hole[1]:
        text = variables.get(variable, "")
    elif hole[2] in given:
        text = _text(given[hole[2]])
    else:
        text = "" if needed else hole[0]
    if needed and not text:
        raise ToolError(f"A value for {hole[1] or hole[2]} is needed.", f"{hole[0]} is empty", "arguments")
    return text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _filled(template: Any, given: Mapping[str, Any], variables: Mapping[str, str]) -> Any:
    """A body's template with its holes filled. A key whose only value is an argument not given is left out."""
    if isinstance(template, dict):
        return {
            key: _filled(value, given, variables)
            for key, value in template.items()
            if not (isinstance(value, str) and (whole := _WHOLE.match(value)) and whole[1] not in given)
        }
    if isinstance(template, list):
        return [_filled(value, given, variables) for value in template]
    if not isinstance(template, str):
        return template
    if whole := _WHOLE.match(template):
        return given.get(whole[1])
    return _HOLE.sub(lambda hole: variables.get(hole[1], "") if hole[1] else _text(given.get(hole[2], "")), template)


def _decoded(path: str) -> str:
    """As the most generous server would read it: some decode twice."""
    for _ in range(5):
        if path == (path := unquote(path)):
            break
    return path


def select(value: Any, path: str) -> Any:
    """The part of a JSON value that `path` (order.items[0].name) leads to. Raises `LookupError`."""
    for key, index in re.findall(r"([\w-]+)(?![^\[]*\])|\[(\d+)\]", path):
        if index:
            if not isinstance(value, list):
                raise LookupError(f"[{index}]: not a list")
            value = value[int(index)]
        else:
            if not isinstance(value, dict) or key not in value:
                there = f", there is {', '.join(value)[:100] or 'nothing'}" if isinstance(value, dict) else ""
                raise LookupError(f"{key}: not there{there}")
            value = value[key]
    return value
