"""The settings of a run of the masked autoencoder: the engine's, and the model's."""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import InputError, did_you_mean
from model.config import PRESETS, ModelConfig, preset
from trainer.engine.config import RunConfig, model_changes, option

PEAK_LR = {"tiny": 1e-3, "small": 8e-4, "base": 6e-4, "large": 4e-4, "brain2image": 2.5e-4}


@dataclass(frozen=True)
class MaskedConfig(RunConfig):
    """One run of masked pretraining or fine-tuning."""

    preset: str = option("base", f"model size: {', '.join(PRESETS)}")
    model: tuple[str, ...] = option((), "change a model field, as key=value; repeatable")
    layer_decay: float = option(1.0, "learning-rate factor from an encoder block to the one below")
    beta_warmup: float = option(0.1, "share of the steps in which the KL weight rises")

    def __post_init__(self):
        super().__post_init__()
        for name, good in (
            ("layer_decay", 0 < self.layer_decay <= 1),
            ("beta_warmup", 0 <= self.beta_warmup <= 1),
        ):
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", "it must lie between 0 and 1")
        if self.preset not in PRESETS:
            raise InputError(
                f"--preset {self.preset}: no such preset",
                f"{did_you_mean(self.preset, PRESETS)} Use one of {', '.join(PRESETS)}.".strip(),
            )

    @property
    def peak_lr(self) -> float:
        return self.lr if self.lr is not None else PEAK_LR[self.preset]

    def model_config(self) -> ModelConfig:
        """The preset with the `--model` changes; InputError names what does not fit."""
        try:
            return preset(self.preset, **self.model_changes())
        except (ValueError, TypeError) as error:
            raise InputError(f"--model: {error}", "see model/config.py for the fields") from None

    def model_changes(self) -> dict:
        """The `--model KEY=VALUE` flags."""
        return model_changes(self.model)


def kl_weight(step: int, beta: float, config: MaskedConfig) -> float:
    """The KL weight at `step`: a linear rise to `beta`."""
    return beta * min(1.0, (step + 1) / max(1, round(config.beta_warmup * config.steps)))
