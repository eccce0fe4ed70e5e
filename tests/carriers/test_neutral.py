"""No carrier's name stands outside its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

GATEWAY = Path(__file__).parents[2] / "gateway"
CARRIERS = [path.name for path in (GATEWAY / "carriers").iterdir() if path.is_dir() and path.name[0] != "_"]
NEUTRAL = sorted([*(GATEWAY / "telephony").glob("*.py"), *(GATEWAY / "carriers").glob("*.py")])


@pytest.mark.parametrize("path", NEUTRAL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_neutral_file_names_no_carrier(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert [name for name in CARRIERS if name in text] == []


def test_there_is_a_carrier_to_look_for() -> None:
    assert "twilio" in CARRIERS
    assert len(NEUTRAL) > 8
