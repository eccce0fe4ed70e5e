"""The house rules of this folder, checked by parsing every module: what may be imported, how long names may be."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

TESTS = Path(__file__).parent
MODULES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("*.py"))
# The names of tests are at most this long; these follow.
NAME_LENGTH = 50
LOCAL_NAMES = {path.stem for path in MODULES} | {path.parent.name for path in MODULES if path.parent.name}


WATCHED_NODES = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def watched(source: str) -> list[ast.AST]:
    """What imports or is a function in a source: looked for once, whichever rules ask."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, WATCHED_NODES)]


def imported(source: str, package: str = "tests") -> Iterator[str]:
    """The dotted name of every module and of every `from` name that a source imports, anywhere in it."""
    for node in watched(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def is_test_module(name: str) -> bool:
    """Whether a dotted name is, or lies within, a test module of this folder."""
    parts = name.split(".")
    for count in range(2, len(parts) + 1):
        path = TESTS.joinpath(*parts[1:count]).with_suffix(".py")
        if path.name.startswith("test_") and path.is_file():
            return parts[0] == "tests"
    return False


@cache
def is_bare_local(name: str) -> bool:
    """Whether a dotted name is that of a module or folder in here, without `tests.` before it."""
    first = name.partition(".")[0]
    if first in {"tests", *sys.stdlib_module_names} or first not in LOCAL_NAMES:
        return False
    found = importlib.util.find_spec(first)  # `mcp` is a folder here and a package elsewhere
    return found is None or found.origin is None or Path(found.origin).is_relative_to(TESTS)


def refused_imports(source: str, package: str = "tests") -> list[str]:
    return [name for name in imported(source, package) if is_test_module(name) or is_bare_local(name)]


def test_no_test_module_and_no_bare_name_is_imported() -> None:
    refused = {}
    for path in MODULES:
        if names := refused_imports((TESTS / path).read_text(), ".".join(["tests", *path.parent.parts])):
            refused[str(path)] = names
    assert refused == {}, "what modules share belongs in tests/rig/, or in a helper module of the folder"


@pytest.mark.parametrize(
    "source",
    [
        "from tests.test_house import TESTS",
        "from tests import test_house",
        "import tests.calls.test_talk as talk",
        "from .test_talk import PLANS",
        "def late():\n    from tests.calls.test_talk import PLANS",
        "from lines import GREETING",
        "import playbook",
    ],
)
def test_refused_import_is_reported(source: str) -> None:
    assert refused_imports(source, "tests.calls") != []


@pytest.mark.parametrize("source", ["import http", "import mcp.types", "from tests.calls.lines import HELLO"])
def test_allowed_import_is_not_reported(source: str) -> None:
    assert refused_imports(source, "tests.calls") == []


def test_names_of_tests_are_short() -> None:
    long = [
        f"{path}::{node.name}"
        for path in MODULES
        for node in watched((TESTS / path).read_text())
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > NAME_LENGTH
    ]
    assert long == [], f"say given and expected in {NAME_LENGTH} characters"


# What a newcomer reads to understand a call, in this order; docs/architecture.md names the same files.
READING_PATH = ("conversation/events.py", "conversation/commands.py", "conversation/machine.py", "call/call.py")
READING_LINES = 1_100


def test_reading_path_stays_short() -> None:
    lines = {path: len((TESTS.parent / "gateway" / path).read_text().splitlines()) for path in READING_PATH}
    assert sum(lines.values()) < READING_LINES, f"move what is not the theory of a call elsewhere: {lines}"
    way = (TESTS.parent / "docs" / "architecture.md").read_text().partition("Read in this order:")[2]
    assert [way.find(f"`{path}`") for path in READING_PATH] == sorted(way.find(f"`{path}`") for path in READING_PATH)
    assert all(f"`{path}`" in way[:300] for path in READING_PATH)


# Where the wall's clock may be named: the composition roots (gateway/cli/ too) and the quick clock itself. Elsewhere
# it may only be the default of an argument.
CLOCK_ROOTS = {"gateway/app.py", "gateway/rehearsal/quick_clock.py", "gateway/rehearsal/load/worker.py"}
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}


