"""What is wrong, before a job is queued: versions, compiler, GPUs, attention, shards, disk, nodes.

    python trainer/doctor.py                                        # this machine
    python trainer/doctor.py --hostfile hostfiles/cc_2x4 --shards shards/pretrain --run runs/NAME
    python trainer/doctor.py --deepspeed_config mine.json

With --hostfile every node is asked, over ssh or, in a Slurm job, by srun; then one process of each
node meets the others as ranks would and they time an all-reduce. One line a check: ok, warn, or
FAIL with a remedy. Exit code 2 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
import socket

from data.errors import InputError, run_command
from trainer.engine.agreement import description
from trainer.masked.config import MaskedConfig
from trainer.preflight import checkup
from trainer.preflight.checkup import Check
from trainer.preflight.hosts import ANSWER, ask_nodes, compare, meet_here, read_hostfile
from trainer.preflight.run_check import run_state

SHARDS = MaskedConfig.shards


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--hostfile", type=Path, help="also ask the nodes that this file names")
    add("--shards", type=Path, help=f"shard folder [{SHARDS}, if there is one]")
    add("--run", type=Path, default=Path(MaskedConfig.run), help=f"run folder [{MaskedConfig.run}]")
    add("--deepspeed_config", default=MaskedConfig.deepspeed_config,
        help=f"DeepSpeed JSON [{MaskedConfig.deepspeed_config}]")  # fmt: skip
    add("--preset", default=MaskedConfig.preset, help=f"model, for sizes [{MaskedConfig.preset}]")
    add("--master_addr", help="address of the first node, if not what ssh says or Slurm's name")
    add("--wait_s", type=float, default=60.0, help="how long nodes wait for each other [60]")
    add("--as_node", type=json.loads, help=argparse.SUPPRESS)  # what `ask_nodes` starts
    return parser.parse_args(argv)


def check_machine(arguments: argparse.Namespace, slots: int | None, nodes: int):
    """(checks, facts) of this machine; facts is what all nodes must have alike."""
    config = MaskedConfig(
        run=str(arguments.run),
        preset=arguments.preset,
        deepspeed_config=arguments.deepspeed_config,
    )
    on = checkup.device()
    checks = [
        checkup.packages(),
        checkup.compiler(on),
        checkup.gpus(slots),
        checkup.attention_kernel(on),
        checkup.bf16(on),
        *checkup.memory_limits(on, nodes),
        checkup.deepspeed_json(arguments.deepspeed_config),
    ]
    folder, manifest = arguments.shards or Path(SHARDS), None
    if arguments.shards or folder.exists():
        check, manifest = checkup.shard_folder(folder)
        checks.append(check)
    else:
        checks.append(Check("warn", "shards", f"none at {folder}", "python data/pack.py, or give "
                            "--shards"))  # fmt: skip
    checks.append(checkup.run_folder(arguments.run, config.model_config(), config.keep_last))
    checks.append(run_state(arguments.run))
    return checks, {**description(config), "manifest": {"sha256": manifest}}


def answer_as_node(arguments: argparse.Namespace) -> int:
    """What runs on a node: check, meet the others, print one line of JSON."""
    request = arguments.as_node
    checks, facts = check_machine(arguments, request["slots"], request["world"])
    if request["world"] > 1:
        checks.append(meet_here(request, arguments.wait_s))
    answer = {"host": socket.gethostname(), "checks": [vars(c) for c in checks], "facts": facts}
    print(ANSWER + json.dumps(answer), flush=True)
    sys.stdout.flush()
    os._exit(0)  # a peer that failed could be waited for at the group's end


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.as_node:
        return answer_as_node(arguments)
    failed = 0
    if arguments.hostfile is None:
        checks, _ = check_machine(arguments, None, 1)
        for check in checks:
            print(check)
        failed = sum(check.level == "FAIL" for check in checks)
    else:
        hosts = read_hostfile(arguments.hostfile)
        forwarded = [
            "--run", str(arguments.run), "--preset", arguments.preset,
            "--deepspeed_config", arguments.deepspeed_config, "--wait_s", str(arguments.wait_s),
        ]  # fmt: skip
        if arguments.shards:
            forwarded += ["--shards", str(arguments.shards)]
        answers = ask_nodes(hosts, forwarded, arguments.master_addr, arguments.wait_s)
        for host, answer in answers.items():
            print(f"{host}:")
            for check in answer["checks"]:
                print("  " + str(check).replace("\n", "\n  "))
            failed += sum(check.level == "FAIL" for check in answer["checks"])
        verdict = compare(answers)
        print("all nodes:")
        for check in verdict:
            print("  " + str(check).replace("\n", "\n  "))
        failed += sum(check.level == "FAIL" for check in verdict)
    if failed:
        raise InputError(f"{failed} check(s) failed", "see the lines that say FAIL")
    return 0


if __name__ == "__main__":
    run_command(main)
