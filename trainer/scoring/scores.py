"""What a reconstruction is worth: scores of hidden samples, and their means with intervals.

`r` and `nmse` look at hidden samples alone. The scores of a frequency band need the window around
them: both signals are completed with the visible samples, filtered, and compared where they were
hidden, so a method's visible neighbours leak into its band scores through the filter, equally for
every method. What is gained over filtering gated pieces is that a band means what it says; the
`zero` baseline's band scores show how much the leak is worth.

The unit of statistics is the subject: windows are averaged within a subject, then subjects, with an
interval of Student's t over subjects. Windows of one person are not independent, so an interval
over windows would be too narrow by several times; a percentile bootstrap over 3, 6 and 10 people
would hold the truth in 0.76, 0.86 and 0.90 of all studies instead of 0.95.

Shapes: B windows, C channels, T samples, N patches of T / N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from scipy.stats import t as student_t

BANDS_HZ = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 75.0),
}
LARGEST_SFREQ_SHARE = 0.45
"""A band ends below this share of the sampling rate, where low-pass filters roll off."""
SMALLEST_POWER_RATIO = 1e-6
"""Log-spectral errors end at 60 dB, so that a silent reconstruction has a finite one."""
FEWEST_SUBJECTS = 3


def usable_bands(
    sfreq_hz: float, n_samples: int, low_hz: float, high_hz: float
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Which bands a window can be scored in: ({name: (low, high) Hz}, {name: why it is left out}).

    low_hz, high_hz: the pass band of the preprocessing. A band is cut to it and to 0.45 of
    `sfreq_hz`, and left out if fewer than two of the window's Fourier frequencies fall into it.
    """
    usable, left_out = {}, {}
    frequencies = np.fft.rfftfreq(n_samples, 1 / sfreq_hz)
    for name, (low, high) in BANDS_HZ.items():
        low, high = max(low, low_hz), min(high, high_hz, LARGEST_SFREQ_SHARE * sfreq_hz)
        if low >= high:
            left_out[name] = f"outside the pass band of {low_hz:g}-{high_hz:g} Hz"
        elif _in_band(frequencies, low, high).sum() < 2:
            left_out[name] = (
                f"a window of {n_samples / sfreq_hz:g} s resolves fewer than two frequencies in "
                f"{low:g}-{high:g} Hz"
            )
        else:
            usable[name] = (low, high)
    return usable, left_out


