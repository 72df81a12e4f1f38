"""What the benchmarks share: one core, noise to train on, a plain step, rates, tables."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from data.batches.batch import Batch
from model.config import ModelConfig
from model.tokens import grid_positions
from trainer.masked.draw import DrawMasks

ROOT = Path(__file__).resolve().parents[1]


def one_core() -> None:
    """Keep this process on one core with one thread: what a rank on a laptop has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def noise_batch(
    config: ModelConfig, windows: int, channels: int = 32, patches: int = 10, first: int = 0
) -> list[Batch]:
    """A micro-batch of noise with its masks drawn; first: its place in the order."""
    eeg = torch.randn(windows, channels, patches * config.patch_samples)
    places = torch.arange(windows) + first
    return [DrawMasks(config, 0)(Batch.of(eeg, grid_positions(channels), order_index=places))]


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[], torch.Tensor],
    windows: int,
    autocast: torch.dtype | None = torch.bfloat16,
    loss_scaling: bool = False,
) -> Callable[[], int]:
    """An optimizer step in plain PyTorch (gradients clipped at 1) that returns its windows."""
    trained = [p for p in model.parameters() if p.requires_grad]
    device = trained[0].device.type
    scaler = torch.amp.GradScaler(device, enabled=loss_scaling)

    def step() -> int:
        with torch.autocast(device, autocast, enabled=autocast is not None):
            loss = loss_of()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        return windows

    return step


def interleaved(cases: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Items a second of each case: the median over `rounds`, each round running every case once, so
    that a busy machine disturbs all alike. A case returns how many items it did."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            count = case()
            rates[name].append(count / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in rates.items()}


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table with a column for each key of any row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, ["---"] * len(columns)]
    cells += [[_cell(row.get(key, "")) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cell(value) -> str:
    if value is None:
        return "not finite"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "/")
