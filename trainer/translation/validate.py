"""Scores of a model on the validation groups while it trains: the same pieces every time, each seen
once, the ranks' sums added."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from model.brainformer import BrainformerForEEG2MEG
from trainer.translation.pieces import Collate, Pieces
from trainer.translation.scores import SensorSums, nmse_by_type


def spread(total: int, count: int) -> list[int]:
    """At most `count` of `total` numbers, evenly spread."""
    count = min(total, count)
    return [int(x) for x in (np.arange(count) + 0.5) / count * total]


def sensor_rows(pieces: Pieces, numbers: list[int]) -> tuple[dict[str, int], list[str]]:
    """({MEG name: row}, type of each row) over the montages of these pieces."""
    types: dict[str, str] = {}
    for number in numbers:
        montage = pieces.windows.montage(pieces.index[number][0])
        types.update(zip(montage.meg_names, montage.meg_types, strict=True))
    return {name: row for row, name in enumerate(types)}, list(types.values())


@torch.no_grad()
def validate(
    model: BrainformerForEEG2MEG, pieces: Pieces, collate: Collate, *, limit: int, micro: int,
    rank: int, world: int, device: torch.device,
) -> dict[str, float]:  # fmt: skip
    """`loss`; `error`: squared error over power, mean over sensor types; `r_mag`, `r_grad`: median
    over sensors. Every rank must call it; all get the same numbers."""
    numbers = spread(len(pieces), limit)
    rows, types = sensor_rows(pieces, numbers)
    sums, losses = SensorSums(len(rows)), np.zeros(2)
    mine = numbers[rank::world]
    steps = -(-len(numbers) // (world * micro))
    was_training = model.training
    model.eval()
    for step in range(steps):
        chosen = mine[step * micro : (step + 1) * micro]
        # A rank whose pieces have run out goes through the motions: ZeRO-3 gathers weights.
        part = [pieces[number] for number in chosen or numbers[:1]]
        batch = {name: value.to(device) for name, value in collate(part).items()}
        found = model(**batch)
        if not chosen:
            continue
        losses += float(found.loss) * len(chosen), len(chosen)
        truth, predicted = batch["labels"].cpu().numpy(), found.prediction.cpu().numpy()
        for number, piece in enumerate(part):
            names = piece.montage.meg_names
            at = [rows[name] for name in names]
            sums.add(truth[number, : len(at)], predicted[number, : len(at)], rows=at)
    model.train(was_training)
    packed = np.concatenate([sums.sums.ravel(), sums.count, losses])
    total = torch.from_numpy(packed).to(device)
    if world > 1:
        dist.all_reduce(total)
    total = total.cpu().numpy()
    size = 6 * len(rows)
    sums.sums, sums.count = total[:size].reshape(6, -1), total[size:-2]
    _, _, xx, yy, xy, _ = sums.sums
    r, kinds = sums.scores()["r"], np.asarray(types)
    return {
        "loss": float(total[-2] / total[-1]),
        "error": nmse_by_type((xx - 2 * xy + yy).clip(min=0), xx, types),
        **{f"r_{kind}": float(np.nanmedian(r[kinds == kind])) for kind in sorted(set(types))},
    }
