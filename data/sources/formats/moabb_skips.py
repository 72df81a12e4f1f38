"""Zeros that MOABB puts between trials: marked, so that no window reaches across them."""

from __future__ import annotations

import numpy as np
from mne import pick_types

SHORTEST_SKIP_S = 0.03
"""Fewer zeros in a row may be signal: digitised, and filtered or referenced by the publisher."""
BLOCK_SAMPLES = 100_000


def mark_skips(raw) -> dict:
    """Annotate, in place, every run of zeros in all EEG channels; returns notes on them, if any.

    MNE's BAD_ACQ_SKIP cuts a recording in two and counts as no signal. A recording of zeros alone
    is left as it is: it has no good channel, and is refused for that.
    """
    if not raw.preload:
        return {}
    sfreq_hz = raw.info["sfreq"]
    edges = np.flatnonzero(np.diff(_silent(raw), prepend=False, append=False))
    starts, stops = edges.reshape(-1, 2).T
    long = stops - starts >= SHORTEST_SKIP_S * sfreq_hz
    starts, stops = starts[long], stops[long]
    samples = int((stops - starts).sum())
    if samples in (0, raw.n_times):
        return {}
    # A thousandth of a sample inside: rounding must not let it overlap the windows beside it.
    onset_s, end_s = (starts + 1e-3) / sfreq_hz, (stops - 1e-3) / sfreq_hz
    raw.annotations.append(
        onset_s + raw.first_time, end_s - onset_s, ["BAD_ACQ_SKIP"] * len(starts)
    )
    return {"zero_runs_cut": len(starts), "zero_s_cut": round(samples / sfreq_hz, 3)}


def _silent(raw) -> np.ndarray:
    """bool `[N]`: where every EEG channel is exactly 0. Signal costs one channel's look."""
    picks = pick_types(raw.info, eeg=True, exclude=[])
    silent = np.full(raw.n_times, len(picks) > 0)
    for start in range(0, raw.n_times, BLOCK_SAMPLES):
        part = silent[start : start + BLOCK_SAMPLES]
        for pick in picks:
            part &= raw.get_data([pick], start, start + len(part), verbose="error")[0] == 0
            if not part.any():
                break
    return silent
