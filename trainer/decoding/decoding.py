"""Decoding labelled windows: an encoder's frozen features, its untrained twins, closed forms and
controls, by one classifier, on the same folds of people.

What is claimed compares the first --pool with the best closed form and with the twins, person by
person; other pools stand in the table and are not chosen among. A closed form is chosen by its
score on the people tested, which favours it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.errors import InputError
from data.shards.manifest import Manifest
from model.autoencoder import MaskedVAE
from model.config import from_dict
from model.pooling import POOLS
from trainer.checkpoints.weights import load_model
from trainer.decoding.closed_forms import closed_forms, log_total_power
from trainer.decoding.encoders import encoder_methods, outputs
from trainer.decoding.estimators import DEFAULT_STRENGTH, SHUFFLES, Method, predict
from trainer.decoding.labelled import LabelledWindows, halves, read_labelled
from trainer.decoding.protocols import ALONE, Fold, inner_groups, make_folds
from trainer.decoding.statistics import SCORES, best_of, compare, person_scores, shuffled
from trainer.decoding.trained import FINETUNED, LORA, SCRATCH, Training, trained_scores
from trainer.decoding.windows import check_encoder, weights_hash

ENCODER, TWIN = "encoder", "untrained"
SHUFFLED, HALVES, POWER = "labels shuffled", "halves of one class", "total power"
CONTROLS = (SHUFFLED, HALVES, POWER)
FOLD = "{fold}"

Scores = dict[str, np.ndarray]
"""Of SCORES, float64 `[people]`."""


@dataclass(frozen=True)
class Decoding:
    """The settings of trainer/decode.py. encoder: a run or weights; with `{fold}` one for each
    fold; None: closed forms only. pools: the first is what is claimed of. adapted: also with each
    person's unlabelled windows."""

    encoder: str | None
    shards: Path
    protocol: str
    pools: tuple[str, ...]
    seeds: int
    labels: tuple[str, ...]
    windows_per_subject: int | None
    adapted: bool
    device: torch.device
    training: Training | None = None
    """Fine-tuning on the same folds; None: the probe alone."""


def decode(config: Decoding, manifest: Manifest) -> dict:
    """The report as JSON: settings, people, every score of every person, and comparisons."""
    where = str(config.shards)
    known = read_labelled(manifest, where, config.labels, config.windows_per_subject)
    folds = make_folds(config.protocol, known.rows)
    _check_folds(folds, known, config.protocol)
    encoders = _encoders(config, manifest, known, folds)
    if encoders and not known.one_montage:
        _check_pools(config.pools, where)
    evaluate = _Evaluation(known, folds, inner_groups(config.protocol, known.rows))
    methods = closed_forms(
        known.batches, known.truth, manifest.profile["sfreq_hz"], known.one_montage, config.adapted
    )
    closed = [method.label for method in methods]
    scores = {method.label: evaluate(method) for method in methods}
    own: list[Method] = []
    if encoders:
        own = _of_folds(ENCODER, [model for model, _ in encoders], known, folds, config)
        scores |= {method.label: evaluate(method) for method in own}
        scores |= _twins(encoders[0][0], known, config, evaluate)
    if config.training and not config.protocol.startswith("first:"):
        scores |= trained_scores(config.training, known, folds, config.protocol)
    scores |= _controls(own or methods, known, evaluate, config)
    return {
        "protocol": config.protocol,
        "shards": {"folder": where, "manifest_sha256": manifest.sha256},
        "encoder": [entry for _, entry in encoders],
        "classes": list(known.classes),
        "windows": len(known.truth),
        "windows_of_class": np.bincount(known.truth).tolist(),
        "left_out": known.left_out,
        "chance": 1 / len(known.classes),
        "people": [" ".join(known.rows.people[number]) for number in evaluate.people],
        "folds": {fold.name: _names(known, fold.test) for fold in folds},
        "seeds": config.seeds if encoders else 0,
        "scores": {name: {k: v.tolist() for k, v in each.items()} for name, each in scores.items()},
        "comparisons": [*_comparisons(scores, closed, own), *_of_training(scores, closed)],
    }


class _Evaluation:
    """Scores by person of a method over all folds."""

    def __init__(self, known: LabelledWindows, folds: Sequence[Fold], group: np.ndarray):
        self.known, self.folds, self.group = known, folds, group
        tested = np.unique(np.concatenate([fold.test for fold in folds]))
        self.people = np.unique(known.rows.person[tested])

    def __call__(self, method: Method, truth: np.ndarray | None = None) -> Scores:
        """truth: another one than the labels (-1: left out)."""
        truth = self.known.truth if truth is None else truth
        return self._scores(method, truth, truth, None)

    def shuffled(self, method: Method) -> Scores:
        """Means over SHUFFLES: one order says little where windows lie in few clumps."""
        truth, person = self.known.truth, self.known.rows.person
        each = [
            self._scores(method, truth, shuffled(truth, person, seed), DEFAULT_STRENGTH)
            for seed in range(SHUFFLES)
        ]
        return {score: np.mean([one[score] for one in each], 0) for score in SCORES}

    def _scores(
        self, method: Method, truth: np.ndarray, fitted: np.ndarray, strength: float | None
    ) -> Scores:
        person, tested, found = self.known.rows.person, [], []
        for fold in tqdm(self.folds, method.label, leave=False, disable=None):
            train, test = (rows[truth[rows] >= 0] for rows in (fold.train, fold.test))
            there, features = Fold(fold.name, train, test), method.of(fold)
            found.append(
                predict(features, there, fitted, person, self.group, method.adapted, strength)
            )
            tested.append(test)
        rows = np.concatenate(tested)
        return person_scores(truth[rows], np.concatenate(found), person[rows])


