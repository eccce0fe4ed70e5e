"""Text models that judge: Gemini by google-genai, others by OpenAI's chat completions. Keys stand in no message.

Sources: Gemini API reference, "generateContent" and "Structured output"; OpenAI API reference, "Create chat
completion" and "Structured model outputs"; which servers of one's own offer, too (vLLM, llama.cpp, Ollama).
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import msgspec

from offhook.gateway.models import Prices, Usage, without_key
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.models.openai.settings import OpenAISettings
from offhook.gateway.models.websocket import tls_context
from offhook.gateway.rehearsal.thinking.judge import NotJudged

__all__ = ["TEXT_PRICES", "Answer", "TextModel", "text_model"]

ANSWER_TIMEOUT_S = 90.0  # reasoning included
ATTEMPTS = 3  # a rate limit or an overload is often over in seconds
PAUSE_S = 2.0
TOKENS_MAX = 8_000  # of an answer, reasoning included
ANSWER_MAX_BYTES = 1_000_000
BUSY = frozenset({429, 500, 502, 503, 504})
DEFAULTS = {"gemini": "gemini-3.8-flash", "openai": "gpt-5.4-mini"}


def _of_text(text_in: float, text_out: float, cached_in: float) -> Prices:
    return Prices(
        text_in=text_in, text_out=text_out, cached_in=cached_in, audio_in=text_in, image_in=text_in, audio_out=text_out
    )


# USD per million tokens, as published in autumn 2026 (gemini-3.8-flash: until the end of the year).
TEXT_PRICES: Mapping[str, Prices] = {
    "gemini-3.8-flash": _of_text(0.75, 3.75, 0.075),
    "gpt-5.4-mini": _of_text(0.75, 4.50, 0.075),
    "gpt-5.4-nano": _of_text(0.20, 1.25, 0.02),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer, and its tokens."""

    text: str
    usage: Usage


class TextModel(Protocol):
    """A model that answers one question with JSON."""

    name: str

    async def answer(self, question: str, schema: Mapping[str, Any]) -> Answer:
        """Raises `NotJudged`."""

    async def close(self) -> None: ...


def text_model(provider: str, name: str, environ: Mapping[str, str]) -> TextModel:
    """The text model of a provider, by default the one of `DEFAULTS`. Raises `OperatorError`."""
    name = name or DEFAULTS[provider]
    if provider == "openai":
        return _ChatCompletions(name, OpenAISettings.read(environ))
    return _Gemini(name, GeminiSettings.read(environ))


