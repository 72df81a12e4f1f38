"""Electrode places of any file in the head frame: fitted by names, kept where they are right."""

from __future__ import annotations

import json
import sys
import warnings

import mne
import numpy as np
import pytest
from commands import ROOT, run
from files import write_brainvision
from loading import loaded

from data.electrodes.channels import choose_channels
from data.electrodes.frames import CENTRE_M, RADIUS_M, NamesContradictPlaces, place_in_head
from data.electrodes.montages import TEMPLATE, template_positions
from data.electrodes.similarity import fit_robustly, fit_similarity, fit_sphere
from data.errors import InputError
from data.shards.manifest import read_manifest

KNOWN = {key: place for key, (_, place) in template_positions(TEMPLATE).items()}
CAP = [
    "Fp1", "Fp2", "AF3", "AF4", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2",
    "FC6", "T7", "C3", "Cz", "C4", "T8", "CP5", "CP1", "CP2", "CP6",
    "P7", "P3", "Pz", "P4", "P8", "PO3", "PO4", "O1", "Oz", "O2",
]  # fmt: skip
PLACES = np.array([KNOWN[name.lower()] for name in CAP])


def turned(x: float = 0, y: float = 0, z: float = 0) -> np.ndarray:
    """A rotation by degrees about the three axes."""
    return mne.transforms.rotation(*np.deg2rad([x, y, z]))[:3, :3]


def digitised(seed: int = 0, size: float = 1.0, noise_m: float = 0.004) -> np.ndarray:
    """The cap on somebody's head, in the head frame."""
    return size * PLACES + noise_m * np.random.default_rng(seed).standard_normal(PLACES.shape)


def errors(places: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places - PLACES, axis=1)


# ---- arithmetic ----


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0, 0, 90), (10, -20, 170), (180, 0, 0)])
def test_a_similarity_is_recovered(scale, angles):
    rotation, shift = turned(*angles), np.array([0.3, -2.0, 0.05])
    fit = fit_similarity(PLACES, scale * PLACES @ rotation.T + shift)
    assert fit.scale == pytest.approx(scale)
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(fit.shift, shift, atol=1e-9 * max(1, scale))


def test_a_mirrored_cap_is_not_fitted_by_mirroring():
    fit = fit_similarity(PLACES * [-1, 1, 1], PLACES)
    assert np.linalg.det(fit.rotation) == pytest.approx(1)


