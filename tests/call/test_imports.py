"""A gateway imports before its first call what the call path needs: an import holds up every other call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.rig.process import python_path

CODE = """
import sys
from pathlib import Path
import offhook.gateway.app
started = set(sys.modules)

import numpy as np
from offhook.gateway.agent.policy import detector_of
from offhook.gateway.agent.spec import Agent
from offhook.gateway.models.gemini.audio import CallerAudio
from offhook.media.formats import MULAW_8K, PCM16_16K, PCM16_24K, converter
from offhook.media.recording import Recording

noise = np.random.default_rng(1).normal(0, 3_000, 160).astype(np.int16)
codes = converter(PCM16_24K, MULAW_8K).push(np.repeat(noise, 3).tobytes())
heard, caller = detector_of(Agent(name="a")), CallerAudio(MULAW_8K)
recording = Recording(Path(sys.argv[1]))
for n in range(100):
    heard.push(noise, -20.0)
    caller.push(MULAW_8K.silence * 160, noise)
    recording.caller(160 * n, MULAW_8K.silence * 160)
    recording.agent(160 * n, MULAW_8K.silence * 160)
recording.close().result(10)
late = sorted(name for name in set(sys.modules) - started if name.startswith(("numpy", "offhook.media")))
print(*(name for name in late if not name.startswith("numpy.random")))
"""


def test_audio_path_is_imported_at_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "call.wav")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path()},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
