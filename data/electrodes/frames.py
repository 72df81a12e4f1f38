"""Electrode places of a file, brought into MNE's head frame.

Files give places in frames of their own: on a sphere round its own centre (EEGLAB), of a scanner,
with the nose along x, in millimetres or on a unit sphere; and readers often pass them as head
frame. Only the names of the electrodes tell. Where enough of them are in a template, the places
are fitted to the template's:

* those of an ideal sphere are nobody's head; the template's are as good, and the same in each file;
* those that fit the template but for the head's size and a little are in the head frame already,
  and stay to the last digit;
* others are turned, shifted and scaled as one body, which keeps their shape (Umeyama 1991, IEEE
  Trans. Pattern Anal. Mach. Intell. 13(4), 376-380; refitted without the worst quarter);
* where names and places contradict each other, the recording is refused.

Without names, a sphere is fitted and moved to where the template's is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from data.electrodes.channel_names import name_key
from data.electrodes.similarity import fit_robustly, fit_sphere, median_distance, thickness
from data.errors import InputError

if TYPE_CHECKING:
    import mne

FEWEST_NAMED = 8
"""A similarity has 7 unknowns; without the worst quarter, 8 electrodes still give 18 numbers."""
IN_FRAME_M = 0.03
"""Caps sit up to 10 degrees (1.7 cm) differently, and fiducials are chosen up to 1 cm differently;
MNE's own montages lie up to 2.4 cm from its template, sphere-centred places 4.6 cm."""
IN_FRAME_SIZE = (0.75, 1.25)
"""Size of a head, relative to the template's."""
CONTRADICTS_M = 0.04
"""Farther than that from where its name belongs, after the fit, an electrode has a wrong name or
place: 10-20 electrodes are 6 cm apart."""
CONTRADICTIONS = 0.25
"""With more than this share of such electrodes, none of the names is believed."""
IDEAL = 0.005
"""Scatter of the radius, relative to it, of places on an ideal sphere; of heads, 0.05."""
NOMINAL_M = 0.001
"""Nearer to the template's than that after the fit, places were taken from it, not measured."""
SPHERE_M = 0.03
"""A fitted sphere nearer than that to the template's is where heads are; sphere-centred places are
4.2 cm off, MNE's built-in caps 1.8 cm at most."""
PATCH = 0.85
"""Places whose middle is farther than this share of the radius from the centre cover too little of
a head to tell where its centre is."""
ROUND = 0.12
"""Scatter of the radius, relative to it, up to which places are a head's."""
CENTRE_M, RADIUS_M = np.array([-0.001, 0.015, 0.039]), 0.098
"""The sphere fitted to the template, in the head frame."""
RADII_M = (0.065, 0.125)
FEWEST_SPHERE = 8
FLAT = 0.02
"""Thickness of places, relative to their extent, below which they are a drawing of a cap."""


class NamesContradictPlaces(ValueError):
    """Electrodes are not where their names say, in any frame. Holds the sentence."""


@dataclass(frozen=True)
class Placed:
    """Electrode places in the head frame."""

    positions_m: np.ndarray
    """float64 `[n, 3]`, rows as given."""
    wrong: tuple[int, ...]
    """Rows whose place contradicts their name."""
    handling: str
    """What was done, for the manifest; "" where nothing was."""
    by_name: bool = False
    """Named electrodes are the template's."""


def place_in_head(
    names: Sequence[str],
    places: np.ndarray,
    template: Mapping[str, Sequence[float]],
    ideal_by_name: bool = True,
) -> Placed | None:
    """Bring `places` `[n, 3]`, of any frame and unit, into the head frame.

    `template`: `name_key` -> place in metres, head frame. `ideal_by_name`: places of an
    ideal sphere are replaced by the template's (else fitted like others). None where the places
    look like no electrodes on a head. Raises NamesContradictPlaces.
    """
    places = np.asarray(places, np.float64)
    if len(places) >= FEWEST_SPHERE and thickness(places) < FLAT:
        return None
    keys = [name_key(name) for name in names]
    named = np.array([row for row, key in enumerate(keys) if key in template], int)
    if len(named) < max(4, len(names) / 2):
        return _on_the_sphere(places)
    target = np.array([template[keys[row]] for row in named])
    before_m = median_distance(places[named], target)
    if len(named) < FEWEST_NAMED:
        if in_head_frame(places[named], target):
            return Placed(places, (), "")
        only = np.full_like(places, np.nan)
        only[named] = target
        return Placed(only, (), f"by name, its own places {_off(before_m)}", by_name=True)
    fit = fit_robustly(places[named], target)
    distances = np.linalg.norm(fit(places[named]) - target, axis=1)
    wrong = named[distances > CONTRADICTS_M]
    if len(wrong) > CONTRADICTIONS * len(named) or not 1e-4 < fit.scale < 1e4:
        raise NamesContradictPlaces(
            f"{len(wrong)} of {len(named)} named electrodes lie more than "
            f"{100 * CONTRADICTS_M:.0f} cm from where their names belong, however the cap is turned"
        )
    after_m = float(np.median(distances))
    ideal = is_ideal_sphere(places[named])
    nominal = distances.max() < NOMINAL_M < before_m
    if ideal_by_name and (ideal or nominal):
        moved = fit(places)
        moved[named] = target
        kind = "of an ideal sphere" if ideal else "the template's"
        text = f"by name, its own places are {kind} {_off(before_m)}"
        return Placed(moved, (), text, by_name=True)
    right = np.setdiff1d(np.arange(len(named)), np.flatnonzero(distances > CONTRADICTS_M))
    if in_head_frame(places[named][right], target[right]):
        return Placed(places, tuple(wrong.tolist()), "")
    return Placed(
        fit(places),
        tuple(wrong.tolist()),
        f"aligned by {len(named)} names ({_cm(before_m)} off before, {100 * after_m:.1f} after)",
    )


