"""Train Brainformer to translate EEG to MEG.

    python trainer/eeg2meg.py --model d_model=64 --sequence_length 256
    deepspeed --num_gpus 2 trainer/eeg2meg.py --shards shards/pairs --holdout loso:05

Without --shards, pairs are simulated and packed first. Start the same command again to go on where
it stopped. `--num_gpus` counts ranks on a CPU too. Every flag can be given in the environment
instead: EEG_STEPS=100 is --steps 100. See docs/brainformer.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.flags import present
from trainer.engine.config import add_flags, resolve
from trainer.engine.start import run_task
from trainer.ranks.ranks import run_ranks
from trainer.translation.config import FORMER_ENVIRONMENT, RENAMED, TranslationConfig
from trainer.translation.export import read_description
from trainer.translation.task import TranslationTask


def parse(argv: list[str] | None = None) -> TranslationConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, kind=TranslationConfig)
    words = present(argv, RENAMED, FORMER_ENVIRONMENT)
    return resolve(parser.parse_args(words), kind=TranslationConfig)


def main() -> None:
    config = parse()
    done = run_task(TranslationTask(config), config)
    if done.whole:
        run = done.plan.run
        best = read_description(run / "best")["validation"]
        print(
            f"done: {run}, best validation error {best['error']:.4f} at step {best['step']}\n"
            f"  tensorboard --logdir {run.parent}\n"
            f"  python trainer/eval_eeg2meg.py {run} --shards {done.plan.config.shards} "
            "--out report/",
            flush=True,
        )
    done.end()


if __name__ == "__main__":
    run_ranks(main)
