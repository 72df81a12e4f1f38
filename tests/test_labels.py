"""Labels of whole recordings, from names and tables, as far as the windows' JSON and the batch."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace

import mne
import numpy as np
import pytest
import torch
from commands import ROOT, run
from loading import items_of

from data.batches.local import WindowDataset
from data.batches.streamed import ShardStream
from data.batches.window_table import AddFields, Names, Numbers, StreamedFields, WindowTable
from data.errors import InputError
from data.pack import main as pack
from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader
from data.sources.labels.choose import label_in
from data.sources.labels.tables import read_label_table
from data.sources.spec import KINDS, parse_spec

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "O1", "O2"]


def write_recordings(folder, names, seconds: int = 20) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = 1e-5 * rng.standard_normal((len(NAMES), 250 * seconds))
        raw = mne.io.RawArray(data, mne.create_info(NAMES, 250.0, "eeg"), verbose="error")
        raw.save(path, verbose="error")


@pytest.fixture
def study(tmp_path):
    """Three people, two conditions each."""
    folder = tmp_path / "study"
    write_recordings(
        folder, [f"sub-{n}/sub-{n}_{task}_raw.fif" for n in ("01", "02", "03") for task in "ab"]
    )
    return folder


def labels_of(items) -> list[str | None]:
    return [recording.label for item in items for recording in item.load()]


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        (r"_(rest|task)\.edf", "rest"),
        (r"sub-(\d+)_(?P<label>rest|task)", "rest"),
        ("rest", "rest"),
        ("sleep", None),
    ],
)
def test_what_a_pattern_gives(pattern, label):
    assert label_in(pattern, "group/sub-01_rest.edf") == label


def test_labels_from_names(study, capsys):
    items = items_of(rf"raw:{study}/**/*.fif,label=_([ab])_raw")
    assert labels_of(items) == ["a", "b"] * 3
    assert "labels: a (3), b (3)" in capsys.readouterr().out
    plain = items_of(f"raw:{study}/**/*.fif")
    assert [item.key for item in plain] == [item.key for item in items]
    assert all(item.signature != other.signature for item, other in zip(items, plain, strict=True))
    assert pickle.loads(pickle.dumps(items[0])).session == "1"
    items_of(f"raw:{study}/**/*.fif,label=sub")
    assert "the same for all" in capsys.readouterr().out


def test_a_pattern_does_not_match_folders_above(tmp_path):
    write_recordings(tmp_path / "rest", ["sub-1_x_raw.fif", "sub-2_x_raw.fif"])
    with pytest.raises(InputError, match=r"label=rest is not found in sub-1_x_raw\.fif") as caught:
        items_of(f"raw:{tmp_path}/rest/*.fif,label=rest")
    assert "labels=FILE" in caught.value.remedy
    with pytest.raises(InputError, match="not a regular expression"):
        items_of(f"raw:{tmp_path}/rest/*.fif,label=(rest")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("subject\tlabel\n1\told\n02\tyoung\nsub-03\told\n",
         ["old"] * 2 + ["young"] * 2 + ["old"] * 2),
        ("participant_id\tlabel\tage\nsub-01\told\t70\nsub-02\tn/a\t\nsub-03\told\t71\n",
         ["old"] * 2 + [None] * 2 + ["old"] * 2),
        ("file\tlabel\nsub-01_a_raw.fif\tx\nsub-02/sub-02_b_raw\ty\n",
         ["x", None, None, "y", None, None]),
        ("subject\trun\tlabel\n1\t\tall\n1\tsub-01_b_raw\tb\n", ["all", "b"] + [None] * 4),
        ("recording\tlabel\nstudy_sub-03_ses-1_run-sub-03_a_raw\tz\n", [None] * 4 + ["z", None]),
    ],
)  # fmt: skip
def test_labels_from_a_table(study, tmp_path, table, expected):
    path = tmp_path / "table.tsv"
    path.write_text(table)
    items = items_of(f"raw:{study}/**/*.fif,dataset=study,labels={path}")
    assert labels_of(items) == expected


def test_a_table_tells_what_it_does_not_fit(study, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("subject,group,label\n1,patient,x\n2,control,y\n77,control,x\n")
    items = items_of(f"raw:{study}/**/*.fif,labels={path}")
    told = capsys.readouterr().out
    assert "1 rows of table.csv are about nothing here: 77" in told
    assert "no row of table.csv is about sub-03_a_raw.fif, sub-03_b_raw.fif" in told
    assert "labels: x (2), y (2)" in told
    [recording] = items[0].load()
    assert recording.labels == {"group": "patient"}
    [bare] = items[4].load()
    assert (bare.label, bare.remarks) == (None, ["no label in table.csv"])
    grouped = items_of(f"raw:{study}/**/*.fif,labels={path},label=group")
    assert labels_of(grouped)[:4] == ["patient"] * 2 + ["control"] * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subject\tgroup\n1\tx\n", "no column is called label"),
        ("who\tlabel\n1\tx\n", "no column says whose"),
        ("", "no column says whose"),
        ("subject\tlabel\n9\tx\n", "no row is about any"),
    ],
)
def test_a_table_that_says_nothing_is_refused(study, tmp_path, text, words):
    path = tmp_path / "table.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        items_of(f"raw:{study}/**/*.fif,labels={path}")
    with pytest.raises(InputError, match="cannot be read"):
        items_of(f"raw:{study}/**/*.fif,labels={tmp_path}/none.tsv")


def test_two_rows_about_one_recording_are_refused(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("subject\tlabel\n1\tx\n01\ty\n")
    table = read_label_table(path, "label", "here")
    with pytest.raises(InputError, match="2 rows are about r"):
        table.of({"subject": "1", "recording": "r"})


def test_a_changed_row_changes_its_own_items_only(study, tmp_path):
    path = tmp_path / "t.tsv"
    signatures = []
    for label in "xy":
        path.write_text(f"subject\tlabel\n1\t{label}\n2\tx\n")
        items = items_of(f"raw:{study}/**/*.fif,labels={path}")
        signatures.append([item.signature["labels"] for item in items])
    first, second = signatures
    assert [a == b for a, b in zip(first, second, strict=True)] == [False] * 2 + [True] * 4


def test_labels_and_subjects_are_options_of_every_kind():
    for kind in KINDS:
        spec = parse_spec(f"{kind}:x,labels=t.tsv,label=group,subjects=1")
        assert spec.options["labels"] == "t.tsv"


def test_subjects_of_files(study):
    assert {item.subject for item in items_of(f"raw:{study}/**/*.fif,subjects=2-3")} == {"02", "03"}
    with pytest.raises(InputError, match="no subject 7"):
        items_of(f"raw:{study}/**/*.fif,subjects=7")


def test_labels_of_simulated_people(tmp_path):
    """A kind whose items are no files: by the recording's name, and by a table of people."""
    spec = "simulated:1020-19,subjects=3,minutes=0.1"
    assert labels_of(items_of(rf"{spec},label=sub-(\d+)")) == ["001", "002", "003"]
    path = tmp_path / "t.tsv"
    path.write_text("subject\tlabel\n1\tx\n3\ty\n")
    assert labels_of(items_of(f"{spec},labels={path}")) == ["x", None, "y"]


