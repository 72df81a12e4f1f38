"""What a probe is compared with: closed forms on the same windows and people.

Each is a logistic regression, on what an expert would try first: log band power, and the covariance
of the channels in the tangent space (Barachant et al. 2012, by pyriemann). On the features of the
untrained encoder it says what pretraining gives; on those of the encoder it says what the probe
should reach; with the labels shuffled within each person it says what chance gives here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from data.batches.batch import Batch

BANDS_HZ = ((1, 4), (4, 8), (8, 13), (13, 30), (30, 45))


@dataclass(frozen=True)
class Known:
    """Windows whose classes are known: batches, and in their order, int64 `[n]`, the numbers of
    windows, classes and people."""

    batches: list[Batch]
    window: np.ndarray
    truth: np.ndarray
    person: np.ndarray

    @property
    def one_montage(self) -> bool:
        return len({batch.positions_m.numpy().tobytes() for batch in self.batches}) == 1


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes that occur of the share that is right."""
    return float(np.mean([(predicted[truth == k] == k).mean() for k in np.unique(truth)]))


def by_person(truth: np.ndarray, predicted: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Balanced accuracy of each person, float64 `[people]`, in the order of their numbers."""
    ones = np.unique(person)
    return np.array([balanced_accuracy(truth[person == p], predicted[person == p]) for p in ones])


def with_interval(scores: np.ndarray) -> str:
    """'0.713 [0.630, 0.796] (n = 6)': mean over people with Student's 95 % interval."""
    from scipy.stats import t

    mean, n = scores.mean(), len(scores)
    if n < 2:
        return f"{mean:.3f} (n = 1: no interval)"
    half = t.ppf(0.975, n - 1) * scores.std(ddof=1) / np.sqrt(n)
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}] (n = {n})"


def logistic_regression(train: np.ndarray, truth: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Predicted classes of `held` `[n, D]`, by scikit-learn on standardised columns, with classes
    that count alike."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), regression).fit(train, truth).predict(held)


def shuffled(truth: np.ndarray, person: np.ndarray, seed: int) -> np.ndarray:
    """The classes in another order within each person; where every person has one class, the
    persons' classes in another order."""
    rng, found = np.random.default_rng(seed), truth.copy()
    rows = [person == one for one in np.unique(person)]
    if all(len(np.unique(truth[own])) == 1 for own in rows):
        for own, one in zip(rows, rng.permutation([truth[own][0] for own in rows]), strict=True):
            found[own] = one
        return found
    for own in rows:
        found[own] = rng.permutation(truth[own])
    return found


def log_band_power(known: Known, sfreq_hz: float, each_channel: bool) -> np.ndarray:
    """float64 `[n, 5]` or `[n, 5 C]`: log power in delta, theta, alpha, beta and gamma, averaged
    over channels (the same columns for every montage) or of each."""
    found = []
    for batch in known.batches:
        eeg = batch.eeg.double()
        power = torch.fft.rfft(eeg - eeg.mean(-1, keepdim=True)).abs().square()
        freqs = torch.fft.rfftfreq(eeg.shape[-1], 1 / sfreq_hz)
        bands = [
            power[..., (freqs >= low) & (freqs < high)].sum(-1).add(1e-12).log()
            for low, high in BANDS_HZ
        ]
        columns = torch.stack(bands, -1)
        found.append(columns.flatten(1) if each_channel else columns.mean(1))
    return torch.cat(found).numpy()


def tangent_space(train: Known, held: Known) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[n, C (C + 1) / 2]` of both, at the mean covariance of `train`; one montage."""
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace

    # The average reference leaves one direction empty; shrinkage fills it.
    covariances = [
        Covariances("oas").transform(torch.cat([b.eeg for b in known.batches]).double().numpy())
        for known in (train, held)
    ]
    space = TangentSpace().fit(covariances[0])
    return tuple(space.transform(one) for one in covariances)


Columns = tuple[np.ndarray, np.ndarray]
"""Of the training and of the held-out windows."""


def closed_forms(train: Known, held: Known, sfreq_hz: float) -> dict[str, Columns]:
    """What the EEG alone gives, by name."""
    one = (
        train.one_montage
        and held.one_montage
        and (train.batches[0].positions_m.equal(held.batches[0].positions_m))
    )
    power = tuple(log_band_power(known, sfreq_hz, one) for known in (train, held))
    found = {"log band power" if one else "log band power, mean of channels": power}
    return {**found, "tangent space": tangent_space(train, held)} if one else found


def scores(
    forms: dict[str, Columns], control: str, train: Known, held: Known, seed: int
) -> dict[str, np.ndarray]:
    """Balanced accuracy of each held-out person by form; `control`, one of them, also with the
    labels shuffled."""
    found = {}
    for name, (columns, held_columns) in forms.items():
        predicted = logistic_regression(columns, train.truth, held_columns)
        found[name] = by_person(held.truth, predicted, held.person)
    columns, held_columns = forms[control]
    truth = shuffled(train.truth, train.person, seed)
    predicted = logistic_regression(columns, truth, held_columns)
    found["labels shuffled"] = by_person(held.truth, predicted, held.person)
    return found
