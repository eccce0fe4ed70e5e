"""Models that are deaf or frozen, in simulated calls on a clock that stands still during computation."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("forked")

SCENARIOS = ("model-deaf", "model-deaf-hello", "model-frozen", "model-falls-silent")


def test_deaf_and_frozen_models_are_noticed_in_time(tmp_path):
    command = [sys.executable, "-m", "offhook", "simulate", *SCENARIOS, "--speed", "20", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
