"""The script of the rehearsal model: frozen values, and how they are made from plain mappings (YAML).

A script is a list of replies. Each waits for an event of the caller's side (`on`) and then runs its actions in
order. A reply is used once; the first unused one that matches is used. Faults are scripted too, as
actions inside a reply or at a time.
"""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from offhook.gateway.errors import nearest
from offhook.gateway.yamlfile import mistake, read_yaml

__all__ = [
    "ACTIONS",
    "Abort",
    "Action",
    "CallTool",
    "CancelTools",
    "Close",
    "EmptyTurn",
    "FailResponse",
    "Fault",
    "Mute",
    "Oversize",
    "Reply",
    "Say",
    "Script",
    "ScriptError",
    "Send",
    "SendGoAway",
    "SendInterrupted",
    "Stall",
    "Think",
    "Wait",
    "read_script",
    "script_from",
]


class ScriptError(ValueError):
    """The script is invalid: `what` has the error and its fix, `where` the field, such as `model.replies[0].say`."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{where}: {what}" if where else what)
        self.what, self.where = what, where


@dataclass(frozen=True, slots=True)
class Say:
    """Speak.

    Without `sound` (a WAV file) the voice is a hum of `length_ms`, by default as long as `text` would take.
    `delay_ms` is the thinking time, from the end of the caller's turn to the first audio sent.
    `chunk_ms` is repeated in a cycle; 0 is a chunk of one sample, which the real service sends at times.
    `speed` is a multiple of real time. `cut_ms` ends the audio early although the transcript is complete (a
    sentence cut off). `late_chunks` are still sent after an interruption.
    """

    text: str
    sound: Path | None = None
    length_ms: float | None = None
    delay_ms: float = 300.0
    chunk_ms: tuple[float, ...] = (50, 160, 0, 320, 100, 200)
    speed: float = 5.0
    transcript: Literal["as the model does", "same frame", "own frame", "before", "after", "none"] = "as the model does"
    cut_ms: float | None = None
    late_chunks: int = 0

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ScriptError(f"say: speed is {self.speed}; give a number above 0")
        if not any(self.chunk_ms) or min(self.chunk_ms) < 0:
            raise ScriptError("say: chunk_ms needs lengths of 0 or more, at least one above 0")


@dataclass(frozen=True, slots=True)
class CallTool:
    """Call a function. Neighbouring calls share one `toolCall` message. An id is generated unless given."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Think:
    """Send a thought part: text that must not be spoken."""

    text: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The reply pauses; the session continues."""

    ms: float


@dataclass(frozen=True, slots=True)
class Stall:
    """The whole session freezes: nothing is read, sent or ponged."""

    ms: float


@dataclass(frozen=True, slots=True)
class Mute:
    """The model continues to receive and transcribe, but does not reply any more."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send one message unchanged: a mapping (sent as JSON) or the text of the frame."""

    message: Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class Oversize:
    """Send a valid message of more than `size_bytes`; many clients accept 1 MiB at most."""

    size_bytes: int = 1_200_000


@dataclass(frozen=True, slots=True)
class SendInterrupted:
    """`interrupted` and `turnComplete` without speech; the rest of the reply is dropped."""


@dataclass(frozen=True, slots=True)
class EmptyTurn:
    """Send a turn without content: `turnComplete` alone."""


@dataclass(frozen=True, slots=True)
class FailResponse:
    """OpenAI Realtime: the response ends here, `failed` with this error code or `incomplete` for this reason.

    `reset_s`: of the rate limits reported with it. Gemini Live has no such message: an empty turn takes its place.
    """

    code: str = "server_error"
    status: Literal["failed", "incomplete"] = "failed"
    reset_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CancelTools:
    """`toolCallCancellation` for every open call."""


@dataclass(frozen=True, slots=True)
class SendGoAway:
    """`goAway`; when `then_close`, the session ends that much later in the script's `end_of_life` way."""

    time_left_s: float = 50.0
    then_close: bool = True


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed with this code."""

    code: int = 1011
    reason: str = "Internal error encountered."


@dataclass(frozen=True, slots=True)
class Abort:
    """The TCP connection is reset, without a closing handshake."""


Action = (
    Say | CallTool | Think | Wait | Stall | Mute | Send | Oversize | SendInterrupted | EmptyTurn | CancelTools
    | FailResponse | SendGoAway | Close | Abort
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to the event `on`.

    "start" and "resume": the session is set up. "caller": the caller's turn ended. "text" or "text:PART": text
    to be answered (with PART in it). "tool:NAME": a result of that function. "any": one of the last three.

    `heard` are the pieces of the caller's transcript, sent `heard_when` relative to the reply's audio.
    `min_speech_ms`: a caller's turn with less speech in it does not match.
    """

    on: str
    do: tuple[Action, ...]
    heard: tuple[str, ...] = ()
    heard_when: Literal["before", "during", "after"] = "before"
    min_speech_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.on not in ("start", "resume", "caller", "text", "any") and not (
            self.on.startswith(("tool:", "text:")) and len(self.on) > 5
        ):
            raise ScriptError(
                f"reply: on is {self.on!r}; give start, resume, caller, text, text:PART, tool:NAME or any"
            )


