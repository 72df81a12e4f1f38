"""What fine-tuning changed: masked scores, amplitudes and spectra, before and after.

Both models fill the same gaps of the same held-out windows, next to interpolation. For amplitudes
and spectra every patch of a window is reconstructed once, from a mask and from its complement, so
that both describe reconstructed samples alone; where the two passes meet, the reconstruction may
jump, and the spectrum shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.signal import welch
from scipy.stats import wasserstein_distance

from data.errors import InputError
from data.files import write_atomic
from data.manifest import Manifest
from model.autoencoder import MaskedVAE
from trainer.baselines import BASELINES, Fill, on_device
from trainer.comparison import ALL, Comparison, compare
from trainer.figures import adaptation_figure
from trainer.held_out import HeldOutWindows, WindowBatch, draw_masks, kinds_for, known_subjects
from trainer.known import people_of, recordings_of, renamed_recordings
from trainer.report import interval, plural, save_figure, short_table, table, write_json
from trainer.scores import mean_with_interval, samples_of

SIGNAL = "signal"
VALUES_A_SUBJECT = 200_000
"""Amplitudes kept of each subject, evenly spaced: their distribution needs no more."""


class Distributions:
    """Amplitudes and mean power spectra of a signal and of its reconstructions, by subject."""

    def __init__(self, sfreq_hz: float, segment_samples: int):
        self.sfreq_hz, self.segment_samples = sfreq_hz, segment_samples
        self.frequencies_hz = np.fft.rfftfreq(segment_samples, 1 / sfreq_hz)
        self._values: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
        self._spectra: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}

    def add(self, batch: WindowBatch, name: str, signal: torch.Tensor) -> None:
        """signal `[B, C, T]`: the windows themselves, or a reconstruction of them."""
        array = signal.double().numpy()
        _, power = welch(array, self.sfreq_hz, nperseg=self.segment_samples)
        for subject, window, spectrum in zip(batch.subjects, array, power, strict=True):
            key = (batch.dataset, subject)
            self._values.setdefault(key, {}).setdefault(name, []).append(window.ravel())
            self._spectra.setdefault(key, {}).setdefault(name, []).append(spectrum.mean(0))

    def names(self) -> list[str]:
        return list(next(iter(self._values.values())))

    def values(self, subject: tuple[str, str], name: str) -> np.ndarray:
        """Amplitudes of a subject; the same samples for every name."""
        everything = np.concatenate(self._values[subject][name])
        return everything[:: max(1, len(everything) // VALUES_A_SUBJECT)]

    def spectrum(self, subject: tuple[str, str], name: str) -> np.ndarray:
        """Power `[F]` of a subject, mean over channels and windows."""
        return np.mean(self._spectra[subject][name], axis=0)

    def pooled(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(amplitudes, spectrum in dB) over all subjects, for the figure."""
        subjects = list(self._values)
        power = np.mean([self.spectrum(subject, name) for subject in subjects], axis=0)
        values = np.concatenate([self.values(subject, name) for subject in subjects])
        return values, 10 * np.log10(np.maximum(power, 1e-12))

    def distances(self, bands: Mapping[str, Mapping[str, list[float]]], seed: int) -> dict:
        """name -> distances from the signal: mean over subjects with interval.

        wasserstein_1 of the amplitudes (robust units); std_ratio (1 is right, less is too small);
        band_db: 10 log10 of the power ratio in each band; spectrum_db: mean of their sizes. bands:
        {dataset: {band: [low, high] Hz}}.
        """
        result = {}
        for name in self.names():
            if name == SIGNAL:
                continue
            rows = [self._distance(subject, name, bands[subject[0]]) for subject in self._values]
            seen = dict.fromkeys(metric for row in rows for metric in row)
            means = {
                metric: mean_with_interval([row[metric] for row in rows if metric in row], seed)
                for metric in seen
            }
            plain = ("wasserstein_1", "std_ratio", "spectrum_db")
            result[name] = {metric: means[metric] for metric in plain if metric in means}
            result[name]["band_db"] = {m: v for m, v in means.items() if m not in plain}
        return result

    def _distance(self, subject, name, bands) -> dict[str, float]:
        signal, filled = self.values(subject, SIGNAL), self.values(subject, name)
        row = {
            "wasserstein_1": float(wasserstein_distance(signal, filled)),
            "std_ratio": float(filled.std() / signal.std()) if signal.std() else float("nan"),
        }
        powers = [self.spectrum(subject, n) for n in (name, SIGNAL)]
        sizes = []
        for band, (low, high) in bands.items():
            inside = (self.frequencies_hz >= low - 1e-9) & (self.frequencies_hz < high - 1e-9)
            ours, true = (max(float(power[inside].sum()), 1e-12) for power in powers)
            row[band] = 10 * float(np.log10(ours / true))
            sizes.append(abs(row[band]))
        if sizes:
            row["spectrum_db"] = float(np.mean(sizes))
        return row


