"""Which patches are hidden: a table of kinds, and pure functions of a numpy generator.

A mask hides exactly as many patches as it is asked to, so that batches stay dense `[B, keep, D]`
and attention needs no mask; what a block or tube would hide beyond that is shown again. Masks are
drawn on the CPU in the loader's workers (about 0.1 ms a window at 32 x 10 patches), so the device
never waits for them.

A new kind is one entry of `MASKS`; help texts, checks and reports follow the table. Rows are
channels and columns are patches in time; a mask is bool `[rows, columns]`, True = hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

PURPOSE_MASK = 0x6D61736B  # keeps mask draws apart from other draws of the same (seed, order_index)


@dataclass(frozen=True)
class Sheet:
    """What is masked. positions_m `[rows, 3]` metres; patches_hz: columns a second. Tokens that
    join all channels have one row."""

    positions_m: np.ndarray
    columns: int
    patches_hz: float

    @property
    def rows(self) -> int:
        return len(self.positions_m)


# ---- pieces: one draw, bool [rows, columns] ------------------------------------------------------


def everywhere(sheet: Sheet, rng: Generator, number: float | None) -> np.ndarray:
    return np.ones((sheet.rows, sheet.columns), dtype=bool)


def block(sheet: Sheet, rng: Generator, number: float | None) -> np.ndarray:
    rows = _neighbourhood(sheet, rng)
    return _piece(sheet, rows, _span(sheet, rng, 0.3, 0.6))


def tube(sheet: Sheet, rng: Generator, number: float | None) -> np.ndarray:
    return _piece(sheet, _neighbourhood(sheet, rng), slice(None))


def radius_cm(sheet: Sheet, rng: Generator, number: float | None) -> np.ndarray:
    """Straight lines through the head, not along the scalp."""
    offsets_m = sheet.positions_m - sheet.positions_m[rng.integers(sheet.rows)]
    return _piece(sheet, 100 * np.linalg.norm(offsets_m, axis=1) <= number, slice(None))


def channel(sheet: Sheet, rng: Generator, number: float | None) -> np.ndarray:
    return _piece(sheet, rng.integers(sheet.rows, size=1), slice(None))


def time(sheet: Sheet, rng: Generator, number: float | None) -> np.ndarray:
    return _piece(sheet, slice(None), _span(sheet, rng, 0.2, 0.4))


def _piece(sheet: Sheet, rows, columns) -> np.ndarray:
    piece = np.zeros((sheet.rows, sheet.columns), dtype=bool)
    piece[rows, columns] = True
    return piece


def _neighbourhood(sheet: Sheet, rng: Generator) -> np.ndarray:
    """A random row and its nearest ones, a quarter of all at most."""
    size = int(rng.integers(1, max(2, sheet.rows // 4) + 1))
    centre = sheet.positions_m[rng.integers(sheet.rows)]
    return np.argsort(((sheet.positions_m - centre) ** 2).sum(1), kind="stable")[:size]


def _span(sheet: Sheet, rng: Generator, least_s: float, most_s: float) -> slice:
    length = round(rng.uniform(least_s, most_s) * sheet.patches_hz)
    length = min(max(1, length), sheet.columns)
    start = int(rng.integers(sheet.columns - length + 1))
    return slice(start, start + length)


# ---- trims: which `count` of a piece's flat indices stay -----------------------------------------


def first(found: np.ndarray, count: int, sheet: Sheet, rng: Generator) -> np.ndarray:
    """Row after row: contiguous in time."""
    return found[:count]


def any_of(found: np.ndarray, count: int, sheet: Sheet, rng: Generator) -> np.ndarray:
    return rng.permutation(found)[:count]


def columns_first(found: np.ndarray, count: int, sheet: Sheet, rng: Generator) -> np.ndarray:
    """Column after column: of one at most only some rows stay, at random."""
    order = np.lexsort((rng.random(len(found)), found % sheet.columns))
    return found[order[:count]]


def any_rows(found: np.ndarray, count: int, sheet: Sheet, rng: Generator) -> np.ndarray:
    """Whole rows, scattered."""
    rank = np.argsort(rng.permutation(sheet.rows))
    return found[np.argsort(rank[found // sheet.columns], kind="stable")[:count]]


def any_columns(found: np.ndarray, count: int, sheet: Sheet, rng: Generator) -> np.ndarray:
    """Whole columns, scattered."""
    rank = np.argsort(rng.permutation(sheet.columns))
    return found[np.argsort(rank[found % sheet.columns], kind="stable")[:count]]


# ---- counts: how many patches to hide where one kind is scored alone; 0: impossible --------------


def of_patches(rows: int, columns: int, ratio: float) -> int:
    return _share(rows * columns, ratio)


def of_rows(rows: int, columns: int, ratio: float) -> int:
    return columns * _share(rows, ratio)


def of_columns(rows: int, columns: int, ratio: float) -> int:
    return rows * _share(columns, ratio)


def _share(total: int, ratio: float) -> int:
    return 0 if total < 2 else min(max(1, round(ratio * total)), total - 1)


# ---- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskKind:
    """meaning: for reports and help. piece: one draw; draws are joined until enough is hidden, and
    trim cuts the last. count: how many patches to hide when the kind is scored alone, so that it is
    what it says. number: what NUMBER in "NAME=NUMBER" is; None: the kind takes none.

    needs_rows: impossible for tokens that join all channels. every_row: hides all channels at once,
    so that such tokens can be scored on it. in_mixtures: drawn in training.
    """

    meaning: str
    piece: Callable[[Sheet, Generator, float | None], np.ndarray]
    trim: Callable[[np.ndarray, int, Sheet, Generator], np.ndarray] = first
    count: Callable[[int, int, float], int] = of_patches
    number: str | None = None
    needs_rows: bool = False
    every_row: bool = False
    in_mixtures: bool = True


MASKS: dict[str, MaskKind] = {
    "random": MaskKind("single patches anywhere", everywhere, any_of),
    "block": MaskKind(
        "a neighbourhood of electrodes for 0.3-0.6 s", block, any_of, needs_rows=True
    ),
    "tube": MaskKind(
        "a neighbourhood of electrodes, the whole window", tube, count=of_rows, needs_rows=True
    ),
    "radius_cm": MaskKind(
        "all electrodes within a radius of a random one, the whole window", radius_cm, any_rows,
        of_rows, number="centimetres", needs_rows=True,
    ),
    "channel": MaskKind(
        "scattered channels, the whole window", channel, count=of_rows, needs_rows=True
    ),
    "time": MaskKind(
        "all channels at once, for spans of 0.2-0.4 s", time, columns_first, of_columns,
        every_row=True,
    ),
    "random-time": MaskKind(
        "all channels at once, single patches", everywhere, any_columns, of_columns,
        every_row=True, in_mixtures=False,
    ),
}  # fmt: skip
TYPICAL = ("block", "time")
"""Where one kind stands for all, the first of these that the model takes."""


def spelled(names: Sequence[str]) -> str:
    """Names of `MASKS` as a user types them, for help texts and messages."""
    return ", ".join(f"{name}=NUMBER" if MASKS[name].number else name for name in names)


def parse(kind: str) -> tuple[MaskKind, float | None]:
    """The entry and number of "NAME" or "NAME=NUMBER"; ValueError for any other text."""
    name, equals, text = kind.partition("=")
    if name not in MASKS:
        raise ValueError(f"mask kind {kind!r}: use one of {spelled(tuple(MASKS))}")
    entry = MASKS[name]
    if not entry.number:
        if equals:
            raise ValueError(f"mask kind {kind!r}: {name} takes no number")
        return entry, None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise ValueError(f"mask kind {kind!r}: give {name}=NUMBER, {entry.number}, above 0")
    return entry, number


def fits(kind: str, names: Sequence[str]) -> bool:
    """Whether `kind` is well formed and its name is among `names`."""
    try:
        parse(kind)
    except ValueError:
        return False
    return kind.partition("=")[0] in names


def mixture_kinds(one_row: bool) -> tuple[str, ...]:
    """Names that training may draw."""
    return tuple(
        name
        for name, entry in MASKS.items()
        if entry.in_mixtures and not (one_row and entry.needs_rows)
    )


def scored_kinds(one_row: bool) -> tuple[str, ...]:
    """Names that a model can be scored on."""
    return tuple(name for name, entry in MASKS.items() if entry.every_row or not one_row)


def usual_kinds(one_row: bool) -> tuple[str, ...]:
    """Names that a model is scored on unless others are asked for."""
    possible = scored_kinds(True) if one_row else mixture_kinds(False)
    return tuple(name for name in possible if not MASKS[name].number)


def typical_kind(one_row: bool) -> str:
    """The name that stands for all kinds where one is scored."""
    return next(name for name in TYPICAL if name in scored_kinds(one_row))


# ---- draws ---------------------------------------------------------------------------------------


def generator(seed: int, key: int | str) -> Generator:
    """The generator of one window's draws, a function of (seed, key) and of nothing else: not of
    the rank, the world size or the number of workers.

    key: the window's order_index in training; a text that names it in evaluation.
    """
    if isinstance(key, str):
        digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))
    words = np.array([seed & (2**64 - 1), (PURPOSE_MASK << 32) ^ key], dtype=np.uint64)
    return Generator(np.random.Philox(key=words))


def draw_kind(mixture: dict[str, float], rng: Generator) -> str:
    """One kind, with probability proportional to its weight."""
    kinds = sorted(mixture)
    weights = np.array([mixture[kind] for kind in kinds], dtype=np.float64)
    return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]


def draw_mask(kind: str, sheet: Sheet, n_hidden: int, rng: Generator) -> np.ndarray:
    """A mask, bool `[rows, columns]`, with exactly `n_hidden` patches hidden.

    kind: "NAME" or "NAME=NUMBER" of `MASKS`. ValueError for an unknown one, or for a count that
    hides nothing or everything.
    """
    entry, number = parse(kind)
    hidden = np.zeros((sheet.rows, sheet.columns), dtype=bool)
    if not 0 < n_hidden < hidden.size:
        raise ValueError(f"n_hidden={n_hidden} of {hidden.size} patches")
    missing = n_hidden
    while missing > 0:
        found = np.flatnonzero(entry.piece(sheet, rng, number) & ~hidden)
        if len(found) > missing:
            found = entry.trim(found, missing, sheet, rng)
        hidden.flat[found] = True
        missing -= len(found)
    return hidden
