"""The simulated recordings are EEG-like, the same every time, and teach more than geometry."""

from __future__ import annotations

import json

import mne
import numpy as np
import pytest
import torch
from scipy.signal import welch

from data.errors import InputError
from data.packing.listing import list_items
from data.signals.profiles import get_profile
from data.simulate.eeg import person, population
from data.simulate.states import TASK_FACTORS, in_state
from data.simulate_vc import main as simulate_vc_main
from data.sources.simulated import MONTAGES, planted_bads
from data.sources.spec import parse_spec


def items_of(source: str, profile: str = "default"):
    return list_items(parse_spec(source), get_profile(profile))


def raw_of(item):
    (recording,) = item.load()
    return recording.raw


def microvolts(item) -> np.ndarray:
    return 1e6 * raw_of(item).get_data()


@pytest.fixture(scope="module")
def person_three():
    """Person 3 has no planted bad channel. Returns (names, uV)."""
    raw = raw_of(items_of("simulated:biosemi64,subjects=3,minutes=1")[2])
    return raw.ch_names, 1e6 * raw.get_data()


def test_same_item_same_bits_in_any_order():
    items = items_of("simulated:biosemi32,subjects=3,minutes=0.2")
    forwards = [microvolts(item) for item in items]
    backwards = [microvolts(item) for item in reversed(items)][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert first.tobytes() == second.tobytes()
    assert not np.array_equal(forwards[0], forwards[2])


def test_seed_and_montage_give_other_people():
    one = items_of("simulated:biosemi32,subjects=1,minutes=0.2")[0]
    other = items_of("simulated:biosemi32,subjects=1,minutes=0.2,seed=1")[0]
    assert one.signature != other.signature
    assert not np.array_equal(microvolts(one), microvolts(other))


@pytest.mark.parametrize(("montage", "channels"), zip(MONTAGES, (32, 64, 61, 19), strict=True))
def test_montages(montage, channels):
    (item,) = items_of(f"simulated:{montage},subjects=1,minutes=0.1")
    raw = raw_of(item)
    assert item.dataset == f"simulated-{montage}"
    assert raw.get_channel_types() == ["eeg"] * channels
    radii = np.linalg.norm([c["loc"][:3] for c in raw.info["chs"]], axis=1)
    assert np.all((radii > 0.07) & (radii < 0.15))


def test_amplitude_is_that_of_eeg(person_three):
    _, signal = person_three
    assert 8 < np.median(signal.std(axis=1)) < 35
    assert np.abs(signal).max() < 1000


def test_alpha_is_posterior_and_the_spectrum_falls(person_three):
    names, signal = person_three
    freqs, power = welch(signal, 250.0, nperseg=500)
    alpha = power[:, (freqs >= 8) & (freqs <= 12)].mean(1)
    beside = power[:, (freqs >= 14) & (freqs <= 18)].mean(1)
    back = [names.index(name) for name in ("O1", "O2", "PO3", "PO4")]
    front = [names.index(name) for name in ("AF3", "AF4", "F1", "F2")]
    assert np.median(alpha[back] / beside[back]) > 2 * np.median(alpha[front] / beside[front])
    slow = power[:, (freqs >= 2) & (freqs <= 6)].mean(1)
    fast = power[:, (freqs >= 55) & (freqs <= 70)].mean(1)
    assert np.all(slow > 10 * fast)


def test_mains_is_at_50_hz(person_three):
    _, signal = person_three
    freqs, power = welch(signal, 250.0, nperseg=500)
    at = np.median(power, axis=0)
    assert at[freqs == 50.0] > 5 * at[freqs == 47.0]


def test_activity_is_not_a_few_sources(person_three):
    """Nineteen twentieths of the variance need many dimensions, and noise does not fill them."""
    _, signal = person_three
    values = np.linalg.eigvalsh(np.cov(signal))[::-1]
    assert np.searchsorted(np.cumsum(values) / values.sum(), 0.99) >= 15


@pytest.mark.parametrize("number", [1, 2, 3, 10])
def test_planted_bad_channels_are_as_described(number):
    raw = raw_of(items_of("simulated:biosemi32,subjects=10,minutes=0.2")[number - 1])
    bads = planted_bads(0, "biosemi32", number, raw.ch_names)
    assert json.loads(raw.info["description"]) == {"bad_channels": bads}
    kinds = sorted(bads.values())
    assert kinds == {1: ["flat"], 2: ["noise"], 3: [], 10: ["flat", "noise"]}[number]
    spread = dict(zip(raw.ch_names, 1e6 * raw.get_data().std(axis=1), strict=True))
    for name, value in spread.items():
        kind = bads.get(name)
        assert (value == 0) == (kind == "flat")
        assert (value > 150) == (kind == "noise")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("simulated:biosemi33", "biosemi32"),
        ("simulated,montages=biosemi32+nope", "no montage 'nope'"),
        ("simulated:biosemi32,montages=biosemi32", "montages given twice"),
        ("simulated,subjects=0", "subjects=0"),
        ("simulated,subjects=1.5", "whole number"),
        ("simulated,minutes=nan", "minutes=nan"),
        ("simulated,seed=-1", "seed=-1"),
        ("simulated,subject=3", "Did you mean subjects"),
    ],
)
def test_wrong_options(source, words):
    with pytest.raises(InputError) as caught:
        items_of(source)
    assert words in str(caught.value)


def test_fast_profiles_get_a_fast_source():
    (item,) = items_of("simulated:1020-19,subjects=1,minutes=0.1", "brain2image")
    raw = raw_of(item)
    assert (raw.info["sfreq"], raw.n_times) == (1000.0, 6000)


