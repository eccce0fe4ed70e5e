"""The `options:` of an agent file's built-in tools: their fields, and what contradicts each other in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from offhook.gateway.numbers import DIALABLE, mistake_in

__all__ = ["BUILTINS", "Options", "option_mistakes"]

# Each built-in tool, and the options that apply to it.
BUILTINS: dict[str, tuple[str, ...]] = {
    "end_call": (),
    "transfer_call": ("targets", "say", "whisper", "warm"),
    "send_dtmf": (),
    "collect_digits": ("length", "terminator", "wait_s", "secret"),
    "remember": (),
    "set_language": ("languages",),
    "take_message": ("recipients",),
    "leave_message": ("say",),
    "stop_recording": (),
}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one built-in tool."""

    targets: dict[str, str] = {}  # transfer_call: name the model uses -> number, SIP or client address; nowhere else
    say: str = ""  # transfer_call: the line before it; leave_message: the message for the machine
    whisper: str = ""  # transfer_call: played to the answering party before the caller joins
    warm: bool = False  # transfer_call: the agent briefs the answering party first
    length: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None  # collect_digits: this many digits end it
    terminator: str = "#"  # collect_digits: this key ends it
    wait_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 8.0  # collect_digits: for each key
    secret: bool = False  # collect_digits: the digits reach neither model, record nor recording
    languages: tuple[str, ...] = ()  # set_language: only these, as in de-DE
    recipients: tuple[str, ...] = ()  # take_message: only for these


def option_mistakes(builtin: str, options: Options) -> Iterator[tuple[str, str]]:
    """Mistakes in a built-in tool: (field below the tool, what to do)."""
    if not builtin:
        if options != Options():
            yield "options", "belongs to builtin: remove it"
        return
    if builtin not in BUILTINS:
        yield "builtin", f"is one of {', '.join(BUILTINS)}"
        return
    for field in msgspec.structs.fields(Options):
        if field.name not in BUILTINS[builtin] and getattr(options, field.name) != getattr(Options(), field.name):
            yield f"options.{field.name}", f"does not apply to {builtin}: remove it"
    if builtin == "transfer_call" and not options.targets:
        yield "options.targets", 'is needed: where callers may be transferred, as in {sales: "+15550100"}'
    for name, target in options.targets.items():
        if what := mistake_in(target, DIALABLE):
            yield f"options.targets.{name}", what
    if options.terminator not in ("", *"0123456789*#"):
        yield "options.terminator", "is one key: 0 to 9, * or #"
    if builtin == "collect_digits" and not options.terminator and options.length is None:
        yield "options.length", "is needed without a terminator: nothing else ends the input"
    if builtin == "leave_message" and not options.say:
        yield "options.say", "is needed: the message for the machine"
