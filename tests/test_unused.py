"""Nothing is declared that nobody uses: settings that are not read, endings that no call has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending

GATEWAY = Path(__file__).parents[1] / "gateway"
QUESTIONS = ast.Compare | ast.Set | ast.MatchValue | ast.Dict  # where an ending is looked for, and not given


def settings_read(source: str) -> set[str]:
    """The names after `settings.`, whatever holds the settings."""
    if "settings" not in source:
        return set()
    named = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return {node.attr for node in named if last_name(node.value).endswith("settings")}


def endings_given(source: str) -> set[str]:
    """The names after `Ending.`, except in comparisons and lists."""
    if "Ending" not in source:
        return set()
    tree = ast.parse(source)
    asked = {id(part) for node in ast.walk(tree) if isinstance(node, QUESTIONS) for part in ast.walk(node)}
    named = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in asked)
    return {node.attr for node in named if last_name(node.value) == "Ending"}


def last_name(node: ast.expr) -> str:
    """What stands before the dot of an attribute: its last name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def sources(but: str) -> Iterator[str]:
    yield from (path.read_text() for path in GATEWAY.rglob("*.py") if path != GATEWAY / but)


def test_every_setting_is_read() -> None:
    read = set().union(*map(settings_read, sources("config.py")))
    assert {field.name for field in fields(Settings)} - read == set()


def test_every_ending_is_given() -> None:
    given = set().union(*map(endings_given, sources("conversation/endings.py")))
    assert {ending.name for ending in Ending} - given == set()


@pytest.mark.parametrize(
    "source", ["settings.port", "self._settings.port", "x.gateway.settings.port", "f(settings.port)"]
)
def test_a_setting_is_seen_where_it_is_read(source: str) -> None:
    assert settings_read(source) == {"port"}


@pytest.mark.parametrize(
    "source",
    ["x is Ending.MOVED", "{Ending.MOVED: 1}", "x in {Ending.MOVED}", "match x:\n case Ending.MOVED:\n  pass"],
)
def test_an_ending_looked_for_is_not_given(source: str) -> None:
    assert endings_given(f"{source}\nstop(Ending.TIME_LIMIT)") == {"TIME_LIMIT"}
