"""Fine-tuning an encoder to classify windows, whole or through LoRA, as a task of the one loop.

The head reads the encoder's pooled tokens (model/pooling.py) after a LayerNorm and starts at zero.
Layers near the input learn slower (`--layer_decay`). With `--lora_rank` the encoder stays as it is
and low-rank updates of its attention and MLP are trained (Hu et al. 2022, by peft): .15 M of 2.7 M
parameters of `tiny` at rank 8. RUN/best holds whole weights either way, merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from data.batches.batch import Batch
from data.batches.chosen import ChosenWindows
from data.batches.order import Block
from data.batches.window_table import NO_LABEL, AddFields
from data.errors import InputError
from data.files import write_atomic
from data.shards.manifest import Manifest, ShardEntry
from model.config import ModelConfig
from model.flops import training_flops
from model.losses import LossTerms
from model.networks import Encoder
from model.pooling import POOLS, by_channel
from model.transformer import start_weights
from trainer.checkpoints.lora import add_lora, merged
from trainer.decoding.people import read_people, with_splits
from trainer.decoding.reporting.report import report
from trainer.decoding.task import ClassifyTask
from trainer.decoding.windows import SPLITS, Known, Labelled, weights_hash
from trainer.engine.optim import layered_groups
from trainer.engine.task import BEST, Cost, Plan, Progress
from trainer.ranks.ranks import Ranks, together

WEIGHTS, ABOUT = "classifier.safetensors", "classifier.json"
PROBABILITIES = "probabilities.safetensors"


class Classifier(nn.Module):
    """Batches -> fp32 logits `[B, K]`, of all of them in a row. channels: of the windows, where the
    pool keeps their places."""

    def __init__(self, config: ModelConfig, pool: str, classes: int, channels: int, seed: int):
        super().__init__()
        self.pool = pool
        self.encoder = Encoder(config)
        start_weights(self, seed)
        width = {"mean": config.width, "mean_std": 2 * config.width}.get(pool)
        features = width or channels * config.latent_dim * (2 if pool == "channel_std" else 1)
        self.norm = nn.LayerNorm(features)
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batches: Sequence[Batch]) -> torch.Tensor:
        return torch.cat([self._logits(batch) for batch in batches])

    def _logits(self, batch: Batch) -> torch.Tensor:
        out = by_channel(self.encoder, batch.eeg, batch.positions_m)
        pooled = POOLS[self.pool].columns(out).to(self.linear.weight.dtype)
        return self.linear(self.norm(pooled)).float()


class FinetuneTask(ClassifyTask):
    name = "finetune"
    people: dict[str, set[int]] | None = None

    def check(self, manifest: Manifest, where: str) -> None:
        super().check(manifest, where)
        self.channels = 0
        if POOLS[self.config.pool].places:
            self.channels = _channels(manifest, self.config.pool, where)

    def read_labelled(self, manifest: Manifest, where: str) -> tuple[Labelled, list | None]:
        self.people = read_people(self.config.people, manifest) if self.config.people else None
        if self.people is None:
            return super().read_labelled(manifest, where)
        scored = [one for one in self.recordings(manifest) if one["split"] in ("val", "test")]
        return Labelled.by_people(manifest, where, self.people), scored

    def recordings(self, manifest: Manifest) -> Sequence[dict]:
        if self.people is None:
            return manifest.recordings
        return with_splits(manifest, self.people)

    def training(self, manifest: Manifest) -> Sequence[ShardEntry | Block]:
        if self.people is None:
            return super().training(manifest)
        return self._chosen(manifest, None).blocks

    def dataset(self, plan: Plan) -> ChosenWindows | None:
        if self.people is None:
            return None
        return self._chosen(plan.manifest, self.prepare(plan))

    def _chosen(self, manifest: Manifest, prepare: AddFields | None) -> ChosenWindows:
        label = self.labelled.tables["train"].label
        return ChosenWindows(manifest, np.flatnonzero(label != NO_LABEL), prepare)

    def held_out(self, manifest: Manifest) -> Sequence[ShardEntry]:
        return super().held_out(manifest) if self.people is None else manifest.shards

    def describe(self) -> dict:
        return {"model": self.model.as_dict()}

    def fixed(self) -> dict:
        start = "new" if self.config.from_scratch else weights_hash(self.encoder.encoder)
        found = {"encoder_sha256": start, "labels": self.labelled.names, "pool": self.config.pool,
                 "lora_rank": self.config.lora_rank}  # fmt: skip
        if self.people is not None:
            found["people"] = {split: sorted(own) for split, own in self.people.items()}
        return found

    def build_model(
        self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print
    ) -> Classifier:
        model = self.empty(plan.config.seed)
        if not self.config.from_scratch:
            model.encoder.load_state_dict(self.encoder.encoder.state_dict())
        model.encoder.stack.recompute = plan.config.recompute
        if self.config.lora_rank:
            add_lora(model.encoder, self.config.lora_rank, plan.config.seed)
        return model

    def empty(self, seed: int) -> Classifier:
        classes = len(self.labelled.classes)
        return Classifier(self.model, self.config.pool, classes, self.channels, seed)

    def parameter_groups(self, model: Classifier, plan: Plan) -> list[dict]:
        return layered_groups(model, self.config, self.model.depth)

    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        return self.cross_entropy(engine(batches), batches, self.config.label_smoothing)

    def open_validation(self, plan: Plan, ranks: Ranks) -> Callable[[nn.Module], dict[str, float]]:
        chosen = self.labelled.spread("val", plan.config.eval_windows)
        with together(ranks):
            known = self.labelled.read_known(plan.manifest, "val", chosen)

        def validate(engine: nn.Module) -> dict[str, float]:
            logits = logits_of(engine, known.batches, ranks.device)
            return self.held_out_values(logits, known.truth, known.person, ranks)

        return validate

    def cost(self, channels: int, samples: int) -> Cost:
        """Of the encoder on all tokens: bounded by the masked model's, which hides some."""
        tokens = self.model.token_count(channels, samples)
        return Cost(training_flops(self.model, channels, samples), tokens)

    def write_best(
        self, folder: Path, weights: dict[str, torch.Tensor], plan: Plan, reached: dict
    ) -> None:
        """classifier.safetensors: encoder (LoRA merged) and head; classifier.json: the model, the
        signal, the labels in the order of the logits, whom it was trained on."""
        if self.config.lora_rank:
            weights = merged(weights, self.config.lora_rank)
        save_file({name: one.contiguous() for name, one in weights.items()}, folder / WEIGHTS)
        about = {
            "model": self.model.as_dict(), "signal": plan.manifest.profile,
            "init": self.config.init, **self.fixed(), "channels": self.channels,
            "trained_on": plan.trained_on, "reached": reached,
        }  # fmt: skip
        write_atomic(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())

    def summary(self, model: Classifier, plan: Plan) -> str:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        how = f"LoRA of rank {self.config.lora_rank}" if self.config.lora_rank else "fine-tuning"
        start = f"{self.config.init}{', from scratch' * self.config.from_scratch}"
        return (
            f"{how} of {start}: {trained / 1e6:.2f} M parameters trained, pool {self.config.pool}, "
            f"labels {', '.join(self.labelled.names)}"
        )

    def report(self, plan: Plan, device: torch.device) -> dict:
        """Score RUN/best on people that nothing was chosen on (trainer/decoding/reporting)."""
        model = self.empty(plan.config.seed)
        model.load_state_dict(load_file(plan.run / BEST / WEIGHTS))

        def classes_of(held: Known) -> np.ndarray:
            logits = logits_of(model.to(device).eval(), held.batches, device)
            self._write_probabilities(plan.run, held, logits.softmax(1).numpy())
            return logits.argmax(1).numpy()

        name = "LoRA" if self.config.lora_rank else "fine-tuned"
        name = "from scratch" if self.config.from_scratch else name
        return report(plan, self.labelled, name, classes_of, self.encoder.to(device).eval())

    def _write_probabilities(self, run: Path, held: Known, found: np.ndarray) -> None:
        """RUN/probabilities.safetensors: of the scored windows, with their classes and people."""
        tensors = {
            "probability": torch.from_numpy(found), "truth": torch.from_numpy(held.truth),
            "person": torch.from_numpy(held.person), "window": torch.from_numpy(held.window),
        }  # fmt: skip
        write_atomic(run / PROBABILITIES, save(tensors))


@torch.inference_mode()
def logits_of(model: nn.Module, batches: Sequence[Batch], device: torch.device) -> torch.Tensor:
    """fp32 `[n, K]` on the CPU, batch by batch."""
    return torch.cat([model([batch.to(device)]).float().cpu() for batch in batches])


def _channels(manifest: Manifest, pool: str, where: str) -> int:
    """Of the one montage; InputError where there are several."""
    shards = [shard for split in SPLITS for shard in manifest.of_split(split)]
    if len({manifest.montages[shard.montage].positions_m.tobytes() for shard in shards}) > 1:
        free = " or ".join(name for name, one in POOLS.items() if not one.places)
        raise InputError(
            f"--pool {pool} needs one montage: the recordings of {where} have several",
            f"--pool {free}",
        )
    return shards[0].channels
