"""Going on with another number of ranks and the same global batch: the same windows, and losses
equal but for the order of sums in bf16."""

from __future__ import annotations

import shutil

import pytest
from commands import TINY, losses, metrics, ranks, start_ranks
from tiny import tiny_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


def flags(shards, run, **changes) -> list:
    settings = {
        "shards": shards, "run": run, "steps": 9, "run_length": 4, "eval_every": 0,
        "save_every": 3, "workers": 0, **changes,
    }  # fmt: skip
    return [*TINY, *(word for key, value in settings.items() for word in (f"--{key}", value))]


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    ranks(2, "trainer/pretrain.py", *flags(shards, run, global_batch=8))
    return [line["loss"] for line in metrics(run)]


@pytest.mark.parametrize(
    ("before", "after", "stage"),
    [(2, 1, 2), (1, 2, 2), (2, 1, 1), (2, 1, 3), (8, 4, 2), (2, 8, 2)],
)
def test_other_ranks_go_on_with_the_same_losses(shards, straight, tmp_path, before, after, stage):
    run = tmp_path / "run"
    config = ["--deepspeed_config", f"ds_configs/zero{stage}.json"]
    ranks(before, "trainer/pretrain.py", *flags(shards, run, global_batch=8, stop_at=4), *config)
    if stage == 2 and (before, after) == (2, 1):
        # Nobody has typed a batch: the ranks are to blame, in one message.
        words = flags(shards, run)
        del words[words.index("--run_length") : words.index("--run_length") + 2]
        codes, output = start_ranks(after, "trainer/pretrain.py", *words)
        assert codes == [2] * after
        assert output.count("error: ") == 1
        assert "another number of ranks: its checkpoint was written by 2, this run has 1" in output
        assert "--elastic" in output
        assert "--global_batch" not in output
    # The global batch and the order of the data are the run's: --elastic is all there is to say.
    settings = flags(shards, run)
    del settings[settings.index("--run_length") : settings.index("--run_length") + 2]
    output = ranks(after, "trainer/pretrain.py", *settings, "--elastic", *config)
    assert f"resume: ranks were {before}, are now {after}" in output
    assert f"x {after} ranks = 8 windows a step" in output
    lines = metrics(run)
    assert [line["samples"] for line in lines] == [8 * step for step in range(1, 10)]
    # Stage 1 accumulates gradients in bf16; with one micro-batch a step that changes little.
    assert [line["loss"] for line in lines] == pytest.approx(straight, rel=2e-3)
    # Nothing of the conversion stays behind, and the run goes on by itself from here.
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert not [name for name in names if "universal" in name]
    assert "step_00000009" in names


def test_an_elastic_run_repeats_itself(shards, tmp_path):
    """From one checkpoint, the same other number of ranks gives the same numbers, bit for bit."""
    first, second = tmp_path / "first", tmp_path / "second"
    ranks(2, "trainer/pretrain.py", *flags(shards, first, global_batch=8, stop_at=4))
    shutil.copytree(first, second)
    for run in (first, second):
        ranks(1, "trainer/pretrain.py", *flags(shards, run), "--elastic")
    assert losses(first) == losses(second)
