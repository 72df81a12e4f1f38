"""Adapt a pretrained model to the VC recordings' amplitude and spectrum, and report the adaptation.

    deepspeed --num_gpus 1 trainer/finetune_vc.py --shards shards/vc \\
        --init runs/pretrain --run runs/vc

The same masked objective as in pretraining, for a few epochs, with a small learning rate that falls
from the last encoder block to the first. No labels are used: in these recordings class and
recording block coincide, so an accuracy on them says little (docs/vc.md). At the end, masked r,
amplitudes and spectra before and after, on held-out subjects, are written to RUN/adaptation/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
from dataclasses import replace

from data.batches.order import batch_sizes
from data.errors import InputError
from data.flags import Renamed, present
from data.shards.manifest import read_manifest
from model.config import ModelConfig, from_dict
from trainer.checkpoints.weights import read_description
from trainer.engine.config import add_flags, resolve
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.engine.plan import with_recorded_batch
from trainer.engine.start import run_task
from trainer.masked.adaptation import report_adaptation
from trainer.masked.config import MaskedConfig
from trainer.masked.task import MaskedTask
from trainer.ranks.ranks import run_ranks

DEFAULTS = {
    "shards": "shards/vc",
    "init": "runs/pretrain",
    "run": "runs/vc",
    "lr": 5e-5,
    "layer_decay": 0.75,
    "warmup": 0.1,
    "beta_warmup": 0.0,
    "steps": None,
    "eval_every": 50,
    "figure_every": 200,
    "save_every": 200,
}


RENAMED = (Renamed("report_windows", "windows_per_subject"),)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs",
        type=float,
        default=10.0,
        help="passes over the data, where --steps is not given [10]",
    )
    parser.add_argument(
        "--windows_per_subject",
        type=int,
        default=400,
        help="held-out windows of each subject that are scored, evenly spread [400]",
    )
    add_flags(parser, DEFAULTS, MaskedConfig)
    return parser.parse_args(present(argv, RENAMED))


def settings(arguments: argparse.Namespace) -> tuple[MaskedConfig, ModelConfig]:
    """The run, and the model of `--init` with the `--model` changes."""
    changes = dict(DEFAULTS)
    changes["init"] = arguments.init or os.environ.get("EEG_INIT") or DEFAULTS["init"]
    meta = read_description(changes["init"])
    if arguments.preset not in (None, meta["model"]["preset"]):
        raise InputError(
            f"--preset {arguments.preset}: {changes['init']} is {meta['model']['preset']}",
            "leave --preset out: fine-tuning takes the model of --init",
        )
    changes["preset"] = meta["model"]["preset"]
    changes["steps"] = 1
    config = resolve(arguments, changes, MaskedConfig)
    if arguments.steps is None and "EEG_STEPS" not in os.environ:
        config = replace(config, steps=_steps(config, arguments.epochs))
    try:
        return config, from_dict({**meta["model"], **config.model_changes()})
    except (ValueError, TypeError) as error:
        raise InputError(f"--model: {error}", "see model/config.py for the fields") from None


def _steps(config: MaskedConfig, epochs: float) -> int:
    if not epochs > 0:
        raise InputError(f"--epochs {epochs}", "it must be > 0")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = with_recorded_batch(config, world)
    deepspeed = read_deepspeed_config(config.deepspeed_config)
    _, _, global_batch = batch_sizes(
        world,
        config.micro_batch or deepspeed.get("train_micro_batch_size_per_gpu"),
        deepspeed.get("gradient_accumulation_steps"),
        config.global_batch,
    )
    windows = sum(shard.samples for shard in read_manifest(config.shards).of_split("train"))
    return max(1, round(epochs * (windows // global_batch)))


def main() -> None:
    arguments = parse()
    config, model = settings(arguments)
    done = run_task(MaskedTask(config, model), config)
    if done.whole:
        report_adaptation(done.plan, arguments.windows_per_subject, done.ranks.device)
    done.end()


if __name__ == "__main__":
    run_ranks(main)
