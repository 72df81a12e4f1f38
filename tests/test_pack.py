"""Packing as a user does it: the real command, in its own process, interrupted and repeated."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import webdataset as wds

from data.errors import InputError
from data.pack import main
from data.packing.assemble import collect, write_shards
from data.packing.items import Need, locked, run_jobs
from data.packing.jobs import make_jobs, read_record
from data.packing.listing import list_items
from data.packing.recipe import ORIGINAL, read_recipe
from data.shards.manifest import read_manifest
from data.shards.remarks import without_folders
from data.shards.tars import ShardReader, verify_shard
from data.signals.profiles import get_profile
from data.simulate_vc import main as simulate_vc_main
from data.sources.simulated import planted_bads
from data.sources.spec import parse_spec

SOURCE = "simulated,montages=biosemi32+1020-19,subjects=4,minutes=0.5"
SMALL_SHARDS = ("--shard_mb", "0.5")


def command(root: Path, out: Path, *extra: str, source: str = SOURCE) -> list[str]:
    return [sys.executable, str(root / "data/pack.py"), "--source", source, "--out", str(out),
            *SMALL_SHARDS, *extra]  # fmt: skip


def pack(root: Path, out: Path, *extra: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(root, out, *extra, **options), cwd=out.parent, capture_output=True, text=True
    )


def content(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file of a folder, at any depth."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def packed(root, tmp_path_factory):
    """A finished pack by one worker. Returns (folder, what it printed)."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    done = pack(root, out, "--workers", "1")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_folder_is_whole(packed):
    out, _ = packed
    manifest = read_manifest(out)
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        *(shard.file for shard in manifest.shards),
    }
    for shard in manifest.shards:
        verify_shard(manifest, shard)
    assert {(s.dataset, s.montage, s.window_samples) for s in manifest.shards} == {
        (r["dataset"], r["montage"], 800) for r in manifest.recordings
    }


def test_split_is_by_subject_and_windows_go_where_their_subject_goes(packed):
    manifest = read_manifest(packed[0])
    subjects = manifest.raw["split"]["subjects"]
    for dataset in ("simulated-biosemi32", "simulated-1020-19"):
        splits = sorted(subjects[dataset].values())
        assert splits == ["test", "train", "train", "val"]
    recordings = {recording["id"]: recording for recording in manifest.recordings}
    seen: dict[str, int] = {}
    for shard in manifest.shards:
        reader = ShardReader(manifest, shard)
        for index in range(shard.samples):
            recording = recordings[reader.meta(index)["recording"]]
            assert recording["split"] == shard.split
            assert subjects[shard.dataset][recording["subject"]] == shard.split
            seen[recording["id"]] = seen.get(recording["id"], 0) + 1
    assert seen == {name: recording["windows"] for name, recording in recordings.items()}


