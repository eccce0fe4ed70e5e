"""Draws docs/house.svg: the rooms of the house and the imports between them.

    python -m tests.figures_house

Rooms and arrows come from the import graph (grimp, which import-linter brings), none is put in by hand. A room is a
folder of gateway/ or gateway/rehearsal/, or a file that stands beside these folders; media and metrics are one room
each. A room stands above everything that it imports; an import that the contracts except (`ignore_imports` of
pyproject.toml) is drawn dashed. The picture carries the graph's fingerprint; a test fails when the picture is older
than the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from html import escape
from itertools import pairwise
from pathlib import Path
from tomllib import loads

import grimp

__all__ = ["OUT", "Graph", "circle_in", "draw", "excepted", "fingerprint", "house", "rehearsal"]

Graph = Mapping[str, frozenset[str]]  # room -> the rooms that it imports

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "house.svg"
REHEARSAL = "rehearsal"
HOLDS = {  # a line for each room; a room without one is drawn without
    "cli": "the offhook command",
    "app": "builds, starts, drains",
    "draining": "how a process ends",
    "site": "what the listeners serve",
    "control": "operators act on calls",
    "elsewhere": "what other nodes answer",
    "ticker": "periodic work",
    "providers": "models by provider",
    "carriers": "webhooks and streams",
    "telephony": "the calls of the process",
    "call": "one call's shell",
    "models": "links to the model",
    "tools": "Python, HTTP, MCP",
    "web": "limits, API, console",
    "workers": "processes behind one port",
    "observe": "redaction, traces, TCP",
    "agent": "agent file → frozen spec",
    "store": "call records",
    "conversation": "the machine: pure",
    "config": "the environment",
    "errors": "errors by fault",
    "yamlfile": "YAML with positions",
    "labels": "enums as label values",
    "text": "control characters",
    "files": "output, written whole",
    "media": "codecs, rates, detection",
    "metrics": "catalogue, percentiles",
    "rehearsal": "simulated calls",
    "run": "starts all, places calls",
    "account": "REST API and counters",
    "by_hand": "calls from Python",
    "pytest_plugin": "*.call.yaml as tests",
    "quick_clock": "waits run 20 times as fast",
    "cluster": "a fleet under faults",
    "faults": "things that go wrong",
    "kill": "a worker dies mid-sentence",
    "load": "how many calls it carries",
    "phone": "simulated carrier, caller",
    "model": "rehearsal model",
    "scenario": "*.call.yaml, verdicts",
    "results": "report, page, picture",
    "thinking": "a caller who thinks, its judge",
    "examples": "example agents' tools",
    "scenarios": "bundled scenarios",
    "sounds": "bundled voices",
}

# --- the graph


@cache
def _imports() -> dict[str, frozenset[str]]:
    graph = grimp.build_graph("offhook", cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def _outer_room(module: str) -> str | None:
    parts = module.split(".")[1:]
    if parts[:1] != ["gateway"]:
        return parts[0] if parts and parts[0] != "__main__" else None  # `offhook` itself only hands on names
    return parts[1] if len(parts) > 1 else None


def _inner_room(module: str) -> str | None:
    """Within gateway/rehearsal/, where the package itself is no room."""
    parts = module.split(".")
    return parts[3] if parts[:3] == ["offhook", "gateway", REHEARSAL] and len(parts) > 3 else None


def _excepted_imports() -> frozenset[tuple[str, str]]:
    """The imports that the layers' contract ignores by name, from module to module."""
    linter = loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    lines = [line for c in linter["contracts"] if c["type"] == "layers" for line in c.get("ignore_imports", ())]
    return frozenset((source, target) for source, _, target in (line.partition(" -> ") for line in lines))


def _rooms(room_of: Callable[[str], str | None]) -> Graph:
    found: dict[str, set[str]] = {}
    excepted = _excepted_imports()
    for module, imported in _imports().items():
        if (room := room_of(module)) is not None:
            others = {room_of(name) for name in imported if (module, name) not in excepted}
            found.setdefault(room, set()).update(other for other in others if other is not None and other != room)
    return {room: frozenset(found[room]) for room in sorted(found)}


