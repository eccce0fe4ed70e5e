"""The echo guard: what it learns, what it must not, and what it holds against the agent's own voice."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.media.echo import EchoGuard
from offhook.media.mulaw import SILENCE_DBOV

Levels = NDArray[np.float64]


def talk(frames: int, seed: int, loudest_dbov: float = -14.0) -> Levels:
    """A level curve like that of speech: syllables of 80 to 300 ms, some soft, pauses between."""
    rng = np.random.default_rng(seed)
    curve: list[float] = []
    while len(curve) < frames:
        length = int(rng.integers(4, 15))
        top = loudest_dbov - rng.exponential(4.0)
        curve += (top - 20.0 * np.abs(np.linspace(-0.8, 1.0, length)) ** 2 + rng.normal(0, 1.5, length)).tolist()
        curve += [-70.0] * int(rng.integers(0, 4) + (12 if rng.random() < 0.1 else 0))
    return np.array(curve[:frames])


def late(curve: Levels, frames: float, coupling_db: float) -> Levels:
    """Its echo: a part of a frame late as well, so that each frame is a mixture of two."""
    whole, part = int(frames), frames - int(frames)
    power = 10 ** (np.concatenate([np.full(whole + 1, -100.0), curve]) / 10)
    mixed = (1 - part) * power[1:] + part * power[:-1]
    return 10 * np.log10(mixed[: len(curve)]) + coupling_db


def mix(*curves: Levels) -> Levels:
    return np.asarray(10 * np.log10(sum(10 ** (curve / 10) for curve in curves)))


def run(guard: EchoGuard, heard: Levels, played: Levels) -> Levels:
    return np.array([guard.push(h, p) for h, p in zip(heard.tolist(), played.tolist(), strict=True)])


OVER_DB = 2.25  # what stands less above the bound is no evidence for a detector
LINE = np.full(1500, -62.0)
AGENT = talk(1500, seed=1)


def test_nothing_played_nothing_explained() -> None:
    assert np.all(run(EchoGuard(), talk(500, 3), np.full(500, SILENCE_DBOV)) == SILENCE_DBOV)


@pytest.mark.parametrize("coupling_db", [-12.0, -15.0, -20.0, -30.0])
@pytest.mark.parametrize("delay_frames", [3.0, 7.5, 12.3, 20.0, 28.7])
def test_an_echo_is_learned_and_held_off(coupling_db: float, delay_frames: float) -> None:
    guard = EchoGuard()
    heard = mix(late(AGENT, delay_frames, coupling_db), LINE)
    bound = run(guard, heard, AGENT)
    # From the first frame on no run of frames, which is what a detector would take for speech, stands out.
    # (What is -12 dB at the start is louder than an unlearned guard allows for.)
    over = heard > np.maximum(bound + OVER_DB, -58.0)
    start = 0 if coupling_db <= -15.0 else 150
    assert longest_run(over[start:]) <= 2
    assert over[150:].mean() < 0.02
    assert guard.delay_frames == pytest.approx(delay_frames, abs=1.5)
    # The bound lies above the echo, but not far: what lies above it can be heard.
    assert 0.0 < guard.coupling_db - coupling_db < 6.5


@pytest.mark.parametrize("ceiling_dbov", [-42.0, -46.0])
def test_a_saturating_echo_is_a_flatter_line(ceiling_dbov: float) -> None:
    """The soft syllables come back as they are, the loud ones no louder than those."""
    guard = EchoGuard()
    heard = mix(np.minimum(late(AGENT, 9.3, -15.0), ceiling_dbov), LINE)
    bound = run(guard, heard, AGENT)
    assert guard.slope < 0.9
    assert guard.delay_frames == pytest.approx(9.3, abs=1.5)
    assert longest_run((heard > np.maximum(bound, -58.0) + OVER_DB)[150:]) <= 2
    assert np.median(bound[150:]) < ceiling_dbov + 6.0  # and callers softer than a linear echo are heard


def test_a_line_without_echo_sets_the_caller_free() -> None:
    guard = EchoGuard()
    bound = run(guard, LINE, AGENT)
    assert guard.coupling_db < -30.0
    assert bound[150:].max() < -40.0
    # Within 2 s of the agent's talk it knows enough.
    quick = EchoGuard()
    run(quick, LINE[:100], AGENT[:100])
    assert quick.coupling_db < -28.0


def test_before_learning_the_bound_is_safe() -> None:
    guard = EchoGuard()
    bound = run(guard, LINE[:29], AGENT[:29])
    assert guard.coupling_db == -16.0
    assert bound[28] == pytest.approx(AGENT[:29].max() - 16.0)


@pytest.mark.parametrize("caller_dbov", [-30.0, -22.0, -14.0])
@pytest.mark.parametrize("echo", [None, -20.0])
def test_double_talk_does_not_change_the_echo_model(caller_dbov: float, echo: float | None) -> None:
    """For 30 s, as loud as the agent and louder: taken for echo, he would be deafened for the rest of the call."""
    guard = EchoGuard()
    back = LINE if echo is None else mix(late(AGENT, 9.4, echo), LINE)
    run(guard, back[:500], AGENT[:500])
    learned = guard.coupling_db
    run(guard, mix(talk(1500, seed=7, loudest_dbov=caller_dbov), back), AGENT)
    # On top of a real echo his words shift what is measured, a little; without one, nothing at all.
    assert guard.coupling_db <= learned + (0.0 if echo is None else 6.0)


def test_from_the_first_frame_too() -> None:
    guard = EchoGuard()
    run(guard, mix(talk(1500, seed=8, loudest_dbov=-18.0), LINE), AGENT)
    assert guard.coupling_db <= -16.0
    assert guard.delay_frames is None


def test_a_longer_echo_delay_is_learned_within_3_s() -> None:
    """The caller switches to the loudspeaker."""
    guard = EchoGuard()
    heard = np.concatenate([LINE[:700], mix(late(AGENT, 9.4, -15.0), LINE)[700:]])
    bound = run(guard, heard, AGENT)
    assert guard.coupling_db == pytest.approx(-12.0, abs=3.0)
    assert longest_run((heard > np.maximum(bound, -58.0))[850:]) <= 2


def test_an_echo_that_stops_is_forgotten() -> None:
    """The network's canceller has converged."""
    guard = EchoGuard()
    heard = np.concatenate([mix(late(AGENT, 9.4, -15.0), LINE)[:700], LINE[700:]])
    run(guard, heard, AGENT)
    assert guard.coupling_db < -28.0


