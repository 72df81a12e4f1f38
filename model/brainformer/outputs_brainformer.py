"""What Brainformer gives back. Shapes: B batch, Cs EEG and Ct MEG channels, T samples, L segments,
D width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class BrainformerModelOutput(ModelOutput):
    """`last_hidden_state [B, Ct, L, D]` of the MEG, `encoder_last_hidden_state [B, Cs, L, D]`."""

    last_hidden_state: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None


@dataclass
class BrainformerOutput(ModelOutput):
    """In scaled units, zero where padded.

    `prediction`, `log_variance`: `[B, Ct, T]` fp32. `logits`: `[B, Ct, T, 258]`, only when asked
    for. `regression_loss`, `token_loss`: the parts of `loss` that the head has.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    log_variance: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    regression_loss: torch.Tensor | None = None
    token_loss: torch.Tensor | None = None


@dataclass
class BrainformerTranslation(ModelOutput):
    """`meg`, `std`: `[B, Ct, T]`, tesla for magnetometers and tesla/metre for gradiometers."""

    meg: torch.Tensor | None = None
    std: torch.Tensor | None = None