def clock_reads(source: str) -> list[int]:
    """Lines that name a clock of `time`, except as the default of an argument."""
    if not any(clock in source for clock in CLOCKS):
        return []
    tree = ast.parse(source)
    defaults = {id(d) for f in ast.walk(tree) if isinstance(f, ast.arguments) for d in (*f.defaults, *f.kw_defaults)}
    named = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute | ast.Name) and id(n) not in defaults)
    return [n.lineno for n in named if (n.attr if isinstance(n, ast.Attribute) else n.id) in CLOCKS]


def test_clock_is_handed_down() -> None:
    read = {}
    for path in sorted(p for top in ("gateway", "media", "metrics") for p in (TESTS.parent / top).rglob("*.py")):
        name, source = str(path.relative_to(TESTS.parent)), path.read_text()
        if name not in CLOCK_ROOTS and not name.startswith("gateway/cli/") and (lines := clock_reads(source)):
            read[name] = lines
    assert read == {}, "take `clock` as an argument: only composition roots read the wall's clock"


@pytest.mark.parametrize("source", ["import time\nx = time.monotonic()", "f(clock=time.monotonic)", "perf_counter()"])
def test_a_clock_read_is_reported(source: str) -> None:
    assert clock_reads(source) != []


# The one reader of YAML: YAML 1.2 words, places in messages, duplicate keys refused.
YAML_READER = "gateway/yamlfile.py"
YAML_PACKAGES = {"yaml", "ruamel", "ruyaml", "strictyaml", "oyaml"}


def test_yaml_is_read_by_one_module() -> None:
    importing = {
        str(path.relative_to(TESTS.parent))
        for top in ("gateway", "media", "metrics")
        for path in (TESTS.parent / top).rglob("*.py")
        if any(package in (source := path.read_text()) for package in YAML_PACKAGES)
        and {name.partition(".")[0] for name in imported(source, "offhook")} & YAML_PACKAGES
    }
    assert importing == {YAML_READER}


# Where a provider's name may stand, in gateway/, media/ and metrics/: its own folder, the rehearsal that simulates it,
# the command, and the composition root with its settings.
ROOT_PATHS = (
    "gateway/cli/",
    "gateway/rehearsal/",
    "gateway/app.py",
    "gateway/config.py",
    "gateway/providers.py",
    "gateway/site.py",
)
FOLDERS = (path.parent for room in ("carriers", "models") for path in (TESTS.parent / "gateway" / room).glob("*/*.py"))
NAMES = {path.name: f"{path.relative_to(TESTS.parent)}/" for path in FOLDERS}
TEXTS = {".py", ".yaml", ".js", ".css", ".html", ".j2", ".json"}


def test_there_are_providers_to_look_for() -> None:
    assert {"twilio", "gemini", "openai"} <= NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_provider_is_named_in_its_rooms_only(name: str) -> None:
    texts = (p for top in ("gateway", "media", "metrics", "infra/package") for p in (TESTS.parent / top).rglob("*"))
    naming = {str(p.relative_to(TESTS.parent)) for p in texts if p.suffix in TEXTS and name in p.read_text().lower()}
    assert any(path.startswith(NAMES[name]) for path in naming)
    assert {path for path in naming if not path.startswith((NAMES[name], *ROOT_PATHS))} == set()


# What `import` of a part loads besides itself: the front door's version is all that media and metrics share.
WATCHED = ("offhook.gateway", "aiohttp", "google", "twilio")
LOADED = f"print(*sorted(name for name in sys.modules if name.startswith({WATCHED})))"


@pytest.mark.parametrize(
    "module", ["offhook", "offhook.media.formats", "offhook.media.vad", "offhook.metrics.catalogue"]
)
def test_import_loads_no_gateway(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; {LOADED}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["offhook.gateway"], "only `__version__` is there"


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports for type checkers alone count, too."""
    graph = grimp.build_graph("offhook", cache_dir=None)
    circles = {
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if graph.chain_exists(importer=imported, imported=importer)
    }
    assert circles == set()
