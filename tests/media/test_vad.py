"""Speech edges: heard soon, dated back rightly, and not seen where nobody speaks.

The figures asserted here are those of `tests/bench/bench_vad.py`, on fewer signals and with some slack; the table
there is the measurement, this is the guard.
"""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.media import vad
from offhook.media.background import Background, hear
from offhook.media.vad import EnergyDetector, SileroDetector, SpeechDetector, SpeechEdge
from tests.media import people, signals
from tests.media.detection import Onsets, edges, edges_together, onsets, starts
from tests.media.signals import RATE_HZ
from tests.needs import require, require_prompts

Make = Callable[[], SpeechDetector]


@pytest.fixture(params=["energy", "silero"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "energy":
        return EnergyDetector
    require("onnxruntime", "silero_vad")
    return SileroDetector


def spoken(seconds: float = 0.8, at_s: float = 2.0, total_s: float = 4.0, dbov: float = -26.0) -> signals.Samples:
    """A sung vowel in faint noise: needs no espeak-ng."""
    mic = signals.white(total_s, -62.0)
    start = int(at_s * RATE_HZ)
    mic[start : start + int(seconds * RATE_HZ)] = signals.buzz(seconds, dbov)
    return mic


# Edges


def test_speech_has_a_beginning_and_an_end(make: Make) -> None:
    begin, end = edges(make(), spoken())
    assert (begin.speaking, end.speaking) == (True, False)
    assert begin.sample == pytest.approx(16000, abs=200)
    assert begin.decided_sample - begin.sample <= 960
    assert end.sample == pytest.approx(22400, abs=400)
    assert end.decided_sample - end.sample == pytest.approx(3200, abs=160)  # the hangover


def test_speaking_agrees_with_the_last_edge() -> None:
    detector, said = EnergyDetector(), False
    for frame in spoken().reshape(-1, 160):
        edge = detector.push(frame, -100.0)
        said = edge.speaking if edge else said
        assert detector.speaking is said


def test_hangover_and_least_speech_are_as_configured() -> None:
    (_, end), short = edges(EnergyDetector(hangover_ms=800), spoken()), spoken(seconds=0.12)
    assert end.decided_sample - end.sample == 6400
    assert starts(edges(EnergyDetector(min_speech_ms=60), short)) == 1
    assert starts(edges(EnergyDetector(min_speech_ms=240), short)) == 0
    late = edges(EnergyDetector(min_speech_ms=240), spoken())[0]
    assert 1920 <= late.decided_sample - late.sample <= 2240


def test_only_a_long_pause_separates_two_utterances() -> None:
    two = signals.add(spoken(0.5, 1.0, 5.0), spoken(0.5, 3.0, 5.0))
    assert [edge.speaking for edge in edges(EnergyDetector(), two)] == [True, False, True, False]
    paused = signals.add(spoken(0.5, 1.0, 5.0), spoken(0.5, 1.7, 5.0))
    assert [edge.speaking for edge in edges(EnergyDetector(), paused)] == [True, False]


def test_edges_are_plain_frozen_values() -> None:
    edge = SpeechEdge(True, 160, 640)
    assert edge == SpeechEdge(speaking=True, sample=160, decided_sample=640)
    with pytest.raises(AttributeError):
        edge.sample = 0  # type: ignore[misc]


def test_only_whole_frames_are_accepted(make: Make) -> None:
    for count in (0, 159, 161, 320):
        with pytest.raises(ValueError, match="frames of 160 samples"):
            make().push(np.zeros(count, dtype=np.int16), -100.0)


def test_times_below_a_frame_are_refused() -> None:
    for times in ({"min_speech_ms": 10}, {"hangover_ms": 0}):
        with pytest.raises(ValueError, match="at least 20"):
            EnergyDetector(**times)


# Many calls at once


@cache
def lines_of_all_kinds() -> list[tuple[signals.Samples, list[float]]]:
    """3 s each of a voice, a voice over an echo, noise, keys and nothing; with the agent's level of each frame."""
    frames, silent = 150, [-100.0] * 150
    agent = np.where(np.arange(frames) // 12 % 3 == 0, -60.0, -20.0).tolist()
    voice = spoken(1.0, 1.2, 3.0)
    echo = signals.add(np.roll(signals.buzz(3.0, -38.0), 1600), voice)
    gated = voice.copy()
    gated[4_000:6_400] = gated[12_000:12_160] = gated[18_000:] = 0
    return [
        (voice, silent),
        (echo, agent),
        (signals.white(3.0, -40.0), agent),
        (signals.add(signals.dtmf_keys(3.0), signals.white(3.0, -60.0)), silent),
        (signals.silence(3.0), silent),
        (signals.add(spoken(0.4, 0.0, 3.0), signals.silence(3.0)), agent),
        (gated, silent),
    ]


LINES = 7


def pushed(kind: type[EnergyDetector] | type[SileroDetector], groups: list[list[int]]) -> list[list[object]]:
    """By line: each frame's edge, level and echo's level, the lines of each group pushed together."""
    lines = lines_of_all_kinds()
    detectors = [kind() for _ in lines]
    heard: list[list[object]] = [[] for _ in lines]
    for group in groups:
        at = [len(heard[line]) for line in group]
        found = kind.push_all(
            [detectors[line] for line in group],
            [lines[line][0][160 * k : 160 * (k + 1)] for line, k in zip(group, at, strict=True)],
            [lines[line][1][k] for line, k in zip(group, at, strict=True)],
        )
        for line, edge in zip(group, found, strict=True):
            own = detectors[line]._line
            heard[line].append((edge, own.loud, own.audible, own.fresh, own.level_dbov, own.echo_dbov, own._limit_db))
    return heard


@cache
def alone_each() -> list[list[object]]:
    return pushed(EnergyDetector, [[line] for line in range(LINES) for _ in range(150)])


def test_the_lines_of_the_grouping_test_have_edges() -> None:
    assert len(lines_of_all_kinds()) == LINES
    assert sum(row[0] is not None for line in alone_each() for row in line) >= 4


@given(
    st.lists(
        st.permutations(range(LINES)).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])),
        min_size=40,
        max_size=80,
    )
)
@settings(max_examples=15, deadline=None)
def test_grouping_does_not_change_a_decision(groups: list[list[int]]) -> None:
    """Whichever calls' frames happen to come together; values differ by rounding at most."""
    for line, (together, alone) in enumerate(zip(pushed(EnergyDetector, groups), alone_each(), strict=False)):
        for frame, (left, right) in enumerate(zip(together, alone, strict=False)):
            assert left[:4] == right[:4], (line, frame)
            assert left[4:] == pytest.approx(right[4:], abs=1e-3)


