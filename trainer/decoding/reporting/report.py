"""The scores of a trained classifier beside closed forms, on people that nothing was chosen on.

RUN/best was chosen on the split val, so the split test is scored; where there is none, val is, and
the report says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch

from data.files import write_atomic
from model.autoencoder import MaskedVAE
from trainer.decoding.closed_forms import closed_forms
from trainer.decoding.estimators import DEFAULT_STRENGTH, SHUFFLES, Method, predict
from trainer.decoding.protocols import Fold
from trainer.decoding.statistics import by_person, shuffled, with_interval
from trainer.decoding.windows import Known, Labelled, features, one_montage
from trainer.engine.task import Plan

THIS, UNTRAINED = "this encoder", "untrained encoder"
SHUFFLED = "labels shuffled"


def report(
    plan: Plan, labelled: Labelled, name: str, classes_of: Callable[[Known], np.ndarray],
    encoder: MaskedVAE,
) -> dict:  # fmt: skip
    """Score what was trained, called `name`; print the table and write RUN/scores.json, which this
    returns. classes_of: held-out windows -> int64 `[n]`. encoder: the pretrained one, whose frozen
    features stand beside, and its untrained twin's."""
    config, manifest, split = plan.config, plan.manifest, labelled.scored
    fit, held = (
        labelled.read_known(manifest, part, labelled.spread(part, windows))
        for part, windows in (("train", config.fit_windows), (split, config.test_windows))
    )
    batches = [*fit.batches, *held.batches]
    methods = closed_forms(
        batches, np.concatenate([fit.truth, held.truth]), manifest.profile["sfreq_hz"],
        one_montage(batches), adapted=False,
    )  # fmt: skip
    twin = MaskedVAE(encoder.config, config.seed).to(next(encoder.parameters()).device).eval()
    for label, one in ((UNTRAINED, twin), (THIS, encoder)):
        columns = torch.cat([features(one, batch) for batch in batches])
        methods.append(Method(label, columns.double().numpy()))
    people = {
        name: by_person(held.truth, classes_of(held), held.person),
        **_scores(methods, fit, held, config.seed),
    }
    names = labelled.tables[split].names.people
    result = {
        "trained": name,
        "split": split,
        "windows": len(held.window),
        "fit_windows": len(fit.window),
        "chance": 1 / len(labelled.classes),
        "people": [" ".join(names[number]) for number in np.unique(held.person)],
        "balanced_accuracy": {label: each.tolist() for label, each in people.items()},
    }
    write_atomic(plan.run / "scores.json", (json.dumps(result, indent=1) + "\n").encode())
    print(table(result), flush=True)
    return result


def _scores(methods: list[Method], fit: Known, held: Known, seed: int) -> dict[str, np.ndarray]:
    """Balanced accuracy of each held-out person by method; of the last one also with the labels
    shuffled."""
    fold = Fold("split", np.arange(len(fit.truth)), len(fit.truth) + np.arange(len(held.truth)))
    truth, person = (
        np.concatenate([getattr(fit, name), getattr(held, name)]) for name in ("truth", "person")
    )

    def score(method: Method, fitted: np.ndarray, strength: float | None = None) -> np.ndarray:
        said = predict(method.of(fold), fold, fitted, person, person, strength=strength).argmax(1)
        return by_person(held.truth, said, held.person)

    found = {method.name: score(method, truth) for method in methods}
    orders = [shuffled(fit.truth, fit.person, seed + number) for number in range(SHUFFLES)]
    wrong = [
        score(methods[-1], np.concatenate([order, held.truth]), DEFAULT_STRENGTH)
        for order in orders
    ]
    return {**found, SHUFFLED: np.mean(wrong, 0)}


def table(result: dict) -> str:
    """The scores as text: means over people with Student's intervals."""
    people = {name: np.array(each) for name, each in result["balanced_accuracy"].items()}
    chosen = " (on which the best step was chosen: pack a split test)"
    lines = [
        f"balanced accuracy by person, split {result['split']}"
        f"{chosen if result['split'] == 'val' else ''}: {len(result['people'])} people, "
        f"{result['windows']} windows, chance {result['chance']:.3f}",
        *(f"  {name:<32} {with_interval(each)}" for name, each in people.items()),
        f"All but the first: logistic regression on {result['fit_windows']} training windows.",
    ]
    own = result["trained"]
    rivals = [name for name in people if name not in (own, THIS, SHUFFLED)]
    best = max(rivals, key=lambda name: people[name].mean())
    gain = people[own] - people[best]
    lines.append(f"  {own + ' - ' + best:<32} {with_interval(gain)}")
    return "\n".join(lines)