def excepted() -> list[tuple[str, str]]:
    """The arrows, from room to room, that only excepted imports make."""
    pairs = {(_outer_room(source), _outer_room(target)) for source, target in _excepted_imports()}
    graph = house()
    return sorted((a, b) for a, b in pairs if a and b and a != b and {a, b} <= graph.keys() and b not in graph[a])


def house() -> Graph:
    """The rooms of the house; the rehearsal is one of them."""
    return _rooms(_outer_room)


def rehearsal() -> Graph:
    """The rooms within the rehearsal."""
    return _rooms(_inner_room)


def fingerprint() -> str:
    """What the picture shows, as one number: it changes with a room or an arrow, not with a file."""
    shown = [sorted((room, *sorted(others)) for room, others in graph.items()) for graph in (house(), rehearsal())]
    return sha256(repr([shown, excepted()]).encode()).hexdigest()[:16]


def circle_in(graph: Graph) -> list[str]:
    """A circle of imports between rooms, its first room also last; empty when there is none."""

    def walk(path: list[str]) -> list[str]:
        for other in sorted(graph[path[-1]]):
            if other in path:
                return [*path[path.index(other) :], other]
            if other not in clear and (found := walk([*path, other])):
                return found
        clear.add(path[-1])
        return []

    clear: set[str] = set()
    for room in graph:
        if room not in clear and (found := walk([room])):
            return found
    return []


# --- where everything stands

BOX, HIGH, GAP, FLOOR, LANE, WIDTH, MARGIN = 178, 46, 14, 92, 10, 980, 14


def reduced(graph: Graph) -> Graph:
    """Without the arrows that a way over other rooms already implies."""

    @cache
    def below(room: str) -> frozenset[str]:
        return graph[room].union(*(below(other) for other in graph[room]))

    return {room: others - {far for other in others for far in below(other)} for room, others in graph.items()}


def floors(graph: Graph) -> list[list[str]]:
    """The rooms by floor, the highest first: each as high as what imports it allows."""

    @cache
    def height(room: str) -> int:
        return 1 + max((height(other) for other in graph[room]), default=-1)

    @cache
    def level(room: str) -> int:
        above = [other for other in graph if room in graph[other]]
        # What no room imports stands just above what it imports, not in the attic.
        return 1 + max(level(other) for other in above) if above else top - height(room)

    top = max(height(room) for room in graph)
    return [[room for room in graph if level(room) == at] for at in range(top + 1)]