class _Busy(Exception):
    """The service answered with this status; another attempt may help."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered {status}")


class _Patient(TextModel):
    """Repeats what a rate limit or an overload has refused, within a time limit."""

    async def answer(self, question: str, schema: Mapping[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        return await self._ask(question, schema)
                    except _Busy as busy:
                        if attempt == ATTEMPTS:
                            raise NotJudged(f"{self.name}: {busy}, {ATTEMPTS} times") from None
                    await asyncio.sleep(PAUSE_S * attempt)
        except TimeoutError:
            pass
        raise NotJudged(f"{self.name}: no answer within {ANSWER_TIMEOUT_S:g} s")

    async def _ask(self, question: str, schema: Mapping[str, Any]) -> Answer:
        """Raises `NotJudged`, `_Busy`."""
        raise NotImplementedError


class _Gemini(_Patient):
    def __init__(self, name: str, settings: GeminiSettings) -> None:
        from offhook.gateway.models.gemini.client import sdk_client  # half a second: only where it is used

        self.name, self._settings = name, settings
        context = tls_context(settings.ca_file)
        self._client = sdk_client(settings, {"verify": context, "ssl": context})  # by httpx, by aiohttp

    async def _ask(self, question: str, schema: Mapping[str, Any]) -> Answer:
        from google.genai import errors

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                response = await self._client.aio.models.generate_content(
                    model=self.name,
                    contents=question,
                    config={
                        "response_mime_type": "application/json",
                        "response_json_schema": dict(schema),
                        "max_output_tokens": TOKENS_MAX,
                        "automatic_function_calling": {"disable": True},
                    },
                )
        except errors.APIError as error:
            if error.code in BUSY:
                raise _Busy(error.code) from None
            raise NotJudged(
                f"{self.name}: {error.code} {without_key(error.message or '', self._settings.api_key)}"
            ) from None
        except (OSError, TimeoutError) as error:
            raise NotJudged(f"{self.name}: not reached ({type(error).__name__})") from None
        except Exception as error:  # of the SDK's HTTP client, or of an answer that the SDK cannot read
            raise NotJudged(
                f"{self.name}: {type(error).__name__}: {without_key(str(error), self._settings.api_key)}"
            ) from None
        candidate = response.candidates[0] if response.candidates else None
        reason = candidate.finish_reason if candidate else None
        parts = candidate.content.parts if candidate and candidate.content else None
        text = "".join(part.text or "" for part in parts or () if not part.thought)
        if not text or (reason is not None and reason.value != "STOP"):
            raise NotJudged(f"{self.name}: no answer ({reason.value if reason else 'empty'})")
        counted = response.usage_metadata
        prompt = (counted.prompt_token_count if counted else 0) or 0
        cached = (counted.cached_content_token_count if counted else 0) or 0
        out = sum(filter(None, (counted.candidates_token_count, counted.thoughts_token_count))) if counted else 0
        return Answer(text, Usage(text_in=prompt - cached, cached_in=cached, text_out=out))

    async def close(self) -> None:
        await self._client.aio.aclose()


class _Cached(msgspec.Struct):
    cached_tokens: int | None = 0


class _Counted(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Cached | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Counted | None = None


class _ChatCompletions(_Patient):
    def __init__(self, name: str, settings: OpenAISettings) -> None:
        self.name, self._settings = name, settings
        self._context = tls_context(settings.ca_file)

    async def _ask(self, question: str, schema: Mapping[str, Any]) -> Answer:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": question}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": dict(schema)},
            },
            "max_completion_tokens": TOKENS_MAX,
        }
        try:
            async with (
                aiohttp.ClientSession(trust_env=True) as session,
                session.post(
                    f"{self._settings.base_url}/chat/completions",
                    json=body,
                    headers=self._settings.headers(),
                    ssl=self._context,
                    allow_redirects=False,  # the key goes nowhere else
                ) as response,
            ):
                if response.status in BUSY:
                    raise _Busy(response.status)
                if response.status != 200:
                    raise NotJudged(f"{self.name}: it answered {response.status}")
                raw = await response.content.read(ANSWER_MAX_BYTES)
                while chunk := await response.content.read(ANSWER_MAX_BYTES - len(raw) + 1):
                    raw += chunk
                    if len(raw) > ANSWER_MAX_BYTES:
                        raise NotJudged(f"{self.name}: its answer is above {ANSWER_MAX_BYTES // 1000} kB")
        except (aiohttp.ClientError, OSError) as error:
            raise NotJudged(f"{self.name}: not reached ({type(error).__name__})") from None
        try:
            completion = msgspec.json.decode(raw, type=_Completion)
        except (msgspec.DecodeError, RecursionError) as error:
            raise NotJudged(f"{self.name}: its answer is no chat completion ({error})") from None
        choice = completion.choices[0] if completion.choices else None
        if choice is None or choice.message.refusal or not choice.message.content or choice.finish_reason == "length":
            why = choice.finish_reason if choice and not choice.message.refusal else "refused" if choice else "empty"
            raise NotJudged(f"{self.name}: no answer ({why})")
        counted = completion.usage or _Counted()
        cached = (counted.prompt_tokens_details.cached_tokens or 0) if counted.prompt_tokens_details else 0
        usage = Usage(text_in=counted.prompt_tokens - cached, cached_in=cached, text_out=counted.completion_tokens)
        return Answer(choice.message.content, usage)

    async def close(self) -> None:
        """Connections are closed with each answer."""