def window_scores(
    truth: torch.Tensor, prediction: torch.Tensor, hidden: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Pearson r and normalised squared error of each window over its hidden samples.

    truth, prediction `[B, C, T]`, hidden bool `[B, C, N]`. Returns fp64 `[B]` each: `r` pools all
    channels (0 for a constant prediction, NaN for a constant truth), `nmse` is the summed squared
    error over the summed square of the truth (1 for predicting zero; NaN for a truth of zero).
    """
    hidden_T = samples_of(hidden, truth.shape[-1])
    return {
        "r": correlation(truth, prediction, hidden_T),
        "nmse": _nmse(truth.double(), prediction.double(), hidden_T),
    }


def channel_correlation(
    truth: torch.Tensor, prediction: torch.Tensor, hidden: torch.Tensor
) -> torch.Tensor:
    """Pearson r of each channel over its own hidden samples, fp64 `[B, C]`; NaN where none is."""
    hidden_T = samples_of(hidden, truth.shape[-1])
    return correlation(truth[:, :, None], prediction[:, :, None], hidden_T[:, :, None])


def band_pass(
    signal: torch.Tensor, bands: Mapping[str, tuple[float, float]], sfreq_hz: float
) -> dict[str, torch.Tensor]:
    """Each band of `[B, C, T]`, same shape: one Fourier transform forth, one back for each band.

    The filter keeps the Fourier frequencies with low <= f < high and no other; the window is taken
    as periodic.
    """
    spectrum = torch.fft.rfft(signal)
    frequencies = np.fft.rfftfreq(signal.shape[-1], 1 / sfreq_hz)
    return {
        name: torch.fft.irfft(
            spectrum * torch.from_numpy(_in_band(frequencies, low, high)).to(signal.device),
            n=signal.shape[-1],
        )
        for name, (low, high) in bands.items()
    }


def band_scores(
    truth_bands: Mapping[str, torch.Tensor],
    completed_bands: Mapping[str, torch.Tensor],
    hidden: torch.Tensor,
) -> dict[str, dict[str, torch.Tensor]]:
    """For each band, over the hidden samples: `r`, `log_spectral_error_db` and
    `signed_log_spectral_error_db`, fp64 `[B]` each.

    Both arguments come from `band_pass`: of the truth, and of the completed window (prediction
    where hidden, truth elsewhere). The signed error is 10 log10(power / true power), -60 dB at
    least: below 0 where the reconstruction is too weak. The other is its size.
    """
    scores = {}
    for name, truth in truth_bands.items():
        completed = completed_bands[name]
        hidden_T = samples_of(hidden, truth.shape[-1])
        true_power, power = (
            torch.where(hidden_T, signal.double(), 0.0).square().sum((-2, -1))
            for signal in (truth, completed)
        )
        ratio = (power / true_power).clamp_min(SMALLEST_POWER_RATIO)
        signed_db = torch.where(true_power > 0, 10 * ratio.log10(), math.nan)
        scores[name] = {
            "r": correlation(truth, completed, hidden_T),
            "log_spectral_error_db": signed_db.abs(),
            "signed_log_spectral_error_db": signed_db,
        }
    return scores


def correlation(truth: torch.Tensor, prediction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pearson r over the last two axes where `mask`, fp64 `[...]`.

    0 where the prediction is constant, NaN where the truth is (or fewer than two samples count).
    """
    count = mask.sum((-2, -1), keepdim=True)
    a, b = (torch.where(mask, x.double(), 0.0) for x in (truth, prediction))
    powers = [x.square().sum((-2, -1)) for x in (a, b)]
    a, b = (
        torch.where(mask, x - x.sum((-2, -1), keepdim=True) / count.clamp_min(1), 0.0)
        for x in (a, b)
    )
    variations = [x.square().sum((-2, -1)) for x in (a, b)]
    # What is left of a constant after its mean is rounding: 1e-16 of its size, squared.
    varies = [v > 1e-20 * p for v, p in zip(variations, powers, strict=True)]
    product = (variations[0] * variations[1]).sqrt()
    r = (a * b).sum((-2, -1)) / torch.where(product > 0, product, 1.0)
    r = torch.where(varies[1], r, 0.0)
    return torch.where(varies[0] & (count[..., 0, 0] > 1), r, math.nan)


def samples_of(hidden: torch.Tensor, n_samples: int) -> torch.Tensor:
    """`[..., N]` patches -> `[..., T]` samples."""
    return hidden.repeat_interleave(n_samples // hidden.shape[-1], dim=-1)


def mean_with_interval(values: Iterable[float]) -> dict:
    """The mean over subjects, with the 95 % interval of Student's t: JSON-able.

    values: one for each subject; NaN ones are left out. Returns mean, low, high (None where there
    is nothing to say: below three subjects there is a mean but no interval) and subjects.
    Correlations are taken as they are, without Fisher's z: the mean that is reported is one of r,
    and differences of r have no z. So an interval close to 1 may reach beyond it.
    """
    kept = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    summary = {"mean": None, "low": None, "high": None, "subjects": len(kept)}
    if not len(kept):
        return summary
    summary["mean"] = float(kept.mean())
    if len(kept) < FEWEST_SUBJECTS:
        return summary | {"note": f"{len(kept)} subjects: too few for an interval"}
    half = float(student_t.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / math.sqrt(len(kept)))
    return summary | {"low": summary["mean"] - half, "high": summary["mean"] + half}


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict:
    """`mean_with_interval` of first - second over the subjects that both have."""
    return mean_with_interval([first[key] - second[key] for key in first if key in second])


def verdict(difference: Mapping) -> str:
    """What a difference with its interval allows to say: `above`, `below` or `not told apart`."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return "not told apart"
    return "above" if difference["low"] > 0 else "below"


def _nmse(truth: torch.Tensor, prediction: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    error = torch.where(mask, prediction - truth, 0.0).square().sum((-2, -1))
    power = torch.where(mask, truth, 0.0).square().sum((-2, -1))
    return torch.where(power > 0, error / torch.where(power > 0, power, 1.0), math.nan)


def _in_band(frequencies_hz: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    # 1e-9: a frequency that is an edge must not fall to either side by rounding.
    return (frequencies_hz >= low_hz - 1e-9) & (frequencies_hz < high_hz - 1e-9)
