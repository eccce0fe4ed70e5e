"""Agent files: YAML in, a frozen `Agent` out, errors with line and field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from offhook.gateway.agent.builtins import option_mistakes
from offhook.gateway.agent.spec import Agent, filler_line
from offhook.gateway.agent.tools import KNOWN, http_mistakes, mcp_mistakes
from offhook.gateway.errors import AgentFileError

__all__ = ["YamlLoader", "line_of", "load_agent", "parse_agent"]


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2's booleans: `off` and `no` are words, as in `mode: off`, and not false."""


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z", re.I), list("tTfF"))


def load_agent(path: str | Path) -> Agent:
    """Read and validate an agent file. Raises `AgentFileError` naming line and field."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise AgentFileError(str(path), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise AgentFileError(str(path), "is not text in UTF-8") from None
    return parse_agent(text, path=str(path), directory=str(path.resolve().parent))


def parse_agent(text: str, *, path: str = "agent.yaml", directory: str = ".") -> Agent:
    """An agent from YAML text. Raises `AgentFileError` naming line and field."""
    try:
        root = yaml.compose(text, Loader=YamlLoader)
        data = yaml.load(text, Loader=YamlLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "is not YAML"
        raise AgentFileError(path, str(problem), line=mark.line + 1 if mark else None) from None
    if not isinstance(data, Mapping):
        raise AgentFileError(path, "must be a mapping of fields, as in `name: receptionist`", line=1)
    if "directory" in data:
        raise AgentFileError(
            path, "is set by where the file stands", line=line_of(root, ["directory"]), field="directory"
        )
    try:
        agent = msgspec.convert({**data, "directory": directory}, Agent)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        steps = _steps(where)
        unknown = re.search(r"unknown field `(\w+)`", what)
        if unknown:
            steps.append(unknown[1])
            what = "is not a field of an agent file"
        field = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
        raise AgentFileError(path, what, line=line_of(root, steps), field=field) from None
    for field, cure in _contradictions(agent):
        raise AgentFileError(path, cure, line=line_of(root, _steps(field)), field=field)
    return agent


def _steps(field: str) -> list[str | int]:
    """The keys and indices of a field's name: tools[0].http.url."""
    return [int(index) if index else key for key, index in re.findall(r"([\w-]+)|\[(\d+)\]", field)]


def line_of(node: yaml.Node | None, steps: list[Any]) -> int | None:
    """The line (from 1) of the value that `steps` (keys, indices) lead to, or of the last that exists."""
    line = node.start_mark.line + 1 if node else None
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _contradictions(agent: Agent) -> list[tuple[str, str]]:
    """Settings that would be without effect or cannot go together: (field, what to do)."""
    found = []
    turns, barge_in = agent.turn_detection, agent.barge_in
    if turns.mode == "local":
        for name in ("start_sensitivity", "end_sensitivity", "prefix_padding_ms"):
            if getattr(turns, name) is not None:
                found.append((f"turn_detection.{name}", "is the model's own detection: remove it, or use mode: model"))
        if barge_in.mode == "model":
            found.append(
                (
                    "barge_in.mode",
                    "with turn_detection mode: local the model is told when the caller speaks and never "
                    "says it first: use hold or stop",
                )
            )
    elif turns.pre_roll_ms is not None:
        found.append(("turn_detection.pre_roll_ms", "needs turn_detection mode: local"))
    if barge_in.dtmf and barge_in.mode == "off":
        found.append(("barge_in.dtmf", "cannot interrupt with mode: off: remove it, or use hold or stop"))
    if agent.idle.goodbye_after_s and agent.idle.prompt_after_s >= agent.idle.goodbye_after_s:
        found.append(("idle.prompt_after_s", "must be less than goodbye_after_s, or 0 for no prompt"))
    if agent.limits.warning_s and agent.limits.warning_s >= agent.limits.call_s:
        found.append(("limits.warning_s", "must be less than call_s, or 0 for no warning"))
    if agent.model.compress_to_tokens >= agent.model.compress_at_tokens:
        found.append(("model.compress_to_tokens", "must be less than compress_at_tokens"))
    if agent.greeting.text and agent.greeting.sound:
        found.append(("greeting", "takes either text (the model says it) or sound (a file is played), not both"))
    if agent.fallback.dial and agent.fallback.enqueue:
        found.append(("fallback", "takes either dial or enqueue, not both"))
    if agent.fallback.play and not agent.fallback.play.startswith(("https://", "http://")):
        found.append(("fallback.play", "is the URL of a sound file that Twilio fetches: https://..."))
    if (agent.outbound.on_machine == "leave_message") != bool(agent.outbound.message):
        found.append(("outbound.message", "belongs to on_machine: leave_message, which needs it"))
    if agent.outbound.message and not agent.outbound.detect_machine:
        found.append(("outbound.message", "is for a machine that is never noticed: set detect_machine: true"))
    for index, tool in enumerate(agent.tools):
        kinds = [k for k in ("function", "builtin", "http", "mcp") if getattr(tool, k)]
        if len(kinds) != 1:
            what = f"takes one of them, not {' and '.join(kinds)}" if kinds else "is empty"
            found.append((f"tools[{index}]", f"{what}: function, builtin, http or mcp"))
        found += [(f"tools[{index}].{field}", cure) for field, cure in option_mistakes(tool.builtin, tool.options)]
        if tool.blocking and filler_line(tool.filler):
            found.append((f"tools[{index}].filler", "cannot be said while the model waits: remove blocking"))
        if tool.http is not None:
            found += [
                (f"tools[{index}].{field}", f"an http tool needs a {field}")
                for field in ("name", "description")
                if not getattr(tool, field)
            ]
            of_http = http_mistakes(tool.http, tool.parameters, {*agent.variables, *KNOWN})
            found += [(f"tools[{index}].http.{field}", cure) for field, cure in of_http]
        if tool.mcp is not None:
            of_mcp = mcp_mistakes(tool.mcp)
            found += [(f"tools[{index}].mcp.{field}".rstrip("."), cure) for field, cure in of_mcp]
    names = [tool.name for tool in agent.tools if tool.name]
    for name in {n for n in names if names.count(n) > 1}:
        found.append(("tools", f"two tools are named {name}: rename one"))
    return found
