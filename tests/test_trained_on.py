"""What a model says it was trained on: recordings by content, people of public benchmarks."""

from __future__ import annotations

import hashlib
import json
import shutil

import mne
import numpy as np
import pytest
from commands import TINY, python, ranks
from tiny import tiny_shards

from data.errors import InputError
from data.pack import main as pack_main
from data.shards.manifest import MANIFEST, read_manifest
from data.subjects.digests import digests_of, find_twins, union, without_digest
from data.subjects.trained_on import (
    benchmarks_seen,
    describe_benchmarks,
    names_only,
    record_of,
    refuse_renamed,
    union_of_records,
)
from model.config import preset
from trainer.engine.plan import make_plan
from trainer.evaluate import main as evaluate_main
from trainer.masked.adaptation import adaptation_report
from trainer.masked.config import MaskedConfig
from trainer.masked.evaluation import evaluate
from trainer.masked.task import MaskedTask
from trainer.reports.report import markdown
from trainer.reports.report_figures import write_figures


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(dataset, subject, split="train", **files):
    named = {name.replace("_dot_", "."): sha(content) for name, content in files.items()}
    return {"dataset": dataset, "subject": subject, "split": split, "source_sha256": named}


# ---- digests ----


def test_a_renamed_copy_is_found_and_named():
    known = digests_of([entry("A", "1", s1_dot_edf="x"), entry("A", "2", s2_dot_edf="y")])
    assert known == {"A": {"1": sha("x")[:16], "2": sha("y")[:16]}}
    [twin] = find_twins([entry("B", "9", copy_dot_edf="x"), entry("B", "8", c_dot_edf="z")], known)
    assert str(twin) == "B subject 9 = A subject 1 (copy.edf)"
    assert twin.renamed
    [same] = find_twins([entry("A", "1", s1_dot_edf="x")], known)
    assert not same.renamed
    assert str(same) == "A subject 1 (s1.edf)"


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (entry("A", "1", a_dot_vhdr="h", a_dot_eeg="x"), entry("B", "2", b_dot_vhdr="h"), 0),
        (entry("A", "1", a_dot_vhdr="h", a_dot_eeg="x"), entry("B", "2", b_dot_eeg="x"), 1),
        (entry("VC", "1", eeg_dot_pth="x"), entry("VC", "2", eeg_dot_pth="x"), 0),
        (entry("A", "1", all_dot_zip="x"), entry("A", "2", all_dot_zip="x"), 0),
        (entry("A", "1", electrodes_dot_tsv="x"), entry("B", "2", electrodes_dot_tsv="x"), 0),
        (entry("A", "1", a_dot_EDF="x"), entry("A", "2", b_dot_edf="x"), 1),
        (entry("Lee2019_MI", "3", a_dot_mat="x"), entry("Lee2019_ERP", "3", b_dot_mat="x"), 0),
        ({"dataset": "A", "subject": "1", "split": "train"}, entry("B", "2", b_dot_edf="x"), 0),
    ],
)
def test_what_tells_one_persons_recording(one, other, found):
    twins = [twin for twin in find_twins([other], digests_of([one])) if twin.renamed]
    assert len(twins) == found


def test_a_file_of_several_people_says_nothing_of_one():
    assert digests_of([entry("A", "1", all_dot_mat="x"), entry("A", "2", all_dot_mat="x")]) == {}
    assert without_digest([entry("A", "1", a_dot_tsv="x"), entry("A", "2", a_dot_edf="x")]) == 1


def test_ten_thousand_recordings_take_little_room():
    many = [entry("A", str(n % 500), **{f"f{n}_dot_edf": str(n)}) for n in range(10_000)]
    known = digests_of(many)
    assert len(json.dumps(known, indent=1)) < 200_000
    assert len(find_twins(many, known)) == 10_000
    assert union(known, known) == {
        "A": {s: " ".join(sorted(d.split())) for s, d in sorted(known["A"].items())}
    }


# ---- records ----


