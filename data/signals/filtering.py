"""The band-pass, the notch and the change of rate; and the mains frequency where nobody says it.

Zero-phase FIR filters of MNE's default design keep the waveform's timing, at the price of a long
kernel: the 0.5 Hz high-pass takes 6.6 s, so a shorter recording is distorted at its ends (noted).

Band-pass, notch and resampling are linear and time-invariant up to the change of rate, so they are
one multiplication in the frequency domain, block by block (overlap-save), and what the target's
rate cannot hold is never computed. That equals MNE's steps one after the other, with the same
reflected ends, within float32 rounding, and needs memory for one block however long the recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction

import mne
import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import firwin, oaconvolve, welch

from data.errors import InputError
from data.signals.profiles import Profile

CHUNK = 8
HALF_LENGTH = 64
"""Of the resampling kernel, in samples of the slower rate."""
EDGE = 0.54
"""The resampling kernel passes nothing above this fraction of the slower rate (-100 dB)."""
H_FREQ_OF_RATE = 0.45
"""The band ends at this fraction of the source's rate at the latest."""
BLOCK_OF_HALO = 16
"""A block is about this many times longer than what it shares with its neighbours on each side."""
MAINS_PEAK = 3.0
"""Mains is seen where the median channel's power is this many times that of its surroundings."""


