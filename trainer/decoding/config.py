"""The settings of classifiers of windows: the engine's, and where the encoder is."""

from __future__ import annotations

from dataclasses import dataclass, fields

from data.errors import InputError
from model.pooling import POOLS
from trainer.engine.config import RunConfig, option

DEFAULTS = {
    "run": "runs/probe",
    "lr": 1e-2,
    "steps": 500,
    "warmup": 0.02,
    "weight_decay": 0.0,
    "eval_every": 50,
    "eval_windows": 2048,
    "save_every": 100,
    "figure_every": 0,
}


@dataclass(frozen=True)
class ProbeConfig(RunConfig):
    """One linear probe. `--init` is the encoder: a run folder or converted weights."""

    fit_windows: int = option(4096, "training windows that fit the closed forms of the report")
    test_windows: int = option(4096, "windows of the split test that the report scores")

    def __post_init__(self):
        super().__post_init__()
        if self.init is None:
            raise InputError("--init is missing", "give the encoder: a run folder or weights")
        for name, least in (("fit_windows", 2), ("test_windows", 2), ("eval_every", 1),
                            ("eval_windows", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}", f"it must be at least {least}")
        if self.shard_url:
            raise InputError("--shard_url with a probe", "labels are read from local shards")


assert {*DEFAULTS} <= {entry.name for entry in fields(ProbeConfig)}


FINETUNE_DEFAULTS = {
    "run": "runs/finetune",
    "lr": 5e-4,
    "steps": 500,
    "warmup": 0.1,
    "eval_every": 50,
    "eval_windows": 2048,
    "save_every": 100,
    "figure_every": 0,
    "layer_decay": 0.75,
}


@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """One fine-tuning. `--init` is the encoder: a run folder or converted weights."""

    people: str = option("", "JSON of who is in train, val and test, instead of the shards' splits")
    pool: str = option("mean_std", f"what the head reads of the tokens: {', '.join(POOLS)}")
    layer_decay: float = option(1.0, "learning-rate factor from an encoder block to the one below")
    from_scratch: bool = option(
        False,
        "start from the first weights of --init's network: what "
        "pretraining gives is the difference",
    )
    lora_rank: int = option(0, "train low-rank updates of this rank, not the encoder; 0: whole")
    label_smoothing: float = option(0.1, "share of the target that is spread over all classes")
    fit_windows: int = option(4096, "training windows that fit the closed forms of the report")
    test_windows: int = option(4096, "windows of the split test that the report scores")

    def __post_init__(self):
        super().__post_init__()

        def check(name: str, good: bool, remedy: str) -> None:
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", remedy)

        check("pool", self.pool in POOLS, f"use one of {', '.join(POOLS)}")
        check("layer_decay", 0 < self.layer_decay <= 1, "it must lie between 0 and 1")
        check("lora_rank", self.lora_rank >= 0, "it must not be negative")
        check("label_smoothing", 0 <= self.label_smoothing < 1, "it must lie between 0 and 1")
        for name, least in (("fit_windows", 2), ("test_windows", 2), ("eval_every", 1),
                            ("eval_windows", 1)):  # fmt: skip
            check(name, getattr(self, name) >= least, f"it must be at least {least}")
        if self.init is None:
            raise InputError("--init is missing", "give the encoder: a run folder or weights")
        if self.lora_rank and self.from_scratch:
            raise InputError("--lora_rank with --from_scratch", "there is nothing to adapt")
        if self.shard_url:
            raise InputError("--shard_url with labels", "labels are read from local shards")


assert {*FINETUNE_DEFAULTS} <= {entry.name for entry in fields(FinetuneConfig)}
