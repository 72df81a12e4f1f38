"""Two nodes: the launches that users type, with ssh and under a real Slurm, and what goes wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cluster.nodes import LOCAL_DISK, Cluster, missing
from commands import ROOT, losses, metrics, random_port
from tiny import tiny_shards

from data.pack import main as pack

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
needs_slurm = pytest.mark.skipif(missing(slurm=True) is not None, reason=str(missing(slurm=True)))
FIRST, SECOND = "cc-node1", "cc-node2"
DEEPSPEED = str(Path(sys.executable).with_name("deepspeed"))
AS_TYPED = ["deepspeed", "--hostfile", "hostfiles/cc_2x4", "trainer/pretrain.py",
            "--deepspeed_config", "ds_configs/zero2.json"]  # fmt: skip
SETTINGS = {
    "EEG_PRESET": "tiny",
    "EEG_MODEL": "width=32 heads=2 depth=2 decoder_width=16 decoder_heads=2 decoder_depth=1 "
    "latent_dim=8",
    "EEG_STEPS": "4",
    "EEG_GLOBAL_BATCH": "16",
    "EEG_RUN_LENGTH": "2",
    "EEG_LOG_EVERY": "1",
    "EEG_EVAL_EVERY": "0",
    "EEG_WORKERS": "0",
    "EEG_JOIN_S": "90",
    "TORCH_EXTENSIONS_DIR": os.environ.get(
        "TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache/torch_extensions/of_the_test_cluster")
    ),
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def cluster():
    with Cluster((FIRST, SECOND), slurm=missing(slurm=True) is None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout of this code with shards in the default place, which nodes may see changed."""
    folder = tmp_path_factory.mktemp("cluster") / "checkout"
    copy_code(folder)
    tiny_shards(folder / "shards/pretrain")
    write_deepspeed_env(folder)
    return folder


def copy_code(folder: Path) -> None:
    for name in ("data", "model", "trainer", "ds_configs", "hostfiles", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)


def write_deepspeed_env(folder: Path, **changes: str) -> None:
    """What ssh is to hand on to the other node."""
    values = {**SETTINGS, **changes}
    lines = [f"{name}={value}\n" for name, value in values.items()]
    (folder / ".deepspeed_env").write_text("".join(lines))


def launch(cluster, checkout: Path, words: list, fails: bool = False, **changes: str) -> str:
    """Run a command on the first node in the checkout; its output."""
    path = f"{Path(sys.executable).parent}:{cluster.environment()['PATH']}"
    done = cluster.run(FIRST, words, checkout, {**SETTINGS, "PATH": path, **changes})
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output
    return output


def over_ssh(cluster, checkout, *flags, fails=False, hostfile="two", **changes: str) -> str:
    """The ssh launch on one rank a node; what ssh does not hand on goes by `.deepspeed_env`."""
    write_deepspeed_env(checkout, **changes)
    words = [DEEPSPEED, "--hostfile", hostfile, "--master_port", random_port(),
             "trainer/pretrain.py", *flags]  # fmt: skip
    try:
        return launch(cluster, checkout, words, fails, **changes)
    finally:
        write_deepspeed_env(checkout)


@pytest.fixture
def two(checkout):
    """A hostfile with one slot a node."""
    (checkout / "two").write_text(f"{FIRST} slots=1\n{SECOND} slots=1\n")


def one_error(output: str) -> str:
    """The only message of an output."""
    assert "Traceback" not in output, output
    messages = re.findall(r"error: .*(?:\n.*-> .*)?", output)
    messages = [m for m in messages if not m.startswith(("error: process", "error: task"))]
    assert len(messages) == 1, output
    return messages[0]


# ---- the launches ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_node(cluster, checkout):
    """Losses of 8 ranks on one node."""
    run = checkout / "runs/one_node"
    launch(cluster, checkout, [DEEPSPEED, "--num_gpus", "8", "trainer/pretrain.py",
                               "--run", run])  # fmt: skip
    return [line["loss"] for line in metrics(run)]


def test_the_command_as_typed(cluster, checkout, one_node):
    output = launch(cluster, checkout, AS_TYPED)
    assert "x 8 ranks" in output
    found = [line["loss"] for line in metrics(checkout / "runs/pretrain")]
    assert found == pytest.approx(one_node, rel=2e-3)
    assert len(found) == 4


