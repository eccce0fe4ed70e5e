"""Loud audio in which the detector finds no speech; frames of many calls heard together."""

from __future__ import annotations

from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.agent.policy import policy_of
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.detection import GATHER_S, Detection
from offhook.gateway.call.hearing import Hearing
from offhook.gateway.conversation.events import LoudWithoutSpeech
from offhook.gateway.labels import LABELS
from offhook.media.formats import MULAW_8K
from offhook.media.mulaw import encode
from offhook.media.vad import EnergyDetector
from offhook.metrics.catalogue import Metrics

QUIET, LOUD = 10.0, 6_000.0  # samples, RMS


class Unheard:
    """The model's end, where nothing is looked at."""

    def caller_audio(self, codes, samples, received_s):
        pass

    def flush_audio(self):
        pass


class DeafDetector:
    """A detector that never decides anything."""

    speaking = False

    def push(self, samples, played_dbov):
        return self.push_all([self], [samples], [played_dbov])[0]

    @staticmethod
    def push_all(detectors, frames, played_dbov):
        return [None for _ in detectors]


class Line:
    """A caller's audio, 20 ms at a time, on a clock of its own."""

    def __init__(self, detector, detection=None):
        self.failures, self.asked_s = [], []
        self.now_s, self.events, self.agent_dbov = 0.0, [], -100.0
        self.noise = np.random.default_rng(1)
        agent = Agent(name="a")
        wiring = SimpleNamespace(
            facts=SimpleNamespace(formats=SimpleNamespace(gives=MULAW_8K)),
            agent=agent,
            clock=lambda: self.now_s,
            metrics=Metrics(CollectorRegistry(), LABELS, tools=[], version="1"),
            feed=self.events.append,
            faults=SimpleNamespace(report=lambda part, error: self.failures.append((part, error))),
        )
        self.hearing = Hearing(
            wiring,
            policy_of(agent),
            detection or Detection(lambda delay_s, callback: callback()),
            recorder=None,
            uplink=Unheard(),
            agent_level_dbov=self.agent_level_dbov,
        )
        if detector is not None:
            self.hearing.detector = detector

    def agent_level_dbov(self, at_s):
        self.asked_s.append(at_s)
        return self.agent_dbov

    def hears(self, rms, seconds):
        for _ in range(round(seconds / 0.02)):
            self.now_s += 0.02
            samples = (self.noise.standard_normal(160) * rms).clip(-32_000, 32_000).astype(np.int16)
            self.hearing.caller_audio(encode(samples), int(self.now_s * 1000))
        return self

    @property
    def reported(self):
        return [event for event in self.events if isinstance(event, LoudWithoutSpeech)]


@pytest.fixture
def line():
    return Line(DeafDetector()).hears(QUIET, 2.0)


def test_loud_for_four_seconds_is_reported_once(line):
    assert not line.hears(LOUD, 3.8).reported
    [report] = line.hears(LOUD, 6.0).reported
    assert report.at_s == pytest.approx(6.1, abs=0.15)


def test_short_loud_pieces_are_not_reported(line):
    for _ in range(4):
        line.hears(LOUD, 2.0).hears(QUIET, 1.5)
    assert not line.reported


def test_words_with_pauses_are_reported(line):
    for _ in range(8):
        line.hears(LOUD, 0.5).hears(QUIET, 0.4)
    assert line.reported


def test_keys_and_the_agent_s_echo_are_explained(line):
    for _ in range(3):
        line.hears(LOUD, 2.0).hearing.key_pressed()
    line.agent_dbov = -20.0
    assert not line.hears(LOUD, 6.0).reported


def test_a_soft_line_is_not_loud(line):
    assert not line.hears(100.0, 8.0).reported


def test_noise_is_no_speech_for_the_real_detector():
    line = Line(None).hears(QUIET, 2.0).hears(LOUD, 5.0)
    assert line.events == line.reported != []


# --- late frames


def arrivals(line, frames):
    """Silent frames as (when received, its place in the stream), in seconds: when the agent's level was asked for."""
    line.asked_s.clear()
    for line.now_s, media_s in frames:
        line.hearing.caller_audio(b"\xff" * 160, round(media_s * 1000))
    return line.asked_s


