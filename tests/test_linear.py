"""Products of bf16 layers on CPUs with and without bf16 arithmetic."""

from __future__ import annotations

import pytest
import torch

import model.transformer
from model.transformer import Linear, bf16_units, multiplied_in


@pytest.mark.parametrize(
    ("cpu_info", "units"),
    [
        ("flags : fpu sse2 avx2 fma", []),
        ("flags : avx512f avx512_bf16 avx512vl", ["avx512_bf16"]),
        ("flags : amx_bf16 avx512_bf16 amx_tile", ["amx_bf16", "avx512_bf16"]),
        ("Features : fp asimd bf16 i8mm", ["bf16"]),
        ("", []),
    ],
)
def test_bf16_units(cpu_info, units):
    assert bf16_units(cpu_info) == units


@pytest.mark.parametrize("units", [[], ["amx_bf16"]])
def test_both_ways_give_bf16_rounding_of_the_exact_product(monkeypatch, units):
    monkeypatch.setattr(model.transformer, "CPU_BF16_UNITS", units)
    torch.manual_seed(0)
    layer = Linear(64, 48).to(torch.bfloat16)
    x = torch.randn(10, 64).to(torch.bfloat16).requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == layer.weight.grad.dtype == torch.bfloat16
    exact = x.double() @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-3)
    by_x = layer.weight.double().sum(0).expand_as(x)
    torch.testing.assert_close(x.grad.double(), by_x, rtol=2**-7, atol=1e-3)
    by_weight = x.double().sum(0).expand_as(layer.weight)
    torch.testing.assert_close(layer.weight.grad.double(), by_weight, rtol=2**-7, atol=1e-3)


def test_where_products_are_taken_in_fp32(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(model.transformer, "CPU_BF16_UNITS", [])
    assert multiplied_in(cpu, torch.bfloat16) == torch.float32
    assert multiplied_in(cpu, torch.float64) == torch.float64
    assert multiplied_in(cuda, torch.bfloat16) == torch.bfloat16
    monkeypatch.setattr(model.transformer, "CPU_BF16_UNITS", ["amx_bf16"])
    assert multiplied_in(cpu, torch.bfloat16) == torch.bfloat16
