"""The rules of a fair comparison: the reference gives nothing away, spectra after one gain, the
spline's regularisation from validation people, and a headline against the best baseline."""

from __future__ import annotations

import math

import pytest
import torch
from known_signals import PATCH, SAMPLES, SFREQ_HZ, draw, known_kernel, write_known_shards

from data.errors import InputError
from data.shards.manifest import read_manifest
from model.config import preset
from model.interpolation import ALPHA, referenced_spline_fill, respect_reference, sums_to_zero
from trainer.reports.report import build_report, write_json
from trainer.reports.stated_scores import describe_scores, read_scores
from trainer.reports.tables import headline_lines
from trainer.scoring.baselines import spline, spline_of
from trainer.scoring.calibration import ALPHAS, calibrate
from trainer.scoring.closed_forms import closed_forms, headline
from trainer.scoring.compare import ALL, compare
from trainer.scoring.gauss_kernel import GaussFill
from trainer.scoring.held_out import HeldOutWindows
from trainer.scoring.scores import samples_of, verdict

PEOPLE = {
    "1": ("train", 1, 12), "2": ("train", 2, 10), "3": ("val", 3, 11), "4": ("val", 1, 12),
    "5": ("test", 3, 11), "6": ("test", 3, 11), "7": ("test", 4, 11), "8": ("test", 1, 12),
}  # fmt: skip
R = 0.6


@pytest.fixture(scope="module")
def referenced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("referenced")
    return read_manifest(write_known_shards(folder, PEOPLE, windows=24))


@pytest.fixture(scope="module")
def monopolar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monopolar")
    return read_manifest(write_known_shards(folder, PEOPLE, 24, average_reference=False))


def config():
    return preset("tiny", sfreq_hz=SFREQ_HZ, patch_samples=PATCH)


def scored(manifest, fills, kinds=("random", "channel"), split="test", **changes):
    windows = HeldOutWindows(manifest, split, config())
    settings = {"kinds": kinds, "mask_ratio": 0.5, "seed": 0, "progress": False, **changes}
    return compare(fills, windows.batches(), manifest, config(), **settings)


def beside(manifest, models, kinds=("random", "channel"), split="test"):
    settings = {"scored": split, "kinds": kinds, "mask_ratio": 0.5, "seed": 0}
    return closed_forms(models, manifest, config(), **settings)


def mean_r(comparison, kind, method, metric="r"):
    return comparison.summary(ALL, method)[kind][method][metric]["mean"]


class Shrunken:
    """Of each window r^2 times the signal and as much again as makes its correlation r: what the
    best prediction of correlation r looks like, with nothing wrong in its spectrum."""

    def __init__(self, manifest, kernel):
        self.windows = []
        for split in ("val", "test", "train"):
            for batch in HeldOutWindows(manifest, split, config()).batches():
                noise = draw(kernel, batch.positions_m.double(), len(batch), 77)
                size = batch.eeg.std() / noise.std()
                other = R * batch.eeg + math.sqrt(1 - R**2) * size * noise
                self.windows += zip(batch.eeg, R * other, strict=True)

    def __call__(self, given, positions_m, hidden):
        found = []
        for window, gone in zip(given, samples_of(hidden, SAMPLES), strict=True):
            (fill,) = (
                shrunken
                for truth, shrunken in self.windows
                if truth.shape == window.shape and torch.equal(truth.masked_fill(gone, 0), window)
            )
            found.append(torch.where(gone, fill.double(), window.double()))
        return torch.stack(found)