def _encoders(config: Decoding, manifest: Manifest, known: LabelledWindows,
              folds: Sequence[Fold]) -> list[tuple[MaskedVAE, dict]]:  # fmt: skip
    """The encoder, or one for each fold, that has seen none of the people it is scored on."""
    if config.encoder is None:
        return []
    tests = [fold.test for fold in folds] if FOLD in config.encoder else [
        np.concatenate([fold.test for fold in folds])
    ]  # fmt: skip
    names = [fold.name for fold in folds] if FOLD in config.encoder else [""]
    found = []
    for name, test in zip(names, tests, strict=True):
        path = config.encoder.replace(FOLD, name)
        encoder, meta = load_model(path, need="encoder")
        people = set(np.unique(known.rows.person[test]).tolist())
        scored = [
            entry for number, entry in enumerate(manifest.recordings)
            if number in set(known.rows.recording[test].tolist())
        ]  # fmt: skip
        check_encoder(
            path, from_dict(meta["model"]), meta.get("trained_on"), manifest, str(config.shards),
            scored,
        )  # fmt: skip
        entry = {"path": path, "sha256": weights_hash(encoder.encoder), "people": len(people),
                 "model": meta["model"], "trained_on": meta.get("trained_on")}  # fmt: skip
        found.append((encoder, entry))
    if len({str(entry["model"]) for _, entry in found}) > 1:
        raise InputError(f"{config.encoder}: encoders of unlike models", "train them alike")
    return found


def _of_folds(name: str, encoders: Sequence[MaskedVAE], known: LabelledWindows,
              folds: Sequence[Fold], config: Decoding) -> list[Method]:  # fmt: skip
    """The methods of an encoder, or of one for each fold."""
    each = [
        encoder_methods(name, outputs(encoder, known.batches, config.device), config.pools,
                        config.adapted)
        for encoder in tqdm(encoders, "features", leave=False, disable=None)
    ]  # fmt: skip
    if len(each) == 1:
        return each[0]
    by_fold = {fold.name: methods for fold, methods in zip(folds, each, strict=True)}

    def of(place: int) -> Callable[[Fold], np.ndarray]:
        return lambda fold: by_fold[fold.name][place].of(fold)

    return [
        Method(method.name, of(place), method.adapted, method.pool)
        for place, method in enumerate(each[0])
    ]


def _twins(encoder: MaskedVAE, known: LabelledWindows, config: Decoding,
           evaluate: _Evaluation) -> dict[str, Scores]:  # fmt: skip
    """Means over seeds of untrained encoders of the same shape."""
    found: dict[str, list[Scores]] = {}
    for seed in range(config.seeds):
        twin = MaskedVAE(encoder.config, seed)
        for method in _of_folds(TWIN, [twin], known, [], config):
            found.setdefault(method.label, []).append(evaluate(method))
    return {
        label: {score: np.mean([one[score] for one in each], 0) for score in SCORES}
        for label, each in found.items()
    }


def _controls(methods: Sequence[Method], known: LabelledWindows, evaluate: _Evaluation,
              config: Decoding) -> dict[str, Scores]:  # fmt: skip
    """What the first method finds where there is nothing; and what loudness alone gives."""
    first = methods[0]
    power = log_total_power(known.batches, known.one_montage)
    found = {SHUFFLED: evaluate.shuffled(first), POWER: evaluate(Method(POWER, power))}
    if not config.protocol.startswith(ALONE):
        found[HALVES] = evaluate(first, truth=halves(known))
    return found


def _comparisons(scores: dict[str, Scores], closed: Sequence[str],
                 own: Sequence[Method]) -> list[dict]:  # fmt: skip
    """Of the first pool, as it is and adapted: against the best closed form of the same kind, and
    the twins."""
    found = []
    for method in own:
        if method.pool != own[0].pool:
            continue
        rivals = [name for name in closed if name.endswith("*") == method.adapted]
        best = best_of({name: scores[name]["balanced_accuracy"] for name in rivals})
        for rival in (best, method.label.replace(ENCODER, TWIN, 1)):
            for score in ("balanced_accuracy", "auroc"):
                difference = compare(scores[method.label][score], scores[rival][score])
                found.append({"method": method.label, "rival": rival, "score": score, **difference})
    return found


def _of_training(scores: dict[str, Scores], closed: Sequence[str]) -> list[dict]:
    """Of a fine-tuned encoder: against the same network from scratch and the best closed form."""
    names = [name for name in (FINETUNED, LORA) if name in scores]
    rivals = [name for name in closed if not name.endswith("*")]
    best = best_of({name: scores[name]["balanced_accuracy"] for name in rivals})
    return [
        {"method": name, "rival": rival, "score": score,
         **compare(scores[name][score], scores[rival][score])}
        for name in names for rival in (SCRATCH, best)
        for score in ("balanced_accuracy", "auroc")
    ]  # fmt: skip


def _check_pools(pools: Sequence[str], where: str) -> None:
    free = [name for name, pool in POOLS.items() if not pool.places]
    for pool in pools:
        if pool not in free:
            raise InputError(
                f"--pool {pool} needs one montage: the recordings of {where} have several",
                f"--pool {' or '.join(free)}; or pack without skipping channels that some lack",
            )


def _check_folds(folds: Sequence[Fold], known: LabelledWindows, protocol: str) -> None:
    for fold in folds:
        if len(np.unique(known.truth[fold.train])) < len(known.classes):
            raise InputError(
                f"--protocol {protocol}: the training windows of fold {fold.name} lack a class",
                "use fewer folds, or --labels with those that everybody has",
            )


def _names(known: LabelledWindows, rows: np.ndarray) -> list[str]:
    return [" ".join(known.rows.people[number]) for number in np.unique(known.rows.person[rows])]
