"""Training steps on one CPU core: the engine in bf16 against the same step in plain PyTorch.

    python benchmarks/step.py [--preset tiny] [--batch 16]

All cases train the same network on the same batch: AdamW, gradients clipped at 1. Plain PyTorch is
written the usual way: fp32 weights under bf16 autocast, and again all in fp32; once with this
project's blocks and once with torch's own nn.TransformerEncoderLayer in their place.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.common import interleaved, one_core, print_table
from data.batches.batch import Batch
from model.autoencoder import MaskedVAE
from model.config import ModelConfig, preset
from model.tokens import grid_positions
from trainer.engine.optim import make_optimizer
from trainer.masked.config import MaskedConfig
from trainer.masked.draw import DrawMasks
from trainer.masked.task import layered_groups
from trainer.ranks.ranks import start_ranks

ROOT = Path(__file__).resolve().parents[1]


class PlainStack(nn.Module):
    """The same stack of blocks, as torch ships it."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, heads, int(width * mlp_ratio), dropout=0.0, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        norm = nn.LayerNorm(width)
        self.layers = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)

    def forward(self, x):
        return self.layers(x)


def with_torch_blocks(config: ModelConfig) -> MaskedVAE:
    model = MaskedVAE(config)
    model.encoder.stack = PlainStack(config.width, config.depth, config.heads, config.mlp_ratio)
    model.decoder.stack = PlainStack(
        config.decoder_width, config.decoder_depth, config.decoder_heads, config.mlp_ratio
    )
    return model


def plain_step(model: nn.Module, batches: list[Batch], autocast: bool):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(batches, 1e-3, 0).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return len(batches[0])

    return step


def engine_step(config: ModelConfig, batches: list[Batch]):
    import deepspeed

    settings = json.loads((ROOT / "ds_configs/zero2.json").read_text())
    settings["train_micro_batch_size_per_gpu"] = len(batches[0])
    model = MaskedVAE(config)
    settings_of_run = MaskedConfig(preset=config.preset, lr=1e-4)
    groups = layered_groups(model, settings_of_run, config.depth)
    optimizer = make_optimizer(groups, settings_of_run)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)

    def step() -> int:
        engine.backward(engine(batches, 1e-3, 0).total)
        engine.step()
        return len(batches[0])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    start_ranks()
    one_core()
    config = preset(arguments.preset)
    eeg = torch.randn(arguments.batch, arguments.channels, 10 * config.patch_samples)
    batches = [DrawMasks(config, 0)(Batch.of(eeg, grid_positions(arguments.channels)))]
    cases = {
        "plain PyTorch, bf16 autocast": plain_step(MaskedVAE(config), batches, True),
        "plain PyTorch, bf16 autocast, nn.TransformerEncoder": plain_step(
            with_torch_blocks(config), batches, True
        ),
        "plain PyTorch, fp32": plain_step(MaskedVAE(config), batches, False),
        "this project: DeepSpeed ZeRO-2, bf16": engine_step(config, batches),
    }
    for case in cases.values():
        case()
    rates = interleaved(cases, arguments.rounds)
    print_table(rates, "windows/s", "plain PyTorch, bf16 autocast")


if __name__ == "__main__":
    main()
