"""What a call hands over, checked and brought to one form.

Checks of shapes cost nothing and are always made. Checks of values (NaN, unknown types) would make
a GPU wait, so the processor and `translate` make them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .sensors_brainformer import meg_features, position_features


@dataclass
class Inputs:
    """`eeg [B, Cs, T]`, zero where padded. Sensor tensors lead with 1 or B; masks may be None."""

    eeg: torch.Tensor
    eeg_features: torch.Tensor | None
    meg_features: torch.Tensor | None
    eeg_index: torch.Tensor
    meg_index: torch.Tensor
    eeg_mask: torch.Tensor | None
    meg_mask: torch.Tensor | None
    time_mask: torch.Tensor | None

    @property
    def n_meg(self) -> int:
        return self.meg_index.shape[1]

    def valid(self) -> torch.Tensor | None:
        """Which outputs stand for something, `[B, Ct or 1, T or 1]`; None: all."""
        return valid_outputs(self.meg_mask, self.time_mask)


def prepare_inputs(
    config, eeg, eeg_positions_m=None, meg_positions_m=None, meg_orientations=None, meg_types=None,
    eeg_mask=None, meg_mask=None, time_mask=None, eeg_index=None, meg_index=None,
) -> Inputs:  # fmt: skip
    """See `BrainformerForEEG2MEG.forward`. Raises ValueError, naming the argument."""
    if eeg.ndim != 3 or 0 in eeg.shape:
        raise ValueError(f"eeg has the shape {tuple(eeg.shape)}: give [batch, channels, samples]")
    batch, n_eeg, n_samples = eeg.shape
    n_meg = count_meg(config, meg_positions_m, meg_types, meg_index)
    if n_meg == 0:
        raise ValueError("no MEG channels: the model needs at least one MEG sensor to predict")
    eeg_mask = as_mask("eeg_mask", eeg_mask, (batch, n_eeg))
    meg_mask = as_mask("meg_mask", meg_mask, (batch, n_meg))
    time_mask = as_mask("time_mask", time_mask, (batch, n_samples))

    tables = config.sensor_embedding != "geometry" or config.skip == "montage"
    uses_geometry = config.sensor_embedding != "index" or config.skip == "geometry"
    eeg_found = meg_found = None
    if uses_geometry:
        places = batched("eeg_positions_m", eeg_positions_m, batch, n_eeg, (3,))
        eeg_found = position_features(without_padding(places, eeg_mask))
        meg_found = meg_features(
            without_padding(
                batched("meg_positions_m", meg_positions_m, batch, n_meg, (3,)), meg_mask
            ),
            without_padding(
                batched("meg_orientations", meg_orientations, batch, n_meg, (6,)), meg_mask
            ),
            batched("meg_types", meg_types, batch, n_meg, ()),
        )
    eeg_index = rows("eeg_index", eeg_index, batch, n_eeg, config.n_eeg if tables else None, eeg)
    meg_index = rows("meg_index", meg_index, batch, n_meg, config.n_meg if tables else None, eeg)

    for mask, side in ((eeg_mask, -1), (time_mask, 1)):
        if mask is not None:
            eeg = torch.where(mask.unsqueeze(side), eeg, 0.0)
    return Inputs(eeg, eeg_found, meg_found, eeg_index, meg_index, eeg_mask, meg_mask, time_mask)


def valid_outputs(meg_mask, time_mask) -> torch.Tensor | None:
    """`[B, Ct]` and `[B, T]`, either None -> what stands for something, as `Inputs.valid`."""
    channels = None if meg_mask is None else meg_mask.bool()[:, :, None]
    times = None if time_mask is None else time_mask.bool()[:, None, :]
    if channels is None or times is None:
        return times if channels is None else channels
    return channels & times


def count_meg(config, meg_positions_m, meg_types, meg_index) -> int:
    """How many MEG sensors the call asks for; those of the table where it names none."""
    if meg_positions_m is not None:
        return meg_positions_m.shape[-2]
    for given in (meg_index, meg_types):
        if given is not None:
            return given.shape[-1]
    return config.n_meg


def batched(name: str, given, batch: int, n_channels: int, last: tuple[int, ...]) -> torch.Tensor:
    """`[C, ...]` or `[B, C, ...]` -> with a leading 1 or B."""
    if given is None:
        raise ValueError(f"{name} is missing: this model knows its sensors by geometry")
    wanted = (n_channels, *last)
    if given.ndim == len(wanted):
        given = given[None]
    if tuple(given.shape[1:]) != wanted or given.shape[0] not in (1, batch):
        shown = ", ".join(map(str, wanted))
        raise ValueError(
            f"{name} has the shape {tuple(given.shape)}: give [{shown}] or [{batch}, {shown}]"
        )
    return given


def without_padding(given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Zeros in the places of channels that are padding, whatever was there."""
    return given if mask is None else torch.where(mask[..., None], given, 0.0)


def as_mask(name: str, mask, shape: tuple[int, int]) -> torch.Tensor | None:
    if mask is None:
        return None
    if tuple(mask.shape) != shape:
        raise ValueError(f"{name} has the shape {tuple(mask.shape)}: give {list(shape)}")
    return mask.bool()


def rows(name: str, index, batch: int, n_channels: int, n_rows: int | None, like) -> torch.Tensor:
    """Rows of the tables, `[1 or B, C]`; by default the channels in order."""
    if index is None:
        if n_rows is not None and n_channels > n_rows:
            raise ValueError(
                f"{n_channels} channels, but the model's tables have {n_rows} rows: give {name}, "
                "or use a model with sensor_embedding='geometry' and skip='geometry'"
            )
        return torch.arange(n_channels, device=like.device)[None]
    return batched(name, index, batch, n_channels, ())
