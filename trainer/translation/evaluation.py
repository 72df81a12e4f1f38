"""Run every method over the test recordings and sum what they are worth."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from data.errors import InputError
from model.brainformer import BrainformerForEEG2MEG
from trainer.scoring.scores import band_pass
from trainer.translation.baselines import Method
from trainer.translation.pieces import Collate, Piece, Pieces
from trainer.translation.scores import RecordingScores, SensorSums
from trainer.translation.validate import spread

FEWEST_TRIALS = 2


@dataclass
class Evoked:
    """Sums of the pieces cut at events, of truth and of each method's prediction, by label."""

    truth: dict[str, np.ndarray] = field(default_factory=dict)
    predicted: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)

    def add(self, label: str, truth: np.ndarray, predictions: Mapping[str, np.ndarray]) -> None:
        self.trials[label] = self.trials.get(label, 0) + 1
        self.truth[label] = self.truth.get(label, 0) + truth.astype(np.float64)
        for name, prediction in predictions.items():
            sums = self.predicted.setdefault(name, {})
            sums[label] = sums.get(label, 0) + prediction.astype(np.float64)

    def r(self, name: str) -> np.ndarray | None:
        """Pearson r of each sensor over the averages of all labels, `[Ct]`; None without trials."""
        labels = [label for label, count in self.trials.items() if count >= FEWEST_TRIALS]
        if not labels:
            return None
        sums = SensorSums(len(self.truth[labels[0]]))
        for label in labels:
            count = self.trials[label]
            sums.add(self.truth[label] / count, self.predicted[name][label] / count)
        return sums.scores()["r"]


@dataclass
class Found:
    """What the report is made of. `scores[method][recording]`, `evoked[recording]`."""

    scores: dict[str, dict[str, RecordingScores]]
    evoked: dict[str, Evoked]
    example: tuple[Piece, np.ndarray]
    """A piece, and the model's translation of it in tesla and tesla/metre."""
    montages: dict


def model_methods(model: BrainformerForEEG2MEG, collate: Collate) -> tuple[dict, dict]:
    """The model, and the model without one of its parts: (methods, what they are)."""
    methods = {"model": predictor(model, collate)}
    notes = {"model": "Brainformer, as trained"}
    if model.skip is not None:
        without = copy.deepcopy(model)
        without.skip = without.states = None
        methods["no linear map"] = predictor(without, collate)
        notes["no linear map"] = "the model with its linear map taken out, not trained anew"
        alone = copy.deepcopy(model)
        silence(alone.heads)
        methods["no attention"] = predictor(alone, collate)
        notes["no attention"] = "the model with the attention's output at zero"
    return methods, notes


@torch.no_grad()
def silence(heads: torch.nn.Module) -> None:
    """Heads that add nothing to the linear map."""
    for name in ("mean", "tokens"):
        if hasattr(heads, name):
            getattr(heads, name).weight.zero_()
            getattr(heads, name).bias.zero_()


def predictor(model: BrainformerForEEG2MEG, collate: Collate) -> Method:
    @torch.no_grad()
    def method(piece: Piece) -> np.ndarray:
        batch = {name: value.to(model.device) for name, value in collate([piece]).items()}
        batch.pop("labels")
        return model.eval()(**batch).prediction[0].cpu().numpy()

    return method


def chosen_pieces(pieces: Pieces, limit: int) -> dict[str, list[int]]:
    """Numbers of the pieces of each recording, at most `limit` of each (0: all), spread evenly."""
    found: dict[str, list[int]] = {}
    for number in range(len(pieces)):
        found.setdefault(pieces.recording(number), []).append(number)
    if not limit:
        return found
    return {name: [every[at] for at in spread(len(every), limit)] for name, every in found.items()}


def evaluate(
    pieces: Pieces, methods: Mapping[str, Method], shifted: str, scales: Mapping[str, float],
    mean: Mapping[str, float], bands: Mapping[str, tuple[float, float]], limit: int, progress,
) -> Found:  # fmt: skip
    """Score `methods` on every piece. `shifted EEG` is the method named `shifted` on the EEG of
    another piece of the same recording: the pieces turned round by half of them."""
    scores: dict[str, dict[str, RecordingScores]] = {}
    evoked: dict[str, Evoked] = {}
    montages = {}
    chosen = chosen_pieces(pieces, limit)
    middle = sorted(chosen)[len(chosen) // 2]
    example = pieces[chosen[middle][len(chosen[middle]) // 2]]
    steps = progress(total=sum(len(numbers) for numbers in chosen.values()))
    for recording, numbers in chosen.items():
        for place, number in enumerate(numbers):
            piece = pieces[number]
            montage = montages.setdefault(recording, piece.montage)
            truth = piece.meg / sizes(piece, scales)
            predictions = {name: method(piece) for name, method in methods.items()}
            predictions["shifted EEG"] = methods[shifted](
                _with_other_eeg(pieces, piece, numbers, place)
            )
            means = np.array([mean.get(name, 0.0) for name in montage.meg_names])
            band_truth = _bands(truth, bands, pieces.sfreq_hz)
            for name, prediction in predictions.items():
                if not np.isfinite(prediction).all():
                    raise InputError(
                        f"{name} gives NaN for {recording} at {piece.onset_s:.1f} s",
                        "its weights are damaged: train again, or take an earlier checkpoint",
                    )
                one = scores.setdefault(name, {})
                if recording not in one:
                    one[recording] = RecordingScores(
                        montage.meg_names, montage.meg_types, bands, piece.subject
                    )
                band_prediction = _bands(prediction, bands, pieces.sfreq_hz)
                one[recording].add(truth, prediction, band_truth, band_prediction, means)
            if piece.label is not None:
                evoked.setdefault(recording, Evoked()).add(str(piece.label), truth, predictions)
            steps.update()
    steps.close()
    shown = methods["model"](example) * sizes(example, scales)
    return Found(scores, evoked, (example, shown), montages)


def sizes(piece: Piece, scales: Mapping[str, float]) -> np.ndarray:
    """The scale of each sensor, `[Ct, 1]`."""
    return np.array([scales[kind] for kind in piece.montage.meg_types])[:, None]


def _with_other_eeg(pieces: Pieces, piece: Piece, numbers: Sequence[int], place: int) -> Piece:
    """`piece` with the EEG half of the recording away; of one piece alone, turned by half."""
    if len(numbers) == 1:
        return replace(piece, eeg=np.roll(piece.eeg, piece.eeg.shape[1] // 2, axis=1))
    other = pieces[numbers[(place + len(numbers) // 2) % len(numbers)]]
    return replace(piece, eeg=other.eeg)


def _bands(signal: np.ndarray, bands, sfreq_hz: float) -> dict[str, np.ndarray]:
    if not bands:
        return {}
    found = band_pass(torch.from_numpy(np.ascontiguousarray(signal, np.float32)), bands, sfreq_hz)
    return {name: value.numpy() for name, value in found.items()}
