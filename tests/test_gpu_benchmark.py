"""The GPU benchmark: its arithmetic, its comparisons, the whole program on a CPU; on a GPU, the
attention switch and what waits."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from commands import environment
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.gpu_attention import DEFAULT, device_kernels, errors, kernel
from benchmarks.gpu_cases import Case, usual_case
from benchmarks.gpu_original import EagerBlock, OriginalModel, channel_correlation
from benchmarks.gpu_packed import packed_losses, requests_of
from benchmarks.gpu_report import Report, page, read_rows
from benchmarks.gpu_waiting import HostReads, idle_share, kind_of, synchronisations
from benchmarks.shards import make_shards
from data.batches.batch import Batch
from data.errors import InputError
from data.shards.manifest import read_manifest
from data.shards.tars import verify_shard
from model.autoencoder import MaskedVAE
from model.config import PRESETS, preset
from model.flops import forward_flops, training_flops
from model.tokens import grid_positions
from model.transformer import Block
from trainer import estimate
from trainer.masked.draw import DrawMasks
from trainer.preflight.largest import predicted, search

ROOT = Path(__file__).resolve().parents[1]
gpu_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


# ---- arithmetic -----------------------------------------------------------------------------


def _attention_flops(q, k, v, *args, **kwargs) -> int:
    batch, heads, queries, width = q
    return 4 * batch * heads * queries * k[2] * width


def _attention_backward_flops(gradient, q, k, v, *args, **kwargs) -> int:
    """torch counts recomputed scores too (5 products); an MFU counts useful work (4)."""
    return 2 * _attention_flops(q, k, v)


# torch's counter knows the GPU's fused kernels only; fake tensors here are on the CPU.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def torch_flops(case: Case) -> tuple[float, float]:
    """Operations of one window by torch's counter: forward, and forward with backward. Fake tensors
    have shapes and no values, so full-size presets cost neither memory nor a GPU."""
    channels, batch = case.channels[0], 2
    tokens = case.model.token_count(channels, case.samples)
    hidden = case.model.hidden_count(tokens)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = MaskedVAE(case.model)
        windows = Batch.of(
            torch.zeros(batch, channels, case.samples),
            torch.zeros(channels, 3),
            keep=torch.zeros(batch, tokens - hidden, dtype=torch.int64),
            hide=torch.zeros(batch, hidden, dtype=torch.int64),
        )
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            loss = model([windows], 1e-3, 0).total
            forward = counter.get_total_flops()
            loss.backward()
    return forward / batch, counter.get_total_flops() / batch


@pytest.mark.parametrize("name", PRESETS)
def test_counted_operations_equal_torchs(name):
    """Each preset at its own widths and window, with few blocks."""
    case = usual_case(name, small=False, depth=2, decoder_depth=1)
    forward, both = torch_flops(case)
    shape = case.channels[0], case.samples
    assert forward_flops(case.model, *shape) == pytest.approx(forward, rel=0.01)
    # The first layer's input needs no gradient: torch counts a little less than three times.
    assert training_flops(case.model, *shape) == pytest.approx(both, rel=0.03)


@pytest.mark.parametrize(
    ("spans", "idle"),
    [
        ([(0.0, 1.0)], 0.0),
        ([(0.0, 1.0), (3.0, 4.0)], 0.5),
        ([(3.0, 4.0), (0.0, 2.0), (1.0, 1.5), (1.5, 2.0)], 0.25),
        ([(0.0, 4.0), (1.0, 2.0)], 0.0),
    ],
)
def test_idle_share(spans, idle):
    assert idle_share(spans) == pytest.approx(idle)


@pytest.mark.parametrize(
    ("kernel_name", "kind"),
    [
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_bias_NNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_nn_n", "matrix products"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("vectorized_layer_norm_kernel", "norms"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("ncclDevKernel_AllReduce_Sum_f32", "communication"),
        ("vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", "elementwise and the rest"),
    ],
)
def test_kinds_of_kernels(kernel_name, kind):
    assert kind_of(kernel_name) == kind


@pytest.mark.parametrize(
    ("fixed", "each", "capacity", "lowest", "highest"),
    [
        (2e9, 5e8, 140e9, 260, 276),
        (2e9, 5e8, 2.4e9, 0, 0),
        (2e9, 5e8, 3e9, 2, 2),
        (2e9, 5e8, 2.6e9, 1, 1),
        (1.0, 1.0, 1e12, 65_536, 65_536),
    ],
)
def test_search_of_the_largest_batch(fixed, each, capacity, lowest, highest):
    tried = []

    def peak_of(size: int) -> int | None:
        tried.append(size)
        peak = fixed + each * size
        return int(peak) if peak <= capacity else None

    assert lowest <= search(peak_of, int(capacity)) <= highest
    assert len(tried) <= 8
    assert len(set(tried)) == len(tried)


def test_search_where_the_line_promises_too_much():
    """Peaks that bend upwards, and memory that other things share."""

    def peak_of(size: int) -> int | None:
        peak = 2e9 + 3e8 * size + 1e6 * size**2
        return int(peak) if peak <= 0.9 * 140e9 else None

    exact = max(size for size in range(1, 400) if peak_of(size))
    assert 0.96 * exact <= search(peak_of, int(140e9)) <= exact
    assert predicted((10, 100), (20, 200), 1000) == 97


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_largest_batch_needs_a_gpu():
    with pytest.raises(InputError, match="no CUDA device"):
        estimate.main(["--preset", "tiny", "--measure"])


def test_packing_to_a_budget():
    tokens = np.array([4, 4, 4, 10, 1, 9, 2])
    cut = [request.window.tolist() for request in requests_of(np.arange(7) + 50, tokens, 9)]
    assert cut == [[50, 51], [52], [53], [54], [55], [56]]


# ---- what is compared -----------------------------------------------------------------------


def mixed_batches(config) -> list[Batch]:
    batches = []
    for index, (channels, samples) in enumerate([(16, 100), (8, 80)]):
        batch = Batch.of(
            torch.randn(3, channels, samples),
            grid_positions(channels),
            order_index=torch.arange(3) + 10 * index,
        )
        batches.append(DrawMasks(config, 0)(batch))
    return batches


def test_packed_windows_train_as_dense_batches_do():
    config = preset("tiny", baseline="none", decoder_input="latent", depth=2)
    model, batches = MaskedVAE(config), mixed_batches(config)
    torch.nn.init.normal_(model.decoder.to_patch.weight, std=0.1)  # at zero it hides all else
    found = []
    for losses in (model(batches, 0.1, 3), packed_losses(model, batches, 0.1, 3)):
        model.zero_grad()
        losses.total.backward()
        found.append((losses, [p.grad.clone() for p in model.parameters()]))
    (dense, dense_gradients), (packed, packed_gradients) = found
    torch.testing.assert_close(packed.total, dense.total)
    torch.testing.assert_close(packed.per_window["r"], dense.per_window["r"])
    for a, b in zip(packed_gradients, dense_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_rebuilt_block_is_a_vit_block():
    ours, theirs = Block(48, 4, 2.0), EagerBlock(48, 4, 2.0)
    names = {
        "proj": "attention_out", "mlp.0": "mlp_in", "mlp.2": "mlp_out",
    }  # fmt: skip
    state = ours.state_dict()
    mapped = {}
    for name in theirs.state_dict():
        stem, _, kind = name.rpartition(".")
        mapped[name] = state[f"{names.get(stem, stem)}.{kind}"]
    theirs.load_state_dict(mapped)
    x = torch.randn(2, 9, 48)
    torch.testing.assert_close(theirs(x), ours(x))


def test_the_rebuilt_original_has_the_presets_size():
    config = preset("brain2image")
    with torch.device("meta"):
        original = OriginalModel(config, 512)
    count = sum(p.numel() for p in original.parameters() if p.requires_grad)
    ours = sum(p.numel() for p in MaskedVAE(preset("brain2image")).parameters())
    assert count == pytest.approx(ours, rel=0.02)


def test_channel_correlation_of_a_perfect_prediction():
    eeg = torch.randn(3, 128, 32)
    patches = eeg.unflatten(-1, (-1, 4)).transpose(1, 2).flatten(2)
    assert channel_correlation(patches, eeg, 4) == pytest.approx(1.0)
    assert channel_correlation(-patches, eeg, 4) == pytest.approx(-1.0)


def test_shards_of_the_benchmark_are_real_shards(tmp_path):
    folder = make_shards(
        tmp_path / "s", channels=(4, 8), samples=40, sfreq_hz=200.0, windows=600
    )  # fmt: skip
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        verify_shard(manifest, shard)
    assert [shard.samples for shard in manifest.shards] == [300] * 4


# ---- reports --------------------------------------------------------------------------------


def test_rows_survive_a_failure_and_a_kill(tmp_path):
    report = Report(tmp_path / "rows.jsonl", deadline_s=-math.inf)
    report.row("a", value=1.5, bad=float("nan"))

    def fail() -> dict:
        raise ValueError("first line\nsecond")

    in_time = Report(report.path, deadline_s=math.inf)
    assert in_time.measure("a", 1, fail, name="wrong") is None
    assert report.measure("a", 1, fail, name="late") is None
    assert in_time.measure("a", 1, lambda: {"value": 2}, name="early") == {"value": 2}
    with open(report.path, "a") as file:
        file.write('{"table": "a", "cut')
    first, failed, late, early = read_rows(report.path)
    assert early == {"table": "a", "name": "early", "value": 2}
    assert (first["value"], first["bad"]) == (1.5, None)
    assert failed["failed"] == "ValueError: first line"
    assert late["failed"].startswith("left out")
    section = {"status": "stopped", "reason": "its time was up", "seconds": 1.0,
               "rows": [first, failed, late]}  # fmt: skip
    text = page(
        {"date": "today", "cpu_mode": False, "machine": None, "sections": {"step": section}}
    )
    assert "## step (stopped: its time was up; 2 cases failed or left out; 1 s)" in text
    assert "| 1.5 | not finite |" in text


def test_a_section_out_of_time_is_stopped_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CPU_SECONDS", 1)
    assert gpu.main(["--cpu", "--only", "step", "--out", str(tmp_path)]) == 1
    section = json.loads((tmp_path / "results.json").read_text())["sections"]["step"]
    assert (section["status"], section["reason"]) == ("stopped", "its time was up")


def test_the_program_needs_few_packages():
    """On a bare machine there is neither MNE nor MOABB."""
    code = (
        "import sys\n"
        "for name in ('mne', 'moabb', 'mne_bids', 'webdataset', 'sklearn', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "import importlib, benchmarks.gpu as gpu, trainer.preflight.largest\n"
        "for name, (module, _) in gpu.SECTIONS.items():\n"
        "    assert getattr(importlib.import_module('benchmarks.' + module), 'measure_' + name)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True)


@pytest.mark.slow
def test_a_terminated_run_leaves_results_and_no_processes(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--cpu", "--out", str(tmp_path)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    while not ((tmp_path / "results.json").exists() and rows_written(tmp_path)):
        assert process.poll() is None
        time.sleep(0.2)
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait() == 143
    assert started
    assert not psutil.wait_procs(started, timeout=60)[1]
    assert rows_written(tmp_path)
    assert "## step" in (tmp_path / "results.md").read_text()


def rows_written(out: Path) -> list[dict]:
    return json.loads((out / "results.json").read_text())["sections"]["step"]["rows"]


@pytest.mark.slow
def test_a_failing_section_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "none")
    only = ["--only", "attention", "--only", "zero"]
    assert gpu.main(["--cpu", *only, "--out", str(tmp_path)]) == 1
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert [s["status"] for s in sections.values()] == ["failed", "failed"]
    assert "ValueError" in sections["zero"]["reason"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """The whole program in CPU mode."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--cpu", "--out", str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (out / "log.txt").read_text()
    found = json.loads((out / "results.json").read_text())
    assert "tiny shapes" in (out / "results.md").read_text()
    assert (out / "trace-large.json.gz").stat().st_size > 1000
    return found