@dataclass(frozen=True, slots=True)
class Fault:
    """Actions at a time after the conversation's first setup, in any state of the conversation.

    Each runs once: it does not run again after a reconnect.
    """

    at_s: float
    do: tuple[Action, ...]

    def __post_init__(self) -> None:
        for action in self.do:
            if isinstance(action, Say | CallTool | Think | EmptyTurn | FailResponse):
                raise ScriptError(f"fault: {type(action).__name__} is part of a reply; put it into one")


@dataclass(frozen=True, slots=True)
class Script:
    """`default` answers a caller's turn for which no reply is left.

    `setup_delay_ms`, `refuse` and `instead_of_setup` are faults before the session begins; `refuse_resumes`
    are spent one per attempt to resume. `lifetime_s` and `go_away_s` (the warning before it) are divided by
    the server's time scale. `carries_on`: a session without a handle continues the script instead of beginning it
    again, which suits a single call that reconnects. `hears_above_dbfs` overrides the level above which the voice
    detection detects speech.
    """

    replies: tuple[Reply, ...] = ()
    default: Reply | None = None
    faults: tuple[Fault, ...] = ()
    setup_delay_ms: float = 0.0
    refuse: Close | None = None
    instead_of_setup: Send | None = None
    refuse_resumes: tuple[Close, ...] = ()
    lifetime_s: float = 600.0
    go_away_s: float = 50.0
    end_of_life: Close = Close(1011, "Deadline expired before operation could complete.")
    carries_on: bool = False
    hears_above_dbfs: float | None = None
    barge_in_cancels: Literal["blocking", "all"] = "blocking"
    unknown_tool_id: Literal["close", "ignore"] = "close"
    text_frames: bool = False
    pong_delay_s: float = 0.0


_T = TypeVar("_T")
_ROOT = "model"  # the name of the script in a scenario, and in the fields that errors name

# The name of each action in a mapping, and the field that its value fills.
ACTIONS: dict[str, tuple[type, str | None]] = {
    "say": (Say, "text"),
    "tool": (CallTool, "name"),
    "think": (Think, "text"),
    "wait_ms": (Wait, "ms"),
    "stall_ms": (Stall, "ms"),
    "mute": (Mute, None),
    "send": (Send, "message"),
    "oversize": (Oversize, "size_bytes"),
    "interrupted": (SendInterrupted, None),
    "empty_turn": (EmptyTurn, None),
    "fail": (FailResponse, "code"),
    "cancel_tools": (CancelTools, None),
    "go_away": (SendGoAway, "time_left_s"),
    "close": (Close, "code"),
    "abort": (Abort, None),
}


def read_script(path: Path) -> Script:
    """The script in a YAML or JSON file of its own; sounds are relative to it. Raises `FileError`."""
    file = read_yaml(path)
    try:
        return script_from(file.value, path.parent)
    except ScriptError as error:
        steps = file.steps(error.where.removeprefix(_ROOT).removeprefix("."))
        raise file.error(file.with_fix(error.what, steps), steps) from None


def script_from(mapping: Mapping[str, Any], base_dir: Path | None = None) -> Script:
    """Make a script from plain mappings, as YAML yields them. Sounds are relative to `base_dir`.

    An action is a mapping with its name as a key (`{say: "Hello", delay_ms: 200}`, `{close: 1011}`) or, where
    it needs nothing, its name (`abort`). A reply with a single action may have it as a key instead of `do`.
    Raises ScriptError, which names the field.
    """
    _is_mapping(mapping, _ROOT)
    values = dict(mapping)
    values["replies"] = tuple(
        _reply(value, f"{_ROOT}.replies[{i}]", base_dir)
        for i, value in enumerate(_list(values.get("replies"), f"{_ROOT}.replies"))
    )
    values["faults"] = tuple(
        _fault(value, f"{_ROOT}.faults[{i}]", base_dir)
        for i, value in enumerate(_list(values.get("faults"), f"{_ROOT}.faults"))
    )
    if values.get("default") is not None:
        default = values["default"]
        _is_mapping(default, f"{_ROOT}.default")
        values["default"] = _reply({"on": "caller", **default}, f"{_ROOT}.default", base_dir)
    for name in ("refuse", "end_of_life"):
        if values.get(name) is not None:
            values[name] = _close(values[name], f"{_ROOT}.{name}")
    values["refuse_resumes"] = tuple(
        _close(value, f"{_ROOT}.refuse_resumes[{i}]")
        for i, value in enumerate(_list(values.get("refuse_resumes"), f"{_ROOT}.refuse_resumes"))
    )
    if values.get("instead_of_setup") is not None:
        values["instead_of_setup"] = Send(values["instead_of_setup"])
    return _made(Script, values, _ROOT)