class Plan:
    """Places for the rooms, and for the bends of arrows that pass a floor."""

    def __init__(self, graph: Graph) -> None:
        self.arrows = [(room, other) for room, others in reduced(graph).items() for other in sorted(others)]
        self.rows: list[list[str]] = floors(graph)
        level = {room: at for at, row in enumerate(self.rows) for room in row}
        self.ways: dict[tuple[str, str], list[str]] = {}
        for room, other in self.arrows:
            bends = [f"{room}>{other}>{at}" for at in range(level[room] + 1, level[other])]
            for at, bend in enumerate(bends, level[room] + 1):
                self.rows[at].append(bend)
            self.ways[room, other] = [room, *bends, other]
        self.rooms = set(graph)
        room_for = WIDTH - 2 * MARGIN
        self.box = min(
            (room_for - LANE * bends - GAP * (len(row) - 1)) / rooms
            for row in self.rows
            for rooms in [sum(spot in self.rooms for spot in row)]
            for bends in [len(row) - rooms]
            if rooms
        )
        self.box = min(self.box, BOX)
        self._order()
        self.x = self._spread()

    def wide(self, spot: str) -> float:
        return self.box if spot in self.rooms else LANE

    def _crossings(self) -> int:
        place = {spot: at for row in self.rows for at, spot in enumerate(row)}
        steps = [step for way in self.ways.values() for step in pairwise(way)]
        level = {spot: at for at, row in enumerate(self.rows) for spot in row}
        by_level: dict[int, list[tuple[int, int]]] = {}
        for a, b in steps:
            by_level.setdefault(level[a], []).append((place[a], place[b]))
        return sum(
            (a1 - b1) * (a2 - b2) < 0
            for pairs in by_level.values()
            for at, (a1, a2) in enumerate(pairs)
            for b1, b2 in pairs[at + 1 :]
        )

    def _order(self) -> None:
        """Sweep up and down, each spot to the mean of its neighbours; the order with the fewest crossings stays."""
        steps = [step for way in self.ways.values() for step in pairwise(way)]
        best, kept = self._crossings(), [list(row) for row in self.rows]
        for sweep in range(60):
            down = sweep % 2 == 0
            rows = self.rows if down else self.rows[::-1]
            for fixed, row in pairwise(rows):
                place = {spot: (at + 0.5) / len(fixed) for at, spot in enumerate(fixed)}
                own = {spot: (at + 0.5) / len(row) for at, spot in enumerate(row)}
                near: dict[str, list[float]] = {}
                for a, b in steps:
                    mine, other = (b, a) if down else (a, b)
                    if mine in own and other in place:
                        near.setdefault(mine, []).append(place[other])
                mean = {spot: sum(near[spot]) / len(near[spot]) if spot in near else own[spot] for spot in row}
                row.sort(key=lambda spot: mean[spot])
            if (now := self._crossings()) < best:
                best, kept = now, [list(row) for row in self.rows]
        self.rows = kept
        self._swap(best)

    def _swap(self, best: int) -> None:
        """Exchange any two of a floor as long as that saves a crossing."""
        better = True
        while better:
            better = False
            for row in self.rows:
                for i in range(len(row)):
                    for j in range(i):
                        row[i], row[j] = row[j], row[i]
                        if (now := self._crossings()) < best:
                            best, better = now, True
                        else:
                            row[i], row[j] = row[j], row[i]

    def _spread(self) -> dict[str, float]:
        """The middle of each spot: near the mean of its neighbours, in the row's order, within the page."""
        steps = [step for way in self.ways.values() for step in pairwise(way)]
        near: dict[str, list[str]] = {}
        for a, b in steps:
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
        x: dict[str, float] = {}
        for row in self.rows:
            need = sum(self.wide(spot) + GAP for spot in row) - GAP
            at = (WIDTH - need) / 2
            for spot in row:
                x[spot] = at + self.wide(spot) / 2
                at += self.wide(spot) + GAP
        for _ in range(80):
            for row in self.rows:
                wish = [sum(x[n] for n in near[s]) / len(near[s]) if s in near else WIDTH / 2 for s in row]
                self._place(row, wish, x)
        off = (WIDTH - min(x[s] - self.wide(s) / 2 for s in x) - max(x[s] + self.wide(s) / 2 for s in x)) / 2
        return {spot: at + off for spot, at in x.items()}

    def _place(self, row: list[str], wish: list[float], x: dict[str, float]) -> None:
        low: float = MARGIN
        for spot, want in zip(row, wish, strict=True):  # from the left: as wished, after the one before
            x[spot] = max(want, low + self.wide(spot) / 2)
            low = x[spot] + self.wide(spot) / 2 + GAP
        high: float = WIDTH - MARGIN
        for spot in reversed(row):  # and back from the right edge
            x[spot] = min(x[spot], high - self.wide(spot) / 2)
            high = x[spot] - self.wide(spot) / 2 - GAP


# --- ink

INK, GREY, LINE, WRONG = "#1f2933", "#52606d", "#8595a6", "#b23a48"
PAPER, CARD, PURE = "#f7f9fb", "#ffffff", "#e3f0ea"
STYLE = f"""
text {{ font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: {INK}; text-anchor: middle }}
.name {{ font-size: 16px; font-weight: 700 }}
.what {{ font-size: 12.5px; fill: {GREY} }}
.head {{ font-size: 15px; font-weight: 700; text-anchor: start }}
.note {{ font-size: 12.5px; fill: {GREY}; text-anchor: start }}
path {{ fill: none; stroke: {LINE}; stroke-width: 1.6 }}
marker path {{ fill: {LINE}; stroke: none }}
.excepted {{ stroke: {WRONG}; stroke-dasharray: 5 4 }}
"""


