"""What reads a trial of EEG best, on simulated pictures: trunks side by side, from memory.

    python benchmarks/images.py --out runs/images                  # flat, conv, aligned
    python benchmarks/images.py --encoder runs/pretrain --out ...  # and an encoder, and its twin

Trains each for a few hundred steps with the loss and the selection of trainer/eeg2image.py, without
the engine and the loader: on one GPU seconds a row, where a run of the trainer takes minutes. One
seed a row: differences of a point or two are no finding.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch.nn import functional as F

from data.errors import InputError, run_command
from data.files import make_folder
from data.shards.manifest import read_manifest
from model.images.encoder_trunk import EncoderTrunk
from model.images.head import Retriever, centred
from model.images.trunks import ConvTrunk, FlatTrunk
from model.transformer import start_weights
from trainer.checkpoints.weights import load_model
from trainer.images.embeddings import read_embeddings
from trainer.images.networks import whitening
from trainer.images.scoring.scores import hits
from trainer.images.selection import galleries, held_concepts
from trainer.images.simulated import Folders, prepare_simulated
from trainer.images.trials import TEST, TRAINING, Trials
from trainer.ranks.ranks import choose_device

HIDDEN, PROJECTED, DROPOUT, FORGET, DECAY, WARMUP = 256, 32, 0.3, 0.2, 0.05, 25


@dataclass
class Part:
    """Trials of a part on the device: eeg fp16 `[n, C, T]`; person from 1; image, concept."""

    trials: Trials
    eeg: torch.Tensor
    person: torch.Tensor
    image: torch.Tensor
    positions_m: torch.Tensor


def read_part(folder: Path, part: str, device: torch.device) -> Part:
    trials = Trials.read(read_manifest(folder), str(folder), part)
    eeg, order = [], []
    for rows, batch in trials.read_trials(np.arange(len(trials.window))):
        eeg.append(batch.eeg)
        order.append(rows)
        places = batch.positions_m
    order = np.argsort(np.concatenate(order))
    people = {name: number for number, name in enumerate(trials.people, start=1)}
    person = torch.tensor([people[name] for name in trials.subject.tolist()])
    found = torch.cat(eeg)[torch.from_numpy(order)]
    image = torch.from_numpy(trials.image)
    return Part(trials, found.to(device), person.to(device), image.to(device), places.to(device))


class World:
    """Both parts, their embeddings, and who trains and who chooses the step."""

    def __init__(self, folders: Folders, device: torch.device):
        self.device = device
        self.train = read_part(folders.training, TRAINING, device)
        self.test = read_part(folders.test, TEST, device)
        embeddings = read_embeddings(folders.embeddings)
        concept = self.train.trials.concept_of_image()
        held = held_concepts(concept.tolist(), max(2, len(set(concept.tolist())) // 7))
        self.held = torch.from_numpy(np.isin(concept, sorted(held))).to(device)
        self.held_concept = concept[self.held.cpu().numpy()]
        tables = []
        for part in (self.train, self.test):
            rows = embeddings.rows_of(part.trials.images, "the trials")
            tables.append(torch.from_numpy(embeddings.layer()[rows]).to(device))
        mean = tables[0][~self.held].mean(0)
        self.table, self.candidates = (centred(one, mean) for one in tables)
        rows = np.flatnonzero(~self.held[self.train.image].cpu().numpy())
        self.white = whitening(self.train.trials, rows)


@torch.no_grad()
def vectors(model: Retriever, part: Part, rows: torch.Tensor) -> torch.Tensor:
    model.eval()
    found = [
        model(part.eeg[one].float(), part.positions_m, part.person[one]) for one in rows.split(1024)
    ]
    model.train()
    return torch.cat(found)


def summed(scores: torch.Tensor, person: torch.Tensor, image: torch.Tensor):
    """(scores of each person and picture added up, the picture of each)."""
    kinds, back = torch.unique(person * (image.max() + 1) + image, return_inverse=True)
    total = scores.new_zeros(len(kinds), scores.shape[1]).index_add_(0, back, scores)
    return total.double().cpu().numpy(), (kinds % (image.max() + 1)).cpu().numpy()


def validate(model: Retriever, world: World, rows: torch.Tensor) -> float:
    """Top-1 in galleries of one picture a concept, a picture's trials added up."""
    part = world.train
    with torch.no_grad():
        pictures = model.pictures(world.table[world.held])
    place = torch.cumsum(world.held, 0) - 1
    scores = vectors(model, part, rows) @ pictures.T
    total, truth = summed(scores, part.person[rows], place[part.image[rows]])
    found = []
    for gallery in galleries(world.held_concept.tolist()):
        inside = np.isin(truth, gallery)
        own = np.searchsorted(gallery, truth[inside])
        found.append(hits(total[inside][:, gallery], own, 1))
    return float(np.concatenate(found).mean())