def test_silero_hears_the_same_in_a_group() -> None:
    require("onnxruntime", "silero_vad")
    every = list(range(LINES))
    together = pushed(SileroDetector, [every] * 150)
    alone = pushed(SileroDetector, [[line] for line in every for _ in range(150)])
    assert [[row[:4] for row in line] for line in together] == [[row[:4] for row in line] for line in alone]


@pytest.mark.parametrize("quiet", [1, 7, 19, 20, 21, 60, 100, 179, 400])
@pytest.mark.parametrize("before", [0, 5, 20, 93])
def test_floors_after_silence_are_those_of_each_frame(before: int, quiet: int) -> None:
    """Reckoned at once, as if each quiet frame had had a spectrum of the least levels."""
    line, least, frame = Background(), np.full((4, 12), np.inf), signals.white(0.04, -30.0)[:160]
    for _ in range(before):
        hear([line], [frame], [-100.0])
    smooth, lowest, floor = line._tracked.copy() if before else np.full((3, 12), np.inf)
    least[:] = line._least
    for k in range(before + 1, before + quiet + 1):
        smooth = np.full(12, -72.0) if k == 1 else smooth + 0.4 * (-72.0 - smooth)
        lowest, floor = np.minimum(lowest, smooth), np.minimum(floor, smooth)
        if k % 20 == 0:
            least[k // 20 % 4] = lowest
            lowest, floor = smooth, least.min(axis=0)
    line._overlap = line._overlap * 0  # or the first quiet frame would not be quiet
    for _ in range(quiet):
        hear([line], [np.zeros(160, np.int16)], [-100.0])
    line._settle()
    assert line._frames == before + quiet
    np.testing.assert_allclose(line._tracked, [smooth, lowest, floor], atol=1e-9)


def test_a_bad_frame_spoils_nothing_in_its_group() -> None:
    """Refused before any line has heard anything."""
    kept, other = EnergyDetector(), EnergyDetector()
    good, bad = np.zeros(160, np.int16), np.zeros(159, np.int16)
    with pytest.raises(ValueError, match="frames of 160"):
        EnergyDetector.push_all([kept, other], [good, bad], [-100.0, -100.0])
    assert edges(kept, spoken()) == edges(EnergyDetector(), spoken())


# How soon


def check_onsets(found: Onsets, p90_ms: float, missed: int = 0) -> None:
    assert found.missed <= missed
    assert found.latency(90) <= p90_ms
    assert abs(float(np.median(found.backdate_error_ms))) <= 60


@pytest.mark.parametrize("voices", [signals.TUNING, signals.HELD_OUT], ids=["tuning", "held-out"])
def test_clean_speech_is_heard_within_130_ms(voices: dict[str, tuple[str, ...]]) -> None:
    require("espeak-ng")
    found = onsets(EnergyDetector, voices)
    check_onsets(found, p90_ms=130)
    assert found.latency(95) <= 130
    assert found.latency(50) <= 80
    assert found.already_on == 0
    # Dated to within a frame, at both ends, for most.
    assert np.percentile(np.abs(found.backdate_error_ms), 80) <= 25
    assert np.median(np.abs(found.end_error_ms)) <= 30


@pytest.mark.parametrize(
    ("noise", "snr_db", "p90_ms"),
    [(signals.white, 20, 140), (signals.white, 10, 180), (signals.white, 5, 260), (signals.babble, 20, 150)],
)
def test_speech_in_noise_is_heard(noise: object, snr_db: float, p90_ms: float) -> None:
    require("espeak-ng")
    check_onsets(onsets(EnergyDetector, signals.HELD_OUT, noise, snr_db), p90_ms, missed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("dbov", [-42.0, -12.0])
def test_soft_and_loud_callers_are_heard(dbov: float) -> None:
    require("espeak-ng")
    check_onsets(onsets(EnergyDetector, signals.HELD_OUT, dbov=dbov), p90_ms=150)


def test_speech_from_the_first_sample_is_detected() -> None:
    require("espeak-ng")
    check_onsets(onsets(EnergyDetector, signals.HELD_OUT, lead_s=0.0), p90_ms=150)


@pytest.mark.parametrize(("echo_db", "p90_ms"), [(None, 150), (-30.0, 150), (-20.0, 190), (-15.0, 260)])
def test_a_caller_over_the_agent_is_heard(echo_db: float | None, p90_ms: float) -> None:
    """6 dB softer than the agent, whose echo comes back besides."""
    require("espeak-ng")
    talk = signals.agent_speech(60)
    found = onsets(EnergyDetector, signals.HELD_OUT, signals.white, 34, talk, echo_db, lead_s=4.0)
    check_onsets(found, p90_ms)
    assert found.already_on == 0


def test_silero_hears_speech_in_noise_at_10_db() -> None:
    require("espeak-ng", "onnxruntime", "silero_vad")
    check_onsets(onsets(SileroDetector, signals.HELD_OUT, signals.white, 10), p90_ms=130)


# What is not speech

SOUNDS: dict[str, Callable[[], signals.Samples]] = {
    "silence": lambda: signals.silence(60),
    "white -50": lambda: signals.white(60, -50.0),
    "white -30": lambda: signals.white(60, -30.0),
    "pink": lambda: signals.pink(60, -40.0),
    "hum 50": lambda: signals.hum(60, -35.0),
    "hum 60": lambda: signals.hum(60, -35.0, hz=60.0),
    "DTMF": lambda: signals.dtmf_keys(60),
    "DTMF in noise": lambda: signals.add(signals.dtmf_keys(60, -20.0, seed=9), signals.white(60, -50.0)),
    "coughs": lambda: signals.add(signals.coughs(60), signals.white(60, -60.0)),
}
TYPING = "typing"


@cache
def sounds() -> dict[str, signals.Samples]:
    typed = signals.add(signals.keyboard(60), signals.white(60, -60.0))
    return {name: made() for name, made in SOUNDS.items()} | {TYPING: typed}


@cache
def heard_of_sounds(make: Make) -> dict[str, list[SpeechEdge]]:
    """The edges of each sound, a detector each, their frames pushed together as production does."""
    found = edges_together(make, [(mic, None) for mic in sounds().values()])
    return dict(zip(sounds(), found, strict=True))


@pytest.mark.parametrize("sound", SOUNDS)
def test_sounds_without_a_voice_are_no_speech(make: Make, sound: str) -> None:
    assert heard_of_sounds(make)[sound] == []


def test_typing_is_seldom_speech(make: Make) -> None:
    assert starts(heard_of_sounds(make)[TYPING]) <= 2


def test_sudden_noise_is_no_speech() -> None:
    for noise in (signals.white(10, -35.0), signals.pink(10, -35.0), signals.hum(10, -30.0)):
        noise[: 5 * RATE_HZ] = signals.white(5, -62.0)
        assert edges(EnergyDetector(), noise) == []


def test_a_room_full_of_talk_becomes_the_background() -> None:
    """The first words may count; after that the caller has to stand out from them."""
    require("espeak-ng")
    found = edges(EnergyDetector(), signals.babble(30, -40.0))
    assert starts(found) <= 2
    assert sum(edge.sample if not edge.speaking else -edge.sample for edge in found) < 3 * RATE_HZ


# The agent's own voice


ECHOES = [(echo_db, delay_ms) for echo_db in (-15.0, -20.0) for delay_ms in (60.0, 200.0, 400.0)]


@cache
def heard_of_echoes(make: Make, *, told: bool) -> dict[tuple[float, float], list[SpeechEdge]]:
    """The edges of each echo of the agent's talk; `told`: the detectors know what was played."""
    talk = signals.agent_speech(30, "de+m1", -18.0)
    mics = [signals.add(signals.echo(talk, *echo), signals.white(30, -60.0)) for echo in ECHOES]
    found = edges_together(make, [(mic, talk if told else None) for mic in mics])
    return dict(zip(ECHOES, found, strict=True))


@pytest.mark.parametrize("echo", ECHOES, ids=str)
def test_the_agents_echo_is_not_the_caller(make: Make, echo: tuple[float, float]) -> None:
    require("espeak-ng")
    assert heard_of_echoes(make, told=True)[echo] == []
    assert starts(heard_of_echoes(EnergyDetector, told=False)[echo]) >= 1  # not told, anyone would be fooled


@pytest.mark.parametrize(
    ("own_make", "path"),
    [
        (EnergyDetector, "-15 dB, saturating (tanh 250), 180 ms"),
        (SileroDetector, "-15 dB, saturating (tanh 100), 180 ms"),
        (EnergyDetector, "linear -12 dB, 180 ms"),
    ],
)
def test_a_saturating_echo_of_a_person_is_no_caller(own_make: Make, path: str) -> None:
    """Allison Smith speaks as the agent, with soft syllables and loud ones; Carlo Flora calls over her."""
    require_prompts("en", "it")
    if own_make is SileroDetector:
        require("onnxruntime", "silero_vad")
    talk = people.talk("en", 43.0)
    mic = signals.add(signals.ECHO_PATHS[path](talk), signals.white(43, -60.0))
    assert starts(edges(own_make(), mic, talk), 3.0) == 0
    callers = people.utterances(("it",), 6)
    found = onsets(own_make, callers, signals.white, 34, talk, lead_s=5.0, path=signals.ECHO_PATHS[path])
    assert found.missed == found.already_on == 0
    assert found.latency(90) <= 200


def test_echo_that_arrives_after_a_reply_is_no_speech() -> None:
    """`clear` stops the agent; what was played before comes back for another 400 ms."""
    require("espeak-ng")
    talk = signals.agent_speech(12, "de+m1", -18.0)
    for start in range(0, 12, 2):  # replies of 1.2 s, cut off in the middle of words
        talk[int((start + 1.2) * RATE_HZ) : (start + 2) * RATE_HZ] = 0
    mic = signals.add(signals.echo(talk, -15.0, 400), signals.white(12, -60.0))
    assert edges(EnergyDetector(), mic, talk) == []


def test_long_double_talk_does_not_mask_later_speech() -> None:
    require("espeak-ng")
    talk = signals.agent_speech(40)
    caller = np.concatenate([signals.speak(text, voice) for voice, texts in signals.HELD_OUT.items() for text in texts])
    mic = signals.add(signals.silence(40), caller[: 30 * RATE_HZ], signals.white(40, -60.0))
    again = signals.speak("Please hold on", "en-us+f3")
    start = 35 * RATE_HZ
    mic[start : start + len(again)] = signals.add(mic[start : start + len(again)], again)
    detector = EnergyDetector()
    begun = [edge for edge in edges(detector, mic, talk) if edge.speaking and edge.sample > 34 * RATE_HZ]
    assert len(begun) == 1
    assert begun[0].decided_sample - start < 0.3 * RATE_HZ
    assert detector.echo.coupling_db <= -14.0


# Silero, when it cannot be had


def test_without_onnxruntime_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    vad._silero_session.cache_clear()
    with pytest.raises(RuntimeError, match=r"pip install 'offhook\[silero\]'"):
        SileroDetector()


def test_without_the_network_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require("onnxruntime")
    vad._silero_session.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'offhook\[silero\]' and pip install --no-deps silero-vad"):
        SileroDetector()


def test_detectors_are_what_the_call_expects(make: Make) -> None:
    detector: SpeechDetector = make()
    assert detector.speaking is False