@dataclass(frozen=True)
class OwnPlaces:
    """What `own_places` finds. Keys and entries are indices of channels."""

    places: dict[int, np.ndarray]
    """float64 `[3]`, metres, head frame."""
    labels: dict[int, str] = field(default_factory=dict)
    """The template's spelling, of those that have the template's places."""
    wrong: tuple[int, ...] = ()
    """Those whose place contradicts their name."""
    handling: str = ""
    """What was done, for the manifest; "" where nothing was."""


def own_places(
    info: mne.Info,
    names: Mapping[int, str],
    picks: Sequence[int],
    template: Mapping[str, tuple[str, Sequence[float]]],
    where: str,
) -> OwnPlaces:
    """A recording's own places of the channels `picks`, called `names`, in the head frame.

    `template`: `name_key` -> (name, place in metres). Empty where the recording holds no
    places of electrodes on one head. Those of a recording with MEG are in the frame of its sensors,
    and stay. Warns of what was done. Raises InputError where names and places contradict each
    other.
    """
    found = {index: np.array(info["chs"][index]["loc"][:3], np.float64) for index in picks}
    found = {i: p for i, p in found.items() if np.isfinite(p).all() and np.any(p != 0)}
    distinct = len({tuple(np.round(place, 4)) for place in found.values()})
    if not found or distinct < 0.9 * len(found):  # one place for all is none
        return OwnPlaces({})
    if info["dev_head_t"] is not None and {"mag", "grad"} & set(info.get_channel_types()):
        return OwnPlaces(found)
    rows, places = list(found), np.array(list(found.values()))
    known = {key: place for key, (_, place) in template.items()}
    try:
        placed = place_in_head([names[row] for row in rows], places, known)
    except NamesContradictPlaces as error:
        raise InputError(
            f"{where}: {error}",
            "the positions are in another order than the names, or mirrored: correct them in the "
            "file, or take the places that belong to the names with montage=standard_1005",
        ) from None
    if placed is None:
        return OwnPlaces({})
    wrong = tuple(rows[row] for row in placed.wrong)
    usable = {
        row: place
        for row, place in zip(rows, placed.positions_m, strict=True)
        if row not in wrong and np.isfinite(place).all()
    }
    if placed.handling:
        warnings.warn(f"electrode places of the recording: {placed.handling}", stacklevel=2)
    if wrong:
        listed = ", ".join(names[row] for row in wrong)
        warnings.warn(f"left out, for their places contradict their names: {listed}", stacklevel=2)
    keys = {row: name_key(names[row]) for row in usable}
    spelt = {row: template[key][0] for row, key in keys.items() if key in known}
    return OwnPlaces(usable, spelt if placed.by_name else {}, wrong, placed.handling)


def in_head_frame(places: np.ndarray, target: np.ndarray) -> bool:
    """Whether `places` `[n, 3]` are `target` `[n, 3]` but for a head's size and IN_FRAME_M.

    A head of another size is the template scaled about the frame's origin, between the ears.
    """
    size = float((places * target).sum() / (target**2).sum())
    if not IN_FRAME_SIZE[0] < size < IN_FRAME_SIZE[1]:
        return False
    return median_distance(places, size * target) <= IN_FRAME_M


def is_ideal_sphere(places: np.ndarray) -> bool:
    """Whether `places` `[n, 3]` lie on a sphere as no head does."""
    return fit_sphere(places)[2] < IDEAL


def _on_the_sphere(places: np.ndarray) -> Placed | None:
    """Places without known names: their sphere is moved to where the template's is."""
    radii = np.linalg.norm(places, axis=1)
    as_they_are = Placed(places, (), "") if 0.04 < np.median(radii) < 0.2 else None
    if len(places) < FEWEST_SPHERE:
        return as_they_are
    centre, radius, scatter = fit_sphere(places)
    if np.linalg.norm(places.mean(0) - centre) > PATCH * radius:
        return as_they_are
    if scatter > ROUND:
        return None
    aim, size = CENTRE_M, RADIUS_M
    shift_m = float(np.linalg.norm(centre - aim))
    if RADII_M[0] < radius < RADII_M[1]:
        if shift_m < SPHERE_M:
            return Placed(places, (), "")
        return Placed(
            places - centre + aim, (), f"its sphere moved by {_cm(shift_m)}; names unknown"
        )
    return Placed(
        (places - centre) * (size / radius) + aim,
        (),
        f"its sphere of radius {radius:.3g} made {_cm(size)} and moved; names unknown",
    )


def _cm(metres: float) -> str:
    return f"{100 * metres:.1f} cm" if metres < 1 else f"{metres:.3g} m"


def _off(metres: float) -> str:
    return f"{_cm(metres)} off"
