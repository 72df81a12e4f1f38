"""One grammar of channel names, and what it decides."""

from __future__ import annotations

import warnings

import mne
import pytest

from data.electrodes.channel_names import (
    is_other_than_eeg,
    match_names,
    name_key,
    parse_label,
    parse_labels,
    plain_name,
)


@pytest.mark.parametrize(
    "label",
    [
        "Fp1", "FP1", "fp1", "Fp1.", "Fp1..", " Fp1 ", "EEG Fp1-Ref", "eeg Fp1", "EEG Fp1-Avg",
        "Fp1 REF", "EEG Fp1-A1", "POL Fp1", "Fp1-LE", "EEG FP1-REF", "EEG_Fp1", "EEG:Fp1", "EEGFp1",
        "Fp1_Ref", "Fp1-AR", "EEG Fp1-CLE", "EEG Fp1-LER", "EEG Fp1-A1A2", "Fp1-A1+A2",
        "Fp1-M2", "Fp1-0", "EEG Fp1-REF-1", "EEG Fp1-1", "POL Fp1-Ref", "Fp1 - Ref", "Fp1:Ref",
        "fp1-average", "Fp1-CAR", "Fp1-(A1+A2)",
    ],
)  # fmt: skip
def test_all_of_these_are_fp1(label):
    assert name_key(label) == "fp1"
    assert parse_label(label).minus is None


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("Fc5.", "Fc5"),
        ("EEG FP1-REF", "FP1"),
        ("EEG 001", "EEG 001"),
        ("EEG 26-REF", "EEG 26"),
        (" Cz ", "Cz"),
        ("T3-LE", "T3"),
        ("EEG A2-A1", "A2"),
        ("A12", "A12"),
        ("B5", "B5"),
        ("E12", "E12"),
        ("Ch-1", "Ch-1"),
        ("EEG-1", "EEG-1"),
        ("Grid1-12", "Grid1-12"),
        ("AFF5h", "AFF5h"),
        ("F7'", "F7'"),
        ("EEG F7'", "F7'"),
        ("REF", "REF"),
        ("EEG", "EEG"),
        ("-", "-"),
        ("", ""),
        ("AR", "AR"),
        ("ECG EKG-REF", "ECG EKG"),
    ],
)
def test_plain_name(given, plain):
    assert plain_name(given) == plain


@pytest.mark.parametrize(
    "label",
    ["Fp1-F7", "FP1-F7", "EEG Fp1-F7", "T8-P8-0", "EEG Fpz-Cz", "F7_T3", "C3 P3", "POL Fp1-F7"],
)
def test_the_difference_of_two_electrodes_is_neither(label):
    parsed = parse_label(label)
    assert parsed.minus
    assert parsed.key not in ("fp1", "f7", "t8", "fpz", "c3")


def test_every_built_in_place_keeps_its_name():
    """The grammar takes nothing off the names of any cap, and merges no two of them."""
    for montage in mne.channels.get_builtin_montages():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = mne.channels.make_standard_montage(montage).ch_names
        assert [plain_name(name) for name in names] == names, montage
        assert len({name_key(name) for name in names}) == len(names), montage
        assert not any(label.minus for label in parse_labels(names)), montage


def test_one_second_electrode_for_all_is_the_reference():
    assert [(x.name, x.reference) for x in parse_labels(["Fp1-Cz", "F3-CZ", "EEG O1-Cz"])] == [
        ("Fp1", "CZ"), ("F3", "CZ"), ("O1", "CZ"),
    ]  # fmt: skip
    assert all(x.minus for x in parse_labels(["Fp1-F7", "F7-T7", "T7-P7"]))
    assert parse_labels(["Fp1-Cz", "F3-Cz", "O1"])[0].minus == "Cz"


@pytest.mark.parametrize(
    ("label", "other"),
    [
        ("HEOG", True), ("EEG A1-Ref", True), ("ECG EKG-REF", True), ("Resp Effort-REF", True),
        ("STI 014", True), ("POL DC01", True), ("LOC-A2", True), ("PHOTIC-REF", True), ("M1", True),
        ("Fp1", False), ("O1-A2", False), ("CB1", False), ("EEG 001", False), ("P1", False),
    ],
)  # fmt: skip
def test_what_is_no_eeg_by_its_name(label, other):
    assert is_other_than_eeg(label) is other


def test_names_are_matched_closest_first():
    table = ["FC5", "Fp1", "T7", "VEOG", "MEG0113"]
    file = ["Fc5.", "EEG FP1-REF", "T3", "veog", "MEG 0113", "Cz"]
    assert match_names(table, file) == {
        "FC5": ["Fc5."],
        "Fp1": ["EEG FP1-REF"],
        "T7": ["T3"],
        "VEOG": ["veog"],
        "MEG0113": ["MEG 0113"],
    }
    assert match_names(["T3", "T7"], ["T7", "T8"]) == {"T3": [], "T7": ["T7"]}
    assert match_names(["T3", "T7"], ["EEG T7", "EEG T3"]) == {"T3": ["EEG T3"], "T7": ["EEG T7"]}
    assert match_names(["Fp1"], ["Fp1-REF", "Fp1-LE"]) == {"Fp1": ["Fp1-REF", "Fp1-LE"]}
    assert match_names(["Fp1"], ["Fp1-F7"]) == {"Fp1": []}
    assert match_names(["Fp1-F7"], ["EEG FP1-F7"]) == {"Fp1-F7": ["EEG FP1-F7"]}
