"""The DeepSpeed JSON: what is misspelt or has no effect is refused, with the name meant."""

from __future__ import annotations

import json

import pytest

from data.errors import InputError
from trainer.engine.deepspeed_json import read_deepspeed_config

GOOD = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_clipping": 1.0,
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2},
}


def read(tmp_path, value) -> dict:
    path = tmp_path / "ds.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_deepspeed_config(str(path))


def zero(**more) -> dict:
    return {"zero_optimization": {"stage": 2, **more}}


@pytest.mark.parametrize(
    ("change", "named", "meant"),
    [
        ({"gradient_cliping": 1.0}, "'gradient_cliping'", "gradient_clipping"),
        ({"train_micro_batch_size": 4}, "'train_micro_batch_size'", "size_per_gpu"),
        ({"gradient_accumulation": 2}, "'gradient_accumulation'", "gradient_accumulation_steps"),
        ({"zero_optimisation": {"stage": 3}}, "'zero_optimisation'", "zero_optimization"),
        (zero(overlap_com=True), "'zero_optimization.overlap_com'", "overlap_comm"),
        (
            zero(offload_optimizer={"device": "cpu", "pin_mem": True}),
            "'zero_optimization.offload_optimizer.pin_mem'",
            "pin_memory",
        ),
        ({"bf16": {"enable": True}}, "'bf16.enable'", "enabled"),
        ({"bf16": {"enabled": True, "check_overflow": True}}, "check_overflow", "check_grad_over"),
        ({"data_types": {"grad_acc_dtype": "fp32"}}, "'data_types.grad_acc_dtype'", "grad_accum"),
        ({"checkpoint": {"tag_validate": "Fail"}}, "'checkpoint.tag_validate'", "tag_validation"),
        ({"flops_profiler": {"enable": True}}, "'flops_profiler.enable'", "enabled"),
        ({"tensorboard": {"enabled": False, "output": "x"}}, "tensorboard.output", "output_path"),
        ({"seed": 1}, "'seed'", ""),
    ],
)
def test_a_misspelt_key_is_refused_with_the_one_that_was_meant(tmp_path, change, named, meant):
    with pytest.raises(InputError) as caught:
        read(tmp_path, {**GOOD, **change})
    assert named in caught.value.what
    assert "ds.json" in caught.value.what
    assert meant in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activation_checkpointing": {"partition_activations": True}}, "--recompute"),
        ({"bfloat16": {"enabled": True}}, "bf16"),
        ({"data_efficiency": {"enabled": True}}, "no effect"),
        ({"checkpoint": {"load_universal": True}}, "--elastic"),
        ({"elasticity": {"enabled": True}}, "removed"),
        ({"train_micro_batch_size_per_gpu": "16"}, "integer"),
        ({"gradient_accumulation_steps": 0}, "integer"),
        ({"gradient_clipping": "1.0"}, "number"),
        ({"zero_optimization": True}, "zero_optimization=True"),
        (zero(stage="two"), "stage"),
        (zero(reduce_bucket_size=-1), "reduce_bucket_size=-1"),
        ({"communication_data_type": "float"}, "communication_data_type"),
    ],
)
def test_a_value_that_has_no_effect_or_no_meaning_is_refused(tmp_path, change, says):
    with pytest.raises(InputError, match=r"ds\.json") as caught:
        read(tmp_path, {**GOOD, **change})
    assert says in str(caught.value)


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="'gradient_clipping' is given twice"):
        read(tmp_path, '{"gradient_clipping": 1.0, "gradient_clipping": 0.1}')


def test_comments_are_left_out_and_auto_is_the_default(tmp_path):
    value = {
        **GOOD, "_comment": "for A100s", "//": "x", "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "zero_optimization": {"_why": "2 is enough", "stage": 2},
    }  # fmt: skip
    found = read(tmp_path, value)
    wanted = {**GOOD, "gradient_clipping": 1.0}
    del wanted["train_micro_batch_size_per_gpu"]
    assert found == wanted


def test_what_deepspeed_knows_passes(tmp_path):
    value = {
        **GOOD,
        "wall_clock_breakdown": True,
        "steps_per_print": 100,
        "comms_logger": {"enabled": False, "verbose": False},
        "flops_profiler": {"enabled": False, "profile_step": 5},
        "checkpoint": {"parallel_write": {"pipeline_stage": False}},
        "zero_optimization": {
            "stage": 3,
            "stage3_max_live_parameters": 1e8,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        },
    }
    assert read(tmp_path, value) == value
