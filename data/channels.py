"""Which channels of a recording are EEG, and where on the head they sit.

A channel is used if it is typed EEG, is not named like something else, and has a position: the
recording's own if it holds plausible ones, brought into the head frame (data/frames.py), else by
name from a built-in montage (the 10-05 system unless told). Template positions are about 1 cm off
on a real head; that is the price of using the many files that carry names alone. Channels are never
guessed by order.
"""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from data.errors import InputError, did_you_mean
from data.frames import NamesContradictPlaces, OwnPlaces, own_places, place_in_head

FEWEST = 4
"""An average reference over fewer channels is mostly the channels themselves."""
NOT_EEG = re.compile(
    r"(.*EOG.*|VEO[UL]?|HEO[LR]?|.*ECG.*|.*EKG.*|.*EMG.*|M1|M2|A1|A2|EXG\d*|ERG\d*|GSR\d*|EDA|RESP\w*"
    r"|PLET\w*|PPG|TEMP|STATUS|STI\w*|TRIG\w*|MARKER\w*|PHOTO\w*|ERGO.*|ACC[_-]?[XYZ]|NZ|LPA|RPA)",
    re.IGNORECASE,
)
TEMPLATE = next(
    name
    for name in ("colin27_1005", "standard_1005")  # MNE's new and old name of the same places
    if name in mne.channels.get_builtin_montages() or name == "standard_1005"
)
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


def choose_channels(info: mne.Info, montage: str | None, where: str) -> Chosen:
    """Choose the EEG channels of `info`; `where` names the file in messages.

    `montage` (a built-in name or a file MNE reads as one) overrides the recording's positions.
    Raises InputError where fewer than FEWEST channels have a position.
    """
    types = info.get_channel_types()
    typed = [index for index, kind in enumerate(types) if kind == "eeg"]
    if not typed:
        kinds = ", ".join(sorted(set(types)))
        raise InputError(
            f"{where}: no channel is typed EEG (the types are {kinds})",
            "set the channels' types in the file, or in a BIDS channels.tsv beside it",
        )
    names = {index: plain_name(info["ch_names"][index]) for index in typed}
    letters = _letter_labels(set(names.values()))
    left_out, candidates = {}, []
    for index in typed:
        # BioSemi's A1 and A2 are scalp electrodes, elsewhere they are ears.
        if NOT_EEG.fullmatch(names[index]) and not (
            letters is not None and names[index] in ("A1", "A2")
        ):
            left_out[names[index]] = "not EEG by its name"
        else:
            candidates.append(index)

    own = OwnPlaces({})
    if montage is None and letters != "":
        own = own_places(info, names, candidates, template_positions(letters or TEMPLATE), where)
    elif montage is None:
        own = own_places(info, names, candidates, {}, where)
    if len(own.places) >= max(FEWEST, len(candidates) / 2):
        places, labels = own.places, dict(names) | own.labels
        source = "the recording" + f", {own.handling}" * bool(own.handling)
        left_out |= {names[index]: "its place contradicts its name" for index in own.wrong}
    else:
        if montage is None:
            montage = TEMPLATE if letters is None else letters
        source = f"{Path(montage).name} by name"
        lookup = names
        if letters == "" and montage in BIOSEMI.values():
            lookup = {index: _biosemi_of_16(name) for index, name in names.items()}
            source += ", labels counted on in groups of 16"
        template, moved = _montage_places(montage) if montage else ({}, "")
        if moved:
            source += f", {moved}"
            warnings.warn(f"montage={Path(montage).name}: {moved}", stacklevel=2)
        found = {index: template.get(lookup[index].lower()) for index in candidates}
        places = {index: entry[1] for index, entry in found.items() if entry}
        labels = {index: entry[0] for index, entry in found.items() if entry}
    for index in candidates:
        if index not in places:
            left_out.setdefault(names[index], "no position")
    picks = [index for index in candidates if index in places]
    if len(picks) < FEWEST:
        shown = ", ".join(names[index] for index in candidates[:12])
        raise InputError(
            f"{where}: {len(picks)} of {len(candidates)} EEG channels have a known position "
            f"(channels: {shown}{' ...' if len(candidates) > 12 else ''})",
            "name a montage with montage=, e.g. montage=biosemi128, montage=GSN-HydroCel-128 or "
            "montage=/path/to/positions.elc; MNE's built-in ones are listed by "
            'python -c "import mne; print(mne.channels.get_builtin_montages())"',
        )
    return Chosen(
        picks,
        [labels[index] for index in picks],
        np.array([places[index] for index in picks]),
        left_out,
        source,
    )


def plain_name(name: str) -> str:
    """'Fc5.' -> 'Fc5', 'EEG FP1-REF' -> 'FP1'; 'EEG 001' stays."""
    text = name.strip().strip(".").strip()
    match = re.fullmatch(
        r"EEG[ _:-]*([A-Za-z]+\d*[A-Za-z]?)(?:[-_ ](?:REF|LE|AVG|AR|M1|M2))?", text
    )
    return match[1] if match else re.sub(r"-(REF|LE|AVG|AR)$", "", text, flags=re.IGNORECASE)


def template_positions(montage: str) -> dict[str, tuple[str, tuple[float, float, float]]]:
    """Lower-case name -> (name, position in metres in MNE's head frame) of a montage.

    `montage` is built into MNE or is a file that mne.channels.read_custom_montage reads, whose
    places are brought into the head frame (data/frames.py).
    """
    return _montage_places(montage)[0]


@functools.lru_cache(maxsize=8)
def _montage_places(montage: str) -> tuple[dict[str, tuple[str, tuple]], str]:
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
    return {name.lower(): (name, place) for name, place in found.items()}, handling


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
    """Positions `[C, 3]` of `names` in a montage; InputError names those it lacks."""
    template = template_positions(montage)
    missing = [name for name in names if name.lower() not in template]
    if missing:
        raise InputError(
            f"{where}: {montage} has no position for {', '.join(missing[:12])}",
            "check the names, or give another montage with montage=",
        )
    return np.array([template[name.lower()][1] for name in names])


def _letter_labels(names: set[str]) -> str | None:
    """BioSemi's A1, A2 ... B1 ... labels: their montage; "" if it cannot be told; None if other.

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
