"""Retrieval of the picture that was seen, as a task of the one loop.

A trial's embedding is compared with those of all training pictures (model/images/head.py); the step
is chosen by top-1 on pictures of concepts that nothing was trained on, scores of a few repeats
added up, as the report does. Test trials lie in another folder, which is never opened here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from data.batches.batch import Batch
from data.batches.chosen import ChosenWindows
from data.batches.order import Block
from data.errors import InputError
from data.files import read_text, write_atomic
from data.shards.manifest import Manifest, ShardEntry
from model.images.head import Retriever, centred
from model.losses import LossTerms
from model.transformer import start_weights
from trainer.checkpoints.lora import merged
from trainer.engine.optim import layered_groups
from trainer.engine.task import BEST, Cost, Plan, Progress, Task
from trainer.images.config import ImagesConfig
from trainer.images.embeddings import read_embeddings
from trainer.images.guards import pictures_like, what_is_tested
from trainer.images.montage import filled_line
from trainer.images.networks import begin, build_trunk, describe_trunk, encoder_of, whitening
from trainer.images.selection import divide, held_concepts, parse_protocol
from trainer.images.simulated import prepare_simulated
from trainer.images.trials import TRAINING, AddPicture, Trials
from trainer.images.validation import after_refit, check_refit, last_counts, open_validation
from trainer.ranks.ranks import Ranks, broadcast_object, together

WEIGHTS, ABOUT = "retriever.safetensors", "retriever.json"
VAL_CONCEPTS, VAL_SHARE = 200, 7


class ImagesTask(Task):
    name = "images"
    shown = ("loss", "top1")
    criterion = "error"

    def __init__(self, config: ImagesConfig):
        self.config = config

    # ---- who and what ---------------------------------------------------------------------------

    def ready(self, config: ImagesConfig, ranks: Ranks) -> ImagesConfig:
        """Without `--shards` the first rank packs simulated pictures, once."""
        if not config.shards:
            with together(ranks):
                folders = prepare_simulated(config.simulated, ranks.first)
            config = replace(config, shards=str(folders.training), images=str(folders.embeddings))
        if config.refit:
            chosen = json.loads(read_text(Path(config.refit) / BEST / ABOUT))
            check_refit(chosen, config)
            steps = max(1, chosen["reached"]["step"])
            config = replace(config, steps=steps, eval_every=steps)
        if config.run_length is None:
            # Trials are alike: their order need not depend on micro-batches, nor so on ranks.
            config = replace(config, run_length=1)
        if config.micro_batch is None and config.trunk != "encoder":
            config = replace(config, micro_batch=max(1, config.global_batch // ranks.world))
        self.config = config
        return config

    def check(self, manifest: Manifest, where: str) -> None:
        config = self.config
        embeddings = read_embeddings(config.images)
        self.embeddings_about = embeddings.about
        everything = Trials.read(manifest, where, TRAINING, config.channels)
        tested = what_is_tested(config.drop_test_concepts)
        content = dict(zip(embeddings.images, embeddings.sha256, strict=True))
        self.left_out = {
            "dropped_concepts": sorted(tested.concepts),
            "dropped_pictures": pictures_like(tested.pictures, everything.images, content),
        }
        self.trials = everything.without(*self.left_out.values())
        self.dropped = len(everything.window) - len(self.trials.window)
        trials, concepts = self.trials, self.trials.concept_of_image()
        self.protocol = parse_protocol(config.protocol, trials.people)
        known = len(set(concepts.tolist()))
        wanted = config.val_concepts or min(VAL_CONCEPTS, max(2, known // VAL_SHARE))
        held = held_concepts(concepts.tolist(), wanted)
        self.train, self.validation = divide(
            self.protocol, trials.subject.tolist(), trials.concept.tolist(), held
        )
        if config.refit:
            self.train = np.union1d(self.train, self.validation)
        for rows, what in ((self.train, "training"), (self.validation, "validation")):
            if not len(rows):
                raise InputError(f"{where}: no {what} trials of {config.protocol}", "pack more")
        rows = embeddings.rows_of(trials.images, where)
        found = torch.from_numpy(embeddings.layer(config.layer or None)[rows])
        self.trained_images = np.unique(trials.image[self.train])
        self.mean = found[self.trained_images].mean(0)
        self.table = centred(found, self.mean)
        self.people = list(self.protocol.trained) if not self.protocol.left_out else []
        self.encoder, self.encoder_people = encoder_of(config, manifest, where)
        self.trunk = describe_trunk(config, self.trials, where, len(self.people), self.encoder)

    def recordings(self, manifest: Manifest) -> list[dict]:
        ours = set(self.protocol.trained)
        return [
            {**entry, "split": "train" if str(entry["subject"]) in ours else "test"}
            for entry in manifest.recordings
        ]

    def person(self, trials: Trials) -> np.ndarray:
        """int64 `[n]`: number of each trial's person from 1; 0 where no map is theirs."""
        numbers = {name: number for number, name in enumerate(self.people, start=1)}
        return np.array([numbers.get(name, 0) for name in trials.subject.tolist()], np.int64)

    def _chosen(self) -> ChosenWindows:
        """The training trials, with what a batch needs to know of each."""
        trials, config = self.trials, self.config
        windows = int(sum(shard.samples for shard in trials.manifest.shards))
        count = len(self.trained_images)
        row_of = np.full(len(trials.images), -1, np.int64)
        # In the control a picture takes the row of another one, the same for all its trials.
        row_of[self.trained_images] = (
            np.random.default_rng([config.seed, 0x7065]).permutation(count)
            if config.permute
            else np.arange(count)
        )
        image, person = np.full(windows, -1, np.int64), np.zeros(windows, np.int64)
        image[trials.window] = row_of[trials.image]
        person[trials.window] = self.person(trials)
        add = AddPicture(
            image, person, config.seed, config.hidden, config.dropout, config.forget_person,
            trials.montage,
        )  # fmt: skip
        return ChosenWindows(trials.manifest, trials.window[self.train], add)

    def training(self, manifest: Manifest) -> Sequence[Block]:
        return self._chosen().blocks

    def dataset(self, plan: Plan) -> ChosenWindows:
        return self._chosen()

    def held_out(self, manifest: Manifest) -> Sequence[ShardEntry]:
        return manifest.shards

    # ---- what a run says of itself --------------------------------------------------------------

    def describe(self) -> dict:
        return {
            "model": {
                "trunk": self.trunk, "embedding": self.table.shape[1], "hidden": self.config.hidden,
                "projected": self.config.projected, "people": self.people,
                "montage": self.trials.montage.as_dict(),
            },
            "split": {
                "protocol": self.protocol.text, "tested": self.protocol.tested,
                "trained": self.protocol.trained,
                "training_trials": len(self.train), "validation_trials": len(self.validation),
                "training_pictures": len(self.trained_images),
                "dropped_trials": self.dropped,
                "filled_channels": self.trials.montage.filled(self.trials.manifest),
            },
        }  # fmt: skip

    def fixed(self) -> dict:
        names = (
            "protocol",
            "trunk",
            "encoder_mode",
            "from_scratch",
            "window_ms",
            "before_onset",
            "permute",
            "refit",
            "layer",
            "channels",
            "projected",
        )
        return {name: getattr(self.config, name) for name in names}

    def summary(self, model: nn.Module, plan: Plan) -> str:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        permuted = ", PICTURES PERMUTED (a control)" * self.config.permute
        filled = filled_line(self.trials.montage.filled(self.trials.manifest))
        filled = f"\nchannels that were filled by a spherical spline: {filled}" * bool(filled)
        dropped = f"; {self.dropped} trials of test concepts left out" * bool(self.dropped)
        return (
            f"{self.config.trunk} trunk, {trained / 1e6:.2f} M parameters trained, "
            f"{self.config.protocol}{permuted}\n"
            f"pictures {len(self.trained_images)} to train on; "
            f"{len(set(self.trials.concept[self.validation].tolist()))} concepts choose the step"
            f"{dropped}{filled}"
        )

    # ---- the model and its loss -----------------------------------------------------------------

    def open(self, plan: Plan, ranks: Ranks, fresh: bool) -> None:
        """The channels' whitening, from training trials: the first rank's, so that all have it."""
        found = None
        with together(ranks):
            if ranks.first:
                found = whitening(self.trials, self.train)
        self.white = broadcast_object(found, ranks)

    def build_model(
        self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print
    ) -> Retriever:
        model = Retriever(
            build_trunk(self.trunk), self.table.shape[1], self.config.hidden, self.config.projected
        )
        start_weights(model, plan.config.seed)
        begin(model.trunk, self.white, self.encoder, self.config)
        return model

    def parameter_groups(self, model: nn.Module, plan: Plan) -> list[dict]:
        if self.encoder is None:
            return super().parameter_groups(model, plan)
        renamed = _Renamed(model, "trunk.")
        return layered_groups(renamed, self.config, self.encoder.config.depth)

    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        device = batches[0].eeg.device
        table = self.table[self.trained_images].to(device)
        logits = torch.cat([engine(*_arguments(batch), table) for batch in batches])
        truth = torch.cat([batch.targets["image"] for batch in batches])
        each = F.cross_entropy(logits, truth, reduction="none")
        with torch.no_grad():
            top1 = (logits.argmax(1) == truth).float().mean()
        return LossTerms(each.mean(), {"top1": top1}, {"nll": each.detach()})

    def cost(self, channels: int, samples: int) -> Cost:
        """Of a small trunk: every weight once a trial; of an encoder, once a token."""
        tokens = 1.0
        if self.encoder is not None:
            tokens = self.encoder.config.token_count(channels, samples)
        return Cost(6.0 * self.trunk["weights"] * tokens, tokens)

    # ---- validation -----------------------------------------------------------------------------

    def open_validation(self, plan: Plan, ranks: Ranks) -> Callable[[nn.Module], dict[str, float]]:
        if self.config.refit:
            return after_refit()
        validate = open_validation(
            self.trials, self.validation, self.person(self.trials), self.table,
            plan.config.val_repeats, ranks,
        )  # fmt: skip
        # Of chance the best step is the first, which has learnt nothing that could leak.
        return last_counts(validate) if self.config.permute else validate

    def validation_line(self, values: dict[str, float]) -> str:
        if self.config.refit:
            return "nothing is held out (--refit)"
        return (
            f"top-1 {100 * values['top1']:.1f} % of {values['candidates']:.0f} pictures of new "
            f"concepts (chance {100 / values['candidates']:.1f} %)"
        )

    def write_best(
        self, folder: Path, weights: dict[str, torch.Tensor], plan: Plan, reached: dict
    ) -> None:
        """retriever.safetensors and retriever.json: all that scoring needs, but the pictures."""
        if self.trunk.get("lora_rank"):
            weights = merged(weights, self.trunk["lora_rank"])
        name = "trunk.white" if self.trunk["kind"] == "encoder" else "trunk.whitened.white"
        found = {**weights, name: self.white, "image_mean": self.mean}
        save_file({name: one.float().contiguous() for name, one in found.items()}, folder / WEIGHTS)
        about = {
            **self.describe(), "reached": reached, "trained_on": plan.trained_on,
            "signal": plan.manifest.profile, "run": self.config.as_dict(),
            **self.left_out, "encoder_people": self.encoder_people,
            "held_concepts": sorted(set(self.trials.concept[self.validation].tolist())),
        }  # fmt: skip
        write_atomic(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())


class _Renamed:
    """A model whose parameters are named as if a part stood alone, for rates by layer."""

    def __init__(self, model: nn.Module, prefix: str):
        self.model, self.prefix = model, prefix

    def named_parameters(self):
        for name, parameter in self.model.named_parameters():
            yield name.removeprefix(self.prefix), parameter


def _arguments(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.eeg, batch.positions_m, batch.targets["person"], batch.targets["keep"]