def test_a_quarter_of_wrong_places_does_not_move_the_robust_fit():
    rng = np.random.default_rng(0)
    places = 0.9 * PLACES @ turned(30, 0, 60).T + 0.2
    wrong = rng.choice(len(CAP), len(CAP) // 5, replace=False)
    places[wrong] += 0.05 * rng.standard_normal((len(wrong), 3))
    right = np.setdiff1d(np.arange(len(CAP)), wrong)
    robust, plain = fit_robustly(places, PLACES), fit_similarity(places, PLACES)
    assert errors(robust(places))[right].max() < 1e-9
    assert errors(plain(places))[right].max() > 0.001


def test_a_sphere_is_recovered():
    directions = PLACES / np.linalg.norm(PLACES, axis=1, keepdims=True)
    centre, radius, scatter = fit_sphere(8.5 * directions + [1, 2, 3])
    np.testing.assert_allclose(centre, [1, 2, 3], atol=1e-9)
    assert (radius, scatter) == (pytest.approx(8.5), pytest.approx(0, abs=1e-9))


def test_the_templates_sphere():
    centre, radius, _ = fit_sphere(np.array(list(KNOWN.values())))
    np.testing.assert_allclose(centre, CENTRE_M, atol=0.002)
    assert radius == pytest.approx(RADIUS_M, abs=0.002)


# ---- what is done with places ----


@pytest.mark.parametrize(
    ("size", "angles", "shift_m"),
    [
        (1.0, (0, 0, 0), (0, 0, 0)),
        (0.85, (0, 0, 0), (0, 0, 0)),  # a child
        (0.8, (5, 0, 0), (0, 0.005, 0)),
        (1.1, (0, 0, 0), (0, 0, 0)),
        (0.95, (8, 3, -3), (0.003, -0.008, 0.005)),  # a cap that sits otherwise
    ],
)
def test_digitised_places_in_the_head_frame_stay(size, angles, shift_m):
    places = digitised(size=size) @ turned(*angles).T + shift_m
    placed = place_in_head(CAP, places, KNOWN)
    assert np.array_equal(placed.positions_m, places)
    assert (placed.handling, placed.wrong) == ("", ())


@pytest.mark.parametrize(
    ("unit", "angles", "shift"),
    [
        (1.0, (0, 0, 0), (0, -0.015, -0.045)),  # centred on the sphere
        (1.0, (0, 0, -90), (0, 0, 0)),  # nose along x
        (1.0, (0, 0, 90), (0, -0.02, -0.04)),
        (1000.0, (0, 0, 0), (0, 0, 0)),  # millimetres
        (100.0, (0, 0, 180), (0, 2, -4)),  # centimetres, the nose behind
        (10.0, (0, 0, 0), (0, -0.15, -0.4)),  # a unit sphere
        (1.0, (25, 0, 0), (0.01, 0.05, -0.12)),  # a scanner
    ],
)
def test_places_of_another_frame_are_aligned(unit, angles, shift):
    head = digitised()
    placed = place_in_head(CAP, unit * head @ turned(*angles).T + shift, KNOWN)
    assert placed.handling.startswith("aligned by 32 names")
    assert errors(placed.positions_m).max() < 0.015  # the noise of digitising
    # As one body: distances between electrodes keep their proportions.
    was = np.linalg.norm(head[:, None] - head, axis=-1)
    now = np.linalg.norm(placed.positions_m[:, None] - placed.positions_m, axis=-1)
    ratio = now[was > 0] / was[was > 0]
    assert ratio.max() / ratio.min() == pytest.approx(1)


def test_two_electrodes_changed_over_are_named():
    places = digitised()
    places[[2, 21]] = places[[21, 2]]
    for frame in (places, 1000 * places @ turned(0, 0, 90).T):
        assert place_in_head(CAP, frame, KNOWN).wrong == (2, 21)


@pytest.mark.parametrize("what", ["shuffled", "mirrored", "moved on by one"])
def test_names_that_contradict_the_places_are_refused(what):
    places = digitised()
    places = {
        "shuffled": places[np.random.default_rng(1).permutation(len(places))],
        "mirrored": places * [-1, 1, 1],
        "moved on by one": np.roll(places, 1, axis=0),
    }[what]
    for frame in (places, 1000 * places + 7):
        with pytest.raises(NamesContradictPlaces, match="of 32 named electrodes"):
            place_in_head(CAP, frame, KNOWN)


def test_an_ideal_sphere_gives_way_to_the_template():
    spheres = mne.channels.make_standard_montage("spherical_1005").get_positions()["ch_pos"]
    placed = place_in_head(CAP, np.array([spheres[name] for name in CAP]), KNOWN)
    assert placed.by_name
    assert np.array_equal(placed.positions_m, PLACES)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_the_templates_own_places_in_another_frame_become_the_templates(unit):
    placed = place_in_head(CAP, unit * (PLACES - [0, 0, 0.045]).round(4), KNOWN)
    assert placed.by_name
    assert np.array_equal(placed.positions_m, PLACES)
    assert place_in_head(CAP, PLACES, KNOWN).handling == ""


def test_without_names_the_sphere_is_moved():
    numbers = [f"E{row}" for row in range(1, len(CAP) + 1)]
    head = digitised(noise_m=0.002)
    assert place_in_head(numbers, head, KNOWN).handling == ""
    for unit in (1.0, 1000.0, 10.0):
        placed = place_in_head(numbers, unit * (head - [0, 0.015, 0.045]), KNOWN)
        assert "names unknown" in placed.handling
        assert np.median(errors(placed.positions_m)) < 0.01


@pytest.mark.parametrize("names", [CAP, [f"E{row}" for row in range(1, len(CAP) + 1)]])
def test_what_is_no_cap_is_not_taken_for_one(names):
    assert place_in_head(names, digitised() * [1, 1, 0], KNOWN) is None  # a drawing


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 32])
@pytest.mark.parametrize("kind", ["scattered", "a line", "one place", "a plane", "huge", "tiny"])
@pytest.mark.parametrize("named", [0.0, 0.5, 1.0])
def test_no_numbers_break_it(count, kind, named):
    rng = np.random.default_rng(count)
    names = [*CAP[: int(named * count)], *(f"E{row}" for row in range(count))][:count]
    places = {
        "scattered": lambda x: x,
        "a line": lambda x: x[:, :1] * [1, 2, 3],
        "one place": lambda x: 0 * x + 0.1,
        "a plane": lambda x: x * [1, 1, 0],
        "huge": lambda x: 1e12 * x,
        "tiny": lambda x: 1e-12 * x,
    }[kind](0.1 * rng.standard_normal((count, 3)))
    try:
        placed = place_in_head(names, places, KNOWN)
    except NamesContradictPlaces:
        assert named
        return
    assert placed is None or placed.positions_m.shape == (count, 3)