def test_knowing_the_reference_is_worth_nothing_in_the_score(referenced):
    """The spline does not know that channels sum to zero, its twin does; so with the Gaussian."""
    gauss = GaussFill(known_kernel(average_reference=True))

    def drifting(eeg, where, hidden):
        gone = samples_of(hidden, SAMPLES)
        return torch.where(gone, spline(eeg, where, hidden) + 0.02 * torch.arange(SAMPLES), eeg)

    comparison = scored(
        referenced,
        {
            "spline": spline,
            "that knows": lambda *given: referenced_spline_fill(given[0].double(), *given[1:]),
            "drifting": drifting,
            "gauss": gauss,
            "gauss that knows": lambda *given: respect_reference(gauss(*given), given[2]),
        },
    )
    assert comparison.referenced == {"known": True}
    for kind in comparison.kinds:
        without = [mean_r(comparison, kind, m, "r_without_reference") for m in comparison.methods]
        assert without[1] > without[0] + 0.02, "the reference gives something away"
        assert without[2] < without[0]
        spline_r, knows_r, drifting_r, gauss_r, gauss_knows_r = (
            mean_r(comparison, kind, method) for method in comparison.methods
        )
        assert spline_r == pytest.approx(knows_r, abs=1e-9)
        assert spline_r == pytest.approx(drifting_r, abs=1e-6)
        assert gauss_r == pytest.approx(gauss_knows_r, abs=1e-6)


def test_without_an_average_reference_fills_are_scored_as_they_are(monopolar):
    comparison = scored(monopolar, {"spline": spline, "gauss": GaussFill(known_kernel())})
    assert comparison.referenced == {"known": False}
    for kind in comparison.kinds:
        for method in comparison.methods:
            assert mean_r(comparison, kind, method) == mean_r(
                comparison, kind, method, "r_without_reference"
            )


def test_the_constrained_fill_is_the_nearest_that_sums_to_zero():
    eeg = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0)).double()
    eeg -= eeg.mean(1, keepdim=True)
    assert sums_to_zero(eeg)
    assert not sums_to_zero(eeg + 0.3)
    hidden = torch.zeros(2, 5, 4, dtype=torch.bool)
    hidden[:, :2, :2] = True
    gone = samples_of(hidden, 40)
    filled = torch.where(gone, torch.tensor(3.0).double(), eeg)
    kept = respect_reference(filled, hidden)
    assert torch.equal(kept[~gone], eeg[~gone])
    assert float(kept.sum(1).abs().max()) < 1e-12
    # Orthogonal to every change that keeps the sum: the hidden channels move together.
    moved = (kept - filled)[:, :2, :20]
    torch.testing.assert_close(moved[:, 0], moved[:, 1])


def test_shrinkage_is_20_log10_r_before_the_gain_and_nothing_after(monopolar):
    kinds = ("channel", "tube")
    forms = beside(monopolar, {"model": Shrunken(monopolar, known_kernel())}, kinds)
    for kind in kinds:
        assert forms.calibration.gains[kind].keys() == forms.fills.keys()
        assert forms.calibration.gains[kind]["model"] == pytest.approx(1 / R, rel=0.08)
    comparison = scored(monopolar, forms.fills, kinds, gains=forms.calibration.gains)
    for kind, methods in comparison.summary(ALL, "model").items():
        entry = methods["model"]
        assert entry["r"]["mean"] == pytest.approx(R, abs=0.05)
        assert entry["bands"], kind
        for band, found in entry["bands"].items():
            before = found["signed_log_spectral_error_db"]["mean"]
            after = found["after_gain"]["signed_log_spectral_error_db"]["mean"]
            assert before == pytest.approx(20 * math.log10(R), abs=1.0), (kind, band)
            assert after == pytest.approx(0.0, abs=1.0), (kind, band)
        # Baselines are given theirs too: a Gaussian's prediction is as cautious as the model's.
        signed = [
            sum(x["mean"] for x in errors) / len(errors)
            for errors in (
                [f["signed_log_spectral_error_db"] for f in methods["gauss"]["bands"].values()],
                [
                    f["after_gain"]["signed_log_spectral_error_db"]
                    for f in methods["gauss"]["bands"].values()
                ],
            )
        ]
        assert signed[0] < -0.5
        assert signed[1] > signed[0]


