"""What is trained: the one thing that the loop does not know.

A `Task` says which model, which batches and which loss; the engine owns the steps, the schedule of
the learning rate, ranks, checkpoints, resume, logs and early stopping. A new objective is one file
with a Task and one command that calls `trainer.engine.start.run_task` (docs/extending.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from data.batches.batch import Batch, Prepare, TrainingWindows
from data.batches.order import Block, TrainingOrder
from data.shards.manifest import Manifest, ShardEntry
from model.losses import LossTerms
from trainer.engine.config import RunConfig
from trainer.engine.optim import parameter_groups
from trainer.ranks.ranks import Ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEST = "best"
"""In a run folder: what the task wrote of its best weights (see `Task.criterion`)."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `applied` steps changed the weights; it is what schedules depend on."""

    step: int
    applied: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Cost:
    """Of training on one window: floating-point operations (forward and backward), and tokens."""

    flops: float
    tokens: float


class Validate(Protocol):
    def __call__(self, engine: nn.Module) -> dict[str, float]:
        """Values of the held-out windows; every rank calls it."""


class Task(ABC):
    """An objective. Methods get the run's resolved `Plan`; those above the line must be written."""

    name: str
    """In config.json, by which a resume knows its task."""
    shown: tuple[str, ...] = ("loss",)
    """Logged values that the printed line shows."""
    criterion: str | None = None
    """A value of validation to minimise: keeps RUN/best up to date and serves --patience."""

    @abstractmethod
    def describe(self) -> dict:
        """Entries of config.json ("model": ...) that a resume must find unchanged."""

    @abstractmethod
    def check(self, manifest: Manifest, where: str) -> None:
        """InputError where the shards (of the folder `where`) and the objective do not fit."""

    @abstractmethod
    def build_model(self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print):
        """The model, the same on all ranks: from the seed or `--init`; not `fresh`: a checkpoint
        will replace its weights. `say` prints a line on the first rank."""

    @abstractmethod
    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        """Of one micro-batch on the device; `engine` is called as the model is."""

    @abstractmethod
    def open_validation(self, plan: Plan, ranks: Ranks) -> Validate:
        """Reads the held-out windows once; all ranks stop together where one cannot."""

    @abstractmethod
    def cost(self, channels: int, samples: int) -> Cost:
        """Of one window."""

    # ---- and these where the default does not do -------------------------------------------------

    def ready(self, config: RunConfig, ranks: Ranks) -> RunConfig:
        """The settings, with what must be made before shards are read; every rank calls it."""
        return config

    def recordings(self, manifest: Manifest) -> Sequence[dict]:
        """The manifest's entries, each with the `split` that it belongs to in this task."""
        return manifest.recordings

    def training(self, manifest: Manifest) -> Sequence[ShardEntry | Block]:
        """What an epoch is made of, in the order in which its windows are numbered."""
        return manifest.of_split("train")

    def held_out(self, manifest: Manifest) -> Sequence[ShardEntry]:
        """The shards that validation reads; without any there is none."""
        return manifest.of_split("val")

    def open(self, plan: Plan, ranks: Ranks, fresh: bool) -> None:
        """What the ranks compute or read together before the model is made; every rank calls it.
        Not `fresh`: the run goes on, and what it computed then is in its config.json."""
        return None

    def fixed(self) -> dict:
        """What else a resume must find unchanged, beside the task's name in config.json."""
        return {}

    def prepare(self, plan: Plan) -> Prepare | None:
        """What the loader's workers do to each training batch."""
        return None

    def dataset(self, plan: Plan) -> TrainingWindows | None:
        """The windows of `training`, by their numbers; None: those of the training shards."""
        return None

    def parameter_groups(self, model: nn.Module, plan: Plan) -> list[dict]:
        """Groups for AdamW, each with its `weight_decay` and `lr_scale`."""
        return parameter_groups(model, plan.config.weight_decay)

    def summarise(self, vectors: dict[str, torch.Tensor]) -> dict[str, float]:
        """Logged values of the averaged `LossTerms.vectors`."""
        return {}

    def validation_line(self, values: dict[str, float]) -> str:
        """What is printed of a validation."""
        return ", ".join(f"{name} {value:.4f}" for name, value in values.items())

    def figures(self, model: nn.Module, plan: Plan, ranks: Ranks) -> dict[str, Figure]:
        """For TensorBoard, every `--figure_every` steps; every rank calls it."""
        return {}

    def fixed_loss(self, engine: nn.Module, device: torch.device) -> float | None:
        """The loss on a fixed batch, kept in the checkpoint: what a converted model must give."""
        return None

    def write_best(
        self, folder: Path, weights: dict[str, torch.Tensor], plan: Plan, reached: dict
    ) -> None:
        """Write the weights of the lowest `criterion` (fp32 on the CPU, as the model's state dict)
        into an empty folder; only the first rank calls it. reached: "step", and the values of that
        validation."""
        raise NotImplementedError(f"{self.name} has a criterion and no write_best")

    def summary(self, model: nn.Module, plan: Plan) -> str:
        """The model in a line, printed before the first step; more lines may follow."""
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        return f"{self.name}: {millions:.2f} M parameters"


@dataclass(frozen=True)
class Plan:
    """One run, resolved. `order` is None where shards are streamed from a URL."""

    config: RunConfig
    task: Task
    deepspeed: dict
    manifest: Manifest
    micro: int
    accumulation: int
    global_batch: int
    order: TrainingOrder | None
    flops_per_sample: float
    tokens_per_sample: float
    trained_on: dict
    """The training split's people and recordings, and those of the weights of `--init`
    (data/subjects/trained_on.py)."""

    @property
    def run(self) -> Path:
        return Path(self.config.run)

    def as_dict(self) -> dict:
        """What config.json holds (with versions and git state)."""
        return {
            "task": {"name": self.task.name, **self.task.fixed()},
            "run": self.config.as_dict(),
            "deepspeed": self.deepspeed,
            **self.task.describe(),
            "profile": self.manifest.profile,
            "manifest_sha256": self.manifest.sha256,
            "trained_on": self.trained_on,
            "seed": self.config.seed,
            "micro_batch": self.micro,
            "accumulation": self.accumulation,
            "global_batch": self.global_batch,
            "run_length": self.config.run_length,
            "temperature": self.config.temperature,
            "flops_per_sample": self.flops_per_sample,
        }