def test_a_late_frame_meets_what_was_played_then():
    line = Line(DeafDetector())
    arrivals(line, [(7.0 + k / 50, k / 50) for k in range(10)])
    late = [(7.4, k / 50) for k in range(10, 21)]  # 200 ms at once
    assert arrivals(line, late) == pytest.approx([7.0 + k / 50 for k in range(10, 21)])
    assert line.hearing.late_s == pytest.approx(0.0)
    arrivals(line, [(7.62, 0.42)])
    assert line.hearing.late_s == pytest.approx(0.2)


def test_a_stream_whose_clock_stood_still_is_not_late():
    line = Line(DeafDetector())
    arrivals(line, [(k / 50, k / 50) for k in range(100)])
    asked_s = arrivals(line, [(2.5 + k / 50, 2.0 + k / 50) for k in range(110)])
    assert asked_s[0] == pytest.approx(2.0)
    assert asked_s[-1] == pytest.approx(line.now_s)
    assert arrivals(line, [(9.0, 4.2)]) == [9.0]  # far too late to have been on its way


def test_a_late_first_frame_shifts_no_other():
    line = Line(DeafDetector())
    assert arrivals(line, [(0.3, 0.0), (0.3, 0.02), (0.3, 0.04), (0.31, 0.3), (0.33, 0.32)])[-2:] == [0.31, 0.33]


# --- together


class Failing(DeafDetector):
    """A detector that raises."""

    @staticmethod
    def push_all(detectors, frames, played_dbov):
        raise ZeroDivisionError


class Written(DeafDetector):
    """A detector of several calls that keeps the size of each group."""

    def __init__(self, groups):
        self.groups = groups

    @staticmethod
    def push_all(detectors, frames, played_dbov):
        detectors[0].groups.append(len(detectors))
        return [None for _ in detectors]


class Together:
    """Lines whose frames wait until `flush`, or `turn` for what the loop does; `delays_s`: what was scheduled until
    then.
    """

    def __init__(self, *detectors):
        self.scheduled, self.delays_s, self.got = [], [], []
        self.detection = Detection(self.schedule)
        self.lines = [Line(detector, self.detection) for detector in detectors]
        for n, line in enumerate(self.lines):
            line.hearing.uplink = SimpleNamespace(
                caller_audio=lambda codes, samples, received_s, n=n: self.got.append((n, received_s)),
                flush_audio=lambda: None,
            )

    def schedule(self, delay_s, callback):
        self.delays_s.append(delay_s)
        self.scheduled.append(callback)

    def turn(self):
        scheduled, self.scheduled[:] = self.scheduled[:], []
        for callback in scheduled:
            callback()


def test_frames_of_many_calls_are_heard_together():
    groups = []
    all_ = Together(*(Written(groups) for _ in range(3)))
    for line in (*all_.lines, all_.lines[1]):  # two frames of one call
        line.hears(QUIET, 0.02)
    assert all_.got == []
    all_.detection.flush()
    assert groups == [3, 1]
    assert all_.got == [(0, 0.02), (1, 0.02), (2, 0.02), (1, 0.04)]


def test_a_call_fed_by_another_s_step_hears_first():
    """An event of call 0 that is one of call 1's too: the frame of call 1 was before it."""
    all_ = Together(DeafDetector(), DeafDetector(), DeafDetector())

    def caller_audio(codes, samples, received_s):
        all_.lines[1].hearing.key_pressed()
        all_.got.append(0)

    all_.lines[0].hearing.uplink = SimpleNamespace(caller_audio=caller_audio, flush_audio=lambda: None)
    for line in all_.lines:
        line.hears(QUIET, 0.02)
    all_.detection.flush()
    assert all_.got == [(1, 0.02), 0, (2, 0.02)]
    assert [line.hearing.waiting for line in all_.lines] == [0, 0, 0]


def test_a_key_comes_after_the_frames_before_it():
    all_ = Together(DeafDetector(), DeafDetector())
    for line in all_.lines:
        line.hears(QUIET, 0.02)
    all_.lines[1].hearing.key_pressed()
    assert all_.got == [(0, 0.02), (1, 0.02)]
    all_.lines[1].hearing.key_pressed()  # nothing waits
    assert len(all_.got) == 2


