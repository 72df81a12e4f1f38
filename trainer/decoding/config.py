"""The settings of a linear probe: the engine's, and where its encoder is."""

from __future__ import annotations

from dataclasses import dataclass, fields

from data.errors import InputError
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
