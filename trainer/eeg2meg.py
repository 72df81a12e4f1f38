"""Train Brainformer to translate EEG to MEG, through transformers' Trainer and DeepSpeed.

    python trainer/eeg2meg.py --d_model 64 --n_heads 4 --n_layers 1 --sequence_length 256
    deepspeed --num_gpus 2 trainer/eeg2meg.py --data shards/pairs --split loso:05 --run runs/NAME

Without --data, pairs are simulated and packed first. Start the same command again to go on where it
stopped. `--num_gpus` counts ranks on a CPU too. Every flag can be given in the environment instead:
EEG2MEG_LAGS=5 is --lags 5. See docs/brainformer.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.engine.config import add_flags, resolve
from trainer.ranks.ranks import run_ranks
from trainer.translation.config import TranslationConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, kind=TranslationConfig)
    config = resolve(parser.parse_args(), kind=TranslationConfig)
    # Here, since --help and a wrong flag should not wait for transformers.
    from trainer.translation.run import train

    train(config)


if __name__ == "__main__":
    run_ranks(main)
