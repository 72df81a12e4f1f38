"""Electrode places and the potentials of dipoles in a four-shell sphere, both from MNE.

A sphere makes a leadfield of 32 electrodes and 768 dipoles cost 60 ms, without any file; the price
is that it says nothing about a real brain.
"""

from __future__ import annotations

from functools import lru_cache

import mne
import numpy as np

HEAD_RADIUS_M = 0.095
BRAIN_RADIUS_M = 0.9 * HEAD_RADIUS_M  # the innermost of MNE's four shells
HEAD_CENTRE_M = np.array([0.0, 0.0, 0.04])


@lru_cache(maxsize=8)
def montage_directions(
    montage: str, channels: tuple[str, ...] | None = None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Electrode places of a built-in MNE montage.

    Returns (names, positions_m float64 [C, 3] in MNE's head frame, unit directions [C, 3] as seen
    from the centre of the sphere fitted to the whole montage).
    """
    standard = mne.channels.make_standard_montage(montage)
    info = mne.create_info(standard.ch_names, 250.0, "eeg").set_montage(standard, verbose="error")
    positions = np.array([channel["loc"][:3] for channel in info["chs"]])
    _, centre, _ = mne.bem.fit_sphere_to_headshape(info, ("eeg",), units="m", verbose="error")
    directions = (positions - centre) / np.linalg.norm(positions - centre, axis=1, keepdims=True)
    keep = [standard.ch_names.index(name) for name in channels or standard.ch_names]
    return [standard.ch_names[i] for i in keep], positions[keep], directions[keep]


@lru_cache(maxsize=1)
def sphere() -> mne.bem.ConductorModel:
    """The four-shell sphere that all simulated heads are."""
    return mne.make_sphere_model(HEAD_CENTRE_M, HEAD_RADIUS_M, verbose="error")


def forward_uv(electrodes_m: np.ndarray, places_m: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Potential of each dipole at each electrode, float64 [electrodes, dipoles], uV per nA.m.

    `electrodes_m` [electrodes, 3], `places_m` and unit `normals` [dipoles, 3]: metres, head frame.
    Four-shell sphere, Berg and Scherg's approximation as in MNE. Raises RuntimeError for a dipole
    outside the brain.
    """
    names = [f"E{i}" for i in range(len(electrodes_m))]
    montage = mne.channels.make_dig_montage(
        dict(zip(names, electrodes_m, strict=True)), coord_frame="head"
    )
    info = mne.create_info(names, 250.0, "eeg").set_montage(montage)
    sources = mne.setup_volume_source_space(
        pos={"rr": places_m, "nn": normals}, sphere_units="m", verbose="error"
    )
    forward = mne.make_forward_solution(
        info, None, sources, sphere(), meg=False, eeg=True, verbose="error"
    )
    if forward["nsource"] != len(places_m):
        raise RuntimeError(f"{len(places_m) - forward['nsource']} dipoles lie outside the brain")
    fixed = mne.convert_forward_solution(forward, force_fixed=True, verbose="error")
    return 1e-3 * fixed["sol"]["data"]
