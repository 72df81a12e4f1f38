"""When the codes of a stimulus channel begin.

Each change to another value than 0 is an event. MNE's default takes rising codes only, which loses
every second trial where a code is held until the next one (5, 3, 5, 3 ...) or where the channel
rests at 255. The price: where the lines of a trigger port are switched off one after another
(3, 1, 0), the rest of a code looks like a code; `Codes.rests` marks these, and `rising=True` takes
none that are lower than the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Codes:
    """The events of one channel, in order."""

    samples: np.ndarray
    """int64 `[n]`: first sample of each."""
    codes: np.ndarray
    """int64 `[n]`."""
    rests: np.ndarray
    """bool `[n]`: begins as a higher code ends that has all of its bits (3 -> 1)."""
    settling: np.ndarray
    """int64: codes that stood for one sample on the way from one value to another, as the lines of
    a port that do not switch at one instant. They are no events."""
    standing: int
    """The code that stood already at the first sample, whose beginning is not known; or 0."""


def read_codes(values: np.ndarray, rising: bool = False) -> Codes:
    """Events of a stimulus channel `[N]` of whole numbers >= 0."""
    values = np.asarray(values, np.int64)
    starts = np.flatnonzero(np.diff(values)) + 1
    after = values[starts]
    before = values[starts - 1]
    long = np.diff(np.append(starts, len(values))) > 1
    following = np.append(after[1:], after[-1:])
    last = np.arange(len(starts)) == len(starts) - 1
    stays = long | last | (before == following)  # a pulse of one sample comes back to where it was
    settling = after[~stays]
    starts, after = starts[stays], after[stays]
    before = np.append(values[:1], after[:-1])[: len(after)]
    begins = (after != 0) & (after != before)
    if rising:
        begins &= after > before
    rests = (before > after) & (before & after == after)
    return Codes(
        starts[begins],
        after[begins],
        rests[begins],
        settling[settling != 0],
        int(values[0]) if len(values) else 0,
    )
