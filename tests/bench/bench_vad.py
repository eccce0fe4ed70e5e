"""The detection table: when the detectors hear a caller, and what else they take for one.

    python -m tests.bench.bench_vad [--detector energy|silero] [--voices tuning|held-out] [--minutes 10] [--only TABLE]

Each figure twice: with speech of espeak-ng, and with recordings of people where `offhook voices install en fr it ru`
has been run; noises are synthetic, all of it passes mu-law. The detectors' constants were chosen on the `tuning`
voices (people: fr, ru); the `held-out` voices and phrases (people: en, it) were not looked at while choosing. Targets
stand beside the figures; a figure that misses its target is marked. Set OPENBLAS_NUM_THREADS=1 for the cost, as the
gateway does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from offhook.media.vad import EnergyDetector, SileroDetector, SpeechDetector
from tests.media import people, signals
from tests.media.detection import Noise, Onsets, edges, onsets, starts, utterances
from tests.media.signals import Samples

Make = Callable[[], SpeechDetector]
Talk = Callable[[float, float], Samples]  # seconds, dBov -> the agent, on and on
RATES = (150, 170, 200)


@dataclass(frozen=True)
class Speakers:
    """Who speaks in one column. `agents`: beside each, who calls while that one talks."""

    callers: Sequence[Samples]
    agents: Sequence[tuple[Talk, Sequence[Samples]]]
    babble: Noise


def espeak(voices: dict[str, tuple[str, ...]]) -> Speakers:
    def talk(seconds: float, dbov: float) -> Samples:
        return signals.agent_speech(seconds, dbov=dbov)

    return Speakers(list(utterances(voices, RATES)), [(talk, list(utterances(voices, (170,))))], signals.babble)


def recorded(languages: tuple[str, str]) -> Speakers | None:
    if not people.installed(languages):
        return None
    agents = [
        (partial(people.talk, agent), people.utterances((caller,), 30))
        for agent, caller in (languages, languages[::-1])
    ]
    return Speakers(people.utterances(languages, 30), agents, partial(people.babble, languages))


def verdict(value: float, target: float | None) -> str:
    if target is None:
        return ""
    return f"<= {target:g}" + ("" if value <= target else "  MISSED")


def onset_cells(found: Onsets | None) -> str:
    if found is None:
        return " " * 42
    back, end = found.backdate_error_ms or [np.nan], found.end_error_ms or [np.nan]
    return (
        f"{found.latency(50):5.0f}{found.latency(90):5.0f}{found.latency(95):5.0f}{found.missed:7d}{found.already_on:4d}"
        f"{found.utterances:4d}{np.median(back):6.0f}{np.median(end):6.0f}"
    )


def onset_table(make: Make, both: Sequence[Speakers | None], silero: bool) -> None:
    cells = f"{'med':>5}{'P90':>5}{'P95':>5}{'missed':>7}{'on':>4}{'of':>4}{'start':>6}{'end':>6}"
    print(f"{'':<42}{'espeak':>12}{'people':>45}")
    print(f"{'onset to decision, ms':<42}{cells}   {cells}")

    def row(
        name: str,
        target: float | None,
        noise: Noise | None = None,
        snr_db: float = 0.0,
        *,
        over_agent: bool = False,
        **how: Any,
    ) -> None:
        found: list[Onsets | None] = []
        for speakers in both:
            if speakers is None:
                found.append(None)
                continue
            behind = speakers.babble if noise is signals.babble else noise
            talk = speakers.agents[0][0](60.0, -20.0) if over_agent else None
            found.append(onsets(make, speakers.callers, behind, snr_db, talk, **how))
        espeak = found[0]
        assert espeak is not None
        cells = "   ".join(map(onset_cells, found))
        print(f"{name:<42}{cells}   {verdict(espeak.latency(90), target)}", flush=True)

    row("clean", 130)
    for name, noise in (("white", signals.white), ("traffic", signals.traffic), ("babble", signals.babble)):
        for snr_db in (20, 10, 5):
            row(f"{name} {snr_db} dB", 120 if silero and snr_db == 10 and name != "babble" else None, noise, snr_db)
    for echo_db in (None, -30.0, -20.0, -15.0):
        name = "no echo" if echo_db is None else f"echo {echo_db:g} dB"
        row(f"over the agent (-20 dBov), {name}", None, signals.white, 34, over_agent=True, echo_db=echo_db, lead_s=4.0)
    row("... 0.8 s into the first reply", None, signals.white, 34, over_agent=True, echo_db=-20.0, lead_s=0.8)
    for dbov in (-40.0, -14.0):
        row(f"clean, at {dbov:g} dBov", None, dbov=dbov)


PER_MINUTE, ONSET_P90_MS, MISSED_SHARE = 1.0, 200.0, 0.05


def path_cells(make: Make, speakers: Speakers | None, path: Callable[[Samples], Samples]) -> str:
    if speakers is None:
        return ""
    after = early = missed = on = count = 0
    minutes = 0.0
    late: list[float] = []
    for talking, callers in speakers.agents:
        talk = talking(160.0, -20.0)
        found = edges(make(), signals.add(path(talk), signals.white(160.0, -60.0)), talk)
        after, early, minutes = (
            after + starts(found, 3.0),
            early + starts(found) - starts(found, 3.0),
            minutes + 157 / 60,
        )
        heard = onsets(make, callers, signals.white, 34, talk, lead_s=5.0, path=path)
        late += heard.latency_ms
        missed, on, count = missed + heard.missed, on + heard.already_on, count + heard.utterances
    p90 = float(np.percentile(late, 90))
    met = after <= PER_MINUTE * minutes and p90 <= ONSET_P90_MS and missed <= MISSED_SHARE * count
    return (
        f"{after:6d}{minutes:6.1f}{early:6d}{np.percentile(late, 50):6.0f}{p90:5.0f}{missed:7d}{on:4d}{count:4d}"
        f"{'' if met else '  MISSED':8}"
    )


def path_table(make: Make, both: Sequence[Speakers | None]) -> None:
    """The agent's voice through paths that saturate: false starts after 3 s, and callers 6 dB softer over it."""
    cells = f"{'false':>6}{'min':>6}{'early':>6}{'med':>6}{'P90':>5}{'missed':>7}{'on':>4}{'of':>4}{'':8}"
    print(f"\n{'':<42}{'espeak':>12}{'people':>53}\n{'echo of the agent':<42}{cells}{cells}")
    for name, path in signals.ECHO_PATHS.items():
        print(f"{name:<42}" + "".join(path_cells(make, speakers, path) for speakers in both), flush=True)


