"""Python functions as tools: name, description and schema from signature, type hints and docstring."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import aclosing, nullcontext, suppress
from typing import Annotated, Any

import docstring_parser
import msgspec

from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import MARK, LateOutcome, Repeat, Tool, ToolCall, ToolContext, ToolError, ToolHost, ToolMark
from offhook.gateway.tools.answer import ANSWER_LIMIT, Exact, clipped, text_of
from offhook.gateway.tools.breaker import Breaker
from offhook.gateway.tools.schema import BadArguments, inlined
from offhook.gateway.tools.threads import AllAbandoned, Threads

__all__ = ["called", "described", "function_tool", "functions_named", "settled"]

_LEAD = "-"
THREADS = Threads()  # of the process
MAX_AWAITS = 10  # an awaitable may come to another one
RESULT_LIMIT = 2 * ANSWER_LIMIT  # bytes: it is cut again, once secrets are masked


def functions_named(path: str, directory: str) -> list[Callable[..., Any]]:
    """`module:name`, or every function marked with `@tool` of `module`; modules beside the agent file are found.

    Raises `OperatorError` that says what is missing.
    """
    module_name, _, name = path.partition(":")
    if directory not in sys.path:
        sys.path.append(directory)  # last: a module in an agent's folder replaces no installed one
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f"put {module_name.partition('.')[0]}.py beside the agent file, or install it"
        if error.name != module_name.partition(".")[0]:
            hint = f"{module_name} needs {error.name}: install it"
        raise OperatorError(f"function {path}: there is no module {error.name}: {hint}") from None
    except Exception as error:
        raise OperatorError(f"function {path}: cannot import {module_name} ({type(error).__name__}: {error})") from None
    if not name:
        found = [f for f in vars(module).values() if isinstance(getattr(f, MARK, None), ToolMark)]
        if not found:
            raise OperatorError(f"function {path}: no function there has @tool: decorate it, or name it ({path}:name)")
        return found
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module_name)
        raise OperatorError(f"function {path}: there is no function {name} in {module_name}: it has {known or 'none'}")
    return [function]


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring's text before its sections, on one line per paragraph, and its words for each parameter.

    Google, NumPy, reST and Epydoc styles.
    """
    try:
        # The parser finds no section in a docstring that begins with one.
        parsed = docstring_parser.parse(f"{_LEAD}\n\n{docstring}")
    except docstring_parser.ParseError:  # no known style: all of it is text
        return _paragraphs(inspect.cleandoc(docstring)), {}
    about = {param.arg_name.lstrip("*"): " ".join((param.description or "").split()) for param in parsed.params}
    return _paragraphs((parsed.description or "").removeprefix(_LEAD)), about


def _paragraphs(text: str) -> str:
    return "\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip())


def function_tool(function: Callable[..., Any], threads: Threads = THREADS) -> Tool:
    """A function as a tool. Raises `OperatorError` for a signature that a model cannot fill."""
    mark: ToolMark = getattr(function, MARK, None) or ToolMark()
    name = mark.name or getattr(function, "__name__", "tool")
    text, about = described(inspect.getdoc(function) or "")
    arguments, context_name = _arguments(function, name)
    schema = _schema(arguments, name, about)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )

    pool = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', name)}"

    async def run(call: ToolCall, host: ToolHost) -> Any:
        try:
            given = msgspec.convert(call.arguments, arguments, strict=False)
        except msgspec.ValidationError as error:
            raise BadArguments(_readable(error)) from None
        values = {field: getattr(given, field) for field in arguments.__struct_fields__}
        context = ToolContext(call, host, asyncio.get_running_loop())
        if context_name:
            values[context_name] = context
        try:
            if is_async:
                return await settled(await function(**values))
            return await settled(await _in_thread(lambda: called(function, values), threads, pool, call, host))
        except AllAbandoned as error:
            raise ToolError("This is out of order just now.", f"not run: {error}", "no_thread") from None
        except asyncio.CancelledError:
            context.cancelled.set()
            raise

    return Tool(
        name,
        mark.description or text or name,
        schema,
        run,
        on_barge_in=ToolPolicy(mark.on_barge_in),
        outside_effects=mark.outside_effects,
        repeat=Repeat.BY_KEY if mark.idempotent else Repeat.NEVER if mark.outside_effects else Repeat.SAFE,
        breaker=Breaker(),
    )


def called(function: Callable[..., Any], values: Mapping[str, Any], limit: int = RESULT_LIMIT) -> Any:
    """An ordinary function's result, for a thread: `Exact`, or something awaitable for `settled`.

    A generator runs here, and so does the code of the objects that it returns.
    """
    value = function(**values)
    return value if isinstance(value, (Awaitable, AsyncIterable)) else Exact(*clipped(value, limit))


