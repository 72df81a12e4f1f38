"""Training with the real commands on CPU ranks: resume, ranks, stages, conversion, errors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from commands import TINY, deepspeed, losses, metrics, python, random_port, ranks
from tiny import tiny_shards

from data.errors import InputError
from model.autoencoder import MaskedVAE
from model.config import from_dict
from trainer.checkpoints.weights import load_model
from trainer.ranks import joining

pytestmark = pytest.mark.slow
PRETRAIN = "trainer/pretrain.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


def flags(shards, run, **changes):
    settings = {
        "shards": shards, "run": run, "steps": 6, "global_batch": 8, "run_length": 4,
        "eval_every": 3, "eval_windows": 16, "save_every": 3, **changes,
    }  # fmt: skip
    return [*TINY, *(word for key, value in settings.items() for word in (f"--{key}", value))]


@pytest.fixture(scope="module")
def port():
    return random_port()


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory, port):
    """6 steps of 2 ranks, without an interruption."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    settings = flags(shards, run, figure_every=3)
    output = deepspeed(2, "--master_port", port, PRETRAIN, *settings)
    assert "held-out masked r" in output
    return run


def test_a_run_leaves_no_shared_memory(straight, port):
    """DeepSpeed would leave 69 MB of memory a rank, until the machine restarts."""
    assert not list(joining.FOLDER.glob(f"*_{port}_*"))


def test_no_room_in_shared_memory_is_told():
    with pytest.raises(InputError, match="CPU ranks need"):
        joining.require_room(10**6)


def test_golden_losses(straight, root):
    """A change of these numbers must be meant: see tests/golden/README.md."""
    golden = json.loads((root / "tests/golden/loss_cpu.json").read_text())
    found = [line["loss"] for line in metrics(straight)]
    assert found == pytest.approx(golden["loss"], rel=golden["rel"])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resume_repeats_the_straight_run(shards, straight, tmp_path, stage):
    config = ["--deepspeed_config", f"ds_configs/zero{stage}.json"]
    if stage != 2:
        straight = tmp_path / "straight"
        ranks(2, PRETRAIN, *flags(shards, straight, workers=0), *config)
    run = tmp_path / "resumed"
    ranks(2, PRETRAIN, *flags(shards, run, stop_at=3), *config)
    output = ranks(2, PRETRAIN, *flags(shards, run, workers=0), *config)
    assert "going on from step_00000003" in output
    assert losses(run) == losses(straight)
    python("trainer/convert.py", run, "--out", tmp_path / "encoder.safetensors")


def test_one_rank_equals_two(shards, straight, tmp_path):
    run = tmp_path / "one"
    ranks(1, PRETRAIN, *flags(shards, run, micro_batch=4))
    one, two = ([line["loss"] for line in metrics(folder)] for folder in (run, straight))
    assert one == pytest.approx(two, rel=2e-3)  # bf16 sums in another order


def test_free_bits_that_bind_give_one_gradient_for_any_ranks_and_micro_batch(shards, tmp_path):
    """Held against each micro-batch's mean they would give another with each of these."""
    heavy = ["--model", "beta=1", "--model", "free_bits=0.6", "--beta_warmup", 0]
    found = []
    for count, micro in ((2, 4), (2, 1), (1, 8)):
        run = tmp_path / f"{count}-{micro}"
        settings = flags(shards, run, micro_batch=micro, steps=2, eval_every=0)
        ranks(count, PRETRAIN, *settings, *heavy, "--deepspeed_config", "ds_configs/zero2.json")
        found.append([line[name] for line in metrics(run) for name in ("loss", "grad_norm")])
    assert found[1] == pytest.approx(found[0], rel=5e-3)  # bf16 sums in another order
    assert found[2] == pytest.approx(found[0], rel=5e-3)


