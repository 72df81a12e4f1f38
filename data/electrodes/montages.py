"""Electrodes' places by name: MNE's built-in montages, and files of positions.

Names are compared by `name_key` (data/electrodes/channel_names.py), so older and other spellings are found.
Places are in metres in MNE's head frame; those of files are brought into it (data/electrodes/frames.py).
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from pathlib import Path

import mne
import numpy as np

from data.electrodes.channel_names import keys_of, name_key
from data.electrodes.frames import NamesContradictPlaces, place_in_head
from data.errors import InputError, did_you_mean

TEMPLATE = next(
    name
    for name in ("colin27_1005", "standard_1005")  # MNE's new and old name of the same places
    if name in mne.channels.get_builtin_montages() or name == "standard_1005"
)


def place_of(label: str, montage: str) -> tuple[str, tuple[float, float, float]] | None:
    """(name, position) of a label in a montage ("": none), also by its older or newer name."""
    template = template_positions(montage) if montage else {}
    return next((template[key] for key in keys_of(label) if key in template), None)


def template_positions(montage: str) -> dict[str, tuple[str, tuple[float, float, float]]]:
    """`name_key` -> (name, position in metres in MNE's head frame) of a montage.

    `montage` is built into MNE or is a file that mne.channels.read_custom_montage reads, whose
    places are brought into the head frame (data/electrodes/frames.py).
    """
    return montage_places(montage)[0]


@functools.lru_cache(maxsize=8)
def montage_places(montage: str) -> tuple[dict[str, tuple[str, tuple]], str]:
    """As `template_positions`, and what was done to bring a file's places into the head frame."""
    built_in = True
    try:
        # Asked by trying: MNE also knows names that its list of montages leaves out.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            dig = mne.channels.make_standard_montage(montage)
    except ValueError:
        dig, built_in = _montage_file(montage), False
    info = mne.create_info(list(dig.ch_names), 1.0, "eeg")
    info.set_montage(dig, verbose="error")
    found = {
        channel["ch_name"]: tuple(map(float, channel["loc"][:3]))
        for channel in info["chs"]
        if np.isfinite(channel["loc"][:3]).all()
    }
    handling = ""
    if not built_in and found:
        template = {name: place for name, (_, place) in template_positions(TEMPLATE).items()}
        placed = None
        try:
            placed = place_in_head(list(found), np.array(list(found.values())), template, False)
            reason = "its places are not those of electrodes on one head"
        except NamesContradictPlaces as error:
            reason = str(error)
        if placed is None:
            raise InputError(f"montage={montage}: {reason}", "correct the file, or give another")
        handling = placed.handling
        found = {
            name: tuple(map(float, place))
            for row, (name, place) in enumerate(zip(found, placed.positions_m, strict=True))
            if row not in placed.wrong
        }
    return {name_key(name): (name, place) for name, place in found.items()}, handling


def _montage_file(montage: str) -> mne.channels.DigMontage:
    if not Path(montage).is_file():
        builtin = mne.channels.get_builtin_montages()
        raise InputError(
            f"montage={montage}: neither built into MNE nor a file",
            f"{did_you_mean(montage, builtin)} Built in are {', '.join(builtin)}.".strip(),
        )
    try:
        return mne.channels.read_custom_montage(montage)
    except (ValueError, OSError, RuntimeError, KeyError, IndexError) as error:
        raise InputError(
            f"montage={montage}: MNE cannot read it ({error})",
            "give a file of positions, e.g. .elc, .sfp, .bvef or .loc",
        ) from error


def positions_of(names: list[str], montage: str, where: str) -> np.ndarray:
    """Positions `[C, 3]` of `names` in a montage; InputError for those it lacks, or twice."""
    found = {name: place_of(name, montage) for name in names}
    missing = [name for name, entry in found.items() if entry is None]
    if missing:
        raise InputError(
            f"{where}: {montage} has no position for {', '.join(missing[:12])}",
            "check the names, or give another montage with montage=",
        )
    count = Counter(found[name][1] for name in names)
    twice = [name for name in names if count[found[name][1]] > 1]
    if twice:
        raise InputError(
            f"{where}: one electrode has two names or is named twice: {', '.join(twice[:12])}",
            "name each channel once",
        )
    return np.array([found[name][1] for name in names])