async def settled(value: Any, limit: int = RESULT_LIMIT) -> Any:
    """The result of an awaitable or an async generator, or the value itself.

    A decorator around `async def` is an ordinary function that returns an awaitable.
    """
    for _ in range(MAX_AWAITS):
        if not isinstance(value, Awaitable):
            break
        value = await value
    if not isinstance(value, AsyncIterable):
        return value
    items: list[Any] = []
    whole, left = True, limit
    async with aclosing(value) if isinstance(value, AsyncGenerator) else nullcontext():
        async for item in value:
            plain, fits = clipped(item, left)
            items.append(plain)
            left -= len(str(plain)) + 1
            whole = whole and fits and left > 0
            if not whole:
                break
    return Exact(items, whole)


async def _in_thread(function: Callable[[], Any], threads: Threads, pool: str, call: ToolCall, host: ToolHost) -> Any:
    """Run it in a thread. If it is abandoned while it runs, its late outcome is reported to the host."""
    loop = asyncio.get_running_loop()

    def ended(future: Future[Any]) -> None:
        error = future.exception()
        state = LateOutcome.FAILED if error else LateOutcome.FINISHED
        what = f"{type(error).__name__}: {text_of(error)}" if error else future.result()
        if inspect.iscoroutine(what):
            what.close()
            state, what = LateOutcome.FAILED, "abandoned before its coroutine was awaited"
        what = what.value if isinstance(what, Exact) else what
        with suppress(RuntimeError):  # the process stops, its loop is gone
            loop.call_soon_threadsafe(host.afterwards, call, state, what)

    future = threads.submit(function, pool)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancelled():  # it has begun
            if not future.done():
                threads.abandon(future, pool)
                host.afterwards(call, LateOutcome.RUNNING, None)
            future.add_done_callback(ended)
        raise


def _arguments(function: Callable[..., Any], name: str) -> tuple[type[msgspec.Struct], str]:
    """The parameters as a Struct to convert to, and the name of the one that takes the context ("": none)."""
    signature = inspect.signature(function)
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception as error:  # whatever a hint may raise when it is looked up
        raise OperatorError(f"tool {name}: its type hints cannot be read ({error})") from None
    fields: list[Any] = []
    context_name = ""
    for parameter in signature.parameters.values():
        hint = _with_formats(hints.get(parameter.name, Any))
        if hint is ToolContext:
            context_name = parameter.name
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise OperatorError(f"tool {name}: the model cannot fill {parameter}: use named parameters")
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, _default(parameter.default)))
    try:
        arguments = msgspec.defstruct("arguments", fields, kw_only=True)
        msgspec.json.schema(arguments)  # now, not in a call
    except (TypeError, ValueError) as error:
        raise OperatorError(f"tool {name}: its parameters have types a model cannot fill ({error})") from None
    return arguments, context_name


_FORMAT_OF = {datetime.time: "time", datetime.datetime: "date-time"}


def _with_formats(hint: Any) -> Any:
    """The hint with the formats that msgspec does not declare: without them "14:30" is not known to be a time."""
    if isinstance(hint, type) and hint in _FORMAT_OF:
        return Annotated[hint, msgspec.Meta(extra_json_schema={"format": _FORMAT_OF[hint]})]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return Annotated[(_with_formats(inner[0]), *inner[1:])]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_with_formats, inner))]  # noqa: UP007
    if origin in (list, set, frozenset, tuple, dict):
        return origin[tuple(map(_with_formats, inner))]
    return hint


def _default(value: Any) -> Any:
    if isinstance(value, (list, dict, set)):
        return msgspec.field(default_factory=lambda: type(value)(value))
    return value


def _schema(arguments: type[msgspec.Struct], name: str, about: Mapping[str, str]) -> dict[str, Any]:
    try:
        schema = inlined(msgspec.json.schema(arguments))
    except ValueError as error:
        raise OperatorError(f"tool {name}: its parameters cannot be described: {error}") from None
    properties = schema.setdefault("properties", {})
    hints = typing.get_type_hints(arguments, include_extras=True)
    for parameter, described_as in properties.items():
        texts = []
        if typing.get_origin(hint := hints.get(parameter)) is Annotated:
            texts = [note for note in typing.get_args(hint)[1:] if isinstance(note, str)]
        if text := " ".join(texts) or about.get(parameter, ""):
            properties[parameter] = {"description": text, **described_as}
    return schema


_FORMS = {
    "Invalid RFC3339 encoded time": "must be a time of day such as 14:30:00",
    "Invalid RFC3339 encoded datetime": "must be a date and time such as 2026-03-31T14:30:00",
    "Invalid RFC3339 encoded date": "must be a date such as 2026-03-31",
    "Invalid ISO8601 duration": "must be a duration such as PT30M",
    "Invalid UUID": "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000",
}


def _readable(error: msgspec.ValidationError) -> str:
    what, _, where = str(error).partition(" - at `$.")
    what = _FORMS.get(what, what)
    return f"{where.rstrip('`')}: {what}." if where else f"{what}."
