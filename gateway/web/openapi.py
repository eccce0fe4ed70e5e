"""The API's description, OpenAPI 3.1, served at `/openapi.json`. Its schemas are those of the values that are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from offhook.gateway.store.history import PAGE_MAX, CallPage
from offhook.gateway.store.record import CallRecord
from offhook.gateway.web.api import KEY, KEY_HEADER
from offhook.gateway.web.history import SpanFigures

__all__ = ["document"]

_CALL_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_TIME = {"type": "string", "format": "date-time", "pattern": "^(19[7-9][0-9]|20[0-3][0-9])-"}
_NAME = {"type": "string", "minLength": 1}
_TEXT = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[^\\u0000]*$"}
_SPEED = {"type": "integer", "minimum": 0, "maximum": 3_600_000}
_NUMBER = r"^\+[1-9][0-9]{6,14}$"
_SIP = r"^sips?:[a-z][a-z0-9]{2,20}@[a-z0-9]+\.[a-z]{2,6}$"
_TARGET = {"anyOf": [{"type": "string", "pattern": pattern} for pattern in (_NUMBER, _SIP)]}
_FILTERS: dict[str, tuple[dict[str, Any], str]] = {
    "since": (_TIME, "Calls that began at this time or later."),
    "until": (_TIME, "Calls that began before this time."),
    "number": ({"type": "string", "pattern": _NUMBER}, "The other party's number, in E.164."),
    "agent": (_TEXT, "Name of the agent."),
    "end_reason": (_TEXT, "Why the call ended."),
    "tool": (_TEXT, "A tool that ran."),
    "words": (
        _TEXT,
        "Words said, in any order; in quotes, one after the other. Without case and accents.",
    ),
    "turn_gap_over_ms": (_SPEED, "Calls with a turn gap of more than this, and more than 1 s."),
    "barge_in_over_ms": (_SPEED, "Calls with a barge-in silent later than this, and later than 300 ms."),
    "cursor": ({"type": "string", "pattern": "^[0-9]{1,18}$"}, "`next` of the page before."),
    "limit": ({"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": 50}, "Calls of the page."),
}
_SPAN: dict[str, tuple[dict[str, Any], str]] = {
    "since": (
        _TIME,
        "Rounded down to the hour; beyond 35 days to the day. Default: 7 days before `until`.",
    ),
    "until": (_TIME, "End. Default: now."),
    "agent": (_NAME, "Only this agent."),
    "model": (_NAME, "Only this model."),
}
_KEY = {
    "name": KEY_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
    "description": "A name of your own for this call. Repeated within 7 days, the request places no second call: it is "
    "answered with the first one's state, and with 409 where it asks for another call.",
}
_ACTIONS: dict[str, tuple[str, ...]] = {  # the fields that each needs
    "hang_up": (),
    "hold": (),
    "resume": (),
    "transfer": ("to",),
    "press": ("digits",),
}
_ACTION_FIELDS = {
    "music": {"type": "string", "pattern": "^(https?://.*)?$"},
    "say": {"type": "string"},
    "to": {"type": "string"},
    "whisper": {"type": "string"},
    "warm": {"type": "boolean"},
    "digits": {"type": "string"},
}
_NEEDED = {"to": _TARGET, "digits": {"type": "string", "pattern": "^[0-9A-D*#w]+$"}}


_PLAIN = {ord("{"): None, ord("}"): None, ord("."): "_"}


def document(version: str, agents: Sequence[str], outbound: type[msgspec.Struct]) -> dict[str, Any]:
    """The whole document. `outbound`: the type of an outbound call's state."""
    (page, record, figures, placed), schemas = msgspec.json.schema_components(
        (CallPage, CallRecord, SpanFigures, outbound), ref_template="#/components/schemas/{name}"
    )
    schemas["Error"] = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    placing = _object(
        {
            "to": _TARGET,
            "agent": {"type": "string", "enum": ["", *agents]},
            "from": {"type": "string", "pattern": rf"^({_NUMBER[1:-1]})?$"},
            "variables": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "to",
    )
    placing["additionalProperties"] = False
    paths: dict[str, Any] = {
        "/calls": {
            "get": _operation("List past calls, newest first", {200: page, 503: None}, _queries(_FILTERS)),
            "post": _operation("Place a call", {202: placed, 409: None, 503: None}, [_KEY], placing),
        },
        "/calls/{id}": {"get": _operation("State of an outbound call", {200: placed, 503: None}, [_CALL_ID])},
        "/calls/{id}/record": {"get": _operation("A past call's whole record", {200: record}, [_CALL_ID])},
        "/percentiles": {
            "get": _operation("Latency over a span, by segment", {200: figures, 503: None}, _queries(_SPAN)),
        },
        "/openapi.json": {"get": {"summary": "This document", "security": [], "responses": _responses({200: {}})}},
    }
    paths["/openapi.json"]["get"]["responses"]["429"] = _response(429, None)
    for part, kind, what in (
        ("transcript.vtt", "text/vtt", "transcript as WebVTT"),
        ("recording.wav", "audio/wav", "recording: left the caller, right the agent as heard"),
        ("scenario.yaml", "application/yaml", "scenario that repeats the call in rehearsals"),
    ):
        operation = _operation(f"A past call's {what}", {200: {}}, [_CALL_ID])
        operation["responses"]["200"] = {"description": "The file", "content": {kind: {}}}
        if part == "scenario.yaml":
            operation["responses"]["409"] = _response(409, None)
        if part == "recording.wav":
            operation["responses"]["206"] = {"description": "The requested range", "content": {kind: {}}}
            operation["responses"]["416"] = {"description": "No such range"}
            operation["responses"]["409"] = _response(409, None)
            operation["responses"]["503"] = _response(503, None)
        paths[f"/calls/{{id}}/{part}"] = {"get": operation}
    for action, needed in _ACTIONS.items():
        done = _object({"done": {"type": "boolean"}}, "done")
        body = _object({**_ACTION_FIELDS, **{name: _NEEDED[name] for name in needed}}, *needed)
        away = {503: None} if action == "hang_up" else {}
        operation = _operation(f"Control a live call: {action}", {200: done, 409: done, **away}, [_CALL_ID], body)
        paths[f"/calls/{{id}}/{action}"] = {"post": operation}
    _link(paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Offhook", "version": version, "description": "Calls: past, live, and to be placed."},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "OFFHOOK_API_TOKEN"}},
        },
    }


