#!/usr/bin/env bash
# Run a training command on all nodes of a Slurm job: slurm/pretrain.sbatch and finetune_vc.sbatch
# end with `exec slurm/launch.sh COMMAND FLAGS`. No ssh between nodes: every rank is in a Slurm step.
#
#   SHARDS  shard folder [shards/pretrain]; copied to each node's local disk, unless STAGE=0
#   RUN     run folder [runs/pretrain]; on a file system that all nodes see
#   VENV    virtual environment [.venv], or `local`: install one on each node's disk, offline
#   MODULES modules to load where there are any [python/3.11 gcc]
#   SLOTS   ranks a node [its GPUs]
#   RETRIES starts again this often in the same job after a crash [2]; wrong input is never retried
#
# A minute or more before the job's time limit Slurm sends SIGUSR1 (#SBATCH --signal=B:USR1@300):
# RUN/STOP is made, the ranks save and leave, the job is requeued and goes on from there.
set -euo pipefail
SHARDS=${SHARDS:-shards/pretrain} RUN=${RUN:-runs/pretrain} VENV=${VENV:-.venv}
STAGE=${STAGE:-1} RETRIES=${RETRIES:-2}
fail() { printf 'error: %s\n  -> %s\n' "$1" "$2" >&2; exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || fail "this is not a Slurm job" "sbatch slurm/pretrain.sbatch"
for word in "$@"; do
  case $word in
    --run | --shards | --run=* | --shards=*)
      fail "$word is among the flags" "set RUN=... and SHARDS=... in the environment" ;;
  esac
done

stopping=0
stop() {
  echo "launch: Slurm announces the end of this job: saving"
  stopping=1
}
trap stop USR1

# Run a command once on each node, in the background, so that this shell hears signals meanwhile.
# While `stopping`, RUN/STOP is made again and again: training may only now be starting.
on_each_node() {
  local code=0
  srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    --kill-on-bad-exit=1 "$@" &
  local step=$!
  while kill -0 "$step" 2>/dev/null; do
    if [ "$stopping" = 1 ]; then mkdir -p "$RUN" && touch "$RUN/STOP"; fi
    sleep 2 &
    wait $! || true # a signal ends `wait`, not `sleep`
  done
  wait "$step" || code=$?
  return "$code"
}

# ---- local disk: caches, environment, shards ----------------------------------------------------
LOCAL=${SLURM_TMPDIR:-${TMPDIR:-/tmp}/$(id -un)-$SLURM_JOB_ID}
hostfile=hostfiles/cc_2x4.$SLURM_JOB_ID
leave() {
  rm -f "$hostfile"
  if [ -z "${SLURM_TMPDIR:-}" ]; then # which Slurm empties itself
    # A cancelled job may start no more steps: then at least this node is tidied.
    srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 rm -rf "$LOCAL" || rm -rf "$LOCAL"
  fi
}
trap leave EXIT
# Compilers' caches on a network file system stall on its locks.
export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$LOCAL/torch_extensions}
export TRITON_CACHE_DIR=$LOCAL/triton TORCHINDUCTOR_CACHE_DIR=$LOCAL/inductor
export MPLCONFIGDIR=$LOCAL/matplotlib
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
set +u
if command -v module >/dev/null; then
  # shellcheck disable=SC2086
  module load ${MODULES:-python/3.11 gcc}
fi
set -u
if [ "$VENV" = local ]; then
  VENV=$LOCAL/venv
  on_each_node bash slurm/install_alliance.sh "$VENV"
fi
[ -f "$VENV/bin/activate" ] || fail "$VENV: no virtual environment" \
  "slurm/install_alliance.sh $VENV   or   VENV=local sbatch ..."
# shellcheck disable=SC1091
source "$VENV/bin/activate"
verify=hash
if [ "$STAGE" = 1 ]; then
  on_each_node python data/stage.py --shards "$SHARDS" --to "$LOCAL/shards"
  SHARDS=$LOCAL/shards verify=size # staging has compared every byte
fi

# ---- hosts, address, port -----------------------------------------------------------------------
hostfiles/make_hostfile.sh ${SLOTS:+"$SLOTS"} > "$hostfile"
# This script runs on the first node, as the first rank will. Below 32768 no outgoing connection is
# given a port by the kernel; the job's number keeps jobs on one node apart.
free_port() {
  python - "$SLURM_JOB_ID" <<'PYTHON'
import socket, sys
start = int(sys.argv[1]) % 12000
for offset in range(12000):
    port = 20000 + (start + offset) % 12000
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            continue
    print(port)
    break
PYTHON
}
address=${MASTER_ADDR:-$(head -n 1 "$hostfile" | cut -d ' ' -f 1)}

# ---- train --------------------------------------------------------------------------------------
# Ignored signals stay ignored through exec: DeepSpeed's first process must not die of what is meant
# for the ranks, and Slurm end the step with it.
node='hostfile=$1 address=$2 port=$3; shift 3; trap "" TERM USR1
exec deepspeed --hostfile "$hostfile" --no_ssh --node_rank "$SLURM_NODEID" \
  --master_addr "$address" --master_port "$port" "$@"'
attempt=0 code=0
while [ "$stopping" = 0 ]; do
  code=0
  rm -f "$RUN/ENDED"
  on_each_node bash -c "$node" node "$hostfile" "$address" "$(free_port)" \
    "$@" --shards "$SHARDS" --verify "$verify" --run "$RUN" || code=$?
  # DeepSpeed returns 0 even when its launcher was killed; only this file says that the run ended.
  if [ "$code" = 0 ] && [ ! -f "$RUN/ENDED" ]; then code=1; fi
  if [ "$code" = 0 ] || [ "$code" = 2 ] || [ "$attempt" -ge "$RETRIES" ]; then break; fi
  attempt=$((attempt + 1))
  echo "launch: ended with code $code; start $attempt of $RETRIES more, from the last checkpoint"
done
if [ "$stopping" = 1 ] && [ "$code" != 2 ]; then
  echo "launch: requeued"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
