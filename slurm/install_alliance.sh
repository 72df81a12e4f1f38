#!/usr/bin/env bash
# Install everything from an Alliance cluster's own wheels: no network is needed.
#   slurm/install_alliance.sh [FOLDER]      FOLDER: the virtual environment [.venv]
# On a login node, into a folder that all nodes see; or in a job, onto the local disk (VENV=local in
# slurm/launch.sh). WHEELS=DIR adds a folder of wheels of your own (pip download -d DIR ... on a
# machine with a network). MODULES names the modules [python/3.11 gcc].
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv}
fail() { printf 'error: %s\n  -> %s\n' "$1" "$2" >&2; exit 2; }

set +u # Lmod reads unset variables
if command -v module >/dev/null; then
  # shellcheck disable=SC2086
  module load ${MODULES:-python/3.11 gcc} || fail "module load failed" \
    "see 'module avail python', and set MODULES='python/3.12 gcc'"
fi
set -u
python=$(command -v python3) || fail "no python3 on PATH" "module load python/3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail \
  "$("$python" --version) is older than 3.10" "module load python/3.11"
if command -v virtualenv >/dev/null; then
  virtualenv --quiet --no-download "$folder"
else
  "$python" -m venv "$folder"
fi
if ! "$folder/bin/pip" install --quiet --no-index ${WHEELS:+--find-links "$WHEELS"} \
  -r requirements.txt; then
  fail "a package is not among the wheels of this machine (see above)" \
    "avail_wheels NAME shows its versions; or bring wheels yourself and set WHEELS=DIR"
fi
"$folder/bin/python" -c 'import torch, deepspeed, mne, moabb, webdataset' >/dev/null
echo "installed into $folder; try it: $folder/bin/python trainer/doctor.py"