def train(model: Retriever, world: World, steps: int, batch: int, lr: float, every: int) -> dict:
    """Train, keep the best step, and score it on the test trials: top-1 and top-5."""
    part, device = world.train, world.device
    chosen = world.held[part.image]
    rows, held_rows = (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]
    table, place = world.table[~world.held], torch.cumsum(~world.held, 0) - 1
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    draw = torch.Generator(device=device).manual_seed(0)
    order, best, begin = rows[:0], (-1.0, 0, {}), time.monotonic()
    for step in range(1, steps + 1):
        scale = min(1, step / WARMUP) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * scale
        if len(order) < batch:
            order = rows[torch.randperm(len(rows), generator=draw, device=device)]
        now, order = order[:batch], order[batch:]
        person = part.person[now].clone()
        person[torch.rand(batch, generator=draw, device=device) < FORGET] = 0
        keep = torch.rand(batch, HIDDEN, generator=draw, device=device) >= DROPOUT
        keep = keep.float() / (1 - DROPOUT)
        logits = model(part.eeg[now].float(), part.positions_m, person, keep, table)
        loss = F.cross_entropy(logits, place[part.image[now]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % every == 0 or step == steps:
            reached = validate(model, world, held_rows)
            if reached > best[0]:
                state = {name: value.clone() for name, value in model.state_dict().items()}
                best = (reached, step, state)
    model.load_state_dict(best[2])
    test = world.test
    everything = torch.arange(len(test.eeg), device=device)
    with torch.no_grad():
        scores = vectors(model, test, everything) @ model.pictures(world.candidates).T
    single, truth = scores.double().cpu().numpy(), test.image.cpu().numpy()
    total, own = summed(scores, test.person, test.image)
    return {
        "step": best[1], "validation": best[0], "seconds": time.monotonic() - begin,
        "weights": sum(p.numel() for p in weights),
        "single": [float(hits(single, truth, top).mean()) for top in (1, 5)],
        "summed": [float(hits(total, own, top).mean()) for top in (1, 5)],
    }  # fmt: skip


def forms(world: World, encoder_path: Path | None, seed: int):
    """(name, model) of each row."""
    channels, people = world.train.eeg.shape[1], len(world.train.trials.people)
    profile = world.train.trials.manifest.profile
    rate_hz = profile["sfreq_hz"]
    first, last = round(-profile["event_tmin_s"] * rate_hz), world.train.eeg.shape[2]
    shape = channels, people, first, last

    def made(trunk, encoder=None):
        model = Retriever(trunk, world.table.shape[1], HIDDEN, PROJECTED)
        start_weights(model, seed)
        (trunk if isinstance(trunk, EncoderTrunk) else trunk.whitened).white.copy_(world.white)
        if encoder is not None:
            trunk.encoder.load_state_dict(encoder.state_dict())
        return model.to(world.device)

    yield "flat", made(FlatTrunk(*shape))
    for aligned in (False, True):
        yield ("aligned" if aligned else "conv"), made(ConvTrunk(*shape, rate_hz, aligned))
    if encoder_path is None:
        return
    encoder = load_model(encoder_path, need="encoder")[0].encoder
    patch = encoder.config.patch_samples
    for frozen in (True, False):
        for own in (encoder, None):
            trunk = EncoderTrunk(
                encoder.config, channels, people, -(-first // patch), last // patch, frozen
            )
            name = f"encoder, {'frozen' if frozen else 'full'}, {'pretrained' if own else 'twin'}"
            model = made(trunk, own)
            trunk.encoder.requires_grad_(not frozen)
            yield name, model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--simulated", default="simulated-images", help="the world [simulated-images]")
    add("--encoder", type=Path, help="run folder or weights of a pretrained encoder")
    add("--only", action="append", help="rows whose name begins so; repeatable")
    add("--steps", type=int, default=500)
    add("--batch", type=int, default=512)
    add("--lr", type=float, default=1e-3)
    add("--every", type=int, default=50, help="steps between validations [50]")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--out", type=Path, required=True, help="folder of images.json")
    arguments = parser.parse_args(argv)
    if min(arguments.steps, arguments.batch, arguments.every) < 1:
        raise InputError("--steps, --batch or --every below 1", "give at least 1")
    make_folder(arguments.out, "--out")
    world = World(prepare_simulated(arguments.simulated, True), choose_device(arguments.device))
    rows = {}
    for name, model in forms(world, arguments.encoder, arguments.seed):
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        row = train(model, world, arguments.steps, arguments.batch, arguments.lr, arguments.every)
        rows[name] = row
        single, total = ([100 * one for one in row[key]] for key in ("single", "summed"))
        print(
            f"{name:30s} {row['weights'] / 1e6:.2f} M  one trial {single[0]:.1f} / {single[1]:.1f}"
            f"  all added {total[0]:.1f} / {total[1]:.1f}  step {row['step']}"
            f"  {row['seconds']:.0f} s",
            flush=True,
        )
        text = json.dumps({"settings": {k: str(v) for k, v in vars(arguments).items()},
                           "rows": rows}, indent=1)  # fmt: skip
        (arguments.out / "images.json").write_text(text + "\n")


if __name__ == "__main__":
    run_command(main)
