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

from trainer.engine.config import add_flags, resolve
from trainer.engine.start import run_task
from trainer.masked.config import MaskedConfig
from trainer.masked.task import MaskedTask
from trainer.ranks.ranks import run_ranks


def parse(argv: list[str] | None = None) -> MaskedConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, kind=MaskedConfig)
    return resolve(parser.parse_args(argv), kind=MaskedConfig)


def main() -> None:
    config = parse()
    done = run_task(MaskedTask(config, config.model_config()), config)
    if done.whole:
        run = done.plan.run
        print(
            f"done: {run}\n"
            f"  tensorboard --logdir {run.parent}\n"
            f"  python trainer/evaluate.py {run} --shards {config.shards} --out report/",
            flush=True,
        )
    done.end()


if __name__ == "__main__":
    run_ranks(main)
