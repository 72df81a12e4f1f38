"""What costs little or nothing: the translations that a model must be seen beside.

Each takes a piece and gives its MEG, `[Ct, T]` in scaled units in the order of the piece's montage.
Linear ones are fitted to all training groups, those of early stopping included: they may know
everything that the model was allowed to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.batches.pairs import PairedMontage
from data.errors import InputError
from data.simulate.eeg_meg import World, head
from data.simulate.oracle import oracle_of
from data.spacing import evenly
from trainer.translation.common import Common
from trainer.translation.pieces import Piece, Pieces
from trainer.translation.ridge import Linear, Moments, fit_ridge, reduced_rank

Method = Callable[[Piece], np.ndarray]
MINIMUM_NORM_PENALTIES = tuple(float(x) for x in np.logspace(-4, 1, 11))
MINIMUM_NORM_PIECES = 60


@dataclass(frozen=True)
class Baselines:
    """Methods by name, and what they are."""

    methods: dict[str, Method]
    notes: dict[str, str]
    mean: dict[str, float]
    """Training mean of each MEG sensor by name, scaled units."""


def linear_baselines(
    moments: Mapping[str, Moments], sums: tuple[np.ndarray, int], common: Common, lags: int
) -> Baselines:
    """Training mean, ridge without and with lags, reduced rank; `moments` with `lags`."""
    types = common.meg_types
    mean = sums[0] / max(sums[1], 1)
    plain = fit_ridge(without_lags(moments, lags), types, 0)
    fits = {"ridge": plain}
    if lags:
        fits["ridge lags"] = fit_ridge(moments, types, lags)
    fits["reduced rank"] = reduced_rank(without_lags(moments, lags), plain, types)
    methods: dict[str, Method] = {"mean": _mean_method(mean, common)}
    notes = {"mean": "the training mean of each sensor"}
    for name, fitted in fits.items():
        methods[name] = linear_method(fitted, common)
        notes[name] = _told(fitted)
    by_name = dict(zip(common.meg_names, mean.tolist(), strict=True))
    return Baselines(methods, notes, by_name)


def linear_method(fitted: Linear, common: Common) -> Method:
    return lambda piece: common.to_montage(fitted(common.eeg(piece)), piece.montage)


def without_lags(moments: Mapping[str, Moments], lags: int) -> dict[str, Moments]:
    """The part of lagged moments that has no lag."""
    found = {}
    for name, one in moments.items():
        size = len(one.gram) // (2 * lags + 1)
        part = slice(lags * size, (lags + 1) * size)
        found[name] = Moments(one.gram[part, part], one.cross[part], one.power, one.count)
    return found


def oracle_methods(recordings: Sequence[dict], scales: Mapping[str, float], sfreq_hz: float):
    """Best possible predictions of simulated recordings, {} for others: `oracle linear`, one map
    for all times, and `oracle`, which knows the states' statistics."""
    entries = {entry["id"]: entry for entry in recordings}
    if not all("simulated_pairs" in entry.get("notes", {}) for entry in recordings):
        return {}, {}
    cache: dict[str, object] = {}

    def oracle(piece: Piece):
        if piece.recording not in cache:
            cache[piece.recording] = oracle_of(entries[piece.recording], piece.montage)
        return cache[piece.recording]

    def scaled(meg: np.ndarray, piece: Piece) -> np.ndarray:
        return meg / np.array([scales[kind] for kind in piece.montage.meg_types])[:, None]

    notes = {"oracle linear": "the best linear map, from the simulation's own leadfields"}
    methods = {"oracle linear": lambda p: scaled(oracle(p).linear @ p.eeg, p)}
    worlds = {entry["notes"]["simulated_pairs"]["world"]["statistics"] for entry in recordings}
    if worlds != {"linear"}:
        notes["oracle"] = "that of the state, which is told from the whole window"
        methods["oracle"] = lambda p: scaled(oracle(p).predict(p.eeg, sfreq_hz), p)
    return methods, notes


# ---- minimum norm ---------------------------------------------------------------------------
NO_FORWARD = (
    "needs a forward solution of EEG and MEG with dipoles of fixed orientation on the subject's "
    "cortex, which comes from an MRI: give --forward SUBJECT=FILE-fwd.fif for each. (On a sphere "
    "with free orientations EEG says nothing about MEG, by symmetry: r below 0.05.)"
)


