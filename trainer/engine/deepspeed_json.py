"""The DeepSpeed JSON: read, and refused where it says what nobody would hear.

DeepSpeed passes over what it does not know, so that `gradient_cliping` trains without clipping.
Which keys it knows it tells itself: its configuration is built from dictionaries that note what
they are asked for, so the list is that of the DeepSpeed that is installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from data.errors import InputError, did_you_mean

MICRO, ACCUMULATION = "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
CLIPPING = 1.0
"""The gradient norm for "auto", transformers' word for its own default, which is this."""
# What DeepSpeed would read, and this trainer does itself or has no use for.
REFUSED = {
    "optimizer": "this trainer makes the optimizer: use --lr and --weight_decay",
    "scheduler": "this trainer makes the schedule: use --lr and --warmup",
    "train_batch_size": f"give {MICRO}, or use --global_batch",
    "fp16": "only bf16 and fp32 are supported: fp16 overflows in the KL term",
    "bfloat16": 'write "bf16", its present name',
    "torch_autocast": 'use "bf16": {"enabled": true}',
    "activation_checkpointing": "it has no effect here: leave it out (pretraining has --recompute)",
    "dataloader_drop_last": "it has no effect: this trainer orders its data itself",
    "data_efficiency": "it has no effect: this trainer orders its data itself",
    "autotuning": "it has no effect: trainer/estimate.py --measure finds it",
    "pipeline": "this model is not divided into stages: leave it out",
    "tensor_parallel": "this model's layers are not divided: leave it out",
    "expert_parallel": "this model has no experts: leave it out",
    "hybrid_engine": "it is for generating text: leave it out",
    "weight_quantization": "it is for inference: leave it out",
}


def read_deepspeed_config(path: str) -> dict:
    """The DeepSpeed JSON, checked for what DeepSpeed knows and for what this trainer relies on.

    Keys that begin with "_" or "//" are comments and left out, "auto" becomes the default.
    """
    value = _read(path)
    for key, remedy in REFUSED.items():
        if value.get(key) and value[key] != {"enabled": False}:
            raise InputError(f"{path}: {key!r} is set", remedy)
    for key in (MICRO, ACCUMULATION):
        if value.get(key) == "auto":
            del value[key]
        elif type(value.get(key, 1)) is not int or value.get(key, 1) < 1:
            raise InputError(f"{path}: {key}={value[key]!r}", "it must be an integer, at least 1")
    if value.get("gradient_clipping") == "auto":
        value["gradient_clipping"] = CLIPPING
    clipping = value.get("gradient_clipping", 0)
    if isinstance(clipping, bool) or not isinstance(clipping, int | float) or clipping < 0:
        raise InputError(f"{path}: gradient_clipping={clipping!r}", "it must be a number >= 0")
    for key in ("zero_optimization", "bf16", "data_types", "checkpoint"):
        if not isinstance(value.get(key, {}), dict):
            raise InputError(f"{path}: {key}={value[key]!r}", f'write "{key}": {{...}}')
    _ask_deepspeed(path, value)
    if value.get("checkpoint", {}).get("load_universal"):
        raise InputError(
            f"{path}: checkpoint.load_universal is set", "leave it out (pretraining has --elastic)"
        )
    stage = value.get("zero_optimization", {}).get("stage", 0)
    accumulation = value.get("data_types", {}).get("grad_accum_dtype")
    if stage not in (1, 2, 3):
        raise InputError(f"{path}: zero_optimization.stage={stage}", "use stage 1, 2 or 3")
    if stage == 1 and accumulation == "fp32":
        # DeepSpeed then takes its BF16_Optimizer, whose checkpoints its zero_to_fp32 cannot read.
        raise InputError(
            f"{path}: checkpoints of stage 1 with grad_accum_dtype fp32 cannot be converted",
            "use stage 2, which accumulates in fp32, or leave grad_accum_dtype out",
        )
    return value


