"""Probe a pretrained encoder: a linear classifier on its frozen features, scored on other people.

    deepspeed --num_gpus 1 trainer/probe.py --init runs/pretrain --shards shards/labelled

Labels come from the shards (label=, labels= or events= of a source of data/pack.py). The best step
is chosen on the people of the split val; those of test are scored, beside the closed forms that an
expert would try (RUN/scores.json). Start the same command again to go on where it stopped. RUN/best
holds the best head.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer.decoding.config import DEFAULTS, ProbeConfig
from trainer.decoding.task import ProbeTask
from trainer.engine.config import add_flags, resolve
from trainer.engine.start import run_task
from trainer.ranks.ranks import run_ranks


def parse(argv: list[str] | None = None) -> ProbeConfig:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, DEFAULTS, ProbeConfig)
    return resolve(parser.parse_args(argv), DEFAULTS, ProbeConfig)


def main() -> None:
    config = parse()
    task = ProbeTask(config)
    done = run_task(task, config)
    if done.whole:
        task.report(done.plan)
        print(f"done: {done.plan.run}/best holds the head and what it reads", flush=True)
    done.end()


if __name__ == "__main__":
    run_ranks(main)
