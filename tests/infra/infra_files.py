"""What the monitoring files say: rules, dashboards and their expressions, read the same way for all tests here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
RULES = INFRA / "prometheus" / "rules"
DASHBOARDS = INFRA / "grafana" / "dashboards"


@cache
def rules() -> list[dict[str, Any]]:
    """Every recording rule and alert."""
    return [
        rule
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


@cache
def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@cache
def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def dashboards() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those inside rows included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


@cache
def panel_queries() -> dict[str, str]:
    """Where -> expression with Grafana's variables filled in as "All" would."""
    return {
        f"{name}: {panel['title']} {target['refId']}": filled(target["expr"])
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
    }


def filled(expr: str) -> str:
    expr = expr.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$pod", ".*")
    assert "$" not in expr, f"a variable no test knows: {expr}"
    return expr


def selectors(expr: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """(metric name, [(label, operator, value)]) for every metric an expression names."""
    for name, inner in re.findall(
        r"((?<![\w:])(?:job:)?(?:offhook|process|python)_[\w:]+|\bup\b)(?:\{([^}]*)\})?", expr
    ):
        yield name, re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inner)


def grouped_by(expr: str) -> set[str]:
    """Labels named in by, on, without and ignoring clauses."""
    found: set[str] = set()
    for inner in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expr):
        found.update(label.strip() for label in inner.split(",") if label.strip())
    return found
