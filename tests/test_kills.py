"""kill -9 to a real run of two ranks, at the worst moments; the run that goes on must equal, loss
for loss, the run that was never disturbed."""

from __future__ import annotations

import pytest
from commands import TINY, deepspeed, launch, losses, ranks
from tiny import tiny_shards

pytestmark = pytest.mark.slow
STEPS = 24


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


def flags(shards, run, **changes) -> list:
    settings = {
        "shards": shards, "run": run, "steps": STEPS, "global_batch": 8, "run_length": 4,
        "eval_every": 8, "eval_windows": 8, "save_every": 8, **changes,
    }  # fmt: skip
    return [*TINY, *(word for key, value in settings.items() for word in (f"--{key}", value))]


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    deepspeed(2, "trainer/pretrain.py", *flags(shards, run))
    assert (run / "ENDED").read_text() == "finished\n"
    return run


@pytest.mark.parametrize(
    ("where", "step", "rank", "action", "goes_on"),
    [
        ("forward", 12, 1, "kill", "going on from step_00000008"),
        ("forward", 4, 0, "kill_all_ranks", ": new"),
        ("save", 16, 0, "kill", "going on from step_00000008"),
        ("save", 16, 1, "kill_all_ranks", "going on from step_00000008"),
        ("validation", 2, 1, "kill", "going on from step_00000008"),
        # The ranks see that they are alone, save and leave.
        ("forward", 12, 0, "kill_launcher", "going on from step_00000012"),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    shards, straight, tmp_path, where, step, rank, action, goes_on
):
    run = tmp_path / "run"
    code, output = launch(
        2, "tests/planted.py", where, step, rank, action, "--", *flags(shards, run)
    )
    # DeepSpeed returns 0 when its launcher was killed: only RUN/ENDED tells that a run came to
    # its end.
    assert (code == 0) == (action == "kill_launcher"), output
    assert not (run / "ENDED").exists()
    assert "done: " not in output
    output = ranks(2, "trainer/pretrain.py", *flags(shards, run, workers=0))
    assert goes_on in output
    assert losses(run) == losses(straight)
    assert (run / "ENDED").exists()
