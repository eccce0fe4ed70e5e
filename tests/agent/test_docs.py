"""docs/agent.md against the agent file itself: every field is there, and every block can be used."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import AgentFileError
from offhook.gateway.yamlfile import parse_yaml

TEXT = (Path(__file__).parents[2] / "docs" / "agent.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
ELSEWHERE = {"directory", "file", "tools"}  # where the file stands: not to be written; docs/tools.md


def fields_of(struct: type) -> dict[str, list[str]]:
    """Field -> the fields of its own, for those that have some."""
    found = {}
    for field in msgspec.structs.fields(struct):
        own = field.type if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct) else None
        found[field.name] = [f.name for f in msgspec.structs.fields(own)] if own else []
    return found


def test_every_field_is_described() -> None:
    written = "\n".join(BLOCKS)
    for field, own in fields_of(Agent).items():
        if field in ELSEWHERE:
            continue
        assert re.search(rf"^{field}:", written, re.M), field
        for name in own:
            assert re.search(rf"^  (# )?{name}:", written, re.M), f"{field}.{name}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition(":")[0])
def test_every_block_is_an_agent_file(block: str) -> None:
    data = parse_yaml(block).value
    text = block if "name" in data else f"name: a\n{block}"
    try:
        agent = parse_agent(text)
    except AgentFileError as error:
        pytest.fail(str(error))
    assert agent.name


def test_documented_defaults_are_the_real_defaults() -> None:
    bare, shown = (
        Agent(name="a"),
        parse_agent("name: a\n" + "\n".join(b for b in BLOCKS if "name: receptionist" not in b)),
    )
    examples = {
        "model.name",
        "model.provider",
        "model.temperature",
        "model.thinking_level",
        "greeting.text",
        "fallback.dial",
        "limits.cost",
        "limits.cost_per_day",
    }
    examples |= {"outbound.caller_id", "turn_detection.end_silence_ms", "retention.days", "retention.megabytes"}
    for field, own in fields_of(Agent).items():
        if field == "tools":
            continue
        for name in own:
            if f"{field}.{name}" not in examples:
                assert getattr(getattr(shown, field), name) == getattr(getattr(bare, field), name), f"{field}.{name}"
