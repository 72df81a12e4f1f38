"""A linear probe of a frozen encoder, as a task of the one loop.

Only the head is trained and checkpointed (a few kB); the encoder is `--init`, known by the hash of
its weights, and is computed in fp32 beside the engine. Scores are of people whom neither the probe
nor the encoder was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from data.batches.batch import Batch
from data.batches.window_table import AddFields
from data.errors import InputError
from data.files import write_atomic
from data.shards.manifest import Manifest
from data.subjects.trained_on import known_among, people_of, subjects_of
from model.autoencoder import MaskedVAE
from model.config import from_dict
from model.flops import forward_flops
from model.heads import LinearHead
from model.losses import LossTerms
from trainer.checkpoints.weights import load_model
from trainer.decoding.closed_forms import (
    balanced_accuracy,
    by_person,
    logistic_regression,
    with_interval,
)
from trainer.decoding.config import ProbeConfig
from trainer.decoding.windows import Labelled, features, log_band_power, read_windows, spread
from trainer.engine.task import Cost, Plan, Progress, Task
from trainer.ranks.ranks import Ranks, broadcast_object, together

SIZE = 64
"""Windows that the encoder takes at once where features are computed beforehand."""


class ProbeTask(Task):
    name = "probe"
    shown = ("loss", "accuracy")
    criterion = "error"

    def __init__(self, config: ProbeConfig):
        self.config = config
        self.encoder, self.meta = load_model(config.init, need="encoder")
        self.encoder.requires_grad_(False)
        self.labelled: Labelled | None = None

    def describe(self) -> dict:
        return {
            "model": self.meta["model"],
            "task": {
                "name": self.name,
                "encoder_sha256": weights_hash(self.encoder.encoder),
                "labels": self.labelled.names,
            },
        }

    def check(self, manifest: Manifest, where: str) -> None:
        rate_hz, wanted_hz = manifest.profile["sfreq_hz"], self.meta["model"]["sfreq_hz"]
        if rate_hz != wanted_hz:
            raise InputError(
                f"the encoder {self.config.init} reads {wanted_hz:g} Hz, {where} holds "
                f"{rate_hz:g} Hz",
                "pack these recordings with the encoder's profile",
            )
        self.labelled = Labelled.read(manifest, where)
        known = subjects_of(self.meta.get("trained_on"))
        asked = {
            (r["dataset"], str(r["subject"])) for r in manifest.recordings if r["split"] == "val"
        }
        if seen := sorted(known_among(asked, known, people_of(manifest))):
            dataset, subject = seen[0]
            raise InputError(
                f"{where}: {dataset} subject {subject} of the split val is among the people whom "
                f"{self.config.init} was trained on ({len(seen)} of {len(asked)} are)",
                "probe on other people: a score on these says nothing",
            )

    def build_model(
        self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print
    ) -> LinearHead:
        device = torch.device("cpu")
        table, size = self.labelled.train, self.config.fit_windows
        self.fit = spread(table, size)
        self.fit_batches = read_windows(plan.manifest, "train", self.fit, SIZE)
        found = features(self.encoder, self.fit_batches, device)
        self.mean, self.std = found.mean(0), found.std(0).clamp_min(1e-6)
        self.fit_features = found.numpy()
        return LinearHead(found.shape[1], len(self.labelled.classes))

    def prepare(self, plan: Plan) -> AddFields:
        return AddFields(self.labelled.train, ("label",))

    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        device = batches[0].eeg.device
        self.encoder.to(device)
        standard = self._standardised(features(self.encoder, batches, device))
        truth = self.labelled.target(torch.cat([batch.label for batch in batches]))
        logits = engine(standard)
        weights = self.labelled.weights().to(device)
        each = F.cross_entropy(logits, truth, weights, ignore_index=-1, reduction="none")
        known = truth >= 0
        count = known.sum().clamp_min(1)
        right = ((logits.argmax(1) == truth) & known).sum() / count
        return LossTerms(
            total=each.sum() / count,
            terms={"accuracy": right.float()},
            per_window={"nll": each.detach()},
        )

    def _standardised(self, found: torch.Tensor) -> torch.Tensor:
        mean, std = self.mean.to(found.device), self.std.to(found.device)
        # A tensor made in inference mode cannot be saved for the head's backward pass.
        return ((found - mean) / std).clone()

    def open_validation(self, plan: Plan, ranks: Ranks) -> Callable[[nn.Module], dict[str, float]]:
        table = self.labelled.val
        chosen = spread(table, plan.config.eval_windows)
        with together(ranks):
            batches = read_windows(plan.manifest, "val", chosen, SIZE)
        order = np.concatenate([batch.window.numpy() for batch in batches])
        truth = self.labelled.target(torch.from_numpy(table.label[order])).numpy()
        person, classes = table.person[order], len(self.labelled.classes)
        found = features(self.encoder.to(ranks.device), batches, ranks.device)
        if ranks.first:
            self._print_closed_forms(plan, batches, found.cpu().numpy(), truth, person)
        standard = self._standardised(found)

        def validate(engine: nn.Module) -> dict[str, float]:
            with torch.no_grad():
                logits = engine(standard).cpu()
            predicted = logits.argmax(1).numpy()
            accuracy = balanced_accuracy(truth, predicted, classes)
            people = by_person(truth, predicted, person, classes)
            values = {
                "error": 1 - accuracy,
                "balanced_accuracy": accuracy,
                "person_accuracy": float(people.mean()),
                "nll": F.cross_entropy(logits, torch.from_numpy(truth)).item(),
            }
            return broadcast_object(values, ranks)  # what decides must be equal to the last bit

        return validate

    def _print_closed_forms(self, plan, batches, found, truth, person) -> None:
        classes, rate_hz = len(self.labelled.classes), plan.manifest.profile["sfreq_hz"]
        order = np.concatenate([batch.window.numpy() for batch in self.fit_batches])
        labels = torch.from_numpy(self.labelled.train.label[order])
        fit_truth = self.labelled.target(labels).numpy()
        twin = MaskedVAE(from_dict(self.meta["model"]), plan.config.seed).eval()
        cpu = torch.device("cpu")
        forms = {
            "log band power": tuple(
                log_band_power(b, rate_hz) for b in (self.fit_batches, batches)
            ),
            "untrained encoder": tuple(
                features(twin, b, cpu).numpy() for b in (self.fit_batches, batches)
            ),
            "this encoder": (self.fit_features, found),
        }
        print(
            f"balanced accuracy by person, logistic regression on {len(fit_truth)} windows; chance "
            f"{1 / classes:.3f}:",
            flush=True,
        )
        for name, (train, val) in forms.items():
            predicted = logistic_regression(train, fit_truth, val)
            scores = by_person(truth, predicted, person, classes)
            print(f"  {name:<18} {with_interval(scores)}", flush=True)

    def validation_line(self, values: dict[str, float]) -> str:
        return (
            f"held-out balanced accuracy {values['balanced_accuracy']:.4f}, by person "
            f"{values['person_accuracy']:.4f} (chance {1 / len(self.labelled.classes):.4f})"
        )

    def cost(self, channels: int, samples: int) -> Cost:
        model = from_dict(self.meta["model"])
        tokens = model.token_count(channels, samples)
        return Cost(forward_flops(model, channels, samples), tokens)

    def write_best(self, folder: Path, weights: dict[str, torch.Tensor], plan: Plan) -> None:
        from safetensors.torch import save_file

        standard = {"features.mean": self.mean, "features.std": self.std}
        plain = {name: value.float().contiguous() for name, value in weights.items()}
        save_file({**plain, **standard}, folder / "probe.safetensors")
        about = {"init": self.config.init, **self.describe()["task"]}
        write_atomic(folder / "probe.json", (json.dumps(about, indent=1) + "\n").encode())

    def summary(self, model: LinearHead, plan: Plan) -> str:
        return (
            f"linear probe of {self.config.init} (frozen): {model.linear.in_features} features, "
            f"{', '.join(self.labelled.names)}"
        )


def weights_hash(module: nn.Module) -> str:
    """Of a module's names and values in fp32: the same for a run folder and its converted file."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
