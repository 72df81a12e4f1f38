"""The objective, in fp32: error on hidden patches, KL with free bits, optional spectral and visible
terms. Sums in bf16 would lose digits over thousands of patches; exp(log-variance) would lose more.

Shapes: B samples, M hidden and K visible tokens, P values a token, Z latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .config import ModelConfig


@dataclass(frozen=True)
class Losses:
    """`loss` is what is differentiated; the rest is detached, for the log.

    error, kl, spectral: means over samples. r `[B]`: each sample's Pearson correlation over its
    hidden values. kl_per_dim `[Z]` nats. latent_means: of each part, `[B, K, Z]`.
    """

    loss: torch.Tensor
    error: torch.Tensor
    kl: torch.Tensor
    spectral: torch.Tensor
    r: torch.Tensor
    kl_per_dim: torch.Tensor
    latent_means: list[torch.Tensor]


def objective(parts: list[dict], config: ModelConfig, beta: torch.Tensor | float) -> Losses:
    """Combine the terms of all parts so that every sample weighs the same.

    A part: predicted, target `[B, M, P]`; mean, logvar `[B, K, Z]` (logvar None: no KL); with a
    visible term visible, visible_target `[B, K, P]`; with a spectral one completed, window
    `[B, C, T]`.
    """
    count = sum(len(part["target"]) for part in parts)
    errors = torch.stack([_error(part, config).sum() for part in parts]).sum() / count
    kl_dims = [_kl_per_dim(part) for part in parts]
    kl_per_dim = torch.stack([kl.sum(0) for kl in kl_dims]).sum(0) / count
    # Kingma et al. 2016 hold free bits against a mini-batch's mean: its gradient depends on how a
    # global batch is cut. A window has hundreds of tokens: its own mean is nearly as steady, and
    # the objective stays a mean over windows, however they are dealt out.
    free = [kl.clamp_min(config.free_bits).mean(1).sum() for kl in kl_dims]
    kl = torch.stack(free).sum() / count
    spectral = errors.new_zeros(())
    if config.spectral_weight:
        spectral = torch.stack([_spectral(part).sum() for part in parts]).sum() / count
    loss = errors + config.spectral_weight * spectral
    if config.visible_weight:
        visible = [_distance(part["visible"] - part["visible_target"], config) for part in parts]
        total = torch.stack([error.flatten(1).mean(1).sum() for error in visible]).sum()
        loss = loss + config.visible_weight * total / count
    if config.variational:
        loss = loss + beta * kl
    with torch.no_grad():
        r = torch.cat([pearson(part["predicted"], part["target"]) for part in parts])
    return Losses(
        loss=loss,
        error=errors.detach(),
        kl=kl_per_dim.detach().mean(),
        spectral=spectral.detach(),
        r=r,
        kl_per_dim=kl_per_dim.detach(),
        latent_means=[part["mean"].detach() for part in parts],
    )


def pearson(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Correlation over all but the first axis, `[B]` fp32; 0 where either side is constant."""
    a, b = predicted.flatten(1).float(), target.flatten(1).float()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    power = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return (a * b).sum(1) / power.clamp_min(1e-12)


def _error(part: dict, config: ModelConfig) -> torch.Tensor:
    return _distance(part["predicted"] - part["target"], config).flatten(1).mean(1)


def _distance(difference: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    return difference.abs() if config.loss == "l1" else difference.square()


def _kl_per_dim(part: dict) -> torch.Tensor:
    """KL(q || N(0, 1)) of each dimension, mean over tokens, `[B, Z]`."""
    mean, logvar = part["mean"], part["logvar"]
    if logvar is None:
        return torch.zeros_like(mean[:, 0]).detach()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(1)


def _spectral(part: dict) -> torch.Tensor:
    """L1 between the log amplitude spectra of the completed and the true window, `[B]`."""
    completed, window = (torch.fft.rfft(part[name]).abs() for name in ("completed", "window"))
    return (completed.add(1.0).log() - window.add(1.0).log()).abs().flatten(1).mean(1)
