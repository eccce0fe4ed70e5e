"""Past calls over HTTP: every answer of the API fits the document that it serves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import numpy as np
import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.store.sealed import read_keys
from offhook.media.recording import wav_header
from offhook.media.wav import write_wav
from tests.rig.gateway import serving
from tests.store.made import CALLER, NOON_MS, record

TOKEN = "only-for-this-test"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
Get = Callable[..., Any]


@asynccontextmanager
async def past(folder: Path, **environ: str) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway with three past calls."""
    wav = folder / "CA3.wav"
    write_wav(wav, np.zeros(1_600, np.int16), 8_000)
    agents = [parse_agent("name: desk\ninstructions: x\n")]
    settings = {"OFFHOOK_INSECURE": "1", "OFFHOOK_API_TOKEN": TOKEN, "OFFHOOK_DATA_DIR": str(folder), **environ}
    async with ModelServer(lambda _: Script(())) as model, serving(agents, settings, model=model) as (gateway, url):
        store = gateway.records
        store.keep(record("CA1", at_ms=NOON_MS, tool="book", said="A table <b>for</b> two & more"))
        store.keep(record("CA2", at_ms=NOON_MS + 1_000, gap_ms=2_500.0, caller="+15550000001"))
        store.keep(record("CA3", at_ms=NOON_MS + 2_000, agent="night", recording=str(wav)))
        if gateway._keeping.store is not None:
            while await gateway._keeping.store.waiting():
                pass
        yield gateway, url


