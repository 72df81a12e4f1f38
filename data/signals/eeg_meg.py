"""EEG and MEG recorded together become pairs of windows.

The EEG is treated as in every other source (data/signals/eeg.py). The MEG of the same instants gets
the same filter and rate, one robust scale for each sensor type, and no reference; so both stay
aligned to the sample. A window that either of the two cannot use is dropped from both.

Sensor places are in the head frame: the head's place in the helmet, which differs between runs, is
part of them. So each run has a montage of its own.
"""

from __future__ import annotations

from dataclasses import asdict

import mne
import numpy as np

from data.errors import InputError
from data.scratch import scratch_array
from data.shards.sensors import MEG_TYPES, MegSensors
from data.signals.bad_channels import find_bad_channels, robust_amplitude, sample
from data.signals.cutting import MOST_SAMPLES, WindowCutter
from data.signals.eeg import (
    Prepared,
    checked_scale,
    describe,
    filtered,
    hole_fraction,
    prepare,
    stretches_of,
    where_of,
)
from data.signals.profiles import Profile
from data.signals.reading import SpanReader
from data.signals.recording import MegOptions, Recording, Windows
from data.signals.spans import bad_intervals

FEWEST_MEG = 4


def make_windows(recording: Recording, profile: Profile) -> Windows:
    """Preprocess one recording of EEG and MEG as `profile` (with `meg`) says.

    As `data.signals.eeg.make_windows`, and `info` also holds meg_scale {"mag": tesla, "grad":
    tesla/metre}, bad_meg {name: reason} and meg_options (with the sensors that SSS rebuilt). Raises
    InputError for a recording without MEG, without the head's place in the helmet, or with too few
    good channels of either kind.
    """
    where, options = where_of(recording), recording.meg or MegOptions()
    if recording.raw is None:
        raise InputError(
            f"{where}: cut segments hold no MEG", f"{_WITHOUT} or use a source of recordings"
        )
    picks = _meg_picks(recording.raw.info, where)
    _require_types(recording.raw, options.regress, where)
    rebuilt = []
    if recording.raw.info.get("maxshield") and not options.sss:
        raise InputError(
            f"{where}: recorded with internal active shielding, which distorts raw MEG",
            "add sss=1 to the source, or pack the file that MaxFilter made of it",
        )
    if options.sss:
        recording.raw, rebuilt = _separated(recording.raw, where)
    raw = recording.raw
    found = prepare(recording, profile)

    readers = [SpanReader(raw, picks, start, stop, where) for start, stop in found.spans]
    _, parts = filtered(found.band, readers, len(picks))
    types = np.array(raw.get_channel_types(picks))
    names = [raw.ch_names[pick] for pick in picks]
    bad = _bad_sensors(raw, names, types, readers, parts)
    good = np.array([row for row, name in enumerate(names) if name not in bad], int)
    if len(good) < FEWEST_MEG:
        raise InputError(
            f"{where}: {len(good)} of {len(names)} MEG sensors are good",
            "leave this recording out, or look at it: was the MEG switched on?",
        )
    if options.regress:
        _regress(raw, options.regress, found, parts, where)

    cutter = PairCutter(
        profile, np.array(found.good), good, types[good], recording.events, stretches_of(raw)
    )
    rough, kept_rows = bad_intervals(raw), set(good.tolist())
    for index, (part, meg, reader) in enumerate(zip(found.parts, parts, readers, strict=True)):
        flat, start_s, holes_s = found.windows_of(index)
        holes = [(first, last) for row, first, last in reader.holes if row in kept_rows]
        meg_s = (reader.start + np.array(holes, np.float64).reshape(-1, 2)) / raw.info["sfreq"]
        step = found.band.sfreq_hz / found.band.target_hz
        origin = np.minimum(np.arange(meg.shape[1]) * step, len(reader.still) - 1).astype(int)
        cutter.add_pair(
            part, meg, flat | reader.still[origin], start_s, rough, np.concatenate([holes_s, meg_s])
        )
    scale_v = checked_scale(cutter.scale(), recording)
    cutter.meg_scale = cutter.meg_scales()
    data, meta = cutter.finish(scale_v)
    info = found.info | describe(recording, profile, data, scale_v, cutter.dropped)
    return Windows(
        data=data,
        meta=meta,
        channels=found.names,
        positions_m=found.positions_m,
        info=info
        | {
            "meg_scale": cutter.meg_scale,
            "bad_meg": bad,
            "meg_options": asdict(options)
            | {"sss_in_file": _has_sss(raw) and not options.sss, "sss_rebuilt": rebuilt},
        },
        meg=cutter.meg_windows(),
        sensors=sensors_of(raw.info, [picks[row] for row in good], where),
    )