def rows(results: dict, section: str, **wanted) -> list[dict]:
    return [
        row
        for row in results["sections"][section]["rows"]
        if all(row.get(key) == value for key, value in wanted.items())
    ]


@pytest.mark.slow
def test_every_section_runs_on_a_cpu(results):
    assert list(results["sections"]) == list(gpu.SECTIONS)
    assert results["machine"]["matmul_tflops"] > 0
    # What a CPU cannot run: two of torch's kernels, flash-attn; nothing else may fail.
    absent = {"torch cuDNN", "torch efficient", "flash-attn"}
    for name, section in results["sections"].items():
        assert section["rows"], name
        for row in section["rows"]:
            label = (row.get("kernel") or row.get("form") or "").removeprefix("bf16, ")
            assert "failed" not in row or label in absent, row
            assert None not in row.values(), row  # a number that was not finite


@pytest.mark.slow
def test_numbers_of_the_cpu_run_are_plausible(results):
    for row in rows(results, "step"):
        windows = row["windows_per_s"] * row["step_ms"] / 1e3
        assert windows == pytest.approx(row["micro_batch"], rel=0.5)
    presets = rows(results, "step", table="presets, through the engine and the loader")
    assert [row["preset"] for row in presets] == ["large", "brain2image", "base"]
    assert all(0 < row["mfu"] < 1 for row in presets)
    for row in rows(results, "attention", table="forward and backward, bf16"):
        if "failed" not in row:
            assert row["finite"]
            assert row["gradient_error"] < 0.02
    forms = {
        row["form"]: row for row in rows(results, "compile", table="compiled forms of the step")
    }
    assert forms["eager"]["graphs"] == 0
    assert forms["each block"]["graphs"] == 2  # encoder, decoder
    assert forms["whole model"]["graphs"] == 1
    assert all(row["recompiles"] == row["graph_breaks"] == 0 for row in forms.values())
    for row in rows(results, "waiting", table="profile with the real loader"):
        assert 0 <= row["idle_share"] < 1
    kept = {
        row["recompute"]: row["kept_mib"]
        for row in rows(results, "memory", preset="large", micro_batch=4)
    }
    assert kept[True] < kept[False]
    engines = [row["engine"] for row in rows(results, "zero")]
    assert set(engines) == {"ZeRO-0", "ZeRO-1", "ZeRO-2", "ZeRO-3", "DDP"}
    (drift,) = rows(results, "numerics", curve="bf16 against fp32")
    assert drift["step_by_step"] < 0.02
    (switch,) = rows(results, "numerics", form="fp32, the switch")
    assert switch["relative_error"] < 1e-5
    ways = {row["way"]: row["held_out_error"] for row in rows(results, "packed")}
    assert len(ways) == 4
    assert ways["mixed, packed"] == pytest.approx(ways["mixed, a list of batches"], rel=0.02)


