"""Low-rank updates of an encoder (LoRA: Hu et al. 2022), by peft: into a model, and merged into its
weights."""

from __future__ import annotations

import torch

from data.errors import InputError
from model.networks import Encoder

LORA_TARGETS = ("qkv", "attention_out", "mlp_in", "mlp_out")
LORA_ALPHA = 2.0
"""Times the rank: the update counts twice."""


def merged(weights: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """A state dict with LoRA as one without: W + (alpha / rank) B A, under the plain names."""
    found = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            stem = name.removesuffix("base_layer.weight")
            low, high = (weights[f"{stem}lora_{side}.default.weight"] for side in "AB")
            value = value + LORA_ALPHA * (high.double() @ low.double()).to(value.dtype)
        found[name.replace(".base_layer.", ".")] = value
    return found


def add_lora(encoder: Encoder, rank: int, seed: int) -> None:
    """In place; the update starts at zero. Its first matrices follow from the seed."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("--lora_rank needs peft", "pip install -r requirements-use.txt") from None
    settings = LoraConfig(r=rank, lora_alpha=LORA_ALPHA * rank, target_modules=[*LORA_TARGETS])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, encoder)
