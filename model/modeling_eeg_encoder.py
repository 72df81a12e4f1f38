"""The masked autoencoder's encoder as a Hugging Face model: EEG in, one vector for each token out.

`import model.hub` makes `AutoModel.from_pretrained(folder)` find it; a folder written by
`save_pretrained` also holds the code, for `trust_remote_code=True`. That is why this package's
modules import each other relatively.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .autoencoder import Encoder
from .config import GRID_CHANNELS
from .configuration_eeg_encoder import EegEncoderConfig
from .initial import start_weights
from .interpolation import head_directions, spline_matrix
from .positions import grid_positions


@dataclass
class EegEncoderOutput(ModelOutput):
    """`last_hidden_state [B, L, D]`; `latents [B, L, Z]`, their means; `pooler_output [B, D]`, the
    mean token. fp32. Tokens: channel after channel, C x N (`joint`: N), N patches in time."""

    last_hidden_state: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


class EegEncoderModel(PreTrainedModel):
    config_class = EegEncoderConfig
    base_model_prefix = "eeg_encoder"
    main_input_name = "eeg"

    def __init__(self, config: EegEncoderConfig):
        super().__init__(config)
        self.vae = config.vae_config
        joint = self.vae.tokens == "joint"
        values = self.vae.patch_samples * (GRID_CHANNELS if joint else 1)
        self.encoder = Encoder(self.vae, values)
        start_weights(self.encoder, seed=0)
        self.post_init()

    def _init_weights(self, module) -> None:
        """Nothing: the weights are started already, and a file replaces them all."""

    def forward(self, eeg: torch.Tensor, positions_m: torch.Tensor) -> EegEncoderOutput:
        """eeg `[B, C, T]` in robust units (a recording divided by its scale), T at least one patch
        (an incomplete last patch is cut); positions_m `[C, 3]` metres, head frame. Gradients flow.
        """
        samples = self.vae.patch_samples
        n_patches = eeg.shape[-1] // samples
        if n_patches < 1:
            raise ValueError(f"eeg has {eeg.shape[-1]} samples, a patch has {samples}")
        eeg = eeg[..., : n_patches * samples].float()
        if self.vae.tokens == "joint":
            places = grid_positions(GRID_CHANNELS).to(positions_m.device)
            eeg = spline_matrix(head_directions(places), head_directions(positions_m)) @ eeg
            positions_m = places
            patches = eeg.unflatten(-1, (n_patches, samples)).transpose(1, 2).flatten(2)
        else:
            patches = eeg.unflatten(-1, (n_patches, samples)).flatten(1, 2)
        tokens, mean, _ = self.encoder(patches, positions_m, n_patches)
        tokens = tokens.float()
        return EegEncoderOutput(tokens, mean, tokens.mean(1))
