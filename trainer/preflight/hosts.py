"""Asking the nodes of a hostfile how they are, over ssh or by srun, and letting them meet."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist

from data.errors import InputError
from trainer.checkpoints.run_folder import ROOT
from trainer.engine.agreement import difference
from trainer.preflight.checkup import Check
from trainer.ranks.joining import meet

ANSWER = "EEG-DOCTOR "
MEGABYTES = 64  # of the timed all-reduce


def read_hostfile(path: Path) -> dict[str, int]:
    """Slots by node, in the file's order, as DeepSpeed reads it; InputError for what it would
    refuse."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(
            f"--hostfile {path}: {error.strerror}",
            "hostfiles/make_hostfile.sh writes one in a Slurm job",
        ) from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.match(r"^([\w.-]+)\s+slots=(\d+)", line)
        if match is None or match[1].startswith("-") or int(match[2]) < 1:
            raise InputError(f"{path}, line {number}: {line!r}", "write it as: NAME slots=4")
        if match[1] in hosts:
            raise InputError(f"{path}, line {number}: {match[1]} twice", "give each node one line")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise InputError(f"{path}: names no node", "write lines like: NAME slots=4")
    return hosts


def on_host(host: str, words: list[str]) -> list[str]:
    """The command line that runs `words` on a node, in this project's folder."""
    if "SLURM_JOB_ID" in os.environ:
        return ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--overlap",
                f"--chdir={ROOT}", *words]  # fmt: skip
    remote = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(words)}"
    return ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, remote]


def ask_nodes(
    hosts: dict[str, int], flags: list[str], address: str | None, wait_s: float
) -> dict[str, dict]:
    """Answers of all nodes: checks (list of Check), and facts where a node answered."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        reached = dict(zip(hosts, pool.map(_reach, hosts), strict=True))
        answers: dict[str, dict] = {
            host: {"checks": [problem]} for host, problem in reached.items() if problem
        }
        alive = [host for host, problem in reached.items() if problem is None]
        if not alive:
            return answers
        address = address or _address(alive[0])
        # Below the ports that a kernel gives to outgoing connections.
        port = random.SystemRandom().randint(20_000, 32_000)

        def ask(rank: int, host: str) -> dict:
            request = {"slots": hosts[host], "rank": rank, "world": len(alive),
                       "address": address, "port": port}  # fmt: skip
            words = [sys.executable, "trainer/doctor.py", *flags, "--as_node", json.dumps(request)]
            return _answer(on_host(host, words), wait_s)

        found = dict(zip(alive, pool.map(ask, range(len(alive)), alive), strict=True))
    return {host: answers.get(host) or found[host] for host in hosts}


def _reach(host: str) -> Check | None:
    try:
        done = subprocess.run(
            on_host(host, ["test", "-x", sys.executable, "-a", "-f", "trainer/doctor.py"]),
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("FAIL", "reach", str(error), "is the node's name right, and is it up?")
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    if done.returncode == 1 and not said:
        return Check("FAIL", "reach", f"it has no {ROOT} or no {sys.executable}",
                     "put both on a file system that all nodes see")  # fmt: skip
    return Check("FAIL", "reach", said[-1] if said else f"exit code {done.returncode}",
                 "`ssh NODE hostname` must work without a question; in a Slurm job the hostfile "
                 "must name its nodes")  # fmt: skip


def _address(host: str) -> str:
    """The first node's address as the launch would choose it: by name under Slurm, as
    DeepSpeed does over ssh."""
    if "SLURM_JOB_ID" in os.environ:
        return host
    done = subprocess.run(on_host(host, ["hostname", "-I"]), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)  # fmt: skip
    return (done.stdout.split() or [host])[0]


def _answer(command: list[str], wait_s: float) -> dict:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=wait_s + 300,
                              stdin=subprocess.DEVNULL)  # fmt: skip
        line = next(x for x in done.stdout.splitlines() if x.startswith(ANSWER))
        value = json.loads(line.removeprefix(ANSWER))
    except subprocess.TimeoutExpired:
        problem = Check("FAIL", "answer", "none in time", "log in and run trainer/doctor.py there")
        return {"checks": [problem]}
    except (StopIteration, ValueError):
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        return {"checks": [Check("FAIL", "answer", f"it said: {said}",
                                 "log in and run trainer/doctor.py there")]}  # fmt: skip
    return {**value, "checks": [Check(**check) for check in value["checks"]]}


def meet_here(request: dict, wait_s: float) -> Check:
    """One process a node: meet as ranks do, then time an all-reduce between the nodes."""
    rank, world = request["rank"], request["world"]
    cuda = torch.cuda.is_available()
    backend = "nccl" if cuda else "gloo"
    try:
        store = meet(rank, world, request["address"], request["port"], wait_s)
        if cuda:
            torch.cuda.set_device(0)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
        x = torch.ones(MEGABYTES << 18, device="cuda" if cuda else "cpu")
        dist.all_reduce(x)  # connections are made on first use
        start = time.perf_counter()
        dist.all_reduce(x)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    except InputError as error:
        return Check("FAIL", "network", error.what, error.remedy)
    except RuntimeError as error:
        return Check("FAIL", "network", f"{backend}: {error}".partition("\n")[0],
                     "name the interface: NCCL_SOCKET_IFNAME, or GLOO_SOCKET_IFNAME on "
                     "CPUs")  # fmt: skip
    if not torch.all(x == world**2):
        return Check("FAIL", "network", f"{backend}: an all-reduce gave wrong sums",
                     "the nodes' drivers or libraries differ")  # fmt: skip
    # A ring moves 2 (n - 1) / n of the data over each link.
    rate = 2 * (world - 1) / world * MEGABYTES * 2**20 / seconds / 1e9
    return Check("ok", "network", f"{backend} between {world} nodes by {request['address']}: "
                 f"{rate:.2g} GB/s in an all-reduce of {MEGABYTES} MB")  # fmt: skip


def compare(answers: dict[str, dict]) -> list[Check]:
    """Whether the nodes that answered run the same code, packages and shards."""
    known = {host: answer["facts"] for host, answer in answers.items() if "facts" in answer}
    if not known:
        return [Check("FAIL", "same", "no node answered", "see above")]
    first = next(iter(known))
    for host, facts in known.items():
        own = {key: value for key, value in facts.items() if key != "manifest"}
        theirs = {key: value for key, value in known[first].items() if key != "manifest"}
        if error := difference(theirs, own, first, host):
            return [Check("FAIL", "same", error.what, error.remedy)]
        if facts["manifest"] != known[first]["manifest"]:
            return [Check("FAIL", "same", f"{host} has other shards than {first}",
                          "copy the same shard folder to every node")]  # fmt: skip
    return [Check("ok", "same", f"code, packages and shards, on {len(known)} of {len(answers)} "
                  "nodes")]  # fmt: skip
