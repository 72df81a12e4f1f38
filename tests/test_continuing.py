"""Nothing goes on as something other than was asked for: weights of another model, a run of another
command, other data under the same flags, a batch that nobody typed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from commands import TINY, metrics, python, ranks, start_ranks
from safetensors.torch import load_file, save_file
from tiny import TINY_TRANSLATION, tiny_pairs, tiny_shards

from data.errors import InputError
from model.config import preset
from trainer.checkpoints.lost import record
from trainer.checkpoints.weights import describe, load_state, read_file, read_run_config
from trainer.engine.plan import make_plan, with_recorded_batch
from trainer.engine.resume import compare
from trainer.masked.config import MaskedConfig
from trainer.masked.export import write_weights
from trainer.masked.task import MaskedTask
from trainer.translation.config import TranslationConfig, plain_config
from trainer.translation.task import TranslationTask

SMALL = {
    "width": 32, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_heads": 2,
    "decoder_depth": 1, "latent_dim": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


# ---- weights to start from ---------------------------------------------------------------------


def built(plan):
    return plan.task.build_model(plan)


def plan_for(shards, init=None, **model):
    config = MaskedConfig(preset="tiny", shards=str(shards), init=init and str(init), micro_batch=4)
    return make_plan(config, MaskedTask(config, preset("tiny", **{**SMALL, **model})), 1)


@pytest.fixture(scope="module")
def weights(shards, tmp_path_factory):
    plan = plan_for(shards)
    out = tmp_path_factory.mktemp("weights") / "whole.safetensors"
    write_weights(plan.task.build_model(plan).state_dict(), describe(plan.as_dict()), out)
    return out


def test_weights_of_the_same_model_are_taken(shards, weights, capsys):
    model = built(plan_for(shards, weights))
    state, _ = read_file(weights)
    assert all(value.equal(model.state_dict()[name]) for name, value in state.items())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "says", "words"),
    [
        # Of equal shapes, and nonsense: these were loaded without a word.
        ({"heads": 4}, "its heads is 2, this model's 4", "--model heads=2"),
        ({"decoder_heads": 4}, "its decoder_heads is 2, this model's 4", "--model decoder_heads=2"),
        ({"width": 64}, "does not fit this model", "give the same --preset and --model"),
        ({"depth": 2}, "weights are missing", "convert the run again"),
    ],
)
def test_weights_of_another_model_are_refused(shards, weights, change, says, words):
    with pytest.raises(InputError) as caught:
        built(plan_for(shards, weights, **change))
    assert says in caught.value.what
    assert words in caught.value.remedy


def test_what_differs_and_may_is_told(shards, weights, tmp_path, capsys):
    other = tiny_shards(tmp_path / "other", seed=1)
    path = other / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["profile"]["h_freq_hz"] = 45.0
    path.write_text(json.dumps(manifest))
    built(plan_for(other, weights))
    told = capsys.readouterr().out
    assert told == "init: trained on EEG with h_freq_hz 75.0, these shards have 45.0\n"


def test_half_of_an_encoder_is_refused(shards, weights, tmp_path):
    state, meta = read_file(weights)
    encoder = {name: x for name, x in state.items() if name.startswith("encoder.")}
    dropped = sorted(encoder)[0]
    out = tmp_path / "encoder.safetensors"
    write_weights({n: x for n, x in encoder.items() if n != dropped}, {**meta, "part": "encoder"},
                  out)  # fmt: skip
    with pytest.raises(InputError, match=f"1 weights are missing, as {dropped}"):
        built(plan_for(shards, out))


def test_weights_beside_the_description_of_others_are_refused(weights, tmp_path):
    """Equal shapes, so nothing else could tell: the people trained on would be those of others."""
    out = tmp_path / "whole.safetensors"
    shutil.copy(weights.with_suffix(".json"), out.with_suffix(".json"))
    save_file({name: x + 1 for name, x in load_file(weights).items()}, out)
    with pytest.raises(InputError, match=r"not the weights that whole\.json describes"):
        read_file(out)
    meta = json.loads(out.with_suffix(".json").read_text())
    del meta["weights_sha256"]  # as older ones are
    out.with_suffix(".json").write_text(json.dumps(meta))
    assert read_file(out)[0]


def test_a_run_whose_checkpoints_are_lost_gives_no_weights(shards, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(plan_for(shards).as_dict()))
    with pytest.raises(InputError, match="train further, until one is saved"):
        load_state(run)
    record(run, [5])
    with pytest.raises(InputError, match=r"(?s)checkpoints are lost:.*step_00000005: it is gone"):
        load_state(run)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"format": "eeg2meg-run", "run": {}}, "a run of trainer/eeg2meg.py"),
        ({"run": {}}, "damaged (it lacks model)"),
        ([], "damaged"),
    ],
)
def test_folders_of_other_commands_are_named(tmp_path, config, says):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        read_run_config(tmp_path)
    assert says in str(caught.value)


def test_ranks_that_cannot_share_the_batch_of_a_run_are_told_which_can(shards, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({**plan_for(shards).as_dict(), "global_batch": 12, "run_length": 4})
    )
    config = MaskedConfig(preset="tiny", run=str(tmp_path), elastic=True)
    assert with_recorded_batch(config, 4).global_batch == 12
    with pytest.raises(InputError) as caught:
        with_recorded_batch(config, 8)
    assert "takes 12 windows a step, which 8 ranks cannot share evenly" in caught.value.what
    assert "start 1, 2, 3, 4, 6 or 12 ranks" in caught.value.remedy
    assert with_recorded_batch(replace(config, global_batch=16), 8).global_batch == 16


# ---- translation -------------------------------------------------------------------------------


def translation(**changes) -> dict:
    """config.json of a run of translation; settings, or entries of `beside` in part."""
    beside = changes.pop("beside", {})
    config = TranslationConfig(**{"shards": "pairs", **changes})
    return {
        "task": {"name": "translation", **TranslationTask(config).fixed()},
        "run": json.loads(json.dumps(config.as_dict())),
        "model": plain_config(config.model_config(1, 1)),
        "profile": {}, "manifest_sha256": "0" * 64, "seed": config.seed, "micro_batch": 4,
        "accumulation": 1, "global_batch": 8, "run_length": 1, "temperature": 1.0,
        "deepspeed": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": False}},
        **beside,
    }  # fmt: skip


STAGE_3 = {"deepspeed": {"zero_optimization": {"stage": 3}, "bf16": {"enabled": False}}}
BF16 = {"deepspeed": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}}
CLIPPED = {"deepspeed": {**translation()["deepspeed"], "gradient_clipping": 0.1}}
OTHER_PAIRS = {"manifest_sha256": "1" * 64}


@pytest.mark.parametrize(
    ("new", "says", "words"),
    [
        (translation(holdout="loso:2"), "another holdout: auto, now loso:2", "--holdout auto"),
        (translation(meg_sensors=3), "another meg_sensors: 64, now 3", "--meg_sensors 64"),
        (translation(encoder="x"), "another encoder: None, now x", "no --encoder"),
        (translation(freeze_encoder=True), "freeze_encoder: False", "--no-freeze_encoder"),
        (translation(model=("d_ff=8",)), "another model: d_ff 256, now 8", "--model d_ff=256"),
        (translation(beside=OTHER_PAIRS), "packed anew since", "in pairs"),
        (translation(beside=OTHER_PAIRS, shards="b"), "pairs, now b", "--shards pairs"),
        (translation(beside={"global_batch": 4}), "another batch", "--global_batch 8"),
        (translation(beside=BF16), "another precision: fp32, now bf16", "--precision fp32"),
        (translation(beside=STAGE_3), "stage in the DeepSpeed JSON: 2", "zero2"),
    ],
)
def test_another_translation_is_refused_with_the_way_back(new, says, words):
    refused, _ = compare(translation(), new, 10, kind=TranslationConfig)
    assert len(refused) == 1
    assert says in refused[0][0]
    assert words in refused[0][1]


RATE = "the learning rate at this step was to be"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (translation(), []),
        # The same shards, copied to a job's local disk.
        (translation(shards="/local/pairs"), ["--shards was pairs, is now /local/pairs"]),
        (translation(stop_at=3), ["--stop_at was None, is now 3"]),
        (translation(patience=9), ["--patience was 6, is now 9"]),
        (translation(lr=0.1), ["--lr was None, is now 0.1", RATE]),
        (translation(beside=CLIPPED), ["deepspeed.gradient_clipping was None, is now 0.1"]),
    ],
)
def test_what_a_translation_may_change(new, told):
    refused, found = compare(translation(), new, 10, kind=TranslationConfig)
    assert refused == []
    assert len(found) == len(told)
    assert all(line.startswith(words) for line, words in zip(found, told, strict=True))


@pytest.mark.slow
def test_each_command_refuses_the_run_folder_of_the_other(shards, tmp_path):
    pairs = tiny_pairs(tmp_path / "pairs")
    train = [*TINY, "--shards", shards, "--steps", 4, "--stop_at", 2, "--global_batch", 8,
             "--eval_every", 0, "--save_every", 2]  # fmt: skip
    translate = [*TINY_TRANSLATION, "--figure_every", 0, "--log_every", 1, "--eval_windows", 4,
                 "--shards", pairs, "--steps", 2, "--global_batch", 4]  # fmt: skip
    ranks(1, "trainer/pretrain.py", *train, "--run", tmp_path / "a")
    python("trainer/eeg2meg.py", *translate, "--run", tmp_path / "b")
    another = "another task: translation, now masked"
    for script, words, run, says in (
        ("pretrain", train, "b", another),
        ("pretrain", [*train, "--elastic"], "b", another),
        ("finetune_vc", ["--shards", shards, "--init", tmp_path / "b"], "c",
         "a run of trainer/eeg2meg.py, which holds no masked autoencoder"),
        ("eeg2meg", translate, "a", "another task: masked, now translation"),
    ):  # fmt: skip
        before = {path: path.stat().st_size for path in (tmp_path / run).rglob("metrics.jsonl")}
        codes, output = start_ranks(1, f"trainer/{script}.py", *words, "--run", tmp_path / run)
        assert codes == [2], output
        assert output.count("error: ") == 1
        assert says in output
        assert "Traceback" not in output
        assert before == {path: path.stat().st_size for path in before}


@pytest.mark.slow
def test_a_resume_does_not_need_the_initial_weights_again(shards, tmp_path):
    """They lie on scratch, and may be purged before the run ends."""
    weights = tmp_path / "whole.safetensors"
    plan = plan_for(shards, depth=2)
    write_weights(plan.task.build_model(plan).state_dict(), describe(plan.as_dict()), weights)
    words = [*TINY, "--shards", shards, "--run", tmp_path / "run", "--steps", 4, "--global_batch",
             8, "--eval_every", 0, "--init", weights]  # fmt: skip
    ranks(1, "trainer/pretrain.py", *words, "--stop_at", 2)
    weights.unlink()
    output = ranks(1, "trainer/pretrain.py", *words)
    assert "going on from step_00000002" in output
    assert len(metrics(tmp_path / "run")) == 4
