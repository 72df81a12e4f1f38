"""Which channels of a recording are used: enough of them in a place, and each electrode once."""

from __future__ import annotations

import mne
import numpy as np
import pytest

from data.electrodes.channels import choose_channels
from data.electrodes.montages import positions_of
from data.errors import InputError

TEN = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]


def info_of(names, places_m=None) -> mne.Info:
    info = mne.create_info(list(names), 200.0, "eeg")
    for channel, place in zip(info["chs"], places_m if places_m is not None else [], strict=False):
        channel["loc"][:3] = place
    return info


@pytest.mark.parametrize(
    "spelling",
    ["EEG {}-Ref", "eeg {}", "EEG {}-Avg", "{} REF", "EEG {}-A1", "POL {}", "{}-LE", "{}."],
)  # fmt: skip
def test_every_spelling_finds_its_place(spelling):
    chosen = choose_channels(info_of([spelling.format(name.upper()) for name in TEN]), None, "f")
    assert chosen.names == TEN
    np.testing.assert_array_equal(
        chosen.positions_m, choose_channels(info_of(TEN), None, "f").positions_m
    )


def test_differences_of_electrodes_are_left_out_and_said():
    chosen = choose_channels(info_of([*TEN, "Fp1-F7", "T8-P8-0"]), None, "f")
    assert chosen.names == TEN
    assert chosen.left_out == {
        "Fp1-F7": "the difference of two electrodes",
        "T8-P8": "the difference of two electrodes",
    }
    with pytest.raises(InputError, match="0 of 4 EEG channels have a known position"):
        choose_channels(info_of(["Fp1-F7", "F7-T7", "T7-P7", "P7-O1"]), None, "f")


def test_a_handful_of_names_that_happen_to_fit_is_refused():
    """A cap with letters: C3 and its like are other places there."""
    names = [f"{letter}{n}" for letter in "ABCDF" for n in range(3, 9)]
    with pytest.raises(InputError, match=r"(?s)f: 10 of 30 .* at least 15 .*A3, A4.*montage="):
        choose_channels(info_of(names), None, "f")
    with pytest.raises(InputError, match="5 of 24 EEG channels"):
        choose_channels(info_of([*TEN[:5], *(f"X{n}" for n in range(19))]), None, "f")
    half = choose_channels(info_of([*TEN, *(f"X{n}" for n in range(10))]), None, "f")
    assert half.names == TEN
    assert half.left_out == {f"X{n}": "no position" for n in range(10)}
    # A montage that somebody names has to fit the names as well.
    with pytest.raises(InputError, match="0 of 10 EEG channels"):
        choose_channels(info_of(TEN), "GSN-HydroCel-128", "f")


@pytest.mark.parametrize(
    ("labels", "used", "left_out"),
    [
        (["Fp1-0", "Fp1-1"], ["Fp1"], {"Fp1-1": "Fp1-0"}),
        (["EEG Fp1-LE", "EEG Fp1-REF"], ["Fp1"], {"EEG Fp1-LE": "EEG Fp1-REF"}),
        (["T3", "T7"], ["T3"], {"T7": "T3"}),
        (["T7", "T3"], ["T7"], {"T3": "T7"}),
    ],
)
def test_an_electrode_that_is_there_twice_is_used_once(labels, used, left_out):
    others = [f"EEG {name}-REF" for name in TEN[1:]]
    chosen = choose_channels(info_of([*labels, *others]), None, "f")
    assert chosen.names == [*used, *TEN[1:]]
    assert chosen.left_out == {
        twin: f"the same electrode as {kept}, which is used" for twin, kept in left_out.items()
    }


def test_of_two_the_one_that_is_not_marked_bad_is_used():
    info = info_of(["Fp1-REF", *(f"{name}-REF" for name in TEN[1:]), "Fp1-LE"])
    info["bads"] = ["Fp1-REF"]
    chosen = choose_channels(info, None, "f")
    assert info["ch_names"][chosen.picks[-1]] == "Fp1-LE"
    assert list(chosen.left_out) == ["Fp1-REF"]


def test_two_at_one_place_of_the_recordings_own():
    places = choose_channels(info_of(TEN), None, "f").positions_m
    places = np.vstack([places, places[3] + [0, 0, 5e-4]])
    chosen = choose_channels(info_of([*TEN, "X1"], places), None, "f")
    assert chosen.positions_from == "the recording"
    assert chosen.names == TEN
    assert chosen.left_out == {"X1": "the same electrode as F4, which is used"}


def test_one_reference_for_all_is_no_difference():
    chosen = choose_channels(info_of([f"{name}-Cz" for name in TEN]), None, "f")
    assert chosen.names == TEN


def test_names_given_in_a_file_must_be_of_different_places():
    assert positions_of(["fp1", "EEG T3"], "biosemi64", "f").shape == (2, 3)
    for twice in (["Fp1", "Cz", "FP1"], ["T3", "Cz", "T7"]):
        with pytest.raises(InputError, match="named twice"):
            positions_of(twice, "biosemi64", "f")
