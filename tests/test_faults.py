"""Faults done to real runs of two ranks: bad data and gradients, shards and disks that fail, hangs.
Each must be named in one message, on all ranks together, and cost nothing that was saved."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections import deque

import numpy as np
import pytest
from commands import ROOT, TINY, launch, losses, metrics, python, ranks, start_ranks
from tiny import tiny_shards

from data.batches.batch import finite
from data.batches.local import WindowDataset
from data.batches.order import TrainingOrder
from data.errors import InputError
from data.files import hash_file
from data.shards.manifest import read_manifest
from trainer.checkpoints import run_folder
from trainer.checkpoints.find import COMPLETE, superseded
from trainer.checkpoints.save import _drop_superseded, disk_use, require_space
from trainer.engine.log import FEWEST, is_spike
from trainer.masked.config import MaskedConfig
from trainer.ranks.watch import behind

slow = pytest.mark.slow
STEPS = 24


def flags(shards, run, **changes) -> list:
    settings = {
        "shards": shards, "run": run, "steps": STEPS, "global_batch": 8, "run_length": 4,
        "eval_every": 0, "save_every": 8, **changes,
    }  # fmt: skip
    return [*TINY, *(word for key, value in settings.items() for word in (f"--{key}", value))]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    ranks(2, "trainer/pretrain.py", *flags(shards, run))
    return run


def events(run) -> list[dict]:
    return metrics(run, "event")


# ---- data and gradients ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_shards(shards, tmp_path_factory):
    """One NaN in a window that rank 1 gets in step 3; (folder, shard, key)."""
    folder = tmp_path_factory.mktemp("data") / "bad"
    training = read_manifest(shards).of_split("train")
    _, numbers = TrainingOrder(tuple(training), 0, 8, 4).micro_batch(16, 1, 2, 4, 0)
    return folder, *spoilt_copy(shards, folder, "train", int(numbers[2]))


def spoilt_copy(shards, folder, split: str, number: int) -> tuple[str, str]:
    """Copy shards with one NaN in window `number` of a split; its shard's file and its key."""
    shutil.copytree(shards, folder)
    manifest = read_manifest(folder)
    dataset = WindowDataset(manifest, manifest.of_split(split))
    shard, key = dataset.name(number)
    index = number - int(dataset.starts[dataset.shards.index(shard)])
    with open(folder / shard.file, "r+b") as file:
        file.seek(shard.signal_offset(index) + 2 * 77)
        file.write(np.array([np.nan], np.float16).tobytes())
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    entry = next(entry for entry in value["shards"] if entry["file"] == shard.file)
    entry["sha256"], _ = hash_file(folder / shard.file)
    path.write_text(json.dumps(value))
    return shard.file, key


@slow
def test_bad_data_on_one_rank_are_left_out_by_all(bad_shards, straight, tmp_path):
    folder, file, key = bad_shards
    run = tmp_path / "run"
    output = ranks(2, "trainer/pretrain.py", *flags(folder, run, steps=STEPS, stop_at=8))
    named = f"data are not finite: {file}: {key} (dataset {file[0]}, rank 1)"
    assert f"step 3 skipped: {named}" in output
    assert events(run) == [{"step": 3, "group": "event", "skipped": named}]
    lines, undisturbed = metrics(run), metrics(straight)
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert all(math.isfinite(line["loss"]) for line in lines if line["step"] != 3)
    assert [line["loss"] for line in lines[:2]] == [line["loss"] for line in undisturbed[:2]]
    # The schedule has not moved: it counts applied steps.
    assert lines[3]["lr"] == undisturbed[2]["lr"]

    codes, output = start_ranks(
        2, "trainer/pretrain.py", *flags(folder, tmp_path / "strict", max_skips=1)
    )
    assert codes == [2, 2]
    assert output.count("error: ") == 1, output
    assert "1 steps in a row were skipped, up to step 3" in output
    assert f"{file}: {key}" in output
    assert "Traceback" not in output


@slow
def test_bad_validation_windows_are_refused_at_the_start(shards, tmp_path):
    folder = tmp_path / "bad"
    file, key = spoilt_copy(shards, folder, "val", 3)
    settings = flags(folder, tmp_path / "run", eval_every=8)
    codes, output = start_ranks(2, "trainer/pretrain.py", *settings)
    assert codes == [2, 2], output
    assert output.count("error: ") == 1, output
    assert f"{file}: {key}: a value of this held-out window is not finite" in output
    assert "Traceback" not in output