def _reply(value: Any, where: str, base_dir: Path | None) -> Reply:
    _is_mapping(value, where)
    own = {f.name for f in fields(Reply)}
    values = {k: v for k, v in value.items() if k in own}
    inline = {k: v for k, v in value.items() if k not in own}
    if inline and "do" in values:
        raise ScriptError(f"{', '.join(map(repr, inline))} beside do; put the action into do", where)
    if "do" not in values and not inline:
        raise ScriptError("no action; give do: [...] or one action, such as say: ...", where)
    if inline:
        values["do"] = (_action(inline, where, base_dir),)
    else:
        values["do"] = _actions(values["do"], f"{where}.do", base_dir)
    if isinstance(values.get("heard"), str):
        values["heard"] = (values["heard"],)
    return _made(Reply, values, where)


def _fault(value: Any, where: str, base_dir: Path | None) -> Fault:
    _is_mapping(value, where)
    values = dict(value)
    if "at_s" not in values:
        raise ScriptError("no at_s; give seconds after the setup", where)
    at_s = values.pop("at_s")
    do = _actions(values.pop("do"), f"{where}.do", base_dir) if "do" in values else ()
    if values:
        do += (_action(values, where, base_dir),)
    return _made(Fault, {"at_s": at_s, "do": do}, where)


def _close(value: Any, where: str) -> Close:
    if isinstance(value, int):
        return Close(value, "")
    _is_mapping(value, where)
    return _made(Close, dict(value), where)


def _actions(value: Any, where: str, base_dir: Path | None) -> tuple[Action, ...]:
    return tuple(_action(one, f"{where}[{i}]", base_dir) for i, one in enumerate(_list(value, where)))


def _action(value: Any, where: str, base_dir: Path | None) -> Any:
    values = {value: None} if isinstance(value, str) else value
    _is_mapping(values, where)
    named = [name for name in ACTIONS if name in values]
    if len(named) != 1:
        meant = "" if named else "".join(nearest(name, ACTIONS) for name in values)
        has = ", ".join(map(str, values))
        raise ScriptError(f"{meant}needs exactly one of {', '.join(ACTIONS)}; has {has}", where)
    kind, main = ACTIONS[named[0]]
    arguments = dict(values)
    given = arguments.pop(named[0])
    if main is not None and given is not None:
        arguments[main] = given
    if (sound := arguments.get("sound")) is not None:
        if not isinstance(sound, str | Path):
            raise ScriptError(f"sound is {type(sound).__name__}; give the path of a WAV file", where)
        arguments["sound"] = (base_dir or Path()) / sound
        if not os.path.isfile(arguments["sound"]):
            raise ScriptError(f"no sound file at {arguments['sound']}", where)
    return _made(kind, arguments, where, {main: named[0]} if main is not None and given is not None else {})


def _made(kind: type[_T], values: dict[str, Any], where: str, written_as: Mapping[str, str] = {}) -> _T:
    """`written_as`: the keys by which fields are written in the script, where they differ."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ScriptError(
                f"unknown field {name!r}; {nearest(name, known)}known are {', '.join(known) or 'none'}", where
            )
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ScriptError(f"{name} is missing", where)
    checked = {}
    for name, value in values.items():
        try:
            built = name in _BUILT or isinstance(value, Path)
            checked[name] = value if built else msgspec.convert(value, known[name].type)
        except msgspec.ValidationError as error:
            what, steps = mistake(error, value, known[name].type)
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
            raise ScriptError(what, f"{where}.{written_as.get(name, name)}{place}") from None
    try:
        return kind(**checked)
    except ScriptError as error:
        raise ScriptError(str(error), where) from None


# Fields that the callers of _made have converted already, and fields of any type.
_BUILT = frozenset(
    "replies default faults do refuse instead_of_setup refuse_resumes end_of_life message args".split()  # noqa: SIM905
)


def _is_mapping(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise ScriptError(f"is {type(value).__name__}; give a mapping", where)


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ScriptError(f"is {type(value).__name__}; give a list", where)
    return list(value)
