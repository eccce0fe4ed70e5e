"""Calls outlive their process: real gateways, HAProxy and Redis; what the carrier and the model saw."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from offhook.gateway.rehearsal.cluster.processes import cluster
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.store.record import RecordingRecord
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.store.sealed import MAGIC, read_keys
from tests.needs import require
from tests.rig.counting import AGENT, COUNTING, REST, counting_script
from tests.rig.redis import redis_server
from tests.rig.storm import Storm, StormCall

pytestmark = [pytest.mark.wall_clock, pytest.mark.usefixtures("forked")]
KEYS = "2026:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


def spoken(one: StormCall) -> list[str]:
    """The agent's words that were heard, by the record."""
    (_, record), *_ = one.records
    return [line["heard_text"] for line in record["transcript"] if line["who"] == "agent"]


def check_moved(one: StormCall) -> None:
    assert len(one.call.truth.streams) == 2
    assert one.resumed
    assert one.audio_s is not None
    assert one.audio_s < 3.0  # the bench has the figures; here the machine is busy with other tests
    (told,) = one.told
    heard = re.search(r'heard: "(.*?)"', told)
    assert heard
    assert COUNTING.startswith(heard[1])
    before, after = spoken(one)
    assert before == heard[1]
    assert after in REST
    assert [name for name, _ in one.records] == [re.search(r"/n/(\w+)/", one.call.truth.streams[1].url)[1]]  # type: ignore[index]
    assert "Greet" not in told


async def check_recorded(one: StormCall, folder: Path) -> None:
    """One file of both processes' parts, in step with the transcript."""
    (_, record), *_ = one.records
    recording = record["recording"]
    assert len(recording["parts"]) == 2
    path = Path(recording["file"])
    assert path.parent == folder
    async with asyncio.timeout(10):
        while any(Path(part["file"]).exists() for part in recording["parts"]) or not path.exists():
            await asyncio.sleep(0.02)
    assert path.read_bytes().startswith(MAGIC)
    audio = Recordings(read_keys(KEYS)).opened(RecordingRecord(file=str(path)))
    assert audio is not None
    right = np.frombuffer(audio.read(44, audio.size - 44), "<i2")[1::2]
    loud_ms = np.flatnonzero(np.abs(right.astype(np.int32)) > 1_000) / 8 + recording["offset_ms"]
    moved_ms = recording["parts"][1]["offset_ms"]
    (before, after) = [line["at_ms"] for line in record["transcript"] if line["who"] == "agent"]
    assert abs(loud_ms[0] - before) < 300
    assert before < moved_ms < after + 300
    assert abs(loud_ms[loud_ms >= moved_ms][0] - after) < 300


async def test_killed_in_mid_sentence_calls_go_on(tmp_path: Path) -> None:
    require("haproxy", "redis-server")
    recorded = AGENT + f"recording: {{enabled: true, directory: {tmp_path}/wav}}\n"
    with redis_server(tmp_path) as redis:
        async with (
            ModelServer(counting_script()) as model,
            cluster(tmp_path, recorded, model, redis.url, environ={"OFFHOOK_RECORDING_KEYS": KEYS}) as rig,
        ):
            storm = Storm(rig, model, 6)
            await storm.begin()
            victim = storm.busiest()
            lost = storm.on(victim)
            await asyncio.sleep(1.7)  # a killed process loses the last second of its recordings
            storm.kill(victim)
            await storm.go_on(lost)
            storm.hang_up()
            calls = (await storm.end()).values()
            assert {one.call.truth.ended_by for one in calls} == {"caller"}
            moved = [one for one in calls if one.moved]
            assert moved == lost
            assert len(moved) >= 2
            for one in moved:
                check_moved(one)
                await check_recorded(one, tmp_path / "wav")
            assert all(len(one.records) == 1 for one in calls)
            assert not model.violations
            survivors = [name for name in rig.gateways if name != victim]
            taken = [await rig.metric(name, 'offhook_calls_moved_total{direction="taken"}') for name in survivors]
            assert sum(taken) == len(moved)


async def test_a_drained_gateway_hands_its_calls_over(tmp_path: Path) -> None:
    require("haproxy")
    async with (
        ModelServer(counting_script()) as model,
        cluster(tmp_path, AGENT, model, f"sqlite:{tmp_path}/live.db", count=2, environ={"OFFHOOK_DRAIN_S": "0"}) as rig,
    ):
        storm = Storm(rig, model, 2)
        await storm.begin()
        victim = rig.gateways[storm.busiest()]
        handed = storm.on(victim.name)
        victim.signal(signal.SIGTERM)
        await storm.go_on(handed)
        storm.hang_up()
        calls = (await storm.end()).values()
        moved = [one for one in calls if one.moved]
        assert moved == handed
        for one in moved:
            check_moved(one)
        assert {one.call.truth.ended_by for one in calls} == {"caller"}
        assert not model.violations  # the session was closed before it was resumed
        assert victim.process is not None
        assert await asyncio.to_thread(victim.process.wait, 10) == 0