def test_a_run_without_the_launcher(shards, straight, tmp_path):
    run = tmp_path / "plain"
    python(PRETRAIN, *flags(shards, run))
    assert [line["loss"] for line in metrics(run)] == pytest.approx(
        [line["loss"] for line in metrics(straight)], rel=2e-3
    )


def test_tensorboard_holds_what_is_promised(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(straight / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    names = set(events.Tags()["scalars"])
    wanted = ["loss", "error", "kl", "r", "r/A", "r/B", "lr", "grad_norm", "samples_per_s",
              "tokens_per_s", "mfu", "latent/kl_max_dim", "skipped"]  # fmt: skip
    assert {f"train/{name}" for name in wanted} <= names
    told = ["r", "r/A", "r_spline", "r_linear", "error", "r_other_latents",
            "latent/window_variance", "latent/window_share", "latent/active_share"]  # fmt: skip
    assert {f"val/{name}" for name in told} <= names
    assert events.Tags()["images"] == ["reconstruction"]


def test_run_folder_says_what_the_run_was(straight):
    config = json.loads((straight / "config.json").read_text())
    assert config["global_batch"] == 8
    assert config["deepspeed"]["train_micro_batch_size_per_gpu"] == 4
    assert config["trained_on"]["subjects"] == {
        "A": ["train0", "train1"],
        "B": ["train0", "train1"],
    }
    assert {"torch", "deepspeed", "python"} <= set(config["versions"])
    assert "commit" in config["git"]


def test_an_interrupted_save_is_passed_over(shards, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    last = run / "checkpoints/step_00000006"
    file = next(last.glob("*optim_states.pt"))
    file.write_bytes(file.read_bytes()[:-1])
    output = ranks(2, PRETRAIN, *flags(shards, run, workers=0))
    assert "passed over" in output
    assert "going on from step_00000003" in output
    assert losses(run) == losses(straight)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("part", ["encoder", "whole"])
def test_conversion(straight, tmp_path, suffix, part):
    out = tmp_path / f"weights.{suffix}"
    output = python("trainer/convert.py", straight, "--out", out, "--part", part)
    assert "parity on the fixed batch" in output
    # The documented way to load it, without DeepSpeed.
    meta = json.loads(out.with_suffix(".json").read_text())
    model = MaskedVAE(from_dict(meta["model"]))
    if suffix == "pt":
        state = torch.load(out, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(out)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert bool(missing) == (part == "encoder")
    assert all(name.startswith("decoder.") for name in missing)
    assert meta["signal"]["sfreq_hz"] == 200.0
    reference, _ = load_model(straight)
    eeg, places = torch.randn(2, 16, 100), torch.rand(16, 3) * 0.1
    assert torch.equal(
        model.eval().encode(eeg, places).tokens, reference.encode(eeg, places).tokens
    )


def test_conversion_finds_damage(straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    marker = run / "checkpoints/step_00000006/COMPLETE.json"
    value = json.loads(marker.read_text())
    value["state"]["parity_loss"] *= 1.1
    marker.write_text(json.dumps(value))
    output = python("trainer/convert.py", run, "--out", tmp_path / "w.pt", fails=True)
    assert "these weights give a loss" in output
    assert not (tmp_path / "w.pt").exists()


def test_starting_from_converted_weights(shards, straight, tmp_path):
    weights = tmp_path / "encoder.safetensors"
    python("trainer/convert.py", straight, "--out", weights)
    run = tmp_path / "run"
    ranks(2, PRETRAIN, *flags(shards, run, init=weights, steps=1, workers=0))
    words = [PRETRAIN, *flags(shards, tmp_path / "b", init=weights), "--model", "width=64"]
    other = ranks(1, *words, fails=True)
    assert "does not fit this model" in other


def test_streamed_shards_resume_too(shards, tmp_path):
    """Training shards from a pipe; the folder holds the manifest alone."""
    folder = tmp_path / "manifest_only"
    folder.mkdir()
    shutil.copy(shards / "manifest.json", folder)
    stream = ["--shard_url", f"pipe:cat {shards}/{{file}}", "--workers", "0"]
    straight, run = tmp_path / "straight", tmp_path / "resumed"
    output = ranks(2, PRETRAIN, *flags(folder, straight), *stream)
    assert "no validation" in output
    ranks(2, PRETRAIN, *flags(folder, run, stop_at=3), *stream)
    ranks(2, PRETRAIN, *flags(folder, run), *stream)
    assert losses(run) == losses(straight)


WRONG = {
    "no shards": (["--shards", "nowhere"], "nowhere: no such folder"),
    "preset": (["--preset", "tinny"], "Did you mean tiny"),
    "preset for another rate": (["--preset", "brain2image"], "made for 1000 Hz"),
    "patch": (["--model", "patch_samples=90", "--model", "tokens=joint"], "token"),
    "batch": (["--global_batch", "7"], "does not divide over 2 ranks"),
    "json": (["--deepspeed_config", "ds_configs/none.json"], "no such file"),
    "init": (["--init", "nowhere.pt"], "nowhere"),
    "too large a batch": (["--global_batch", "1000", "--micro_batch", "500"], "fewer than one"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_stop_all_ranks_with_one_message(shards, tmp_path, name):
    more, says = WRONG[name]
    # Without a group of ranks it is the launcher that ends the others.
    launched = deepspeed if name in ("preset", "patch") else ranks
    output = launched(2, PRETRAIN, *flags(shards, tmp_path / "run"), *more, fails=True)
    assert output.count("error: ") == 1, output
    assert says in output
    assert "  -> " in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_damaged_shard_stops_all_ranks(shards, tmp_path):
    broken = tmp_path / "shards"
    shutil.copytree(shards, broken)
    path = sorted(broken.glob("B-train-*.tar"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    output = ranks(2, PRETRAIN, *flags(broken, tmp_path / "run"), fails=True)
    assert output.count("error: ") == 1
    assert path.name in output
    assert "SHA-256" in output
    assert "Traceback" not in output


def test_reserved_people_are_refused(shards, tmp_path):
    (tmp_path / "reserved.yaml").write_text("reserve: [B]\n")
    reserved = flags(shards, tmp_path / "run", reserve=tmp_path / "reserved.yaml")
    output = ranks(2, PRETRAIN, *reserved, fails=True)
    assert output.count("error: ") == 1
    assert "reserved" in output


def test_a_changed_setting_is_refused_on_resume(shards, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    output = ranks(2, PRETRAIN, *flags(shards, run, seed=1, steps=8), fails=True)
    assert "another seed: 0, now 1" in output
    assert "to go on with it give: --seed 0" in output
    output = ranks(2, PRETRAIN, *flags(shards, run), "--resume", "never", fails=True)
    assert "there is a run already" in output
    output = ranks(1, PRETRAIN, *flags(shards, run, steps=8), fails=True)
    assert "its checkpoint was written by 2, this run has 1" in output
    assert "--elastic to convert it for 1" in output


def test_a_mistake_of_one_rank_before_there_is_a_group_is_told(shards, tmp_path):
    """A mistake that the node's first rank does not make: it would wait for the others."""
    code = (
        "import os, sys, runpy\nif os.environ['RANK'] == '1': sys.argv += ['--preset', 'tinny']\n"
    )
    code += f"sys.argv[0] = {PRETRAIN!r}; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    (tmp_path / "one.py").write_text(code)
    output = deepspeed(2, tmp_path / "one.py", *flags(shards, tmp_path / "run"), fails=True)
    assert output.count("error: ") == 1, output
    assert "Did you mean tiny" in output


def test_a_missing_hostfile_is_refused(shards, tmp_path):
    output = deepspeed(
        2, "--hostfile", tmp_path / "none", PRETRAIN, *flags(shards, tmp_path / "r"), fails=True
    )
    assert "no such file, so this would train on one machine only" in output
