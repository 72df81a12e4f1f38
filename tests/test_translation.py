"""EEG to MEG: splits, order of samples, ridge regression, scores - the arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from data.batches.pairs import PairedMontage, PairedWindow
from data.errors import InputError
from data.subjects.holdout import Part, make_split
from model.brainformer import BrainformerConfig
from trainer.translation.baselines import correlation_by_fold, without_lags
from trainer.translation.config import TranslationConfig
from trainer.translation.evaluation import Evoked
from trainer.translation.fit import fit_processor
from trainer.translation.pieces import Pieces
from trainer.translation.ridge import fit_ridge, group_moments, lagged, reduced_rank, squared_error
from trainer.translation.scores import RecordingScores, SensorSums, difference, summarise

RECORDINGS = [
    {"id": f"s{subject}r{run}", "subject": f"{subject:02d}", "run": f"{run}", "dataset": "d"}
    for subject in (1, 2, 3, 4)
    for run in (1, 2)
]


def ids(parts) -> set[str]:
    return {part.recording for part in parts}


@pytest.mark.parametrize(
    ("rule", "test", "validation"),
    [
        ("loso:02", {"s2r1", "s2r2"}, {"s4r1", "s4r2"}),
        ("loso:03,04", {"s3r1", "s3r2", "s4r1", "s4r2"}, {"s2r1", "s2r2"}),
        ("auto", {"s4r1", "s4r2"}, {"s3r1", "s3r2"}),
        ("loro:2", {"s1r2", "s2r2", "s3r2", "s4r2"}, {"s4r1"}),
    ],
)
def test_groups_never_mix(rule, test, validation):
    split = make_split(rule, RECORDINGS)
    assert ids(split.test) == test
    assert ids(split.validation) == validation
    rest = ids(split.train)
    assert rest
    assert not rest & (test | validation)
    assert rest | test | validation == {entry["id"] for entry in RECORDINGS}
    assert set(split.trained_on()) == rest | validation


def test_time_split_keeps_the_end_for_the_test():
    split = make_split("time:0.5", RECORDINGS[:1])
    spans = [(one[0].start, one[0].stop) for one in (split.train, split.validation, split.test)]
    assert spans == [(0, 0.4), (0.4, 0.5), (0.5, 1)]


def test_one_group_left_is_cut_in_time_for_validation():
    split = make_split("loso:02", RECORDINGS[0:1] + RECORDINGS[2:3])
    assert ids(split.train) == ids(split.validation) == {"s1r1"}
    assert split.train[0].stop == split.validation[0].start == 0.8


@pytest.mark.parametrize(
    ("rule", "recordings", "message"),
    [
        ("loso:01", RECORDINGS[:2], "one subject only"),
        ("loro:1", RECORDINGS[::2], "one run only"),
        ("auto", RECORDINGS[:1], "one subject with one run"),
        ("loso:9", RECORDINGS, "no subject '9'"),
        ("loso", RECORDINGS, "no such rule"),
        ("chunks:3", RECORDINGS, "no such rule"),
        ("time:2", RECORDINGS, "between 0 and 1"),
        ("loso:01,02,03,04", RECORDINGS, "nothing is left"),
        ("auto", [], "no recordings"),
    ],
)
def test_impossible_splits_say_why(rule, recordings, message):
    with pytest.raises(InputError, match=message):
        make_split(rule, recordings)


def linear_world(groups: int = 4, lags: int = 1, noise: float = 0.1, seed: int = 0):
    """(samples, true weights `[Ct, Cs, lags]`): a map with lags, the same in all groups."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((6, 5, 2 * lags + 1))
    samples = []
    for group in range(groups):
        for _ in range(6):
            eeg = rng.standard_normal((5, 80))
            meg = np.einsum("mcj,jct->mt", weights, lagged(eeg, lags).reshape(-1, 5, 80))
            samples.append((f"g{group}", eeg, meg + noise * rng.standard_normal(meg.shape)))
    return samples, weights


TYPES = ("mag", "mag", "grad", "grad", "grad", "grad")


def test_ridge_finds_a_map_with_lags():
    samples, weights = linear_world()
    found = fit_ridge(group_moments(samples, 1), TYPES, 1)
    np.testing.assert_allclose(found.weights, weights, atol=0.02)
    _, eeg, meg = samples[0]
    assert np.corrcoef(found(eeg).ravel(), meg.ravel())[0, 1] > 0.99
    assert found.chosen["types"]["mag"]["held_out_error"] < 0.01


