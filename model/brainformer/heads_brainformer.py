"""From MEG tokens to numbers: mean and log-variance, mu-law levels, and their losses.

The token head adds to what the Gaussian of the regression head gives each level. So the signed
linear map, which softmax over levels could not reach, serves both heads, and the token head starts
as the Gaussian.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .quantizer_brainformer import SPECIAL_IDS, MuLawQuantizer

IGNORE = -100
LOG_VARIANCE_RANGE = (-8.0, 8.0)
# PAD, BOS and EOS are never in a recording; their logits start about as low as one rare level.
SPECIAL_LOGIT = -6.0


class Heads(nn.Module):
    def __init__(self, config, quantizer: MuLawQuantizer):
        super().__init__()
        self.kind, self.quantizer = config.head, quantizer
        self.token_weight, self.beta = config.token_weight, config.beta_nll
        samples = config.segment_samples
        self.mean = zero_linear(config.d_model, samples)
        self.log_variance = zero_linear(config.d_model, samples)
        if self.kind != "regression":
            self.tokens = zero_linear(config.d_model, samples * self.quantizer.vocabulary)

    def forward(self, hidden, linear, length: int, valid, labels) -> dict[str, torch.Tensor | None]:
        """`hidden [B, Ct, L, D]`, `linear [B, Ct, T]` or None, `valid` as `Inputs.valid`, `labels
        [B, Ct, T]` or None -> the fields of `BrainformerOutput`."""
        mean = self.mean(hidden).float().flatten(-2)[..., :length]
        if linear is not None:
            mean = mean + linear
        log_variance = self.log_variance(hidden).float().flatten(-2)[..., :length]
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
        prediction, spread, logits = mean, log_variance, None
        if self.kind != "regression":
            logits = self.token_logits(hidden, mean, log_variance, length)
        if self.kind == "tokens":
            prediction, spread = self.expectation(logits)
        found = {"loss": None, "regression_loss": None, "token_loss": None}
        if labels is not None:
            found = self.losses(mean, log_variance, logits, labels.float(), valid)
        if valid is not None:
            prediction = prediction.masked_fill(~valid, 0.0)
            spread = spread.masked_fill(~valid, 0.0)
        return {"prediction": prediction, "log_variance": spread, "logits": logits, **found}

    def token_logits(self, hidden, mean, log_variance, length: int) -> torch.Tensor:
        """`[B, Ct, T, 258]` fp32."""
        values = self.quantizer.level_values(hidden.device)
        log_widths = self.quantizer.level_widths(hidden.device).log()
        distance = (values - mean[..., None]) * (-0.5 * log_variance).exp()[..., None]
        levels = F.log_softmax(log_widths - 0.5 * distance**2, dim=-1)
        start = F.pad(levels, (SPECIAL_IDS, 0), value=SPECIAL_LOGIT)
        learned = self.tokens(hidden).float().unflatten(-1, (-1, self.quantizer.vocabulary))
        return start + learned.flatten(2, 3)[:, :, :length]

    def expectation(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the levels' distribution, PAD, BOS and EOS left aside."""
        values = self.quantizer.level_values(logits.device)
        weights = logits[..., SPECIAL_IDS:].softmax(-1)
        mean, square = (weights @ torch.stack([values, values**2], dim=1)).unbind(-1)
        smallest, largest = LOG_VARIANCE_RANGE
        return mean, (square - mean**2).clamp(min=math.exp(smallest)).log().clamp(max=largest)

    def losses(self, mean, log_variance, logits, labels, valid) -> dict[str, torch.Tensor | None]:
        """Means over what is real. Gaussian likelihood weighted by variance^beta, which keeps noisy
        sensors from being given up early; cross-entropy of the labels' levels."""
        weight = torch.ones_like(labels) if valid is None else valid.expand_as(labels).float()
        labels = torch.where(weight > 0, labels, 0.0)
        total = weight.sum().clamp(min=1)
        regression = token = None
        if self.kind != "tokens":
            nll = 0.5 * ((labels - mean) ** 2 * (-log_variance).exp() + log_variance)
            steady = (self.beta * log_variance.detach()).exp()
            regression = (nll * steady * weight).sum() / total
        if self.kind != "regression":
            ids = self.quantizer.to_ids(labels).masked_fill(weight == 0, IGNORE)
            summed = F.cross_entropy(
                logits.flatten(0, -2), ids.flatten(), ignore_index=IGNORE, reduction="sum"
            )
            token = summed / total
        if self.kind == "both":
            loss = regression + self.token_weight * token
        else:
            loss = token if regression is None else regression
        return {"loss": loss, "regression_loss": regression, "token_loss": token}


def zero_linear(d_in: int, d_out: int) -> nn.Linear:
    """A layer that starts at zero, so that the model starts at its linear map."""
    layer = nn.Linear(d_in, d_out)
    layer.init_gain = 0.0
    return layer