def submit(cluster, checkout: Path, run: Path, *flags, **changes: str) -> str:
    """Submit slurm/pretrain.sbatch; the job's id."""
    # No GPU type and few cores: what these nodes have.
    words = ["sbatch", "--parsable", "--cpus-per-task=4", f"--output={run.name}.out",
             "slurm/pretrain.sbatch", *flags]  # fmt: skip
    settings = {**SETTINGS, "RUN": str(run), "VENV": sys.prefix, "TMPDIR": str(LOCAL_DISK)}
    done = cluster.run(FIRST, words, checkout, {**settings, **changes})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state_of(cluster, job: str) -> str:
    shown = cluster.run(FIRST, ["scontrol", "show", "job", "--oneliner", job]).stdout
    return re.search(r"JobState=(\w+)", shown)[1]


def wait_for_end(cluster, checkout: Path, run: Path, job: str) -> str:
    """The job's output, when it has ended."""
    while state_of(cluster, job) in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"):
        time.sleep(0.5)
    output = (checkout / f"{run.name}.out").read_text()
    assert state_of(cluster, job) == "COMPLETED", output
    return output


def wait_for_steps(run: Path, output: Path, count: int) -> None:
    while not ((run / "metrics.jsonl").exists() and len(losses(run)) >= count):
        assert "error: " not in (output.read_text() if output.exists() else "")
        time.sleep(0.1)


@needs_slurm
def test_the_batch_script_needs_no_ssh(cluster, checkout, one_node):
    run = checkout / "runs/slurm"
    job = submit(cluster, checkout, run, "--steps", "4")
    output = wait_for_end(cluster, checkout, run, job)
    assert output.count("staged: 8 shards") == 2
    assert "x 8 ranks" in output
    assert [line["loss"] for line in metrics(run)] == pytest.approx(one_node, rel=2e-3)
    # Nothing of the job stays behind.
    assert not list((checkout / "hostfiles").glob("cc_2x4.*"))
    for node in (FIRST, SECOND):
        assert cluster.run(node, ["ls", LOCAL_DISK]).stdout == ""


@pytest.fixture(scope="module")
def long_run(cluster, checkout):
    """150 steps of 2 ranks, undisturbed."""
    run = checkout / "runs/straight"
    launch(cluster, checkout, [DEEPSPEED, "--num_gpus", "2", "trainer/pretrain.py",
                               "--run", run, "--steps", "150"])  # fmt: skip
    return losses(run)


@needs_slurm
def test_the_time_limits_signal_saves_and_requeues(cluster, checkout, long_run):
    run = checkout / "runs/requeued"
    job = submit(cluster, checkout, run, "--steps", "150", SLOTS="1", STAGE="0")
    wait_for_steps(run, checkout / "requeued.out", 3)
    cluster.run(FIRST, ["scancel", "--batch", "--signal=USR1", job])
    output = wait_for_end(cluster, checkout, run, job)
    assert "asked by" in output
    assert "launch: requeued" in output
    assert "going on from step_" in output
    assert losses(run) == long_run


@needs_slurm
def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(cluster, checkout, long_run):
    run = checkout / "runs/killed"
    job = submit(cluster, checkout, run, "--steps", "150", "--save_every", "20",
                 SLOTS="1", STAGE="0")  # fmt: skip
    wait_for_steps(run, checkout / "killed.out", 30)
    # The rank of the second node, by its own process ids.
    ranks = cluster.run(SECOND, ["pgrep", "-f", "^[^ ]*python[^ ]* -u trainer/pretrain.py"])
    assert cluster.run(SECOND, ["kill", "-9", *ranks.stdout.split()]).returncode == 0
    output = wait_for_end(cluster, checkout, run, job)
    assert "start 1 of 2 more" in output
    assert "going on from step_" in output
    assert losses(run) == long_run


@needs_slurm
def test_a_killed_launcher_is_not_taken_for_the_end(cluster, checkout, long_run):
    """DeepSpeed's own exit code is 0 then."""
    run = checkout / "runs/launcher"
    job = submit(cluster, checkout, run, "--steps", "150", "--save_every", "20",
                 SLOTS="1", STAGE="0")  # fmt: skip
    wait_for_steps(run, checkout / "launcher.out", 30)
    launchers = cluster.run(SECOND, ["pgrep", "-f", "deepspeed.launcher.launch"])
    assert cluster.run(SECOND, ["kill", "-9", *launchers.stdout.split()]).returncode == 0
    output = wait_for_end(cluster, checkout, run, job)
    assert "start 1 of 2 more" in output
    assert "going on from step_" in output
    assert losses(run) == long_run