def with_files(folder, changes=None):
    """Tiny shards whose recordings have a file each; changes: {recording: content}."""
    path = tiny_shards(folder) / MANIFEST
    manifest = json.loads(path.read_text())
    for recording in manifest["recordings"]:
        content = (changes or {}).get(recording["id"], f"{folder.name} {recording['id']}")
        recording["source_sha256"] = {f"{recording['id']}.edf": sha(content)}
    path.write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return with_files(tmp_path_factory.mktemp("trained") / "shards")


@pytest.fixture(scope="module")
def renamed(tmp_path_factory, trained):
    """Another folder, whose test recording of A is a training recording of `trained`."""
    source = next(r for r in read_manifest(trained).recordings if r["split"] == "train")
    copy = {"A_sub-test0_ses-0_run-0": f"{trained.name} {source['id']}"}
    folder = tmp_path_factory.mktemp("renamed") / "other"
    return with_files(folder, copy), f"= A subject {source['subject']}"


def test_a_record_holds_the_training_split_alone(trained):
    record = record_of(read_manifest(trained))
    assert set(record["subjects"]["A"]) == set(record["recordings"]["A"]) == {"train0", "train1"}


def test_weights_that_start_from_others_hold_what_both_were_trained_on(trained, root, tmp_path):
    from safetensors.torch import save_file

    from model.autoencoder import MaskedVAE

    model = preset("tiny")
    weights = tmp_path / "first.safetensors"
    save_file(MaskedVAE(model).state_dict(), weights)
    description = {"format": "eeg-masked-vae", "format_version": 1, "part": "whole",
                   "model": model.as_dict(), "signal": {}}  # fmt: skip
    first = {"subjects": {"Other": ["7"]}, "recordings": {"Other": {"7": "0" * 16}}}
    own = record_of(read_manifest(trained))

    def plan(trained_on, folder=trained, **changes):
        weights.with_suffix(".json").write_text(
            json.dumps({**description, "trained_on": trained_on})
        )
        config = MaskedConfig(
            deepspeed_config=str(root / "ds_configs/zero2.json"), shards=str(folder),
            run=str(tmp_path / "run"), preset="tiny", micro_batch=4, init=str(weights), **changes,
        )  # fmt: skip
        return make_plan(config, MaskedTask(config, model), 1).as_dict()["trained_on"]

    both = plan(first)
    assert both["subjects"] == own["subjects"] | {"Other": ["7"]}
    assert both["recordings"] == union(own["recordings"], first["recordings"])
    assert names_only(both) == ""
    older = plan({"subjects": {"Other": ["7"]}})
    assert older["recordings"] == union(own["recordings"], {})
    assert names_only(older) == "training on Other"
    # A third training, that starts from those, does not forget it.
    assert union_of_records(own, older)["names_only"] == ["Other"]
    # What a folder or a flag reserves must not come in with the weights.
    (tmp_path / "own.yaml").write_text("reserve: [Other]\n")
    with pytest.raises(InputError, match="these weights were trained on: Other subject 7"):
        plan(first, reserve=str(tmp_path / "own.yaml"))
    reserving = shutil.copytree(trained, tmp_path / "reserving")
    manifest = json.loads((reserving / MANIFEST).read_text())
    manifest["source"]["reserve"] = ["Other,subjects=7"]
    (reserving / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="these weights were trained on: Other subject 7"):
        plan(first, reserving)


# ---- scoring ----


def test_a_recording_under_another_name_is_refused_and_both_names_are_told(trained, renamed):
    folder, known = renamed
    record = record_of(read_manifest(trained))
    tested = [r for r in read_manifest(folder).recordings if r["split"] == "test"]
    with pytest.raises(InputError, match="A subject test0 = A subject train") as caught:
        refuse_renamed(tested, record)
    assert known in caught.value.what
    assert "--allow_trained_on" in caught.value.remedy
    others = [r for r in tested if r["dataset"] == "B"]
    refuse_renamed(others, record)
    refuse_renamed(tested, {"subjects": record["subjects"]})  # an older model does not say