# ---- waiting, and the attention switch --------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"baseline": "none"}, {"tokens": "joint"}], ids=str)
def test_the_model_hands_no_value_to_the_host(changes):
    config = preset("tiny", **changes)
    model, batches = MaskedVAE(config), mixed_batches(config)
    with HostReads() as reads:
        model(batches, 0.1, 3).total.backward()
    assert not reads.found
    with reads:
        assert torch.ones(()).item() == 1
    assert sum(reads.found.values()) == 1


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("changes", [{}, {"baseline": "none"}, {"tokens": "joint"}], ids=str)
def test_the_model_does_not_wait_on_the_gpu(changes):
    device = torch.device("cuda")
    config = preset("tiny", **changes)
    model = MaskedVAE(config).to(device)
    batches = [batch.to(device) for batch in mixed_batches(config)]
    model(batches, 0.1, 3).total.backward()  # the first call sets up libraries
    with synchronisations(device) as found:
        model(batches, 0.1, 3).total.backward()
    assert not found


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("shape", [(32, 16, 64), (128, 16, 32), (192, 12, 64), (1152, 12, 64)])
def test_the_switch_is_right_on_the_gpu(shape):
    found = errors(kernel(DEFAULT), shape, torch.device("cuda"))
    written_out = errors(kernel("torch math"), shape, torch.device("cuda"))
    assert found["finite"]
    assert found["gradient_error"] < max(0.01, 2 * written_out["gradient_error"])


