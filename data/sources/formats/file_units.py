"""Which unit the EEG of a file is in, where MNE takes volts for anything it cannot read.

In this order: `unit=` of the source; what the file's header says, in any spelling; the column
`units` of a BIDS channels.tsv. Where none of them says it, the channels are marked, and
preprocessing refuses them if it wants them. What is chosen over something else is warned of.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import mne
from mne.io.constants import FIFF

from data.electrodes.montages import TEMPLATE, template_positions
from data.electrodes.units import NO_RANGE, UNKNOWN, VOLTS, volts_of
from data.errors import InputError, some
from data.sources.formats.edf_header import SUFFIXES, read_edf_header

REMEDY = "say it with unit=uV (or nV, mV, V) after the source, or in the file"


def apply_units(
    raw: mne.io.BaseRaw, path: Path, rows: list[dict], unit: str | None = None
) -> dict[str, float]:
    """Make the EEG of `raw`, as MNE opened it from `path`, volts; in place, nothing is loaded.

    `rows`: of channels.tsv. `unit`: one of VOLTS, over all else. Returns the factors by which
    channels were multiplied. Raises InputError where `unit` is given for a format whose unit MNE
    does not tell, and where no channel is EEG for its unit.
    """
    stated = _stated(raw, path)
    if stated is None:
        if unit:
            raise InputError(
                f"{path}: unit={unit}, but it is not known what MNE makes of such a file's numbers",
                "leave unit= out, or export the file as EDF, BrainVision or FIF",
            )
        return {}
    table = {row.get("name"): (row.get("units") or "").strip() for row in rows}
    _type_by_unit(raw, path, stated, table, unit)
    told: dict[str, list[str]] = {}
    factors = {}
    for index, kind in enumerate(raw.get_channel_types()):
        if kind != "eeg":
            continue
        name, (text, taken) = raw.ch_names[index], stated[index]
        listed = table.get(name, "")
        volts = VOLTS.get(unit) or volts_of(text) or volts_of(listed)
        raw.info["chs"][index]["unit"] = UNKNOWN if volts is None else FIFF.FIFF_UNIT_V
        remark = _remark(text, listed, unit)
        if remark:
            told.setdefault(remark, []).append(name)
        if volts is not None and abs(volts / taken - 1) > 1e-6:
            factors[name] = volts / taken
    scale(raw, factors)
    for remark, names in told.items():
        warnings.warn(f"{remark} ({some(names, 6)})", stacklevel=2)
    return factors


def scale(raw: mne.io.BaseRaw, factors: dict[str, float]) -> None:
    """Multiply channels: in memory, or by the factor that MNE applies whenever it reads."""
    for name, factor in factors.items():
        (raw._data if raw.preload else raw._cals)[raw.ch_names.index(name)] *= factor


def same_units(raw: mne.io.BaseRaw, plain: mne.io.BaseRaw, factors: dict[str, float]) -> None:
    """Do to `raw`, another opening of the same file, what was done to the units of `plain`."""
    scale(raw, {name: factor for name, factor in factors.items() if name in raw.ch_names})
    kinds = dict(zip(plain.ch_names, plain.get_channel_types(), strict=True))
    misc = [
        name
        for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True)
        if kind == "misc" and kinds.get(name) == "eeg"
    ]
    raw.set_channel_types(dict.fromkeys(misc, "eeg"), on_unit_change="ignore", verbose="error")
    for channel in raw.info["chs"]:
        name = channel["ch_name"]
        if name in kinds:
            channel["unit"] = plain.info["chs"][plain.ch_names.index(name)]["unit"]


def mark_without_range(raw: mne.io.BaseRaw, path: Path) -> None:
    """Mark the EEG channels of an EDF or BDF file whose header gives no range of numbers: such a
    channel has no scale. Raises InputError where that is so of all of them."""
    if path.suffix.lower() not in SUFFIXES:
        return
    header, signals = read_edf_header(path), raw._raw_extras[0]["sel"]
    eeg = [index for index, kind in enumerate(raw.get_channel_types()) if kind == "eeg"]
    without = [index for index in eeg if not header.has_range(signals[index])]
    if eeg and len(without) == len(eeg):
        raise InputError(
            f"{path}: the header gives no physical or digital range (minimum and maximum are "
            "equal, or no numbers) for any EEG channel: nothing is known of their amplitude",
            "export the recording again with its calibration, or leave this file out",
        )
    for index in without:
        raw.info["chs"][index]["unit"] = NO_RANGE
    if without:
        names = [raw.ch_names[index] for index in without]
        warnings.warn(
            f"channels without a physical range in the header are left out ({some(names, 6)})",
            stacklevel=2,
        )


def _stated(raw: mne.io.BaseRaw, path: Path) -> list[tuple[str, float]] | None:
    """Of each channel: what the file says its unit is, and the volts in one that MNE took; None for
    a format that is not known here."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        units, extras = read_edf_header(path).units, raw._raw_extras[0]
        return [
            (units[signal], float(taken))
            for signal, taken in zip(extras["sel"], extras["units"], strict=True)
        ]
    if suffix == ".gdf":  # "" also where a file says volts: MNE knows the others only
        known = {1e-6: "uV", 1e-3: "mV"}
        return [(known.get(taken, ""), float(taken)) for taken in raw._raw_extras[0]["units"]]
    if suffix == ".vhdr":
        # MNE's copies: blank is microvolt there, as the format says; odd spellings are not kept.
        return [
            (raw._orig_units.get(name, ""), float(channel["range"]))
            for name, channel in zip(raw.ch_names, raw.info["chs"], strict=True)
        ]
    if suffix == ".set":
        return [("uV", 1e-6)] * len(raw.ch_names)  # EEGLAB's convention: its files do not say
    if suffix == ".fif":
        blank = [channel["unit"] == UNKNOWN for channel in raw.info["chs"]]
        return [("" if is_blank else "V", 1.0) for is_blank in blank]
    return None


