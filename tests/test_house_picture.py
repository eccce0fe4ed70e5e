"""docs/house.svg: drawn from the import graph as it is."""

from __future__ import annotations

import pytest

from tests.figures_house import OUT, circle_in, draw, fingerprint, floors, house, reduced, rehearsal


def test_house_picture_is_of_the_current_graph() -> None:
    drawn = f"fingerprint {fingerprint()} " in OUT.read_text(encoding="utf-8")
    assert drawn, "the rooms or their imports changed: python -m tests.figures_house"


def test_house_picture_names_every_room() -> None:
    picture = OUT.read_text(encoding="utf-8")
    rooms = [*house(), *rehearsal()]
    assert [room for room in rooms if f">{room}</text>" not in picture] == []


def test_every_arrow_leads_down() -> None:
    for graph in (house(), rehearsal()):
        assert circle_in(graph) == []
        floor = {room: at for at, row in enumerate(floors(graph)) for room in row}
        assert [(a, b) for a in graph for b in graph[a] if floor[a] >= floor[b]] == []


def test_reduced_graph_leaves_out_implied_arrow() -> None:
    graph = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}
    assert reduced(graph) == {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset()}


def test_circle_is_found_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    circle = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b")}
    assert circle_in(circle) == ["b", "c", "b"]
    monkeypatch.setattr("tests.figures_house.house", lambda: circle)
    with pytest.raises(SystemExit, match="b -> c -> b"):
        draw()
