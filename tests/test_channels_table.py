"""channels.tsv is applied however it and the file spell their names, and what it misses is said."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import mne
import numpy as np
import pytest
from commands import ROOT, run
from files import write_edf

from data.errors import InputError
from data.shards.manifest import read_manifest
from data.sources.formats.opening import read_raw
from data.sources.from_bids import read_bids

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "T7", "O1", "O2"]
BAD = ("F3", "O1")


def study(root: Path, labels, names=NAMES, subject="1") -> Path:
    """A BIDS folder with one recording; its table types Fp1 as EOG and marks F3 and O1 bad."""
    folder = root / f"sub-{subject}/eeg"
    folder.mkdir(parents=True)
    path = folder / f"sub-{subject}_task-rest_eeg.edf"
    counts = np.random.default_rng(int(subject) - 1).integers(-300, 300, (len(labels), 12 * 200))
    write_edf(path, range(12), labels, counts, 200, kind="EDF+C")
    rows = [
        f"{n}\t{'EOG' if n.upper() == 'FP1' else 'EEG'}\tuV\t{'bad' if n in BAD else 'good'}\n"
        for n in names
    ]
    table = folder / f"sub-{subject}_task-rest_channels.tsv"
    table.write_text("name\ttype\tunits\tstatus\n" + "".join(rows))
    return path


def opened(kind: str, path: Path, root: Path) -> tuple[mne.io.BaseRaw, str]:
    """A recording, read as `raw:` or `bids:` reads it, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        raw = read_raw(path) if kind == "raw" else read_bids(path, root)
    return raw, " | ".join(str(entry.message) for entry in caught)


@pytest.mark.parametrize("kind", ["raw", "bids"])
@pytest.mark.parametrize("spelling", ["EEG {}-REF", "{}.", "EEG {}", "{}"])
def test_rows_find_channels_of_any_spelling(tmp_path, kind, spelling):
    labels = [spelling.format(name.upper()) for name in NAMES]
    raw, said = opened(kind, study(tmp_path, labels), tmp_path)
    kinds = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    assert raw.ch_names == labels
    assert [name for name, kind in kinds.items() if kind == "eog"] == labels[:1]
    assert raw.info["bads"] == [labels[2], labels[8]]
    assert "channels.tsv" not in said


@pytest.mark.parametrize("kind", ["raw", "bids"])
def test_order_and_older_names_do_not_matter(tmp_path, kind):
    names = [*reversed(NAMES[:8]), "O1", "O2"]
    labels = [name.replace("T7", "T3") for name in NAMES]
    raw, _ = opened(kind, study(tmp_path, labels, names), tmp_path)
    assert raw.info["bads"] == ["F3", "O1"]
    assert raw.get_channel_types() == ["eog"] + ["eeg"] * 9


@pytest.mark.parametrize("kind", ["raw", "bids"])
def test_a_table_of_another_recording_is_refused(tmp_path, kind):
    path = study(tmp_path, NAMES, [f"E{n}" for n in range(1, 8)])
    with pytest.raises(InputError, match=r"channels\.tsv: none of its names \(E1, E2") as caught:
        opened(kind, path, tmp_path)
    assert "Fp1, Fp2" in caught.value.what
    table = path.with_name("sub-1_task-rest_channels.tsv")
    table.write_text("channel\ttype\nFp1\tEEG\n")
    with pytest.raises(InputError, match="no column is called name"):
        opened(kind, path, tmp_path)


@pytest.mark.parametrize("kind", ["raw", "bids"])
def test_a_table_of_a_part_is_applied_and_remarked_on(tmp_path, kind):
    path = study(tmp_path, [f"EEG {name}-Ref" for name in NAMES[:9]], [*NAMES[:6], "O1", "O2"])
    table = path.with_name("sub-1_task-rest_channels.tsv")
    table.write_text(table.read_text().replace("O2\tEEG\tuV\tgood", "O2\tEEG\tuV\tbad"))
    raw, said = opened(kind, path, tmp_path)
    assert raw.info["bads"] == ["EEG F3-Ref", "EEG O1-Ref"]
    assert "without a row in channels.tsv, used as they are: 2 (EEG P3-Ref, EEG T7-Ref)" in said
    assert "without a channel in the file: 1 (O2), marked bad 1 (O2)" in said


def test_bad_channels_of_the_file_stay_bad(tmp_path):
    """mne-bids replaces them by the table's."""
    folder = tmp_path / "sub-1/eeg"
    folder.mkdir(parents=True)
    raw = mne.io.RawArray(
        1e-5 * np.random.default_rng(0).standard_normal((10, 2000)),
        mne.create_info(NAMES, 200.0, "eeg"),
        verbose="error",
    )
    raw.info["bads"] = ["C3"]
    path = folder / "sub-1_task-rest_eeg.fif"
    raw.save(path, verbose="error")
    rows = "".join(f"{name}\tEEG\tuV\t{'bad' if name == 'F3' else 'good'}\n" for name in NAMES)
    table = path.with_name("sub-1_task-rest_channels.tsv")
    table.write_text("name\ttype\tunits\tstatus\n" + rows)
    for kind in ("raw", "bids"):
        assert opened(kind, path, tmp_path)[0].info["bads"] == ["F3", "C3"]


def test_what_a_table_misses_is_printed_and_its_bad_channels_are_not_packed(tmp_path):
    for person in "123":
        names = [name for name in NAMES if name != "T7"]
        study(tmp_path / "in", [f"EEG {name.upper()}-REF" for name in NAMES], names, person)
    out = tmp_path / "out"
    output = run(
        sys.executable, ROOT / "data/pack.py", "--workers", "1", "--out", out,
        "--source", f"raw:{tmp_path}/in/*/eeg/*.edf",
    )  # fmt: skip
    manifest = read_manifest(out)
    for record in manifest.recordings:
        assert record["bad_channels"] == dict.fromkeys(BAD, "marked bad in the file")
        [montage] = manifest.montages.values()
        assert set(montage.channels) == {*NAMES} - {*BAD, "Fp1"}
    assert output.count("without a row in channels.tsv, used as they are: 1 (EEG T7-REF)") == 1
