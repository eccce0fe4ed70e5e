#!/bin/sh
# The contract with google-genai, held with the newest 3.x (or the version given) in an environment of its own:
# both paths send and hear the same, every model takes our setup, and a link lives through its faults.
# Usage: sh tests/contract.sh [python [version]]
set -eu
cd "$(dirname "$0")/.."
python="${1:-python3}"
wanted="google-genai>=3,<4"
[ -z "${2:-}" ] || wanted="google-genai==$2"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
# All but google-genai and what it brings stay at the versions of constraints.txt.
grep -v -E '^(google-|websockets=|httpx|httpcore|pydantic|anyio|tenacity)' constraints.txt > "$folder/constraints.txt"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade --constraint "$folder/constraints.txt" \
  "$wanted" 'aiohttp>=3.13,<4' 'msgspec>=0.19,<1' 'numpy>=2.0,<3' 'pybase64>=1.4,<2' 'PyYAML>=6,<7' 'trustme>=1.2,<2' \
  'websockets>=14,<18' 'hypothesis>=6.100,<7' 'pytest>=8.3,<10' 'pytest-asyncio>=1.0,<2'
"$folder/venv/bin/python" -c 'from importlib.metadata import version as v; print("google-genai", v("google-genai"), "websockets", v("websockets"))'
PYTHONPATH=. "$folder/venv/bin/python" -m pytest \
  tests/models/gemini/test_contract.py tests/models/gemini/test_setup.py tests/models/gemini/test_link.py