def _link(paths: dict[str, Any]) -> None:
    """From a page of calls to the parts of its first, and from a placed call to its state."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation["operationId"] = f"{method}{path.replace('/', '_').translate(_PLAIN)}"
    parts = [
        path["get"]["operationId"] for name, path in paths.items() if name.startswith("/calls/{id}/") and "get" in path
    ]
    for answer, pointer, ids in (
        (paths["/calls"]["get"]["responses"]["200"], "/calls/0/call_sid", parts),
        (paths["/calls"]["post"]["responses"]["202"], "/id", [paths["/calls/{id}"]["get"]["operationId"]]),
    ):
        answer["links"] = {id: {"operationId": id, "parameters": {"id": f"$response.body#{pointer}"}} for id in ids}


def _object(fields: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(required)}


def _queries(fields: dict[str, tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": what}
        for name, (schema, what) in fields.items()
    ]


def _operation(
    summary: str, answers: dict[int, Any], parameters: list[dict[str, Any]], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    refusals = dict.fromkeys((400, 401, 404, 429) + ((408, 413, 415) if body is not None else ()))
    operation: dict[str, Any] = {"summary": summary, "responses": _responses({**refusals, **answers})}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {
            "required": bool(body["required"]),
            "content": {"application/json": {"schema": body}},
        }
    return operation


def _responses(answers: dict[int, Any]) -> dict[str, Any]:
    return {str(status): _response(status, schema) for status, schema in sorted(answers.items())}


def _response(status: int, schema: dict[str, Any] | None) -> dict[str, Any]:
    """`schema` None: an error."""
    schema = {"$ref": "#/components/schemas/Error"} if schema is None else schema
    description = "Done" if status < 300 else "Refused: the text says why"
    return {"description": description, "content": {"application/json": {"schema": schema}}}
