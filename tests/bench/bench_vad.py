"""The detection table: when the detectors hear a caller, and what else they take for one.

    python -m tests.bench.bench_vad [--detector energy|silero] [--voices tuning|held-out] [--minutes 10]

Speech comes from espeak-ng, noises are synthetic, all of it passes mu-law. The detectors' constants were chosen
on the `tuning` voices; the `held-out` voices and phrases were not looked at while choosing. Targets stand beside
the figures; a figure that misses its target is marked. Set OPENBLAS_NUM_THREADS=1 for the cost, as the gateway does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from offhook.media.vad import EnergyDetector, SileroDetector, SpeechDetector
from tests.media import signals
from tests.media.detection import Noise, Onsets, edges, onsets, starts
from tests.media.signals import Samples

Make = Callable[[], SpeechDetector]
RATES = (150, 170, 200)


def verdict(value: float, target: float | None) -> str:
    if target is None:
        return ""
    return f"<= {target:g}" + ("" if value <= target else "  MISSED")


def onset_row(name: str, found: Onsets, percent: float = 90, target: float | None = None) -> None:
    back, end = found.backdate_error_ms or [np.nan], found.end_error_ms or [np.nan]
    print(
        f"{name:<40}{found.latency(50):5.0f}{found.latency(90):6.0f}{found.latency(95):6.0f}"
        f"{found.missed:8d}{found.already_on:5d}{found.utterances:5d}"
        f"{np.median(back):7.0f}{np.median(end):6.0f}   {verdict(found.latency(percent), target)}"
    )


def onset_table(make: Make, voices: dict[str, tuple[str, ...]], silero: bool) -> None:
    print(
        f"{'onset to decision, ms':<40}{'med':>5}{'P90':>6}{'P95':>6}"
        f"{'missed':>8}{'on':>5}{'of':>5}{'start':>7}{'end':>6}"
    )
    onset_row("clean", onsets(make, voices, rates=RATES), 90, 130)
    noises: list[tuple[str, Noise]] = [
        ("white", signals.white),
        ("traffic", signals.traffic),
        ("babble", signals.babble),
    ]
    for name, noise in noises:
        for snr_db in (20, 10, 5):
            target = 120 if silero and snr_db == 10 and name != "babble" else None
            onset_row(f"{name} {snr_db} dB", onsets(make, voices, noise, snr_db, rates=RATES), 90, target)
    talk = signals.agent_speech(60)
    for echo_db in (None, -30.0, -20.0, -15.0):
        name = "no echo" if echo_db is None else f"echo {echo_db:g} dB"
        found = onsets(make, voices, signals.white, 34, talk, echo_db, lead_s=4.0, rates=RATES)
        onset_row(f"over the agent (-20 dBov), {name}", found)
    found = onsets(make, voices, signals.white, 34, talk, -20.0, lead_s=0.8, rates=RATES)
    onset_row("... 0.8 s into the first reply", found)
    for dbov in (-40.0, -14.0):
        onset_row(f"clean, at {dbov:g} dBov", onsets(make, voices, dbov=dbov, rates=RATES))


def false_row(name: str, count: int, minutes: float, per_hour: float | None) -> None:
    print(f"{name:<40}{count:6d}{minutes:9.1f}{count * 60 / minutes:11.1f}   {verdict(count * 60 / minutes, per_hour)}")


def false_table(make: Make, minutes: float, silero: bool) -> None:
    print(f"\n{'false starts':<40}{'count':>6}{'minutes':>9}{'per hour':>11}")
    seconds = minutes * 60
    quiet = signals.white(seconds, -60.0, 11)
    sounds: list[tuple[str, Samples, float | None]] = [("silence", signals.silence(seconds), 0)]
    sounds += [(f"white noise {dbov:g} dBov", signals.white(seconds, dbov), 0) for dbov in (-50.0, -40.0, -30.0)]
    sounds += [(f"pink noise {dbov:g} dBov", signals.pink(seconds, dbov), 0) for dbov in (-50.0, -30.0)]
    sounds += [
        (f"hum {hz:g} Hz {dbov:g} dBov", signals.hum(seconds, dbov, hz), 0)
        for hz in (50.0, 60.0)
        for dbov in (-45.0, -30.0)
    ]
    sounds += [
        ("DTMF, 29 keys a minute", signals.dtmf_keys(seconds), 0),
        ("DTMF in noise (25 dB)", signals.add(signals.dtmf_keys(seconds, -20.0), signals.white(seconds, -45.0)), 0),
        ("keyboard, 6 strokes a second", signals.add(signals.keyboard(seconds), quiet), None),
        ("coughs, 40 a minute", signals.add(signals.coughs(seconds), quiet), None),
        ("traffic -40 dBov, swelling", signals.traffic(seconds, -40.0), None),
        ("babble -40 dBov", signals.babble(seconds, -40.0), None),
    ]
    for name, sound, target in sounds:
        false_row(name, starts(edges(make(), sound)), minutes, target)
    # The agent's own voice. Counted after 3 s of its speech, as the target says; the start is told beside it.
    for echo_db in (-12.0, -15.0, -20.0):
        after = early = 0
        talked = 0.0
        for voice, delay_ms in (("en-us+f5", 60), ("de+m1", 150), ("es+f3", 250), ("en-us+m6", 400)):
            talk = signals.agent_speech(seconds / 4, voice, -18.0)
            mic = signals.add(signals.echo(talk, echo_db, delay_ms), signals.white(seconds / 4, -60.0))
            found = edges(make(), mic, talk)
            after += starts(found, 3.0)
            early += starts(found) - starts(found, 3.0)
            talked += seconds / 4 - 3.0
        target = {-15.0: 0.0 if silero else 60.0}.get(echo_db)
        false_row(f"echo {echo_db:g} dB, 60-400 ms, after 3 s", after, talked / 60, target)
        false_row("  within the first 3 s", early, 4 * 3 / 60, None)


def cost_table(make: Make) -> None:
    print(f"\n{'cost':<40}{'us per frame':>12}")
    talk = signals.agent_speech(20)
    quiet = signals.white(20, -55.0)
    for name, mic, played in (
        ("digital silence", signals.silence(20), None),
        ("a quiet line", quiet, None),
        ("the caller speaks", signals.add(quiet, signals.agent_speech(20, "de+m3", -26.0)), None),
        ("the agent speaks, a quiet line", quiet, talk),
    ):
        best = np.inf
        for _ in range(5):
            detector = make()
            began = time.process_time()
            edges(detector, mic, played)
            best = min(best, (time.process_time() - began) / (20 * 50) * 1e6)
        print(f"{name:<40}{best:12.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", choices=["energy", "silero"], action="append")
    parser.add_argument("--voices", choices=["tuning", "held-out"], action="append")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each sound that is not speech")
    chosen = parser.parse_args()
    for name in chosen.detector or ["energy", "silero"]:
        make: Make = EnergyDetector if name == "energy" else SileroDetector
        try:
            make()
        except RuntimeError as error:
            print(f"\n{name}: left out, {error}")
            continue
        for voices in chosen.voices or ["tuning", "held-out"]:
            print(f"\n== {name}, {voices} voices ==")
            onset_table(make, signals.TUNING if voices == "tuning" else signals.HELD_OUT, name == "silero")
        print(f"\n== {name} ==", end="")
        false_table(make, chosen.minutes, name == "silero")
        cost_table(make)


if __name__ == "__main__":
    main()
