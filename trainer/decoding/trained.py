"""Fine-tuning on the folds of a decoding: each fold and seed is a run of trainer/finetune.py.

A fold's training people are divided by a hash of their names: a fifth choose the step. Beside the
pretrained start stands the same network from scratch, on the same people in the same order. Runs
lie under OUT/runs and are not repeated where they have ended. Minutes a run on a core: folds x
seeds x 2 of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from data.errors import InputError
from data.files import write_atomic
from trainer.checkpoints.run_folder import ROOT
from trainer.decoding.finetune import PROBABILITIES
from trainer.decoding.labelled import LabelledWindows
from trainer.decoding.protocols import ALONE, Fold, hashed_order
from trainer.decoding.statistics import SCORES, person_scores

FINETUNED, LORA, SCRATCH = "fine-tuned", "LoRA", "from scratch"
METHODS = {"probe": None, "finetune": FINETUNED, "lora": LORA}
LORA_RANK = 8
CHOOSERS = 5
"""One person in so many of the training people chooses the step."""


@dataclass(frozen=True)
class Training:
    """What is the same for all runs. flags: more of trainer/finetune.py's."""

    method: str
    encoder: str
    shards: Path
    out: Path
    seeds: int
    flags: tuple[str, ...]


def trained_scores(
    training: Training, known: LabelledWindows, folds: Sequence[Fold], protocol: str
) -> dict[str, dict[str, np.ndarray]]:
    """Of SCORES by person, means over seeds: of the method, and from scratch."""
    if protocol.startswith(ALONE):
        raise InputError(
            f"--method {training.method} with --protocol {protocol}",
            "it trains on some people and is scored on others: folds:N, loso or a file",
        )
    starts = [(METHODS[training.method], ["--lora_rank", str(LORA_RANK)])
              if training.method == "lora" else (FINETUNED, [])]  # fmt: skip
    starts.append((SCRATCH, ["--from_scratch"]))
    found = {}
    for name, flags in starts:
        each = []
        for seed in range(training.seeds):
            parts = [_fold(training, known, fold, name, flags, seed) for fold in folds]
            truth, probability, person = (
                np.concatenate([part[key] for part in parts])
                for key in ("truth", "probability", "person")
            )
            each.append(person_scores(truth, probability.astype(np.float64), person))
        found[name] = {score: np.mean([one[score] for one in each], 0) for score in SCORES}
    return found


def divided(people: Sequence[tuple[str, str]], train: Sequence[int]) -> tuple[list, list]:
    """(numbers that train, numbers that choose the step). InputError for a single person."""
    if len(train) < 2:
        raise InputError("fine-tuning with one training person", "another must choose the step")
    order = [train[place] for place in hashed_order([people[number] for number in train])]
    count = max(1, len(train) // CHOOSERS)
    return sorted(order[count:]), sorted(order[:count])


def _fold(training: Training, known: LabelledWindows, fold: Fold, name: str, flags: list[str],
          seed: int) -> dict[str, np.ndarray]:  # fmt: skip
    """truth, probability and person of the fold's tested windows."""
    run = training.out / "runs" / f"fold-{fold.name}-seed-{seed}-{name.replace(' ', '-')}"
    result = run / PROBABILITIES
    if not result.is_file():
        names = [" ".join(who) for who in known.rows.people]
        there = np.unique(known.rows.person[fold.train]).tolist()
        train, val = divided(known.rows.people, there)
        test = np.unique(known.rows.person[fold.test]).tolist()
        lists = {"train": train, "val": val, "test": test}
        path = training.out / "runs" / f"fold-{fold.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({split: [names[one] for one in own] for split, own in lists.items()})
        write_atomic(path, (text + "\n").encode())
        command = [
            sys.executable, str(ROOT / "trainer/finetune.py"), "--init",
            training.encoder.replace("{fold}", fold.name), "--shards", str(training.shards),
            "--people", str(path), "--run", str(run), "--seed", str(seed), *flags, *training.flags,
        ]  # fmt: skip
        print(f"{name}, fold {fold.name}, seed {seed}: {run}", flush=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not result.is_file():
            reason = done.stderr.strip().splitlines()[-6:]
            raise InputError(f"{run}: " + "\n".join(reason).removeprefix("error: "))
    try:
        return load_file(result)
    except SafetensorError as error:
        raise InputError(f"{result}: damaged ({error})", f"remove {run}") from None
