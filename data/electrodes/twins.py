"""Which of a recording's channels are one electrode, and which of them is used.

Two channels of one name or place would count one electrode twice in every average and score, and a
hidden channel could be copied from its twin.
"""

from __future__ import annotations

from collections import Counter

import mne
import numpy as np

from data.electrodes.channel_names import Label

SAME_PLACE_M = 1e-3
"""Electrodes are some 5 mm wide: two within a millimetre are one."""


class LeftOut:
    """Channels that are not used -> why, by plain name; by the file's label where that is not
    one channel's alone."""

    def __init__(self, info: mne.Info, names: dict[int, str]):
        count = Counter(names.values())
        self.names = {
            index: name if count[name] == 1 else info["ch_names"][index]
            for index, name in names.items()
        }
        self.reasons: dict[str, str] = {}

    def add(self, index: int, reason: str) -> None:
        self.reasons[self.names[index]] = reason


def each_once(
    info: mne.Info, candidates: list[int], places: dict, parsed: dict[int, Label], left_out: LeftOut
) -> list[int]:
    """Those of `candidates` that have a place, each electrode once: of two that share a name or a
    place the one that is not marked bad stays, then the one with the reference of most, then the
    first."""
    placed = [index for index in candidates if index in places]
    bads = set(info["bads"])
    common = Counter(parsed[index].reference for index in placed)
    order = sorted(
        placed,
        key=lambda i: (info["ch_names"][i] in bads, -common[parsed[i].reference], placed.index(i)),
    )
    kept: list[int] = []
    for index in order:
        same = [
            other
            for other in kept
            if parsed[other].key == parsed[index].key
            or np.linalg.norm(np.subtract(places[other], places[index])) < SAME_PLACE_M
        ]
        if same:
            left_out.add(index, f"the same electrode as {left_out.names[same[0]]}, which is used")
        else:
            kept.append(index)
    return sorted(kept)