@needs_slurm
def test_a_cancelled_job_has_saved(cluster, checkout, long_run):
    run = checkout / "runs/cancelled"
    flags = ("--steps", "150", "--save_every", "150")
    job = submit(cluster, checkout, run, *flags, SLOTS="1", STAGE="0")
    wait_for_steps(run, checkout / "cancelled.out", 3)
    cluster.run(FIRST, ["scancel", job])
    while state_of(cluster, job) in ("RUNNING", "COMPLETING"):
        time.sleep(0.3)
    assert "asked by SIGTERM" in (checkout / "cancelled.out").read_text()
    words = [DEEPSPEED, "--num_gpus", "2", "trainer/pretrain.py", "--run", run, *flags]
    assert "going on from step_" in launch(cluster, checkout, words)
    assert losses(run) == long_run


@needs_slurm
def test_hostfile_of_a_job(cluster, checkout):
    words = ["srun", "--nodes=2", "--ntasks=2", "--gpus-per-node=4", "hostfiles/make_hostfile.sh"]
    assert launch(cluster, checkout, words).count(f"{FIRST} slots=4\n{SECOND} slots=4\n") == 2
    assert "this is not" in launch(cluster, checkout, ["slurm/launch.sh"], fails=True)
    assert "is not set" in launch(cluster, checkout, ["hostfiles/make_hostfile.sh"], fails=True)


# ---- what is wrong, told before the first step ------------------------------------------------


def test_a_hostfile_that_is_not_there(cluster, checkout):
    output = over_ssh(cluster, checkout, hostfile="none", fails=True)
    assert "--hostfile none: no such file" in one_error(output)


def test_a_first_node_that_cannot_be_reached(cluster, checkout):
    (checkout / "absent").write_text("cc-node9 slots=1\ncc-node1 slots=1\n")
    output = over_ssh(cluster, checkout, hostfile="absent", fails=True)
    assert "host=cc-node9 was not reachable via ssh" in output


def test_another_node_that_cannot_be_reached(cluster, checkout):
    (checkout / "absent").write_text("cc-node1 slots=1\ncc-node9 slots=1\n")
    output = over_ssh(cluster, checkout, hostfile="absent", fails=True, EEG_JOIN_S="15")
    assert "cc-node9" in output
    assert "rank 1 missing" in one_error(output)


def test_other_shards_on_one_node(cluster, checkout, two, tmp_path):
    other = tiny_shards(tmp_path / "other", seed=1)
    cluster.replace(SECOND, checkout / "shards/pretrain", other)
    try:
        output = over_ssh(cluster, checkout, "--run", "runs/other_shards", fails=True)
    finally:
        cluster.restore(SECOND, checkout / "shards/pretrain")
    assert "not those of the first rank's node (rank 1)" in one_error(output)
    assert not (checkout / "runs/other_shards").exists()


def test_no_shards_on_one_node(cluster, checkout, two, tmp_path):
    cluster.replace(SECOND, checkout / "shards/pretrain", tmp_path)
    try:
        output = over_ssh(cluster, checkout, "--run", "runs/no_shards", fails=True)
    finally:
        cluster.restore(SECOND, checkout / "shards/pretrain")
    assert "no manifest.json" in one_error(output)


def test_other_code_on_one_node(cluster, checkout, two, tmp_path):
    changed = tmp_path / "losses.py"
    changed.write_text((ROOT / "model/losses.py").read_text() + "# newer\n")
    cluster.replace(SECOND, checkout / "model/losses.py", changed)
    try:
        output = over_ssh(cluster, checkout, "--run", "runs/other_code", fails=True)
    finally:
        cluster.restore(SECOND, checkout / "model/losses.py")
    message = one_error(output)
    assert f"{SECOND} (rank 1) runs other code than {FIRST}: model/losses.py" in message
    assert not (checkout / "runs/other_code").exists()


# ---- the doctor ----------------------------------------------------------------------------------


