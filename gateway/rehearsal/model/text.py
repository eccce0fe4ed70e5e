"""The rehearsal text model: Gemini's generateContent and OpenAI's chat completions from one script.

The script is that of the speech model: `on: text` or `on: "text:PART"` of the question, answered with what the reply
says, as text. `wait_ms` makes it slow, `close: 503` is that status, `abort` resets the connection. Unlike a
conversation's, a reply may be used again: questions of several calls are answered in any order.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from offhook.gateway.rehearsal.model.script import Abort, Close, Say, Script, Wait
from offhook.gateway.rehearsal.model.turns import Progress, Trigger, find_reply
from offhook.gateway.rehearsal.quick_clock import Clock

__all__ = ["Asked", "TextAnswers"]

_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as received: its text, the model's name, and whether the answer was to follow a schema."""

    question: str
    model: str
    structured: bool


@dataclass(slots=True)
class TextAnswers:
    """Answers by its script; `asked` has the questions."""

    script: Script
    clock: Clock
    asked: list[Asked] = field(default_factory=list)

    async def answered(self, request: web.Request, *, chat: bool, denied: bool) -> web.StreamResponse:
        """The answer to one request: a chat completion, or generated content."""
        if denied:
            return _error(chat, 401 if chat else 400, "API key not valid. Please pass a valid API key.")
        try:
            body = msgspec.json.decode(await request.read(), type=dict)
            asked = _of_chat(body) if chat else _of_contents(body, request.path)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError, IndexError):
            return _error(chat, 400, "Request contains an invalid argument.")
        self.asked.append(asked)
        found = find_reply(Progress(self.script, self.clock()), Trigger("text", asked.question))
        if found is None:
            return _error(chat, 404, "The script has no reply to this question.")
        said = []
        for action in found[1].do:
            match action:
                case Say():
                    said.append(action.text)
                case Wait(ms):
                    await asyncio.sleep(ms / 1000)
                case Close(code, reason):
                    return _error(chat, code if 400 <= code < 600 else 500, reason)
                case Abort():
                    if request.transport is not None:
                        request.transport.abort()
                    return web.Response(status=500)
                case _:
                    return _error(chat, 500, f"{type(action).__name__} is no part of a text model's script.")
        return web.json_response((_completion if chat else _content)(asked, "".join(said)))


def _of_chat(body: dict[str, Any]) -> Asked:
    question = "\n".join(message["content"] for message in body["messages"])
    structured = body.get("response_format", {}).get("type") == "json_schema"
    return Asked(question, body["model"], structured)


def _of_contents(body: dict[str, Any], path: str) -> Asked:
    question = "\n".join(part["text"] for content in body["contents"] for part in content["parts"])
    config = body.get("generationConfig", {})
    structured = config.get("responseMimeType") == "application/json" and bool(
        config.get("responseJsonSchema") or config.get("responseSchema")
    )
    return Asked(question, path.rpartition("/")[2].partition(":")[0], structured)


def _tokens(text: str) -> int:
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def _completion(asked: Asked, answer: str) -> dict[str, Any]:
    tokens = _tokens(asked.question), _tokens(answer)
    return {
        "id": "chatcmpl-rehearsal",
        "object": "chat.completion",
        "model": asked.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def _content(asked: Asked, answer: str) -> dict[str, Any]:
    tokens = _tokens(asked.question), _tokens(answer)
    return {
        "candidates": [{"content": {"parts": [{"text": answer}], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": tokens[0],
            "candidatesTokenCount": tokens[1],
            "totalTokenCount": sum(tokens),
        },
        "modelVersion": asked.model,
    }


def _error(chat: bool, status: int, message: str) -> web.Response:
    error: dict[str, Any] = {"message": message, "code": status, "status": "INVALID_ARGUMENT"}
    if chat:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)
