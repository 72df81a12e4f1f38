"""The best that can be predicted of the MEG of a simulated recording, in closed form.

Linear statistics: nothing beats `Oracle.linear`. Switching states: nearly so, by a hidden Markov
model whose samples are taken as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.batches.pairs import PairedMontage
from data.errors import InputError
from data.simulate.eeg_meg import DWELL_S, Head, Population, World, head, population

EVIDENCE = 0.1
"""Of a sample's log-likelihood: neighbouring samples at 250 Hz repeat each other."""


@dataclass(frozen=True)
class Oracle:
    """The best prediction of one recording's MEG from its EEG, knowing all but the activity."""

    linear: np.ndarray
    """float64 `[Ct, Cs]`: the best linear map, volts to tesla or tesla/metre. Where the statistics
    are linear nothing can beat it."""
    maps: np.ndarray
    """float64 `[states, Ct, Cs]`: the best map while a state lasts."""
    whiteners: np.ndarray
    """float64 `[states, Cs - 1, Cs]`: EEG of a state becomes white noise of unit variance."""
    log_dets: np.ndarray
    """float64 `[states]`, of the EEG's covariance."""

    def predict(self, eeg: np.ndarray, sfreq_hz: float) -> np.ndarray:
        """`[Cs, T]` volts, average reference -> `[Ct, T]`: each state's map, weighted by how
        probable the state is given the whole window (a hidden Markov model's smoothing).

        Exact for linear statistics; else nearly so, since samples are not independent.
        """
        if len(self.maps) == 1:
            return self.linear @ eeg
        white = self.whiteners @ eeg
        evidence = -0.5 * EVIDENCE * ((white**2).sum(axis=1) + self.log_dets[:, None])
        weights = _smoothed(evidence, np.exp(-1 / (DWELL_S * sfreq_hz)))
        return np.einsum("kt,kct->ct", weights, self.maps @ eeg)


def oracle_of(recording: dict, montage: PairedMontage) -> Oracle:
    """The oracle of a simulated recording: its entry in the manifest, and its montage.

    Raises InputError for a recording that was not simulated.
    """
    told = recording.get("notes", {}).get("simulated_pairs")
    if told is None:
        raise InputError(
            f"{recording['id']}: no simulated recording, so the best prediction is not known",
            "compare with ridge regression instead",
        )
    world = World(**told["world"])
    sensors = head(world, told["electrodes"], told["person"], told["run"])
    row = {name: index for index, name in enumerate(sensors.info["ch_names"])}
    return _oracle(
        population(world),
        sensors,
        [row[name] for name in montage.eeg_names],
        [row[name] for name in montage.meg_names],
    )


def _oracle(people: Population, sensors: Head, eeg: list[int], meg: list[int]) -> Oracle:
    count = len(eeg)
    reference = np.eye(count) - 1 / count
    # In microvolts, so that the pseudo-inverse's cut-off is far from the noise.
    into_uv = 1e6 * reference @ sensors.leadfield[eeg]
    noise = reference @ np.diag((1e6 * sensors.noise[eeg]) ** 2) @ reference
    basis = np.linalg.svd(reference)[0][:, : count - 1].T
    maps, whiteners, log_dets, eeg_all, cross_all = [], [], [], 0.0, 0.0
    for gain in people.gains:
        source = gain[:, None] * people.mixing
        own = into_uv @ source
        covariance = own @ own.T + noise
        cross = sensors.leadfield[meg] @ source @ own.T
        maps.append(cross @ np.linalg.pinv(covariance, hermitian=True) * 1e6)
        values, vectors = np.linalg.eigh(basis @ covariance @ basis.T)
        whiteners.append((vectors / np.sqrt(values)).T @ basis * 1e6)
        log_dets.append(np.log(values).sum())
        eeg_all, cross_all = eeg_all + covariance, cross_all + cross
    linear = cross_all @ np.linalg.pinv(eeg_all, hermitian=True) * 1e6
    return Oracle(linear, np.array(maps), np.array(whiteners), np.array(log_dets))


def _smoothed(evidence: np.ndarray, stay: float) -> np.ndarray:
    """Forward-backward: log-likelihoods `[states, T]` -> probabilities `[states, T]`."""
    count, samples = evidence.shape
    move = np.full((count, count), (1 - stay) / (count - 1))
    np.fill_diagonal(move, stay)
    likelihood = np.exp(evidence - evidence.max(axis=0)).T + 1e-300
    forward, backward = likelihood.copy(), np.ones((samples, count))
    forward[0] /= forward[0].sum()
    for t in range(1, samples):
        forward[t] *= forward[t - 1] @ move
        forward[t] /= forward[t].sum()
    for t in range(samples - 2, -1, -1):
        backward[t] = move @ (likelihood[t + 1] * backward[t + 1])
        backward[t] /= backward[t].sum()
    joint = (forward * backward).T
    return joint / joint.sum(axis=0)
