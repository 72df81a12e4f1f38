"""Several ways of filling the same gaps, scored side by side.

The one loop behind the report, and behind the before-and-after of fine-tuning. Every method gets
the same windows and masks, is handed windows whose hidden samples are zeroed (so that none can
look), and is scored by `trainer.scoring.scores`. Scores are kept for each window and averaged later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from data.shards.manifest import Manifest
from model.config import ModelConfig
from trainer.scoring.baselines import Fill
from trainer.scoring.fill_scores import BAND_METRICS, GAINED_METRICS, MaskedBatch, Metric
from trainer.scoring.held_out import WindowBatch, draw_masks
from trainer.scoring.scores import (
    band_pass,
    mean_with_interval,
    paired_difference,
    usable_bands,
)

ALL = "all subjects"
"""The group of every subject of every dataset."""


@dataclass(frozen=True)
class Example:
    """One window for a figure: truth, fill `[C, T]`, hidden `[C, N]`; scale_uv None: no volts."""

    dataset: str
    subject: str
    kind: str
    channels: tuple[str, ...]
    truth: np.ndarray
    fill: np.ndarray
    hidden: np.ndarray
    scale_uv: float | None
    r: float


@dataclass
class Comparison:
    """Scores of every window. Summaries are plain, JSON-able dicts."""

    methods: tuple[str, ...]
    kinds: tuple[str, ...]
    gained: bool = False
    """Whether spectra were also compared after a gain."""
    bands: dict[str, dict] = field(default_factory=dict)
    """dataset -> {"hz": {band: [low, high]}, "left_out": {band: why}}."""
    positions_m: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """dataset -> channel -> place."""
    impossible: set[tuple[str, str]] = field(default_factory=set)
    """(dataset, kind) that could not be drawn."""
    referenced: dict[str, bool] = field(default_factory=dict)
    """dataset -> whether all its windows sum to zero over channels, and fills were made to."""
    examples: list[Example] = field(default_factory=list)
    _windows: dict = field(default_factory=dict)  # kind, method, metric, (dataset, subject): list
    _channels: dict = field(default_factory=dict)  # dataset, kind, method, channel, subject: list

    def metrics(self, group: str) -> list[Metric]:
        """What a dataset (or `ALL`) was scored by: r, nmse, and several scores for each band."""
        bands = dict.fromkeys(
            band
            for dataset, entry in self.bands.items()
            if group in (ALL, dataset)
            for band in entry["hz"]
        )
        scores = (*BAND_METRICS, *(GAINED_METRICS if self.gained else ()))
        whole: list[Metric] = [("r",), ("nmse",), ("r_without_reference",)]
        return [*whole, *(("bands", band, *score) for band in bands for score in scores)]

    def subject_means(self, group: str, kind: str, method: str, metric: Metric) -> dict[str, float]:
        """{subject: mean over windows}; subjects of `ALL` are called DATASET/SUBJECT."""
        scores = self._windows.get(kind, {}).get(method, {}).get(metric, {})
        return {
            f"{dataset}/{subject}" if group == ALL else subject: _finite_mean(values)
            for (dataset, subject), values in scores.items()
            if group in (ALL, dataset)
        }

    def summary(self, group: str, reference: str) -> dict:
        """kind -> method -> metric -> mean with interval; metrics of bands nest, and what the
        `reference` method scores more than another is under "REFERENCE_minus_this"."""
        result: dict = {}
        for kind in self.kinds:
            if not self.subject_means(group, kind, reference, ("r",)):
                continue
            for method in self.methods:
                for metric in self.metrics(group):
                    means = self.subject_means(group, kind, method, metric)
                    value = mean_with_interval(means.values())
                    _put(result, (kind, method, *metric), value)
                    if method != reference:
                        other = self.subject_means(group, kind, reference, metric)
                        gain = paired_difference(other, means)
                        _put(result, (kind, method, f"{reference}_minus_this", *metric), gain)
        return result

    def by_subject(self, dataset: str) -> dict:
        """subject -> kind -> method -> {"r", "nmse"}; None for what has no value."""
        result: dict = {}
        for kind in self.kinds:
            for method in self.methods:
                for metric in ("r", "nmse"):
                    means = self.subject_means(dataset, kind, method, (metric,))
                    for subject, value in means.items():
                        where = (subject, kind, method, metric)
                        _put(result, where, value if np.isfinite(value) else None)
        return result

    def by_channel(self, dataset: str, kind: str, method: str) -> dict[str, float]:
        """{channel: r}: mean over a subject's windows, then over subjects."""
        channels = self._channels.get(dataset, {}).get(kind, {}).get(method, {})
        return {
            channel: float(np.mean([np.mean(values) for values in subjects.values()]))
            for channel, subjects in channels.items()
        }

    def add(self, batch: WindowBatch, kind: str, method: str, scores: dict[Metric, torch.Tensor]):
        """Keep a batch's scores, `[B]` for each metric."""
        for metric, values in scores.items():
            for subject, value in zip(batch.subjects, values.tolist(), strict=True):
                _append(self._windows, (kind, method, metric, (batch.dataset, subject)), value)

    def add_channels(self, batch: WindowBatch, kind: str, method: str, r_BC: torch.Tensor):
        """Keep each channel's r, `[B, C]`; NaN where nothing of it was hidden."""
        for subject, row in zip(batch.subjects, r_BC.tolist(), strict=True):
            for channel, value in zip(batch.channels, row, strict=True):
                if np.isfinite(value):
                    where = (batch.dataset, kind, method, channel, subject)
                    _append(self._channels, where, value)