@pytest.mark.gpu
@gpu_only
def test_the_switch_runs_a_fused_kernel_on_the_gpu():
    names = device_kernels(torch.device("cuda")).lower()
    assert "flash" in names or "fmha" in names
    assert "cudnn" not in names


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("choice", ["auto", "sdpa"])
def test_the_environment_chooses_on_the_gpu(choice):
    code = (
        "import torch; from model.transformer import kernel_name;"
        "print(kernel_name(torch.device('cuda'), torch.bfloat16))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "EEG_ATTENTION": choice}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    installed = kernel_is_installed("flash-attn")
    wanted = "flash-attn" if installed and choice == "auto" else "torch fused attention"
    assert done.stdout.startswith(wanted)


@pytest.mark.gpu
@gpu_only
def test_the_largest_batch_is_found_on_the_gpu(tmp_path):
    shards = make_shards(
        tmp_path / "shards", channels=(16,), samples=800, sfreq_hz=200.0, windows=8
    )  # fmt: skip
    own = {key: value for key, value in os.environ.items() if key != "DS_ACCELERATOR"}
    command = [sys.executable, "trainer/estimate.py", "--measure", "--shards", shards]
    command += ["--preset", "small"]
    done = subprocess.run(
        [str(word) for word in command], env=own, cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"largest micro-batch: (\d+) ", done.stdout)
    assert int(found[1]) >= 16, done.stdout


def kernel_is_installed(name: str) -> bool:
    try:
        kernel(name)
    except RuntimeError:
        return False
    return True
