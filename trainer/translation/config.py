"""The settings of a run of trainer/eeg2meg.py: the engine's, and the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from data.errors import InputError
from data.flags import Renamed
from model.brainformer import BrainformerConfig, BrainformerForEEG2MEG
from trainer.engine.config import RunConfig, model_changes, option

RENAMED = (
    Renamed("data", "shards"),
    Renamed("split", "holdout"),
    Renamed("deepspeed", "deepspeed_config"),
    Renamed("init", "linear_start", "ridge|zero"),
    Renamed("eeg_encoder", "encoder"),
    Renamed("eval_pieces", "eval_windows"),
    Renamed("lags", "model skip_lags="),
    *(Renamed(name, f"model {name}=") for name in ("d_model", "n_heads", "n_layers", "skip_rank")),
)
"""Flags of the version before, as data/flags.py takes them."""
FORMER_ENVIRONMENT = "EEG2MEG_"
FROM_DATA = ("n_eeg", "n_meg")
"""Fields of the model that the data set."""


@dataclass(frozen=True)
class TranslationConfig(RunConfig):
    """One run of trainer/eeg2meg.py."""

    without: ClassVar[tuple[str, ...]] = ("init", "shard_url")

    shards: str = option("", "folder of paired shards; left out: simulated ones are made")
    simulated: str = option("simulated-pairs", "without --shards: what they are made from")
    run: str = option("runs/eeg2meg", "folder of this run: config, metrics, checkpoints, best/")
    holdout: str = option(
        "auto", "who is left out of training: loso:SUBJECT[,..], loro:RUN[,..], time:SHARE or auto"
    )
    precision: str = option("auto", "json, bf16, fp32; auto: as the JSON on a GPU, fp32 on a CPU")
    sequence_length: int = option(256, "samples of a window that are trained at once")
    model: tuple[str, ...] = option((), "change a field of the model, as key=value; repeatable")
    linear_start: str = option("ridge", "of the linear map: ridge (training groups only) or zero")
    encoder: str | None = option(
        None, "a pretrained masked autoencoder that reads the EEG: run folder, file or folder"
    )
    encoder_lr: float = option(0.1, "learning rate of the --encoder, as a share of --lr")
    freeze_encoder: bool = option(False, "do not train the --encoder")
    steps: int = option(200, "optimizer steps of the whole run")
    run_length: int | None = option(
        1, "windows of one montage in a row in the data order; batches of many people learn faster"
    )
    skip_lr: float = option(0.3, "learning rate of the linear map, as a share of --lr")
    states_lr: float = option(3.0, "learning rate of the states' mixtures, as a share of --lr")
    meg_sensors: int = option(
        64, "MEG sensors drawn anew for each step, which makes it cheaper; 0: all"
    )
    weight_decay: float = option(0.01, "of matrices; never of the linear map")
    betas: tuple[float, float] = option((0.9, 0.98), "Adam's betas")
    warmup: float = option(0.1, "share of the steps in which the learning rate rises")
    workers: int = option(0, "loader processes a rank; 0 reads in the training process")
    eval_every: int = option(50, "steps between validations on the validation groups")
    eval_windows: int = option(64, "windows of the validation groups that are scored")
    patience: int = option(6, "validations without a better one before stopping; 0: never")
    save_every: int = option(100, "steps between checkpoints")
    log_every: int = option(5, "steps between log lines")
    figure_every: int = option(100, "steps between figures, also after the last; 0: none")

    def __post_init__(self):
        super().__post_init__()
        if self.linear_start not in ("ridge", "zero"):
            raise InputError(f"--linear_start {self.linear_start}", "use ridge or zero")
        for name in ("sequence_length", "eval_every", "eval_windows"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}", "it must be at least 1")
        for name in ("skip_lr", "states_lr", "encoder_lr", "meg_sensors"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} {getattr(self, name)}", "it must not be negative")
        model = self.model_config(n_eeg=1, n_meg=1)
        if model.skip_lags >= self.sequence_length:
            raise InputError(
                f"--model skip_lags={model.skip_lags} with --sequence_length "
                f"{self.sequence_length}",
                "lags must be shorter than a window",
            )
        if model.skip == "none" and self.linear_start == "ridge":
            raise InputError(
                "--model skip=none with --linear_start ridge",
                "there is no map to start: --linear_start zero",
            )

    def model_config(
        self, n_eeg: int, n_meg: int, eeg_encoder: dict | None = None
    ) -> BrainformerConfig:
        """The model's configuration for a data set with this many channels; the tables' sizes are
        used only by `--model skip=montage` and `sensor_embedding`. `eeg_encoder`: the pretrained
        encoder's settings, whose patch becomes the segment. InputError names the field."""
        changes = model_changes(self.model)
        known = BrainformerConfig().to_dict()
        for name in changes:
            if name in FROM_DATA:
                raise InputError(f"--model {name}=...", "the data say it: leave it out")
            if name not in known:
                raise InputError(
                    f"--model {name}: no such field", "see docs/brainformer.md for the fields"
                )
        if eeg_encoder is not None:
            patch = eeg_encoder["vae"]["patch_samples"]
            changes |= {"eeg_encoder": eeg_encoder, "segment_samples": patch}
        if changes.get("skip") == "montage" or "sensor_embedding" in changes:
            changes |= {"n_eeg": n_eeg, "n_meg": n_meg}
        try:
            return BrainformerConfig(**changes)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"--model: {error}", "see docs/brainformer.md for the fields"
            ) from None


def plain_config(model: BrainformerConfig) -> dict:
    """The fields of the model, without transformers' own and without the pretrained encoder."""
    own = set(BrainformerConfig.__init__.__annotations__) - {"eeg_encoder", "return"}
    return {name: getattr(model, name) for name in sorted(own)}


def forward_flops(model: BrainformerConfig, eeg: int, meg: int, samples: int) -> float:
    """Floating-point operations of one window's forward pass, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    # Without computing, but for a pretrained encoder, which looks at values: places on a head.
    with torch.device("cpu" if model.eeg_encoder else "meta"):
        network = BrainformerForEEG2MEG(model).eval()
        with FlopCounterMode(display=False) as counter:
            network(
                torch.zeros(1, eeg, samples), torch.full((eeg, 3), 0.05), torch.zeros(meg, 3),
                torch.zeros(meg, 6), torch.ones(meg, dtype=torch.long),
            )  # fmt: skip
    return float(counter.get_total_flops())
