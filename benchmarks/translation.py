"""Parallel translation against step-by-step generation, on one CPU core.

    python benchmarks/translation.py [--samples 128] [--eeg 32] [--meg 102] [--steps 0]

Step by step is what the original Brainformer does: a token for each sample of each channel, a
decoder that reads the MEG tokens made so far, and one forward pass over the whole length for each
sample. It is written here from its published structure and sizes, without its slow path (attention
weights that nobody reads), which favours it. Parallel is one pass of this project's model in its
default form, to tesla and tesla/metre. `--steps N` runs N of the passes and takes the rest to cost
the same, which they do, as each is over the whole length; 0 runs them all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from benchmarks.common import one_core, table
from model.brainformer import BrainformerConfig, BrainformerForEEG2MEG, BrainformerProcessor
from model.tokens import grid_positions

VOCABULARY, BOS, WIDTH, HEADS, ROUTERS, MLP = 258, 1, 64, 4, 10, 512


class TwoStage(nn.Module):
    """Attention along time, then through routers across channels: `[B, T, C, D]`."""

    def __init__(self, length: int):
        super().__init__()
        self.time, self.gather, self.distribute = (
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(3)
        )
        self.router = nn.Parameter(torch.randn(length, ROUTERS, WIDTH))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, MLP), nn.GELU(), nn.Linear(MLP, WIDTH)) for _ in "12"
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))

    def forward(self, x, mask=None):
        batch, length = x.shape[:2]
        x = self.norms[0](x).transpose(1, 2).flatten(0, 1)
        x = x + self.time(x, x, x, attn_mask=mask, need_weights=False)[0]
        x = self.norms[1](x)
        x = (x + self.mlps[0](x)).unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
        x = self.norms[2](x)
        buffers = self.gather(self.router.repeat(batch, 1, 1), x, x, need_weights=False)[0]
        x = self.norms[3](x + self.distribute(x, buffers, buffers, need_weights=False)[0])
        return (x + self.mlps[1](x)).unflatten(0, (batch, length))


class StepByStep(nn.Module):
    """Ids of EEG `[B, T, Cs]` and of the MEG so far -> logits of each next MEG id."""

    def __init__(self, length: int):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.place = nn.Parameter(torch.randn(1024, WIDTH))
        self.encoder, self.decoder = TwoStage(length), TwoStage(length)
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def embed(self, ids):
        length, channels = ids.shape[1:]
        return self.embedding(ids) + self.place[:length, None] + self.place[:channels]

    def forward(self, eeg, meg):
        length = eeg.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        source = self.encoder(self.embed(eeg)).flatten(0, 1)
        target = self.decoder(self.embed(meg), later).flatten(0, 1)
        read = self.cross(target, source, source, need_weights=False)[0]
        return self.head(read).unflatten(0, (-1, length))

    @torch.no_grad()
    def generate(self, eeg, n_meg: int):
        """Yield the MEG ids of each sample in turn, one pass over the whole length for each."""
        made = torch.full((len(eeg), eeg.shape[1] + 1, n_meg), BOS)
        for step in range(eeg.shape[1]):
            made[:, step + 1] = self(eeg, made[:, :-1])[:, step].argmax(-1)
            yield made[:, step + 1]


def seconds(case) -> float:
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--eeg", type=int, default=32, help="EEG channels")
    parser.add_argument("--meg", type=int, default=102, help="MEG channels")
    parser.add_argument("--steps", type=int, default=0, help="passes to run; 0: all")
    arguments = parser.parse_args()
    one_core()
    torch.manual_seed(0)
    samples, n_meg = arguments.samples, arguments.meg
    steps = min(arguments.steps or samples, samples)
    original = StepByStep(samples).eval()
    ids = torch.randint(3, VOCABULARY, (1, samples, arguments.eeg))
    processor = BrainformerProcessor()
    eeg = torch.randn(arguments.eeg, samples).numpy() * 1e-5
    batch = processor(
        eeg, grid_positions(arguments.eeg).numpy(), grid_positions(n_meg).numpy() * 1.2,
        torch.zeros(n_meg, 6).numpy(), ["mag"] * n_meg,
    )  # fmt: skip
    parallel = {
        "one pass, mean and deviation": BrainformerForEEG2MEG(BrainformerConfig()),
        "one pass, 258 ids": BrainformerForEEG2MEG(BrainformerConfig(head="tokens")),
    }
    for model in parallel.values():
        model.translate(processor, **batch)
    next(original.generate(ids, n_meg))

    # Taken in turns, so that a busy machine disturbs all alike.
    made = original.generate(ids, n_meg)
    passes: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in parallel}
    for _ in range(steps):
        passes.append(seconds(lambda: next(made)))
        for name, model in parallel.items():
            found[name].append(seconds(lambda m=model: m.translate(processor, **batch)))
    slow = sum(passes) * samples / steps
    run = "all run" if steps == samples else f"{steps} run"
    print(f"{arguments.eeg} EEG to {n_meg} MEG channels, {samples} samples, one core\n")
    rows = [{"translation": "step by step, as the original", "passes": f"{samples} ({run})",
             "seconds": slow, "times as fast": 1}]  # fmt: skip
    for name, times in found.items():
        mean = statistics.mean(times)
        rows.append(
            {"translation": name, "passes": 1, "seconds": mean, "times as fast": slow / mean}
        )
    print(table(rows))


if __name__ == "__main__":
    main()
