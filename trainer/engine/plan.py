"""From flags to a checked plan of the run: everything that can be known before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from data.batches.local import WindowDataset
from data.batches.order import TrainingOrder, batch_sizes
from data.errors import InputError
from data.shards.manifest import read_manifest
from data.shards.tars import verify_shard
from data.subjects.reserved import (
    find_reservation,
    own_reservation,
    refuse_reserved,
    refuse_trained,
)
from data.subjects.trained_on import record_of, subjects_of, union_of_records
from trainer.checkpoints.weights import read_description, read_run_config
from trainer.engine.config import RunConfig
from trainer.engine.deepspeed_json import read_deepspeed_config, with_precision
from trainer.engine.task import Plan, Task
from trainer.ranks.ranks import Ranks, together


def make_plan(config: RunConfig, task: Task, world: int) -> Plan:
    """Check settings, shards and task against each other; InputError says what does not fit."""
    deepspeed = with_precision(
        read_deepspeed_config(config.deepspeed_config), config.precision, torch.cuda.is_available()
    )
    config = with_recorded_batch(config, world)
    manifest = read_manifest(config.shards)
    task.check(manifest, config.shards)
    refuse_reserved(manifest, recordings=task.recordings(manifest))
    reservation = find_reservation(config.reserve) if config.reserve else None
    if reservation:
        refuse_reserved(manifest, reservation, task.recordings(manifest))
    training = task.training(manifest)
    if not training:
        raise InputError(f"{config.shards}: no training windows", "pack more subjects")
    micro, accumulation, global_batch = batch_sizes(
        world,
        config.micro_batch or deepspeed.get("train_micro_batch_size_per_gpu"),
        deepspeed.get("gradient_accumulation_steps"),
        config.global_batch,
    )
    config = replace(config, run_length=config.run_length or micro)
    order = None
    if config.shard_url is None:
        order = TrainingOrder(
            tuple(training),
            config.seed,
            global_batch,
            config.run_length,
            config.temperature,
            tuple(sorted(manifest.raw["source"].get("weights", {}).items())),
        )
    deepspeed = {
        **deepspeed,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
    }
    windows = sum(shard.samples for shard in training)
    costs = [(shard.samples, task.cost(shard.channels, shard.window_samples)) for shard in training]
    inherited = read_description(config.init)["trained_on"] if config.init else {}
    for one in filter(None, (own_reservation(manifest), reservation)):
        refuse_trained(f"--init {config.init}", subjects_of(inherited), one)
    return Plan(
        config=config,
        task=task,
        deepspeed=deepspeed,
        manifest=manifest,
        micro=micro,
        accumulation=accumulation,
        global_batch=global_batch,
        order=order,
        flops_per_sample=sum(count * cost.flops for count, cost in costs) / windows,
        tokens_per_sample=sum(count * cost.tokens for count, cost in costs) / windows,
        trained_on=union_of_records(record_of(manifest, task.recordings(manifest)), inherited),
    )


def with_recorded_batch(config: RunConfig, world: int) -> RunConfig:
    """With `--elastic`, the global batch and the order of the data as the run has them; InputError
    where `world` ranks cannot share that batch."""
    if not (config.elastic and (Path(config.run) / "config.json").exists()):
        return config
    old = read_run_config(Path(config.run))
    batch = old["global_batch"]
    if config.global_batch is None and batch % world:
        divisors = [str(n) for n in range(1, batch + 1) if batch % n == 0]
        raise InputError(
            f"--elastic: {config.run} takes {batch} windows a step, which {world} ranks cannot "
            "share evenly",
            f"start {', '.join(divisors[:-1])} or {divisors[-1]} ranks",
        )
    return replace(
        config,
        global_batch=config.global_batch or old["global_batch"],
        run_length=config.run_length or old["run_length"],
    )


def verify_shards(plan: Plan, ranks: Ranks) -> None:
    """Check the shards that this run reads, shared out over the ranks."""
    if plan.order is None:
        return
    with together(ranks):
        dataset = WindowDataset(plan.manifest, plan.manifest.shards)
        for index in range(ranks.rank, len(plan.manifest.shards), ranks.world):
            dataset.readers[index]  # size and headers
            if plan.config.verify == "hash":
                verify_shard(plan.manifest, plan.manifest.shards[index])