def test_scattered_places_without_names_are_none():
    scattered = 0.1 * np.random.default_rng(0).standard_normal((64, 3))
    assert place_in_head([f"E{row}" for row in range(64)], scattered, KNOWN) is None


def test_a_few_electrodes_are_too_few_to_fit():
    rows = [0, 1, 14, 16, 29, 31]
    names, head = [CAP[row] for row in rows], digitised()[rows]
    assert np.array_equal(place_in_head(names, head, KNOWN).positions_m, head)
    placed = place_in_head(names, head - [0, 0.015, 0.045], KNOWN)
    assert placed.by_name
    assert np.array_equal(placed.positions_m, PLACES[rows])
    some = place_in_head([*names, "X1"], np.vstack([head, [0, 0, 0.1]]) * 1000, KNOWN)
    assert np.isnan(some.positions_m[-1]).all()  # no place is made up for it


def test_a_patch_without_names_stays():
    """Electrodes of the forehead alone do not tell where the middle of the head is."""
    patch = digitised(noise_m=0.001)[[0, 1, 2, 3, 4, 5, 6, 7, 8]]
    numbers = [f"S{row}" for row in range(len(patch))]
    assert np.array_equal(place_in_head(numbers, patch, KNOWN).positions_m, patch)


@pytest.mark.parametrize("name", mne.channels.get_builtin_montages())
def test_no_head_frame_montage_of_mne_is_moved_but_spheres(name):
    found = template_positions(name)
    own = np.array([place for _, place in found.values()])
    names = [spelt for spelt, _ in found.values()]
    placed = place_in_head(names, own, KNOWN, ideal_by_name=False)
    spheres = {"spherical_1005", "spherical_1010", "spherical_1020"}
    assert np.array_equal(placed.positions_m, own) or name in spheres


# ---- files ----


def info_of(names, places) -> mne.Info:
    info = mne.create_info(list(names), 250.0, "eeg")
    for channel, place in zip(info["chs"], places, strict=True):
        channel["loc"][:3] = place
    return info


def nearest_is_right(names, places) -> int:
    """How many electrodes are nearest to the template's electrode of their own name."""
    wanted = np.array([KNOWN[name.lower()] for name in names])
    distances = np.linalg.norm(np.asarray(places)[:, None] - wanted, axis=-1)
    return int((distances.argmin(1) == np.arange(len(names))).sum())


