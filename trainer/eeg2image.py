"""Train a network to name the picture that was seen.

    python trainer/eeg2image.py                            # simulated people and pictures
    deepspeed --num_gpus 4 trainer/eeg2image.py --shards shards/things2-training \\
        --images embeddings/vit-h --trunk encoder --init encoder.safetensors --protocol within:01
    deepspeed --num_gpus 4 trainer/eeg2image.py ... --protocol loso:01 --run runs/image-loso-01

--shards holds training trials; test trials lie in a folder of their own, which only
trainer/eval_eeg2image.py opens. The step is chosen on concepts that nothing was trained on. Start
the same command again to go on where it stopped. RUN/best holds the best weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.engine.config import add_flags, resolve
from trainer.engine.start import run_task
from trainer.images.config import ImagesConfig
from trainer.images.task import ImagesTask
from trainer.ranks.ranks import run_ranks


def parse(argv: list[str] | None = None) -> ImagesConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, kind=ImagesConfig)
    return resolve(parser.parse_args(argv), kind=ImagesConfig)


def main() -> None:
    config = parse()
    done = run_task(ImagesTask(config), config)
    if done.whole:
        print(
            f"done: {done.plan.run}/best\n  python trainer/eval_eeg2image.py {done.plan.run} "
            "--out report/",
            flush=True,
        )
    done.end()


if __name__ == "__main__":
    run_ranks(main)
