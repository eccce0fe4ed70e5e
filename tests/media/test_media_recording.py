"""A recording: both sides on one time axis, valid after a crash, silent where it was paused."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
import textwrap
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offhook.media import mulaw, recording
from offhook.media.recording import Recording, repair
from tests.media import signals

CALLER = mulaw.encode(signals.white(3.0, -20.0, seed=1))
AGENT = mulaw.encode(signals.white(3.0, -20.0, seed=2))


def sides(path: Path) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """By the standard library alone: what any player would see."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        frames = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, 2)
    return frames[:, 0], frames[:, 1]


def test_both_sides_stand_where_they_were_heard(tmp_path: Path) -> None:
    made = Recording(tmp_path / "call.wav")
    for at in range(0, 24000, 160):
        made.caller(at, CALLER[at : at + 160])
        if at == 16000:  # the mark came late: the reply was heard from 0.5 to 1.25 s
            made.agent(4000, AGENT[:6000])
    assert made.close().result(10) == tmp_path / "call.wav"
    left, right = sides(tmp_path / "call.wav")
    assert np.array_equal(left, mulaw.decode(CALLER))
    expected = np.zeros(24000, dtype=np.int16)
    expected[4000:10000] = mulaw.decode(AGENT[:6000])
    assert np.array_equal(right, expected)


PLACED = st.lists(st.tuples(st.booleans(), st.integers(0, 20_000), st.integers(0, 3000)), max_size=25)


