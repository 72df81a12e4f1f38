"""EEG-to-MEG translation as a task of the one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.batches.batch import Batch
from data.batches.order import Block
from data.errors import InputError
from data.shards.manifest import Manifest, ShardEntry
from data.subjects.digests import digests_of
from model.brainformer import BrainformerForEEG2MEG, BrainformerProcessor
from model.losses import LossTerms
from trainer.checkpoints.weights import read_run_config
from trainer.engine.task import Cost, Plan, Progress, Task
from trainer.ranks.ranks import Ranks, broadcast_object, together
from trainer.translation.config import TranslationConfig, forward_flops, plain_config
from trainer.translation.evaluation import Validation
from trainer.translation.export import write_translator
from trainer.translation.fit import (
    Data,
    Fitted,
    fit,
    montages_of,
    new_model,
    open_data,
    pack_simulated,
    read_encoder,
    simulated_folder,
)
from trainer.translation.pieces import PieceBatches, arguments_of, model_arguments, with_sensors

PRETRAINED = "brainformer.pretrained.encoder."


class TranslationTask(Task):
    name = "translation"
    shown = ("loss", "error")
    criterion = "error"

    def __init__(self, config: TranslationConfig):
        self.config = config

    # ---- what is trained on, and what is not ----------------------------------------------------

    def ready(self, config: TranslationConfig, ranks: Ranks) -> TranslationConfig:
        """Without `--shards` the first rank packs simulated pairs, once."""
        if not config.shards:
            wanted = config.simulated, config.sequence_length
            folder = simulated_folder(*wanted)
            with together(ranks):
                if ranks.first:
                    pack_simulated(*wanted, folder)
            config = replace(config, shards=str(folder))
        self.config = config
        return config

    def check(self, manifest: Manifest, where: str) -> None:
        config = self.config
        self.data: Data = open_data(manifest, config.holdout, config.sequence_length)
        sfreq_hz = self.data.train.sfreq_hz
        self.encoder = read_encoder(config.encoder, sfreq_hz) if config.encoder else None
        montages = montages_of(self.data.train)
        self.model = config.model_config(
            max(len(montage.eeg_names) for montage in montages),
            max(len(montage.meg_names) for montage in montages),
            self.encoder and self.encoder.settings,
        )
        self.sensors = max(len(montage.meg_names) for montage in montages)
        self._costs: dict[tuple[int, int], Cost] = {}

    def recordings(self, manifest: Manifest) -> list[dict]:
        return self.data.split.entries(manifest.recordings)

    def training(self, manifest: Manifest) -> Sequence[Block]:
        return self.data.train.blocks

    def held_out(self, manifest: Manifest) -> Sequence[ShardEntry]:
        return self.data.validation.shards

    def dataset(self, plan: Plan) -> PieceBatches:
        return PieceBatches(self.data.train, self.fitted.processor)

    def cost(self, channels: int, samples: int) -> Cost:
        shape = (channels, samples)
        if shape not in self._costs:
            sensors = min(self.sensors, self.config.meg_sensors or self.sensors)
            segments = -(-samples // self.model.segment_samples)
            flops = 3 * forward_flops(self.model, channels, sensors, samples)
            self._costs[shape] = Cost(flops, segments * (channels + sensors))
        return self._costs[shape]

    # ---- what a run says of itself --------------------------------------------------------------

    def describe(self) -> dict:
        return {
            "model": plain_config(self.model),
            "split": self.data.split.as_dict(),
            "windows": {
                "training": len(self.data.train), "validation": len(self.data.validation)
            },
            "start": self.fitted.notes,
        }  # fmt: skip

    def fixed(self) -> dict:
        names = (
            "holdout", "sequence_length", "linear_start", "encoder", "freeze_encoder", "meg_sensors"
        )  # fmt: skip
        return {name: getattr(self.config, name) for name in names}

    def summary(self, model: nn.Module, plan: Plan) -> str:
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        data, ridge = self.data, self.fitted.notes.get("ridge")
        start = "zero" if ridge is None else (
            f"ridge, {2 * ridge['lags'] + 1} lag(s), held-out error " + ", ".join(
                f"{kind} {one['held_out_error']:.3f}" for kind, one in ridge["types"].items()
            )
        )  # fmt: skip
        montage = data.train.windows.montage(0)
        tested = sorted({part.group for part in data.split.test})
        return (
            f"{millions:.2f} M parameters; linear map from {start}\n"
            f"windows  {self.config.sequence_length} samples "
            f"({self.config.sequence_length / data.train.sfreq_hz:g} s), "
            f"{len(montage.eeg_names)} EEG and {len(montage.meg_names)} MEG channels\n"
            f"split    {data.split.rule}: left out {data.split.group} {', '.join(tested)}; "
            f"validation: {data.split.validation_rule}"
        )

    # ---- the model and its loss -----------------------------------------------------------------

    def open(self, plan: Plan, ranks: Ranks, fresh: bool) -> None:
        """Scales and ridge start: the first rank's, so that all ranks have the same."""
        found = None
        with together(ranks):
            if ranks.first and fresh:
                found = fit(self.data.train, self._new_model(), self.config.linear_start)
            elif ranks.first:
                notes = read_run_config(plan.run).get("start")
                if not notes:
                    raise InputError(
                        f"{plan.run}/config.json: damaged (it lacks start)",
                        "restore it from a copy, or give another --run",
                    )
                found = Fitted(BrainformerProcessor(notes["scales"]), {}, notes)
        self.fitted: Fitted = broadcast_object(found, ranks)

    def _new_model(self) -> BrainformerForEEG2MEG:
        return new_model(self.model, self.config.seed, self.encoder, self.config.freeze_encoder)

    def build_model(
        self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print
    ) -> BrainformerForEEG2MEG:
        model = self._new_model()
        model.load_state_dict(self.fitted.linear, strict=False)
        if plan.config.recompute:
            model.gradient_checkpointing_enable()
        return model

    def parameter_groups(self, model: nn.Module, plan: Plan) -> list[dict]:
        """The linear map starts at the ridge solution and must move slowly; the states' mixtures
        start at zero. Both, and a pretrained encoder, have their own rates and no decay."""
        groups: dict[str, list] = {
            name: [] for name in ("decay", "plain", "skip", "states", "encoder")
        }
        for name, parameter in model.named_parameters():
            part = name.partition(".")[0]
            if name.startswith(PRETRAINED):
                part = "encoder"
            elif part not in ("skip", "states"):
                part = "decay" if parameter.ndim > 1 else "plain"
            if parameter.requires_grad:
                groups[part].append(parameter)
        config = self.config
        shares = {
            "skip": config.skip_lr, "states": config.states_lr, "encoder": config.encoder_lr
        }  # fmt: skip
        return [
            {
                "params": found,
                "lr_scale": shares.get(name, 1.0),
                "weight_decay": config.weight_decay if name == "decay" else 0.0,
            }
            for name, found in groups.items()
            if found
        ]

    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        (batch,) = batches
        # Of dropout: a function of the place in the data, as every draw.
        torch.manual_seed(key(at.seed, int(batch.order_index[0])))
        arguments = model_arguments(batch)
        sensors = arguments["meg_types"].shape[1]
        if 0 < self.config.meg_sensors < sensors:
            # The same for all ranks: so a step means the same on any number of them.
            drawn = np.random.default_rng([at.seed, at.step]).permutation(sensors)
            arguments = with_sensors(arguments, np.sort(drawn[: self.config.meg_sensors]))
        found = engine(**arguments)
        with torch.no_grad():
            error = relative_error(found.prediction, arguments["labels"])
        parts = {"regression": found.regression_loss, "tokens": found.token_loss}
        terms = {name: part.detach() for name, part in parts.items() if part is not None}
        return LossTerms(found.loss, terms, {"error": error})

    # ---- validation -----------------------------------------------------------------------------

    def open_validation(self, plan: Plan, ranks: Ranks) -> Validation:
        batches = PieceBatches(self.data.validation, self.fitted.processor)
        return Validation(batches, plan.config.eval_windows, plan.micro, ranks)

    @torch.no_grad()
    def figures(self, model: nn.Module, plan: Plan, ranks: Ranks) -> dict:
        """Traces and topographies of the middle validation window, measured and translated."""
        # Here, since matplotlib and MNE cost every rank seconds where no figure is asked for.
        from trainer.translation.figures import topographies_figure, traces_figure

        held_out, processor = self.data.validation, self.fitted.processor
        piece = held_out[len(held_out) // 2]
        arguments = arguments_of([piece], processor)
        arguments = {name: value.to(ranks.device) for name, value in arguments.items()}
        meg = model.translate(processor, **arguments).meg[0].cpu().numpy()
        if not ranks.first:
            return {}
        title = f"{piece.recording} from {piece.onset_s:.1f} s (validation)"
        drawn = (piece.meg, meg, piece.montage, held_out.sfreq_hz, title)
        figures = {"traces": traces_figure(*drawn), "topographies": topographies_figure(*drawn)}
        return {f"val/{name}": figure for name, figure in figures.items() if figure is not None}

    def write_best(
        self, folder: Path, weights: dict[str, torch.Tensor], plan: Plan, reached: dict
    ) -> None:
        trained = set(self.data.split.trained_on())
        description = {
            "format": "eeg2meg",
            "format_version": 2,
            "run": self.config.as_dict(),
            "data": {"folder": str(plan.manifest.folder), "sha256": plan.manifest.sha256},
            "signal": plan.manifest.profile,
            "trained_on": sorted(trained),
            "trained_recordings": digests_of(
                entry for entry in plan.manifest.recordings if entry["id"] in trained
            ),
            "validation": reached,
            **{name: value for name, value in self.describe().items() if name != "model"},
        }
        write_translator(folder, self.model, weights, self.fitted.processor, description)


def key(seed: int, order_index: int) -> int:
    """A seed for torch: of a run's seed and a place in its data."""
    return int(np.random.SeedSequence([seed, order_index]).generate_state(1)[0])


def relative_error(prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error over power of each window, `[B, Ct, T]` -> `[B]`; padding is zero in both."""
    power = labels.square().sum((1, 2))
    return (prediction - labels).square().sum((1, 2)) / power.clamp_min(1e-12)
