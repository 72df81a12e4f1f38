"""A pretrained EEG encoder in place of Brainformer's own.

It is this project's masked autoencoder's encoder, whose code is not part of a Brainformer's folder:
such a model loads where this project is, and not by `trust_remote_code` alone. It reads all times
at once, so it cannot stream.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .sensors_brainformer import HEAD_RADIUS_M


def make_encoder(settings: dict) -> nn.Module:
    """The encoder that `settings` (an `EegEncoderConfig` as a dictionary) describes, untrained."""
    try:
        from model.eeg_encoder import EegEncoderConfig, EegEncoderModel
    except ImportError:
        raise ImportError(
            "this Brainformer reads EEG with a pretrained encoder: load it from this project's "
            "folder, where model/eeg_encoder.py is"
        ) from None
    return EegEncoderModel(EegEncoderConfig(**settings))


class PretrainedTokens(nn.Module):
    """EEG `[B, Cs, T]` -> tokens `[B, Cs, L, D]`, zero where nothing is real."""

    def __init__(self, config):
        super().__init__()
        self.encoder = make_encoder(config.eeg_encoder)
        self.samples = config.segment_samples
        self.project = nn.Linear(config.eeg_encoder["vae"]["width"], config.d_model)

    def forward(self, inputs) -> torch.Tensor:
        """Recordings of unlike channels or lengths are read one by one, without their padding."""
        eeg, count = inputs.eeg, -(-inputs.eeg.shape[-1] // self.samples)
        eeg = F.pad(eeg, (0, count * self.samples - eeg.shape[-1]))
        places = (inputs.eeg_features[..., :3] * HEAD_RADIUS_M).expand(len(eeg), -1, -1)
        alike = inputs.eeg_mask is None and inputs.time_mask is None
        if alike and bool((places == places[:1]).all()):
            return self.project_like(self.read(eeg, places[0]))
        found = []
        for number in range(len(eeg)):
            rows = slice(None) if inputs.eeg_mask is None else inputs.eeg_mask[number]
            length = count
            if inputs.time_mask is not None:
                last = int(inputs.time_mask[number].nonzero().max()) + 1
                length = -(-last // self.samples)
            part = eeg[number : number + 1, rows, : length * self.samples]
            tokens = self.read(part, places[number][rows])[0]
            whole = tokens.new_zeros(eeg.shape[1], count, tokens.shape[-1])
            whole[rows, :length] = tokens
            found.append(whole)
        return self.project_like(torch.stack(found))

    def read(self, eeg, positions_m) -> torch.Tensor:
        tokens = self.encoder(eeg, positions_m).last_hidden_state
        return tokens.unflatten(1, (eeg.shape[1], -1))

    def project_like(self, tokens) -> torch.Tensor:
        return self.project(tokens.to(self.project.weight.dtype))
