"""What an encoder takes: MNE's recordings and epochs, arrays, or several of these in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import mne
import numpy as np

from data.errors import InputError
from data.signals.profiles import PROFILES, Profile
from use.signals import Signals, prepare_trials, windows_of

ESSENTIAL = ("sfreq_hz", "l_freq_hz", "h_freq_hz", "window_samples")


def profile_of(signal: Mapping, where: str) -> Profile:
    """How the EEG of training was made, as its weights say; InputError where they do not."""
    if lacking := [name for name in ESSENTIAL if name not in signal]:
        raise InputError(
            f"{where}: does not say how its EEG was made ({', '.join(lacking)})",
            "convert the run again with trainer/convert.py",
        )
    known = {entry.name for entry in fields(Profile)}
    base = PROFILES.get(signal.get("name"), PROFILES["default"])
    return replace(base, **{name: value for name, value in signal.items() if name in known})


def signals_of(
    data,
    profile: Profile,
    *,
    ch_names: Sequence[str] | None = None,
    sfreq: float | None = None,
    onsets_s: np.ndarray | None = None,
    **settings,
) -> Signals:
    """The encoder's input. data: mne Raw (its windows, or those at `onsets_s`), mne Epochs, or an
    array `[B, C, T]` with `ch_names` and `sfreq`. settings: of `windows_of` or `prepare_trials` in
    use/signals.py. InputError for input that cannot be used."""
    if isinstance(data, mne.io.BaseRaw):
        return windows_of(data, profile, onsets_s=onsets_s, **settings)
    if isinstance(data, mne.BaseEpochs):
        return _of_epochs(data, profile, settings)
    if ch_names is None or sfreq is None:
        raise InputError(
            "an array without ch_names or sfreq", "say both: the encoder needs places and rate"
        )
    return prepare_trials(data, ch_names, sfreq, profile, **settings)


def _of_epochs(epochs: mne.BaseEpochs, profile: Profile, settings: dict) -> Signals:
    kept = [name for name, kind in zip(epochs.ch_names, epochs.get_channel_types(), strict=True)
            if kind == "eeg" and name not in epochs.info["bads"]]  # fmt: skip
    if not kept:
        raise InputError("the epochs have no good EEG channel", "set the channels' types")
    places = np.array([epochs.info["chs"][epochs.ch_names.index(n)]["loc"][:3] for n in kept])
    known = np.isfinite(places).all() and np.abs(places).max() > 0
    if known and "montage" not in settings:
        settings = {"positions_m": places, **settings}
    return prepare_trials(
        epochs.get_data(picks=kept), kept, epochs.info["sfreq"], profile, **settings
    )


def together(signals: Sequence[Signals]) -> dict[str, np.ndarray]:
    """Windows of several montages as one batch: eeg float32 `[B, C, T]` and positions_m float32
    `[B, C, 3]` with zeros, channel_mask bool `[B, C]` with False, where a montage has fewer
    channels than the largest. InputError for windows of unlike lengths."""
    lengths = sorted({one.eeg.shape[-1] for one in signals})
    if len(lengths) != 1:
        raise InputError(
            f"windows of {', '.join(map(str, lengths))} samples", "give one length in a call"
        )
    count, channels = sum(len(one.eeg) for one in signals), max(len(one.names) for one in signals)
    eeg = np.zeros((count, channels, lengths[0]), np.float32)
    positions_m = np.zeros((count, channels, 3), np.float32)
    mask = np.zeros((count, channels), bool)
    first = 0
    for one in signals:
        rows, own = slice(first, first + len(one.eeg)), len(one.names)
        eeg[rows, :own], positions_m[rows, :own], mask[rows, :own] = one.eeg, one.positions_m, True
        first = rows.stop
    return {"eeg": eeg, "positions_m": positions_m, "channel_mask": mask}
