"""Recordings of calls that are over: whole, in step, encrypted, in a bucket, and gone when they must be."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.errors import OperatorError
from offhook.gateway.labels import LABELS
from offhook.gateway.store.bucket import Bucket, BucketAway
from offhook.gateway.store.columns import CallEvent
from offhook.gateway.store.history import CallQuery
from offhook.gateway.store.kept import KeptRecords
from offhook.gateway.store.outbox import listed
from offhook.gateway.store.record import PartRecord, RecordingRecord
from offhook.gateway.store.recordings import PARTS_WAIT_MS, Finishing, PartMissing, Recordings, drop_left
from offhook.gateway.store.sealed import CHUNK, HEADER_BYTES, SLOT_BYTES, SealedFile, read_keys
from offhook.gateway.store.spool import Spool
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.store.upkeep import forget
from offhook.metrics.catalogue import Metrics
from tests.rig.process import python_path
from tests.rig.s3 import S3Server, s3_server
from tests.store.made import KEY, NOON_MS, record

OLD = "2025:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
NEW = "2026:ISEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISE="
OTHER = "2025:ISEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISE="
PLAIN, SEALED = Recordings(), Recordings(read_keys(f"{NEW},{OLD}"))
SECOND = np.arange(1, 8_001, dtype="<i2").repeat(2)  # stereo, nowhere silent
AUDIO = np.concatenate([SECOND, -SECOND, SECOND // 2])[:-7_000].tobytes()


def put(recordings: Recordings, path: Path, audio: bytes) -> None:
    file = recordings.create(path)
    file.write(0, audio)
    file.settle()
    file.close()


def played(recordings: Recordings, one: RecordingRecord) -> bytes:
    """Its audio, as a player reads the WAV file."""
    found = recordings.opened(one)
    assert found is not None
    data = b"".join(found.read(at, 70_000) for at in range(0, found.size, 70_000))
    found.close()
    assert len(data) == found.size
    path = Path(one.file).parent / "played"
    path.write_bytes(data)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        return file.readframes(file.getnframes())


def of_parts(folder: Path, recordings: Recordings, *offsets_ms: float) -> RecordingRecord:
    parts = [
        PartRecord(file=str(folder / f"CA1.{n}{recordings.suffix}"), offset_ms=at) for n, at in enumerate(offsets_ms, 1)
    ]
    return RecordingRecord(file=str(folder / f"CA1{recordings.suffix}"), offset_ms=offsets_ms[0], parts=parts)


@pytest.mark.parametrize("recordings", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_parts_join_in_step_with_silence_between(recordings: Recordings, tmp_path: Path) -> None:
    one = of_parts(tmp_path, recordings, 120.0, 5_120.0, 9_620.5)
    for part in one.parts:
        put(recordings, Path(part.file), AUDIO)
    work = Finishing("CA1", one)
    assert recordings.finish(work, 0, 0)
    audio = played(recordings, one)
    at = [0, 5 * CHUNK, 9 * CHUNK + CHUNK // 2 + 16]  # half a millisecond more is 4 frames
    for start in at:
        assert audio[start : start + len(AUDIO)] == AUDIO
    assert not any(audio[len(AUDIO) : at[1]])
    assert len(audio) == at[2] + len(AUDIO)
    assert {path.name for path in tmp_path.iterdir()} == {f"CA1{recordings.suffix}", "played"}
    assert recordings.finish(work, 0, 0)  # again, as after a crash: nothing changes
    assert played(recordings, one) == audio


def test_a_lost_first_part_leaves_its_time_silent(tmp_path: Path) -> None:
    one = of_parts(tmp_path, PLAIN, 0.0, 2_000.0)
    put(PLAIN, Path(one.parts[1].file), AUDIO)
    assert PLAIN.finish(Finishing("CA1", one), 0, 0)
    assert played(PLAIN, one) == bytes(2 * CHUNK) + AUDIO


def test_parts_with_and_without_a_key_are_joined(tmp_path: Path) -> None:
    one = of_parts(tmp_path, PLAIN, 0.0, 3_000.0)
    for part in one.parts:
        put(PLAIN, Path(part.file), AUDIO)
    one = msgspec.structs.replace(one, file=str(tmp_path / "CA1.wav.sealed"))
    assert SEALED.finish(Finishing("CA1", one), 0, 0)
    audio = played(SEALED, one)
    assert audio[: len(AUDIO)] == audio[3 * CHUNK :] == AUDIO
    assert AUDIO[:64] not in Path(one.file).read_bytes()


def test_a_refused_recording_leaves_no_part(tmp_path: Path) -> None:
    one = msgspec.structs.replace(of_parts(tmp_path, PLAIN, 0.0, 2_000.0), refused=True)
    for part in one.parts:
        put(PLAIN, Path(part.file), AUDIO)
    assert not PLAIN.finish(Finishing("CA1", one), 0, 0)
    assert list(tmp_path.iterdir()) == []


CHILD = """
import os, sys
from pathlib import Path
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.store.sealed import read_keys
from offhook.media.recording import Recording
made = Recording(Path(sys.argv[1]), Recordings(read_keys(sys.argv[2])).create)
for at in range(0, 24000, 160):
    made.caller(at, bytes([0x20]) * 160)
