"""Section `packed`: batches of mixed montages with tokens packed to a fixed budget, an experiment.

Four ways to feed the same windows of 8 to 128 channels to `base`: a montage at a time with a fixed
number of windows (the trainer's own), a montage at a time with a fixed number of tokens, mixed
montages as a list of dense batches, and mixed montages packed into one sequence whose attention
stays within each window. Each way passes once over the training windows from the same weights;
held-out windows are scored afterwards. Packed means `torch.nn.attention.varlen` on a GPU;
elsewhere windows take turns, which is the same arithmetic and no gain.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu_cases import Case, EngineRun, Setting, plan_of, usual_case, wait_for
from benchmarks.gpu_report import Report
from data.batches.batch import Batch, Request
from model.autoencoder import MaskedVAE, normal_noise
from model.losses import LossTerms, objective
from model.tokens import take
from model.transformer import Stack, attention
from trainer.engine.feed import training_dataset
from trainer.engine.task import Plan

CHANNELS, SMALL_CHANNELS = (8, 16, 32, 64, 128), (4, 8)
HELD_OUT = 0.1  # share of each shard's windows, at its end
UNTIMED = 3  # first steps


def packed_attention(q, k, v, lengths: Sequence[int], ends: torch.Tensor) -> torch.Tensor:
    """Attention within each of the segments. q, k, v: `[T, heads, width]`; lengths: of the
    segments, adding up to T; ends: 0 and their sums, int32 on the device."""
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths))
    segments = zip(*(x[None].split(list(lengths), dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([attention(*segment) for segment in segments], dim=1)[0]


def packed_stack(stack: Stack, x_TD: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """`stack` on segments laid end to end, `[T, D]`."""
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    if x_TD.is_cuda:
        ends = ends.pin_memory().to(x_TD.device, non_blocking=True)
    for block in stack.blocks:
        qkv = block.qkv(block.norm1(x_TD)).unflatten(-1, (3, block.heads, -1))
        seen = packed_attention(*qkv.unbind(1), lengths, ends)
        x_TD = x_TD + block.attention_out(seen.flatten(1))
        x_TD = x_TD + block.mlp_out(F.gelu(block.mlp_in(block.norm2(x_TD))))
    return stack.norm(x_TD)


def run_packed(stack: Stack, xs_BLD: list[torch.Tensor]) -> list[torch.Tensor]:
    """`stack` on dense batches of different lengths, all at once."""
    lengths = [x.shape[1] for x in xs_BLD for _ in range(len(x))]
    out = packed_stack(stack, torch.cat([x.flatten(0, 1) for x in xs_BLD]), lengths)
    pieces = out.split([x.shape[0] * x.shape[1] for x in xs_BLD])
    return [piece.view(x.shape) for piece, x in zip(pieces, xs_BLD, strict=True)]


def packed_losses(model: MaskedVAE, batches: list[Batch], beta: float, seed: int) -> LossTerms:
    """What `model(batches, beta, seed)` gives, for a model of the classic form, with its two stacks
    run once for all batches together."""
    config = model.config
    plain = config.baseline == "none" and config.decoder_input == "latent"
    if not plain or config.spectral_weight or config.visible_weight:
        raise ValueError(
            "packing is written for baseline=none, decoder_input=latent, no spectral_weight and "
            "no visible_weight"
        )
    encoder, decoder = model.encoder, model.decoder
    dtype = encoder.embed.weight.dtype
    prepared = []
    for batch in batches:
        eeg, places = model.tokens.prepare(batch.eeg, batch.positions_m)
        prepared.append((model.tokens.cut(eeg), places, model._n_patches(eeg)))
    embedded = []
    for batch, (patches, places, count) in zip(batches, prepared, strict=True):
        x = encoder.embed(take(patches, batch.keep).to(dtype))
        embedded.append(x + encoder.positions(places, count, dtype)[batch.keep])
    inputs, terms = [], []
    for batch, (patches, places, count), x in zip(
        batches, prepared, run_packed(encoder.stack, embedded), strict=True
    ):
        mean, logvar = encoder.to_mean(x).float(), None
        latent = mean
        if encoder.to_logvar is not None:
            low, high = model.config.logvar_min, model.config.logvar_max
            logvar = encoder.to_logvar(x).float().clamp(low, high)
            if model.training:
                noise = normal_noise(seed, batch.order_index, tuple(mean.shape[1:]))
                latent = mean + (0.5 * logvar).exp() * noise
        hidden = decoder.hidden_token.expand(*batch.hide.shape, -1)
        tokens = torch.cat([decoder.from_latent(latent.to(dtype)), hidden], dim=1)
        order = torch.cat([batch.keep, batch.hide], dim=1)
        inputs.append(tokens + decoder.positions(places, count, dtype)[order])
        terms.append({"target": take(patches, batch.hide), "mean": mean, "logvar": logvar})
    for batch, term, x in zip(batches, terms, run_packed(decoder.stack, inputs), strict=True):
        term["predicted"] = decoder.to_patch(x[:, batch.keep.shape[1] :]).float()
    return objective(terms, model.config, beta)


def requests_of(numbers: np.ndarray, tokens: np.ndarray, budget: int) -> list[Request]:
    """The windows in this order, cut into micro-batches of at most `budget` tokens (one window at
    least). tokens: of each window."""
    pieces, start, filled = [], 0, 0
    for index, count in enumerate(tokens):
        if filled + count > budget and index > start:
            pieces.append(numbers[start:index])
            start, filled = index, 0
        filled += count
    pieces.append(numbers[start:])
    return [Request(piece, piece) for piece in pieces]


def orders(plan: Plan, windows: int, budget: int) -> tuple[dict[str, list[Request]], np.ndarray]:
    """(micro-batches of each way over the same windows, the held-out windows' numbers)."""
    rng = np.random.default_rng(0)
    held, groups, start = [], {}, 0
    for shard in plan.manifest.of_split("train"):
        numbers = np.arange(start, start + shard.samples)
        cut = int(shard.samples * (1 - HELD_OUT))
        held.append(numbers[cut:])
        count = plan.task.model.token_count(shard.channels, shard.window_samples)
        groups.setdefault(count, []).append(numbers[:cut])
        start += shard.samples
    groups = {count: rng.permutation(np.concatenate(found)) for count, found in groups.items()}

    def one_montage(limit) -> list[Request]:
        found = [
            request
            for count, numbers in groups.items()
            for request in requests_of(numbers, np.full(len(numbers), count), limit(count))
        ]
        return [found[i] for i in rng.permutation(len(found))]

    mixed = np.concatenate(list(groups.values()))
    tokens = np.concatenate([np.full(len(found), count) for count, found in groups.items()])
    shuffle = rng.permutation(len(mixed))
    packed = requests_of(mixed[shuffle], tokens[shuffle], budget)
    return {
        "one montage, fixed windows": one_montage(lambda count: count * windows),
        "one montage, fixed tokens": one_montage(lambda count: budget),
        "mixed, a list of batches": packed,
        "mixed, packed": packed,
    }, np.concatenate(held)


def measure_packed(setting: Setting, report: Report) -> None:
    small = setting.small
    case = usual_case("base", small)
    channels, micro = (SMALL_CHANNELS, case.micro) if small else (CHANNELS, 64)
    case = Case(case.model, channels, case.samples, micro)
    per_montage = 40 if small else 384
    plan = plan_of(setting, case, windows=per_montage, warmup=0.1,
                   steps=30 if small else 200)  # fmt: skip
    mean = sum(
        case.model.token_count(count, case.samples) for count in case.channels
    ) // len(case.channels)  # fmt: skip
    ways, held = orders(plan, case.micro, budget=case.micro * mean)
    for way, requests in ways.items():
        take = partial(one_pass, setting, plan, requests, held, way.endswith("packed"))
        report.measure("base on mixed montages, one pass", 8, take, way=way)


def one_pass(
    setting: Setting, plan: Plan, requests: list[Request], held: np.ndarray, packed: bool
) -> dict:
    """One way of feeding the windows, from the first request to the last."""

    def prepare(model: MaskedVAE) -> None:
        if packed:
            model.forward = partial(packed_losses, model)

    shards = plan.manifest.of_split("train")
    counts = np.concatenate(
        [
            np.full(s.samples, plan.task.model.token_count(s.channels, s.window_samples))
            for s in shards
        ]
    )
    sizes = [int(counts[request.window].sum()) for request in requests]
    with EngineRun(plan, setting.ranks, prepare, requests) as run:
        windows = 0
        for index in range(len(requests)):
            if index == UNTIMED:
                wait_for(setting.device)
                begin, windows = time.perf_counter(), 0
            windows += run.step()
        wait_for(setting.device)
        took = time.perf_counter() - begin
        error = held_out_error(run, plan, held)
    return {
        "steps": len(requests), "windows_per_s": windows / took,
        "tokens_per_s": sum(sizes[UNTIMED:]) / took,
        "step_ms": 1e3 * took / (len(requests) - UNTIMED), "tokens_a_step": float(np.mean(sizes)),
        "largest_step": max(sizes), "held_out_error": error,
    }  # fmt: skip


@torch.no_grad()
def held_out_error(run: EngineRun, plan: Plan, held: np.ndarray) -> float:
    """Mean error on hidden patches of the held-out windows, latents at their means."""
    dataset, model = training_dataset(plan), run.engine.module
    model.eval()
    errors, count = 0.0, 0
    for piece in np.array_split(held, max(1, len(held) // plan.micro)):
        batches = [b.to(run.ranks.device) for b in dataset[Request(piece, piece)]]
        errors += model(batches, 0.0, 0).terms["error"].item() * len(piece)
        count += len(piece)
    return errors / count
