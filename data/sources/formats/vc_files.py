"""The published files of the visual-category recordings: what is in them, checked; never unpickled.

The channel order is not in the files; the authors gave it later (see `data.sources.from_vc`).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from data.errors import InputError

ACTICAP_128 = (  # noqa: SIM905
    "Fp1 Fp2 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8 TP9 CP5 CP1 CP2 CP6 TP10 P7 P3 Pz P4 P8 "
    "PO9 O1 Oz O2 PO10 AF7 AF3 AF4 AF8 F5 F1 F2 F6 FT9 FT7 FC3 FC4 FT8 FT10 C5 C1 C2 C6 TP7 CP3 "
    "CPz CP4 TP8 P5 P1 P2 P6 PO7 PO3 POz PO4 PO8 Fpz F9 AFF5h AFF1h AFF2h AFF6h F10 FTT9h FTT7h "
    "FCC5h FCC3h FCC1h FCC2h FCC4h FCC6h FTT8h FTT10h TPP9h TPP7h CPP5h CPP3h CPP1h CPP2h CPP4h "
    "CPP6h TPP8h TPP10h POO9h POO1 POO2 POO10h Iz AFp1 AFp2 FFT9h FFT7h FFC5h FFC3h FFC1h FFC2h "
    "FFC4h FFC6h FFT8h FFT10h TTP7h CCP5h CCP3h CCP1h CCP2h CCP4h CCP6h TTP8h P9 PPO9h PPO5h PPO1h "
    "PPO2h PPO6h PPO10h P10 I1 OI1h OI2h I2"
).split()

MOST_BEYOND = 0.05


def read_vc(path: Path) -> dict:
    """The content of a published file, mapped from disk, its fields checked."""
    content = load_tensors(path, "the recordings")
    try:
        rows = content["dataset"]
        good = len(rows) > 0 and len(content["labels"]) > 0 and len(content["images"]) > 0
        good = good and {"eeg", "image", "label", "subject"} <= set(rows[0])
        good = good and rows[0]["eeg"].ndim == 2
    except (TypeError, KeyError, AttributeError, IndexError):
        good = False
    if not good:
        raise InputError(
            f"{path}: not a file of the visual-category recordings",
            "give eeg_5_95_std.pth or one like it; the split files go into splits=",
        )
    return content


def split_of_indices(path: Path, number: int, count: int | None) -> dict[int, str]:
    """Index of a segment -> "train", "val" or "test", by one split of a published split file.

    count: how many segments there are, None where that is not known yet. Raises InputError where
    an index is named twice, is none, or more than one in twenty is beyond `count`.
    """
    content = load_tensors(path, "the splits")
    try:
        splits = content["splits"]
        chosen = splits[number] if number < len(splits) else None
        named = chosen and {name: list(map(int, chosen[name])) for name in ("train", "val", "test")}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise InputError(f"{path}: not a split file", "give block_splits_by_image_*.pth") from None
    if named is None:
        raise InputError(
            f"{path}: split_num={number}, but it has {len(splits)} splits", "count from 0"
        )
    _refuse_repeated(path, named)
    table = {index: name for name, indices in named.items() for index in indices}
    if count is None:
        return table
    beyond = [index for index in table if not 0 <= index < count]
    if len(beyond) > len(table) * MOST_BEYOND:
        raise InputError(
            f"{path}: {len(beyond)} of the {len(table)} segments that it names are not among the "
            f"{count} of the recordings: it is of another file",
            "give the split file that was published with these recordings",
        )
    # The authors' loader skips such indices without a word; so few of them are no other file.
    return {index: name for index, name in table.items() if 0 <= index < count}


def _refuse_repeated(path: Path, named: dict[str, list[int]]) -> None:
    places: dict[int, list[str]] = {}
    for name, indices in named.items():
        for index in indices:
            places.setdefault(index, []).append(name)
    repeated = {index: names for index, names in places.items() if len(names) > 1}
    if repeated:
        index, names = next(iter(repeated.items()))
        several = sum(len(set(names)) > 1 for names in repeated.values())
        raise InputError(
            f"{path}: {len(repeated)} segments are named more than once, {several} of them in two "
            f"splits (segment {index} in {' and '.join(names)})",
            "a split must name each segment once: take another file, or mend this one",
        )


def standardise(eeg: torch.Tensor, content: dict) -> torch.Tensor:
    """float32 `[C, L]`; with the file's own means and stddevs `[C, 1]` where it has them."""
    if "means" in content:
        eeg = (eeg - content["means"]) / content["stddevs"]
    return eeg.to(torch.float32)


def load_tensors(path: Path, what: str) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such file", f"it should hold {what}; check the path")
    try:
        # Files of torch before 1.6, as some of the published ones, are no zip and cannot be mapped.
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises many types for damaged files
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:150]})",
            "it is truncated or not a .pth file of plain tensors: download it again",
        ) from error