@given(placed=PLACED)
@settings(max_examples=40, deadline=None)
def test_chunks_in_any_order_give_the_same_audio(
    placed: list[tuple[bool, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "call.wav"
    made, axis = Recording(path), np.zeros((30_000, 2), dtype=np.int16)
    length = 0
    for turn, (is_agent, sample, count) in enumerate(placed):
        codes = (AGENT if is_agent else CALLER)[turn : turn + count]
        (made.agent if is_agent else made.caller)(sample, codes)
        axis[sample : sample + len(codes), int(is_agent)] = mulaw.decode(codes)
        length = max(length, sample + len(codes)) if codes else length
    made.close().result(10)
    left, right = sides(path)
    assert len(left) == length
    # Within a side the order of placing holds; between sides there is nothing to order.
    assert np.array_equal(left, axis[:length, 0])
    assert np.array_equal(right, axis[:length, 1])


def test_a_pause_keeps_nothing_of_either_side(tmp_path: Path) -> None:
    made = Recording(tmp_path / "call.wav")
    made.caller(0, CALLER[:8000])
    made.agent(0, AGENT[:8000])
    made.pause(6000)  # a moment back: the first digits were already spoken
    assert made.paused
    made.pause(7000)  # again: nothing new
    made.caller(8000, CALLER[8000:10000])
    made.resume(10000)
    assert not made.paused
    made.resume(11000)
    made.agent(5000, AGENT[5000:14000])  # known late, from before the pause to behind it
    made.caller(10000, CALLER[10000:16000])
    made.close().result(10)
    left, right = sides(tmp_path / "call.wav")
    for side, source in ((left, CALLER), (right, AGENT)):
        expected = mulaw.decode(source[: len(side)]).copy()
        expected[6000:10000] = 0
        end = 16000 if side is left else 14000
        assert np.array_equal(side[:end], expected[:end])
    assert not right[14000:].any()


def test_a_killed_process_leaves_a_playable_file(tmp_path: Path) -> None:
    """The process dies without a word in the middle of a call; no more than the last second is gone."""
    path = tmp_path / "call.wav"
    program = f"""
        import os, time
        from offhook.media.recording import Recording
        made = Recording({str(path)!r})
        made.agent(0, bytes([0x20]) * 800)  # a short word, and then nothing for long
        for at in range(0, 24000, 160):
            made.caller(at, bytes([0x20]) * 160)
        while made._written_bytes < 24800:
            time.sleep(0.001)
        made.caller(24000, bytes([0x20]) * 160)
        os._exit(9)
    """
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=root, check=False)
    assert run.returncode == 9
    assert repair(path) == 3.0
    left, right = sides(path)
    loud = [int(mulaw.decode(b"\x20")[0])]
    assert left.tolist() == loud * 24000
    assert right.tolist() == loud * 800 + [0] * 23200


@pytest.mark.parametrize("claimed", [0, 7, 2**31])
@pytest.mark.parametrize("torn", [0, 1, 2, 3])
def test_a_wrong_header_is_repaired_when_opened(tmp_path: Path, claimed: int, torn: int) -> None:
    path = tmp_path / "call.wav"
    made = Recording(path)
    made.caller(0, CALLER[:8000])
    made.close().result(10)
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", claimed + 36))
        file.seek(40)
        file.write(struct.pack("<I", claimed))
        file.seek(0, os.SEEK_END)
        file.write(b"\x01\x02\x03"[:torn])  # half a frame
    again = Recording(path)
    again.caller(8000, CALLER[8000:16000])
    again.agent(4000, AGENT[4000:8000])
    again.close().result(10)
    left, right = sides(path)
    assert np.array_equal(left, mulaw.decode(CALLER[:16000]))
    assert np.array_equal(right[4000:8000], mulaw.decode(AGENT[4000:8000]))
    assert path.stat().st_size == 44 + 4 * 16000


@pytest.mark.parametrize("size", [0, 3, 4, 10, 43])
def test_a_truncated_header_is_an_empty_recording(tmp_path: Path, size: int) -> None:
    path = tmp_path / "call.wav"
    Recording(path).close().result(10)
    path.write_bytes(path.read_bytes()[:size])
    assert repair(path) == 0.0
    assert len(sides(path)[0]) == 0


def test_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.wav"
    for content in (b"my notes, a page of them, which nobody may overwrite", b"RIFX", b"notes"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a recording .* remove it or record to another path"):
            Recording(path)
        assert path.read_bytes() == content
    with pytest.raises(OSError, match="No such file"):
        Recording(tmp_path / "missing" / "call.wav")


def test_placing_is_checked(tmp_path: Path) -> None:
    made = Recording(tmp_path / "call.wav")
    with pytest.raises(ValueError, match="starts at sample 0"):
        made.caller(-160, CALLER[:160])
    made.caller(0, b"")
    done = made.close()
    assert made.close() is done
    done.result(10)
    with pytest.raises(ValueError, match="closed"):
        made.agent(0, AGENT[:160])
    assert len(sides(tmp_path / "call.wav")[0]) == 0


def test_only_its_owner_may_read_a_recording(tmp_path: Path) -> None:
    made = Recording(tmp_path / "call.wav")
    made.close().result(10)
    assert (tmp_path / "call.wav").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_ends_this_recording_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full, good = Recording(tmp_path / "full.wav"), Recording(tmp_path / "good.wav")
    full._file.close()
    full._file._file = _FullDisk(tmp_path / "full.wav", "r+")
    for made in (full, good):
        made.caller(0, CALLER)
    for _ in range(500):  # the call goes on, and its recording does not
        if caplog.records:
            break
        time.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == [
        f"recording {full.path} ends here: [Errno 28] No space left on device"
    ]
    with pytest.raises(OSError, match="No space left"):
        full.close().result(10)
    good.close().result(10)
    assert np.array_equal(sides(tmp_path / "good.wav")[0], mulaw.decode(CALLER))


class _FullDisk(recording.FileIO):
    def write(self, data: object, /) -> int:
        raise OSError(28, "No space left on device")


def test_a_stalled_disk_drops_audio_and_bounds_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[object] = []
    monkeypatch.setattr(recording._WRITER, "put", lambda *job: held.append(job))
    made = Recording(tmp_path / "call.wav")
    second = bytes(8000)
    for at in range(300):
        made.caller(at * 8000, second)
    assert made.dropped_samples == 60 * 8000
    assert len(held) == 240
    made._file.close()


async def test_closing_can_be_awaited(tmp_path: Path) -> None:
    made = Recording(tmp_path / "call.wav")
    made.caller(0, CALLER[:160])
    assert await asyncio.wrap_future(made.close()) == tmp_path / "call.wav"
    assert np.array_equal(sides(tmp_path / "call.wav")[0], mulaw.decode(CALLER[:160]))
