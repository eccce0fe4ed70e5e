"""Text of peers and of files that others wrote, made safe to show: on a terminal, in a log, in a comment."""

from __future__ import annotations

from typing import Any

__all__ = ["safe_name", "visible", "visible_in"]

NAME_MAX = 100


def visible(text: str, *, lines: bool = False) -> str:
    """The text with its control characters written out, as `\\x1b` and `\\n`; `lines`: it may have several lines.

    Separators of lines and paragraphs, directions of writing and lone surrogates are written out, too. Other text
    stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == " " or (lines and c in "\n\t") else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    if character in "\u200c\u200d\u00a0\u3000":  # joiners within words and emoji, spaces that do not break
        return character
    return character.encode("unicode_escape").decode("ascii")


def visible_in(value: Any) -> Any:
    """A value of JSON with `visible` texts; raises `RecursionError` for one that is nested too deeply."""
    if isinstance(value, str):
        return visible(value, lines=True)
    if isinstance(value, dict):
        return {visible(key): visible_in(item) for key, item in value.items()}
    if isinstance(value, list):
        return [visible_in(item) for item in value]
    return value


def safe_name(text: str) -> bool:
    """Whether this can be the name of a file or folder within another: no path, not hidden, all of it printable."""
    return (
        bool(text) and len(text) <= NAME_MAX and text.isprintable() and text[0] != "." and not set(text) & set("/\\:")
    )
