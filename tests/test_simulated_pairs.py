"""Simulated pairs: the sensors' physics, and that nothing predicts better than the oracle."""

from __future__ import annotations

import itertools

import mne
import numpy as np
import pytest

from data.batches.pairs import PairedWindows
from data.errors import InputError
from data.pack import main as pack
from data.packing.listing import list_items
from data.shards.manifest import read_manifest
from data.signals.eeg_meg import make_windows
from data.signals.profiles import get_profile
from data.simulate.eeg_meg import World, head, population, simulate, states
from data.simulate.head import sphere
from data.simulate.oracle import _smoothed, oracle_of
from data.sources.spec import parse_spec

EEG2MEG = get_profile("eeg2meg")


def correlations(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Pearson r of each row of two `[C, N]` arrays."""
    found, true = (x - x.mean(axis=1, keepdims=True) for x in (found, true))
    return (found * true).sum(1) / np.sqrt((found**2).sum(1) * (true**2).sum(1))


def ridge(eeg: np.ndarray, meg: np.ndarray, weight: float = 1e-3) -> np.ndarray:
    """`[Ct, Cs]` from signals `[C, N]`."""
    covariance = eeg @ eeg.T
    covariance += weight * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return np.linalg.solve(covariance, eeg @ meg.T).T


def signals(windows: PairedWindows) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[Cs, N]`, `[Ct, N]` of all windows, end to end."""
    several = list(windows)
    return tuple(
        np.concatenate([getattr(window, half) for window in several], axis=1).astype(np.float64)
        for half in ("eeg", "meg")
    )


@pytest.fixture(scope="module", params=["linear", "nonlinear"])
def world(request, tmp_path_factory):
    """(statistics, windows of two runs to learn from, windows of a third, its oracle)."""
    out = tmp_path_factory.mktemp("pairs") / "shards"
    source = f"simulated-pairs:{request.param},subjects=1,runs=3,minutes=1"
    pack(["--source", source, "--out", str(out), "--workers", "1"])
    manifest = read_manifest(out)
    *known, held_out = [entry["id"] for entry in manifest.recordings]
    windows = PairedWindows(manifest, [held_out])
    oracle = oracle_of(windows.recordings()[0], windows.montage(0))
    return request.param, PairedWindows(manifest, known), windows, oracle


@pytest.mark.slow
def test_ridge_comes_close_to_the_best_linear_map_and_not_above(world):
    _, known, held_out, oracle = world
    eeg, meg = signals(held_out)
    best = correlations(oracle.linear @ eeg, meg)
    found = correlations(ridge(*signals(known)) @ eeg, meg)
    types = np.array(held_out.montage(0).meg_types)
    for kind in ("mag", "grad"):
        assert np.median(best[types == kind]) > 0.5
        ratio = np.median(found[types == kind]) / np.median(best[types == kind])
        assert 0.95 < ratio < 1.01


def test_eeg_of_another_moment_tells_nothing(world):
    _, _, held_out, oracle = world
    eeg, meg = signals(held_out)
    shifted = correlations(oracle.linear @ np.roll(eeg, eeg.shape[1] // 3, axis=1), meg)
    assert abs(np.median(shifted)) < 0.05


@pytest.mark.parametrize("world", ["linear"], indirect=True)
def test_lags_add_nothing_where_statistics_are_linear(world):
    """Sources and noise have one spectrum: the EEG of one instant says all."""
    _, known, held_out, oracle = world

    def lagged(eeg):
        return np.concatenate([np.roll(eeg, lag, axis=1) for lag in (-2, 0, 2)])

    eeg, meg = signals(held_out)
    learned, target = signals(known)
    weights = ridge(lagged(learned), target)
    best = np.median(correlations(oracle.linear @ eeg, meg))
    assert np.median(correlations(weights @ lagged(eeg), meg)) < 1.01 * best


def test_states_are_what_a_linear_map_cannot_use(world):
    statistics, _, held_out, oracle = world
    eeg, meg = signals(held_out)
    linear = np.median(correlations(oracle.linear @ eeg, meg))
    full = [oracle.predict(window.eeg.astype(np.float64), 250.0) for window in held_out]
    full = np.median(correlations(np.concatenate(full, axis=1), meg))
    if statistics == "linear":
        assert full == linear
    else:
        assert full > linear + 0.08


def test_the_oracle_follows_the_channels_that_are_left(world):
    """Its rows and columns are those of the montage, its reference the average of those left."""
    _, _, held_out, oracle = world
    assert oracle.linear.shape == (306, 60)
    np.testing.assert_allclose(
        oracle.linear.sum(axis=1), 0, atol=1e-6 * np.abs(oracle.linear).max()
    )
    entry, montage = held_out.recordings()[0], held_out.montage(0)
    fewer = oracle_of(
        entry,
        type(montage)(
            montage.eeg_names[::2],
            montage.eeg_positions_m[::2],
            montage.meg_names[5:8],
            montage.meg_types[5:8],
            montage.meg_positions_m[5:8],
            montage.meg_orientations[5:8],
        ),
    )
    assert fewer.linear.shape == (3, 30)
    eeg, meg = signals(held_out)
    part = eeg[::2] - eeg[::2].mean(axis=0)
    less = correlations(fewer.linear @ part, meg[5:8])
    assert (less > 0.2).all()
    assert (less < correlations(oracle.linear @ eeg, meg)[5:8] + 0.03).all()


def test_only_simulated_recordings_have_an_oracle(world):
    _, _, held_out, _ = world
    entry = {**held_out.recordings()[0], "notes": {}}
    with pytest.raises(InputError, match="no simulated recording"):
        oracle_of(entry, held_out.montage(0))


def test_the_same_words_give_the_same_signal_and_other_people_another():
    world = World(sources=10)
    first, again, other = (simulate(world, 8, p, 1, 500, 250.0).get_data() for p in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    heads = [head(World(sources=10, variation=0.0), 8, p, run) for p, run in ((1, 1), (2, 3))]
    np.testing.assert_array_equal(heads[0].leadfield, heads[1].leadfield)


def test_a_gradiometer_measures_the_gradient_along_its_direction():
    """Places and orientations of the manifest, against point magnetometers at both coils' middles
    in MNE's forward model."""
    source = "simulated-pairs,sources=40,minutes=0.05,eeg=8,variation=0,subjects=1,runs=1"
    (item,) = list_items(parse_spec(source), EEG2MEG)
    (recording,) = item.load()
    sensors = make_windows(recording, EEG2MEG).sensors
    grads = [row for row, kind in enumerate(sensors.types) if kind == "grad"]
    normal, along = np.split(sensors.orientations[grads], 2, axis=1)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1, atol=1e-3)
    outward = sensors.positions_m[grads] - [0, 0, 0.04]
    assert ((outward * normal).sum(axis=1) > 0.05).all()

    baseline_m = 0.0168
    ends = [sensors.positions_m[grads] + sign * baseline_m / 2 * along for sign in (1, -1)]
    names = [f"P{i}" for i in range(2 * len(grads))]
    info = mne.create_info(names, 250.0, "mag")
    for channel, place, up in zip(
        info["chs"], np.concatenate(ends), np.concatenate([normal, normal]), strict=True
    ):
        channel["coil_type"] = mne.io.constants.FIFF.FIFFV_COIL_POINT_MAGNETOMETER
        channel["loc"] = np.concatenate([place, [1, 0, 0, 0, 1, 0], up])
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", np.eye(4))
    person, people = head(item.world, 8, item.person, item.run), population(item.world)
    sources = mne.setup_volume_source_space(
        pos={"rr": people.places_m, "nn": people.normals}, sphere_units="m", verbose="error"
    )
    forward = mne.make_forward_solution(
        info, None, sources, sphere(), meg=True, eeg=False, verbose="error"
    )
    fixed = mne.convert_forward_solution(forward, force_fixed=True, verbose="error")
    first, second = np.split(1e-9 * fixed["sol"]["data"].astype(np.float64), 2)
    expected = (first - second) / baseline_m
    rows = [person.info["ch_names"].index(sensors.names[row]) for row in grads]
    r = correlations(person.leadfield[rows], expected)
    assert r.min() > 0.99
    slope = np.sum(person.leadfield[rows] * expected) / np.sum(expected**2)
    assert slope == pytest.approx(1, abs=0.1)  # points see more than coils 27 mm wide


def test_states_are_whole_and_last():
    world = World(statistics="nonlinear", sources=10)
    active = states(world, 1, 1, 15_000, 250.0)
    assert active.shape == (4, 15_000)
    np.testing.assert_allclose(active.sum(axis=0), 1)
    changes = np.count_nonzero(np.diff(active.argmax(axis=0)))
    assert 10 < changes < 90  # 30 expected of a minute
    assert (active.max(axis=0) > 0.99).mean() > 0.95


def test_amplitudes_are_plausible(world):
    eeg, meg = signals(world[2])
    types = np.array(world[2].montage(0).meg_types)
    assert 2e-6 < eeg.std() < 30e-6
    assert 100e-15 < meg[types == "mag"].std() < 2000e-15
    assert 20e-13 < meg[types == "grad"].std() < 500e-13


def test_smoothing_is_bayes_rule():
    """Against the sum over all paths of a short chain."""
    rng = np.random.default_rng(0)
    evidence, stay, count, length = 2 * rng.standard_normal((3, 5)), 0.7, 3, 5
    total = np.zeros((count, length))
    for path in itertools.product(range(count), repeat=length):
        probability = 1.0
        for t, state in enumerate(path):
            probability *= np.exp(evidence[state, t])
            if t:
                probability *= stay if state == path[t - 1] else (1 - stay) / (count - 1)
        for t, state in enumerate(path):
            total[state, t] += probability
    np.testing.assert_allclose(_smoothed(evidence, stay), total / total.sum(axis=0), rtol=1e-9)
