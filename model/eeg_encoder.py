"""The masked autoencoder's encoder as a Hugging Face model: EEG in, one vector for each token out.

`import model.eeg_encoder` makes `AutoModel.from_pretrained(folder)` find it; a folder written by
`save_pretrained` also holds the code, for `trust_remote_code=True`. That is why this package's
modules import each other relatively.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
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
        self.post_init()
        start_weights(self.encoder, seed=0)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As transformers has it; ValueError where the folder lacks a tensor, holds another one, or
        one of another shape (transformers warns, and starts such weights anew)."""
        kwargs["ignore_mismatched_sizes"] = True  # so that they are named, below
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if found := sorted(map(str, info.get(what) or ())):
                shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if found[3:] else "")
                raise ValueError(
                    f"{args[0] if args else 'the folder'}: {what.replace('_', ' ')}: {shown}. "
                    "Weights and config.json are of different models, or a file was cut: convert "
                    "or download it again"
                )
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)
            module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()

    def forward(
        self,
        eeg: torch.Tensor,
        positions_m: torch.Tensor,
        channel_mask: torch.Tensor | None = None,
    ) -> EegEncoderOutput:
        """eeg `[B, C, T]` in robust units (a recording divided by its scale), T at least one patch
        (an incomplete last patch is cut); positions_m metres, head frame: `[C, 3]` of one montage,
        `[B, C, 3]` of several; channel_mask bool `[B, C]`, True where a channel was recorded: the
        others are as if left out. Gradients flow.

        ValueError for values that are not finite, places that are not in metres, and, with joint
        tokens, for several montages or a mask.
        """
        samples = self.vae.patch_samples
        n_patches = eeg.shape[-1] // samples
        if n_patches < 1:
            raise ValueError(f"eeg has {eeg.shape[-1]} samples, a patch has {samples}")
        if channel_mask is not None:
            eeg = torch.where(channel_mask[..., None], eeg, 0.0)
            positions_m = torch.where(channel_mask[..., None], positions_m, 0.0)
        if not torch.compiler.is_compiling():
            check_input(eeg, positions_m, channel_mask)
            if channel_mask is not None and channel_mask.all():
                channel_mask = None
        cutter = tokens_of(self.vae)
        if cutter.one_row and (positions_m.dim() == 3 or channel_mask is not None):
            raise ValueError("joint tokens take one montage: call it for each montage")
        eeg, positions_m = cutter.prepare(eeg, positions_m)
        key_mask = None
        if channel_mask is not None:
            key_mask = channel_mask[..., None].expand(-1, -1, n_patches).flatten(1)
        tokens, mean, _ = self.encoder(cutter.cut(eeg), positions_m, n_patches, key_mask=key_mask)
        tokens = tokens.float()
        if key_mask is None:
            return EegEncoderOutput(tokens, mean, tokens.mean(1))
        weight = key_mask[..., None].float()
        pooled = (tokens * weight).sum(1) / weight.sum(1)
        return EegEncoderOutput(tokens, mean, pooled)


LEAST_RADIUS_M, MOST_RADIUS_M = 0.04, 0.20


def check_input(
    eeg: torch.Tensor, positions_m: torch.Tensor, channel_mask: torch.Tensor | None = None
) -> None:
    """ValueError for values that are not finite, and for places that are no head's in metres."""
    if not (eeg.isfinite().all() and positions_m.isfinite().all()):
        raise ValueError("eeg or positions_m has values that are not finite")
    radius = positions_m.norm(dim=-1)
    radius = radius.expand(*eeg.shape[:2])
    known = radius if channel_mask is None else radius[channel_mask]
    if not len(known.flatten()):
        raise ValueError("channel_mask: no channel was recorded")
    if not LEAST_RADIUS_M <= float(known.median()) <= MOST_RADIUS_M:
        raise ValueError(
            f"positions_m: the median distance from the head's middle is {float(known.median()):g} "
            f"m, not {LEAST_RADIUS_M:g} to {MOST_RADIUS_M:g}: give metres, in the head frame"
        )
    if channel_mask is not None and not channel_mask.any(1).all():
        raise ValueError("channel_mask: a window without a channel")


if __package__ == "model":  # a folder's copy of this file is registered by transformers itself
    AutoConfig.register(EegEncoderConfig.model_type, EegEncoderConfig)
    AutoModel.register(EegEncoderConfig, EegEncoderModel)
    EegEncoderConfig.register_for_auto_class()
    EegEncoderModel.register_for_auto_class("AutoModel")