async def get(http: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with http.get(url, headers=AUTHORIZED) as answer:
        body = await answer.read()
        return answer.status, json.loads(body) if answer.content_type == "application/json" else body


def fits(document: dict[str, Any], path: str, status: int, body: Any) -> None:
    """The body is what the document says of this answer."""
    answers = document["paths"][path]["get"]["responses"]
    schema = answers[str(status)]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(body)


@pytest.mark.parametrize("where", ["memory", "sqlite"])
async def test_answers_fit_the_served_document(where: str, tmp_path: Path) -> None:
    environ = {} if where == "sqlite" else {"OFFHOOK_DATA_DIR": ""}
    asked = [
        ("/calls", "", 200),
        ("/calls", "?limit=2", 200),
        ("/calls", f"?number=%2B{CALLER[1:]}&agent=desk", 200),
        ("/calls", "?words=table&turn_gap_over_ms=2000&since=2026-11-27&until=2026-11-28T00:00:00Z", 200),
        ("/calls", "?limit=0", 400),
        ("/calls", "?limit=%D9%A1", 400),
        ("/calls", "?since=yesterday", 400),
        ("/calls", "?since=9999-12-31", 400),
        ("/calls", "?cursor=-1", 400),
        ("/calls", "?number=me", 400),
        ("/calls", "?agent=a&agent=b", 400),
        ("/calls", "?colour=red", 400),
        ("/percentiles", "", 200),
        ("/percentiles", "?since=2026-11-01&until=2026-11-30&agent=desk&model=model-1", 200),
        ("/percentiles", "?since=2026-11-30&until=2026-11-01", 200),
        ("/percentiles", "?model=", 400),
        ("/calls/{id}/record", "/calls/CA1/record", 200),
        ("/calls/{id}/record", "/calls/CA9/record", 404),
        ("/calls/{id}/recording.wav", "/calls/CA1/recording.wav", 404),
        ("/openapi.json", "", 200),
    ]
    async with past(tmp_path, **environ) as (_, url), aiohttp.ClientSession() as http:
        _, document = await get(http, f"{url}/openapi.json")
        assert document["openapi"] == "3.1.0"
        for path, query, expected in asked:
            status, body = await get(http, url + (query if query.startswith("/") else path + query))
            if where == "memory" and path in ("/calls", "/percentiles") and expected == 200:
                expected = 404  # there is nothing to search
            assert status == expected, (path, query, body)
            fits(document, path, status, body)
        async with http.get(f"{url}/calls") as answer:
            assert answer.status == 401


async def test_a_page_leads_to_the_next(tmp_path: Path) -> None:
    async with past(tmp_path) as (_, url), aiohttp.ClientSession() as http:
        _, first = await get(http, f"{url}/calls?limit=2")
        _, second = await get(http, f"{url}/calls?limit=2&cursor={first['next']}")
        assert [call["call_sid"] for call in first["calls"] + second["calls"]] == ["CA3", "CA2", "CA1"]
        assert second["next"] is None
        assert first["calls"][1]["number"] == "+15•••01"
        _, kept = await get(http, f"{url}/calls/CA1/record")
        assert kept["caller"] == "+15•••67"


async def test_downloads_of_a_call(tmp_path: Path) -> None:
    async with past(tmp_path) as (_, url), aiohttp.ClientSession() as http:
        for prefix in ("/calls", "/console/api/calls"):
            status, vtt = await get(http, f"{url}{prefix}/CA1/transcript.vtt")
            assert status == 200
            assert vtt.decode() == (
                "WEBVTT\n\n00:00:00.001 --> 00:00:00.002\n<v caller>A table &lt;b&gt;for&lt;/b&gt; two &amp; more\n\n"
                "00:00:00.002 --> 00:00:04.002\n<v agent>For which day?\n"
            )
            async with http.get(
                f"{url}{prefix}/CA3/recording.wav", headers={**AUTHORIZED, "Range": "bytes=0-3"}
            ) as answer:
                assert (answer.status, await answer.read()) == (206, b"RIFF")
            assert (await get(http, f"{url}{prefix}/CA3/../record"))[0] == 404
            status, scenario = await get(http, f"{url}{prefix}/CA2/scenario.yaml")
            assert (status, b"caller:" in scenario or b"steps:" in scenario) == (200, True), scenario
        (tmp_path / "CA3.wav").unlink()
        assert (await get(http, f"{url}/calls/CA3/recording.wav"))[0] == 404


async def test_an_encrypted_recording_is_served_in_ranges(tmp_path: Path) -> None:
    audio = np.arange(1, 40_001, dtype="<i2").repeat(2).tobytes()  # 5 s
    key = "2026:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    sealed = Recordings(read_keys(key)).create(tmp_path / "CA4.wav.sealed")
    sealed.write(0, audio)
    sealed.close()
    whole = wav_header(len(audio)) + audio
    asked = [("bytes=0-", 206, whole), ("bytes=31000-97000", 206, whole[31_000:97_001]), ("bytes=-7", 206, whole[-7:])]
    asked += [("bytes=0-3", 206, b"RIFF"), ("bytes=999999-", 416, None), ("pages=1", 200, whole), ("", 200, whole)]
    async with past(tmp_path, OFFHOOK_RECORDING_KEYS=key) as (gateway, url), aiohttp.ClientSession() as http:
        gateway.records.keep(record("CA4", recording=str(tmp_path / "CA4.wav.sealed")))
        for value, status, expected in asked:
            headers = {**AUTHORIZED, **({"Range": value} if value else {})}
            async with http.get(f"{url}/calls/CA4/recording.wav", headers=headers) as answer:
                body = await answer.read()
                assert (answer.status, body if expected is not None else None) == (status, expected), value
        async with http.head(f"{url}/calls/CA4/recording.wav", headers=AUTHORIZED) as answer:
            assert int(answer.headers["Content-Length"]) == len(whole)
        gateway._keeping.recordings._keys = None
        status, said = await get(http, f"{url}/calls/CA4/recording.wav")
        assert (status, "set OFFHOOK_RECORDING_KEYS" in said["error"]) == (409, True)


async def test_the_console_serves_history_as_it_is_guarded(tmp_path: Path) -> None:
    async with past(tmp_path) as (_, url), aiohttp.ClientSession() as http:
        for path in ("history", "history/names", "history/percentiles", "calls/CA1/record"):
            async with http.get(f"{url}/console/api/{path}") as answer:
                assert answer.status == 200
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            async with http.get(f"{url}/console/api/{path}", headers={"Origin": "https://evil.example"}) as answer:
                assert answer.status == 403
