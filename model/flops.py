"""Floating-point operations and sizes, counted from the model's shapes.

Matrix products only, a multiply-add as two operations; the backward pass costs twice the forward
one. Norms, softmax and interpolation are left out (under 2 % at the presets' sizes), so an
MFU from these numbers is slightly pessimistic. tests/ compares them with torch's own counter.
"""

from __future__ import annotations

from .config import ModelConfig
from .tokens import tokens_of


def _stack(tokens: int, width: int, depth: int, mlp_ratio: float) -> float:
    hidden = int(mlp_ratio * width)
    per_token = 2 * (4 * width * width + 2 * width * hidden)  # qkv and output, two MLP layers
    attention = 2 * 2 * tokens * tokens * width  # scores, and their product with the values
    return depth * (tokens * per_token + attention)


def forward_flops(config: ModelConfig, channels: int, samples: int) -> float:
    """Operations of one training forward pass of one window."""
    tokens = config.token_count(channels, samples)
    hidden = config.hidden_count(tokens)
    visible = tokens - hidden
    cutter = tokens_of(config)
    values = cutter.values
    heads = 2 if config.variational else 1
    encoder = _stack(visible, config.width, config.depth, config.mlp_ratio)
    encoder += 2 * visible * config.width * (values + heads * config.latent_dim)
    wide = config.decoder_width
    decoder = _stack(tokens, wide, config.decoder_depth, config.mlp_ratio)
    shown = tokens if config.visible_weight else hidden
    started = tokens if config.decoder_input == "latent_fill" else visible
    decoder += 2 * started * config.latent_dim * wide + 2 * shown * wide * values
    if config.decoder_input == "signal_fill":
        decoder += 2 * tokens * values * wide
    return encoder + decoder + cutter.prepare_flops(channels, samples)


def training_flops(config: ModelConfig, channels: int, samples: int) -> float:
    """Operations of a forward and backward pass of one window."""
    return 3 * forward_flops(config, channels, samples)
