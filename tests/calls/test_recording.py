"""The recording holds what the record says was heard, to a frame."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, WaitForAgent
from offhook.media import mulaw
from tests.calls.lines import GREETING, HELLO, LONG, SATURDAY, WAIT
from tests.media.measure import delay_samples
from tests.rig.calls import Plan, place_calls

FRAME = 160


def test_a_refused_recording_is_removed(tmp_path: Path) -> None:
    plan = Plan(
        (WaitForAgent("end"), Say(WAIT), WaitForAgent("end"), Pause(200), HangUp()),
        Script((GREETING, Reply("caller", (CallTool("stop_recording"), SATURDAY)))),
        agent="greeting: {text: Greet.}\ntools: [{builtin: stop_recording}]\n"
        f"recording: {{enabled: true, announce: This call is recorded., directory: {tmp_path}}}",
    )
    outcome = place_calls({"refused": plan}, speed=4.0)["refused"]
    assert [tool.outcome for tool in outcome.record.tool_calls] == ["done"]
    assert outcome.record.recording is None
    assert list(tmp_path.iterdir()) == []
    prompted = str(outcome.sessions[0])
    assert "word for word: This call is recorded." in prompted


def test_recording_holds_heard_audio_and_none_cleared(tmp_path: Path) -> None:
    plan = Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 2_000), WaitForAgent("end"), Pause(200), HangUp()),
        Script((GREETING, Reply("caller", (LONG,)), Reply("caller", (SATURDAY,)))),
        agent=f"greeting: {{text: Greet.}}\nrecording: {{enabled: true, directory: {tmp_path / 'kept'}}}",
    )
    outcome = place_calls({"recorded": plan}, speed=4.0)["recorded"]  # a thread writes it
    (path,) = tmp_path.glob("kept/*.wav")
    assert path.stem == outcome.record.call_sid
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 8000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    left, right = samples[:, 0], samples[:, 1]
    said, heard = mulaw.decode(outcome.truth.left), mulaw.decode(outcome.truth.right)
    # The agent's side: as much as was heard, by the carrier's truth, and no more.
    assert outcome.record.turns[1].interrupted
    assert abs(np.count_nonzero(right) - np.count_nonzero(heard)) <= FRAME
    # Each stretch stands where it was heard, within a round trip and a tick.
    for stretch in outcome.truth.agent:
        begins = int((stretch.start_s - outcome.truth.began_s) * 8000)
        ends = int((stretch.end_s - outcome.truth.began_s) * 8000)
        lead = min(begins, 2000)
        lag, sure = delay_samples(heard[begins:ends], right[begins - lead : ends + 2000])
        assert sure > 0.9
        assert abs(lag - lead) <= 400
    lag, sure = delay_samples(said, left)
    assert abs(lag) <= 400
    assert sure > 0.95
