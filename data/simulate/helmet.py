"""Electrodes and the 306 sensors of a Vectorview helmet around one head, and dipoles seen by them.

The sensors' places are those of a real system (data/simulate/vectorview306.csv names its source); head and
brain are the spheres of data/simulate/head.py.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import mne
import numpy as np
from mne.io.constants import FIFF

from data.simulate.head import sphere

SENSORS = Path(__file__).with_name("vectorview306.csv")


@lru_cache(maxsize=1)
def _vectorview() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(names, coil types `[306]`, loc `[306, 12]` in the device frame) of MNE."""
    with open(SENSORS, encoding="utf-8", newline="") as file:
        next(file)
        rows = list(csv.reader(file))[1:]
    return (
        tuple(row[0] for row in rows),
        np.array([row[1] for row in rows], int),
        np.array([row[2:] for row in rows], float),
    )


def helmet_info(
    names: tuple[str, ...], electrodes_m: np.ndarray, transform: np.ndarray
) -> mne.Info:
    """MNE's description of the electrodes and of the helmet around them."""
    meg_names, coils, loc = _vectorview()
    kinds = ["mag" if coil == FIFF.FIFFV_COIL_VV_MAG_T3 else "grad"
             for coil in coils]  # fmt: skip
    kinds = ["eeg"] * len(names) + kinds
    info = mne.create_info([*names, *meg_names], 250.0, kinds, verbose="error")
    places = dict(zip(names, electrodes_m, strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    for channel, coil, where in zip(info["chs"][len(names) :], coils, loc, strict=True):
        channel["coil_type"], channel["loc"] = int(coil), where.copy()
        channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", transform)
    return info


def leadfield_si(info: mne.Info, places_m: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """float64 `[channels, dipoles]`, per nA.m: four-shell sphere of MNE, fixed orientations."""
    sources = mne.setup_volume_source_space(
        pos={"rr": places_m, "nn": normals}, sphere_units="m", verbose="error"
    )
    forward = mne.make_forward_solution(
        info, None, sources, sphere(), meg=True, eeg=True, verbose="error"
    )
    if forward["nsource"] != len(places_m):
        raise RuntimeError(f"{len(places_m) - forward['nsource']} dipoles lie outside the brain")
    fixed = mne.convert_forward_solution(forward, force_fixed=True, verbose="error")
    order = [fixed["sol"]["row_names"].index(name) for name in info["ch_names"]]
    return 1e-9 * fixed["sol"]["data"][order].astype(np.float64)