def false_row(name: str, counted: Sequence[tuple[int, float]], per_hour: float | None) -> None:
    cells = "".join(f"{count:6d}{minutes:9.1f}{count * 60 / minutes:11.1f}" for count, minutes in counted)
    count, minutes = counted[0]
    print(f"{name:<40}{cells:<54}{verdict(count * 60 / minutes, per_hour)}", flush=True)


def false_table(make: Make, minutes: float, silero: bool) -> None:
    cells = f"{'count':>6}{'minutes':>9}{'per hour':>11}"
    print(f"\n{'':<40}{'espeak':>12}{'people':>26}\n{'false starts':<40}{cells}{cells}")
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
    ]
    for name, sound, target in sounds:
        false_row(name, [(starts(edges(make(), sound)), minutes)], target)
    languages = tuple(language for language in (*people.TUNING, *people.HELD_OUT) if people.installed((language,)))
    crowds = [signals.babble(seconds, -40.0)] + ([people.babble(languages, seconds, -40.0)] if languages else [])
    false_row("babble -40 dBov", [(starts(edges(make(), crowd)), minutes) for crowd in crowds], None)
    # The agent's own voice. Counted after 3 s of its speech, as the target says; the start is told beside it.
    columns: list[list[Talk]] = [[partial(synthetic, voice) for voice in ("en-us+f5", "de+m1", "es+f3", "en-us+m6")]]
    if languages:
        columns.append([partial(people.talk, languages[k % len(languages)]) for k in range(4)])
    for echo_db in (-12.0, -15.0, -20.0):
        found = [echo_starts(make, talks, echo_db, seconds / 4) for talks in columns]
        target = {-15.0: 0.0 if silero else 60.0}.get(echo_db)
        false_row(f"echo {echo_db:g} dB, 60-400 ms, after 3 s", [(after, minutes - 0.2) for after, _ in found], target)
        false_row("  within the first 3 s", [(early, 0.2) for _, early in found], None)