def test_a_report_on_a_renamed_recording_is_marked(trained, renamed, tmp_path):
    from model.autoencoder import MaskedVAE

    folder, known = renamed
    model, manifest = MaskedVAE(preset("tiny")), read_manifest(folder)
    settings = {"windows_per_subject": 1, "kinds": ["random"], "progress": False}
    record = record_of(read_manifest(trained))
    report, comparison = evaluate(model, manifest, trained_on=record, **settings)
    assert report["notes"][0].startswith("TRAINED ON: 1 file")
    assert known in report["notes"][0]
    assert len(report["settings"]["trained_recordings"]) == 1
    assert not any(note.startswith("None of these") for note in report["notes"])
    assert "> **TRAINED ON: 1 file" in markdown(report, [])
    marked = write_figures(tmp_path, report, comparison)[0].read_bytes()
    report["notes"] = []
    assert write_figures(tmp_path, report, comparison)[0].read_bytes() != marked
    bare = read_manifest(tiny_shards(tmp_path / "bare"))
    report, _ = evaluate(model, bare, trained_on=record, **settings)
    assert any("2 of the 2 scored recordings, which have no file" in n for n in report["notes"])
    older = {"subjects": record["subjects"]}
    report, _ = evaluate(model, manifest, trained_on=older, **settings)
    assert report["settings"]["trained_recordings"] is None
    assert any("by name alone" in note and "earlier version" in note for note in report["notes"])