def test_hidden_channels_can_be_learned_beyond_geometry():
    """On a new person, covariance learned from others estimates hidden channels better than
    spherical splines do, and neither is perfect."""
    items = items_of("simulated:biosemi32,subjects=8,minutes=2")
    others = [microvolts(items[n - 1]) for n in (3, 8)]  # no planted bad channels
    band = {"sfreq": 250.0, "l_freq": 0.5, "h_freq": 45.0, "verbose": "error"}
    filtered = [mne.filter.filter_data(signal, **band) for signal in others]
    scale = [x / np.median(np.abs(x)) for x in (y - y.mean(0) for y in filtered)]
    covariance = sum(np.cov(x) for x in scale)
    raw = raw_of(items_of("simulated:biosemi32,subjects=12,minutes=1")[11])
    raw.filter(0.5, 45.0, verbose="error").set_eeg_reference("average", verbose="error")
    truth = raw.get_data()
    rng = np.random.default_rng(0)
    spline, learned = [], []
    for _ in range(5):
        hidden = np.sort(rng.choice(32, 17, replace=False))
        seen = np.setdiff1d(np.arange(32), hidden)
        filled = raw.copy()
        filled.info["bads"] = [raw.ch_names[i] for i in hidden]
        filled.interpolate_bads(verbose="error")
        spline.append(np.corrcoef(filled.get_data()[hidden].ravel(), truth[hidden].ravel())[0, 1])
        weights = np.linalg.lstsq(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, hidden)])
        estimate = weights[0].T @ truth[seen]
        learned.append(np.corrcoef(estimate.ravel(), truth[hidden].ravel())[0, 1])
    assert 0.75 < np.mean(spline) < 0.92
    assert np.mean(spline) + 0.03 < np.mean(learned) < 0.98


def test_vc_file_has_the_published_layout(tmp_path):
    out = tmp_path / "vc.pth"
    arguments = ["--subjects", "2", "--classes", "2", "--images", "3", "--out"]
    assert simulate_vc_main([*arguments, str(out)]) == 0
    content = torch.load(out, weights_only=True)
    assert set(content) == {"dataset", "labels", "images"}
    assert len(content["dataset"]) == 2 * 2 * 3
    assert content["images"][4] == f"{content['labels'][1]}_1"
    for segment in content["dataset"]:
        assert set(segment) == {"eeg", "image", "label", "subject"}
        assert segment["eeg"].dtype == torch.float32
        assert segment["eeg"].shape[0] == 128
        assert 488 <= segment["eeg"].shape[1] <= 511
        assert segment["label"] == segment["image"] // 3
    together = torch.cat([s["eeg"] for s in content["dataset"] if s["subject"] == 1], dim=1)
    assert torch.allclose(together.std(1), torch.ones(128), atol=0.3)
    (split,) = torch.load(tmp_path / "vc_splits_by_image.pth", weights_only=True)["splits"]
    assert sorted(i for part in split.values() for i in part) == list(range(12))
    images = {name: {content["dataset"][i]["image"] for i in split[name]} for name in split}
    assert not images["train"] & images["test"]
    assert not images["val"] & images["test"]
    again = tmp_path / "again.pth"
    simulate_vc_main([*arguments, str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_states_are_labelled_and_differ_in_rhythms():
    items = items_of("simulated:1020-19,subjects=6,minutes=0.5,states=1")
    assert [item.state for item in items[:2]] == ["rest", "task"]
    assert {item.dataset for item in items} == {"simulated-states-1020-19"}
    ratios = {"alpha": [], "high": []}
    bands = {"alpha": (8, 12), "high": (45, 48)}
    for rest, task in zip(items[::2], items[1::2], strict=True):
        power = []
        for item in (rest, task):
            (recording,) = item.load()
            assert recording.label == item.state
            freqs, psd = welch(recording.raw.get_data(), 250, nperseg=500)
            power.append((freqs, psd.mean(0)))
        for name, (low, high) in bands.items():
            first, second = (psd[(f >= low) & (f < high)].sum() for f, psd in power)
            ratios[name].append(second / first)
    assert np.median(ratios["alpha"]) < 0.8
    assert 0.8 < np.median(ratios["high"]) < 1.25


def test_a_task_changes_rhythms_and_nothing_else():
    people = population(0)
    ratios: dict[str, list[float]] = {}
    for number in range(1, 300):
        who = person(people, number, "states-1020-19")
        task = in_state(people, who, "task")
        assert in_state(people, who, "rest") is who
        assert np.array_equal(task.gains, who.gains)
        for rhythm, ratio in zip(people.rhythms, task.rhythm_gains / who.rhythm_gains, strict=True):
            ratios.setdefault(rhythm.name.split("-")[0], []).append(ratio)
    for kind, found in ratios.items():
        assert np.median(found) == pytest.approx(TASK_FACTORS.get(kind, 1.0), abs=0.06)
        assert np.std(np.log(found)) == pytest.approx(0.2 * (kind in TASK_FACTORS), abs=0.03)


def test_unlabelled_items_are_as_they_were():
    """What a pack of earlier versions compares: the same signature and the same people."""
    item = items_of("simulated:1020-19,subjects=1,minutes=0.1")[0]
    assert "state" not in item.signature
    assert item.key == "simulated-1020-19-001"
    labelled = items_of("simulated:1020-19,subjects=1,minutes=0.1,states=1")[0]
    assert not np.array_equal(microvolts(item), microvolts(labelled))