@slow
def test_a_bad_gradient_on_one_rank_is_left_out_by_all(shards, straight, tmp_path):
    run = tmp_path / "run"
    output = ranks(
        2, "tests/planted.py", "forward", 3, 1, "nan_gradient", "--",
        *flags(shards, run, stop_at=8),
    )  # fmt: skip
    assert "step 3 skipped: a gradient was not finite" in output
    lines, undisturbed = metrics(run), metrics(straight)
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 1, 1, 1]
    # Nothing was applied: the weights at step 4 are those at step 3, and so is the rate.
    assert [line["loss"] for line in lines[:3]] == [line["loss"] for line in undisturbed[:3]]
    assert lines[3]["lr"] == undisturbed[2]["lr"]
    assert lines[3]["loss"] != undisturbed[3]["loss"]
    assert all(math.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(value):
    eeg = np.random.default_rng(0).standard_normal((5, 3, 40)).astype(np.float16)
    eeg[1] = 65504  # the largest float16
    assert finite(eeg).all()
    eeg[3, 2, 39] = value
    assert finite(eeg).tolist() == [True, True, True, False, True]


def test_spikes_are_told_of_relative_to_the_median():
    before = deque([1.0] * (FEWEST - 1) + [100.0])
    assert is_spike(9.0, before, 10.0) is None
    assert is_spike(12.0, before, 10.0) == 12.0
    assert is_spike(12.0, [1.0] * (FEWEST - 1), 10.0) is None


# ---- shards that change while they are read --------------------------------------------------


@slow
@pytest.mark.parametrize(
    ("action", "says"),
    [("cut", "bytes, but the manifest says"), ("remove", "this shard is missing"),
     ("alter", "its SHA-256 is")],
)  # fmt: skip
def test_a_shard_that_changes_stops_all_ranks(shards, straight, tmp_path, action, says):
    folder, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, folder)
    victim = sorted(folder.glob("A-train-*.tar"))[0]
    codes, output = start_ranks(
        2, "tests/planted.py", "forward", 3, 0, action, victim, "--", *flags(folder, run)
    )
    assert codes == [2, 2], output
    assert output.count("error: ") == 1, output
    assert f"{victim.name}: " in output
    assert says in output
    assert "Traceback" not in output
    # What was trained until then is saved, and goes on with the shard restored.
    shutil.copy(shards / victim.name, victim)
    stopped = len(losses(run))
    assert 3 <= stopped < STEPS
    output = ranks(2, "trainer/pretrain.py", *flags(folder, run, workers=0))
    assert f"going on from step_{stopped:08d}" in output
    assert losses(run) == losses(straight)


# ---- disks -----------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_disk_that_is_full_during_a_save(shards, straight, tmp_path, rank):
    run = tmp_path / "run"
    codes, output = start_ranks(
        2, "tests/planted.py", "save", 16, rank, "fill", "--", *flags(shards, run)
    )
    assert codes == [2, 2], output
    assert output.count("error: ") == 1, output
    assert "this checkpoint could not be written" in output
    assert "free some space" in output
    assert "Traceback" not in output
    # The one before is whole, of this one nothing is left.
    assert [path.name for path in (run / "checkpoints").glob("step_*")] == ["step_00000008"]
    output = ranks(2, "trainer/pretrain.py", *flags(shards, run, workers=0))
    assert "going on from step_00000008" in output
    assert losses(run) == losses(straight)


@slow
def test_a_full_disk_that_takes_the_log_too(shards, tmp_path):
    """Nothing can be said then; but the ranks must end, not wait for their loader processes."""
    settings = flags(shards, tmp_path / "run")
    codes, _ = start_ranks(
        2, "tests/planted.py", "save", 16, 0, "fill", "--", *settings, log=tmp_path / "log"
    )
    assert codes == [2, 2]


@slow
def test_a_run_folder_that_cannot_be_written(shards):
    output = python("trainer/pretrain.py", *flags(shards, "/proc/run"), fails=True)
    assert output.count("error: ") == 1, output
    assert "--run /proc/run: cannot be written" in output
    assert "Traceback" not in output


def test_space_is_asked_for_beforehand(tmp_path):
    require_space(tmp_path / "new" / "run", 1)
    with pytest.raises(InputError, match=r"a checkpoint takes 1000000\.0 TB"):
        require_space(tmp_path / "new" / "run", 10**18)
    text = disk_use(tmp_path, MaskedConfig(preset="tiny", steps=1000, keep_every=100), 10**9)
    assert "1.0 GB each, up to 12 kept" in text
    assert "NOT ENOUGH" in disk_use(tmp_path, MaskedConfig(preset="tiny"), 10**18)


@pytest.mark.parametrize(
    ("last", "every", "gone"),
    [(1, 0, [1, 2, 3, 4, 5]), (2, 0, [1, 2, 3, 4]), (2, 2, [1, 3]), (1, 3, [1, 2, 4, 5]),
     (9, 0, [])],
)  # fmt: skip
def test_which_checkpoints_are_kept(last, every, gone):
    assert superseded([3, 1, 2, 6, 5, 4], last, every) == gone


def whole_checkpoint(run, step: int) -> None:
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / COMPLETE).write_text(json.dumps({"world": 1, "state": {"step": step}, "files": {}}))


