"""`offhook tools list` and `offhook tools call`: list and run an agent's tools without a phone call.

`mount(app)` adds them to the command line.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from offhook.gateway.agent.load import load_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.observe.redact import Redactor, secrets_of

if TYPE_CHECKING:  # every command imports this module: what takes long to import is imported where it is used
    from offhook.gateway.conversation.endings import Ending
    from offhook.gateway.tools import LateOutcome, Tool, ToolCall, ToolResult

__all__ = ["mount"]

AgentFile = Annotated[Path, typer.Argument(help="An agent file.")]


def mount(app: typer.Typer) -> None:
    """Add the commands."""
    tools = typer.Typer(help="List and run an agent's tools without a call.", no_args_is_help=True)
    tools.command("list")(tools_list)
    tools.command("call")(tools_call)
    app.add_typer(tools, name="tools")


def tools_list(agent: AgentFile, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show each tool as declared to the model, and how the gateway runs it."""
    spec = load_agent(agent)

    async def main() -> list[dict[str, Any]]:
        async with _toolbox(spec) as (tools, kinds):
            return [_described(tool, kinds[tool.name]) for tool in tools.values()]

    found = asyncio.run(main())
    if json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    for tool in found:
        how = ", ".join(part for part in (tool["kind"], *tool["conduct"]) if part)
        print(f"{tool['name']}  ({how})\n    " + tool["description"].replace("\n", "\n    "))
        required = tool["parameters"].get("required", ())
        for name, schema in tool["parameters"].get("properties", {}).items():
            print(f"      {name}{'' if name in required else '?'}: {_described_type(schema)}")
    if not found:
        print("no tools")


