"""Between recordings in volts, tesla and tesla/metre and what the model reads and predicts.

One scale for each sensor type (EEG, magnetometers, gradiometers), from the training recordings; the
mu-law quantizer; padding to a common size with masks. Saved as JSON beside the model's weights.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from .quantizer_brainformer import MuLawQuantizer
from .sensors_brainformer import SENSOR_TYPES

# Of a normal distribution, the standard deviation over the median absolute deviation.
SIGMA_OVER_MAD = 1.4826
FARTHEST_SENSOR_M = 1.0
UNITS = {"eeg": "V", "mag": "T", "grad": "T/m"}


class BrainformerProcessor(FeatureExtractionMixin):
    """Scales, quantizer and padding.

    Args:
        scales: what one scaled unit is, for "eeg" in volts, "mag" in tesla, "grad" in tesla/metre.
            The defaults are round numbers of the right order; `fit` measures them.
        quantizer_levels, quantizer_mu, quantizer_range: as in the model's configuration.
    """

    model_input_names = ["eeg"]  # noqa: RUF012  as transformers has it

    def __init__(
        self,
        scales: dict[str, float] | None = None,
        quantizer_levels: int = 255,
        quantizer_mu: float = 255.0,
        quantizer_range: float = 10.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scales = {"eeg": 1e-5, "mag": 2e-13, "grad": 5e-12, **(scales or {})}
        for name, scale in self.scales.items():
            type_number(name)
            if not scale > 0:
                raise ValueError(f"scales[{name!r}] = {scale}: must be above zero ({UNITS[name]})")
        self.quantizer_levels = quantizer_levels
        self.quantizer_mu = quantizer_mu
        self.quantizer_range = quantizer_range

    @property
    def quantizer(self) -> MuLawQuantizer:
        return MuLawQuantizer(self.quantizer_levels, self.quantizer_mu, self.quantizer_range)

    def fit(self, eeg: Sequence, meg: Sequence, meg_types: Sequence[str]) -> BrainformerProcessor:
        """Take the scales from training recordings: 1.4826 x the median absolute value over all
        channels and samples of a type (recordings are high-passed: their median is zero).

        `eeg`, `meg`: lists of `[channels, samples]` in volts, and in tesla or tesla/metre.
        """
        types = np.asarray([type_number(name) for name in meg_types])
        pools = {"eeg": [np.asarray(one) for one in eeg]}
        for name in ("mag", "grad"):
            rows = types == SENSOR_TYPES.index(name)
            if rows.any():
                pools[name] = [np.asarray(one)[rows] for one in meg]
        for name, found in pools.items():
            pooled = np.abs(np.concatenate([one.ravel() for one in found]).astype(np.float64))
            scale = SIGMA_OVER_MAD * float(np.median(pooled))
            if not scale > 0:
                raise ValueError(f"the {name} channels are NaN, or zero most of the time: no scale")
            self.scales[name] = scale
        return self

    def __call__(
        self, eeg, eeg_positions_m, meg_positions_m, meg_orientations, meg_types, meg=None
    ) -> BatchFeature:
        """One batch for the model, fp32, with masks where something had to be padded.

        Args:
            eeg: `[Cs, T]` in volts, or a list of such arrays of any sizes.
            eeg_positions_m: `[Cs, 3]` metres, for all, or a list with one for each recording.
            meg_positions_m, meg_orientations: `[Ct, 3]`, `[Ct, 6]` likewise.
            meg_types: "mag" or "grad" for each MEG channel, likewise.
            meg: `[Ct, T]` in tesla and tesla/metre, likewise; becomes `labels`.

        Raises ValueError, naming the recording and the field.
        """
        recordings = [eeg] if getattr(eeg, "ndim", None) == 2 else list(eeg)
        count = len(recordings)
        if count == 0:
            raise ValueError("eeg is empty: give at least one recording")
        fields = {
            "eeg": [array("eeg", one, 2) / self.scales["eeg"] for one in recordings],
            "eeg_positions_m": each(eeg_positions_m, count, 2),
            "meg_positions_m": each(meg_positions_m, count, 2),
            "meg_orientations": each(meg_orientations, count, 2),
        }
        shared_types = all(isinstance(name, str) for name in meg_types)
        named = [meg_types] * count if shared_types else meg_types
        fields["meg_types"] = [np.asarray([meg_number(name) for name in one]) for one in named]
        if meg is not None:
            targets = [meg] if getattr(meg, "ndim", None) == 2 else list(meg)
            fields["labels"] = [array("meg", one, 2) for one in targets]
        for name, found in fields.items():
            if len(found) != count:
                raise ValueError(f"{len(found)} recordings in {name}, but {count} in eeg")
        for number in range(count):
            self._check_recording(number, {name: found[number] for name, found in fields.items()})
        if meg is not None:
            fields["labels"] = [
                one / self.meg_scale(torch.as_tensor(types)).numpy()[:, None]
                for one, types in zip(fields["labels"], fields["meg_types"], strict=True)
            ]
        return BatchFeature(pad_batch(fields))

    def decode(self, prediction: torch.Tensor, meg_types: torch.Tensor) -> torch.Tensor:
        """Scaled MEG `[..., Ct, T]` -> tesla and tesla/metre; `meg_types` numbers `[..., Ct]`."""
        return prediction * self.meg_scale(meg_types)[..., None].to(prediction)

    def meg_scale(self, meg_types: torch.Tensor, meg_mask=None) -> torch.Tensor:
        """The scale of each MEG channel, float64, same shape as `meg_types` (numbers)."""
        known = (meg_types >= 1) & (meg_types < len(SENSOR_TYPES))
        if meg_mask is not None:
            known = known | ~meg_mask.bool()
        if not known.all():
            raise ValueError(
                "unknown sensor type in meg_types: the numbers are 1 for 'mag', 2 for 'grad'"
            )
        table = [1.0, self.scales["mag"], self.scales["grad"]]
        return torch.tensor(table, dtype=torch.float64, device=meg_types.device)[meg_types.long()]

    @staticmethod
    def check_signal(name: str, signal: torch.Tensor, channel_mask=None, time_mask=None) -> None:
        """Raise ValueError if `[B, C, T]` is not finite somewhere that is not padding."""
        bad = ~torch.isfinite(signal)
        if channel_mask is not None:
            bad &= channel_mask.bool()[:, :, None]
        if time_mask is not None:
            bad &= time_mask.bool()[:, None, :]
        if bad.any():
            one, channel, sample = bad.nonzero()[0].tolist()
            raise ValueError(
                f"{name} holds NaN or infinity, first in recording {one}, channel {channel}, "
                f"sample {sample}: interpolate or drop that channel, or mask it"
            )

    def _check_recording(self, number: int, fields: dict[str, np.ndarray]) -> None:
        where = f"recording {number}: "
        n_eeg, length = fields["eeg"].shape
        n_meg = len(fields["meg_types"])
        if n_eeg == 0 or length == 0:
            raise ValueError(f"{where}eeg is empty, shape {fields['eeg'].shape}")
        if n_meg == 0:
            raise ValueError(f"{where}no MEG channels: meg_types is empty")
        wanted = {
            "eeg_positions_m": (n_eeg, 3),
            "meg_positions_m": (n_meg, 3),
            "meg_orientations": (n_meg, 6),
        }
        for name, shape in wanted.items():
            if fields[name].shape != shape:
                raise ValueError(f"{where}{name} has the shape {fields[name].shape}, not {shape}")
        if "labels" in fields and fields["labels"].shape != (n_meg, length):
            raise ValueError(
                f"{where}meg has the shape {fields['labels'].shape}, but {n_meg} MEG channels and "
                f"{length} samples of EEG were given: EEG and MEG must have equal lengths"
            )
        for name, found in fields.items():
            if not np.isfinite(found).all():
                bad = np.argwhere(~np.isfinite(found))[0]
                shown = "meg" if name == "labels" else name
                raise ValueError(
                    f"{where}{shown} holds NaN or infinity, first in channel {bad[0]}: "
                    "interpolate or drop that channel"
                )
            if name.endswith("positions_m") and np.abs(found).max() > FARTHEST_SENSOR_M:
                raise ValueError(
                    f"{where}{name} reaches {np.abs(found).max():.0f}: give metres in the head "
                    "frame, not millimetres"
                )


def type_number(name: str) -> int:
    """Number of a sensor type. Raises ValueError with the nearest known name."""
    if name not in SENSOR_TYPES:
        near = difflib.get_close_matches(str(name).lower(), SENSOR_TYPES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown sensor type {name!r}: the known ones are {', '.join(SENSOR_TYPES)}{hint}"
        )
    return SENSOR_TYPES.index(name)


def meg_number(name: str) -> int:
    number = type_number(name)
    if number == 0:
        raise ValueError("meg_types names an 'eeg' channel: MEG channels are 'mag' or 'grad'")
    return number


def array(name: str, given, ndim: int) -> np.ndarray:
    """Float64 array of `ndim` dimensions."""
    found = np.asarray(given, dtype=np.float64)
    if found.ndim != ndim:
        raise ValueError(f"{name} has the shape {found.shape}: give {ndim} dimensions")
    return found


def each(given, count: int, ndim: int) -> list[np.ndarray]:
    """One array for each recording, from one for all or a list."""
    if not isinstance(given, (list, tuple)):
        found = np.asarray(given, dtype=np.float64)
        return [found] * count if found.ndim == ndim else list(found)
    return [np.asarray(one, dtype=np.float64) for one in given]


def pad_batch(fields: dict[str, list[np.ndarray]]) -> dict[str, torch.Tensor]:
    """Stack arrays of any sizes with zeros after the ends; masks for what was padded.

    A padded MEG channel is given the type "mag", so that its number is a known one.
    """
    batch = {}
    for name, arrays in fields.items():
        shape = np.max([one.shape for one in arrays], axis=0)
        kind = np.int64 if name == "meg_types" else np.float32
        out = np.full((len(arrays), *shape), 1 if name == "meg_types" else 0, dtype=kind)
        for row, one in zip(out, arrays, strict=True):
            row[tuple(slice(0, size) for size in one.shape)] = one
        batch[name] = torch.from_numpy(out)
    sizes = {
        "eeg_mask": [one.shape[0] for one in fields["eeg"]],
        "meg_mask": [len(one) for one in fields["meg_types"]],
        "time_mask": [one.shape[1] for one in fields["eeg"]],
    }
    for name, found in sizes.items():
        if min(found) < max(found):
            batch[name] = torch.arange(max(found)) < torch.tensor(found)[:, None]
    return batch
