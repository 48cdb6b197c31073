#!/usr/bin/env bash
# Writes requirements/dev.txt anew from pyproject.toml: exact versions with their hashes, for every platform.
# Run it after a change of the dependencies and read the difference before it is committed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=$(command -v uv || true)
if [[ -z $uv ]]; then
  tools=.local/lock
  [[ -x $tools/bin/uv ]] || { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet uv; }
  uv=$tools/bin/uv
fi

# No index address and no header: the file must not say where this machine gets its packages from.
"$uv" pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-header --universal \
  --python-version 3.11 --output-file requirements/dev.txt --quiet