def test_the_regularisation_is_chosen_on_validation_people_alone(monopolar):
    settings = {"kinds": ("random", "channel"), "mask_ratio": 0.5, "seed": 0}
    found = calibrate({}, monopolar, config(), scored="test", **settings)
    assert found.people == {"known": ["3", "4"]}
    assert tuple(found.alpha_r) == ALPHAS
    assert found.alpha_r[found.alpha] >= max(found.alpha_r.values()) - 1e-4
    # Sensors are noisy here: MNE's choice, made for clean ones, is too stiff.
    assert found.alpha > ALPHA
    comparison = scored(monopolar, {"MNE's": spline, "chosen": spline_of(found.alpha)})
    for kind in comparison.kinds:
        assert mean_r(comparison, kind, "chosen") > mean_r(comparison, kind, "MNE's")
    assert not calibrate({}, monopolar, config(), scored="val", **settings).people


def test_the_headline_is_against_the_best_baseline(monopolar):
    forms = beside(monopolar, {"model": spline})
    comparison = scored(monopolar, forms.fills)
    found = headline(comparison, ALL, "model", forms.baselines)
    assert list(found) == ["random", "channel"]
    for kind, entry in found.items():
        ours, best = (
            comparison.subject_means(ALL, kind, name, ("r",)) for name in ("model", "gauss")
        )
        assert entry["baseline"] == "gauss"
        expected = sum(ours[s] - best[s] for s in ours) / len(ours)
        assert entry["difference"]["mean"] == pytest.approx(expected)
        assert entry["difference"]["subjects"] == 4
        assert entry["verdict"] == "below"
    (line,) = headline_lines({"random": found["random"]}, "model")
    assert line.startswith("random  model minus the best baseline (gauss): -0.")
    assert line.endswith("]: below")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.03, "above"),
        (-0.03, -0.01, "below"),
        (-0.01, 0.03, "not told apart"),
        (0.0, 0.03, "not told apart"),
        (None, None, "not told apart"),
    ],
)
def test_nothing_is_claimed_within_the_noise(low, high, expected):
    assert verdict({"mean": 0.01, "low": low, "high": high}) == expected


@pytest.mark.parametrize(("split", "flattered"), [("test", False), ("train", True)])
def test_a_gaussian_of_the_people_that_are_scored_is_marked(referenced, split, flattered):
    forms = beside(referenced, {}, ("random",), split)
    comparison = scored(referenced, forms.fills, ("random",), split)
    windows = HeldOutWindows(referenced, split, config()).windows_of()
    notes = "\n".join(forms.notes(referenced, windows, comparison))
    assert ("GAUSS WAS FITTED ON 2 of the people scored" in notes) == flattered
    assert "gauss: fitted on 48 windows of 2 people (known) in " in notes


def test_the_headline_goes_with_the_weights(monopolar, tmp_path):
    forms = beside(monopolar, {"model": spline})
    comparison = scored(monopolar, forms.fills)
    settings = {
        "model_path": str(tmp_path / "run"), "split": "test", "manifest_sha256": monopolar.sha256
    }  # fmt: skip
    windows = HeldOutWindows(monopolar, "test", config()).windows_of()
    report = build_report(comparison, windows, settings, ["TRAINED ON: 1"], forms.baselines)
    path = tmp_path / "report.json"
    write_json(path, report)
    told = describe_scores(read_scores(path, tmp_path / "run"))
    assert "> **TRAINED ON: 1**" in told
    for kind, entry in report["headline"].items():
        gap = entry["difference"]
        assert f"{gap['mean']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}] | below |" in told
        assert f"| {kind} |" in told
    with pytest.raises(InputError, match="score this run first"):
        read_scores(path, tmp_path / "another")
    path.write_text("{}")
    with pytest.raises(InputError, match="settings"):
        read_scores(path, tmp_path / "run")
