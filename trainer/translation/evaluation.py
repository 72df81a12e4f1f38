"""What translations are worth: the model's on the validation groups while it trains, and every
method's on the test recordings, by the same sums."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.distributed as dist

from data.batches.batch import Batch, Request
from data.errors import InputError
from data.spacing import evenly
from model.brainformer import BrainformerForEEG2MEG, BrainformerProcessor
from trainer.ranks.ranks import Ranks, together
from trainer.scoring.scores import band_pass
from trainer.translation.baselines import Method
from trainer.translation.pieces import (
    Piece,
    PieceBatches,
    Pieces,
    arguments_of,
    model_arguments,
)
from trainer.translation.scores import RecordingScores, SensorSums, nmse_by_type

FEWEST_TRIALS = 2


class Validation:
    """A fixed set of the validation groups' windows, shared out over the ranks and read once.
    InputError on all ranks where one of them cannot be read or is not finite."""

    def __init__(self, windows: PieceBatches, count: int, micro: int, ranks: Ranks):
        self.windows, self.ranks = windows, ranks
        numbers = evenly(len(windows), count)
        self.rows, self.types = sensor_rows(windows.pieces, numbers.tolist())
        mine = numbers[ranks.rank :: ranks.world]
        # Every rank calls the model equally often, since ZeRO 3 gathers weights in each call: one
        # whose windows have run out repeats what counts nothing.
        calls = -(-len(numbers) // (ranks.world * micro))
        parts = [mine[call * micro : (call + 1) * micro] for call in range(calls)]
        self.counts = [len(part) > 0 for part in parts]
        with together(ranks):
            self.batches = [self._read(part if len(part) else numbers[:1]) for part in parts]

    def _read(self, numbers: np.ndarray) -> Batch:
        (batch,) = self.windows[Request(numbers, numbers)]
        for window in batch.window[~batch.finite].tolist():
            shard, key = self.windows.name(window)
            raise InputError(
                f"{shard.file}: {key}: a value of this validation window is not finite",
                "pack this recording again, or leave it out with another --holdout",
            )
        return batch

    @torch.no_grad()
    def __call__(self, engine: torch.nn.Module) -> dict[str, float]:
        """`loss`; `error`: squared error over power, mean over sensor types; `r_mag`, `r_grad`:
        median over sensors. The same numbers on every rank."""
        sums, losses = SensorSums(len(self.rows)), np.zeros(2)
        was_training = engine.training
        engine.eval()
        for read, counts in zip(self.batches, self.counts, strict=True):
            batch = read.to(self.ranks.device)
            found = engine(**model_arguments(batch))
            if not counts:
                continue
            losses += float(found.loss) * len(batch), len(batch)
            truth, predicted = batch.targets["labels"].cpu().numpy(), found.prediction.cpu().numpy()
            for row, window in enumerate(batch.window.tolist()):
                at = [self.rows[name] for name in self._montage(window).meg_names]
                sums.add(truth[row, : len(at)], predicted[row, : len(at)], rows=at)
        engine.train(was_training)
        packed = np.concatenate([sums.sums.ravel(), sums.count, losses])
        total = torch.from_numpy(packed).to(self.ranks.device)
        dist.all_reduce(total)
        total = total.cpu().numpy()
        size = 6 * len(self.rows)
        sums.sums, sums.count = total[:size].reshape(6, -1), total[size:-2]
        _, _, xx, yy, xy, _ = sums.sums
        r, kinds = sums.scores()["r"], np.asarray(self.types)
        return {
            "loss": float(total[-2] / total[-1]),
            "error": nmse_by_type((xx - 2 * xy + yy).clip(min=0), xx, self.types),
            **{f"r_{kind}": float(np.nanmedian(r[kinds == kind])) for kind in sorted(set(kinds))},
        }

    def _montage(self, window: int):
        pieces = self.windows.pieces
        return pieces.windows.montage(pieces.index[window][0])


def sensor_rows(pieces: Pieces, numbers: Sequence[int]) -> tuple[dict[str, int], list[str]]:
    """({MEG name: row}, type of each row) over the montages of these pieces."""
    types: dict[str, str] = {}
    for number in numbers:
        montage = pieces.windows.montage(pieces.index[number][0])
        types.update(zip(montage.meg_names, montage.meg_types, strict=True))
    return {name: row for row, name in enumerate(types)}, list(types.values())


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


def model_methods(
    model: BrainformerForEEG2MEG, processor: BrainformerProcessor
) -> tuple[dict, dict]:
    """The model, and the model without one of its parts: (methods, what they are)."""
    methods = {"model": predictor(model, processor)}
    notes = {"model": "Brainformer, as trained"}
    if model.skip is not None:
        without = copy.deepcopy(model)
        without.skip = without.states = None
        methods["no linear map"] = predictor(without, processor)
        notes["no linear map"] = "the model with its linear map taken out, not trained anew"
        alone = copy.deepcopy(model)
        silence(alone.heads)
        methods["no attention"] = predictor(alone, processor)
        notes["no attention"] = "the model with the attention's output at zero"
    return methods, notes


@torch.no_grad()
def silence(heads: torch.nn.Module) -> None:
    """Heads that add nothing to the linear map."""
    for name in ("mean", "tokens"):
        if hasattr(heads, name):
            getattr(heads, name).weight.zero_()
            getattr(heads, name).bias.zero_()


def predictor(model: BrainformerForEEG2MEG, processor: BrainformerProcessor) -> Method:
    @torch.no_grad()
    def method(piece: Piece) -> np.ndarray:
        found = arguments_of([piece], processor)
        found.pop("labels")
        arguments = {name: value.to(model.device) for name, value in found.items()}
        return model.eval()(**arguments).prediction[0].cpu().numpy()

    return method


def chosen_pieces(pieces: Pieces, limit: int) -> dict[str, list[int]]:
    """Numbers of the pieces of each recording, at most `limit` of each (0: all), spread evenly."""
    found: dict[str, list[int]] = {}
    for number in range(len(pieces)):
        found.setdefault(pieces.recording(number), []).append(number)
    if not limit:
        return found
    return {name: [every[at] for at in evenly(len(every), limit)] for name, every in found.items()}


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
