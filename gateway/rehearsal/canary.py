"""A canary: the same call again and again, on a schedule, so that a gateway or its model that grows slow is noticed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.results.report import LINE_SEGMENTS, Report, samples_of
from offhook.metrics.canary import CanaryMetrics

__all__ = ["Place", "canary"]

log = logging.getLogger(__name__)

Place = Callable[[Path], Awaitable[Report]]  # places one call; its results go to the folder


async def canary(place: Place, metrics: CanaryMetrics, out: Path, *, every_s: float, clock: Clock) -> None:
    """Place a call every `every_s` seconds until cancelled; the first one now. No failure ends it.

    A call that is not over when the next one is due is ended, and has failed. The files of the newest call are in
    `out/last`, of the newest that failed in `out/failed`.
    """
    due_s = clock()
    while True:
        await asyncio.sleep(max(0.0, due_s - clock()))
        report, problems = await _called(place, out / "last", every_s)
        samples = [sample for call in report.calls for sample in samples_of(call)] if report else []
        metrics.called(ok=not problems, samples_ms=samples)
        if problems:
            log.warning("the call failed: %s", "; ".join(problems))
            await asyncio.to_thread(_keep_failed, out)
        else:
            seen = (f"{name} {ms:.0f} ms" for name, ms in samples if name in LINE_SEGMENTS)
            log.info("the call passed: %s", ", ".join(seen))
        due_s = max(due_s + every_s, clock())


async def _called(place: Place, folder: Path, limit_s: float) -> tuple[Report | None, list[str]]:
    """The call's report, unless it was not placed or not over in time, and what failed."""
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            report = await place(folder)
    except OffhookError as error:
        return None, [str(error)]
    except Exception as error:
        if limit.expired():
            return None, [f"not over after {limit_s:g} s, when the next one is due: choose a longer --every"]
        log.exception("the call could not be placed")
        return None, [repr(error)]
    failed = [verdict.words for call in report.calls for verdict in call.verdicts if verdict.failed]
    return report, failed if not report.ok else []


def _keep_failed(out: Path) -> None:
    last, failed = out / "last", out / "failed"
    try:
        shutil.rmtree(failed, ignore_errors=True)
        if last.exists():
            last.replace(failed)
    except OSError as error:
        log.warning("the files of the failed call are not kept: %s", error)