def test_labels_from_a_participants_table(shared_data, capsys):
    """BIDS's own table: another column than label, and people whose recordings are not here."""
    root = shared_data / "things_eeg"
    items = items_of(f"bids:{root},labels={root}/participants.tsv,label=language_profile")
    [recording] = items[0].load()
    assert recording.label == "Monolingual"
    assert recording.labels["age"] == "18"
    assert "note_IZ" not in recording.labels  # n/a
    told = capsys.readouterr().out
    assert "rows of participants.tsv are about nothing here: sub-01" in told
    people = items_of(f"things:{root},labels={root}/participants.tsv,label=gender")
    assert labels_of(people) == ["M"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Four people, a and b; person 4 has no label."""
    folder = tmp_path_factory.mktemp("labels")
    write_recordings(
        folder / "in", [f"sub-{n}_{task}_raw.fif" for n in (1, 2, 3, 4) for task in "ab"], 40
    )
    rows = [f"sub-{n}_{task}_raw.fif\t{task}\t{n}" for n in (1, 2, 3) for task in "ab"]
    (folder / "t.tsv").write_text("\n".join(["file\tlabel\tgroup", *rows]) + "\n")
    source = f"raw:{folder}/in/*.fif,labels={folder}/t.tsv"
    text = run(
        sys.executable, ROOT / "data/pack.py", "--source", source, "--out", folder / "out",
        "--window_s", 2, "--workers", 1, "--shard_mb", 0.1,
    )  # fmt: skip
    return read_manifest(folder / "out"), text


def expected_label(recording: str) -> str | None:
    return None if "sub-4" in recording else recording.rsplit("_", 2)[1]


def test_labels_reach_the_windows_and_the_manifest(packed):
    manifest, text = packed
    assert "labels      a (3), b (3) of recordings; 2 without" in text
    assert "2 recordings: no label in t.tsv" in text
    for entry in manifest.recordings:
        assert entry.get("label") == expected_label(entry["id"])
        assert entry.get("labels") == (
            None if entry["subject"] == "4" else {"group": entry["subject"]}
        )
    for shard in manifest.shards:
        reader = ShardReader(manifest, shard)
        for row in range(shard.samples):
            meta = reader.meta(row)
            assert meta.get("label") == expected_label(meta["recording"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_and_people_reach_the_batch(packed, split):
    manifest, _ = packed
    table = WindowTable.read(manifest, split)
    assert table.names.labels == ("a", "b")
    shards = manifest.of_split(split)
    dataset = WindowDataset(manifest, shards, AddFields(table, ("label", "person", "recording")))
    dataset = pickle.loads(pickle.dumps(dataset))
    seen = 0
    for request in dataset.requests(range(len(dataset)), lambda c, t: 5):
        for batch in dataset[request]:
            for row, number in enumerate(batch.window.tolist()):
                meta = dataset.meta(number)
                label = expected_label(meta["recording"])
                wanted = -1 if label is None else table.names.labels.index(label)
                assert batch.label[row] == wanted
                assert table.names.recordings[batch.recording[row]] == meta["recording"]
                _, subject = table.names.people[batch.person[row]]
                assert f"sub-{subject}_" in meta["recording"]
                seen += 1
    assert seen == len(dataset) > 0
    assert batch.label.dtype == batch.person.dtype == torch.int64


def test_two_names_of_one_person_are_one_number(packed):
    """By `same_people` of the recipe; persons shared with others unnumbered stay apart."""
    manifest, _ = packed
    entries = [
        dict(manifest.recordings[0], id=f"{dataset}-{subject}", dataset=dataset, subject=subject)
        for dataset, subject in (
            ("rest", "01"), ("task", "1"), ("task", "2"), ("Weibo2014", "1"), ("Weibo2014", "2"),
        )
    ]  # fmt: skip
    raw = {**manifest.raw, "recordings": entries}
    raw["source"] = {**raw["source"], "same_people": [["rest", "task"]]}
    manifest = replace(manifest, raw=raw, recordings=entries)
    names = Names.of(manifest)
    assert names.people == (
        ("Weibo2014", "1"), ("Weibo2014", "2"), ("rest+task", "1"), ("rest+task", "2"),
    )  # fmt: skip
    numbers = Numbers(manifest, names)
    found = [numbers.of({"recording": entry["id"]})[1] for entry in entries]
    assert found == [2, 2, 3, 0, 1]


def test_streamed_batches_have_the_same(packed):
    manifest, _ = packed
    shards = manifest.of_split("train")
    local = {}
    for shard in shards:
        reader = ShardReader(manifest, shard)
        for row in range(shard.samples):
            local[reader.signals[row].tobytes()] = reader.meta(row)
    stream = ShardStream(
        manifest, shards, f"{manifest.folder}/{{file}}", seed=0, rank=0, world=1, micro=3,
        fields=StreamedFields(manifest, ("label", "person")),
    )  # fmt: skip
    assert stream.fields.names.labels == ("a", "b")
    batches = iter(stream)
    for _ in range(4):
        [batch] = next(batches)
        for row in range(3):
            meta = local[batch.eeg[row].numpy().tobytes()]
            label = expected_label(meta["recording"])
            wanted = -1 if label is None else stream.fields.names.labels.index(label)
            assert batch.label[row] == wanted
            _, subject = stream.fields.names.people[batch.person[row]]
            assert f"sub-{subject}_" in meta["recording"]
    with pytest.raises(ValueError, match="colour"):
        AddFields(None, ("colour",))


def test_what_is_not_asked_for_costs_nothing(packed, monkeypatch):
    """No JSON is read, and a batch is what it was."""
    manifest, _ = packed
    monkeypatch.setattr(ShardReader, "meta", None)
    shards = manifest.of_split("train")
    dataset = WindowDataset(manifest, shards)
    [batch] = dataset[dataset.requests(range(4), lambda c, t: 4)[0]]
    given = {"eeg", "positions_m", "order_index", "window", "dataset", "finite", "targets"}
    assert {name for name, value in vars(batch).items() if value is not None} == given
    assert not batch.targets
    stream = ShardStream(
        manifest, shards, f"{manifest.folder}/{{file}}", seed=0, rank=0, world=1, micro=3
    )
    [streamed] = next(iter(stream))
    assert {name for name, value in vars(streamed).items() if value is not None} == given


def test_an_events_own_label_stays(tmp_path):
    folder = tmp_path / "in"
    write_recordings(folder, ["sub-1_a_raw.fif", "sub-2_a_raw.fif"])
    for path in folder.iterdir():
        raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
        raw.set_annotations(mne.Annotations([3.0, 8.0], [0.0, 0.0], ["go", "go"]))
        raw.save(path, overwrite=True, verbose="error")
    source = rf"raw:{folder}/*.fif,events=go,label=_(a)_"
    assert pack(["--source", source, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert {entry["label"] for entry in manifest.recordings} == {"a"}
    metas = [ShardReader(manifest, s).meta(0) for s in manifest.shards]
    assert {meta["label"] for meta in metas} == {"go"}
    table = WindowTable.read(manifest, "train")
    assert table.names.labels == ("a", "go")
    stream = ShardStream(
        manifest, manifest.of_split("train"), f"{manifest.folder}/{{file}}", seed=0, rank=0,
        world=1, micro=1, fields=StreamedFields(manifest, ("label",)),
    )  # fmt: skip
    with pytest.raises(InputError, match="event's label"):
        next(iter(stream))


@pytest.mark.slow
def test_eegmat_rest_and_task(shared_data, tmp_path):
    source = rf"raw:{shared_data}/eegmat/Subject0[0-3]_*.edf,subject=(Subject\d+),label=_(\d)\.edf"
    assert pack(["--source", source, "--out", str(tmp_path / "out"), "--workers", "2"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert {(e["subject"], e["label"]) for e in manifest.recordings} == {
        (f"Subject0{n}", label) for n in range(4) for label in "12"
    }
    table = WindowTable.read(manifest, "train")
    assert {table.names.labels[label] for label in table.label} == {"1", "2"}
    for recording, label in zip(table.recording, table.label, strict=True):
        assert f"_{table.names.labels[label]}" in table.names.recordings[recording]
