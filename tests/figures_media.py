"""Draws docs/filters.png: what both rate converters pass, and what they keep out.

python -m tests.figures_media
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from offhook.media.resample import DOWN_TAPS, TAP_SCALE, UP_TAPS

OUT = Path(__file__).parents[1] / "docs" / "filters.png"

INK, FAINT, PASS, STOP = "#1f2933", "#9aa5b1", "#0b6e4f", "#b23a48"


def response_db(taps: tuple[int, ...], rate_hz: int, gain: int, hz: np.ndarray) -> np.ndarray:
    """Gain in dB at each frequency, 0 dB being a level unchanged by the conversion."""
    sums = np.exp(-2j * np.pi * np.outer(hz, np.arange(len(taps))) / rate_hz) @ np.array(taps)
    return 20 * np.log10(np.abs(sums) / (gain * TAP_SCALE) + 1e-9)


def main() -> None:
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": FAINT, "text.color": INK})
    figure, rows = plt.subplots(2, 2, figsize=(10, 6), width_ratios=(2.2, 1), constrained_layout=True)
    for (wide, near), title, taps, rate_hz, gain, stop, kept_out in (
        (rows[0], "Up, 8 to 16 kHz: the caller for the model", UP_TAPS, 16000, 2, 4200, "images"),
        (rows[1], "Down, 24 to 8 kHz: the model for the caller", DOWN_TAPS, 24000, 1, 4200, "what would alias"),
    ):
        hz = np.linspace(0, rate_hz / 2, 6001)
        db = response_db(taps, rate_hz, gain, hz)
        worst = db[hz >= stop].max()
        wide.plot(hz / 1000, db, color=INK, linewidth=1)
        wide.axvspan(0.3, 3.4, color=PASS, alpha=0.10, linewidth=0)
        wide.axvspan(stop / 1000, rate_hz / 2000, color=STOP, alpha=0.08, linewidth=0)
        wide.axhline(-60, color=STOP, linewidth=0.8, linestyle=":")
        wide.text(1.85, -30, "speech\n300-3400 Hz", ha="center", color=PASS)
        wide.text(
            (stop / 1000 + rate_hz / 2000) / 2,
            -30,
            f"{kept_out}\nfrom {stop} Hz: {worst:.1f} dB at most",
            ha="center",
            color=STOP,
        )
        wide.set(title=title, xlim=(0, rate_hz / 2000), ylim=(-110, 5), ylabel="dB")
        band = (hz >= 300) & (hz <= 3400)
        ripple = np.abs(db[band]).max()
        near.plot(hz / 1000, db, color=PASS, linewidth=1)
        near.axhline(0.1, color=FAINT, linewidth=0.8, linestyle=":")
        near.axhline(-0.1, color=FAINT, linewidth=0.8, linestyle=":")
        delay_ms = (len(taps) - 1) / 2 / rate_hz * 1000
        near.set(title=f"ripple {ripple:.3f} dB, delay {delay_ms:.1f} ms", xlim=(0.3, 3.4), ylim=(-0.15, 0.15))
    for axis in rows.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=FAINT, alpha=0.25, linewidth=0.5)
        axis.tick_params(colors=INK, labelsize=8)
        axis.title.set_size(9.5)
    for axis in rows[1]:
        axis.set_xlabel("kHz")
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=130, metadata={"Software": None})
    print(OUT.relative_to(OUT.parents[1]))


if __name__ == "__main__":
    main()
