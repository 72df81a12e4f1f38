"""What the step time is compared with: the original's training step, and Hugging Face's ViTMAE.

The original is rebuilt from its description: the masked autoencoder of the DreamDiffusion line with
blocks as timm has them, attention written out (scores, softmax, product), fp16 autocast with loss
scaling, AdamW, and in every step the correlation of channel 0 of each window, over visible and
hidden samples, computed on the CPU. ViTMAE is transformers' model with its fused attention, bf16
autocast and fused AdamW. Both are fed one batch that already lies on the device, which favours
them: this project's step reads its shards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import plain_step
from model.config import ModelConfig
from model.tokens import GRID_CHANNELS, time_features


class EagerBlock(nn.Module):
    """A pre-norm ViT block whose attention holds its weights in memory."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class OriginalModel(nn.Module):
    """`[B, 128, T]` -> (loss on hidden patches, prediction `[B, N, 128 * P]`)."""

    def __init__(self, config: ModelConfig, samples: int):
        super().__init__()
        self.patch, self.mask_ratio = config.patch_samples, config.mask_ratio
        patches, values = samples // config.patch_samples, GRID_CHANNELS * config.patch_samples
        self.embed = nn.Conv1d(GRID_CHANNELS, config.width, self.patch, self.patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.mask_token = nn.Parameter(torch.randn(1, 1, config.decoder_width) * 0.02)
        for name, width in (("place", config.width), ("decoder_place", config.decoder_width)):
            table = F.pad(time_features(patches, width), (0, 0, 1, 0))[None]
            self.register_parameter(name, nn.Parameter(table, requires_grad=False))
        self.blocks = nn.ModuleList(
            EagerBlock(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.to_decoder = nn.Linear(config.width, config.decoder_width)
        self.decoder_blocks = nn.ModuleList(
            EagerBlock(config.decoder_width, config.decoder_heads, config.mlp_ratio)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_width)
        self.predict = nn.Linear(config.decoder_width, values)

    def forward(self, eeg):
        x = self.embed(eeg).transpose(1, 2) + self.place[:, 1:]
        batch, patches, width = x.shape
        order = torch.rand(batch, patches, device=x.device).argsort(dim=1)
        restore = order.argsort(dim=1)
        kept = int(patches * (1 - self.mask_ratio))
        x = x.gather(1, order[:, :kept, None].expand(-1, -1, width))
        x = torch.cat([(self.cls_token + self.place[:, :1]).expand(batch, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.to_decoder(self.norm(x))
        full = torch.cat([x[:, 1:], self.mask_token.expand(batch, patches - kept, -1)], dim=1)
        full = full.gather(1, restore[..., None].expand(-1, -1, full.shape[-1]))
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_place
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.predict(self.decoder_norm(x))[:, 1:]
        target = eeg.unflatten(-1, (patches, self.patch)).transpose(1, 2).flatten(2)
        error = (predicted - target).square().mean(-1)
        hidden = (restore >= kept).float()
        return (error * hidden).sum() / hidden.sum(), predicted


def original_step(
    config: ModelConfig, samples: int, micro: int, device: torch.device, correlate: bool = True
) -> Callable[[], int]:
    """The original's optimizer step on a fixed batch; returns the windows it took. correlate: with
    the correlation on the CPU, as the original has it."""
    model = OriginalModel(config, samples).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2.5e-4, betas=(0.9, 0.95), weight_decay=0.05)
    cuda = device.type == "cuda"  # a CPU has no fp16 kernels
    eeg = torch.randn(micro, GRID_CHANNELS, samples, device=device)
    made = []

    def loss_of() -> torch.Tensor:
        made[:] = model(eeg)
        return made[0]

    half = torch.float16 if cuda else torch.bfloat16
    plain = plain_step(model, optimizer, loss_of, micro, half, loss_scaling=cuda)

    def step() -> int:
        windows = plain()
        loss, predicted = made
        loss.item()
        if correlate:
            channel_correlation(predicted.detach(), eeg, config.patch_samples)
        made.clear()
        return windows

    return step


def channel_correlation(predicted: torch.Tensor, eeg: torch.Tensor, patch: int) -> float:
    """Mean correlation of channel 0 over all samples, one window after another, on the CPU."""
    signals = predicted.unflatten(-1, (GRID_CHANNELS, patch)).transpose(1, 2).flatten(2)
    pairs = zip(signals.float().cpu().numpy(), eeg.float().cpu().numpy(), strict=True)
    return float(np.mean([np.corrcoef(made[0], real[0])[0, 1] for made, real in pairs]))


def vitmae_step(
    config: ModelConfig, side: int, values: int, micro: int, device: torch.device
) -> Callable[[], int]:
    """ViTMAE with `side` x `side` tokens of `values` inputs each, and the widths of `config`."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    patch = 2 if values % 4 == 0 else 1
    settings = ViTMAEConfig(
        image_size=side * patch, patch_size=patch, num_channels=values // patch**2,
        hidden_size=config.width, num_hidden_layers=config.depth,
        num_attention_heads=config.heads, intermediate_size=int(config.width * config.mlp_ratio),
        decoder_hidden_size=config.decoder_width, decoder_num_hidden_layers=config.decoder_depth,
        decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=int(config.decoder_width * config.mlp_ratio),
        mask_ratio=config.mask_ratio, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = ViTMAEForPreTraining(settings).to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), fused=True)
    size = side * patch
    pixels = torch.randn(micro, settings.num_channels, size, size, device=device)
    return plain_step(model, optimizer, lambda: model(pixel_values=pixels).loss, micro)
