"""Agent files: YAML in, a frozen `Agent` out, errors with line and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from offhook.gateway.agent.builtins import option_mistakes
from offhook.gateway.agent.redaction import rule_mistake
from offhook.gateway.agent.spec import Agent, ToolSettings, filler_line
from offhook.gateway.agent.tools import KNOWN, http_mistakes, mcp_mistakes
from offhook.gateway.errors import AgentFileError, nearest
from offhook.gateway.numbers import DIALABLE, AddressKind, mistake_in, read_address
from offhook.gateway.yamlfile import YamlFile, parse_yaml, read_yaml

__all__ = ["agent_from", "load_agent", "parse_agent"]

_DIALLED = DIALABLE | {AddressKind.SHORT_CODE, AddressKind.OTHER}  # what callers may have dialled


def load_agent(path: str | Path) -> Agent:
    """Read and validate an agent file. Raises `AgentFileError` naming line and field."""
    return agent_from(read_yaml(path, AgentFileError), directory=str(Path(path).resolve().parent))


def parse_agent(text: str, *, path: str = "agent.yaml", directory: str = ".") -> Agent:
    """An agent from YAML text. Raises `AgentFileError` naming line and field."""
    return agent_from(parse_yaml(text, path=path, error=AgentFileError), directory=directory)


def agent_from(file: YamlFile, value: Any = None, steps: Sequence[str | int] = (), *, directory: str) -> Agent:
    """An agent from `value`, which stands at `steps` of the file; by default the whole file.

    Raises the file's error naming line and field.
    """
    data = file.value if value is None and not steps else value
    if not isinstance(data, Mapping):
        raise file.error("must be a mapping of fields, as in `name: receptionist`", steps)
    for name in ("directory", "file"):
        if name in data:
            raise file.error("is where the agent file is: remove it", [*steps, name])
    given = {**data, "directory": directory, "file": file.path}
    if isinstance(given.get("model"), str):
        given["model"] = {"name": given["model"]}
    agent = file.convert(given, Agent, steps, part_of="an agent file")
    for name, what in _contradictions(agent):
        prefix = f"{'.'.join(map(str, steps))}." if steps else ""
        raise file.error(what, file.steps(f"{prefix}{name}"))
    return _with_normal_numbers(agent)


def _contradictions(agent: Agent) -> Iterator[tuple[str, str]]:
    """Settings without effect, or that exclude each other: (field, what to do)."""
    turns, barge_in = agent.turn_detection, agent.barge_in
    if agent.timezone and (what := _timezone_mistake(agent.timezone)):
        yield "timezone", what
    if turns.mode == "local":
        for name in ("start_sensitivity", "end_sensitivity", "prefix_padding_ms", "eagerness"):
            if getattr(turns, name) is not None:
                yield f"turn_detection.{name}", "is the model's own detection: remove it, or use mode: model"
        if barge_in.mode == "model":
            what = "needs turn_detection mode: model; with mode: local the gateway detects speech: use hold or stop"
            yield "barge_in.mode", what
    elif turns.pre_roll_ms is not None:
        yield "turn_detection.pre_roll_ms", "needs turn_detection mode: local"
    if barge_in.dtmf and barge_in.mode == "off":
        yield "barge_in.dtmf", "cannot interrupt with mode: off: remove it, or use hold or stop"
    if agent.idle.goodbye_after_s and agent.idle.prompt_after_s >= agent.idle.goodbye_after_s:
        yield "idle.prompt_after_s", "must be less than goodbye_after_s, or 0 for no prompt"
    if agent.limits.warning_s and agent.limits.warning_s >= agent.limits.call_s:
        yield "limits.warning_s", "must be less than call_s, or 0 for no warning"
    if agent.model.compress_to_tokens >= agent.model.compress_at_tokens:
        yield "model.compress_to_tokens", "must be less than compress_at_tokens"
    if not agent.model.filler or filler_line(agent.model.filler):
        yield "model.filler", "is heard while the model is silent, and cannot be said by it: tone, or a WAV file"
    if agent.greeting.text and agent.greeting.sound:
        yield "greeting", "takes either text (the model says it) or sound (a file is played), not both"
    if agent.recording.announce and not (agent.recording.enabled and agent.greeting.text):
        what = "is said before greeting.text, in calls that are recorded: set both, or say it in the greeting's sound"
        yield "recording.announce", what
    stops = any(tool.builtin == "stop_recording" for tool in agent.tools)
    if stops and not agent.recording.enabled:
        yield "tools", "stop_recording has nothing to stop: set recording.enabled, or remove the tool"
    for index, number in enumerate(agent.numbers):
        if what := mistake_in(number, _DIALLED):
            yield f"numbers[{index}]", what
    for field, address in (("outbound.caller_id", agent.outbound.caller_id), ("fallback.dial", agent.fallback.dial)):
        if address and (what := mistake_in(address, DIALABLE)):
            yield field, what
    if agent.fallback.dial and agent.fallback.enqueue:
        yield "fallback", "takes either dial or enqueue, not both"
    if agent.fallback.play and not agent.fallback.play.startswith(("https://", "http://")):
        yield "fallback.play", "must be the URL of a sound file that the carrier can fetch: https://..."
    if (agent.outbound.on_machine == "leave_message") != bool(agent.outbound.message):
        yield "outbound.message", "belongs to on_machine: leave_message, which needs it"
    if agent.outbound.message and not agent.outbound.detect_machine:
        yield "outbound.message", "is never used without machine detection: set detect_machine: true"
    for index, rule in enumerate(agent.redact):
        if what := rule_mistake(rule):
            yield f"redact[{index}]", what
    for index, tool in enumerate(agent.tools):
        for name, what in _tool_contradictions(agent, tool):
            yield f"tools[{index}]{'.' if name else ''}{name}", what
    names = [tool.name for tool in agent.tools if tool.name]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield "tools", f"two tools are named {name}: rename one"


def _tool_contradictions(agent: Agent, tool: ToolSettings) -> Iterator[tuple[str, str]]:
    """The same of one tool; fields are named from the tool on, "" for the tool itself."""
    kinds = [kind for kind in ("function", "builtin", "http", "mcp") if getattr(tool, kind)]
    if len(kinds) != 1:
        what = f"takes one of them, not {' and '.join(kinds)}" if kinds else "is empty"
        yield "", f"{what}: function, builtin, http or mcp"
    yield from option_mistakes(tool.builtin, tool.options)
    if tool.blocking and filler_line(tool.filler):
        yield "filler", "cannot be said while the model waits: remove blocking"
    if tool.http is not None:
        for name in ("name", "description"):
            if not getattr(tool, name):
                yield name, f"an http tool needs a {name}"
        for name, what in http_mistakes(tool.http, tool.parameters, {*agent.variables, *KNOWN}):
            yield f"http.{name}", what
    if tool.mcp is not None:
        for name, what in mcp_mistakes(tool.mcp):
            yield f"mcp.{name}".rstrip("."), what


def _with_normal_numbers(agent: Agent) -> Agent:
    """The agent with each number as it is compared and dialled."""
    return msgspec.structs.replace(
        agent,
        numbers=tuple(read_address(number).text for number in agent.numbers),
        outbound=msgspec.structs.replace(agent.outbound, caller_id=_normal(agent.outbound.caller_id)),
        fallback=msgspec.structs.replace(agent.fallback, dial=_normal(agent.fallback.dial)),
        tools=tuple(_with_normal_targets(tool) if tool.options.targets else tool for tool in agent.tools),
    )


def _with_normal_targets(tool: ToolSettings) -> ToolSettings:
    targets = {name: _normal(target) for name, target in tool.options.targets.items()}
    return msgspec.structs.replace(tool, options=msgspec.structs.replace(tool.options, targets=targets))


def _normal(address: str) -> str:
    return read_address(address).text if address else ""


def _timezone_mistake(name: str) -> str:
    """What is wrong with the name of a time zone, or ""."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone, a path, a directory of zones
        known = available_timezones()
        if not known:
            return "this machine has no time zone data: install the package tzdata"
        cities = {zone.rpartition("/")[2].lower(): zone for zone in sorted(known)}
        city = name.strip().rpartition("/")[2].lower().replace(" ", "_")
        hint = f"did you mean {cities[city]}? " if city in cities else nearest(name, known) if "/" in name else ""
        return f"{hint}give a name of the IANA time zone database such as Europe/Berlin"
    return ""