def test_an_event_that_may_wait_follows_the_frames():
    """And it does not have them heard; one that may not comes after both. A frame that fails holds nothing back."""
    groups = []
    all_ = Together(Written(groups), Written(groups), Failing())
    for n, line in enumerate(all_.lines):
        line.hears(QUIET, 0.02)
        line.hearing._feed = all_.got.append
        line.hearing.then(f"mark {n}")
    assert all_.got == []
    all_.lines[1].hearing.catch_up()
    assert groups == [2]
    assert all_.got == ["mark 2", (0, 0.02), "mark 0", (1, 0.02), "mark 1"]
    all_.lines[0].hearing.then("at once")
    assert all_.got[-1] == "at once"


@pytest.mark.parametrize("place", ["detector", "decoding", "uplink"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_failure_costs_its_own_call_a_frame(place, alone):
    all_ = Together(DeafDetector(), DeafDetector(), DeafDetector())
    failing, hearing = all_.lines[1], all_.lines[1].hearing
    if place == "detector":
        hearing.detector = Failing()
    elif place == "decoding":
        hearing.line_format = None
    else:
        hearing.uplink = SimpleNamespace(flush_audio=lambda: None)
    for line in all_.lines:
        line.hears(QUIET, 0.02)
        if alone:
            all_.detection.flush()
    all_.detection.flush()
    assert all_.got == [(0, 0.02), (2, 0.02)]
    assert hearing.waiting == 0
    assert [part for part, _ in failing.failures] == ["line_reader"]
    assert all_.lines[0].failures == all_.lines[2].failures == []


@pytest.mark.parametrize(("calls", "delay_s"), [(10, 0.0), (11, GATHER_S), (20, GATHER_S)])
def test_a_frame_waits_where_others_are_due(calls, delay_s):
    """The first one, and it alone; not in the second in which frames are counted."""
    all_ = Together(*(DeafDetector() for _ in range(calls)))
    first, *others = all_.lines
    for _ in range(60):
        for line in all_.lines:
            line.hears(QUIET, 0.02)
        all_.turn()
    assert all_.delays_s[:40] == [0.0] * 40
    assert all_.delays_s[-1] == delay_s
    all_.got.clear()
    all_.delays_s.clear()
    for line in (first, *others[:2]):
        line.hears(QUIET, 0.02)
    assert (all_.got, all_.delays_s) == ([], [delay_s])
    all_.turn()
    assert [n for n, _ in all_.got] == [0, 1, 2]


def speaks(detectors):
    """A voice between two pauses on a line of each detector, all heard together, 20 ms at a time."""
    all_ = Together(*detectors)
    for k in range(150):
        tone = np.sign(np.sin(2 * np.pi * 140 * (np.arange(160) + 160 * k) / 8_000))
        for line in all_.lines:
            voice = tone * (6_000 if 40 <= k < 100 else 30) + line.noise.standard_normal(160) * 30
            line.now_s += 0.02
            line.hearing.caller_audio(encode(voice.astype(np.int16)), 20 * k)
        all_.detection.flush()
    return all_


@pytest.mark.parametrize("part", ["_edges", "_line.echo"])
def test_a_failing_detector_has_none_hear_twice(part, monkeypatch):
    """At every frame the second call's raises, once or before it has learned what the frame teaches."""
    whole, detectors = speaks([EnergyDetector() for _ in range(3)]), [EnergyDetector() for _ in range(3)]
    broken, kind = attrgetter(part)(detectors[1]), type(attrgetter(part)(detectors[1]))
    push = kind.push
    monkeypatch.setattr(kind, "push", lambda self, *heard: 1 / 0 if self is broken else push(self, *heard))
    failed = speaks(detectors)
    assert len(failed.lines[1].failures) == 150
    assert failed.lines[1].events == []
    for n in (0, 2):
        assert failed.lines[n].events == whole.lines[n].events
        assert len(failed.lines[n].events) >= 2
        assert detectors[n]._line._frames == 150


def test_a_failing_frame_has_none_resampled_twice():
    all_, decoded = Together(DeafDetector(), DeafDetector(), DeafDetector()), []

    def decode(n):
        decoded.append(n)
        return np.zeros(160 // (n != 1), np.int16)

    for n, line in enumerate(all_.lines):
        line.hearing.to_8k, line.hearing.decoded = "a resampler", lambda codes, n=n: decode(n)
        line.hears(QUIET, 0.02)
    all_.detection.flush()
    assert all_.got == [(0, 0.02), (2, 0.02)]
    assert sorted(decoded) == [0, 1, 1, 2]
