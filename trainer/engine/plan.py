"""From flags to a checked plan of the run: everything that can be known before the first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from data.batches.local import WindowDataset
from data.batches.order import TrainingOrder, batch_sizes
from data.errors import InputError
from data.shards.manifest import Manifest, read_manifest
from data.shards.tars import verify_shard
from data.subjects.reserved import (
    find_reservation,
    own_reservation,
    refuse_reserved,
    refuse_trained,
)
from data.subjects.trained_on import record_of, subjects_of, union_of_records
from model.config import ModelConfig
from model.flops import training_flops
from trainer.checkpoints.weights import read_description, read_run_config
from trainer.engine.config import RunConfig
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.ranks.ranks import Ranks, broadcast_object, together


@dataclass(frozen=True)
class Plan:
    """One run, resolved. `order` is None where shards are streamed from a URL."""

    config: RunConfig
    deepspeed: dict
    model: ModelConfig
    manifest: Manifest
    micro: int
    accumulation: int
    global_batch: int
    order: TrainingOrder | None
    flops_per_sample: float
    tokens_per_sample: float
    inherited: dict
    """What the weights of `--init` were trained on (data/subjects/trained_on.py); empty
    without.
    """

    @property
    def run(self) -> Path:
        return Path(self.config.run)

    def as_dict(self) -> dict:
        """What config.json holds (with versions and git state)."""
        return {
            "run": self.config.as_dict(),
            "deepspeed": self.deepspeed,
            "model": self.model.as_dict(),
            "profile": self.manifest.profile,
            "manifest_sha256": self.manifest.sha256,
            "trained_on": union_of_records(record_of(self.manifest), self.inherited),
            "seed": self.config.seed,
            "micro_batch": self.micro,
            "accumulation": self.accumulation,
            "global_batch": self.global_batch,
            "run_length": self.config.run_length,
            "temperature": self.config.temperature,
            "flops_per_sample": self.flops_per_sample,
        }


def make_plan(config: RunConfig, model: ModelConfig, world: int) -> Plan:
    """Check settings, shards and model against each other; InputError says what does not fit."""
    deepspeed = read_deepspeed_config(config.deepspeed_config)
    config = with_recorded_batch(config, world)
    manifest = read_manifest(config.shards)
    refuse_reserved(manifest)
    reservation = find_reservation(config.reserve) if config.reserve else None
    if reservation:
        refuse_reserved(manifest, reservation)
    check_fit(model, manifest, config.shards)
    training = manifest.of_split("train")
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
    flops, tokens = (
        sum(shard.samples * count(shard.channels, shard.window_samples) for shard in training)
        / windows
        for count in (lambda c, t: training_flops(model, c, t), model.token_count)
    )
    inherited = read_description(config.init)["trained_on"] if config.init else {}
    for one in filter(None, (own_reservation(manifest), reservation)):
        refuse_trained(f"--init {config.init}", subjects_of(inherited), one)
    return Plan(
        config=config,
        deepspeed=deepspeed,
        model=model,
        manifest=manifest,
        micro=micro,
        accumulation=accumulation,
        global_batch=global_batch,
        order=order,
        flops_per_sample=flops,
        tokens_per_sample=tokens,
        inherited=inherited,
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


def check_fit(model: ModelConfig, manifest: Manifest, where: str) -> None:
    """Whether a model can take a folder's windows."""
    rate = manifest.profile["sfreq_hz"]
    if rate != model.sfreq_hz:
        raise InputError(
            f"preset {model.preset} is made for {model.sfreq_hz:g} Hz, {where} holds {rate:g} Hz",
            f"pack with another --profile, take another --preset, or --model sfreq_hz={rate:g}",
        )
    for shard in manifest.shards:
        tokens = model.token_count(shard.channels, shard.window_samples)
        if tokens < 2:
            raise InputError(
                f"{where}/{shard.file}: windows of {shard.window_samples} samples give {tokens} "
                f"token(s) of {model.patch_samples} samples",
                "pack longer windows (--window_s), or set --model patch_samples=SMALLER",
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


def can_validate(plan: Plan, ranks: Ranks) -> bool:
    """Whether there are held-out windows to read: a run that streams its training shards may have
    only the manifest in its folder."""
    held_out = plan.manifest.of_split("val")
    here = bool(held_out) and all(plan.manifest.path(shard).is_file() for shard in held_out)
    here = broadcast_object(here, ranks)
    if held_out and not here and ranks.first:
        print(
            f"no validation: {plan.config.shards} lacks the val shards of its manifest", flush=True
        )
    return here
