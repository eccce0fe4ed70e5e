"""The pytest plugin: `*.call.yaml` are tests, and the `offhook` fixture places calls from Python.

    async def test_a_table_is_booked(offhook):
        call = await offhook.call("receptionist.yaml", model=[{"on": "text", "say": "Good evening."}])
        await call.agent_speaks()
        await call.say("A table for two, please.")
        report = await call.hang_up()

Without another plugin for asynchronous tests, those that use the fixture are run by this one.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offhook.gateway.errors import OffhookError

if TYPE_CHECKING:  # pytest loads this plugin in every run: heavy imports wait until they are used
    from offhook.gateway.rehearsal.by_hand import Offhook
    from offhook.gateway.rehearsal.scenario.load import Scenario

__all__ = ["offhook", "pytest_addoption", "pytest_collect_file", "pytest_pyfunc_call"]

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--offhook-model` and `--offhook-out`."""
    group = parser.getgroup("offhook", "rehearsed phone calls")
    group.addoption(
        "--offhook-model",
        choices=("rehearsal", "gemini"),
        default="rehearsal",
        help="the model: the rehearsal model with the scenario's script (default), or Gemini with the key of the "
        "environment, checked only for expectations that need no script",
    )
    group.addoption(
        "--offhook-out",
        default="out/pytest",
        metavar="DIR",
        help="folder for recordings, pictures and reports, one subfolder per test (default: out/pytest)",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a scenario as a test."""
    if file_path.name.endswith(".call.yaml"):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


class CallFailed(Exception):
    """Expectations were not met; the message has a line for each."""


class ScenarioFile(pytest.File):
    """One `*.call.yaml`: one test."""

    def collect(self) -> Iterable[pytest.Item]:
        try:
            from offhook.gateway.rehearsal.scenario.load import load_scenario

            scenario = load_scenario(self.path)
        except OffhookError as error:
            raise self.CollectError(str(error)) from None
        except ModuleNotFoundError as error:
            raise self.CollectError(f"rehearsals need {error.name}: pip install 'offhook[rehearsal]'") from None
        yield ScenarioItem.from_parent(self, name=scenario.name, scenario=scenario)


class ScenarioItem(pytest.Item):
    """The call of a scenario."""

    def __init__(self, *, scenario: Scenario, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.scenario = scenario

    def runtest(self) -> None:
        from offhook.gateway.rehearsal.results.runs import ScenarioRuns
        from offhook.gateway.rehearsal.run import run_scenario

        scenario, folder, real = self.scenario, _folder(self.config, self.nodeid), _real_model(self.config)
        count = ScenarioRuns(scenario=scenario.name, runs=scenario.runs, must_pass=scenario.must_pass)
        words = []
        for number in range(1, scenario.runs + 1):
            out = folder if scenario.runs == 1 else folder / str(number)
            report = asyncio.run(run_scenario(scenario, out, real_model=real))
            count.passed += report.ok
            files = "\n".join(f"{name} {path}" for name, path in report.paths.items())
            self.add_report_section("call", "files", files)
            verdicts = [verdict for call in report.calls for verdict in call.verdicts]
            words += [f"{'✓' if verdict.ok else '✗'} {verdict.words}" for verdict in verdicts]
        if not count.ok:
            raise CallFailed("\n".join([*words, *([count.words] if count.runs > 1 else [])]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, CallFailed | OffhookError):
            return f"{self.scenario.name}: {self.scenario.about or 'the call failed'}\n{excinfo.value}"
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


@pytest.fixture
def offhook(request: pytest.FixtureRequest) -> Iterator[Offhook]:
    """Places simulated calls: `call = await offhook.call(agent, model=[...])`. Paths are relative to the test."""
    from offhook.gateway.rehearsal.by_hand import Offhook

    out = _folder(request.config, request.node.nodeid)
    with Offhook(request.path.parent, out, real_model=_real_model(request.config)) as calls:
        yield calls


@pytest.hookimpl
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an asynchronous test that places calls, if no other plugin does."""
    if "offhook" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def _folder(config: pytest.Config, nodeid: str) -> Path:
    out = Path(config.getoption("--offhook-out"))
    return config.rootpath / out / re.sub(r"[^\w.-]+", "-", nodeid).strip("-")


def _real_model(config: pytest.Config) -> bool:
    if config.getoption("--offhook-model") != "gemini":
        return False
    if not any(os.environ.get(key) for key in KEYS):
        raise pytest.UsageError("--offhook-model=gemini needs a key: set GEMINI_API_KEY")
    return True
