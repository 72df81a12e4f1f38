"""Pretrain the masked variational autoencoder on packed EEG shards.

    deepspeed --num_gpus 1 trainer/pretrain.py --preset tiny --shards shards/simulated
    deepspeed --hostfile hostfiles/cc_2x4 trainer/pretrain.py \\
        --deepspeed_config ds_configs/zero2.json

Start the same command again to go on where it stopped. `--num_gpus` counts ranks on a CPU too.
Every flag can be given in the environment instead: EEG_PRESET=tiny is --preset tiny.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.engine.config import RunConfig, add_flags, resolve
from trainer.engine.loop import train
from trainer.engine.start import prepare
from trainer.ranks.ranks import run_ranks


def parse(argv: list[str] | None = None) -> RunConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    return resolve(parser.parse_args(argv))


def main() -> None:
    config = parse()
    start = prepare(config, config.model_config())
    stopped_by = train(start.plan, start.model, start.ranks, start.resume_from)
    if start.ranks.first and stopped_by:
        print("to go on from there, start the same command again", flush=True)
    elif start.ranks.first:
        run = start.plan.run
        print(
            f"done: {run}\n"
            f"  tensorboard --logdir {run.parent}\n"
            f"  python trainer/evaluate.py {run} --shards {config.shards} --out report/",
            flush=True,
        )
    start.end(stopped_by)


if __name__ == "__main__":
    run_ranks(main)
