"""The masked autoencoder's encoder as a Hugging Face model: EEG in, one vector for each token out.

`import model.eeg_encoder` makes `AutoModel.from_pretrained(folder)` find it; a folder written by
`save_pretrained` also holds the code, for `trust_remote_code=True`. That is why this package's
modules import each other relatively.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .config import ModelConfig, from_dict, preset
from .networks import Encoder
from .tokens import tokens_of
from .transformer import start_weights


class EegEncoderConfig(PretrainedConfig):
    """Args:
    vae: the masked autoencoder's configuration, `ModelConfig.as_dict()`.
    signal: how the EEG must be made: rate, band, reference, scale (a shard profile).
    trained_on: the subjects of pretraining, by data set: not to be scored on.
    trained_recordings: their recordings' digests, by data set and subject; None: not known.
    benchmarks_seen: how many people of public benchmarks they are, by list; "unknown".

    Raises ValueError for an unknown field of `vae`.
    """

    model_type = "eeg_masked_vae_encoder"

    def __init__(
        self,
        vae: dict | None = None,
        signal=None,
        trained_on=None,
        trained_recordings=None,
        benchmarks_seen="unknown",
        **kwargs,
    ):
        self.vae = preset("tiny").as_dict() if vae is None else vae
        self.signal = signal or {}
        self.trained_on = trained_on or {}
        self.trained_recordings = trained_recordings
        self.benchmarks_seen = benchmarks_seen
        from_dict(self.vae)
        super().__init__(**kwargs)

    @property
    def vae_config(self) -> ModelConfig:
        return from_dict(self.vae)

    @property
    def hidden_size(self) -> int:
        return self.vae["width"]


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
        self.encoder = Encoder(self.vae)
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
        cutter = tokens_of(self.vae)
        eeg, positions_m = cutter.prepare(eeg, positions_m)
        tokens, mean, _ = self.encoder(cutter.cut(eeg), positions_m, n_patches)
        tokens = tokens.float()
        return EegEncoderOutput(tokens, mean, tokens.mean(1))


if __package__ == "model":  # a folder's copy of this file is registered by transformers itself
    AutoConfig.register(EegEncoderConfig.model_type, EegEncoderConfig)
    AutoModel.register(EegEncoderConfig, EegEncoderModel)
    EegEncoderConfig.register_for_auto_class()
    EegEncoderModel.register_for_auto_class("AutoModel")