def bands_of(manifest: Manifest, dataset: str, patch_samples: int) -> dict:
    """The bands a dataset is scored in, {"hz", "left_out"}: what its shortest window resolves, cut
    to the profile's pass band and to its slowest source recording."""
    profile = manifest.profile
    shards = [shard for shard in manifest.shards if shard.dataset == dataset]
    shortest = min(shard.window_samples for shard in shards)
    sources_hz = [
        record["source_sfreq_hz"]
        for record in manifest.recordings
        if record["dataset"] == dataset and record.get("source_sfreq_hz")
    ]
    slowest_hz = min([profile["sfreq_hz"], *sources_hz])
    usable, left_out = usable_bands(
        profile["sfreq_hz"],
        shortest // patch_samples * patch_samples,
        profile.get("l_freq_hz", 0.0),
        min(profile.get("h_freq_hz", slowest_hz), 0.45 * slowest_hz),
    )
    return {"hz": {name: list(edges) for name, edges in usable.items()}, "left_out": left_out}


@torch.no_grad()
def compare(
    fills: Mapping[str, Fill],
    batches: Iterable[WindowBatch],
    manifest: Manifest,
    config: ModelConfig,
    *,
    kinds: Sequence[str],
    mask_ratio: float,
    seed: int,
    gains: Mapping[str, Mapping[str, float]] | None = None,
    example_of: str | None = None,
    total: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Score every fill on every batch under every kind of mask.

    gains: kind -> method -> factor, after which spectra are compared once more; None: they are
    not.
    `example_of` names the fill of which one window of each dataset and kind is kept as an example;
    `total` is the number of windows, for the progress bar.
    """
    result = Comparison(tuple(fills), tuple(kinds), bool(gains))
    illustrated: set[tuple[str, str]] = set()
    with tqdm(total=total, unit="window", desc="scoring", disable=not progress) as bar:
        for batch in batches:
            if batch.dataset not in result.bands:
                result.bands[batch.dataset] = bands_of(
                    manifest, batch.dataset, config.patch_samples
                )
            known = result.bands[batch.dataset]
            places = result.positions_m.setdefault(batch.dataset, {})
            for channel, place in zip(batch.channels, batch.positions_m.tolist(), strict=True):
                places.setdefault(channel, place)
            truth_bands = band_pass(batch.eeg, known["hz"], config.sfreq_hz)
            for kind in kinds:
                hidden = draw_masks(kind, batch, config, mask_ratio, seed)
                if hidden is None:
                    result.impossible.add((batch.dataset, kind))
                    continue
                case = MaskedBatch(batch, hidden, known["hz"], truth_bands, config.sfreq_hz)
                sums = result.referenced.get(batch.dataset, True) and case.referenced
                result.referenced[batch.dataset] = sums
                for method, fill in fills.items():
                    # A kind that validation people could not be hidden by has no gain.
                    gain = gains.get(kind, {}).get(method, 1.0) if gains else None
                    scores, r_BC, completed = case.score(fill, gain)
                    result.add(batch, kind, method, scores)
                    result.add_channels(batch, kind, method, r_BC)
                    if method == example_of and (batch.dataset, kind) not in illustrated:
                        illustrated.add((batch.dataset, kind))
                        r = scores["r",]
                        result.examples.append(_example(batch, kind, completed, hidden, r))
            bar.update(len(batch))
    return result


def _example(batch, kind, completed, hidden, r) -> Example:
    # The window of median score: the best would flatter, the first may be an outlier.
    index = int(r.nan_to_num(-2.0).argsort()[len(r) // 2])
    return Example(
        dataset=batch.dataset,
        subject=batch.subjects[index],
        kind=kind,
        channels=batch.channels,
        truth=batch.eeg[index].numpy(),
        fill=completed[index].numpy(),
        hidden=hidden[index].numpy(),
        scale_uv=batch.scales_uv[index],
        r=float(r[index]),
    )


def _finite_mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _append(tree: dict, path: Sequence, value: float) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree.setdefault(path[-1], []).append(value)


def _put(tree: dict, path: Sequence[str], value) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
