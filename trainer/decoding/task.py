"""Classifying windows as a task of the one loop: what its kinds share, and a linear probe of a
frozen encoder.

Only the head is trained and checkpointed (a few kB). The encoder is `--init`, known by the hash of
its weights; it computes the features of every labelled window once, in fp32, the windows divided
among the ranks: the price of one epoch's forward pass, and host memory for 4 D bytes a window.
Scores are of people that neither the probe nor the encoder was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from data.batches.batch import Batch
from data.batches.window_table import NO_LABEL, AddFields
from data.files import write_atomic
from data.shards.manifest import Manifest
from model.config import from_dict
from model.losses import LossTerms
from trainer.checkpoints.weights import load_model
from trainer.decoding.config import FinetuneConfig, ProbeConfig
from trainer.decoding.reporting.report import report
from trainer.decoding.statistics import balanced_accuracy, by_person
from trainer.decoding.windows import (
    Known,
    Labelled,
    check_encoder,
    features,
    features_of,
    weights_hash,
)
from trainer.engine.task import BEST, Cost, Plan, Progress, Task
from trainer.ranks.ranks import Ranks, broadcast_object


class LinearHead(nn.Module):
    """Features `[B, D]` -> fp32 logits `[B, K]`. Starts at zero: every class is equally likely."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features.to(self.linear.weight.dtype)).float()


class ClassifyTask(Task):
    """What a probe and a fine-tuning share: labels, loss, validation."""

    shown = ("loss", "accuracy")
    criterion = "error"

    def __init__(self, config: ProbeConfig | FinetuneConfig):
        self.config = config

    def check(self, manifest: Manifest, where: str) -> None:
        self.encoder, self.meta = load_model(self.config.init, need="encoder")
        self.model = from_dict(self.meta["model"])
        self.labelled, scored = self.read_labelled(manifest, where)
        check_encoder(
            self.config.init, self.model, self.meta.get("trained_on"), manifest, where, scored
        )

    def read_labelled(self, manifest: Manifest, where: str) -> tuple[Labelled, list | None]:
        """The labelled windows of the splits; and the held-out recordings where they are not those
        of the folder's splits."""
        return Labelled.read(manifest, where), None

    def prepare(self, plan: Plan) -> AddFields:
        return AddFields(self.labelled.tables["train"], ("label",))

    def cross_entropy(
        self, logits: torch.Tensor, batches: list[Batch], smoothing: float = 0.0
    ) -> LossTerms:
        """In which all classes count alike; windows without a label count nothing."""
        truth = self.labelled.target(torch.cat([batch.label for batch in batches]))
        weights = self.labelled.weights().to(logits.device)
        each = F.cross_entropy(
            logits, truth, weights, ignore_index=-1, reduction="none", label_smoothing=smoothing
        )
        known = truth >= 0
        count = known.sum().clamp_min(1)
        right = ((logits.argmax(1) == truth) & known).sum() / count
        return LossTerms(each.sum() / count, {"accuracy": right.float()}, {"nll": each.detach()})

    def held_out_values(
        self, logits: torch.Tensor, truth: np.ndarray, person: np.ndarray, ranks: Ranks
    ) -> dict[str, float]:
        """Of logits `[n, K]` on the CPU; the first rank's on all."""
        predicted = logits.argmax(1).numpy()
        accuracy = balanced_accuracy(truth, predicted)
        values = {
            "error": 1 - accuracy,
            "balanced_accuracy": accuracy,
            "person_accuracy": float(by_person(truth, predicted, person).mean()),
            "nll": F.cross_entropy(logits, torch.from_numpy(truth)).item(),
        }
        return broadcast_object(values, ranks)  # what decides must be equal to the last bit

    def validation_line(self, values: dict[str, float]) -> str:
        return (
            f"held-out balanced accuracy {values['balanced_accuracy']:.4f}, mean over people "
            f"{values['person_accuracy']:.4f} (chance {1 / len(self.labelled.classes):.4f})"
        )


