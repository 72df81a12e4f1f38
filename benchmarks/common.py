"""What the benchmarks share: one core, and ratios from one run."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch


def one_core() -> None:
    """Keep this process on one core with one thread: what a rank on a laptop has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


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


def print_table(rates: dict[str, float], unit: str, reference: str) -> None:
    """Markdown table with each rate over the reference's."""
    print(f"| case | {unit} | x {reference} |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates[reference]:.2f} |")