class PairCutter(WindowCutter):
    """Cuts EEG and MEG at the same samples; `finish`, then `meg_windows`."""

    def __init__(
        self, profile, channels, sensors: np.ndarray, types: np.ndarray, events, stretches
    ):
        super().__init__(profile, channels, events, stretches)
        self.sensors, self.types = sensors, types
        self.meg_scale: dict[str, float] = {}
        self._meg: list[tuple[np.ndarray, int]] = []

    def add_pair(self, part, meg, flat, start_s, rough, holes_s) -> None:
        """As `add`; `meg` float32 `[Ct, M]` are the same M instants as `part`."""
        before = len(self._places)
        self.add(part, flat, start_s, rough, holes_s)
        self._meg += [(meg, first) for _, first in self._places[before:]]

    def meg_scales(self) -> dict[str, float]:
        """Type -> 1.4826 x median |x| over its sensors and all windows."""
        scales = {}
        for kind in dict.fromkeys(self.types.tolist()):
            rows = self.sensors[self.types == kind]
            step = max(1, -(-len(self._meg) * len(rows) * self.length // MOST_SAMPLES))
            # Copies: a view would keep its whole window in memory.
            samples = [
                part[rows, first : first + self.length].ravel()[::step].copy()
                for part, first in self._meg
            ]
            if samples:
                scales[kind] = float(robust_amplitude(np.concatenate(samples)))
        return scales

    def meg_windows(self) -> np.ndarray:
        """float16 `[n, Ct, T]` of the windows that `finish` kept, clipped."""
        clip = self.profile.clip
        data = scratch_array((len(self.kept), len(self.sensors), self.length), np.float16)
        for row, number in enumerate(self.kept):
            data[row] = np.clip(self._scaled_meg(number), -clip, clip)
        return data

    def _scaled_meg(self, number: int) -> np.ndarray:
        part, first = self._meg[number]
        scale = np.array([self.meg_scale[kind] for kind in self.types], np.float32)
        return part[self.sensors, first : first + self.length] / scale[:, None]

    def _saturated(self, number: int, clipped: np.ndarray) -> bool:
        return super()._saturated(number, clipped) or super()._saturated(
            number, self._scaled_meg(number)
        )


def sensors_of(info: mne.Info, picks: list[int], where: str) -> MegSensors:
    """The MEG sensors `picks` of a recording, in the head frame."""
    transform = info["dev_head_t"]
    if transform is None:
        raise InputError(
            f"{where}: the place of the head in the helmet (dev_head_t) is not in it",
            "MEG without it cannot be placed: export the recording with its head position",
        )
    rotation, shift = transform["trans"][:3, :3], transform["trans"][:3, 3]
    loc = np.array([info["chs"][pick]["loc"] for pick in picks])
    types = tuple(info.get_channel_types(picks))
    if not np.isfinite(loc).all() or not loc.any(axis=1).all():
        raise InputError(
            f"{where}: some MEG sensors have no place", "read the original file of the MEG system"
        )
    gradient = loc[:, 3:6] @ rotation.T
    gradient[np.array(types) == "mag"] = 0.0
    return MegSensors(
        names=tuple(info["ch_names"][pick] for pick in picks),
        types=types,
        positions_m=loc[:, :3] @ rotation.T + shift,
        orientations=np.concatenate([loc[:, 9:12] @ rotation.T, gradient], axis=1),
    )


_WITHOUT = "pack EEG alone (without --profile eeg2meg),"


def _meg_picks(info: mne.Info, where: str) -> list[int]:
    types = info.get_channel_types()
    picks = [index for index, kind in enumerate(types) if kind in MEG_TYPES]
    if not picks:
        raise InputError(
            f"{where}: no MEG channels (the types are {', '.join(sorted(set(types)))})",
            f"{_WITHOUT} or give recordings whose file holds EEG and MEG together",
        )
    return picks


def _require_types(raw: mne.io.BaseRaw, kinds: tuple[str, ...], where: str) -> None:
    for kind in kinds:
        if kind not in raw.get_channel_types():
            raise InputError(
                f"{where}: regress={kind}, but no channel is typed {kind.upper()}",
                "set the channels' types in a BIDS channels.tsv beside the file, or leave it out",
            )


def _bad_sensors(raw, names, types, readers, parts) -> dict[str, str]:
    """Name -> reason: marked in the file, else judged among the sensors of its type."""
    bad = {name: "marked bad in the file" for name in names if name in raw.info["bads"]}
    if not parts or not sum(part.shape[1] for part in parts):
        return bad
    signal, holes = sample(parts), hole_fraction(readers)
    for kind in dict.fromkeys(types.tolist()):
        rows = [row for row in np.flatnonzero(types == kind) if names[row] not in bad]
        found = find_bad_channels(signal[rows], holes[rows], physical=False)
        bad |= {names[rows[index]]: reason for index, reason in found.items()}
    return bad


def _separated(raw: mne.io.BaseRaw, where: str) -> tuple[mne.io.BaseRaw, list[str]]:
    """The recording after signal-space separation, and the bad sensors that it rebuilt.

    MNE's defaults: the origin fitted to the head's shape, no fine calibration or cross-talk file.
    """
    if _has_sss(raw):
        raise InputError(
            f"{where}: sss=1, but signal-space separation was applied already", "leave sss out"
        )
    raw = raw.copy().load_data(verbose="error")
    try:
        noisy, flat = mne.preprocessing.find_bad_channels_maxwell(raw, verbose="error")
        raw.info["bads"] = list(dict.fromkeys([*raw.info["bads"], *noisy, *flat]))
        done = mne.preprocessing.maxwell_filter(raw, verbose="error")
        return done, sorted(set(raw.info["bads"]) - set(done.info["bads"]))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{where}: signal-space separation failed ({error})", "leave sss out"
        ) from error


def _has_sss(raw: mne.io.BaseRaw) -> bool:
    return any(entry.get("max_info", {}).get("sss_info") for entry in raw.info["proc_history"])


def _regress(raw, kinds, found: Prepared, meg_parts: list[np.ndarray], where: str) -> None:
    """Take what is linear in the channels of types `kinds` out of EEG and MEG, in place.

    One coefficient for each pair of channels and recording, by least squares on the filtered
    signal.
    """
    picks = [index for index, kind in enumerate(raw.get_channel_types()) if kind in kinds]
    readers = [SpanReader(raw, picks, start, stop, where) for start, stop in found.spans]
    _, artefacts = filtered(found.band, readers, len(picks))
    artefacts = [part.astype(np.float64) for part in artefacts]
    inverse = np.linalg.pinv(sum(part @ part.T for part in artefacts), hermitian=True)
    for signal in (found.parts, meg_parts):
        both = zip(signal, artefacts, strict=True)
        weights = sum(part @ artefact.T for part, artefact in both) @ inverse
        for part, artefact in zip(signal, artefacts, strict=True):
            for row in range(len(part)):
                part[row] -= (weights[row] @ artefact).astype(np.float32)
