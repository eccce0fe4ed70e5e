"""The wheel in an empty environment, beside a user's own `gateway.py`, `media.py` and `metrics.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[1]
OURS = ("gateway", "media", "metrics")
CLINIC = """
import gateway, media, metrics
from offhook import ToolContext, ToolError, tool

@tool
def count_people(ctx: ToolContext) -> int:
    '''How many people wait.'''
    return gateway.ANSWER + media.ANSWER + metrics.ANSWER
"""
AGENT = "name: clinic\ntools: [{function: 'clinic:count_people'}, {function: 'metrics:count_chairs'}]\n"
METRICS = "ANSWER = 1\n\ndef count_chairs() -> int:\n    '''How many chairs there are.'''\n    return 7\n"


def run(*command: str | Path, cwd: Path, timeout_s: float = 120) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, ROOT, cwd=out)
    (made,) = out.glob("*.whl")
    return made


def test_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
        inside = {name.split("/")[1] for name in archive.namelist() if name.startswith("offhook/")}
    assert {name for name in names if not name.endswith(".dist-info")} == {"offhook"}
    assert inside == {*OURS, "__init__.py", "__main__.py", "py.typed"}


def test_it_is_the_same_from_another_copy(wheel: Path, tmp_path: Path) -> None:
    """Of the same commit: neither file times nor the folder's name are in it."""
    copy = tmp_path / "elsewhere"
    for name in (*OURS, "infra/package", "infra/haproxy"):
        shutil.copytree(ROOT / name, copy / name, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path, cwd=copy)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert [(f.filename, f.CRC, f.external_attr) for f in one.filelist] == [
            (f.filename, f.CRC, f.external_attr) for f in other.filelist
        ]
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.wall_clock
def test_demo_beside_a_users_own_modules(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The dependencies are this environment's; the checkout's own path entry is not read.
    (site / "dependencies.pth").write_text(str(Path(msgspec.__file__).parents[1]))
    for name in OURS:
        (home / f"{name}.py").write_text(METRICS if name == "metrics" else "ANSWER = 1\n")
    (home / "clinic.py").write_text(CLINIC)
    (home / "agent.yaml").write_text(AGENT)
    assert str(site) in run(python, "-c", "import offhook; print(offhook.__file__)", cwd=home)
    told = run(python, "-m", "offhook", "tools", "call", "agent.yaml", "count_people", cwd=home)
    assert "3" in told
    assert "7" in run(python, "-m", "offhook", "tools", "call", "agent.yaml", "count_chairs", cwd=home)
    demo = run(python, "-m", "offhook", "demo", "--json", "demo.json", cwd=home)
    assert (home / "demo.json").exists(), demo
