"""Two-stage attention and the layers made of it (after Zhang & Yan 2023, Crossformer).

Shapes: B batch, C channels, L segments, D width. Everything that a layer adds is computed from a
normalised copy of its input and added to the input itself (true pre-norm). The signal's scale and
past reach the output only through these sums.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's backward has given NaN gradients on Hopper (pytorch/pytorch#196678).
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
ROTARY_BASE = 10_000.0
# A CUDA grid's second and third sides end at 65,535, and fused kernels put sequences x heads there.
MAX_SEQUENCES_X_HEADS = 65_535


def named_generator(seed: int, name: str, device: torch.device) -> torch.Generator:
    """A generator keyed by (seed, name). As in model/transformer.py, which a folder that holds
    this model with its code does not have."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def residual_linear(d_in: int, d_out: int, n_branches: int) -> nn.Linear:
    """A layer that writes into the residual stream: starts smaller the more branches write there,
    so that deep models start as calmly as shallow ones (Radford et al. 2019)."""
    layer = nn.Linear(d_in, d_out)
    layer.init_gain = n_branches**-0.5
    return layer


def rotary_angles(n_segments: int, head_width: int, device: torch.device) -> torch.Tensor:
    """Angle of each pair of features at each segment, `[L, head_width / 2]` fp32 (Su et al. 2021).
    Made anew for each call, so that no length is a limit and no table can be lost in a file."""
    octave = torch.arange(head_width // 2, device=device, dtype=torch.float32) / (head_width // 2)
    index = torch.arange(n_segments, device=device, dtype=torch.float32)
    return index[:, None] * ROTARY_BASE**-octave


def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn the feature pairs of `[N, heads, L, E]` by `angles [L, E / 2]`."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.to(x.dtype)


class Attention(nn.Module):
    """Softmax attention of `queries [N, Q, D]` over `keys [N, K, D]` -> `[N, Q, D]`.

    `allowed` is bool, `[N, 1, 1 or Q, K]`, True where a query may look; a row without any True is
    the caller's mistake.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float, n_branches: int):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.to_query = nn.Linear(d_model, d_model)
        self.to_key_value = nn.Linear(d_model, 2 * d_model)
        self.out = residual_linear(d_model, d_model, n_branches)

    def forward(self, queries, keys, allowed=None, causal=False, angles=None):
        q = self.to_query(queries).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        k, v = self.to_key_value(keys).unflatten(-1, (2, self.n_heads, -1)).unbind(-3)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        dropout = self.dropout if self.training else 0.0
        step = MAX_SEQUENCES_X_HEADS // self.n_heads
        masks = [None] * len(q.split(step)) if allowed is None else allowed.split(step)
        with sdpa_kernel(_KERNELS):
            parts = [
                F.scaled_dot_product_attention(*qkv, attn_mask=mask, dropout_p=dropout,
                                               is_causal=causal and mask is None)
                for *qkv, mask in zip(q.split(step), k.split(step), v.split(step), masks,
                                      strict=True)
            ]  # fmt: skip
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.out(joined.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """`[..., D]` -> `[..., D]`."""

    def __init__(self, d_model: int, d_ff: int, n_branches: int):
        super().__init__()
        self.into = nn.Linear(d_model, d_ff)
        self.out = residual_linear(d_ff, d_model, n_branches)

    def forward(self, x):
        return self.out(F.gelu(self.into(x)))


class RouterMixer(nn.Module):
    """Channels exchange through a few learned buffers: `[N, C, D]` -> `[N, C, D]`.

    Buffers gather from the channels, channels read the buffers: the cost is linear in C. The
    buffers are the same at every time, so that no length is built in.
    """

    def __init__(self, config, n_branches: int):
        super().__init__()
        width, heads, dropout = config.d_model, config.n_heads, config.dropout
        self.router = nn.Parameter(torch.zeros(config.n_routers, width))
        self.gather = Attention(width, heads, dropout, n_branches=1)
        self.norm = nn.LayerNorm(width)
        self.distribute = Attention(width, heads, dropout, n_branches)

    def forward(self, x, allowed=None):
        buffers = self.gather(self.router.to(x.dtype).expand(len(x), -1, -1), x, allowed)
        return self.distribute(x, self.norm(buffers))


class FullMixer(nn.Module):
    """Every channel looks at every channel: `[N, C, D]` -> `[N, C, D]`."""

    def __init__(self, config, n_branches: int):
        super().__init__()
        self.mix = Attention(config.d_model, config.n_heads, config.dropout, n_branches)

    def forward(self, x, allowed=None):
        return self.mix(x, x, allowed)


class TwoStageLayer(nn.Module):
    """Along time within each channel, then across channels at each time. `[B, C, L, D]`."""

    def __init__(self, config, n_branches: int):
        super().__init__()
        width, mixer = config.d_model, config.channel_mixer
        self.norm_time = nn.LayerNorm(width)
        self.time = Attention(width, config.n_heads, config.dropout, n_branches)
        self.norm_mlp1 = nn.LayerNorm(width)
        self.mlp1 = Mlp(width, config.d_ff, n_branches)
        self.norm_channel = nn.LayerNorm(width)
        self.channel = (RouterMixer if mixer == "router" else FullMixer)(config, n_branches)
        self.norm_mlp2 = nn.LayerNorm(width)
        self.mlp2 = Mlp(width, config.d_ff, n_branches)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, channel_mask, time_allowed, causal, angles):
        """`channel_mask [B, C]`, `time_allowed [B, 1 or L, L]`: bool, True is real, or None."""
        n_channels, n_segments = x.shape[1:3]
        allowed = None
        if time_allowed is not None:
            allowed = time_allowed[:, None].repeat_interleave(n_channels, 0)
        flat = self.norm_time(x).flatten(0, 1)
        x = x + self.drop(self.time(flat, flat, allowed, causal, angles)).view_as(x)
        x = x + self.drop(self.mlp1(self.norm_mlp1(x)))
        flat = self.norm_channel(x).transpose(1, 2).flatten(0, 1)
        mixed = self.channel(flat, over_channels(channel_mask, n_segments))
        x = x + self.drop(mixed).unflatten(0, (-1, n_segments)).transpose(1, 2)
        return x + self.drop(self.mlp2(self.norm_mlp2(x)))


class DecoderLayer(nn.Module):
    """MEG tokens read the EEG tokens of their own segment, then two-stage attention.

    The cross-attention is first: before it, the tokens of a sensor are the same at all times and
    attention along time would have nothing to look at.
    """

    def __init__(self, config, n_branches: int):
        super().__init__()
        width = config.d_model
        self.norm_cross = nn.LayerNorm(width)
        self.cross = Attention(width, config.n_heads, config.dropout, n_branches)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, config.d_ff, n_branches)
        self.two_stage = TwoStageLayer(config, n_branches)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, memory, eeg_mask, meg_mask, time_allowed, causal, angles):
        """`x [B, Ct, L, D]`, `memory [B, Cs, L, D]`; masks as in `TwoStageLayer`."""
        n_segments = x.shape[2]
        queries = self.norm_cross(x).transpose(1, 2).flatten(0, 1)
        keys = memory.transpose(1, 2).flatten(0, 1)
        read = self.cross(queries, keys, over_channels(eeg_mask, n_segments))
        x = x + self.drop(read).unflatten(0, (-1, n_segments)).transpose(1, 2)
        x = x + self.drop(self.mlp(self.norm_mlp(x)))
        return self.two_stage(x, meg_mask, time_allowed, causal, angles)


def over_channels(channel_mask: torch.Tensor | None, n_segments: int) -> torch.Tensor | None:
    """`[B, C]` -> what attention over channels may look at, `[B * L, 1, 1, C]`."""
    if channel_mask is None:
        return None
    return channel_mask[:, None, None, :].repeat_interleave(n_segments, 0)


def over_time(segment_mask: torch.Tensor | None, causal: bool) -> torch.Tensor | None:
    """`[B, L]` -> what attention along time may look at, `[B, 1 or L, L]`.

    In causal mode a segment may always look at itself: the first ones of a left-padded recording
    would else have nothing to look at, which gives NaN. Nothing real looks at them.
    """
    if segment_mask is None:
        return None
    if not causal:
        return segment_mask[:, None, :]
    n_segments = segment_mask.shape[1]
    square = torch.ones(n_segments, n_segments, dtype=torch.bool, device=segment_mask.device)
    return (square.tril() & segment_mask[:, None, :]) | torch.eye(
        n_segments, dtype=torch.bool, device=segment_mask.device
    )
