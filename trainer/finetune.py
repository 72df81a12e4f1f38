"""Fine-tune an encoder to classify windows, whole or through LoRA, scored on other people.

    deepspeed --num_gpus 1 trainer/finetune.py --init runs/pretrain --shards shards/labelled
    deepspeed --num_gpus 1 trainer/finetune.py --init runs/pretrain --shards DIR --lora_rank 8
    deepspeed --num_gpus 1 trainer/finetune.py --init runs/pretrain --shards DIR --from_scratch \\
        --run runs/scratch                             # the same network without pretraining

Labels come from the shards (label=, labels= or events= of a source of data/pack.py). The best step
is chosen on the people of the split val; those of test are scored, beside the closed forms that an
expert would try (RUN/scores.json). Start the same command again to go on where it stopped. RUN/best
holds the best weights. Fine-tuning on VC without labels is trainer/finetune_vc.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.decoding.config import FINETUNE_DEFAULTS, FinetuneConfig
from trainer.decoding.finetune import FinetuneTask
from trainer.engine.config import add_flags, resolve
from trainer.engine.start import run_task
from trainer.ranks.ranks import run_ranks


def parse(argv: list[str] | None = None) -> FinetuneConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, FINETUNE_DEFAULTS, FinetuneConfig)
    return resolve(parser.parse_args(argv), FINETUNE_DEFAULTS, FinetuneConfig)


def main() -> None:
    config = parse()
    task = FinetuneTask(config)
    done = run_task(task, config)
    if done.whole:
        task.report(done.plan, done.ranks.device)
        print(f"done: {done.plan.run}/best holds the encoder and the head", flush=True)
    done.end()


if __name__ == "__main__":
    run_ranks(main)