def _type_by_unit(raw, path: Path, stated: list, table: dict, unit: str | None) -> None:
    """MNE types what has no voltage in a BrainVision header "misc": electrodes among them become
    EEG where the unit is known otherwise; where not, a remark says so."""
    if path.suffix.lower() != ".vhdr":
        return
    places = template_positions(TEMPLATE)
    misc = [
        index
        for index, kind in enumerate(raw.get_channel_types())
        if kind == "misc" and raw.ch_names[index].strip().lower() in places
    ]
    names = {index: raw.ch_names[index] for index in misc}
    known = [
        name
        for index, name in names.items()
        if unit or volts_of(stated[index][0]) or volts_of(table.get(name, ""))
    ]
    raw.set_channel_types(dict.fromkeys(known, "eeg"), on_unit_change="ignore", verbose="error")
    names = [name for name in names.values() if name not in known]
    if names and "eeg" not in raw.get_channel_types():
        raise InputError(f"{path}: the unit of {some(names, 6)} is no voltage", REMEDY)
    if names:
        warnings.warn(
            f"named like electrodes, but not taken as EEG for their unit is no voltage: "
            f"{some(names, 6)}",
            stacklevel=3,
        )


def _remark(text: str, listed: str, unit: str | None) -> str:
    """What to warn of for a channel whose file says `text` and whose channels.tsv says `listed`."""
    volts = volts_of(text)
    if unit:
        differs = volts is not None and volts != VOLTS[unit]
        return f"unit={unit} is taken in place of {text}, which the file says" if differs else ""
    if volts is None and volts_of(listed):
        shown = f"{text!r}, which is no voltage" if text else "no unit"
        return f"unit {listed} is taken from channels.tsv: the file says {shown}"
    if volts is not None and volts_of(listed) not in (None, volts):
        return (
            f"channels.tsv says {listed}, the file {text}: the file's is taken; where that is "
            "wrong, give unit="
        )
    return ""