while made._written_bytes < 24000:
    pass
made.caller(24000, bytes([0x20]) * 160)
os.kill(os.getpid(), 9)
"""


def test_an_encrypted_part_plays_after_a_kill(tmp_path: Path) -> None:
    one = of_parts(tmp_path, SEALED, 0.0)
    child = [sys.executable, "-c", CHILD, one.parts[0].file, NEW]
    assert subprocess.run(child, env={"PYTHONPATH": python_path()}, check=False).returncode == -9
    assert SEALED.finish(Finishing("CA1", one), 0, 0)
    left = np.frombuffer(played(SEALED, one), "<i2")[::2]
    assert len(left) == 24_000
    assert left.all()


def test_a_file_cut_anywhere_plays_up_to_there(tmp_path: Path) -> None:
    whole = tmp_path / "whole.wav.sealed"
    put(SEALED, whole, AUDIO)
    data = whole.read_bytes()
    for cut in (0, 20, HEADER_BYTES, HEADER_BYTES + 5, HEADER_BYTES + SLOT_BYTES - 1, HEADER_BYTES + SLOT_BYTES + 50):
        one = of_parts(tmp_path, SEALED, 0.0)
        Path(one.parts[0].file).write_bytes(data[:cut])
        Path(one.file).unlink(missing_ok=True)
        assert SEALED.finish(Finishing("CA1", one), 0, 0)
        seconds = max(0, cut - HEADER_BYTES) // SLOT_BYTES
        audio = played(SEALED, one)
        assert audio[: seconds * CHUNK] == AUDIO[: seconds * CHUNK]
        assert not any(audio[seconds * CHUNK :])


def test_what_was_changed_or_moved_is_silence(tmp_path: Path) -> None:
    one = RecordingRecord(file=str(tmp_path / "CA1.wav.sealed"))
    put(SEALED, Path(one.file), AUDIO)
    data = bytearray(Path(one.file).read_bytes())
    slot = slice(HEADER_BYTES, HEADER_BYTES + SLOT_BYTES)
    second = slice(slot.stop, slot.stop + SLOT_BYTES)
    data[slot], data[second] = data[second], data[slot]
    data[-1] ^= 1
    Path(one.file).write_bytes(data)
    assert not any(played(SEALED, one))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("", "set OFFHOOK_RECORDING_KEYS"),
        (NEW, "the key '2025': add it to OFFHOOK_RECORDING_KEYS"),
        (OTHER, "another key of the name '2025'"),
    ],
)
def test_a_missing_or_wrong_key_is_named(keys: str, says: str, tmp_path: Path) -> None:
    one = RecordingRecord(file=str(tmp_path / "CA1.wav.sealed"))
    put(Recordings(read_keys(OLD)), Path(one.file), AUDIO)
    with pytest.raises(OperatorError, match=says):
        Recordings(read_keys(keys)).opened(one)
    assert played(SEALED, one) == AUDIO  # after a rotation: the old key is behind the new one


@pytest.mark.parametrize("keys", ["x", "2026:", "2026:c2hvcnQ=", f"{NEW},{NEW}", "a name:" + NEW[5:], "é:" + NEW[5:]])
def test_keys_that_are_none_are_refused(keys: str) -> None:
    with pytest.raises(OperatorError, match=r"entry [12] must be a name") as caught:
        read_keys(keys)
    assert NEW[5:] not in str(caught.value)


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "CA1.wav.sealed"
    path.write_bytes(b"notes" * 20)
    keys = read_keys(NEW)
    assert keys is not None
    with pytest.raises(ValueError, match="not an encrypted recording"):
        SealedFile(path, keys)
    assert path.read_bytes() == b"notes" * 20


def test_parts_without_a_record_go_by_their_age(tmp_path: Path) -> None:
    names = ("CA1.1.wav", "CA1.wav", "CA2.12.wav.sealed", "notes.wav", "CA3.1.wav")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (1_000, 2_000 if name.startswith("CA3") else 1_000))
    assert drop_left(tmp_path, 1_500.0) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"CA1.wav", "notes.wav", "CA3.1.wav"}
    assert drop_left(tmp_path / "none", 1_500.0) == 0


# --- a bucket


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch, "calls") as server:
        yield server


def kept(folder: Path, recordings: Recordings, clock: list[float]) -> KeptRecords:
    metrics = Metrics(CollectorRegistry(), LABELS)
    return KeptRecords(
        SqliteDatabase(folder / "db"),
        Spool(folder),
        KEY,
        metrics,
        node="n",
        recordings=recordings,
        clock=lambda: clock[0],
    )


async def reported(records: KeptRecords) -> list[str]:
    return sorted(one.kind for one in await records.database.read(lambda s: listed(s, None, 9)))


async def until_reported(records: KeptRecords, *kinds: str) -> None:
    async with asyncio.timeout(30):
        while await reported(records) != sorted(kinds):
            await asyncio.sleep(0.02)


def event(kind: str) -> CallEvent:
    return CallEvent(f"CA1-{kind}", "CA1", kind, b"{}", NOON_MS)


@pytest.mark.wall_clock
async def test_a_bucket_that_is_away_loses_nothing(s3: S3Server, tmp_path: Path) -> None:
    recordings = Recordings(read_keys(NEW), await asyncio.to_thread(Bucket, "s3://calls/desk"))
    one = of_parts(tmp_path / "wav", recordings, 0.0)
    (tmp_path / "wav").mkdir()
    put(recordings, Path(one.parts[0].file), AUDIO)
    one = recordings.placed(one)
    assert one.object == "s3://calls/desk/CA1.wav.sealed"
    s3.stop()
    records = kept(tmp_path, recordings, [0.0])
    await records.open()
    whole = msgspec.structs.replace(record(), recording=one)
    records.keep(whole, (event("call.ended"),), 1, Finishing("CA1", one, event=event("recording.ready")))
    await until_reported(records, "call.ended")
    async with asyncio.timeout(20):
        while not records._unfinished:
            await asyncio.sleep(0.02)
    assert await asyncio.to_thread(played, recordings, one) == AUDIO  # from the disk meanwhile
    await records.close()  # the process ends, and another one starts
    s3.start()
    records = kept(tmp_path, recordings, [0.0])
    await records.open()
    await until_reported(records, "call.ended", "recording.ready")
    assert list(await asyncio.to_thread(s3.objects, "calls")) == ["desk/CA1.wav.sealed"]
    assert not Path(one.file).exists()
    assert await asyncio.to_thread(played, recordings, one) == AUDIO
    s3.stop()
    with pytest.raises(BucketAway):  # nothing is half removed: it can be tried again
        await forget(records.database, CallQuery(call_sid="CA1"), recordings)
    s3.start()
    removed = await forget(records.database, CallQuery(call_sid="CA1"), recordings)
    assert (removed.calls, removed.recordings) == (["CA1"], [one.object])
    assert await asyncio.to_thread(s3.objects, "calls") == {}
    await records.close()


@pytest.mark.wall_clock
async def test_a_call_forgotten_before_its_upload(s3: S3Server, tmp_path: Path) -> None:
    recordings = Recordings(None, await asyncio.to_thread(Bucket, "s3://calls"))
    one = recordings.placed(of_parts(tmp_path, recordings, 0.0))
    put(recordings, Path(one.parts[0].file), AUDIO)
    records = kept(tmp_path, recordings, [0.0])
    await records.open()
    records.finish(Finishing("CA1", one, event=event("recording.ready")))  # its record is not there
    async with asyncio.timeout(20):
        while Path(one.parts[0].file).exists():
            await asyncio.sleep(0.02)
    await records.close()
    assert await asyncio.to_thread(s3.objects, "calls") == {}


@pytest.mark.wall_clock
def test_a_part_of_another_machine_is_waited_for(s3: S3Server, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    recordings = Recordings(None, Bucket("s3://calls"))
    for folder in (here, there):
        folder.mkdir()
    one = of_parts(here, recordings, 0.0, 4_000.0)
    first = PartRecord(file=str(there / "CA1.1.wav"), offset_ms=0.0)
    one = recordings.placed(msgspec.structs.replace(one, parts=[first, one.parts[1]]))
    put(recordings, Path(one.parts[1].file), AUDIO)
    with pytest.raises(PartMissing):
        recordings.finish(Finishing("CA1", one), 1_000, 0)
    put(recordings, Path(first.file), AUDIO)
    moved = msgspec.structs.replace(one, parts=[first])
    assert not recordings.finish(Finishing("CA1", moved, whole=False), 0, 0)
    assert list(s3.objects("calls")) == ["CA1.part-1.wav"]
    assert list(there.iterdir()) == []
    assert recordings.finish(Finishing("CA1", one), 1_000, 0)
    assert list(s3.objects("calls")) == ["CA1.wav"]
    assert played(recordings, one) == AUDIO + bytes(4 * CHUNK - len(AUDIO)) + AUDIO
    assert not list(here.glob("*.wav"))


@pytest.mark.wall_clock
def test_a_part_that_never_comes_is_silence(s3: S3Server, tmp_path: Path) -> None:
    recordings = Recordings(None, Bucket("s3://calls"))
    one = recordings.placed(of_parts(tmp_path, recordings, 0.0, 1_000.0))
    put(recordings, Path(one.parts[1].file), AUDIO)
    assert recordings.finish(Finishing("CA1", one), PARTS_WAIT_MS, 0)
    assert played(recordings, one) == bytes(CHUNK) + AUDIO