def minimum_norm(
    recordings: Sequence[dict], forwards: Mapping[str, Path], train: Pieces,
    scales: Mapping[str, float],
) -> tuple[Method | None, str]:  # fmt: skip
    """Minimum-norm sources from EEG, projected to the MEG sensors: (method, what it is), or (None,
    why not). The penalty is the best on training pieces."""
    entries = {entry["id"]: entry for entry in (*recordings, *train.windows.recordings())}
    fields: dict[str, dict[str, np.ndarray]] = {}

    def has(entry: dict) -> bool:
        return entry["subject"] in forwards or "simulated_pairs" in entry.get("notes", {})

    trained = [number for number in range(len(train)) if has(entries[train.recording(number)])]
    if not all(has(entry) for entry in recordings) or not trained:
        return None, NO_FORWARD
    source = "from --forward" if forwards else "of the simulation, each person's own"

    def leadfields(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
        if piece.recording not in fields:
            fields[piece.recording] = _leadfield(entries[piece.recording], forwards)
        rows = fields[piece.recording]
        missing = {*piece.montage.eeg_names, *piece.montage.meg_names} - set(rows)
        if missing:
            raise InputError(
                f"{piece.recording}: the forward solution lacks {sorted(missing)[0]}",
                "make it with the recording's own channels",
            )
        return _scaled_leadfields(rows, piece.montage, scales)

    chosen = [train[trained[number]] for number in evenly(len(trained), MINIMUM_NORM_PIECES)]
    errors = np.zeros(len(MINIMUM_NORM_PENALTIES))
    for piece in chosen:
        eeg_field, meg_field = leadfields(piece)
        truth = _scaled_meg(piece, scales)
        eeg = piece.eeg / scales["eeg"]
        for number, penalty in enumerate(MINIMUM_NORM_PENALTIES):
            residual = truth - inverse_then_forward(eeg_field, meg_field, penalty) @ eeg
            errors[number] += (residual**2).sum() / (truth**2).sum()
    penalty = MINIMUM_NORM_PENALTIES[int(errors.argmin())]
    maps: dict[str, np.ndarray] = {}

    def method(piece: Piece) -> np.ndarray:
        if piece.recording not in maps:
            maps[piece.recording] = inverse_then_forward(*leadfields(piece), penalty)
        return maps[piece.recording] @ (piece.eeg / scales["eeg"])

    return method, f"fixed orientations, leadfields {source}; penalty {penalty:g}"


def inverse_then_forward(eeg_field: np.ndarray, meg_field: np.ndarray, penalty: float):
    """`[Cs, S]`, `[Ct, S]` -> the map `[Ct, Cs]` of a minimum-norm estimate; the penalty is in
    units of the mean diagonal."""
    gram = eeg_field @ eeg_field.T
    gram = gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram, eeg_field @ meg_field.T).T


def _leadfield(entry: dict, forwards: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """{channel: its row}, volts, tesla or tesla/metre for each dipole."""
    if entry["subject"] in forwards:
        import mne

        path = forwards[entry["subject"]]
        try:
            forward = mne.read_forward_solution(path, verbose="error")
            fixed = mne.convert_forward_solution(
                forward, surf_ori=True, force_fixed=True, verbose="error"
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"--forward {path}: {error}", "give a surface forward solution"
            ) from None
        return dict(zip(fixed["sol"]["row_names"], fixed["sol"]["data"], strict=True))
    told = entry["notes"]["simulated_pairs"]
    found = head(World(**told["world"]), told["electrodes"], told["person"], told["run"])
    return dict(zip(found.info["ch_names"], found.leadfield, strict=True))


def _scaled_leadfields(rows: Mapping[str, np.ndarray], montage: PairedMontage, scales):
    eeg = np.array([rows[name] for name in montage.eeg_names]) / scales["eeg"]
    sizes = np.array([scales[kind] for kind in montage.meg_types])
    meg = np.array([rows[name] for name in montage.meg_names]) / sizes[:, None]
    return eeg - eeg.mean(0), meg


def _scaled_meg(piece: Piece, scales: Mapping[str, float]) -> np.ndarray:
    return piece.meg / np.array([scales[kind] for kind in piece.montage.meg_types])[:, None]


# ---- leak test ------------------------------------------------------------------------------
def correlation_by_fold(
    moments: Mapping[str, Moments], types: Sequence[str], lags: int
) -> dict[str, float]:
    """Median r over sensors of ridge regression, each fold predicted from the others (the penalty
    chosen inside them); signals have no mean to speak of, so r is taken around zero."""
    kinds = np.asarray(types)
    names, sums = sorted(moments), np.zeros((3, len(kinds)))
    for held in names:
        rest = {name: one for name, one in moments.items() if name != held}
        fitted = fit_ridge(rest, types, lags)
        weights = fitted.weights.transpose(2, 1, 0).reshape(-1, len(kinds))
        one = moments[held]
        sums[0] += (weights * one.cross).sum(0)
        sums[1] += (weights * (one.gram @ weights)).sum(0)
        sums[2] += one.power
    r = sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], 1e-300))
    return {kind: float(np.median(r[kinds == kind])) for kind in sorted(set(types))}


def _mean_method(mean: np.ndarray, common: Common) -> Method:
    def method(piece: Piece) -> np.ndarray:
        constant = np.repeat(mean[:, None], piece.eeg.shape[1], axis=1)
        return common.to_montage(constant, piece.montage)

    return method


def _told(fitted: Linear) -> str:
    parts = []
    for kind, one in fitted.chosen["types"].items():
        rank = f", rank {one['rank']}" if "rank" in one else ""
        parts.append(f"{kind}: penalty {one['penalty']:.1e}{rank}")
    return f"{2 * fitted.lags + 1} lag(s); chosen on groups left out, {'; '.join(parts)}"
