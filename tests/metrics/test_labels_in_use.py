"""The gateway's own words are in the catalogue's closed lists: none of them is counted as "other" by mistake."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.rehearsal.faults.run import CALLER_DROPS
from offhook.gateway.rehearsal.load.search import DROPS
from offhook.metrics.catalogue import DROP_REASONS, INCOMPLETE_REASONS, INPUT_ERRORS, INPUT_PEERS, Metrics, Tally
from offhook.metrics.segments import BY_NAME

GATEWAY = Path(__file__).resolve().parents[2] / "gateway"
METRICS = Metrics(CollectorRegistry(), LABELS)


@cache
def calls() -> tuple[tuple[str, str, list[object], ast.Call], ...]:
    """(where, called name, constant positional arguments or None, the call) of every call in the gateway."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, str, list[object], ast.Call]]:
    for path in sorted(GATEWAY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                values = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]
                yield f"{path.name}:{node.lineno}", name, values, node


def test_labels_of_tallies_are_declared() -> None:
    seen = 0
    for where, name, values, _ in calls():
        *_, owner, method = ("", *name.split("."))
        tally = vars(METRICS).get(owner)
        if method == "inc" and isinstance(tally, Tally):
            seen += 1
            for value, known in zip(values, tally._known, strict=True):
                assert value is None or value in known, f"{where}: {owner} has no {value!r}"
    assert seen >= 5


def test_names_of_metrics_exist() -> None:
    for where, name, _, _ in calls():
        parts = name.split(".")
        if len(parts) >= 3 and parts[-3:-2] != [] and parts[-3] in ("metrics", "_metrics"):
            assert hasattr(METRICS, parts[-2]), f"{where}: {name}"


def test_observed_and_incomplete_segments_are_declared() -> None:
    seen = 0
    for where, name, values, _ in calls():
        if (
            name.endswith(("metrics.observe", "self._observe", "metrics.incomplete"))
            and values
            and values[0] is not None
        ):
            seen += 1
            assert values[0] in BY_NAME, f"{where}: {values[0]!r}"
            if name.endswith("incomplete"):
                assert values[1] is None or values[1] in INCOMPLETE_REASONS, f"{where}: {values[1]!r}"
    assert seen >= 3


def test_reasons_for_malformed_messages() -> None:
    seen = 0
    for where, name, values, _ in calls():
        if name == "Malformed":
            seen += 1
            peer, reason = values[:2]
            assert peer is None or peer in INPUT_PEERS, f"{where}: {peer!r}"
            assert reason is None or reason in INPUT_ERRORS, f"{where}: {reason!r}"
    assert seen >= 2


@pytest.mark.parametrize("text", ["{", "[]", "{}", b"\xff", '{"event": "media"}', "[" * 100_000])
def test_reasons_of_the_carriers_parser(text: str | bytes) -> None:
    from offhook.gateway.carriers.twilio.messages import parse
    from offhook.gateway.errors import Malformed

    with pytest.raises(Malformed) as caught:
        parse(text)
    assert caught.value.reason in INPUT_ERRORS


@pytest.mark.parametrize("reasons", [DROPS, CALLER_DROPS])
def test_drop_reasons_read_by_the_rehearsal_exist(reasons: tuple[str, ...]) -> None:
    assert set(reasons) <= set(DROP_REASONS)


def test_series_read_by_the_rehearsal_exist() -> None:
    shown = METRICS.render().decode()
    texts = [path.read_text() for path in sorted((GATEWAY / "rehearsal").rglob("*.py"))]
    series = {found for text in texts for found in re.findall(r"offhook_\w+\{\w+=\"[^{}]*\}", text)}
    names = {found for text in texts for found in re.findall(r"\boffhook_[a-z_]+\b", text)}
    assert len(series) >= 3
    assert len(names) >= 10
    shapes = {name: rf"^{re.escape(name)}(_bucket)?[ {{]" for name in series | names}
    assert not [name for name, shape in shapes.items() if not re.search(shape, shown, re.MULTILINE)]
