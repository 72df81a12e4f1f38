"""MEG sensors as a manifest keeps them: names, types, places and orientations in the head frame.

A coil is described by its middle, its normal and, for a gradiometer, the direction along which it
measures the gradient: nine numbers that hold for planar gradiometers and magnetometers of any
maker. What is lost is the coil's shape, which a forward model needs and a translator does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.errors import InputError

MEG_TYPES = ("mag", "grad")
"""Magnetometers measure tesla, gradiometers tesla/metre."""


@dataclass(frozen=True)
class MegSensors:
    """MEG sensors in MNE's head frame, so that the head's place in the helmet is in them."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    """"mag" (values in tesla) or "grad" (tesla/metre)."""
    positions_m: np.ndarray
    """float32 `[Ct, 3]`, metres."""
    orientations: np.ndarray
    """float32 `[Ct, 6]`: the coil's normal, then the direction in which a gradiometer measures the
    gradient (zeros for a magnetometer); unit vectors."""

    def as_dict(self) -> dict:
        """For the manifest."""
        return {
            "names": list(self.names),
            "types": list(self.types),
            "positions_m": rounded(self.positions_m),
            "orientations": rounded(self.orientations),
        }

    @classmethod
    def checked(cls, entry: dict) -> MegSensors:
        """From a manifest. Raises InputError for a type that is not known, ValueError for arrays
        that do not fit."""
        names, types = (tuple(map(str, entry[key])) for key in ("names", "types"))
        if unknown := sorted(set(types) - set(MEG_TYPES)):
            raise InputError(
                f"MEG sensors of type {', '.join(unknown)}",
                f"the types are {' and '.join(MEG_TYPES)}: pack the data again",
            )
        with np.errstate(over="ignore"):
            positions, orientations = (
                np.array(entry[key], np.float32) for key in ("positions_m", "orientations")
            )
        shapes = (len(types), positions.shape, orientations.shape)
        count = len(names)
        if not count or shapes != (count, (count, 3), (count, 6)):
            raise ValueError(f"MEG of {count} sensors: arrays of shapes {shapes}")
        if not (np.isfinite(positions).all() and np.isfinite(orientations).all()):
            raise ValueError("MEG: non-finite positions")
        return cls(names, types, positions, orientations)


def rounded(rows: np.ndarray) -> list[list[float]]:
    """`[n, k]` as lists with six decimals (micrometres)."""
    return [[round(float(x), 6) + 0.0 for x in row] for row in rows]
