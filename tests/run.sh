#!/usr/bin/env bash
# Installs what the tests need and runs all of them: ruff, pyright, pytest. Usage: bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

python="${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}"
if [ -z "$python" ]; then
  [ -x .venv/bin/python ] || python3 -m venv .venv
  python=.venv/bin/python
fi
"$python" - <<'CHECK' || { echo "Python 3.10 to 3.13 is needed"; exit 1; }
import sys
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
CHECK

"$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt

browser="${FKV_CHROMIUM:-}"
for candidate in chromium chromium-browser google-chrome; do
  [ -n "$browser" ] || browser="$(command -v "$candidate" || true)"
done
if [ -z "$browser" ] && command -v apt-get >/dev/null; then
  as_root="$([ "$(id -u)" = 0 ] || echo sudo)"
  if $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; then
    browser="$(command -v chromium || true)"
  fi
fi
if [ -z "$browser" ]; then
  "$python" -m playwright install --with-deps chromium
fi
export FKV_CHROMIUM="$browser"

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m basedpyright --level error
"$python" -m pytest -q -n 2 --dist loadgroup "$@"
