#!/bin/sh
# Schemathesis against the API of a served gateway, by the document that it serves: in an environment of its own, whose
# jsonschema-rs is older than ours.
# Usage: sh tests/openapi.sh [python [examples]]
set -eu
cd "$(dirname "$0")/.."
python="${1:-python3}"
folder="$(mktemp -d)"
trap 'kill "$served" 2>/dev/null || true; rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'schemathesis>=4,<5'
"$python" -m tests.web.served_history "$folder" > "$folder/url" &
served=$!
until grep -q http "$folder/url"; do kill -0 "$served"; sleep 0.1; done
"$folder/venv/bin/st" run "$(sed 's/.* //' "$folder/url")/openapi.json" --max-examples "${2:-100}" \
  --header 'Authorization: Bearer only-for-this-test' --exclude-checks ensure_resource_availability  # a placed call has no record until it is over
