"""`docs/security.md`: each row of its table names tests, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
WHO = {
    "internet",
    "carrier",
    "caller",
    "model",
    "tool service",
    "page in the operator's browser",
    "operator who listens",
    "other user of the machine",
}


def rows() -> list[list[str]]:
    table = re.search(r"^\| who \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_each_promise_has_a_test_that_exists() -> None:
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    missing = {}
    for who, tried, promised, tests in rows():
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, (who, tried)
        assert promised
        if absent := [name for name in named if name not in there]:
            missing[tried] = absent
    assert missing == {}, "rename them on the page, too"


def test_every_kind_of_attacker_has_a_row() -> None:
    first = [who.partition(",")[0] for who, *_ in rows()]
    assert set(first) >= WHO
