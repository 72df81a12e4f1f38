#!/usr/bin/env bash
# From EEG to the picture that was seen, on simulated people: train, score, draw. Called by
# `make demo-images`. Everything goes into demo/images; what is there is not made again.
set -euo pipefail
cd "$(dirname "$0")"
RANKS=${RANKS:-2}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
step() { printf '$ %s\n' "$*"; "$@"; }
# The launcher's own log would hide the run's.
quiet() { grep -v --line-buffered -E '\[(INFO|WARNING)\]|FutureWarning|return func|built successfully'; }
train() {
  step deepspeed --num_gpus "$RANKS" trainer/eeg2image.py --deepspeed_config ds_configs/zero2.json \
    --log_every 100 --save_every 500 --workers 1 "$@" 2>&1 | quiet
}
started=$SECONDS

say "1/5  Simulate four people who look at 1,950 pictures, and train on the pictures of 300 concepts"
train --run demo/images/aligned

say "2/5  A flat network, for comparison"
train --run demo/images/flat --trunk flat

say "3/5  A control: the same network, trained on pictures permuted over the training set"
train --run demo/images/permuted --permute

say "4/5  Open the test trials: 200 pictures of concepts that nothing was trained on"
step python trainer/eval_eeg2image.py demo/images/aligned demo/images/flat demo/images/permuted \
  --out demo/images/report 2>&1 | quiet

say "5/5  Draw the pictures that were seen"
step python trainer/reconstruct.py demo/images/aligned --out demo/images/drawn 2>&1 | quiet

say "Done in $((SECONDS - started)) s. Look at demo/images/report/report.png and demo/images/drawn/sheet.png"