def test_the_doctor_sees_both_nodes(cluster, checkout, two):
    words = [sys.executable, "trainer/doctor.py", "--hostfile", "two", "--preset", "tiny"]
    output = launch(cluster, checkout, words)
    assert output.count("gloo between 2 nodes by 10.77.0.10") == 2
    assert "code, packages and shards, on 2 of 2 nodes" in output


def test_the_doctor_finds_what_is_wrong(cluster, checkout, tmp_path):
    (checkout / "three").write_text("cc-node1 slots=1\ncc-node2 slots=1\ncc-node9 slots=1\n")
    changed = tmp_path / "losses.py"
    changed.write_text((ROOT / "model/losses.py").read_text() + "# newer\n")
    cluster.replace(SECOND, checkout / "model/losses.py", changed)
    shard = next((checkout / "shards/pretrain").glob("A-val-*.tar"))
    short = tmp_path / "short.tar"
    short.write_bytes(shard.read_bytes()[:-512])
    cluster.replace(SECOND, shard, short)
    try:
        words = [sys.executable, "trainer/doctor.py", "--hostfile", "three", "--preset", "tiny"]
        output = launch(cluster, checkout, words, fails=True)
    finally:
        cluster.restore(SECOND, checkout / "model/losses.py")
        cluster.restore(SECOND, shard)
    first, second, third, everyone = re.split(r"cc-node2:\n|cc-node9:\n|all nodes:\n", output)
    assert "FAIL" not in first
    assert f"the manifest says {shard.stat().st_size}" in second
    assert "FAIL  reach" in third
    assert f"{SECOND} runs other code than {FIRST}: model/losses.py" in everyone
    assert "3 check(s) failed" in output


# ---- the cluster itself --------------------------------------------------------------------------


def test_a_cluster_leaves_nothing_behind():
    def state() -> tuple:
        files = (Path("/etc/hosts"), Path("/etc/ssh/ssh_config"), Path.home() / ".ssh/config")
        return (
            sorted(os.listdir("/sys/class/net")),
            Path("/proc/self/mounts").read_text(),
            [path.read_bytes() if path.exists() else None for path in files],
        )

    # A process that makes a cluster, says where it is, and is killed without a chance to tidy up.
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from cluster.nodes import Cluster\n"
        "with Cluster() as c:\n"
        "    c.run('cc-node2', ['sh', '-c', 'sleep 1000 >/dev/null 2>&1 &'])\n"
        "    print(c.outer_pid, flush=True); time.sleep(1000)\n"
    )
    before = state()
    words = [sys.executable, "-c", code, str(ROOT / "tests")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        inside = psutil.Process(int(process.stdout.readline()))
        everything = [inside, *inside.children(recursive=True)]
        assert any("sleep" in child.name() for child in everything)
        process.kill()
    _, alive = psutil.wait_procs(everything, timeout=60)
    assert not alive
    assert state() == before


# ---- EEG to MEG --------------------------------------------------------------------------------


def test_eeg_to_meg_on_two_nodes_takes_the_steps_of_one(cluster, checkout, two):
    """Over ssh: the same losses as two ranks on one node."""
    pairs = checkout / "shards/pairs"
    source = "simulated-pairs:linear,subjects=3,runs=1,minutes=0.1,eeg=16"
    pack(["--source", source, "--window_s", "0.256", "--workers", "1", "--out", str(pairs)])
    flags = ["trainer/eeg2meg.py", "--shards", pairs, "--model", "d_model=16", "--model",
             "n_heads=2", "--model", "skip_rank=16", "--sequence_length", 64, "--meg_sensors", 12,
             "--figure_every", 0, "--eval_every", 2, "--eval_windows", 4, "--model", "dropout=0",
             "--steps", 4, "--global_batch", 16, "--log_every", 1]  # fmt: skip
    for run, hosts in (("one", ["--num_gpus", 2]), ("two", ["--hostfile", "two"])):
        words = [DEEPSPEED, *hosts, "--master_port", random_port(), *flags,
                 "--run", checkout / f"runs/meg_{run}"]  # fmt: skip
        assert "x 2 ranks" in launch(cluster, checkout, list(map(str, words)))
    one, two_nodes = (
        [line["loss"] for line in metrics(checkout / f"runs/meg_{run}")] for run in ("one", "two")
    )
    assert len(one) == 4
    assert two_nodes == pytest.approx(one, rel=2e-4)