def test_one_cap_through_set_fif_and_template(shared_data, tmp_path):
    """EEGLAB's own sample: sphere-centred, 5 cm off as MNE reads it."""
    path = shared_data / "eeglab" / "eeglab_data.set"
    raw = mne.io.read_raw_eeglab(path, preload=True, verbose="error")
    raw.save(tmp_path / "cap_raw.fif", verbose="error")
    kept = [ch for ch in raw.ch_names if not ch.startswith("EOG")]
    raw.pick(kept).set_montage(None).save(tmp_path / "names_raw.fif", verbose="error")
    wanted = np.array([KNOWN[name.lower()] for name in kept])
    given = mne.io.read_info(tmp_path / "cap_raw.fif", verbose="error")
    given = [given["chs"][given.ch_names.index(name)]["loc"][:3] for name in kept]
    assert np.median(np.linalg.norm(given - wanted, axis=1)) > 0.05
    assert nearest_is_right(kept, given) < 20
    found = {}
    for file in (path, tmp_path / "cap_raw.fif", tmp_path / "names_raw.fif"):
        [(_, windows)] = loaded(f"raw:{file}")
        assert len(windows.channels) == 30
        assert nearest_is_right(windows.channels, windows.positions_m) == 30
        assert np.linalg.norm(windows.positions_m - wanted, axis=1).max() < 0.01
        found[file.name] = windows
    assert "ideal sphere" in found["eeglab_data.set"].info["positions_from"]
    assert found["names_raw.fif"].info["positions_from"] == f"{TEMPLATE} by name"


def test_what_was_done_is_in_the_printed_summary_and_the_manifest(shared_data, tmp_path):
    source = f"raw:{shared_data}/eeglab/eeglab_data.set,split=train"
    words = (sys.executable, ROOT / "data/pack.py", "--workers", 1, "--source", source)
    text = run(*words, "--out", tmp_path / "out")
    assert "electrode places of the recording: by name, its own places are of an ideal" in text
    [entry] = read_manifest(tmp_path / "out").recordings
    assert entry["positions_from"] == (
        "the recording, by name, its own places are of an ideal sphere 5.2 cm off"
    )


def test_the_alignment_is_told():
    info = info_of(CAP, digitised() - [0, 0.015, 0.045])
    with pytest.warns(UserWarning, match="aligned by 32 names"):
        chosen = choose_channels(info, None, "file")
    assert chosen.positions_from.startswith("the recording, aligned by 32 names (4.")
    assert np.linalg.norm(chosen.positions_m - PLACES, axis=1).max() < 0.015


def test_a_wrong_electrode_is_left_out_and_told():
    places = digitised()
    places[[2, 21]] = places[[21, 2]]
    with pytest.warns(UserWarning, match="contradict their names: AF3, CP6"):
        chosen = choose_channels(info_of(CAP, places), None, "file")
    assert chosen.left_out == dict.fromkeys(("AF3", "CP6"), "its place contradicts its name")
    assert len(chosen.names) == 30
    assert "AF3" not in chosen.names


def test_shuffled_places_are_an_error_with_a_way_out():
    info = info_of(CAP, np.roll(digitised(), 3, axis=0))
    with pytest.raises(InputError, match=r"some\.fif: .* of 32 named electrodes") as caught:
        choose_channels(info, None, "some.fif")
    assert "montage=standard_1005" in caught.value.remedy
    assert len(choose_channels(info, "standard_1005", "some.fif").names) == 32