def synthetic(voice: str, seconds: float, dbov: float) -> Samples:
    return signals.agent_speech(seconds, voice, dbov)


def echo_starts(make: Make, talks: Sequence[Talk], echo_db: float, seconds: float) -> tuple[int, int]:
    """After 3 s of the agent's speech, and before."""
    after = early = 0
    for talking, delay_ms in zip(talks, (60, 150, 250, 400), strict=True):
        talk = talking(seconds, -18.0)
        mic = signals.add(signals.echo(talk, echo_db, delay_ms), signals.white(seconds, -60.0))
        found = edges(make(), mic, talk)
        after += starts(found, 3.0)
        early += starts(found) - starts(found, 3.0)
    return after, early


def cost_table(make: Make) -> None:
    print(f"\n{'cost, us per frame':<40}{'espeak':>8}{'people':>8}")
    quiet = signals.white(20, -55.0)
    talks = [signals.agent_speech(20)] + ([people.talk("en", 20.0)] if people.installed(("en",)) else [])
    speech = [signals.agent_speech(20, "de+m3", -26.0)] + ([people.talk("it", 20.0, -26.0)] if len(talks) == 2 else [])
    rows: list[tuple[str, list[tuple[Samples, Samples | None]]]] = [
        ("digital silence", [(signals.silence(20), None)]),
        ("a quiet line", [(quiet, None)]),
        ("the caller speaks", [(signals.add(quiet, voice), None) for voice in speech]),
        ("the agent speaks, a quiet line", [(quiet, talk) for talk in talks]),
        ("the agent's echo at -15 dB", [(signals.add(quiet, signals.echo(talk, -15.0, 180)), talk) for talk in talks]),
    ]
    for name, lines in rows:
        print(f"{name:<40}" + "".join(f"{cost_us(make, mic, played):8.1f}" for mic, played in lines), flush=True)


def cost_us(make: Make, mic: Samples, played: Samples | None) -> float:
    best = np.inf
    for _ in range(5):
        detector = make()
        began = time.process_time()
        edges(detector, mic, played)
        best = min(best, (time.process_time() - began) / (20 * 50) * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", choices=["energy", "silero"], action="append")
    parser.add_argument("--voices", choices=["tuning", "held-out"], action="append")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each sound that is not speech")
    parser.add_argument("--only", choices=["onset", "paths", "false", "cost"])
    chosen = parser.parse_args()
    for name in chosen.detector or ["energy", "silero"]:
        make: Make = EnergyDetector if name == "energy" else SileroDetector
        try:
            make()
        except RuntimeError as error:
            print(f"\n{name}: left out, {error}")
            continue
        voiced = chosen.only in (None, "onset", "paths")
        for voices in (chosen.voices or ["tuning", "held-out"]) if voiced else ():
            held_out = voices == "held-out"
            both = (
                espeak(signals.HELD_OUT if held_out else signals.TUNING),
                recorded(people.HELD_OUT if held_out else people.TUNING),
            )
            print(f"\n== {name}, {voices} voices ==")
            if chosen.only in (None, "onset"):
                onset_table(make, both, name == "silero")
            if chosen.only in (None, "paths"):
                path_table(make, both)
        print(f"\n== {name} ==", end="")
        if chosen.only in (None, "false"):
            false_table(make, chosen.minutes, name == "silero")
        if chosen.only in (None, "cost"):
            cost_table(make)


if __name__ == "__main__":
    main()
