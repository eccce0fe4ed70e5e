"""Agent files: YAML in, a frozen `Agent` out, errors with line and field.

The file's keys are the fields below; unknown keys are refused. Contradictions are refused with the cure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from gateway.agent_builtins import Options, option_mistakes
from gateway.agent_tools import KNOWN, HttpTool, McpServer, http_mistakes, mcp_mistakes
from gateway.errors import AgentFileError

__all__ = [
    "Agent",
    "BargeIn",
    "Fallback",
    "Greeting",
    "Idle",
    "Limits",
    "ModelSettings",
    "Outbound",
    "RecordingSettings",
    "Repair",
    "ToolSettings",
    "TurnDetection",
    "YamlLoader",
    "filler_line",
    "line_of",
    "load_agent",
    "parse_agent",
]

Ms = Annotated[int, msgspec.Meta(ge=0, le=600_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Mode = Literal["hold", "stop", "model", "off"]


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class BargeIn(_Spec, frozen=True):
    """How the caller interrupts the agent."""

    mode: Mode = "hold"
    min_speech_ms: Annotated[int, msgspec.Meta(ge=20, le=600_000)] = 60  # this much speech stops playback (hold, stop)
    min_barge_in_ms: Ms = 600  # this much confirms it without the model's word (hold)
    verdict_timeout_ms: Ms = 400  # silence after a shorter one, before the agent goes on (hold)
    dtmf: bool = False  # a key press interrupts, too
    detector: Literal["energy", "silero"] = "energy"


class Repair(_Spec, frozen=True):
    """What the model is told of words the caller did not hear."""

    mode: Literal["note", "ask", "none"] = "note"


class TurnDetection(_Spec, frozen=True):
    """Who decides that the caller's turn is over: the model, or the gateway's own detector."""

    mode: Literal["model", "local"] = "model"
    end_silence_ms: Ms | None = None  # model: silenceDurationMs; local: 700 unless given
    pre_roll_ms: Ms | None = None  # local: caller audio sent with activityStart, 300 unless given
    start_sensitivity: Literal["high", "low"] | None = None  # model only
    end_sensitivity: Literal["high", "low"] | None = None  # model only
    prefix_padding_ms: Ms | None = None  # model only


class Greeting(_Spec, frozen=True):
    """The agent's first words: `text` asks the model, `sound` plays a file at once."""

    text: str = ""
    sound: str = ""  # WAV file, relative to the agent file
    protected: bool = False  # cannot be interrupted


class Idle(_Spec, frozen=True):
    """A caller who says nothing, counted from the end of playback, the goodbye anew from that of the prompt.

    0 switches a step off.
    """

    prompt_after_s: Seconds = 10.0
    prompt: str = "The caller has been silent. Ask briefly whether they are still there."
    goodbye_after_s: Seconds = 20.0
    goodbye: str = "The caller is still silent. Say a short goodbye."


class Limits(_Spec, frozen=True):
    """Bounds of one call."""

    call_s: Seconds = 3600.0
    warning_s: Seconds = 60.0  # before the limit, 0: no warning
    warning: str = "The call has to end within a minute. Tell the caller."
    # USD by the price table. Near it the caller is told (`warning`); the turn that passes it is the last.
    cost: Annotated[float, msgspec.Meta(gt=0)] | None = None
    tools_at_once: Annotated[int, msgspec.Meta(ge=1, le=50)] = 4


class RecordingSettings(_Spec, frozen=True):
    """Recording is off unless switched on; consent is the operator's duty."""

    enabled: bool = False
    directory: str = "recordings"


class Fallback(_Spec, frozen=True):
    """What the caller gets when no agent can answer: a line or a recording, then a human, a queue or a hang-up."""

    say: str = "Sorry, nobody can take your call right now. Please try again later."  # by itself not before a human
    play: str = ""  # URL of a sound file that Twilio plays instead of saying the line
    dial: str = ""  # number or SIP address
    enqueue: str = ""  # queue name


class Outbound(_Spec, frozen=True):
    """Calls this agent places: the number it shows, and what it does when a machine answers."""

    caller_id: str = ""  # one of the account's numbers, E.164; the first of `numbers` unless given
    ring_s: Annotated[int, msgspec.Meta(ge=5, le=600)] = 30
    detect_machine: bool = True
    on_machine: Literal["hang_up", "leave_message", "talk"] = "hang_up"
    message: str = ""  # leave_message: what the model is asked to say to the machine


class ModelSettings(_Spec, frozen=True):
    """The model and what is particular to it."""

    name: str = "gemini-3.8-live"
    temperature: float | None = None
    thinking_level: Literal["minimal", "low", "medium", "high"] | None = None
    thinking_budget: int | None = None
    compress_at_tokens: Annotated[int, msgspec.Meta(ge=1000)] = 16_000
    compress_to_tokens: Annotated[int, msgspec.Meta(ge=500)] = 8_000
    # After twice as many turns: in a quiet moment a fresh session that is told the last `keep_turns` of them and
    # the facts remembered. Every turn is billed for all that the session holds. 0: the compression alone.
    keep_turns: Annotated[int, msgspec.Meta(ge=0, le=200)] = 0
    silent_after_ms: Annotated[int, msgspec.Meta(ge=1_000, le=600_000)] = (
        6_000  # caller's turn ended, nothing came: nudge, then reconnect
    )
    setup_timeout_s: Seconds = 10.0


class ToolSettings(_Spec, frozen=True):
    """One tool of the agent: Python (`function: module:name`), `http`, `mcp`, or `builtin`. See `tools`."""

    name: str = ""
    function: str = ""
    builtin: str = ""
    options: Options = Options()  # of a built-in tool
    http: HttpTool | None = None
    mcp: McpServer | None = None
    description: str = ""
    parameters: dict[str, Any] | None = None
    blocking: bool = False
    on_barge_in: Literal["cancel", "finish"] = "cancel"
    announce: Literal["speak", "silent"] = "speak"
    timeout_s: Seconds = 20.0
    filler: str = ""  # "", "tone", a WAV file, or a line (with spaces) to say; after filler_after_ms of tool silence
    filler_after_ms: Ms = 1_500
    outside_effects: bool = False  # blocked in rehearsals unless the scenario allows it


class Agent(_Spec, frozen=True):
    """One agent: who it is, how it talks, what it may do."""

    name: str
    numbers: tuple[str, ...] = ()  # dialled numbers, E.164; empty: any
    model: ModelSettings = ModelSettings()
    voice: str = "Kore"
    language: str = "en-US"
    instructions: str = ""
    greeting: Greeting = Greeting()
    tools: tuple[ToolSettings, ...] = ()
    barge_in: BargeIn = BargeIn()
    repair: Repair = Repair()
    turn_detection: TurnDetection = TurnDetection()
    idle: Idle = Idle()
    limits: Limits = Limits()
    recording: RecordingSettings = RecordingSettings()
    fallback: Fallback = Fallback()
    outbound: Outbound = Outbound()
    variables: dict[str, str] = {}
    board: str = ""  # module:function of yours; the lists it returns are shown live on the console
    directory: str = "."  # where the agent file stands; relative paths start here


def filler_line(filler: str) -> str:
    """The filler, if it is a line to be said and not the name of a sound; else ""."""
    return filler if " " in filler.strip() and not filler.lower().endswith(".wav") else ""


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
