"""Runs whose checkpoints were purged, damaged or copied in part: what is told, and what it takes to
begin anew. Never quietly over the old logs; never with fuss where there was no checkpoint yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import TINY, launch, losses, metrics, python, ranks, start_ranks
from tiny import TINY_TRANSLATION, tiny_pairs, tiny_shards

from data.errors import InputError
from trainer.checkpoints import lost
from trainer.checkpoints.find import survey, tag_of
from trainer.checkpoints.weights import FORMER_TRANSLATION, load_state
from trainer.preflight.run_check import run_state

slow = pytest.mark.slow
PRETRAIN, FINETUNE, TRANSLATE = (
    f"trainer/{name}.py" for name in ("pretrain", "finetune_vc", "eeg2meg")
)


def run_folder(
    run: Path, *, kept=None, whole=(), reached: int = 0, config: bool = True, save_every: int = 2
) -> Path:
    """A run folder as training leaves it; `whole`: steps whose checkpoints are there."""
    run.mkdir(exist_ok=True)
    if config:
        (run / "config.json").write_text(json.dumps({"run": {"save_every": save_every}}))
    if reached:
        lines = [json.dumps({"step": s, "group": "train"}) for s in range(1, reached + 1)]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if kept is not None:
        lost.record(run, list(kept))
    for step in whole:
        folder = run / "checkpoints" / tag_of(step)
        folder.mkdir(parents=True)
        (folder / "a.pt").write_bytes(b"abc")
        marker = {"world": 1, "state": {"step": step}, "files": {"a.pt": 3}}
        (folder / "COMPLETE.json").write_text(json.dumps(marker))
    return run


def begin(run: Path, **changes) -> bool:
    tags, passed = survey(run)
    found = int(tags[-1].partition("_")[2]) if tags else None
    return lost.find_start(
        run, found, passed, tag_of, **{"resume": "auto", "restart_lost": False, **changes}
    )


@pytest.mark.parametrize(
    "state",
    [
        {"config": False},
        {"kept": [], "reached": 1},
        {"kept": [], "reached": 2},  # killed in its first save
        {"reached": 2},  # an older run, without a record
        {"kept": [], "reached": 0},
    ],
)
def test_a_run_that_never_saved_begins_anew(tmp_path, state):
    assert begin(run_folder(tmp_path / "run", **state)) is False
    assert not (tmp_path / "run" / "before-1").exists()


def test_an_interrupted_first_save_is_none_that_is_lost(tmp_path, capsys):
    run = run_folder(tmp_path / "run", kept=[], reached=2, whole=[2])
    (run / "checkpoints" / tag_of(2) / "COMPLETE.json").unlink()
    assert begin(run) is False
    assert "passed over: no COMPLETE.json: its save was interrupted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "spoil", "says"),
    [
        ({"kept": [2, 4], "reached": 5}, None, ["step_00000002: it is gone", "reached step 5"]),
        ({"kept": [4], "whole": [4]}, "cut", ["step_00000004: a.pt is missing or was cut"]),
        ({"kept": [4], "whole": [4]}, "file", ["step_00000004: a.pt is missing or was cut"]),
        ({"kept": [4], "whole": [4]}, "marker", ["step_00000004: no COMPLETE.json"]),
        ({"kept": [4], "whole": [4]}, "config", ["without config.json, which is gone"]),
        ({"reached": 3}, None, ["holds no whole checkpoint"]),  # without a record
        ({"reached": 1, "config": False}, None, ["holds no whole checkpoint"]),
        ({"whole": [4]}, "cut", ["step_00000004: a.pt is missing or was cut"]),
    ],
)
def test_lost_checkpoints_are_named_and_nothing_begins(tmp_path, state, spoil, says):
    run = run_folder(tmp_path / "run", **state)
    spoiled = {"file": "a.pt", "marker": "COMPLETE.json"}
    if spoil == "cut":
        (run / "checkpoints" / tag_of(4) / "a.pt").write_bytes(b"a")
    elif spoil == "config":
        (run / "config.json").unlink()
    elif spoil:
        (run / "checkpoints" / tag_of(4) / spoiled[spoil]).unlink()
    before = sorted(run.rglob("*"))
    with pytest.raises(InputError) as caught:
        begin(run)
    for words in [*says, "add --restart_lost", str(run / "before-1")]:
        assert words in str(caught.value)
    assert sorted(run.rglob("*")) == before
    assert begin(run, restart_lost=True) is False
    aside = [path.name for path in (run / "before-1").iterdir()]
    assert ("metrics.jsonl" in aside) == bool(state.get("reached"))
    assert {path.name for path in run.iterdir()} <= {"before-1", "checkpoints"}
    assert survey(run) == ([], {})
    # What was begun so is a new run: a start before its first checkpoint needs no more words.
    run_folder(run, kept=[], reached=1)
    assert begin(run) is False


def test_an_older_checkpoint_is_taken_and_what_that_costs_is_told(tmp_path, capsys):
    run = run_folder(tmp_path / "run", kept=[4, 6], whole=[4], reached=7)
    assert begin(run) is True
    told = capsys.readouterr().out
    assert f"checkpoint {run}/checkpoints/step_00000006 is gone" in told
    assert "steps 5 to 7 are done again" in told
    run = run_folder(tmp_path / "other", kept=[4, 6], whole=[4, 6], reached=6)
    (run / "checkpoints" / tag_of(6) / "a.pt").unlink()
    assert begin(run) is True
    told = capsys.readouterr().out
    assert "step_00000006 is passed over: a.pt is missing" in told
    assert "steps 5 to 6 are done again" in told


@pytest.mark.parametrize(
    ("state", "level", "says"),
    [
        ({"config": False}, "ok", "none yet"),
        ({"kept": [], "reached": 1}, "ok", "no checkpoint was saved yet"),
        ({"kept": [2, 4], "reached": 5, "whole": [2, 4]}, "ok", "goes on from step 4"),
        ({"kept": [2, 4], "reached": 5, "whole": [2]}, "warn", "step_00000004 is gone; steps 3"),
        ({"kept": [2, 4], "reached": 5}, "FAIL", "step_00000002: it is gone; step_00000004"),
        ({"kept": [2], "reached": 3, "whole": [2], "config": False}, "FAIL", "without config.json"),
    ],
)
def test_the_doctor_tells_of_lost_checkpoints(tmp_path, state, level, says):
    check = run_state(run_folder(tmp_path / "run", **state))
    assert check.level == level, check
    assert says in check.found
    assert ("--restart_lost" in check.remedy) == (level == "FAIL")


def test_the_doctor_knows_runs_of_the_version_before(tmp_path):
    run = run_folder(tmp_path / "run", kept=[4], reached=5)
    entry = {"format": FORMER_TRANSLATION, "run": {"save_every": 2}}
    (run / "config.json").write_text(json.dumps(entry))
    check = run_state(run)
    assert check.level == "FAIL"
    assert "by an earlier version, which cannot go on" in check.found
    assert "give another --run" in check.remedy


def test_an_older_checkpoint_that_is_gone_costs_nothing(tmp_path, capsys):
    run = run_folder(tmp_path / "run", kept=[4, 6], whole=[6], reached=8)
    assert begin(run) is True
    assert begin(run, restart_lost=True) is True, "there is one to go on from"
    assert capsys.readouterr().out == ""
    (run / "metrics.jsonl").unlink()
    assert begin(run) is True
    told = capsys.readouterr().out
    assert told == "resume: metrics.jsonl is gone: the log begins after step 6\n"


def test_never_means_that_nothing_of_a_run_may_be_there(tmp_path):
    for number, state in enumerate([{"reached": 2, "config": False}, {"whole": [2]}, {}]):
        run = run_folder(tmp_path / f"run{number}", **state)
        with pytest.raises(InputError, match="there is a run already"):
            begin(run, resume="never")
    assert begin(run_folder(tmp_path / "new", config=False), resume="never") is False


def test_a_link_to_a_purged_scratch_is_made_good(tmp_path):
    run = run_folder(tmp_path / "run", kept=[4], reached=4)
    (run / "checkpoints").symlink_to(tmp_path / "scratch" / "checkpoints")
    assert begin(run, restart_lost=True) is False
    assert (tmp_path / "scratch" / "checkpoints").is_dir()


def test_a_second_loss_is_kept_beside_the_first(tmp_path):
    for number in (1, 2):
        run = run_folder(tmp_path / "run", kept=[4], reached=4)
        assert begin(run, restart_lost=True) is False
        assert (run / f"before-{number}" / "metrics.jsonl").exists()


# ---- the commands -----------------------------------------------------------------------------


def flags(run, shards, **changes) -> list:
    settings = {
        "shards": shards, "run": run, "steps": 8, "global_batch": 8, "run_length": 4,
        "eval_every": 0, "save_every": 2, **changes,
    }  # fmt: skip
    return [word for key, value in settings.items() for word in (f"--{key}", value)]


def refused(codes: list[int], output: str, *says: str) -> None:
    assert set(codes) == {2}, output
    assert output.count("error: ") == 1, output
    assert "Traceback" not in output
    for words in says:
        assert words in output, output


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """4 of 8 steps of two ranks, with the checkpoints of steps 2 and 4."""
    run = tmp_path_factory.mktemp("runs") / "run"
    ranks(2, PRETRAIN, *TINY, *flags(run, shards, stop_at=4))
    return run


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@slow
def test_pretraining_over_purged_checkpoints_needs_a_word(shards, copy):
    shutil.rmtree(copy / "checkpoints")
    words = [*TINY, *flags(copy, shards, stop_at=4)]
    old, curve = (copy / "metrics.jsonl").read_bytes(), losses(copy)
    codes, output = start_ranks(2, PRETRAIN, *words)
    refused(codes, output, "reached step 4", "step_00000004: it is gone", "--restart_lost")
    assert (copy / "metrics.jsonl").read_bytes() == old
    assert (copy / "ENDED").exists(), "the record of the old run's end is its own"
    output = ranks(2, PRETRAIN, *words, "--restart_lost")
    assert f"the old run is kept in {copy}/before-1" in output
    assert (copy / "before-1" / "metrics.jsonl").read_bytes() == old
    assert list((copy / "before-1" / "tensorboard").glob("events*"))
    assert len(list((copy / "tensorboard").glob("events*"))) == 1
    assert losses(copy) == curve
    # A batch script that is requeued still has the word among its flags.
    output = ranks(2, PRETRAIN, *TINY, *flags(copy, shards), "--restart_lost")
    assert "going on from step_00000004" in output
    assert [line["step"] for line in metrics(copy)] == list(range(1, 9))


@slow
@pytest.mark.parametrize("what", ["shard", "latest", "newest"])
def test_partly_purged_checkpoints(shards, copy, what):
    newest = copy / "checkpoints" / tag_of(4)
    if what == "shard":
        next(newest.glob("*zero_pp_rank_1*optim*")).unlink()
    elif what == "latest":
        (copy / "checkpoints" / "latest").unlink()  # for DeepSpeed's own tools only
    else:
        shutil.rmtree(newest)
    output = ranks(2, PRETRAIN, *TINY, *flags(copy, shards, stop_at=6))
    if what == "latest":
        assert "going on from step_00000004" in output
        assert "done again" not in output
    else:
        assert "going on from step_00000002" in output
        assert "steps 3 to 4 are done again" in output
        assert "is gone" in output if what == "newest" else "passed over" in output
    assert [line["step"] for line in metrics(copy)] == list(range(1, 7))
    assert lost.recorded(copy) == [4, 6]


@slow
def test_weights_of_a_run_say_of_which_step_they_are(copy, capsys):
    """Not silently those of an older checkpoint."""
    _, meta = load_state(copy)
    assert (meta["checkpoint"], meta["steps"]) == (tag_of(4), 4)
    assert capsys.readouterr().out == f"{copy}: weights of step 4 of 8\n"
    shutil.rmtree(copy / "checkpoints" / tag_of(4))
    assert load_state(copy)[1]["steps"] == 2
    told = capsys.readouterr().out
    assert f"{copy}: its last checkpoint, of step 4, is lost" in told
    assert "weights of step 2 of 8" in told


@slow
def test_a_job_that_was_killed_before_its_first_checkpoint_needs_no_human(shards, tmp_path):
    run = tmp_path / "run"
    words = [*TINY, *flags(run, shards, save_every=6, steps=6)]
    code, output = launch(2, "tests/planted.py", "forward", 4, 0, "kill_all_ranks", "--", *words)
    assert code != 0
    assert lost.reached(run) == 3
    output = ranks(2, PRETRAIN, *words)
    assert f"run      {run}: new" in output
    assert len(metrics(run)) == 6


@slow
def test_fine_tuning_over_damaged_checkpoints_needs_a_word(copy, tmp_path):
    vc = tiny_shards(
        tmp_path / "vc", samples=80, datasets={"VC": ("biosemi32", 16)}, train=(20,), held_out=4
    )
    run = tmp_path / "vc_run"
    words = ["--init", copy, *flags(run, vc, steps=4), "--log_every", 1, "--workers", 0,
             "--figure_every", 0, "--windows_per_subject", 4]  # fmt: skip
    ranks(2, FINETUNE, *words)
    for folder in (run / "checkpoints").glob("step_*"):
        victim = next(folder.glob("*optim*"))
        data = bytearray(victim.read_bytes())
        data[-9] ^= 1
        victim.write_bytes(data)
    codes, output = start_ranks(2, FINETUNE, *words)
    refused(codes, output, "reached step 4", "CRC-32", "--restart_lost")
    ranks(2, FINETUNE, *words, "--restart_lost")
    assert (run / "before-1" / "adaptation" / "adaptation.json").exists()
    assert (run / "adaptation" / "adaptation.json").exists()
    assert sorted(p.name for p in (run / "checkpoints" / "before-1").glob("step*")) == [
        tag_of(2), tag_of(4)
    ]  # fmt: skip
    # What it began from may be purged too: the weights are safe, the report says what it lacks.
    shutil.rmtree(copy / "checkpoints")
    codes, output = start_ranks(1, FINETUNE, *words, "--elastic")
    refused(codes, output, "trained and saved, but has no report", "step_00000004: it is gone")


@slow
def test_translation_over_lost_checkpoints_needs_a_word(tmp_path):
    pairs, run = tiny_pairs(tmp_path / "pairs"), tmp_path / "run"
    words = [*TINY_TRANSLATION, "--figure_every", 0, "--log_every", 1, "--eval_windows", 4,
             "--eval_every", 4, "--shards", pairs, "--run", run, "--steps", 6, "--global_batch", 4,
             "--save_every", 2]  # fmt: skip
    python(TRANSLATE, *words, "--stop_at", 4)
    kept = shutil.copytree(run / "checkpoints", tmp_path / "kept")
    for path in (run / "checkpoints").rglob("*.pt"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    output = python(TRANSLATE, *words, fails=True)
    refused([2], output, tag_of(4), "CRC-32", "--restart_lost", "best holds its best weights")
    shutil.rmtree(run / "checkpoints")
    refused([2], python(TRANSLATE, *words, fails=True), f"{tag_of(2)}: it is gone")
    shutil.copytree(kept, run / "checkpoints")
    shutil.rmtree(run / "checkpoints" / tag_of(4))
    shutil.rmtree(run / "best")
    output = python(TRANSLATE, *words)
    assert f"{tag_of(4)} is gone" in output
    assert f"resume: {run}/best is gone: the best from here on is kept" in output
    assert json.loads((run / "best" / "eeg2meg.json").read_text())["validation"]["step"] in (4, 6)
    assert [line["step"] for line in metrics(run)] == list(range(1, 7))
    shutil.rmtree(run / "checkpoints")
    python(TRANSLATE, *words, "--restart_lost")
    assert (run / "before-1" / "best" / "model.safetensors").exists()
    assert [line["step"] for line in metrics(run)] == list(range(1, 7))
