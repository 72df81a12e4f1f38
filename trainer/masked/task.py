"""Masked pretraining, and fine-tuning by the same objective, as a task of the one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from data.batches.batch import Batch
from data.shards.manifest import Manifest
from model.autoencoder import MaskedVAE
from model.config import ModelConfig
from model.flops import training_flops
from model.losses import LossTerms
from trainer.engine.optim import layered_groups
from trainer.engine.task import Cost, Plan, Progress, Task
from trainer.masked.config import MaskedConfig, kl_weight
from trainer.masked.draw import DrawMasks
from trainer.masked.initial import check_fit, initial_model, parity_loss
from trainer.masked.validation import Validation, reconstruction_picture
from trainer.ranks.ranks import Ranks

BESIDE = {
    "spline": "r_spline",
    "linear": "r_linear",
    "with another window's latents": "r_other_latents",
}


class MaskedTask(Task):
    """`model`: the configuration of the masked autoencoder that is trained."""

    name = "masked"
    shown = ("loss", "r", "kl")

    def __init__(self, config: MaskedConfig, model: ModelConfig):
        self.config, self.model = config, model

    def describe(self) -> dict:
        return {"model": self.model.as_dict()}

    def check(self, manifest: Manifest, where: str) -> None:
        check_fit(self.model, manifest, where)

    def build_model(
        self, plan: Plan, fresh: bool = True, say: Callable[[str], None] = print
    ) -> MaskedVAE:
        model = initial_model(plan, self.model, fresh, say)
        model.recompute_activations(plan.config.recompute)
        return model

    def prepare(self, plan: Plan) -> DrawMasks:
        return DrawMasks(self.model, plan.config.seed)

    def loss(self, engine: nn.Module, batches: list[Batch], at: Progress) -> LossTerms:
        beta = kl_weight(at.applied, self.model.beta, self.config)
        losses = engine(batches, torch.tensor(beta), at.seed)
        return replace(losses, terms={**losses.terms, "beta": beta})

    def open_validation(self, plan: Plan, ranks: Ranks) -> Callable[[nn.Module], dict[str, float]]:
        windows = plan.config.eval_windows
        validation = Validation(plan.manifest, self.model, windows, plan.micro, ranks)
        return lambda engine: validation.run(engine, plan.config.seed)

    def cost(self, channels: int, samples: int) -> Cost:
        return Cost(
            training_flops(self.model, channels, samples), self.model.token_count(channels, samples)
        )

    def parameter_groups(self, model: nn.Module, plan: Plan) -> list[dict]:
        """With `layer_decay` d, layer l learns at d ** (depth + 1 - l) of the rate (Clark et al.
        2020)."""
        return layered_groups(model, self.config, self.model.depth)

    def summarise(self, vectors: dict[str, torch.Tensor]) -> dict[str, float]:
        if "kl_per_dim" not in vectors:
            return {}
        kl = vectors["kl_per_dim"]
        return {"latent/kl_max_dim": kl.max().item(), "latent/kl_min_dim": kl.min().item()}

    def validation_line(self, values: dict[str, float]) -> str:
        shown = [f"{name} {values[key]:.4f}" for name, key in BESIDE.items() if key in values]
        return f"held-out masked r {values['r']:.4f} ({', '.join(shown)})"

    def figures(self, model: nn.Module, plan: Plan, ranks: Ranks) -> dict:
        figure = reconstruction_picture(model, self.model, plan.manifest, ranks.device)
        return {"reconstruction": figure}

    def fixed_loss(self, engine: nn.Module, device: torch.device) -> float:
        return parity_loss(engine, device)

    def summary(self, model: MaskedVAE, plan: Plan) -> str:
        encoder, decoder = (
            sum(parameter.numel() for parameter in part.parameters()) / 1e6
            for part in (model.encoder, model.decoder)
        )
        return (
            f"{self.model.preset}: encoder {encoder:.2f} M, decoder {decoder:.2f} M, "
            f"tokens: {self.model.tokens}, {plan.tokens_per_sample:.0f} a window"
        )
