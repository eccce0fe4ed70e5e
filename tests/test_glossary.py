"""docs/glossary.md, held by class names: one meaning for each, and none that the glossary replaces."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")

# Names that are defined twice and stay, and why.
EACH = "each provider's own, of the same meaning: no model knows another"
KEPT = {
    **dict.fromkeys(("CallSoFar", "Cause", "Connector", "ModelRow", "Outbox", "Patience", "SessionSocket"), EACH),
    "Carrier": "the key `carrier` of a scenario: how the simulated carrier behaves; the gateway's is the seam",
    "FunctionResponse": "Gemini's own name, once for each side: the rehearsal has a parser of its own",
    "Reply": "the key `replies` of a scenario's model; the gateway's is the ledger's account of one",
    "Say": "the key `say` of a scenario, for the model and for the caller",
}


@cache
def classes() -> tuple[tuple[str, str], ...]:
    """Each class of the house and the module that defines it."""
    return tuple(_classes())


def _classes() -> Iterator[tuple[str, str]]:
    for top in ("gateway", "media", "metrics"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield node.name, str(path.relative_to(ROOT))


def doubled(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Name -> its modules, of names defined in more than one. A leading underscore is a module's own business."""
    modules: Mapping[str, list[str]] = defaultdict(list)
    for name, module in found:
        if not name.startswith("_"):
            modules[name].append(module)
    return {name: where for name, where in modules.items() if len(where) > 1}


def replaced_names(glossary: str) -> set[str]:
    """The class names in the table's last column."""
    last = [row.rstrip(" |").rpartition("|")[2] for row in glossary.splitlines() if row.startswith("| ")]
    return {name for cell in last for name in re.findall(r"`([A-Z]\w*)`", cell)}


def test_no_class_name_has_two_meanings() -> None:
    found = doubled(classes())
    unlisted = found.keys() - KEPT.keys()
    assert {name: found[name] for name in unlisted} == {}, "rename one, or say in KEPT why both stay"


def test_no_class_has_a_replaced_name() -> None:
    names = replaced_names(GLOSSARY)
    found = {(name, module) for name, module in classes() if name in names}
    assert found == set(), "docs/glossary.md has the term for it"


def test_list_of_exceptions_is_current() -> None:
    assert KEPT.keys() - doubled(classes()).keys() == set(), "renamed meanwhile: delete them from KEPT"


def test_glossary_has_one_row_per_term() -> None:
    rows = [re.split(r" *\| *", row)[1:-1] for row in GLOSSARY.splitlines() if row.startswith("| ")][1:]
    assert [row for row in rows if len(row) != 3 or not all(row)] == []
    terms = [term for row in rows for term in re.split(r"[,:] ", row[0])]
    assert len(terms) == len(set(terms))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("Line", "a.py"), ("Line", "b.py")], {"Line": ["a.py", "b.py"]}),
        ([("Line", "a.py"), ("Link", "b.py")], {}),
        ([("_Line", "a.py"), ("_Line", "b.py")], {}),
    ],
)
def test_doubled_names_are_found(found: list[tuple[str, str]], expected: dict[str, list[str]]) -> None:
    assert doubled(iter(found)) == expected


def test_replaced_names_are_read_from_last_column() -> None:
    assert replaced_names("| term | is | not |\n|---|---|---|\n| `Line` | a path | door, `Door` |\n") == {"Door"}
