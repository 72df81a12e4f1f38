#!/usr/bin/env bash
# The whole line on simulated EEG: pack, pretrain, adapt, score, convert, decode. Called by
# `make demo`.
# Everything goes into demo/; each step is skipped or continued where an earlier demo left it.
set -euo pipefail
cd "$(dirname "$0")"
RANKS=${RANKS:-2}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
step() { printf '$ %s\n' "$*"; "$@"; }
# The launcher's own log would hide the run's.
quiet() { grep -v --line-buffered -E '\[(INFO|WARNING)\]|FutureWarning|return func|built successfully'; }
started=$SECONDS

say "1/8  Pack simulated EEG: two montages, 30 subjects each, windows of 1 s"
step python data/pack.py --source simulated:1020-19,subjects=30,minutes=3 \
  --source simulated:biosemi32,subjects=30,minutes=3 --window_s 1 --out demo/shards

say "2/8  Pretrain on $RANKS CPU ranks with DeepSpeed (ZeRO-2, bf16)"
step deepspeed --num_gpus "$RANKS" trainer/pretrain.py --deepspeed_config ds_configs/zero2.json \
  --shards demo/shards --run demo/runs/pretrain --preset tiny --global_batch 32 --steps 600 \
  --run_length 16 --workers 1 --log_every 50 --eval_every 100 --eval_windows 300 \
  --save_every 350 --figure_every 350 2>&1 | quiet

say "3/8  Write a VC-like file of simulated evoked responses and pack it"
[ -f demo/vc.pth ] || step python data/simulate_vc.py --out demo/vc.pth
step python data/pack.py --source vc:demo/vc.pth,montage=biosemi128 --out demo/shards_vc

say "4/8  Adapt the model to it"
step deepspeed --num_gpus "$RANKS" trainer/finetune_vc.py --deepspeed_config ds_configs/zero2.json \
  --shards demo/shards_vc --init demo/runs/pretrain --run demo/runs/vc --global_batch 16 \
  --epochs 6 --workers 1 --log_every 20 2>&1 | quiet

say "5/8  Score the pretrained model on subjects it never saw"
step python trainer/evaluate.py demo/runs/pretrain --shards demo/shards --out demo/report

say "6/8  Convert the pretrained encoder to plain weights, its scores beside them"
step python trainer/convert.py demo/runs/pretrain --out demo/encoder.safetensors \
  --report demo/report/report.json

say "7/8  Pack other simulated people at rest and at a task"
step python data/pack.py --source simulated:1020-19,states=1,subjects=20,minutes=0.5 \
  --window_s 1 --out demo/shards_states

say "8/8  Decode the two states with the frozen encoder, on people that nobody was fitted on"
step python trainer/decode.py --encoder demo/encoder.safetensors --shards demo/shards_states \
  --protocol folds:5 --seeds 1 --out demo/decoding

say "Done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s. Look at:"
find demo/report demo/runs/vc/adaptation demo/decoding -name '*.png' -o -name '*.md' | sort | sed 's/^/  /'
echo "  tensorboard --logdir demo/runs"
