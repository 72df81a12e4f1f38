"""Training steps on one CPU core: the engine in bf16 against the same step in plain PyTorch.

    python benchmarks/step.py [--preset tiny] [--batch 16]

All cases train the same network on the same batch: AdamW, gradients clipped at 1. Plain PyTorch is
written the usual way: fp32 weights under bf16 autocast, and again all in fp32; once with this
project's blocks and once with torch's own nn.TransformerEncoderLayer in their place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.common import ROOT, interleaved, noise_batch, one_core, plain_step, table
from data.batches.batch import Batch
from model.autoencoder import MaskedVAE
from model.config import ModelConfig, preset
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.engine.optim import layered_groups, make_optimizer
from trainer.masked.config import MaskedConfig
from trainer.ranks.ranks import start_ranks

REFERENCE = "plain PyTorch, bf16 autocast"


def torch_stack(width: int, depth: int, heads: int, mlp_ratio: float) -> nn.Module:
    """The same stack of blocks, as torch ships it."""
    layer = nn.TransformerEncoderLayer(
        width, heads, int(width * mlp_ratio), dropout=0.0, activation="gelu",
        batch_first=True, norm_first=True,
    )  # fmt: skip
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)


def with_torch_blocks(config: ModelConfig) -> MaskedVAE:
    model = MaskedVAE(config)
    model.encoder.stack = torch_stack(config.width, config.depth, config.heads, config.mlp_ratio)
    model.decoder.stack = torch_stack(
        config.decoder_width, config.decoder_depth, config.decoder_heads, config.mlp_ratio
    )
    return model


def autocast_step(
    model: nn.Module, batches: list[Batch], autocast: torch.dtype | None = torch.bfloat16
) -> Callable[[], int]:
    """The step as a script in plain PyTorch has it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss_of = lambda: model(batches, 1e-3, 0).total  # noqa: E731
    return plain_step(model, optimizer, loss_of, len(batches[0]), autocast)


def build_engine(config: ModelConfig, micro: int, **settings):
    """DeepSpeed's engine for ds_configs/zero2.json with these settings in it changed."""
    import deepspeed

    model = MaskedVAE(config)
    run = MaskedConfig(preset=config.preset, lr=1e-4)
    optimizer = make_optimizer(layered_groups(model, run, config.depth), run)
    shipped = read_deepspeed_config(str(ROOT / "ds_configs/zero2.json"))
    settings = {**shipped, "train_micro_batch_size_per_gpu": micro, **settings}
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]


def engine_step(engine, batches: list[Batch]) -> Callable[[], int]:
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
    batches = noise_batch(config, arguments.batch, arguments.channels)
    ours = build_engine(config, arguments.batch)
    cases = {
        REFERENCE: autocast_step(MaskedVAE(config), batches),
        f"{REFERENCE}, nn.TransformerEncoder": autocast_step(with_torch_blocks(config), batches),
        "plain PyTorch, fp32": autocast_step(MaskedVAE(config), batches, None),
        "this project: DeepSpeed ZeRO-2, bf16": engine_step(ours, batches),
    }
    for case in cases.values():
        case()
    rates = interleaved(cases, arguments.rounds)
    print(table([
        {"case": name, "windows/s": rate, f"x {REFERENCE}": rate / rates[REFERENCE]}
        for name, rate in rates.items()
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
