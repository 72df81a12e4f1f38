"""What can be wrong with one machine before a run is queued: one check, one line.

Each function returns a `Check`; none raises for what it was made to find. Nothing is left behind.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import InvalidRequirement, Requirement

from data.errors import InputError
from data.files import readable
from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader
from model.autoencoder import MaskedVAE
from model.config import ModelConfig
from model.transformer import CPU_BF16_UNITS, attention, kernel_name
from trainer.checkpoints.run_folder import ROOT
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.ranks import joining

# bf16 weights, and fp32 weights and two moments of Adam.
CHECKPOINT_BYTES = 2 + 3 * 4


@dataclass(frozen=True)
class Check:
    level: str
    """`ok`, `warn` (it will run, but ...) or `FAIL`"""
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level:4}  {self.name:11} {self.found}"
        return f"{line}\n                  -> {self.remedy}" if self.remedy else line


def device() -> torch.device:
    """What a rank of this machine would use."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def packages() -> Check:
    """Python and every line of requirements.txt."""
    wrong, found = [], []
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        try:
            wanted = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an empty line
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} is not {wanted.specifier}")
        found.append(f"{wanted.name} {version}")
    python = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        return Check("FAIL", "packages", "; ".join(wrong), "pip install -r requirements.txt")
    return Check("ok", "packages", f"Python {python}, " + ", ".join(found[:3]) + ", ...")


def compiler(on: torch.device) -> Check:
    """DeepSpeed builds a C++ extension where ranks run on a CPU; torch.compile needs one too."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    absent = [name for name in ("c++", "ninja") if shutil.which(name, path=path) is None]
    if not absent:
        return Check("ok", "compiler", f"{shutil.which('c++', path=path)}, ninja")
    level = "FAIL" if on.type == "cpu" else "warn"
    needed = "ranks on a CPU need it" if on.type == "cpu" else "--compile needs it"
    return Check(level, "compiler", f"no {' and no '.join(absent)}: {needed}",
                 "apt-get install g++, or module load gcc; pip install ninja")  # fmt: skip


def gpus(slots: int | None) -> Check:
    """GPUs that torch sees, against the slots that a hostfile gives this node."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        driver = Path("/proc/driver/nvidia/version").exists()
        if driver and torch.version.cuda:
            return Check("FAIL", "GPUs", f"there is an NVIDIA driver, but torch (CUDA "
                         f"{torch.version.cuda}) sees no GPU",
                         "is a GPU asked for, CUDA_VISIBLE_DEVICES unset, the driver new enough "
                         "(nvidia-smi)?")  # fmt: skip
        return Check("warn", "GPUs", "none: ranks run on the CPU",
                     "for trials only; in a job ask for GPUs")  # fmt: skip
    first = torch.cuda.get_device_properties(0)
    found = f"{count} x {first.name}, {readable(first.total_memory)}"
    if slots is not None and count < slots:
        return Check("FAIL", "GPUs", f"{found}; the hostfile gives this node {slots} slots",
                     "make slots and GPUs agree")  # fmt: skip
    return Check("ok", "GPUs", found)


def attention_kernel(on: torch.device) -> Check:
    """The kernel that would run, its output and gradients against fp64 arithmetic."""
    dtype = torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 96, 4, 64, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs = [x.to(on, dtype).requires_grad_() for x in exact]
    q, k, v = (x.to(dtype).double().requires_grad_() for x in exact)
    scores = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(q.shape[-1])
    wanted = torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v)
    name = kernel_name(on, dtype)
    try:
        out = attention(*inputs)
        out.sum().backward()
    except RuntimeError as error:
        return Check("FAIL", "attention", f"{name}: {error}".partition("\n")[0],
                     "EEG_ATTENTION=sdpa uses torch's own kernels")  # fmt: skip
    wanted.sum().backward()
    pairs = [(out, wanted), *zip((x.grad for x in inputs), (q.grad, k.grad, v.grad), strict=True)]
    errors = [(a.detach().cpu().double() - b).norm() / (b.norm() + 1) for a, b in pairs]
    worst = torch.stack(errors).max().item()  # NaN if any is
    if not worst < 0.03:
        return Check("FAIL", "attention", f"{name}: off by {worst:.2g} from exact arithmetic",
                     "EEG_ATTENTION=sdpa uses torch's own kernels; update the driver")  # fmt: skip
    return Check("ok", "attention", f"{name}, within {worst:.1g} of exact arithmetic")


def bf16(on: torch.device) -> Check:
    """Whether the hardware multiplies in bf16."""
    if on.type == "cuda":
        if torch.cuda.get_device_capability(on) >= (8, 0):
            return Check("ok", "bf16", "in hardware")
        return Check("FAIL", "bf16", f"{torch.cuda.get_device_name(on)} has none",
                     "Ampere (A100) or newer; or set bf16.enabled false in the JSON")  # fmt: skip
    if CPU_BF16_UNITS:
        return Check("ok", "bf16", f"in hardware ({', '.join(CPU_BF16_UNITS)})")
    return Check("ok", "bf16", "not in this CPU: products in fp32, rounded to bf16")


