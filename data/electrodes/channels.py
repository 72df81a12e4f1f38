"""Which channels of a recording are EEG, and where on the head they sit.

A channel is used if it is typed EEG, is not named like something else, and has a position: the
recording's own if it holds plausible ones, brought into the head frame (data/electrodes/frames.py),
else by name from a built-in montage (the 10-05 system unless another is given). Template positions
are about 1 cm off on a real head; that is the price of using the many files that carry names alone.
Channels are never guessed by order.

At least half of the channels that seem to be EEG must have a place: where a handful of other names
happen to be electrodes of the 10-05 system too, the file needs another montage. An electrode that
is there twice, by its name or its place, is used once.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from data.electrodes.channel_names import is_other_than_eeg, parse_labels
from data.electrodes.frames import OwnPlaces, own_places
from data.electrodes.montages import TEMPLATE, montage_places, place_of, template_positions
from data.electrodes.twins import LeftOut, each_once
from data.errors import InputError, some

FEWEST = 4
"""An average reference over fewer channels is mostly the channels themselves."""
LEAST_PLACED = 0.5
"""Of the channels that seem to be EEG: with fewer in a known place, the names mean others."""
BIOSEMI = {"D": "biosemi128", "E": "biosemi160", "H": "biosemi256"}
"""Last letter of BioSemi's A1..A32, B1..B32 ... labels -> montage."""


@dataclass(frozen=True)
class Chosen:
    """The EEG channels of a recording. `picks` index the recording's channels."""

    picks: list[int]
    names: list[str]
    positions_m: np.ndarray
    """float64 `[C, 3]`, metres, MNE's head frame."""
    left_out: dict[str, str]
    """Channels typed EEG that are not used -> why."""
    positions_from: str


def choose_channels(
    info: mne.Info, montage: str | None, where: str, fewest: int = FEWEST
) -> Chosen:
    """Choose the EEG channels of `info`; `where` names the file in messages.

    `montage` (a built-in name or a file MNE reads as one) overrides the recording's positions.
    Raises InputError where fewer than `fewest` of them, or than half, have a position.
    """
    types = info.get_channel_types()
    typed = [index for index, kind in enumerate(types) if kind == "eeg"]
    if not typed:
        kinds = ", ".join(sorted(set(types)))
        raise InputError(
            f"{where}: no channel is typed EEG (the types are {kinds})",
            "set the channels' types in the file, or in a BIDS channels.tsv beside it",
        )
    parsed = dict(zip(typed, parse_labels([info["ch_names"][i] for i in typed]), strict=True))
    names = {index: label.name for index, label in parsed.items()}
    letters = _letter_labels(set(names.values()))
    left_out = LeftOut(info, names)
    candidates = []
    for index in typed:
        # BioSemi's A1 and A2 are scalp electrodes, elsewhere they are ears.
        if is_other_than_eeg(names[index]) and not (
            letters is not None and names[index] in ("A1", "A2")
        ):
            left_out.add(index, "not EEG by its name")
        else:
            candidates.append(index)

    own = OwnPlaces({})
    if montage is None:
        known = {} if letters == "" else template_positions(letters or TEMPLATE)
        own = own_places(info, names, candidates, known, where)
    if len(own.places) >= max(fewest, LEAST_PLACED * len(candidates)):
        places, labels = own.places, dict(names) | own.labels
        source = "the recording" + f", {own.handling}" * bool(own.handling)
        for index in own.wrong:
            left_out.add(index, "its place contradicts its name")
    else:
        if montage is None:
            montage = TEMPLATE if letters is None else letters
        source = f"{Path(montage).name} by name"
        lookup = names
        if letters == "" and montage in BIOSEMI.values():
            lookup = {index: _biosemi_of_16(name) for index, name in names.items()}
            source += ", labels counted on in groups of 16"
        moved = montage_places(montage)[1] if montage else ""
        if moved:
            source += f", {moved}"
            warnings.warn(f"montage={Path(montage).name}: {moved}", stacklevel=2)
        found = {index: place_of(lookup[index], montage) for index in candidates}
        places = {index: entry[1] for index, entry in found.items() if entry}
        labels = {index: entry[0] for index, entry in found.items() if entry}
    for index in candidates:
        if parsed[index].minus:
            places.pop(index, None)
            left_out.add(index, "the difference of two electrodes")
        elif index not in places and index not in own.wrong:
            left_out.add(index, "no position")
    if len(places) < max(fewest, LEAST_PLACED * len(candidates)):
        raise _too_few_placed(where, len(places), [names[index] for index in candidates], fewest)
    picks = each_once(info, candidates, places, parsed, left_out)
    return Chosen(
        picks,
        [labels[index] for index in picks],
        np.array([places[index] for index in picks]),
        left_out.reasons,
        source,
    )


def _too_few_placed(where: str, placed: int, names: list[str], fewest: int) -> InputError:
    least = max(fewest, -(-len(names) // 2))
    return InputError(
        f"{where}: {placed} of {len(names)} EEG channels have a known position, at least {least} "
        f"must (channels: {some(names, 12)})",
        "name a montage with montage=, e.g. montage=biosemi128, montage=GSN-HydroCel-128 or "
        "montage=/path/to/positions.elc; MNE's built-in ones are listed by "
        'python -c "import mne; print(mne.channels.get_builtin_montages())". Channels that are no '
        "EEG channels are known by their type in a BIDS channels.tsv beside the file",
    )


def _letter_labels(names: set[str]) -> str | None:
    """BioSemi's A1, A2 ... B1 ... labels: their montage; "" if it is not clear; None if other.

    Half of these labels (C3, F4 ...) also name other places in the 10-20 system.
    """
    if not all(f"{letter}{number}" in names for letter in "AB" for number in range(1, 17)):
        return None
    last = max(letter for letter in "ABCDEFGHI" if {f"{letter}1", f"{letter}16"} <= names)
    return BIOSEMI.get(last, "") if {"A32", "B32"} <= names else ""


def _biosemi_of_16(name: str) -> str:
    """A1..A16, B1..B16 ... (groups of 16) -> A1..A32 ... (groups of 32): B1 is A17."""
    match = re.fullmatch(r"([A-P])(\d+)", name)
    if not match or int(match[2]) > 16:
        return name
    count = (ord(match[1]) - ord("A")) * 16 + int(match[2]) - 1
    return f"{chr(ord('A') + count // 32)}{count % 32 + 1}"