def test_lag_number_j_looks_back():
    eeg = np.arange(6.0)[None]
    rows = lagged(eeg, 1)
    assert rows.tolist() == [[1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]]


def test_moments_with_lags_hold_those_without():
    samples, _ = linear_world()
    plain, part = group_moments(samples, 0), without_lags(group_moments(samples, 1), 1)
    for name, one in plain.items():
        # float32 products of other shapes: their last digit depends on the processor.
        for found, wanted in ((part[name].gram, one.gram), (part[name].cross, one.cross)):
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7 * np.abs(wanted).max())


def test_error_from_moments_is_the_error():
    samples, _ = linear_world()
    moments = group_moments(samples, 0)
    weights = np.random.default_rng(1).standard_normal((5, 6))
    direct = sum(((meg - weights.T @ eeg) ** 2).sum(1) for g, eeg, meg in samples if g == "g0")
    np.testing.assert_allclose(squared_error(weights, moments["g0"]), direct, rtol=1e-5)


def test_the_penalty_grows_with_noise():
    penalties = []
    for noise in (0.1, 30.0):
        samples, _ = linear_world(noise=noise, lags=0)
        found = fit_ridge(group_moments(samples, 0), TYPES, 0)
        penalties.append(found.chosen["types"]["grad"]["penalty"])
    assert penalties[1] > 10 * penalties[0]


def test_reduced_rank_finds_the_rank():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((6, 2)), rng.standard_normal((2, 5))
    samples = []
    for group in range(4):
        eeg = rng.standard_normal((5, 300))
        meg = left @ right @ eeg
        samples.append((f"g{group}", eeg, meg + 0.5 * rng.standard_normal(meg.shape)))
    moments, types = group_moments(samples, 0), ("grad",) * 6
    ridge = fit_ridge(moments, types, 0)
    found = reduced_rank(moments, ridge, types, ranks=(1, 2, 4, 5))
    assert found.chosen["types"]["grad"]["rank"] == 2
    assert np.linalg.matrix_rank(found.weights[:, :, 0], tol=1e-6) == 2
    errors = [np.linalg.norm(one.weights[:, :, 0] - left @ right) for one in (found, ridge)]
    assert errors[0] < errors[1]


def test_one_group_cannot_choose_a_penalty():
    samples, _ = linear_world(groups=1)
    with pytest.raises(InputError, match="one training group"):
        fit_ridge(group_moments(samples, 0), TYPES, 0)


def test_shuffled_folds_remember_what_groups_do_not_share():
    """Each group has a map of its own: nothing can be known of a group left out."""
    samples = []
    for group in range(4):
        own, _ = linear_world(groups=1, lags=0, seed=group)
        samples += [(f"g{group}", eeg, meg) for _, eeg, meg in own]
    by_group = group_moments(samples, 0)
    shuffled = group_moments(
        ((f"f{number % 4}", eeg, meg) for number, (_, eeg, meg) in enumerate(samples)), 0
    )
    proper = correlation_by_fold(by_group, TYPES, 0)
    random = correlation_by_fold(shuffled, TYPES, 0)
    for kind in ("mag", "grad"):
        assert abs(proper[kind]) < 0.25
        assert random[kind] > proper[kind] + 0.15


