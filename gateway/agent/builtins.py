"""The `options:` of an agent file's built-in tools: what may be written there, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec

__all__ = ["BUILTINS", "Options", "option_mistakes"]

# Each built-in tool, and the options that mean something to it.
BUILTINS: dict[str, tuple[str, ...]] = {
    "end_call": (),
    "transfer_call": ("targets", "say", "whisper", "warm"),
    "send_dtmf": (),
    "collect_digits": ("length", "terminator", "wait_s", "secret"),
    "remember": (),
    "set_language": ("languages",),
    "take_message": ("recipients",),
    "leave_message": ("say",),
}
_TARGET = re.compile(r"\+[1-9]\d{5,14}|sips?:[^\s@]+@[^\s@]+")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one built-in tool."""

    targets: dict[str, str] = {}  # transfer_call: name the model uses -> number (E.164) or SIP address; nowhere else
    say: str = ""  # transfer_call: the line before it; leave_message: what is said to the machine
    whisper: str = ""  # transfer_call: said to whoever answers, before the caller is there
    warm: bool = False  # transfer_call: the agent briefs them first
    length: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None  # collect_digits: so many end it
    terminator: str = "#"  # collect_digits: this key ends it
    wait_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 8.0  # collect_digits: for each key
    secret: bool = False  # collect_digits: neither model nor record nor recording learn the digits
    languages: tuple[str, ...] = ()  # set_language: these and no others, as in de-DE
    recipients: tuple[str, ...] = ()  # take_message: for these and nobody else


def option_mistakes(builtin: str, options: Options) -> Iterator[tuple[str, str]]:
    """What is wrong with a built-in tool: (field below the tool, what to do)."""
    if not builtin:
        if options != Options():
            yield "options", "belongs to builtin: remove it"
        return
    if builtin not in BUILTINS:
        yield "builtin", f"is one of {', '.join(BUILTINS)}"
        return
    for field in msgspec.structs.fields(Options):
        if field.name not in BUILTINS[builtin] and getattr(options, field.name) != getattr(Options(), field.name):
            yield f"options.{field.name}", f"means nothing to {builtin}: remove it"
    if builtin == "transfer_call" and not options.targets:
        yield "options.targets", 'is needed: where callers may be transferred to, as in {sales: "+15550100"}'
    for name, target in options.targets.items():
        if not _TARGET.fullmatch(target):
            yield (
                f"options.targets.{name}",
                "must be a number such as +15550100 or an address such as sip:a@b.example",
            )
    if options.terminator not in ("", *"0123456789*#"):
        yield "options.terminator", "is one key: 0 to 9, * or #"
    if builtin == "collect_digits" and not options.terminator and options.length is None:
        yield "options.length", "is needed without a terminator: nothing else would end it"
    if builtin == "leave_message" and not options.say:
        yield "options.say", "is needed: what to say to the machine"