@pytest.mark.parametrize(
    ("last", "every", "kept"), [(1, 0, [12, 16, 20]), (2, 0, [8, 12, 16, 20]),
                                (1, 4, [4, 8, 12, 16, 20])],
)  # fmt: skip
def test_a_checkpoint_is_kept_beside_later_ones_that_were_passed_over(tmp_path, last, every, kept):
    """Those of steps 16 and 20 have the right sizes and a wrong content: the run went back to 8."""
    for step in (4, 8, 12, 16, 20):
        whole_checkpoint(tmp_path, step)
    config = MaskedConfig(preset="tiny", keep_last=last, keep_every=every)
    _drop_superseded(tmp_path, 12, config)
    assert [int(path.name[5:]) for path in sorted((tmp_path / "checkpoints").iterdir())] == kept


@slow
def test_damaged_checkpoints_are_passed_over(shards, straight, tmp_path):
    """The newest has a byte changed; of those before, one lacks a file, one is renamed, and one was
    not finished."""
    run = tmp_path / "run"
    ranks(2, "trainer/pretrain.py", *flags(shards, run, save_every=4, keep_every=4, workers=0))
    folder = run / "checkpoints"
    assert [path.name[-2:] for path in sorted(folder.glob("step_*"))] == [
        "04", "08", "12", "16", "20", "24"
    ]  # fmt: skip
    file = next((folder / "step_00000024").glob("*model_states.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    missing = next((folder / "step_00000020").glob("*optim_states.pt"))
    missing.unlink()
    (folder / "step_00000016").rename(folder / "step_00000018")
    (folder / "step_00000012/COMPLETE.json").unlink()
    output = ranks(2, "trainer/pretrain.py", *flags(shards, run, workers=0))
    assert f"{file.name} is not what was written" in output
    assert f"{missing.name} is missing" in output
    assert "it holds step 16: renamed by hand?" in output
    assert "no COMPLETE.json: its save was interrupted" in output
    assert "going on from step_00000008" in output
    assert losses(run) == losses(straight)


# ---- two runs, one folder --------------------------------------------------------------------


def test_two_runs_do_not_write_one_folder(tmp_path):
    run = tmp_path / "run"
    code = (
        "import sys, time; from pathlib import Path; from trainer.checkpoints import run_folder\n"
        "run_folder.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(1000)\n"
    )
    words = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            InputError, match=f'another run writes this folder: .*"pid": {other.pid}'
        ):
            run_folder.take(run, wait_s=0.6)
        other.kill()  # -9: nothing is tidied up, and the lock is free
        other.wait()
        run_folder.take(run, wait_s=0.0)


# ---- hangs -----------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize(
    ("where", "step", "action", "rank", "says"),
    [
        ("forward", 3, "hang", 1,
         ["rank 1 on ", "at the forward pass, step 3; its stack:", "time.sleep"]),
        ("validation", 0, "hang", 1,
         ["rank 1 on ", "at validation, step 0; its stack:", "time.sleep"]),
        ("forward", 3, "stop", 1, ["rank 1 on ", "it does not answer", "(state: t (stopped))"]),
        ("forward", 3, "stop", 0, ["rank 0 at 127.0.0.1 does not answer"]),
    ],
)  # fmt: skip
def test_a_rank_that_hangs_is_named(shards, straight, tmp_path, where, step, action, rank, says):
    """`straight`: DeepSpeed's extension is built, which takes longer than this timeout."""
    code, output = launch(
        2, "tests/planted.py", where, step, rank, action, "--",
        *flags(shards, tmp_path / "run", timeout_s=6, eval_every=8, eval_windows=8),
    )  # fmt: skip
    assert code not in (0, 2), output
    assert output.count("error: no progress for 6 s") == 1, output
    for words in says:
        assert words in output


def test_who_holds_the_others_up():
    def places(*pairs):
        return {
            rank: pair and {"beat": pair[0], "count": pair[1]} for rank, pair in enumerate(pairs)
        }

    later = places((8, 20), (8, 20), (5, 20))
    assert behind(places((5, 20), (5, 20), (5, 20)), later) == [2]  # silent
    assert behind(places((5, 20), (5, 19)), places((8, 20), (8, 19))) == [1]
    assert behind(places((5, 20), (5, 20)), places((8, 20), (8, 20))) == [0, 1]
    assert behind(places((5, 20), None), places((8, 20), None)) == [1]


@slow
def test_damaged_weights_are_not_converted(straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    file = next((run / "checkpoints/step_00000024").glob("*optim_states.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    output = python("trainer/convert.py", run, "--out", tmp_path / "w.pt", fails=True)
    assert f"{file.name} is not what was written" in output
    assert "Traceback" not in output
    assert not (tmp_path / "w.pt").exists()