def test_webdataset_reads_what_the_manifest_says(packed):
    manifest = read_manifest(packed[0])
    urls = [str(manifest.path(shard)) for shard in manifest.shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == sum(shard.samples for shard in manifest.shards)
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    for sample in samples:
        assert sample["eeg.npy"].shape in {(32, 800), (31, 800), (19, 800), (18, 800)}
        assert {"recording", "onset_s"} <= set(sample["json"])


def test_windows_of_recordings_are_mixed_in_a_shard(packed):
    """Two training subjects share a montage unless a bad channel was taken from one of them."""
    manifest = read_manifest(packed[0])
    for shard in manifest.shards:
        reader = ShardReader(manifest, shard)
        onsets = [reader.meta(index)["onset_s"] for index in range(shard.samples)]
        assert shard.samples < 4 or onsets != sorted(onsets)


def test_planted_bad_channels_are_found_and_no_others(packed):
    manifest = read_manifest(packed[0])
    for recording in manifest.recordings:
        montage = recording["dataset"].removeprefix("simulated-")
        (item,) = (
            item
            for item in list_items(parse_spec(SOURCE), get_profile("default"))
            if (item.dataset, item.subject) == (recording["dataset"], recording["subject"])
        )
        (source,) = item.load()
        planted = planted_bads(0, montage, item.number, source.raw.ch_names)
        assert set(recording["bad_channels"]) == set(planted), recording["id"]


def test_nothing_of_this_machine_or_time_is_in_the_manifest(packed):
    out, _ = packed
    text = (out / "manifest.json").read_text()
    assert str(out.parent) not in text
    assert str(Path.home()) not in text
    assert time.strftime("%Y-%m-%d") not in text


def test_summary_says_what_was_packed(packed):
    out, printed = packed
    manifest = read_manifest(out)
    windows = sum(s.samples for s in manifest.shards if s.dataset == "simulated-biosemi32")
    for words in (
        "source    simulated,montages=biosemi32+1020-19",
        "subjects    4 (train 2, val 1, test 1)",
        "channels    31-32",
        f"windows     {windows} kept",
        f"trainer/pretrain.py --deepspeed_config ds_configs/zero2.json --shards {out}",
    ):
        assert words in printed


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(root, packed, tmp_path):
    done = pack(root, tmp_path / "two", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "two") == content(packed[0])


@pytest.mark.slow
@pytest.mark.parametrize("moment", [".packing/simulated-*.json", "*.tar"])
def test_killed_and_continued_gives_the_same_bytes(root, packed, tmp_path, moment):
    """SIGKILL to all its processes, with the first item finished and with the first shard."""
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(root, out, "--workers", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(out.glob(moment)):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists(), "it ended before it could be killed"
    with pytest.raises(InputError, match="not packed to the end"):
        read_manifest(out)
    done = pack(root, out, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert content(out) == content(packed[0])


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(root, tmp_path):
    out = tmp_path / "orphans"
    source = "simulated:biosemi64,subjects=40,minutes=4"
    process = subprocess.Popen(
        command(root, out, "--workers", "1", source=source),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(out.glob(".packing/simulated-*.json")):
        assert process.poll() is None
    group = os.getpgid(process.pid)
    process.kill()
    process.wait()
    while _alive(group):
        time.sleep(0.05)


@pytest.mark.slow
def test_interrupt_ends_cleanly_and_is_continued(root, packed, tmp_path):
    out = tmp_path / "interrupted"
    process = subprocess.Popen(
        command(root, out, "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background, a shell has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(out.glob(".packing/simulated-*.json")):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    done = pack(root, out, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert content(out) == content(packed[0])


def test_written_shards_are_not_written_again(tmp_path):
    profile = get_profile("default")
    items = list_items(parse_spec("simulated:1020-19,subjects=2,minutes=0.2"), profile)
    folder = tmp_path / "windows"
    folder.mkdir()
    jobs = make_jobs(items, profile, folder)

    def write() -> tuple[list, dict]:
        _, _, groups = collect(run_jobs(jobs, 1), folder, ["train", "val"])
        shards = write_shards(tmp_path, groups, seed=0, shard_mb=0.05)
        files = {path.name: path for path in tmp_path.glob("*.tar")}
        return shards, {name: (f.stat().st_ino, f.read_bytes()) for name, f in files.items()}

    def changed(before: dict, after: dict) -> set:
        assert {name: data for name, (_, data) in before.items()} == {
            name: data for name, (_, data) in after.items()
        }
        return {name for name in before if before[name][0] != after[name][0]}

    shards, first = write()
    assert len(shards) > 3
    again, second = write()
    assert (again, changed(first, second)) == (shards, set())
    # A shard lost, one altered afterwards, a receipt cut.
    lost, altered, cut = sorted(first)[:3]
    (tmp_path / lost).unlink()
    (tmp_path / altered).write_bytes(b"other")
    (folder / "written" / f"{cut}.json").write_bytes(b"{")
    again, third = write()
    assert again == shards
    assert changed(second, third) - {lost, altered, cut} == set()
    # Windows that were made again are not those of the receipt.
    jobs[0].record_path.unlink()
    again, fourth = write()
    assert again == shards
    assert changed(third, fourth) == {shard.file for shard in shards if shard.split == "train"}


def test_finished_items_are_not_made_again(tmp_path):
    profile = get_profile("default")
    items = list_items(parse_spec("simulated:1020-19,subjects=2,minutes=0.1"), profile)
    jobs = make_jobs(items, profile, tmp_path)
    first = run_jobs(jobs, 1)
    jobs[0].record_path.unlink()
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-002.*")}
    assert run_jobs(jobs, 1) == first
    assert written == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-002.*")}


def test_a_record_counts_only_for_its_content_settings_and_whole_files(tmp_path):
    profile = get_profile("default")
    items = list_items(parse_spec("simulated:1020-19,subjects=1,minutes=0.1"), profile)
    (job,) = make_jobs(items, profile, tmp_path)
    run_jobs([job], 1)
    assert read_record(job) is not None
    (other,) = make_jobs(items, get_profile("default", window_s=2), tmp_path)
    assert read_record(other) is None
    (array,) = tmp_path.glob("*.npy")
    array.write_bytes(array.read_bytes()[:-1])
    assert read_record(job) is None


def test_second_run_says_already_packed_and_touches_nothing(root, packed):
    before = {path: path.stat().st_mtime_ns for path in packed[0].iterdir()}
    done = pack(root, packed[0], "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "already packed" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in packed[0].iterdir()}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--source", SOURCE, "--seed", "1"], "seed: 0 there, 1 asked"),
        (["--source", SOURCE, "--window_s", "2"], "window_samples: 800 there, 400 asked"),
        (["--source", SOURCE, "--profile", "brain2image"], "sfreq_hz: 200.0 there, 1000.0 asked"),
        (["--source", "simulated,subjects=2"], "sources"),
    ],
)
def test_a_folder_of_other_settings_is_refused(packed, extra, words):
    with pytest.raises(InputError) as caught:
        main([*extra, "--out", str(packed[0]), *SMALL_SHARDS])
    assert words in str(caught.value)
    assert "--overwrite" in str(caught.value)


@pytest.mark.slow
def test_overwrite_leaves_only_the_new(root, tmp_path):
    out = tmp_path / "again"
    source = "simulated:1020-19,subjects=3,minutes=0.1"
    assert pack(root, out, source=source).returncode == 0
    old = {shard.file for shard in read_manifest(out).shards}
    done = pack(root, out, "--overwrite", "--window_s", "2", source=source)
    assert done.returncode == 0, done.stderr
    new = {shard.file for shard in read_manifest(out).shards}
    assert {path.name for path in out.iterdir()} == new | {"manifest.json"}
    assert not old & new


def test_a_damaged_finished_folder_is_noticed(root, tmp_path):
    out = tmp_path / "cut"
    source = "simulated:1020-19,subjects=1,minutes=0.1"
    assert pack(root, out, source=source).returncode == 0
    (shard,) = out.glob("*.tar")
    shard.write_bytes(shard.read_bytes()[:-600])
    done = pack(root, out, source=source)
    assert done.returncode == 2
    assert shard.name in done.stderr
    assert "--overwrite" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("limit", [200_000, 365_000])
def test_a_write_that_does_not_fit_is_one_message_and_is_continued(root, packed, tmp_path, limit):
    """A file-size limit stands for a full disk: 200 kB stops windows, 365 kB shards."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "full"
    big = ("--shard_mb", "8")
    done = subprocess.run(
        command(root, out, "--workers", "1", *big),
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )
    assert done.returncode == 2
    assert "not enough room" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob("*.partial"))
    done = pack(root, out, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert content(out) == content(packed[0])


@pytest.mark.slow
def test_a_really_full_disk(root, packed, tmp_path):
    """A file system of a few megabytes; the message says how much is needed, and when that room
    is given the pack continues."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        done = pack(root, disk / "out", "--workers", "2")
        assert done.returncode == 2
        assert "not enough room" in done.stderr
        assert "more are needed" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (disk / "out/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        done = pack(root, disk / "out", "--workers", "2")
        assert done.returncode == 0, done.stderr
        assert content(disk / "out") == content(packed[0])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_default_recipe_without_files_or_network_says_all_in_one_message(root, tmp_path):
    isolated = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode != 0:
        pytest.skip("no network namespaces here")
    (tmp_path / "mne_data").mkdir()
    done = subprocess.run(
        [*isolated, sys.executable, str(root / "data/pack.py")],
        cwd=tmp_path,
        env={**os.environ, "MNE_DATA": str(tmp_path / "mne_data")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    for source in read_recipe(ORIGINAL).sources:
        assert source in done.stderr
    for words in (str(tmp_path / "mne_data"), "sources/ds003825", "--source simulated"):
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "mne_data"]


@pytest.mark.slow
def test_unreadable_recordings_are_left_out_only_when_asked(root, shared_data, tmp_path):
    good = shared_data / "eeg_meg" / "sample_audvis_5s_raw.fif"
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "one_raw.fif").write_bytes(good.read_bytes())
    (folder / "two_raw.fif").write_bytes(good.read_bytes()[:300_000])
    source, out = f"raw:{folder}/*.fif,subject=one", tmp_path / "out"
    done = pack(root, out, "--window_s", "1", source=source)
    assert done.returncode == 2
    assert "two_raw.fif" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "manifest.json").exists()
    done = pack(root, out, "--window_s", "1", "--skip_bad", source=source)
    assert done.returncode == 0, done.stderr
    assert "left out as unreadable (1)" in done.stdout
    manifest = read_manifest(out)
    (skipped,) = manifest.raw["source"]["skipped"]
    assert "two_raw" in skipped["name"]
    assert str(tmp_path) not in json.dumps(manifest.raw)
    assert [recording["split"] for recording in manifest.recordings] == ["train"]


@pytest.mark.slow
def test_vc_split_by_image_puts_a_subject_into_several_splits(root, tmp_path):
    file = tmp_path / "vc.pth"
    simulate_vc_main(["--subjects", "2", "--classes", "2", "--images", "3", "--out", str(file)])
    splits = tmp_path / "vc_splits_by_image.pth"
    source = f"vc:{file},montage=biosemi128,by=image,splits={splits}"
    done = pack(root, tmp_path / "out", source=source)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "out")
    both = {"1": "train+val+test", "2": "train+val+test"}
    assert manifest.raw["split"]["subjects"] == {"VC": both}
    (published,) = torch.load(splits, weights_only=True)["splits"]
    samples = {split: sum(s.samples for s in manifest.of_split(split)) for split in published}
    assert samples == {split: len(indices) for split, indices in published.items()}


def test_the_room_that_is_still_needed():
    need = Need(["A"] * 10 + ["B"] * 4, ["A"] * 6 + ["B"] * 4)  # 4 of A are there from before
    assert need.bytes() == 0
    need.finish("A", 100)
    need.finish("A", 300)
    # A: 10 in shards, 4 to make; of B nothing is known but that it may be like A.
    assert need.bytes() == int(1.02 * 200 * (14 + 8))
    need.finish("B", 1000)
    assert need.bytes() == int(1.02 * (200 * 14 + 1000 * 7))


def test_one_packer_at_a_time(tmp_path):
    with locked(tmp_path / ".packing"), pytest.raises(InputError, match="another process"):
        main(["--source", "simulated:1020-19,subjects=1,minutes=0.1", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "simulatd"], "simulated"),
        (["--source", "simulated:biosemi23"], "Did you mean biosemi"),
        (["--source", "simulated", "--profile", "defualt"], "Did you mean default?"),
        (["--source", "simulated", "--workers", "0"], "--workers 0"),
        (["--source", "simulated", "--shard_mb", "0"], "shard_mb 0"),
        (["--source", "simulated", "--seed", "-1"], "seed -1"),
        (["--source", "simulated", "--window_s", "-1"], "--window_s -1"),
        (["--source", "simulated:1020-19", "--source", "simulated"], "named twice"),
        (["--source", "simulated", "--recipe", "x.yaml"], "both given"),
        (["--source", "simulated:1020-19", "--source", "simulated:1020-19,split=val"], "named"),
        (["--recipe", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, words):
    with pytest.raises(InputError) as caught:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_out_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("here")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="--out"):
            main(["--source", "simulated:1020-19,subjects=1,minutes=0.1", "--out", str(out)])


def test_no_window_left_is_an_error(root, tmp_path):
    source = "simulated:1020-19,subjects=1,minutes=0.1"
    done = pack(root, tmp_path / "out", "--window_s", "30", source=source)
    assert done.returncode == 2
    assert "no window is left" in done.stderr
    assert "shorter than a window" in done.stderr
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: [simulated]\nprofil: default\n", "Did you mean profile?"),
        ("sources: simulated\n", "sources must be a list"),
        ("sources: []\n", "sources must be a list"),
        ("- simulated\n", "not a mapping of settings"),
        ("sources: [simulated\n", "not YAML"),
        ("sources: [simulated]\nseed: yes\n", "seed"),
        ("sources: [simulated]\nseed: 1.5\n", "seed"),
    ],
)
def test_wrong_recipes(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert words in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_recipes_that_come_with_the_project_are_valid(monkeypatch, tmp_path):
    for path in sorted(ORIGINAL.parent.glob("*.yaml")):
        for source in read_recipe(path).sources:
            parse_spec(source)
    monkeypatch.setenv("EEG_DATA", "/there")
    path = tmp_path / "recipe.yaml"
    path.write_text("sources: ['things:$EEG_DATA/things']\nwindow_s: 2\n")
    recipe = read_recipe(path)
    assert (recipe.sources, recipe.window_s) == (("things:/there/things",), 2)


def test_command_line_wins_over_the_recipe(root, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        json.dumps({"sources": ["simulated:1020-19,subjects=1,minutes=0.1"], "seed": 5})
    )
    done = subprocess.run(
        [sys.executable, str(root / "data/pack.py"), "--recipe", "recipe.yaml", "--seed", "7",
         "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "out").raw["split"]["seed"] == 7


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/me/data/sub-01.edf: cut", "sub-01.edf: cut"),
        ("cannot read '/scratch/x/y.fif'", "cannot read 'y.fif'"),
        ("1/f and 3 / 4 of a/b stay", "1/f and 3 / 4 of a/b stay"),
    ],
)
def test_paths_are_cut_to_names(text, clean):
    assert without_folders(text) == clean


def _alive(group: int) -> bool:
    """Whether a process of the group runs (a zombie does not)."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