def memory_limits(on: torch.device, nodes: int) -> list[Check]:
    """Shared memory, which loader workers use, and locked memory, which InfiniBand needs."""
    checks = []
    shm = Path("/dev/shm")
    if shm.is_dir() and (free := shutil.disk_usage(shm).free) < 2**30:
        checks.append(Check("warn", "/dev/shm", f"{readable(free)} free: loader workers may fail",
                            "ask for more shared memory, or use --workers 0"))  # fmt: skip
    if on.type == "cpu" and (left := joining.left_over_bytes()) > 2**29:
        checks.append(Check("warn", "/dev/shm", f"{readable(left)} left by killed CPU ranks",
                            f"rm {joining.FOLDER}/{joining.PREFIX}*"))  # fmt: skip
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if on.type == "cuda" and nodes > 1 and locked != resource.RLIM_INFINITY:
        checks.append(Check("warn", "memlock", f"{readable(locked)}: InfiniBand may fail to start",
                            "ulimit -l unlimited (over ssh: the node's limits.conf)"))  # fmt: skip
    return checks


def deepspeed_json(path: str) -> Check:
    """Whether DeepSpeed and this trainer know what the JSON says, misspelt keys included."""
    try:
        value = read_deepspeed_config(path)
    except InputError as error:
        return Check("FAIL", "DeepSpeed", error.what, error.remedy)
    dtype = "bf16" if value.get("bf16", {}).get("enabled") else "fp32"
    clipping = value.get("gradient_clipping", 0)
    stage = value["zero_optimization"]["stage"]
    found = f"{path}: ZeRO stage {stage}, {dtype}, clipping at {clipping:g}"
    if not clipping:
        return Check("warn", "DeepSpeed", f"{path}: gradients are not clipped",
                     '"gradient_clipping": 1.0')  # fmt: skip
    return Check("ok", "DeepSpeed", found)


def shard_folder(folder: Path) -> tuple[Check, str | None]:
    """Manifest, sizes and headers of all shards (their bytes are hashed when a run starts), and
    the manifest's SHA-256."""
    start = time.monotonic()
    try:
        manifest = read_manifest(folder)
        for shard in manifest.shards:
            ShardReader(manifest, shard)
        if not manifest.of_split("train"):
            raise InputError(f"{folder}: no training windows", "pack more subjects")
    except InputError as error:
        return Check("FAIL", "shards", error.what, error.remedy), None
    except OSError as error:
        return Check("FAIL", "shards", f"{folder}: {error}", "see its permissions"), None
    size = sum(shard.bytes for shard in manifest.shards)
    windows = sum(shard.samples for shard in manifest.of_split("train"))
    found = (f"{folder}: {len(manifest.shards)} shards, {readable(size)}, {windows} training "
             f"windows, opened in {time.monotonic() - start:.1f} s")  # fmt: skip
    local = os.environ.get("SLURM_TMPDIR")
    if local and Path(local).is_dir() and shutil.disk_usage(local).free < 1.1 * size:
        return Check("warn", "shards", f"{found}; they do not fit on $SLURM_TMPDIR",
                     "ask for more local disk (--tmp), or STAGE=0"), manifest.sha256  # fmt: skip
    return Check("ok", "shards", found), manifest.sha256


def run_folder(run: Path, model: ModelConfig, keep_last: int) -> Check:
    """Room and write speed where checkpoints go, for this model."""
    weights = sum(parameter.numel() for parameter in _on_no_device(model).parameters())
    one = weights * CHECKPOINT_BYTES
    folder = run.absolute()
    while not folder.is_dir():
        folder = folder.parent
    trial = folder / f".doctor-{os.getpid()}"
    free = shutil.disk_usage(folder).free
    size = min(256 << 20, free // 20)
    try:
        start = time.monotonic()
        try:
            with open(trial, "wb") as file:
                block = os.urandom(1 << 20)
                for _ in range(max(1, size >> 20)):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
        finally:
            trial.unlink(missing_ok=True)
        rate = max(1 << 20, size) / (time.monotonic() - start)
    except OSError as error:
        return Check("FAIL", "run folder", f"{folder}: {error}", "choose another --run")
    found = (f"{folder}: {readable(free)} free, {readable(rate)}/s; a checkpoint of "
             f"{model.preset} is {readable(one)}, {one / rate:.1f} s from one rank")  # fmt: skip
    needed = (keep_last + 1) * one
    if free < needed:
        return Check("FAIL", "run folder", f"{found}; {keep_last + 1} at once take "
                     f"{readable(needed)}", "free some space, or choose another --run")  # fmt: skip
    if one / rate > 120:
        return Check("warn", "run folder", found, "save less often: --save_every")
    return Check("ok", "run folder", found)


def _on_no_device(model: ModelConfig) -> MaskedVAE:
    with torch.device("meta"):
        return MaskedVAE(model)
