"""What a run will cost, before it is queued: tokens, FLOPs, hours, bytes.

    python trainer/estimate.py --shards shards/pretrain --preset base --gpus 8 --mfu 0.4
    python trainer/estimate.py --shards shards/pretrain --preset large --measure [--recompute]

Counts come from the manifest's shapes and model/flops.py; the MFU is yours to give (a run logs the
one it reaches). The default peak is an H100's or H200's in bf16 without sparsity. `--measure` finds
by trying the largest micro-batch that this GPU can train.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # repo root, not this directory

import argparse
import json

from data.errors import InputError, run_command
from data.files import readable
from data.shards.manifest import Manifest, read_manifest
from model.config import PRESETS, ModelConfig
from model.flops import training_flops
from trainer.masked.config import MaskedConfig
from trainer.masked.initial import check_fit


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python trainer/estimate.py",
        description="Estimate tokens, FLOPs, hours and bytes of pretraining on a shard folder.",
    )
    add = parser.add_argument
    add(
        "--shards",
        type=Path,
        default=Path("shards/pretrain"),
        help="folder that data/pack.py wrote",
    )
    add("--preset", default="base", help=f"model size: {', '.join(PRESETS)} [base]")
    add("--model", action="append", metavar="KEY=VALUE", help="change a model field; repeatable")
    add("--gpus", type=int, default=8, help="devices [8]")
    add("--tflops", type=float, default=990.0, help="peak of one device, TFLOP/s [990]")
    add("--mfu", type=float, default=0.4, help="share of the peak that is reached [0.4]")
    add("--epochs", type=float, default=1.0, help="passes over the training windows [1]")
    add("--measure", action="store_true", help="find the largest micro-batch of this GPU instead")
    add("--recompute", action="store_true", help="measure with activations recomputed")
    add("--deepspeed_config", default=MaskedConfig.deepspeed_config,
        help=f"measure with this DeepSpeed JSON [{MaskedConfig.deepspeed_config}]")  # fmt: skip
    add("--json", action="store_true", help="print the numbers as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    config = MaskedConfig(
        shards=str(args.shards), preset=args.preset, model=tuple(args.model or ()),
        recompute=args.recompute, deepspeed_config=args.deepspeed_config,
    )  # fmt: skip
    if args.measure:
        # Here, since DeepSpeed takes seconds to import where only counts are asked for.
        from trainer.preflight.largest import measure

        print(measure(config))
        return 0
    for name, good in (
        ("gpus", args.gpus >= 1), ("tflops", args.tflops > 0), ("mfu", 0 < args.mfu <= 1),
        ("epochs", args.epochs > 0),
    ):  # fmt: skip
        if not good:
            raise InputError(f"--{name} {getattr(args, name)}", "give a number > 0 (mfu: up to 1)")
    model = config.model_config()
    manifest = read_manifest(args.shards)
    check_fit(model, manifest, str(args.shards))
    if not manifest.of_split("train"):
        raise InputError(f"{args.shards}: no training windows", "pack more subjects")
    found = estimate(manifest, model, args.gpus, args.tflops, args.mfu, args.epochs)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print(describe(found, args))
    return 0


def estimate(
    manifest: Manifest,
    model: ModelConfig,
    gpus: int = 8,
    tflops: float = 990.0,
    mfu: float = 0.4,
    epochs: float = 1.0,
) -> dict[str, float]:
    """Counts of `epochs` epochs over the training split, and the hours that they take.

    tokens: all, hidden ones included; flops: forward and backward; windows_per_s_per_gpu: what the
    loader must give each rank at that speed.
    """
    windows = tokens = flops = size = 0
    for shard in manifest.of_split("train"):
        shape = shard.channels, shard.window_samples
        windows += shard.samples
        tokens += shard.samples * model.token_count(*shape)
        flops += shard.samples * training_flops(model, *shape)
        size += shard.bytes
    seconds = epochs * flops / (gpus * tflops * 1e12 * mfu)
    return {
        "windows": epochs * windows,
        "tokens": epochs * tokens,
        "flops": epochs * flops,
        "flops_per_window": flops / windows,
        "bytes": epochs * size,
        "hours": seconds / 3600,
        "gpu_hours": gpus * seconds / 3600,
        "windows_per_s_per_gpu": epochs * windows / seconds / gpus,
        "bytes_per_s_per_gpu": epochs * size / seconds / gpus,
    }


def describe(found: dict[str, float], args: argparse.Namespace) -> str:
    rate = found["bytes_per_s_per_gpu"]
    return (
        f"{args.epochs:g} epoch{'s' * (args.epochs != 1)} of {args.shards}, preset {args.preset}\n"
        f"  windows   {found['windows']:,.0f}\n"
        f"  tokens    {found['tokens']:.3g}\n"
        f"  FLOPs     {found['flops']:.3g} ({found['flops_per_window'] / 1e9:.3g} GFLOP a window, "
        "forward and backward)\n"
        f"  bytes     {readable(found['bytes'])}\n"
        f"  time      {_duration(found['hours'])} on {args.gpus} devices of {args.tflops:g} "
        f"TFLOP/s at an MFU of {args.mfu:.0%} ({found['gpu_hours']:.3g} device hours)\n"
        f"  loading   {found['windows_per_s_per_gpu']:,.0f} windows/s a device "
        f"({readable(rate)}/s)"
    )


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{60 * hours:.3g} min" if hours >= 1 / 60 else f"{3600 * hours:.3g} s"


if __name__ == "__main__":
    run_command(main)