def test_scores_are_those_of_the_whole_signal():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 60)) + 3
    y = 0.5 * x + rng.standard_normal((4, 60))
    mean = np.full(4, 2.5)
    sums = SensorSums(4)
    for part in (slice(0, 13), slice(13, 60)):
        sums.add(x[:, part], y[:, part], mean)
    found = sums.scores()
    np.testing.assert_allclose(
        found["r"], [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    )
    residual = ((x - y) ** 2).sum(1)
    np.testing.assert_allclose(found["r2"], 1 - residual / ((x - 2.5) ** 2).sum(1))
    np.testing.assert_allclose(found["error"], np.sqrt(residual / (x**2).sum(1)))


def test_constants_have_no_correlation():
    x = np.random.default_rng(0).standard_normal((2, 50))
    x[1] = 0.0
    sums = SensorSums(2)
    sums.add(x, np.full((2, 50), 7.0))
    assert sums.scores()["r"][0] == 0
    assert np.isnan(sums.scores()["r"][1])


def scored(quality: float, subject: str, seed: int) -> RecordingScores:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((6, 200))
    prediction = quality * truth + (1 - quality) * rng.standard_normal((6, 200))
    one = RecordingScores(tuple("abcdef"), TYPES, {"all": (1, 40)}, subject)
    one.add(truth, prediction, {"all": truth}, {"all": prediction})
    return one


def test_intervals_are_over_subjects():
    good = {f"r{n}": scored(0.8, f"s{n // 2}", n) for n in range(8)}
    poor = {f"r{n}": scored(0.2, f"s{n // 2}", n) for n in range(8)}
    found = summarise(good, "mag")
    assert found["unit"] == "subject"
    assert found["r"]["units"] == 4
    assert found["r"]["low"] < found["r"]["mean"] < found["r"]["high"]
    assert found["topography"]["mean"] > 0.7
    gap = difference(good, poor, "grad")
    assert gap["low"] > 0.3
    few = summarise({name: good[name] for name in ("r0", "r1", "r2")}, "grad")
    assert (few["unit"], few["r"]["units"]) == ("recording", 3)
    alone = summarise({"r0": good["r0"]}, "mag")
    assert alone["r"]["low"] is None


def test_evoked_responses_are_averages_over_trials():
    rng = np.random.default_rng(0)
    response = rng.standard_normal((3, 50))
    evoked = Evoked()
    for trial in range(40):
        noise = 5 * rng.standard_normal((2, 3, 50))
        prediction = {"good": response + noise[0], "none": noise[1]}
        evoked.add("face", response + 3 * rng.standard_normal((3, 50)), prediction)
        if trial == 0:
            evoked.add("once", response, prediction)
    assert (evoked.r("good") > 0.6).all()
    assert (np.abs(evoked.r("none")) < 0.45).all()
    alone = Evoked()
    alone.add("once", response, {"good": response})
    assert alone.r("good") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "--precision fp16"),
        ({"steps": 0}, "--steps 0"),
        ({"model": ("d_model=20",)}, "multiple of 2"),
        ({"model": ("skip_lags=300",)}, "shorter than a window"),
        ({"model": ("n_meg=3",)}, "the data say it"),
        ({"eval_every": 0}, "--eval_every 0"),
        ({"model": ("dropuot=0",)}, "no such field"),
        ({"model": ("dropout",)}, "key=value"),
        ({"model": ("skip=none",)}, "--linear_start ridge"),
        ({"meg_sensors": -1}, "negative"),
    ],
)
def test_config_says_what_does_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        TranslationConfig(**changes)


class Windows(list):
    """Paired windows in memory, as `PairedWindows` gives them."""

    sfreq_hz = 250.0

    def __init__(self, meg_types=("mag", "grad")):
        rng = np.random.default_rng(0)
        count = len(meg_types)
        eeg = 1e-5 * rng.standard_normal((4, 5, 64))
        meg = 1e-13 * rng.standard_normal((4, count, 64))
        super().__init__(
            PairedWindow(eeg[number], meg[number], "one", "1", "1", 0.256 * number)
            for number in range(4)
        )
        self.sensors = PairedMontage(
            tuple("abcde"), rng.standard_normal((5, 3)) / 15, tuple(f"M{n}" for n in range(count)),
            tuple(meg_types), rng.standard_normal((count, 3)) / 10, np.ones((count, 6)),
        )  # fmt: skip

    def montage(self, index: int) -> PairedMontage:
        return self.sensors

    def meta(self, index: int) -> dict:
        return {"recording": "one", "onset_s": self[index].onset_s}


def test_scales_are_fitted_and_unknown_sensor_types_named():
    parts = (Part("one", "1"),)
    pieces = Pieces(Windows(), parts, 16, "training")
    assert len(pieces) == 16
    assert fit_processor(pieces, BrainformerConfig()).scales["mag"] == pytest.approx(1e-13, rel=0.2)
    unknown = Pieces(Windows(("mag", "magn")), parts, 16, "training")
    with pytest.raises(InputError, match="unknown sensor type 'magn'"):
        fit_processor(unknown, BrainformerConfig())