def tools_call(
    agent: AgentFile,
    name: Annotated[str, typer.Argument(help="The tool.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE ...; lists and objects as JSON.")] = None,
    really: Annotated[bool, typer.Option(help="Run the tool even if it has outside effects.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Run one tool as a call would, and show the result sent to the model. Exit code 1 if it failed."""
    spec = load_agent(agent)
    given = dict(_argument(text) for text in arguments or ())

    async def main() -> tuple[ToolResult, float]:
        async with _toolbox(spec) as (tools, _):
            if name not in tools:
                raise OperatorError(
                    f"agent {spec.name} has no tool {name}: "
                    + (f"one of {', '.join(tools)}" if tools else "it has none")
                )
            return await _run(spec, tools, name, given, really)

    result, took_s = asyncio.run(main())
    response = msgspec.json.encode(result.response)
    if result.response.get("rehearsed"):
        print("it has outside effects and was not run: --really runs it", file=sys.stderr)
    if json:
        shown = {"outcome": result.outcome.value, "ms": round(took_s * 1000, 1), "response": result.response}
        print(msgspec.json.format(msgspec.json.encode({**shown, "error": result.record}), indent=2).decode())
    else:
        print(f"{result.outcome.value} in {took_s * 1000:.0f} ms" + (f": {result.record}" if result.record else ""))
        print("result for the model: " + msgspec.json.format(response, indent=2).decode())
    if result.outcome.value != "done":
        raise typer.Exit(1)


async def _run(
    spec: Agent, tools: dict[str, Tool], name: str, arguments: dict[str, Any], really: bool
) -> tuple[ToolResult, float]:
    from offhook.gateway.tools import ToolCall
    from offhook.gateway.tools.runner import ToolRunner

    finished: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
    runner = ToolRunner(
        tools,
        _Desk(),
        limit=1,
        on_finished=lambda _, result: finished.set_result(result),
        on_fault=lambda error: print(f"offhook: internal error: {error!r}", file=sys.stderr),
        redactor=_redactor(spec),
    )
    facts = {
        "call_sid": "CA" + "0" * 32,
        "caller": "",
        "dialled": "",
        "direction": "inbound",
        "simulated": not really,
        "effects": frozenset(),
        "variables": spec.variables,
    }
    began_s = time.monotonic()
    runner.start(ToolCall("tried", name, arguments, f"tried:{time.time_ns()}", facts))
    result = await finished
    took_s = time.monotonic() - began_s
    await runner.close()
    return result, took_s


@asynccontextmanager
async def _toolbox(spec: Agent) -> AsyncIterator[tuple[dict[str, Tool], dict[str, str]]]:
    """The agent's tools, open, and what kind each is."""
    from offhook.gateway.tools.build import build_tools
    from offhook.gateway.tools.http.client import HttpClient

    toolbox = build_tools(spec, os.environ, http := HttpClient())
    await asyncio.gather(http.start(), toolbox.start())
    try:
        tools = dict(toolbox.tools)
        kinds = {s.name: "http" for s in spec.tools if s.http is not None}
        kinds |= {s.name or s.builtin: "builtin" for s in spec.tools if s.builtin}
        kinds |= {name: "function" if name in toolbox.own else "mcp" for name in tools if name not in kinds}
        yield tools, kinds
    finally:
        await asyncio.gather(http.close(), toolbox.close())


def _redactor(spec: Agent) -> Redactor:
    return Redactor(secrets_of(os.environ, [msgspec.to_builtins(spec.tools)]))


def _described(tool: Tool, kind: str) -> dict[str, Any]:
    conduct = [f"{tool.timeout_s:g} s"]
    for word, is_so in (
        ("blocking", tool.blocking),
        ("finishes when the caller interrupts", tool.on_barge_in.value == "finish"),
        ("silent", tool.silent),
        ("outside effects", tool.outside_effects),
        (f"filler after {tool.filler_after_ms} ms", bool(tool.filler)),
    ):
        if is_so:
            conduct.append(word)
    return {
        "name": tool.name,
        "kind": kind,
        "conduct": conduct,
        "description": tool.description,
        "parameters": tool.parameters,
        "timeout_s": tool.timeout_s,
        "blocking": tool.blocking,
        "on_barge_in": tool.on_barge_in.value,
        "silent": tool.silent,
        "outside_effects": tool.outside_effects,
        "filler": tool.filler,
        "filler_after_ms": tool.filler_after_ms,
    }


def _described_type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        what = " | ".join(str(choice) for choice in schema["enum"])
    else:
        what = str(schema.get("type") or "any")
    return f"{what}  {schema['description']}" if schema.get("description") else what


def _argument(text: str) -> tuple[str, Any]:
    name, is_there, value = text.partition("=")
    if not is_there:
        raise OperatorError(f"{text}: arguments are KEY=VALUE, as in name={text}")
    if value[:1] in ("[", "{", '"') or value in ("true", "false", "null"):
        try:
            return name, msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise OperatorError(
                f"{text[:200]}: lists, objects and quoted texts are JSON, and this is not: {error}"
            ) from None
    return name, value


class _Desk:
    """Stands in for the call: prints what a call would have done."""

    def say(self, text: str) -> None:
        _would("say", text)

    def remember(self, key: str, value: str) -> None:
        _would("remember", f"{key}: {value}")

    def end_call(self, reason: str, call_id: str) -> None:
        _would("end the call", reason)

    def transfer(self, target: str, call_id: str, *, whisper: str = "", warm: bool = False) -> None:
        _would("transfer the caller to", target)

    def send_digits(self, digits: str) -> bool:
        _would("press", digits)
        return True

    @contextmanager
    def keys(self, *, secret: bool) -> Iterator[asyncio.Queue[str]]:
        from offhook.gateway.tools import ToolError

        raise ToolError("No keys can be pressed: there is no call.")
        yield  # a context manager is a generator

    def ignore_key(self, key: str) -> None:
        pass

    def take_message(self, recipient: str, text: str) -> None:
        _would(f"keep a message for {recipient}", text)

    def stop_recording(self) -> bool:
        _would("stop and remove", "the recording")
        return True

    def last_words(self, text: str, ending: Ending) -> None:
        _would("say, and hang up", text)

    def afterwards(self, call: ToolCall, state: LateOutcome, what: Any) -> None:
        _would("record that it is", state.value)


def _would(do: str, what: str) -> None:
    print(f"(in a call: {do} {what})".replace(" )", ")"), file=sys.stderr)
