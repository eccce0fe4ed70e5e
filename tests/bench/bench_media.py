"""What conversion costs, holds back and does to speech, as ratios to audioop and soxr in the same process.

    python -m tests.bench.bench_media

Times are microseconds of CPU for 20 ms of audio, best of many loops; they are this machine's, the ratios travel. Lines
for soxr and PESQ appear when these are installed (pip install soxr pesq; PESQ also needs espeak-ng). Set
OPENBLAS_NUM_THREADS=1, as the gateway does.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from offhook.media import mulaw
from offhook.media.framing import Framer
from offhook.media.recording import Recording
from offhook.media.resample import Down24To8, Up8To16, resample
from offhook.media.vad import EnergyDetector
from tests.media import signals

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

CHUNKS_MS = (20, 40, 100, 250)
GROUPS = (1, 2, 4, 8, 16, 32)
UP_LIMIT, DOWN_LIMIT = 2.5, 1.25
SOXR_QUALITIES = ("HQ", "VHQ")
SOXR = importlib.util.find_spec("soxr") is not None
RNG = np.random.default_rng(1)


def cpu_us(work: Callable[[], object], frames: float) -> float:
    """Microseconds of CPU per 20 ms frame: the best of nine loops of about 20 ms."""
    work()
    began = time.process_time()
    for _ in range(20):
        work()
    loops = max(20, int(20 * 0.02 / max(time.process_time() - began, 1e-6)))
    best = float("inf")
    for _ in range(9):
        began = time.process_time()
        for _ in range(loops):
            work()
        best = min(best, (time.process_time() - began) / loops)
    return best * 1e6 / frames


def ups() -> dict[str, Callable[[bytes], bytes]]:
    """Mu-law 8 kHz -> PCM16 16 kHz."""
    state: list[Any] = [None]

    def naive(codes: bytes) -> bytes:
        out, state[0] = audioop.ratecv(audioop.ulaw2lin(codes, 2), 2, 1, 8000, 16000, state[0])
        return out

    ours = Up8To16()
    found: dict[str, Callable[[bytes], bytes]] = {
        "audioop": naive,
        "offhook": lambda codes: ours.push(mulaw.decode(codes)),
    }
    if SOXR:
        found |= {f"soxr {quality}": soxr_up(quality) for quality in SOXR_QUALITIES}
    return found


def soxr_up(quality: str) -> Callable[[bytes], bytes]:
    import soxr

    stream = soxr.ResampleStream(8000, 16000, 1, dtype="int16", quality=quality)
    return lambda codes: stream.resample_chunk(np.frombuffer(audioop.ulaw2lin(codes, 2), dtype=np.int16)).tobytes()


def downs() -> dict[str, Callable[[bytes], bytes]]:
    """PCM16 24 kHz -> mu-law 8 kHz."""
    state: list[Any] = [None]

    def naive(pcm: bytes) -> bytes:
        out, state[0] = audioop.ratecv(pcm, 2, 1, 24000, 8000, state[0])
        return audioop.lin2ulaw(out, 2)

    found: dict[str, Callable[[bytes], bytes]] = {"audioop": naive, "offhook": Down24To8().push}
    if SOXR:
        found |= {f"soxr {quality}": soxr_down(quality) for quality in SOXR_QUALITIES}
    return found


def soxr_down(quality: str) -> Callable[[bytes], bytes]:
    import soxr

    stream = soxr.ResampleStream(24000, 8000, 1, dtype="int16", quality=quality)
    return lambda pcm: audioop.lin2ulaw(stream.resample_chunk(np.frombuffer(pcm, dtype=np.int16)).tobytes(), 2)


def speed() -> None:
    for title, makers, bytes_per_ms, limit in (
        ("up: mu-law 8 kHz -> PCM16 16 kHz", ups, 8, UP_LIMIT),
        ("down: PCM16 24 kHz -> mu-law 8 kHz", downs, 48, DOWN_LIMIT),
    ):
        print(f"\n{title + ', us per 20 ms':<48}" + "".join(f"{ms:>7} ms" for ms in CHUNKS_MS) + "   to audioop")
        base = 1.0
        times: dict[str, float] = {}
        for name, convert in makers().items():
            row = []
            for ms in CHUNKS_MS:
                chunk = RNG.integers(0, 256, bytes_per_ms * ms).astype(np.uint8).tobytes()
                row.append(cpu_us(partial(convert, chunk), ms / 20))
            base = row[0] if name == "audioop" else base
            times[name] = row[0]
            print(f"  {name:<46}" + "".join(f"{us:10.2f}" for us in row) + f"{row[0] / base:10.2f} x")
        ratio = times["offhook"] / base
        print(f"  limit {limit} x audioop: {'kept' if ratio <= limit else 'MISSED'}", end="")
        if SOXR:
            print(f"; below soxr HQ: {'yes' if times['offhook'] < times['soxr HQ'] else 'no'}", end="")
        print()


def held_back() -> None:
    """How much audio went in and has not come out, in ms, over 10 s of 20 ms pushes."""
    print("\nheld back at 20 ms pushes, ms (mean, longest, and at the end of a reply)")
    for title, makers, chunk_bytes, out_per_ms in (("up", ups, 160, 32), ("down", downs, 960, 8)):
        for name, convert in makers().items():
            waiting, put, got = [], 0.0, 0
            for _ in range(500):
                chunk = RNG.integers(0, 256, chunk_bytes).astype(np.uint8).tobytes()
                put += 20
                got += len(convert(chunk))
                waiting.append(put - got / out_per_ms)
            print(f"  {title + ', ' + name:<46}{np.mean(waiting):10.1f}{max(waiting):10.1f}{waiting[-1]:10.1f}")


def allocation() -> None:
    """What one push allocates besides its answer, and what it leaves behind."""
    print("\nallocation per 20 ms push, bytes             at the height     answer     kept")
    for name, convert, size in (
        ("up", ups()["offhook"], 160),
        ("down", downs()["offhook"], 960),
    ):
        chunk = RNG.integers(0, 256, size).astype(np.uint8).tobytes()
        for _ in range(100):
            convert(chunk)
        tracemalloc.start()
        heights, kept = np.zeros(200), np.zeros(200)  # storing into them allocates nothing
        for turn in range(200):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            answer = convert(chunk)
            _, height = tracemalloc.get_traced_memory()
            heights[turn] = height - before
            length = len(answer)
            del answer
            kept[turn] = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        print(f"  {name:<46}{np.median(heights):10.0f}{length:10d}{np.median(kept):10.0f}")


def quality() -> None:
    if importlib.util.find_spec("pesq") is None or shutil.which("espeak-ng") is None:
        print("\nPESQ: left out, it needs pesq and espeak-ng")
        return
    from pesq import pesq

    scores: dict[str, list[float]] = {"mu-law alone": [], "offhook, down and up": [], "audioop, down and up": []}
    for voice, phrases in {**signals.TUNING, **signals.HELD_OUT}.items():
        speech = signals.speak(". ".join(phrases), voice, -26.0)
        model = resample(speech, 8000, 24000).astype("<i2").tobytes()
        alone = mulaw.decode(mulaw.encode(speech))
        down = Down24To8()
        heard = (down.push(model) + down.flush())[16:]  # its 2 ms of delay
        ours = resample(np.frombuffer(Up8To16().push(mulaw.decode(heard)), dtype="<i2")[40:], 16000, 8000)
        theirs = np.frombuffer(ups()["audioop"](downs()["audioop"](model)), dtype="<i2")
        theirs = resample(theirs, 16000, 8000)
        size = min(len(speech), len(ours), len(theirs))
        for name, out in zip(scores, (alone, ours, theirs), strict=True):
            scores[name].append(pesq(8000, speech[:size], out[:size], "nb"))
    print(
        f"\nPESQ (narrow band), {len(next(iter(scores.values())))} voices{'mean':>26}{'worst loss to mu-law alone':>30}"
    )
    alone_scores = np.array(scores["mu-law alone"])
    for name, found in scores.items():
        print(f"  {name:<46}{np.mean(found):10.3f}{np.max(alone_scores - np.array(found)):20.3f}")


def grouped() -> None:
    """Frames of several calls heard, and upsampled, at once."""
    noise, agent = signals.white(20.0, -55.0), signals.agent_speech(20)
    talking = signals.add(noise, signals.agent_speech(20, "de+m3", -26.0))
    silent = [mulaw.SILENCE_DBOV] * 1000
    print(f"\n{'several calls at once, us per frame; calls':<48}" + "".join(f"{size:>8}" for size in GROUPS))
    for name, sound, levels in (
        ("detection, a quiet line", noise, silent),
        ("detection, the caller speaks", talking, silent),
        ("detection, the agent speaks", noise, mulaw.levels_dbov(mulaw.encode(agent)).tolist()),
    ):
        row = []
        for size in GROUPS:
            detectors, frames, at = [EnergyDetector() for _ in range(size)], signals.line(sound).reshape(-1, 160), [0]

            def detect(detectors=detectors, frames=frames, levels=levels, at=at) -> None:
                at[0] += 1
                now = [(at[0] + 37 * call) % 1000 for call in range(len(detectors))]
                EnergyDetector.push_all(detectors, [frames[k] for k in now], [levels[k] for k in now])

            row.append(cpu_us(detect, size))
        print(f"  {name:<46}" + "".join(f"{us:8.1f}" for us in row))
    row = []
    for size in GROUPS:
        ups, pieces = [Up8To16() for _ in range(size)], [signals.white(0.02, -30.0, call) for call in range(size)]
        row.append(cpu_us(partial(Up8To16.push_all, ups, pieces), size))
    print(f"  {'8 to 16 kHz':<46}" + "".join(f"{us:8.1f}" for us in row))


def others() -> None:
    print("\nthe rest of the path, us per 20 ms")
    codes = mulaw.encode(signals.white(0.02, -30.0))
    framer = Framer()
    speech = mulaw.decode(codes)
    with tempfile.TemporaryDirectory() as folder:
        recording, at = Recording(Path(folder) / "call.wav"), [0]

        def record() -> None:
            recording.caller(at[0], codes)
            at[0] += 160

        for name, work in (
            ("mulaw.decode", lambda: mulaw.decode(codes)),
            ("mulaw.encode", lambda: mulaw.encode(speech)),
            ("mulaw.levels_dbov", lambda: mulaw.levels_dbov(codes)),
            ("Framer.push", lambda: framer.push(codes)),
            ("Recording.caller, writer thread included", record),
        ):
            print(f"  {name:<46}{cpu_us(work, 1):10.2f}")
        recording.close().result(60)


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    speed()
    held_back()
    allocation()
    quality()
    grouped()
    others()


if __name__ == "__main__":
    main()