class BandPass:
    """Zero-phase FIR band-pass, notch at the mains and its harmonics, and change of rate."""

    def __init__(self, l_freq_hz, h_freq_hz, notches_hz, sfreq_hz, target_hz):
        self.l_freq_hz, self.h_freq_hz, self.notches_hz = l_freq_hz, h_freq_hz, notches_hz
        self.sfreq_hz, self.target_hz = sfreq_hz, target_hz
        ratio = Fraction(target_hz / sfreq_hz).limit_denominator(10_000)
        self.up, self.down = ratio.numerator, ratio.denominator
        kernel = self._kernel()
        resampling = HALF_LENGTH * max(1.0, self.down / self.up) if self.up != self.down else 0
        reach = len(kernel) // 2 + resampling
        # Multiples of `down`, so that every block begins at an output sample.
        self._halo = self.down * int(np.ceil(reach / self.down))
        wanted = max(BLOCK_OF_HALO * reach, 4 * self._halo)
        self._n = 2 * self.down * next_fast_len(int(np.ceil(wanted / (2 * self.down))), real=True)
        self._m = self._n * self.up // self.down
        self._design(kernel)

    @classmethod
    def of(cls, profile: Profile, sfreq_hz: float, mains_hz: float | None) -> BandPass:
        h_freq_hz = min(profile.h_freq_hz, H_FREQ_OF_RATE * sfreq_hz)
        if h_freq_hz <= profile.l_freq_hz:
            raise InputError(
                f"a recording sampled at {sfreq_hz:g} Hz has nothing above the band's lower edge "
                f"({profile.l_freq_hz:g} Hz)",
                "leave it out, or use another --profile",
            )
        # MNE's transition band: harmonics inside it pass too, so they are notched as well.
        stop_hz = min(h_freq_hz + max(0.25 * h_freq_hz, 2.0), sfreq_hz / 2 - 1)
        notches = [mains_hz * k for k in range(1, 20)] if mains_hz else []
        notches = [f for f in notches if profile.l_freq_hz < f < stop_hz]
        return cls(profile.l_freq_hz, h_freq_hz, notches, sfreq_hz, profile.sfreq_hz)

    def out_samples(self, samples: int) -> int:
        """How many samples at the target's rate `samples` at the source's become."""
        return -(-samples * self.up // self.down)

    def apply(self, signal: np.ndarray) -> np.ndarray:
        """float32 `[C, N]` at the source's rate -> float32 `[C, M]` at the target's."""
        out = np.empty((len(signal), self.out_samples(signal.shape[1])), np.float32)
        for first, block in self.blocks(lambda start, stop: signal[:, start:stop], *signal.shape):
            out[:, first : first + block.shape[1]] = block
        return out

    def blocks(
        self, read: Callable[[int, int], np.ndarray], channels: int, samples: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Filter a stretch of `samples` source samples, reading it once, from start to end.

        `read(start, stop)` gives finite float32 `[C, stop - start]`. Yields (first output sample,
        float32 `[C, m]`); the array is used again for the next block.
        """
        halo, n = self._halo, self._n
        source = np.empty((channels, n), np.float32)
        out = np.empty((channels, self._m), np.float32)
        known = 0  # source samples read so far
        for first in range(0, samples, n - 2 * halo):
            begin = first - halo  # of the block, in source samples
            if first == 0:
                known = min(n - halo, samples)
                source[:, halo : halo + known] = read(0, known)
                _reflect(source[:, halo : halo + known][:, ::-1], source[:, :halo][:, ::-1])
            else:
                source[:, : 2 * halo] = source[:, n - 2 * halo :]
                stop = min(begin + n, samples)
                if stop > known:
                    source[:, known - begin : stop - begin] = read(known, stop)
                    known = stop
            if samples < begin + n:
                end = samples - begin
                _reflect(source[:, :end], source[:, end:])
            for row in range(0, channels, CHUNK):
                self._filter(source[row : row + CHUNK], out[row : row + CHUNK])
            skip = halo * self.up // self.down
            start = first * self.up // self.down
            stop = min(start + self._m - 2 * skip, self.out_samples(samples))
            yield start, out[:, skip : skip + stop - start]

    def describe(self, longest: int) -> dict:
        """For the manifest. `longest`: samples of the longest continuous stretch."""
        taps = 3.3 / min(max(0.25 * self.l_freq_hz, 2.0), self.l_freq_hz) * self.sfreq_hz
        record = {
            "band_hz": [self.l_freq_hz, round(self.h_freq_hz, 6)],
            "notch_hz": self.notches_hz,
            "kind": "zero-phase FIR (Hamming), then band-limited resampling",
        }
        if self.sfreq_hz < self.target_hz:
            record["upsampled"] = True
        if longest < taps:
            record["longer_than_recording"] = True
        return record

    def _kernel(self) -> np.ndarray:
        """The impulse response of MNE's `filter_data` and `notch_filter`, one after the other."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            kernel = mne.filter.create_filter(
                None, self.sfreq_hz, self.l_freq_hz, self.h_freq_hz, verbose="error"
            )
            if self.notches_hz:
                # The widths of `notch_filter`: frequency / 200, and half a hertz of transition.
                notches = np.array(self.notches_hz)
                notch = mne.filter.create_filter(
                    None,
                    self.sfreq_hz,
                    notches * (1 + 1 / 400) + 0.5,
                    notches * (1 - 1 / 400) - 0.5,
                    l_trans_bandwidth=0.5,
                    h_trans_bandwidth=0.5,
                    verbose="error",
                )
                kernel = oaconvolve(kernel, notch)
        return kernel

    def _design(self, kernel: np.ndarray) -> None:
        """Which source bin goes to which output bin, and with what gain."""
        n, m, half = self._n, self._m, len(kernel) // 2
        centred = np.zeros(n)
        centred[: half + 1], centred[-half:] = kernel[half:], kernel[:half]
        response = rfft(centred).real
        response[0] = 0.0  # a band-pass: constants go, to the last bit
        if self.up == self.down:
            self._direct, self._gain = n // 2 + 1, response.astype(np.float32)
            self._folded = []
            return
        slow = min(n, m)  # bins up to the slower rate
        bins = np.arange(int(EDGE * slow) + 1)
        mirrored = np.where(bins <= n // 2, bins, n - bins)
        gain = response[mirrored] * _resampling_gain(bins / slow) * (m / n)
        self._direct = min(n // 2, m // 2, len(bins))
        self._gain = gain[: self._direct].astype(np.float32)
        # Beyond half of a rate, a bin is the mirror image of another: few, and nearly silent.
        rest = bins[self._direct :]
        self._folded = [
            (
                int(k if k <= n // 2 else n - k),
                int(k if k <= m // 2 else m - k),
                bool((k > n // 2) != (k > m // 2)),
                np.float32(gain[k] * (2 if k == m // 2 else 1)),
            )
            for k in rest
            if abs(gain[k]) > 1e-9
        ]
        if self._folded:
            source, target, conjugate, weight = map(np.array, zip(*self._folded, strict=True))
            self._folded = [
                (
                    source[conjugate == flag],
                    target[conjugate == flag],
                    flag,
                    weight[conjugate == flag],
                )
                for flag in (False, True)
            ]

    def _filter(self, block: np.ndarray, out: np.ndarray) -> None:
        """`[c, n]` -> `[c, m]`. Offsets of volts would cost float32 its digits: taken out first."""
        spectrum = rfft(block - block.mean(axis=1, keepdims=True), axis=1, overwrite_x=True)
        result = np.zeros((len(block), self._m // 2 + 1), np.complex64)
        np.multiply(spectrum[:, : self._direct], self._gain, out=result[:, : self._direct])
        for source, target, conjugate, weight in self._folded:
            part = spectrum[:, source] * weight
            result[:, target] += part.conj() if conjugate else part
        out[:] = irfft(result, self._m, axis=1, overwrite_x=True)


def _resampling_gain(fraction: np.ndarray) -> np.ndarray:
    """Of the resampling low-pass, at `fraction` of the slower rate: 1, then 0 from EDGE on."""
    fine, size = 16, 1 << 19
    kernel = firwin(2 * HALF_LENGTH * fine + 1, 1 / fine, window=("kaiser", 12.0))
    centred = np.zeros(size)
    half = len(kernel) // 2
    centred[: half + 1], centred[-half:] = kernel[half:], kernel[:half]
    return np.interp(fraction, np.arange(size // 2 + 1) * (fine / size), rfft(centred).real)


def _reflect(signal: np.ndarray, beyond: np.ndarray) -> None:
    """Continue `signal` `[C, N]` into `beyond` `[C, K]`: turned about its last sample, as MNE pads;
    where it is too short for that, its last value is held."""
    count = min(beyond.shape[1], signal.shape[1] - 1)
    last = signal[:, -1:]
    beyond[:, :count] = 2 * last - signal[:, -2 : -2 - count : -1]
    beyond[:, count:] = beyond[:, count - 1 : count] if count else last


def measure_mains(signal: np.ndarray, sfreq_hz: float) -> float | None:
    """50.0, 60.0 or None: which mains frequency stands out of the spectrum of `[C, N]` volts."""
    segment = round(4 * sfreq_hz)
    if signal.shape[1] <= segment or not len(signal):
        return None
    # Differences: an offset or a drift of millivolts would leak into all of the spectrum.
    steps = np.diff(signal.astype(np.float64), axis=1)
    freqs, power = welch(steps, sfreq_hz, nperseg=segment, axis=1, detrend=False)
    peaks = {}
    for mains in (50.0, 60.0):
        distance = np.abs(freqs - mains)
        around = (distance > 1.5) & (distance < 5)
        if mains + 2 < sfreq_hz / 2:
            peak = power[:, distance <= 0.5].max(axis=1)
            floor = np.median(power[:, around], axis=1)
            alive = floor > 0
            if alive.any():
                peaks[mains] = float(np.median(peak[alive] / floor[alive]))
    strongest = max(peaks, key=peaks.get, default=None)
    return strongest if strongest and peaks[strongest] > MAINS_PEAK else None