def with_precision(settings: dict, precision: str, gpu: bool) -> dict:
    """The settings in this precision: "bf16", "fp32", "json" as they are, "auto" as they are on a
    GPU and fp32 on a CPU."""
    bf16 = settings.get("bf16", {})
    wanted = precision == "bf16"
    if precision == "json" or (precision == "auto" and gpu) or bf16.get("enabled", False) == wanted:
        return settings
    return {**settings, "bf16": {**bf16, "enabled": wanted}}


def _read(path: str) -> dict:
    """The JSON's object without its comments."""

    def unique(pairs: list[tuple]) -> dict:
        if twice := [key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1]:
            raise ValueError(f"{twice[0]!r} is given twice")
        return {key: inner for key, inner in pairs if not key.startswith(("_", "//"))}

    try:
        value = json.loads(Path(path).read_text(), object_pairs_hook=unique)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file", "give a DeepSpeed JSON, e.g. ds_configs/zero2.json"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}", "mend the JSON") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object", "mend the JSON")
    return value


def _ask_deepspeed(path: str, value: dict) -> None:
    """InputError for a key or value that DeepSpeed does not know."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel
    from pydantic import ValidationError

    noted = _Noted({MICRO: 1, ACCUMULATION: 1, **value})
    try:
        DeepSpeedConfig(noted)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] != "extra_forbidden":
            raise InputError(
                f"{path}: {_section(noted, first)}{name}={first['input']!r}: {first['msg']}",
                "mend this value",
            ) from None
        fields = {key for model in _all_kinds(DeepSpeedConfigModel) for key in model.model_fields}
        raise _unknown(path, f"{_section(noted, first)}{name}", fields) from None
    except (DeepSpeedConfigError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise InputError(f"{path}: {error}", "mend it, or leave this key out") from None
    for section, name, known in noted.not_asked_for(""):
        raise _unknown(path, section + name, known)


def _section(noted: _Noted, error: dict) -> str:
    """'bf16.' for an error of a value that this section of the file holds, or ''."""
    first = error["loc"][0] if error["loc"] else None
    holders = [key for key, inner in noted.plain() if isinstance(inner, dict) and first in inner]
    return f"{holders[0]}." if len(holders) == 1 else ""


def _unknown(path: str, name: str, known: Iterable[str]) -> InputError:
    hint = did_you_mean(name.rpartition(".")[2], known)
    return InputError(
        f"{path}: DeepSpeed knows no {name!r}, and would pass over it",
        f"{hint} Mend the name, leave it out, or put _ before it to make it a comment.".strip(),
    )


def _all_kinds(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from _all_kinds(below)


class _Noted(dict):
    """A dictionary, and those in it, that note the keys that they are asked for."""

    def __init__(self, value: dict):
        super().__init__(
            {k: _Noted(inner) if isinstance(inner, dict) else inner for k, inner in value.items()}
        )
        self.asked: set[str] = set()
        self.taken_whole = False

    def plain(self) -> list[tuple]:
        return list(super().items())

    def not_asked_for(self, section: str) -> Iterator[tuple[str, str, set[str]]]:
        """(section, key, the keys that were asked for there) of each key that nobody read. Sections
        that were taken whole became models of pydantic, which refuse unknown keys themselves."""
        if section and self.taken_whole:
            return
        for key, inner in self.plain():
            if key not in self.asked:
                yield section, key, self.asked
            elif isinstance(inner, _Noted):
                yield from inner.not_asked_for(f"{section}{key}.")

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def __iter__(self):
        self.taken_whole = True
        return super().__iter__()

    def items(self):
        self.taken_whole = True
        return super().items()

    def keys(self):
        return _Keys(self)


class _Keys:
    """What `_Noted.keys()` gives: asking it for a key is asking the dictionary."""

    def __init__(self, of: _Noted):
        self.of = of

    def __contains__(self, key) -> bool:
        return key in self.of

    def __iter__(self):
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)
