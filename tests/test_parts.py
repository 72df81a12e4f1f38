"""One pack shared out over tasks that know nothing of each other, then merged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_pack import content

from data.errors import InputError
from data.pack import main
from data.packing.items import locked
from data.packing.parts import Part, parse_part, read_notes
from data.shards.manifest import MANIFEST

SOURCE = ("--source", "simulated,montages=1020-19+biosemi32,subjects=3,minutes=0.1")
SETTINGS = (*SOURCE, "--shard_mb", "0.2", "--workers", "1")


def part(out: Path, text: str, *extra: str) -> int:
    return main([*SETTINGS, *extra, "--out", str(out), "--part", text])


def merge(out: Path, *extra: str) -> int:
    return main([*SETTINGS, *extra, "--out", str(out), "--merge"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one machine makes of it."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    main([*SETTINGS, "--out", str(out)])
    return content(out)


def test_parts_share_the_items_out():
    items = list(range(7))
    shares = [Part(i, 3).of(items) for i in (1, 2, 3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_wrong_parts(tmp_path, text):
    with pytest.raises(InputError, match="--part"):
        parse_part(text)


@pytest.mark.slow
def test_parts_side_by_side_then_a_merge_give_the_bytes_of_one_machine(root, whole, tmp_path):
    """More tasks than items, at once, as an array would run them; two workers write the shards."""
    out = tmp_path / "shards"
    command = [sys.executable, str(root / "data/pack.py"), *SETTINGS, "--out", str(out)]
    tasks = [
        subprocess.Popen([*command, "--part", f"{i}/4"], stderr=subprocess.PIPE, text=True)
        for i in range(1, 5)
    ]
    for task in tasks:
        _, errors = task.communicate()
        assert task.returncode == 0, errors
    assert not (out / MANIFEST).exists()
    merge(out, "--workers", "2")
    assert content(out) == whole


@pytest.mark.slow
def test_a_merge_names_what_is_missing_and_a_killed_part_is_run_again(root, whole, tmp_path):
    out = tmp_path / "shards"
    part(out, "2/2")
    command = [sys.executable, str(root / "data/pack.py"), *SETTINGS, "--out", str(out)]
    task = subprocess.Popen(
        [*command, "--part", "1/2"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    while len(list(out.glob(".packing/simulated-*.json"))) < 4:  # three are part 2's
        assert task.poll() is None
    os.killpg(task.pid, signal.SIGKILL)
    task.wait()
    with pytest.raises(InputError, match="run part 1 of 2 again") as caught:
        merge(out)
    assert "of 6 items are not packed" in str(caught.value)
    assert not (out / MANIFEST).exists()
    part(out, "1/2")
    merge(out)
    assert content(out) == whole


@pytest.mark.slow
def test_other_settings_are_refused_and_named(whole, tmp_path):
    out = tmp_path / "shards"
    part(out, "1/2")
    with pytest.raises(InputError, match="window_samples: 800 there, 400 now"):
        part(out, "2/2", "--window_s", "2")
    with pytest.raises(InputError, match="sources"):
        part(out, "2/2", "--source", "simulated:biosemi64,subjects=1,minutes=0.1")
    part(out, "2/2")
    with pytest.raises(InputError, match="part 1 of 2"):
        merge(out, "--window_s", "2")
    (note, *_) = (out / ".packing").glob("part-2-of-2.json")
    value = json.loads(note.read_text())
    value["settings"]["code"] = "another"
    note.write_text(json.dumps(value))
    with pytest.raises(InputError, match="code: another there"):
        merge(out)
    main([*SETTINGS, "--out", str(out), "--overwrite"])
    assert content(out) == whole


@pytest.mark.slow
def test_a_pack_on_one_machine_that_was_begun_with_other_settings_is_refused(whole, tmp_path):
    out = tmp_path / "shards"
    part(out, "1/1")
    with pytest.raises(InputError, match="window_samples: 800 there, 400 now"):
        main([*SETTINGS, "--out", str(out), "--window_s", "2"])
    main([*SETTINGS, "--out", str(out)])
    assert content(out) == whole


@pytest.mark.slow
def test_a_damaged_part_is_named_by_the_merge(tmp_path):
    out = tmp_path / "shards"
    for text in ("1/2", "2/2"):
        part(out, text)
    array = sorted((out / ".packing").glob("*.npy"))[1]
    array.write_bytes(array.read_bytes()[:-2])
    with pytest.raises(InputError, match="missing or cut") as caught:
        merge(out)
    assert array.name in str(caught.value)


def test_parts_may_work_beside_each_other_but_not_beside_a_merge(tmp_path):
    folder = tmp_path / ".packing"
    with locked(folder, Part(1, 2)), locked(folder, Part(2, 2)):
        with pytest.raises(InputError, match="wanted: part 2 of 2"), locked(folder, Part(2, 2)):
            pass
        with pytest.raises(InputError, match="another process"), locked(folder):
            pass
    with locked(folder), pytest.raises(InputError), locked(folder, Part(1, 2)):
        pass


def test_a_merge_before_any_part(tmp_path):
    with pytest.raises(InputError, match="6 of 6 items are not packed"):
        merge(tmp_path / "shards")


@pytest.mark.parametrize("extra", ["--merge", "--overwrite"])
def test_a_part_takes_no_merge_and_no_overwrite(tmp_path, extra):
    with pytest.raises(InputError, match="--part with"):
        part(tmp_path / "shards", "1/2", extra)
    assert not (tmp_path / "shards").exists()


def test_notes_that_cannot_be_read_do_not_count(tmp_path):
    (tmp_path / "part-1-of-2.json").write_text("{")
    (tmp_path / "part-2-of-2.json").write_text('{"settings": {}, "finished": true}')
    assert [note.part for note in read_notes(tmp_path)] == [Part(2, 2)]


@pytest.mark.slow
def test_the_batch_script_runs_parts_and_the_merge(root, whole, tmp_path):
    """With Slurm's variables set by hand: tasks 1-2 of 2 as an array runs them, then the merge."""
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    slurm = {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(root), "SLURM_TMPDIR": str(tmp_path)}
    slurm |= {"PARTS": "2", "VENV": str(venv.parent), "SLURM_CPUS_PER_TASK": "1"}
    command = ["bash", str(root / "slurm/pack_array.sbatch"), *SETTINGS[:-2]]
    for task in ({"SLURM_ARRAY_TASK_ID": "2"}, {"SLURM_ARRAY_TASK_ID": "1"}, {}):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "shards")],
            env={**os.environ, **slurm, **task},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "shards") == whole
    done = subprocess.run([*command], env={**os.environ, "SLURM_JOB_ID": ""}, capture_output=True)
    assert done.returncode == 2