def test_the_mark_is_in_the_figure(trained, renamed, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from model.autoencoder import MaskedVAE

    written = []

    def savefig(figure, path, **_):
        written.append([text.get_text() for text in figure.texts])
        path.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", savefig)
    report, comparison = evaluate(
        MaskedVAE(preset("tiny")), read_manifest(renamed[0]), windows_per_subject=1,
        kinds=["random"], progress=False, trained_on=record_of(read_manifest(trained)),
    )  # fmt: skip
    write_figures(tmp_path, report, comparison)
    assert written
    assert all(any(t.startswith("TRAINED ON") for t in texts) for texts in written)


@pytest.mark.slow
def test_an_adaptation_report_is_marked(trained, renamed, tmp_path):
    from model.autoencoder import MaskedVAE

    torch_model = MaskedVAE(preset("tiny"))
    result = adaptation_report(
        torch_model, torch_model, read_manifest(renamed[0]), "test", tmp_path,
        windows_per_subject=1, progress=False, trained_on=record_of(read_manifest(trained)),
    )  # fmt: skip
    assert result["summary"].startswith("TRAINED ON")
    assert renamed[1] in result["summary"]
    assert len(json.loads((tmp_path / "adaptation.json").read_text())["trained_recordings"]) == 1


def test_a_translators_report_names_renamed_recordings(trained, renamed):
    from types import SimpleNamespace

    from data.subjects.holdout import make_split
    from trainer.translation.assess import warn

    manifest = read_manifest(renamed[0])
    recordings = record_of(read_manifest(trained))["recordings"]
    tested = [r["id"] for r in manifest.recordings if r["split"] == "test"]
    split = make_split("loso:test0", manifest.recordings)
    for told, encoder in (
        ({"trained_recordings": recordings}, None),
        ({}, {"trained_on": {}, "trained_recordings": recordings}),
    ):
        text = "\n".join(warn(told, manifest, split, tested, SimpleNamespace(eeg_encoder=encoder)))
        assert "TRAINED ON test recordings under other names" in text
        assert renamed[1] in text
    clean = warn({}, manifest, split, tested, SimpleNamespace(eeg_encoder=None))
    assert not any("other names" in line for line in clean)


# ---- people of benchmarks ----


@pytest.mark.parametrize(
    ("subjects", "name", "datasets", "people"),
    [
        ({"PhysionetMI": ["1", "2"], "Own": ["1"]}, "cbramod", {"PhysionetMI": 2}, 2),
        ({"eegmmidb-1.0.0": ["1"]}, "open_eeg_bench", {"eegmmidb-1.0.0": 1}, 1),
        ({"Lee2019_MI": ["1"], "Lee2019_ERP": ["1", "2"]}, "moabb",
         {"Lee2019_MI": 1, "Lee2019_ERP": 2}, 2),
        ({"Beetl2021_B": ["1", "2"]}, "moabb", {"Beetl2021_B": 2}, 2),
        ({"Own": ["1"]}, "neuralbench", {}, 0),
        ({}, "labram", {}, 0),
    ],
)  # fmt: skip
def test_whose_people_were_trained_on(subjects, name, datasets, people):
    seen = benchmarks_seen({"subjects": subjects})
    assert (seen[name]["datasets"], seen[name]["people"]) == (datasets, people)
    assert seen[name]["read"] == "2026-11-26"
    told = describe_benchmarks(seen)
    assert (f"{name}: {people}" in told) == (people > 0)


def test_older_weights_do_not_know_whose_people_they_saw():
    assert benchmarks_seen({"manifest_sha256": ""}) == "unknown"
    assert benchmarks_seen(None) == "unknown"
    assert "not known" in describe_benchmarks("unknown")
    assert describe_benchmarks(benchmarks_seen({"subjects": {"Own": ["1"]}})).startswith("Nobody")


# ---- all of it, by the commands ----


def raw_file(path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["Fp1", "Fp2", "C3", "Cz", "C4", "O1", "Oz", "O2"]
    walk = rng.standard_normal((8, 4000)).cumsum(-1)
    walk -= walk.mean(-1, keepdims=True)
    raw = mne.io.RawArray(1e-6 * walk, mne.create_info(names, 200.0, "eeg"), verbose="error")
    raw.save(path, verbose="error")


@pytest.mark.slow
def test_from_files_to_a_refused_score(tmp_path, capsys):
    files, copies = tmp_path / "eegmmidb", tmp_path / "mystudy"
    files.mkdir()
    copies.mkdir()
    for person in range(4):
        raw_file(files / f"sub-{person}_task-rest_eeg.fif", person)
    source = f"raw:{files}/*.fif,split=train"
    assert pack_main(["--source", source, "--out", str(tmp_path / "a"), "--workers", "1"]) == 0
    run, weights = tmp_path / "run", tmp_path / "encoder.safetensors"
    ranks(
        1, "trainer/pretrain.py", *TINY, "--shards", tmp_path / "a", "--run", run,
        "--steps", 1, "--global_batch", 4, "--eval_every", 0,
    )  # fmt: skip
    output = python("trainer/convert.py", run, "--out", weights, "--keep", "whole")
    assert "cbramod: 4 (eegmmidb 4)" in output
    described = json.loads(weights.with_suffix(".json").read_text())
    assert described["benchmarks_seen"]["cbramod"]["people"] == 4
    assert described["benchmarks_seen"]["labram"]["people"] == 0
    assert len(described["trained_on"]["recordings"]["eegmmidb"]) == 4

    shutil.copy(files / "sub-2_task-rest_eeg.fif", copies / "sub-77_task-x_eeg.fif")
    source = f"raw:{copies}/*.fif,split=test"
    assert pack_main(["--source", source, "--out", str(tmp_path / "b"), "--workers", "1"]) == 0
    arguments = [str(weights), "--shards", str(tmp_path / "b"), "--out", str(tmp_path / "report"),
                 "--device", "cpu", "--masks", "random", "--windows_per_subject", "2"]  # fmt: skip
    with pytest.raises(InputError, match="mystudy subject 77 = eegmmidb subject 2"):
        evaluate_main(arguments)
    assert not (tmp_path / "report").exists()
    capsys.readouterr()
    evaluate_main([*arguments, "--allow_trained_on"])
    assert "TRAINED ON: 1 file" in capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["settings"]["trained_recordings"]
    assert "**TRAINED ON" in (tmp_path / "report" / "report.md").read_text()