def _panel(graph: Graph, top: float, dashed: list[tuple[str, str]]) -> tuple[list[str], float]:
    if circle := circle_in(graph):
        raise SystemExit(f"rooms import each other in a circle, so none is above: {' -> '.join(circle)}")
    plan = Plan(graph)
    y = {spot: top + at * FLOOR for at, row in enumerate(plan.rows) for spot in row}
    lines = []
    ends: dict[tuple[str, bool], list[tuple[float, tuple[str, str]]]] = {}
    for arrow, way in plan.ways.items():  # where on a box's edge each of its arrows begins or ends: left to right
        ends.setdefault((way[0], True), []).append((plan.x[way[1]], arrow))
        ends.setdefault((way[-1], False), []).append((plan.x[way[-2]], arrow))
    port: dict[tuple[tuple[str, str], bool], float] = {}
    for (room, leaves), found in ends.items():
        step = min(20.0, (plan.box - 30) / len(found))
        for at, (_, arrow) in enumerate(sorted(found)):
            port[arrow, leaves] = plan.x[room] + (at - (len(found) - 1) / 2) * step
    for arrow, way in plan.ways.items():
        points = [(port[arrow, True], y[way[0]] + HIGH)]
        for bend in way[1:-1]:
            points += [(plan.x[bend], y[bend]), (plan.x[bend], y[bend] + HIGH)]
        points.append((port[arrow, False], y[way[-1]] - 2))
        curve = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
        for at, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
            if at % 2:  # past a floor: straight down
                curve += f" L{x1:.0f} {y1:.0f}"
            else:
                middle = (y0 + y1) / 2
                curve += f" C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
        lines.append(f'<path d="{curve}" marker-end="url(#tip)"><title>{arrow[0]} imports {arrow[1]}</title></path>')
    left = plan.box / 3
    for a, b in dashed:
        lines.append(
            f'<path class="excepted" d="M{plan.x[a] - left:.0f} {y[a]} L{plan.x[b] - left:.0f} {y[b] + HIGH}">'
            f"<title>{a} imports {b}, an exception</title></path>"
        )
    for room in graph:
        x, fill = plan.x[room], CARD if graph[room] else PURE
        what = HOLDS.get(room, "")
        lines.append(
            f'<rect x="{x - plan.box / 2:.0f}" y="{y[room]:.0f}" width="{plan.box:.0f}" height="{HIGH}" rx="7" '
            f'fill="{fill}" stroke="{INK}" stroke-width="1.2"/>'
        )
        lines.append(f'<text class="name" x="{x:.0f}" y="{y[room] + (20 if what else 29):.0f}">{escape(room)}</text>')
        if what:
            lines.append(f'<text class="what" x="{x:.0f}" y="{y[room] + 37:.0f}">{escape(what)}</text>')
    return lines, top + (len(plan.rows) - 1) * FLOOR + HIGH


def draw() -> str:
    """The picture, as SVG: the house, below it the rehearsal's own rooms. On paper of its own: legible on any page."""
    dashed = excepted()
    upper, bottom = _panel(house(), 66, dashed)
    lower, end = _panel(rehearsal(), bottom + 92, [])
    high = round(end + 24)
    head = (
        f'<text class="head" x="{MARGIN}" y="28">gateway/, media/, metrics/</text>'
        f'<text class="note" x="{MARGIN}" y="48">An arrow is an import; left out is what a way over other arrows '
        f"implies. Green: imports no other of these rooms.{' Dashed: an exception.' if dashed else ''}</text>"
        f'<text class="head" x="{MARGIN}" y="{bottom + 60:.0f}">gateway/rehearsal/</text>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}">',
            f"<!-- drawn by tests/figures_house.py; fingerprint {fingerprint()} -->",
            "<title>The rooms of the house and the imports between them</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{high}" rx="10" fill="{PAPER}"/>',
            head,
            *upper,
            *lower,
            "</svg>\n",
        ]
    )


def main() -> None:
    OUT.write_text(draw(), encoding="utf-8")
    print(OUT.relative_to(ROOT))


if __name__ == "__main__":
    main()