def adaptation_report(
    before_model: MaskedVAE,
    after_model: MaskedVAE,
    manifest: Manifest,
    split: str,
    out: str | Path,
    *,
    trained_on: dict | None = None,
    windows: int = 400,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict:
    """Write adaptation.json, adaptation.md and adaptation.png into `out`; returns the JSON's dict.

    Scores about `windows` windows of the split, evenly over its subjects, under the mask ratio of
    `after_model`. trained_on: whom that model was trained on, as its description says; a report on
    any of them is marked. Its "summary" is a short text for the terminal. Raises InputError where
    the models' tokens differ, the shards do not fit them or the split is empty.
    """
    config, out = after_model.config, Path(out)
    for name in ("tokens", "patch_samples", "sfreq_hz"):
        ours, theirs = getattr(config, name), getattr(before_model.config, name)
        if ours != theirs:
            raise InputError(
                f"{name} is {theirs} before and {ours} after fine-tuning",
                "compare models that cut the signal in the same way",
            )
    device = torch.device(device)
    models = {"before": before_model.to(device).eval(), "after": after_model.to(device).eval()}
    fills: dict[str, Fill] = {
        name: on_device(model.reconstruct, device) for name, model in models.items()
    }
    chosen = HeldOutWindows(manifest, split, config, total=windows)
    comparison = compare(
        {**fills, **BASELINES},
        chosen.batches(),
        manifest,
        config,
        kinds=kinds_for(config, None),
        mask_ratio=config.mask_ratio,
        seed=seed,
        total=len(chosen),
        progress=progress,
    )
    distributions = _distributions({**fills, "spline": BASELINES["spline"]}, chosen, config, seed)
    known = known_subjects(chosen.windows_of(), trained_on, people_of(manifest))
    copies = renamed_recordings(recordings_of(manifest, split), trained_on)
    report = _build(comparison, distributions, chosen, manifest, split, seed, (known, copies))
    out.mkdir(parents=True, exist_ok=True)
    save_figure(out / "adaptation.png", _figure(report, distributions))
    write_atomic(out / "adaptation.md", _markdown(report).encode())
    write_json(out / "adaptation.json", report)
    return report


@torch.no_grad()
def _distributions(fills, chosen: HeldOutWindows, config, seed: int) -> Distributions:
    """Every patch of every window, reconstructed once."""
    kind = "block" if config.tokens == "channel" else "time"
    shortest = min(reader.shard.window_samples for reader in chosen.readers)
    result = Distributions(config.sfreq_hz, shortest // config.patch_samples * config.patch_samples)
    for batch in chosen.batches():
        mask = draw_masks(kind, batch, config, 0.5, seed)
        result.add(batch, SIGNAL, batch.eeg)
        for name, fill in fills.items():
            whole = torch.zeros_like(batch.eeg)
            for hidden in (mask, ~mask):
                hidden_T = samples_of(hidden, batch.eeg.shape[2])
                filled = fill(batch.eeg.masked_fill(hidden_T, 0.0), batch.positions_m, hidden)
                whole = torch.where(hidden_T, filled.float(), whole)
            result.add(batch, name, whole)
    return result


def _build(comparison: Comparison, distributions, chosen, manifest, split, seed, seen) -> dict:
    counts = chosen.windows_of()
    bands = {dataset: entry["hz"] for dataset, entry in comparison.bands.items()}
    report = {
        "split": split,
        "trained_subjects": seen[0],
        "trained_recordings": seen[1],
        "shards": str(manifest.folder),
        "manifest_sha256": manifest.sha256,
        "windows": counts,
        "bands": comparison.bands,
        "masked": comparison.summary(ALL, "after"),
        "by_subject": {dataset: comparison.by_subject(dataset) for dataset in counts},
        "reconstruction": distributions.distances(bands, seed),
    }
    distances = report["reconstruction"]
    lines = [short_table(report["masked"]), ""]
    for metric, label in (
        ("std_ratio", "amplitude, std ratio to the signal"),
        ("wasserstein_1", "amplitude, Wasserstein-1 (robust units)"),
        ("spectrum_db", "spectrum, mean difference over bands (dB)"),
    ):
        values = [f"{name} {interval(entry[metric])}" for name, entry in distances.items()
                  if metric in entry]  # fmt: skip
        if values:
            lines.append(f"{label}: {', '.join(values)}")
    report["summary"] = "\n".join([_whom(report), "", *lines])
    return report


def _whom(report: dict, names: bool = True) -> str:
    """Whom a report is about, and whether they were trained on; with or without all names."""
    subjects = sum(len(s) for s in report["windows"].values())
    total = sum(n for s in report["windows"].values() for n in s.values())
    text = f"{plural(total, 'window')} of {plural(subjects, 'subject')}, {report['split']} split"
    if copies := report["trained_recordings"]:
        return (
            f"TRAINED ON: {text}; {plural(len(copies), 'file')} under another name"
            f"{': ' * names}{'; '.join(copies) * names}; this says nothing about new people"
        )
    if report["trained_subjects"] is None:
        return f"{text}; it is not known whom the model was trained on"
    if report["trained_subjects"]:
        return f"TRAINED ON: {text}; this says nothing about new people"
    return f"{text}: people that the model was not trained on"


def _markdown(report: dict) -> str:
    masked, distances = report["masked"], report["reconstruction"]
    methods = list(next(iter(masked.values())))
    lines = ["# Adaptation: before and after fine-tuning", "", _whom(report), ""]
    for score, label in (("r", "r"), ("nmse", "NMSE")):
        rows = [[kind, *(interval(e[m][score]) for m in methods)] for kind, e in masked.items()]
        lines += table([f"{label}, hidden samples", *methods], rows)
    rows = [
        [kind, *(interval(e[m]["after_minus_this"]["r"]) for m in methods if m != "after")]
        for kind, e in masked.items()
    ]
    lines += table(["r after minus that of", *(m for m in methods if m != "after")], rows)
    lines += [
        "Every patch reconstructed once, from a mask and its complement, against the signal:",
        "",
    ]
    rows = []
    for metric in ("std_ratio", "wasserstein_1", "spectrum_db"):
        if all(metric in entry for entry in distances.values()):
            rows.append([metric, *(interval(entry[metric]) for entry in distances.values())])
    for band in next(iter(distances.values()))["band_db"]:
        cells = [interval(entry["band_db"][band]) for entry in distances.values()]
        rows.append([f"{band} (dB, signed)", *cells])
    lines += table(["distance", *distances], rows)
    lines += ["![before and after](adaptation.png)", ""]
    return "\n".join(lines)


def _figure(report: dict, distributions: Distributions):
    shown = (SIGNAL, "before", "after")
    pooled = {name: distributions.pooled(name) for name in shown}
    masked = {
        kind: {m: entry["r"] for m, entry in methods.items() if m != "zero"}
        for kind, methods in report["masked"].items()
    }
    return adaptation_figure(
        {name: values for name, (values, _) in pooled.items()},
        {name: spectrum for name, (_, spectrum) in pooled.items()},
        distributions.frequencies_hz,
        masked,
        "robust units",
        f"Before and after fine-tuning ({_whom(report, names=False)})",
    )
