"""Draws docs/machine.svg: the phases of a call and what leads from each to the next.

    python -m tests.figures_machine

Neither arrows nor labels are put in by hand: every reachable state is walked through the table, and each event that
changes the phase is an arrow. Dark are those of an ordinary call, with an interruption and a goodbye. The picture
carries the table's fingerprint; a test fails when it is older than the table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from math import hypot
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from offhook.gateway.conversation.state import Mode, Phase, Policy
from tests.conversation.walker import fingerprint, walk

HERE = Path(__file__).parent


OUT = HERE.parent / "docs" / "machine.svg"
INK, GREY, FAINT, VOICE = "#1f2933", "#7b8794", "#d3d9df", "#b23a48"

WALKS = (
    (Policy(), "one link ends"),
    (Policy(local_turns=True, dtmf_barge_in=True), "one digits"),
    (Policy(idle_prompt_s=0), "one tools"),
    (Policy(mode=Mode.STOP), "one"),
    (Policy(), "one line ends"),
    (Policy(), "one words"),
    (Policy(), "one moved"),
)
PLACES = {
    Phase.CONNECTING: (-8.6, 0.6),
    Phase.LISTENING: (-4.6, 0.6),
    Phase.THINKING: (-0.9, 3.4),
    Phase.SPEAKING: (2.8, 0.6),
    Phase.HELD: (1.5, -3.2),
    Phase.STOPPING: (-3.3, -3.2),
    Phase.CLOSING: (7.2, 0.6),
    Phase.ENDED: (7.2, -3.2),
}
SAYS = {
    Phase.CONNECTING: "no stream yet",
    Phase.LISTENING: "the caller has the floor",
    Phase.THINKING: "the model has the floor",
    Phase.SPEAKING: "the agent is heard",
    Phase.HELD: "playback stopped, tail kept",
    Phase.STOPPING: "barge-in confirmed",
    Phase.CLOSING: "the goodbye",
    Phase.ENDED: "",
}
# The arrows of an ordinary call, and which of their events it is.
ORDINARY = {
    (Phase.CONNECTING, Phase.LISTENING): "StreamStarted",
    (Phase.LISTENING, Phase.THINKING): "CallerSpeechEnded",
    (Phase.THINKING, Phase.LISTENING): "CallerSpeechStarted",
    (Phase.THINKING, Phase.SPEAKING): "ReplyAudio",
    (Phase.SPEAKING, Phase.LISTENING): "MarkReturned",
    (Phase.SPEAKING, Phase.HELD): "CallerSpeechStarted",
    (Phase.HELD, Phase.SPEAKING): "VerdictTimeout",
    (Phase.HELD, Phase.STOPPING): "ModelInterrupted",
    (Phase.STOPPING, Phase.LISTENING): "ClearAcknowledged",
    (Phase.SPEAKING, Phase.CLOSING): "EndRequested",
    (Phase.CLOSING, Phase.ENDED): "MarkReturned",
}
WIDE, HIGH = 2.5, 0.95
BEND = 0.16


def arrows() -> dict[tuple[Phase, Phase], list[str]]:
    """(from, to) -> the events that lead there, in any of the walks."""
    found = defaultdict(set)
    for policy, kinds in WALKS:
        for source, event, target in walk(policy, *kinds.split()).edges:
            if source is not target:
                found[source, target].add(event.__name__)
    for source in Phase:
        if source is not Phase.ENDED:  # the same everywhere: shown once
            found[source, Phase.ENDED] -= {"StreamStopped", "StreamLost"}
    pairs = [(source, target) for source in Phase for target in Phase]  # always in this order
    return {pair: sorted(found[pair]) for pair in pairs if found[pair]}


def words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower().replace("barge in", "barge-in")


def draw(axes: Axes, boxes: dict[Phase, FancyBboxPatch], source: Phase, target: Phase, names: list[str]) -> None:
    (x0, y0), (x1, y1) = PLACES[source], PLACES[target]
    ordinary = ORDINARY.get((source, target))
    assert ordinary is None or ordinary in names, f"{source} no longer leads to {target} on {ordinary}"
    tint = FAINT if ordinary is None else VOICE if ordinary.startswith("Caller") else INK
    axes.add_patch(
        FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            connectionstyle=f"arc3,rad={BEND}",
            arrowstyle="-|>",
            mutation_scale=13,
            patchA=boxes[source],
            patchB=boxes[target],
            shrinkA=1,
            shrinkB=2,
            lw=1.5 if ordinary else 0.8,
            color=tint,
            zorder=1 if ordinary else 0,
        )
    )
    if ordinary:
        # The middle of the bow, a little further out.
        dx, dy = x1 - x0, y1 - y0
        out = BEND / 2 + 0.18 / hypot(dx, dy)
        x, y = (x0 + x1) / 2 + out * dy, (y0 + y1) / 2 - out * dx
        box = {"fc": "white", "ec": "none", "pad": 0.8}
        axes.text(x, y, words(ordinary), ha="center", va="center", size=8.5, color=tint, bbox=box, zorder=2)


def main() -> None:
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK, "svg.hashsalt": "machine"})
    figure, axes = plt.subplots(figsize=(14, 12.5), constrained_layout=True)
    axes.set(xlim=(-10.2, 9.0), ylim=(-12.9, 4.2), aspect="equal")
    axes.axis("off")
    boxes = {}
    for phase, (x, y) in PLACES.items():
        corner = (x - WIDE / 2, y - HIGH / 2)
        box = FancyBboxPatch(corner, WIDE, HIGH, "round,pad=0,rounding_size=0.15", fc="white", ec=INK, lw=1.4)
        boxes[phase] = box
        axes.add_patch(box)
        box.set_zorder(3)
        axes.text(
            x, y + (0.13 if SAYS[phase] else 0), phase.name, ha="center", va="center", size=12, weight="bold", zorder=4
        )
        axes.text(x, y - 0.23, SAYS[phase], ha="center", va="center", size=8, color=GREY, zorder=4)
    found = arrows()
    for (source, target), names in found.items():
        draw(axes, boxes, source, target, names)
    everything(axes, found)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, metadata={"Date": None, "Description": fingerprint()})
    print(OUT.relative_to(HERE.parent))


def everything(axes: Axes, found: dict[tuple[Phase, Phase], list[str]]) -> None:
    """The events that lead from each phase to another, as text."""
    axes.text(-10.0, -4.6, "From every phase to ENDED, in one step: stream stopped, stream lost.", size=9, color=GREY)
    tops = {-10.0: -5.3, -3.6: -5.3, 2.8: -5.3}
    columns = {
        -10.0: (Phase.CONNECTING, Phase.LISTENING, Phase.THINKING),
        -3.6: (Phase.SPEAKING, Phase.HELD),
        2.8: (Phase.STOPPING, Phase.CLOSING),
    }
    for x, phases in columns.items():
        y = tops[x]
        for source in phases:
            axes.text(x, y, source.name, size=9.5, weight="bold", va="top")
            y -= 0.38
            for target in Phase:
                names = found.get((source, target))
                if not names:
                    continue
                axes.text(x, y, f"to {target.name.lower()}", size=8, va="top", color=GREY)
                said = ", ".join(words(n) for n in names)
                lines = wrap(said, 46)
                axes.text(x + 1.55, y, "\n".join(lines), size=8, va="top", linespacing=1.15)
                y -= 0.235 * len(lines) + 0.1
            y -= 0.22


def wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for part in text.split(", "):
        if len(lines[-1]) + len(part) + 2 > width:
            lines.append("")
        lines[-1] += part + ", "
    return [*lines[:-1], lines[-1].rstrip(", ")]


if __name__ == "__main__":
    main()
