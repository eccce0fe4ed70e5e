#!/bin/sh
# Installs the programs some tests use, where this user may; otherwise says what will be skipped.
# Usage: sh tests/system.sh [python]: the Python of the environment that gets the packages
python="${1:-.venv/bin/python}"
missing=""
export PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)"
for pair in espeak-ng:espeak-ng sox:sox prometheus:prometheus promtool:prometheus chromium:chromium nginx:nginx-light haproxy:haproxy \
  initdb:postgresql redis-server:redis-server; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# People's voices for rehearsals: prompts in two languages, as `offhook voices install en it` installs them.
sounds=/usr/share/asterisk/sounds
for pair in en_US_f_Allison:asterisk-core-sounds-en-wav it_IT_m_Carlo:asterisk-core-sounds-it-wav; do
  [ -d "$sounds/${pair%%:*}" ] || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ] && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "installing:$missing"
  # The services themselves are not wanted: the tests start their own.
  printf '#!/bin/sh\nexit 101\n' > /tmp/offhook-policy-rc.d && chmod +x /tmp/offhook-policy-rc.d
  kept=""
  [ -e /usr/sbin/policy-rc.d ] && kept=1 || cp /tmp/offhook-policy-rc.d /usr/sbin/policy-rc.d
  (apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing) >/tmp/offhook-apt.log 2>&1 \
    || echo "apt-get could not install them: see /tmp/offhook-apt.log"
  [ -n "$kept" ] || rm -f /usr/sbin/policy-rc.d
fi
export PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)"
for pair in espeak-ng sox prometheus promtool chromium nginx haproxy initdb redis-server; do
  command -v "$pair" >/dev/null 2>&1 || echo "not on this machine: $pair (the tests that need it are skipped, or fail when CI=true)"
done
for folder in en_US_f_Allison it_IT_m_Carlo; do
  [ -d "$sounds/$folder" ] || echo "not on this machine: the prompts $folder (the tests that need them are skipped, or fail when CI=true)"
done
# PESQ is compiled where it is installed; the Silero network comes in a wheel that asks for torch, which it does
# not need. Where they cannot be had, their tests are skipped.
pip="$python -m pip install --quiet --disable-pip-version-check"
for spec in 'pesq:pesq>=0.0.4,<0.1' 'onnxruntime:onnxruntime>=1.17,<2' 'silero_vad:--no-deps silero-vad>=6,<7'; do
  module="${spec%%:*}"
  "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" 2>/dev/null && continue
  flags=""; package="${spec#*:}"
  case "$package" in --no-deps*) flags=--no-deps; package="${package#--no-deps }" ;; esac
  $pip $flags "$package" >"/tmp/offhook-$module.log" 2>&1 \
    || echo "$module could not be installed: its tests are skipped, or fail when CI=true"
done
exit 0
