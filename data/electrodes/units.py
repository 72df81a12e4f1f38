"""Units of EEG channels: what a text says, and what is marked in a recording's channels.

A channel whose unit nobody knows keeps MNE's numbers and is marked by FIFF's own "no unit"; one
whose numbers have no unit, by "unitless". Arithmetic and marks alone: which text
counts is decided in data/sources/formats/file_units.py.
"""

from __future__ import annotations

import re

import mne
import numpy as np
from mne.io.constants import FIFF

from data.errors import InputError, some

UNKNOWN = FIFF.FIFF_UNIT_NONE
NO_RANGE = FIFF.FIFF_UNIT_UNITLESS
VOLTS = {"nV": 1e-9, "uV": 1e-6, "mV": 1e-3, "V": 1.0}
"""What `unit=` may say."""
PREFIXES = {"n": 1e-9, "nano": 1e-9, "u": 1e-6, "micro": 1e-6, "m": 1e-3, "milli": 1e-3, "": 1.0}
MICRO = re.compile("\x83\xca|\xc2\xb5|\xce\xbc|[\xb5\u03bc]", re.IGNORECASE)
"""Greek mu and the micro sign, in Unicode, in UTF-8 read as Latin-1 and in Shift-JIS read so."""
APART = 300.0
"""Channels on one head differ by a factor of ten; units by a thousand."""
FLAT_UV = 0.01
"""Quieter ones are not connected, whatever their unit."""
FEW = 0.125
"""A share of loud channels that may be broken ones."""


def volts_of(text: str) -> float | None:
    """Volts in one of the unit that `text` names; None where it is no voltage or says nothing.

    "uV", "µV", "microvolts", "UV" are 1e-6. "MV" may be milli or mega and is none.
    """
    plain = MICRO.sub("u", text.strip()).strip("[]() ")
    if plain == "MV":
        return None
    match = re.fullmatch(r"(nano|micro|milli|n|u|m|)[ -]?v(?:olts?)?", plain.lower())
    return PREFIXES[match[1]] if match else None


def marked(info: mne.Info, mark: int) -> list[int]:
    """Channels typed EEG that are marked UNKNOWN or NO_RANGE."""
    return [
        index
        for index, kind in enumerate(info.get_channel_types())
        if kind == "eeg" and info["chs"][index]["unit"] == mark
    ]


def check_units_known(info: mne.Info, picks: list[int], where: str) -> None:
    """InputError where the unit of any of these channels is marked UNKNOWN."""
    unknown = set(marked(info, UNKNOWN)) & set(picks)
    if unknown:
        names = [info["ch_names"][index] for index in sorted(unknown)]
        raise InputError(
            f"{where}: the unit of {len(names)} of {len(picks)} EEG channels is blank or no "
            f"voltage ({some(names, 6)}), and MNE would take their numbers for volts",
            "if they are microvolts, add ,unit=uV to the source (raw: and bids: take nV, uV, mV, "
            "V), or give the column units of a BIDS channels.tsv beside the file",
        )


def odd_units(
    amplitude_uv: np.ndarray, names: list[str], plausible_uv: tuple[float, float], where: str
) -> dict[int, str]:
    """Row -> reason of the few channels that are hundreds of times louder or quieter than others.

    `amplitude_uv` `[C]`, robust, band-passed; `plausible_uv`: between which an EEG's lies. Raises
    InputError where channels lie in two groups, of which the smaller may be the right one or is no
    small one: probably in two units.
    """
    rows = np.flatnonzero(amplitude_uv > FLAT_UV)
    found = two_groups(amplitude_uv[rows])
    if found is None:
        return {}
    is_loud, ratio = found
    loud, quiet = rows[is_loud], rows[~is_loud]
    low, high = plausible_uv
    loud_fits, quiet_fits = (
        bool(low < np.median(amplitude_uv[group]) < high) for group in (loud, quiet)
    )
    if 2 * len(quiet) < len(rows) and loud_fits and not quiet_fits:
        return {int(row): f"flat (1/{ratio:.0f} of the others: another unit?)" for row in quiet}
    few = len(loud) <= max(1, int(FEW * len(rows)))
    if few and (quiet_fits or not loud_fits):
        return {int(row): f"noisy ({ratio:.0f} times the others: another unit?)" for row in loud}
    shown = [some([names[row] for row in group], 6) for group in (loud, quiet)]
    raise InputError(
        f"{where}: {len(loud)} channels ({shown[0]}) are {ratio:.2g} times louder than the other "
        f"{len(quiet)} ({shown[1]}): probably they are in two units",
        "correct the units in the file; or mark the wrong ones bad, or as no EEG, in a BIDS "
        "channels.tsv beside it; if all are in one unit, say it with unit=uV (nV, mV, V)",
    )


def two_groups(amplitudes: np.ndarray) -> tuple[np.ndarray, float] | None:
    """(bool `[C]`: the loud ones, how many times louder) where positive amplitudes `[C]` lie in two
    groups with a factor of at least APART between them; else None."""
    order = np.sort(amplitudes)
    if len(order) < 2:
        return None
    steps = order[1:] / order[:-1]
    place = int(np.argmax(steps))
    if steps[place] < APART:
        return None
    loud = amplitudes > order[place]
    return loud, float(np.median(amplitudes[loud]) / np.median(amplitudes[~loud]))