def test_echo_is_learned_though_the_clock_is_off() -> None:
    """Each reply's clock is wrong by up to two frames, as marks and jitter buffers make it."""
    guard = EchoGuard()
    played, heard = AGENT.copy(), mix(late(AGENT, 10.4, -15.0), LINE)
    believed = np.full(1500, SILENCE_DBOV)
    rng = np.random.default_rng(5)
    for start in range(0, 1500, 250):
        off = int(rng.integers(-2, 3))
        reply = slice(start + 5, start + 150)
        believed[reply] = played[reply.start - off : reply.stop - off]
    only = np.where(believed > SILENCE_DBOV, AGENT, -100.0)
    heard = mix(late(only, 10.4, -15.0), LINE)
    bound = run(guard, heard, believed)
    # What stands out does so by little and not for long: a detector wants 3 dB in several frames on end.
    assert longest_run((heard > np.maximum(bound, -58.0) + 3.0)[250:]) <= 2


def test_the_lines_own_noise_coming_on_is_no_echo() -> None:
    """Media starts flowing as the greeting starts: two steps at once, and nothing else in common."""
    guard = EchoGuard()
    heard = np.concatenate([np.full(20, SILENCE_DBOV), np.full(480, -61.0)])
    played = np.concatenate([np.full(20, SILENCE_DBOV), AGENT[:480]])
    run(guard, heard, played)
    assert guard.delay_frames is None


def test_it_runs_for_hours_in_the_same_memory() -> None:
    guard = EchoGuard()
    before = len(guard._heard)
    heard = mix(late(AGENT, 9.4, -15.0), LINE)
    for _ in range(20):
        bound = run(guard, heard, AGENT)
    assert len(guard._heard) == before
    assert longest_run((heard > np.maximum(bound, -58.0))[40:]) <= 2


def longest_run(flags: NDArray[np.bool_]) -> int:
    longest = now = 0
    for flag in flags.tolist():
        now = now + 1 if flag else 0
        longest = max(longest, now)
    return longest