def test_letters_of_biosemi_are_not_taken_for_1005_names():
    """A1-D32 name places of BioSemi's own; C3, F4 ... are others than the 10-20 system's."""
    cap = mne.channels.make_standard_montage("biosemi128")
    info = mne.create_info(cap.ch_names, 250.0, "eeg").set_montage(cap, verbose="error")
    own = np.array([channel["loc"][:3] for channel in info["chs"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = choose_channels(info, None, "file")
        moved = choose_channels(
            info_of(cap.ch_names, own - [0, 0, 0.04]), None, "sphere-centred file"
        )
    assert np.linalg.norm(chosen.positions_m - own, axis=1).max() < 1e-6
    assert np.linalg.norm(moved.positions_m - own, axis=1).max() < 1e-6


def test_letters_in_groups_of_16_are_no_names_either():
    """A1..H16 could be two numberings: own places count, by their sphere."""
    cap = mne.channels.make_standard_montage("biosemi128")
    info = mne.create_info(cap.ch_names, 250.0, "eeg").set_montage(cap, verbose="error")
    own = np.array([channel["loc"][:3] for channel in info["chs"]])
    names = [f"{letter}{number}" for letter in "ABCDEFGH" for number in range(1, 17)]
    assert choose_channels(info_of(names, own), None, "file").positions_from == "the recording"
    with pytest.warns(UserWarning, match="its sphere moved by 4"):
        chosen = choose_channels(info_of(names, own - [0, 0, 0.04]), None, "file")
    assert chosen.names == names
    assert np.linalg.norm(chosen.positions_m - own, axis=1).max() < 0.02


def test_places_beside_meg_stay(shared_data):
    path = shared_data / "eeg_meg" / "sample_audvis_5s_raw.fif"
    info = mne.io.read_info(path, verbose="error")
    chosen = choose_channels(info, None, str(path))
    for pick, place in zip(chosen.picks, chosen.positions_m, strict=True):
        assert np.array_equal(place, np.asarray(info["chs"][pick]["loc"][:3], float))
    assert chosen.positions_from == "the recording"


def test_a_montage_file_round_its_own_centre(tmp_path):
    """A .sfp of EEGLAB's kind: no fiducials, so that MNE takes its frame for the head's."""
    rows = np.c_[digitised() - [0, 0.015, 0.045]] * 100
    file = tmp_path / "cap.sfp"
    file.write_text(
        "".join(
            f"{name} {x:.4f} {y:.4f} {z:.4f}\n" for name, (x, y, z) in zip(CAP, rows, strict=True)
        )
    )
    info = mne.create_info(CAP, 250.0, "eeg")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        chosen = choose_channels(info, str(file), "x.edf")
    assert any("aligned by 32 names" in str(entry.message) for entry in told)
    assert np.linalg.norm(chosen.positions_m - PLACES, axis=1).max() < 0.015
    other = tmp_path / "shuffled.sfp"
    other.write_text(
        "".join(f"{n} {x} {y} {z}\n" for n, (x, y, z) in zip(CAP, np.roll(rows, 3, 0), strict=True))
    )
    with pytest.raises(InputError, match=r"shuffled\.sfp: .* named electrodes"):
        choose_channels(info, str(other), "x.edf")


@pytest.mark.parametrize(
    ("system", "unit", "factor", "angles", "shift_m"),
    [
        ("CapTrak", "m", 1.0, (0, 0, 0), (0, 0, 0)),
        ("CapTrak", "mm", 1000.0, (0, 0, 0), (0, 0, 0)),
        ("EEGLAB", "mm", 1000.0, (0, 0, -90), (0, 0, 0)),  # nose along x, left along y
        ("EEGLAB", "cm", 100.0, (0, 0, -90), (0, -0.015, -0.045)),
        ("Other", "mm", 1000.0, (30, 0, 40), (0.05, 0, 0.2)),
        ("Other", "n/a", 10.0, (0, 0, 0), (0, -0.015, -0.045)),  # a unit sphere
    ],
)
def test_bids_coordinate_systems(tmp_path, system, unit, factor, angles, shift_m):
    folder = tmp_path / "sub-01" / "eeg"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    rng = np.random.default_rng(0)
    write_brainvision(folder / "sub-01_task-rest_eeg.vhdr", CAP, 0.5, 250, rng)
    places = factor * (digitised() @ turned(*angles).T + shift_m)
    rows = [f"{n}\t{x:.4f}\t{y:.4f}\t{z:.4f}" for n, (x, y, z) in zip(CAP, places, strict=True)]
    (folder / "sub-01_electrodes.tsv").write_text("\n".join(["name\tx\ty\tz", *rows]) + "\n")
    (folder / "sub-01_coordsystem.json").write_text(
        json.dumps({"EEGCoordinateSystem": system, "EEGCoordinateUnits": unit})
    )
    [(_, windows)] = loaded(f"bids:{tmp_path}")
    wanted = np.array([KNOWN[name.lower()] for name in windows.channels])
    assert len(windows.channels) == 32
    assert np.linalg.norm(windows.positions_m - wanted, axis=1).max() < 0.03
    assert np.median(np.linalg.norm(windows.positions_m - wanted, axis=1)) < 0.011