class ProbeTask(ClassifyTask):
    name = "probe"

    def check(self, manifest: Manifest, where: str) -> None:
        super().check(manifest, where)
        self.encoder.requires_grad_(False)

    def describe(self) -> dict:
        return {"model": self.meta["model"]}

    def fixed(self) -> dict:
        return {
            "encoder_sha256": weights_hash(self.encoder.encoder),
            "labels": self.labelled.names,
        }

    def open(self, plan: Plan, ranks: Ranks, fresh: bool) -> None:
        """The features of all labelled training windows, once: the encoder does not change."""
        self.encoder.to(ranks.device)
        table = self.labelled.tables["train"]
        windows = np.flatnonzero(table.label != NO_LABEL)
        self.features = self._features_of("train", windows, plan, ranks)
        found = self.features[windows]
        self.mean, self.std = found.mean(0), found.std(0).clamp_min(1e-6)

    def _features_of(
        self, split: str, windows: np.ndarray, plan: Plan, ranks: Ranks
    ) -> torch.Tensor:
        """fp32 `[windows of the split, D]`: 0 where they are not asked for."""
        found = features_of(self.encoder, plan.manifest, split, windows, ranks)
        whole = torch.zeros(len(self.labelled.tables[split].label), found.shape[1])
        whole[windows] = found
        return whole

    def build_model(
        self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print
    ) -> LinearHead:
        return LinearHead(len(self.mean), len(self.labelled.classes))

    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        self.features = self.features.to(batches[0].eeg.device)
        windows = torch.cat([batch.window for batch in batches])
        return self.cross_entropy(engine(self._standardised(self.features[windows])), batches)

    def _standardised(self, found: torch.Tensor) -> torch.Tensor:
        return (found - self.mean.to(found.device)) / self.std.to(found.device)

    def open_validation(self, plan: Plan, ranks: Ranks) -> Callable[[nn.Module], dict[str, float]]:
        chosen = self.labelled.spread("val", plan.config.eval_windows)
        found = self._features_of("val", chosen, plan, ranks)
        standard = self._standardised(found[chosen]).to(ranks.device)
        truth, person = self.labelled.known("val", chosen)

        def validate(engine: nn.Module) -> dict[str, float]:
            with torch.no_grad():
                logits = engine(standard).cpu()
            return self.held_out_values(logits, truth, person, ranks)

        return validate

    def cost(self, channels: int, samples: int) -> Cost:
        """Of the head: the encoder has done its work before the first step."""
        return Cost(6 * self.model.width * len(self.labelled.classes), 1)

    def write_best(
        self, folder: Path, weights: dict[str, torch.Tensor], plan: Plan, reached: dict
    ) -> None:
        """probe.safetensors: the head, and the mean and deviation of the features before it;
        probe.json: which encoder, and the labels in the order of the logits."""
        from safetensors.torch import save_file

        standard = {"features.mean": self.mean, "features.std": self.std}
        save_file({**weights, **standard}, folder / "probe.safetensors")
        about = {"init": self.config.init, **self.fixed()}
        write_atomic(folder / "probe.json", (json.dumps(about, indent=1) + "\n").encode())

    def summary(self, model: LinearHead, plan: Plan) -> str:
        return (
            f"linear probe of {self.config.init} (frozen): {model.linear.in_features} features, "
            f"labels {', '.join(self.labelled.names)}"
        )

    def report(self, plan: Plan) -> dict:
        """Score RUN/best on people that nothing was chosen on (trainer/decoding/reporting)."""

        def classes_of(held: Known) -> np.ndarray:
            found = torch.cat([features(self.encoder, batch) for batch in held.batches])
            return head_classes(plan.run / BEST, found)

        return report(plan, self.labelled, "this probe", classes_of, self.encoder)


def head_classes(best: Path, found: torch.Tensor) -> np.ndarray:
    """Classes of features `[n, D]` by a probe's RUN/best, int64 `[n]`."""
    state = load_file(best / "probe.safetensors")
    standard = (found - state["features.mean"]) / state["features.std"]
    logits = standard @ state["linear.weight"].T + state["linear.bias"]
    return logits.argmax(1).numpy()
