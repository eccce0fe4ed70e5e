"""Loud audio in which the detector finds no speech."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.agent.policy import policy_of
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.hearing import Detection, Hearing
from offhook.gateway.conversation.events import LoudWithoutSpeech
from offhook.gateway.labels import LABELS
from offhook.media.formats import MULAW_8K
from offhook.media.mulaw import encode
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

    @staticmethod
    def push_all(detectors, frames, played_dbov):
        return [None for _ in detectors]


class Line:
    """A caller's audio, 20 ms at a time, on a clock of its own."""

    def __init__(self, detector):
        self.now_s, self.events, self.agent_dbov = 0.0, [], -100.0
        self.noise = np.random.default_rng(1)
        agent = Agent(name="a")
        wiring = SimpleNamespace(
            facts=SimpleNamespace(formats=SimpleNamespace(gives=MULAW_8K)),
            agent=agent,
            clock=lambda: self.now_s,
            metrics=Metrics(CollectorRegistry(), LABELS, tools=[], version="1"),
            feed=self.events.append,
            faults=None,
        )
        self.hearing = Hearing(
            wiring,
            policy_of(agent),
            Detection(lambda after_s, flush: flush()),
            recorder=None,
            uplink=Unheard(),
            agent_level_dbov=lambda now_s: self.agent_dbov,
        )
        if detector is not None:
            self.hearing.detector = detector

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
