#!/usr/bin/env bash
# Print a DeepSpeed hostfile for the nodes of this Slurm job, in the order of SLURM_NODEID.
#   hostfiles/make_hostfile.sh [SLOTS] > hostfiles/cc_2x4.$SLURM_JOB_ID
# SLOTS: GPUs a node; default: the job's.
set -euo pipefail
fail() { printf 'error: %s\n  -> %s\n' "$1" "$2" >&2; exit 2; }

[ -n "${SLURM_JOB_NODELIST:-}" ] || fail "SLURM_JOB_NODELIST is not set" \
  "run this inside a Slurm job (sbatch, salloc), or write your nodes' names into hostfiles/cc_2x4"
command -v scontrol >/dev/null || fail "scontrol is not on PATH" "load your cluster's slurm module"
slots=${1:-${SLURM_GPUS_ON_NODE:-}}
[ -n "$slots" ] || fail "this job has no GPUs" "ask for them (--gpus-per-node), or give SLOTS"
[[ $slots =~ ^[1-9][0-9]*$ ]] || fail "SLOTS $slots" "give a whole number of GPUs a node, from 1"
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$slots/"
