"""An MCP server over stdio, by hand: names, schemas and results that are legal in MCP and unusual."""

from __future__ import annotations

import json
import sys
from typing import Any

PLAIN = {"type": "object", "properties": {"q": {"type": "string"}}}
STREET = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
NODE = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}}}
LONG = "x" * 70
SCHEMAS: dict[str, Any] = {
    "2fa_send": PLAIN,
    "get.weather": PLAIN,
    "get_weather": PLAIN,
    "get-weather": PLAIN,
    LONG + "a": PLAIN,
    LONG + "b": PLAIN,
    "naïve": PLAIN,
    "hours": PLAIN,
    "fails": PLAIN,
    "set_addresses": {"type": "object", "properties": {"home": STREET, "work": {"$ref": "#/properties/home"}}},
    "page": {
        "type": "object",
        "$defs": {"Page[Item]": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        "properties": {"page": {"$ref": "#/$defs/Page%5BItem%5D"}},
    },
    "two": {
        "type": "object",
        "$defs": {"a": {"Item": {"type": "string"}}, "b": {"Item": {"type": "integer"}}},
        "properties": {"x": {"$ref": "#/$defs/a/Item"}, "y": {"$ref": "#/$defs/b/Item"}},
    },
    "tree": {"type": "object", "$defs": {"Node": NODE}, "properties": {"root": {"$ref": "#/$defs/Node"}}},
    "elsewhere": {"type": "object", "properties": {"x": {"$ref": "https://example.com/schema.json"}}},
    "broken": {"type": "object", "properties": {"x": {"type": "strin"}}},
}
CONTENT: list[dict[str, Any]] = [
    {"type": "text", "text": "successfully read"},
    {"type": "resource", "resource": {"uri": "file:///hours.txt", "mimeType": "text/plain", "text": "Nine to five."}},
    {"type": "resource", "resource": {"uri": "file:///a.pdf", "mimeType": "application/pdf", "blob": "AAAA"}},
    {"type": "resource_link", "uri": "file:///menu", "name": "menu", "description": "What there is."},
    {"type": "image", "data": "AAAA", "mimeType": "image/png"},
]


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    match method:
        case "initialize":
            about = {"name": "odd", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
        case "tools/list":
            return {"tools": [{"name": name, "inputSchema": schema} for name, schema in SCHEMAS.items()]}
        case "tools/call" if params["name"] in ("hours", "fails"):
            return {"content": CONTENT, "isError": params["name"] == "fails"}
        case "tools/call":
            return {"content": [{"type": "text", "text": f"ran {params['name']}"}]}
    return {}


def serve() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            result = answer(message["method"], message.get("params", {}))
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)


if __name__ == "__main__":
    serve()
