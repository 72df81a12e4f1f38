"""The objective, in fp32: the sum of the terms in `TERMS`. Sums in bf16 would lose digits over
thousands of patches; exp(log-variance) would lose more.

Shapes: B windows, M hidden and K visible tokens, P values a token, Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

Beta = torch.Tensor | float


class Objective(Protocol):
    """What is read of a model's configuration (model/config.py)."""

    loss: str
    spectral_weight: float
    visible_weight: float
    free_bits: float

    @property
    def variational(self) -> bool: ...


@dataclass(frozen=True)
class LossTerms:
    """The loss of a micro-batch, and what the log reports of it; detached but for the total.

    total: scalar. terms: scalars, to be averaged over micro-batches and ranks; floats are logged as
    they are. per_window `[B]`: to be averaged, also by data set; the first finds windows that are
    not finite. vectors `[K]`: to be averaged. latent_means: of each batch `[B, K, Z]`, which
    validation reads and the loop does not.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor | float]
    per_window: dict[str, torch.Tensor]
    vectors: dict[str, torch.Tensor] = field(default_factory=dict)
    latent_means: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Term:
    """value: what the log shows. added: what the total receives, weighted; None: weight 0."""

    value: torch.Tensor
    added: torch.Tensor | None = None


def objective(outputs: list[dict], config: Objective, beta: Beta) -> LossTerms:
    """Add up the terms so that every window weighs the same, whatever batch it is in.

    outputs, one a batch: predicted, target `[B, M, P]`; mean, logvar `[B, K, Z]` (logvar None: no
    KL); with a visible term visible, visible_target `[B, K, P]`; with a spectral one completed,
    window `[B, C, T]`. beta: the KL weight now.
    """
    outputs = [{**output, "kl_per_dim": _kl_per_dim(output)} for output in outputs]
    terms = {name: term(outputs, config, beta) for name, term in TERMS.items()}
    terms = {name: term for name, term in terms.items() if term is not None}
    total, *others = (term.added for term in terms.values() if term.added is not None)
    for added in others:
        total = total + added
    with torch.no_grad():
        r = torch.cat([pearson(output["predicted"], output["target"]) for output in outputs])
        kl_per_dim = _mean(outputs, lambda output: output["kl_per_dim"].sum(0))
    return LossTerms(
        total=total,
        terms={name: term.value.detach() for name, term in terms.items()},
        per_window={"r": r},
        vectors={"kl_per_dim": kl_per_dim},
        latent_means=[output["mean"].detach() for output in outputs],
    )


def pearson(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Correlation over all but the first axis, `[B]` fp32; 0 where either side is constant."""
    a, b = predicted.flatten(1).float(), target.flatten(1).float()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    power = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return (a * b).sum(1) / power.clamp_min(1e-12)


def _error(outputs: list[dict], config: Objective, beta: Beta) -> Term:
    """Distance of the hidden patches from the signal."""
    error = _mean(
        outputs, lambda o: _distance(o["predicted"], o["target"], config).flatten(1).mean(1).sum()
    )
    return Term(error, error)


def _spectral(outputs: list[dict], config: Objective, beta: Beta) -> Term:
    """L1 between the log amplitude spectra of the completed and the true window."""

    def distance(output: dict) -> torch.Tensor:
        completed, window = (torch.fft.rfft(output[k]).abs() for k in ("completed", "window"))
        return (completed.add(1.0).log() - window.add(1.0).log()).abs().flatten(1).mean(1).sum()

    if not config.spectral_weight:
        return Term(outputs[0]["target"].new_zeros(()))
    spectral = _mean(outputs, distance)
    return Term(spectral, config.spectral_weight * spectral)


def _visible(outputs: list[dict], config: Objective, beta: Beta) -> Term | None:
    """Distance of the visible patches from the signal."""
    if not config.visible_weight:
        return None
    total = _sum(
        outputs,
        lambda o: _distance(o["visible"], o["visible_target"], config).flatten(1).mean(1).sum(),
    )
    count = _windows(outputs)
    return Term(total / count, config.visible_weight * total / count)


def _kl(outputs: list[dict], config: Objective, beta: Beta) -> Term:
    """KL beyond the free bits; the log shows all of it.

    Kingma et al. 2016 hold free bits against a mini-batch's mean: its gradient depends on how a
    global batch is cut. A window has hundreds of tokens: its own mean is nearly as steady, and the
    objective stays a mean over windows, however they are dealt out.
    """
    shown = _mean(outputs, lambda output: output["kl_per_dim"].sum(0)).mean()
    if not config.variational:
        return Term(shown)
    least = config.free_bits
    paid = _mean(outputs, lambda output: output["kl_per_dim"].clamp_min(least).mean(1).sum())
    return Term(shown, beta * paid)


TERMS: dict[str, Callable[[list[dict], Objective, Beta], Term | None]] = {
    "error": _error,
    "spectral": _spectral,
    "visible": _visible,
    "kl": _kl,
}
"""Summed in this order. A term that gives None is neither added nor logged."""


def _windows(outputs: list[dict]) -> int:
    return sum(len(output["target"]) for output in outputs)


def _sum(outputs: list[dict], of: Callable[[dict], torch.Tensor]) -> torch.Tensor:
    return torch.stack([of(output) for output in outputs]).sum(0)


def _mean(outputs: list[dict], of: Callable[[dict], torch.Tensor]) -> torch.Tensor:
    """Mean over windows of what `of` gives as a batch's sum."""
    return _sum(outputs, of) / _windows(outputs)


def _distance(predicted, target, config: Objective) -> torch.Tensor:
    difference = predicted - target
    return difference.abs() if config.loss == "l1" else difference.square()


def _kl_per_dim(output: dict) -> torch.Tensor:
    """KL(q || N(0, 1)) of each dimension, mean over tokens, `[B, Z]`."""
    mean, logvar = output["mean"], output["logvar"]
    if logvar is None:
        return torch.zeros_like(mean[:, 0]).detach()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(1)
