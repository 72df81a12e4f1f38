"""Read a recording from start to end in blocks, mend its holes, and note where it stands still.

Only one block is held in memory, as float32. Where a hole (non-finite samples) reaches beyond the
block, its channel is read ahead until the signal goes on, so that the mended signal does not depend
on where blocks end. What grows with the recording is one byte for each sample time.
"""

from __future__ import annotations

import mne
import numpy as np

from data.errors import InputError

BLOCK_S = 60.0
STILL_S = 0.02


def in_one_piece(raw: mne.io.BaseRaw, picks: list[int]) -> tuple[mne.io.BaseRaw, list[int]]:
    """What to read channels from, and their numbers there: `raw` itself, or these channels of it in
    memory where they are slower than another channel of an EDF, BDF or GDF file.

    MNE brings such channels to the fastest one's rate anew for each range that is read, wrongly at
    its ends and, where it does not begin with a data record, everywhere
    (mne-tools/mne-python#10635).
    """
    if raw.preload or not any(
        (extras["n_samps"][extras["sel"]][places[picks]] != extras["max_samp"]).any()
        for extras, places in zip(raw._raw_extras, raw._read_picks, strict=True)
        if isinstance(extras, dict) and {"n_samps", "sel", "max_samp"} <= extras.keys()
    ):
        return raw, picks
    names = [raw.ch_names[pick] for pick in picks]
    whole = raw.copy().pick(names, verbose="error").load_data(verbose="error")
    return whole, [whole.ch_names.index(name) for name in names]


class SpanReader:
    """One stretch without gaps, samples `start`..`stop` of `raw`, read in order with `read`."""

    def __init__(
        self, raw: mne.io.BaseRaw, picks: list[int], start: int, stop: int, where: str
    ) -> None:
        self.raw, self.picks, self.start, self.stop, self.where = raw, picks, start, stop, where
        self.holes: list[tuple[int, int, int]] = []
        """(row, first sample, one past the last) of each run of non-finite samples."""
        self.still = np.zeros(stop - start, bool)
        """Sample times at which most channels hold one value (switched off, railed)."""
        self._block = max(1, round(BLOCK_S * raw.info["sfreq"]))
        self._lag = max(1, round(STILL_S * raw.info["sfreq"]))
        self._tail = np.zeros((len(picks), 0), np.float32)
        self._known: dict[int, tuple[int, float]] = {}  # last finite sample before the next block
        self._ahead: dict[int, tuple[int, float | None]] = {}

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32 `[C, stop - start]` volts, finite; counted from the stretch's first sample.

        Each call goes on where the one before ended.
        """
        signal = np.empty((len(self.picks), stop - start), np.float32)
        for begin in range(start, stop, self._block):
            end = min(begin + self._block, stop)
            part = signal[:, begin - start : end - start]
            part[:] = self._read(self.picks, begin, end)
            self._fill(part, begin)
            self._compare(part, begin)
        return signal

    def hole_fraction(self) -> np.ndarray:
        """`[C]`: each channel's fraction of non-finite samples."""
        count = np.zeros(len(self.picks))
        for row, first, last in self.holes:
            count[row] += last - first
        return count / max(1, self.stop - self.start)

    def _read(self, picks: list[int], start: int, stop: int) -> np.ndarray:
        try:
            return self.raw.get_data(picks, self.start + start, self.start + stop, verbose="error")
        except (OSError, ValueError, RuntimeError, EOFError, IndexError) as error:
            raise InputError(
                f"{self.where}: the signal cannot be read ({type(error).__name__}: {error})",
                "the file is truncated or damaged: copy or download it again",
            ) from error

    def _fill(self, part: np.ndarray, begin: int) -> None:
        """Non-finite samples become the line between their neighbours, in place."""
        end = begin + part.shape[1]
        # A sum is finite unless one of its terms is not: cheaper than looking at every sample.
        suspicious = np.flatnonzero(~np.isfinite(part.sum(axis=1, dtype=np.float64)))
        for row in suspicious:
            finite = np.isfinite(part[row])
            edges = np.flatnonzero(np.diff(np.concatenate([[True], finite, [True]]).astype(int)))
            self.holes += [
                (int(row), begin + int(first), begin + int(last))
                for first, last in edges.reshape(-1, 2)
            ]
            at = np.flatnonzero(finite) + begin
            values = part[row, finite].astype(np.float64)
            if row in self._known and not finite[0]:
                at, values = (
                    np.append(self._known[row][0], at),
                    np.append(self._known[row][1], values),
                )
            if not finite[-1]:
                following, value = self._next(row, end)
                if value is not None:
                    at, values = np.append(at, following), np.append(values, value)
            hole = np.flatnonzero(~finite)
            part[row, hole] = np.interp(hole + begin, at, values) if len(at) else 0.0
            if finite.any():
                last = int(np.flatnonzero(finite)[-1])
                self._known[row] = (begin + last, float(part[row, last]))
        if end < self.stop - self.start:
            for row in np.setdiff1d(np.arange(len(part)), suspicious):
                self._known[int(row)] = (end - 1, float(part[row, -1]))

    def _next(self, row: int, start: int) -> tuple[int, float | None]:
        """Index and value of the channel's first finite sample from `start` on."""
        index, value = self._ahead.get(row, (-1, None))
        while index < start:
            length = self.stop - self.start
            for begin in range(start, length, self._block):
                ahead = self._read(
                    self.picks[row : row + 1], begin, min(begin + self._block, length)
                )[0]
                finite = np.flatnonzero(np.isfinite(ahead))
                if len(finite):
                    index, value = begin + int(finite[0]), float(ahead[finite[0]])
                    break
            else:
                index, value = length, None
            self._ahead[row] = index, value
        return index, value

    def _compare(self, part: np.ndarray, begin: int) -> None:
        """Over 20 ms: neighbouring samples of coarsely digitised EEG are often equal by chance."""
        count = np.zeros(part.shape[1], np.int32)
        lag = self._lag
        for channel, before in zip(part, self._tail, strict=True):
            joined = np.concatenate([before, channel])
            same = joined[lag:] == joined[:-lag]
            count[part.shape[1] - len(same) :] += same
        self.still[begin : begin + part.shape[1]] = 2 * count > len(part)
        self._tail = np.concatenate([self._tail, part], axis=1)[:, -lag:]
