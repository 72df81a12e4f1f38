"""A cluster of pretend nodes on one Linux machine, for tests of launches over several nodes.

Each node has a network, mounts, processes and a host name of its own (Linux namespaces) and an
sshd; the nodes share the file system (but for a small disk each) and one bridge, and reach nothing
else. With `slurm`, a real Slurm runs on them, with four pretend GPUs a node.

Everything - links, mounts, daemons, keys, logs (on a tmpfs) - lives inside one outer set of
namespaces, which the kernel takes down when the process that asked for it ends, however it ends.
The machine's own /etc/hosts, ssh settings and network are never touched. What it does not give:
separate disks, memory limits or the speed of a real network.

Needs root and, on Debian: iproute2 util-linux openssh-server pdsh, and slurm-wlm munge for Slurm.
By hand:   python tests/cluster/nodes.py [--slurm] [--nodes NAME NAME] -- COMMAND
runs COMMAND (default: a shell) on the first node, in this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("cc-node1", "cc-node2")  # as in hostfiles/cc_2x4
CONTROL = "cluster-control"
NETWORK = "10.77.0"
STATE = Path("/run/cluster")  # in a private tmpfs
LOCAL_DISK = STATE / "local"  # each node sees its own
GPUS = 4
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount", "ssh", "ssh-keygen", "sshd", "pdsh")
SLURM_PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "sinfo", "munged")
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def missing(slurm: bool = False) -> str | None:
    """Why there can be no such cluster here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a test cluster needs Linux and root"
    programs = PROGRAMS + (SLURM_PROGRAMS if slurm else ())
    if absent := [name for name in programs if shutil.which(name, path=_PATH) is None]:
        return f"a test cluster needs {', '.join(absent)} (see .ci/run)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"],
                           capture_output=True, text=True)  # fmt: skip
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


class Cluster:
    """`with Cluster() as cluster: cluster.run("cc-node1", ["hostname"])`."""

    def __init__(self, names: tuple[str, ...] = NAMES, slurm: bool = False):
        self.names, self.slurm = tuple(names), slurm

    def __enter__(self) -> Cluster:
        # --pdeathsig and --kill-child: if this process is killed, so is everything inside.
        command = [
            "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--uts", "--pid",
            "--fork", "--kill-child", "--mount-proc", sys.executable, str(Path(__file__).resolve()),
            "--inside", *(["--slurm"] if self.slurm else []), "--nodes", *self.names,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": _PATH},
        )  # fmt: skip
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster did not start: exit code {self._process.wait()}")
        self._pids = json.loads(line)
        self.outer_pid = _only_child(self._process.pid)
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def on(self, node: str, words: list[str], cwd: Path | str = "/") -> list[str]:
        """The command line that runs `words` on a node (or on CONTROL), with the caller's
        environment."""
        enter = ["nsenter", "--mount", "--net", "--uts", "--pid", "--target"]
        inner = [] if node == CONTROL else [*enter, str(self._pids[node]), "--"]
        return [*enter, str(self.outer_pid), "--", *inner, "env", f"--chdir={cwd}", *words]

    def run(self, node: str, words: list, cwd: Path | str = "/", env: dict | None = None):
        """Run a command on a node to its end; returns the CompletedProcess (text, captured)."""
        return subprocess.run(
            self.on(node, [str(word) for word in words], cwd),
            env=self.environment(env), capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def environment(self, changes: dict | None = None) -> dict[str, str]:
        """The caller's environment, less what belongs to other jobs, with `changes`."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "EEG_", "EEG2MEG_", "RANK", "WORLD_SIZE"))
        }
        if self.slurm:
            own["SLURM_CONF"] = str(STATE / "slurm.conf")
        return {**own, "PATH": _PATH, **(changes or {})}

    def replace(self, node: str, path: Path, by: Path) -> None:
        """On this node only, show `by` where the others see `path` (until the cluster ends)."""
        done = self.run(node, ["mount", "--bind", by, path])
        if done.returncode:
            raise RuntimeError(done.stderr)

    def restore(self, node: str, path: Path) -> None:
        """Undo `replace`."""
        done = self.run(node, ["umount", "--lazy", path])
        if done.returncode:
            raise RuntimeError(done.stderr)

    def cut_off(self, node: str, off: bool = True) -> None:
        """Take a node's network away (or give it back)."""
        self.run(node, ["ip", "link", "set", "e0", "down" if off else "up"])


def _only_child(pid: int) -> int:
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.02)


# ---- inside the outer namespaces ---------------------------------------------------------------


def _do(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def _start(log: str, *words: object) -> subprocess.Popen:
    with open(STATE / f"{log}.log", "w") as file:
        return subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )


def _inside(names: list[str], slurm: bool) -> None:
    """Set everything up, print the nodes' process ids, and stay until stdin is closed."""
    _do("mount", "-t", "tmpfs", "tmpfs", "/run")
    LOCAL_DISK.mkdir(parents=True)
    Path("/run/sshd").mkdir()
    _do("hostname", CONTROL)
    addresses = {name: f"{NETWORK}.{10 + i}" for i, name in enumerate(names)}
    hosts = ["127.0.0.1 localhost", f"{NETWORK}.254 {CONTROL}"]
    hosts += [f"{address} {name}" for name, address in addresses.items()]
    _overlay("/etc/hosts", "\n".join(hosts) + "\n")
    for key in ("key", "hostkey"):
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", STATE / key)
    _overlay(
        "/etc/ssh/ssh_config",
        f"Host {' '.join(names)} {NETWORK}.*\n  IdentityFile {STATE}/key\n"
        "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
    )
    _do("ip", "link", "set", "lo", "up")
    _do("ip", "link", "add", "bridge0", "type", "bridge")
    _do("ip", "addr", "add", f"{NETWORK}.254/24", "dev", "bridge0")
    _do("ip", "link", "set", "bridge0", "up")
    pids = {}
    for index, (name, address) in enumerate(addresses.items()):
        pids[name] = pid = _node(name)
        _do("ip", "link", "add", f"to{index}", "type", "veth", "peer", "name", "e0", "netns", pid)
        _do("ip", "link", "set", f"to{index}", "master", "bridge0", "up")
        on = ("nsenter", "--mount", "--net", "--uts", "--pid", "--target", pid, "--")
        _do(*on, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm")  # nodes share no memory
        _do(*on, "mount", "-t", "tmpfs", "tmpfs", LOCAL_DISK)
        _do(*on, "hostname", name)
        _do(*on, "ip", "link", "set", "lo", "up")
        _do(*on, "ip", "addr", "add", f"{address}/24", "dev", "e0")
        _do(*on, "ip", "link", "set", "e0", "up")
        _start(
            f"sshd-{name}", *on, shutil.which("sshd"), "-D", "-e", "-f", "/dev/null",
            "-h", STATE / "hostkey", "-o", f"AuthorizedKeysFile={STATE}/key.pub",
            "-o", "StrictModes=no", "-o", "PermitRootLogin=yes", "-o", "PidFile=none",
            "-o", f"ListenAddress={address}",
        )  # fmt: skip
    if slurm:
        _slurm(addresses, pids)
    for name in names:
        _wait_for(f"sshd of {name}", ["ssh", "-o", "BatchMode=yes", name, "true"])
    print(json.dumps(pids), flush=True)
    sys.stdin.read()


def _overlay(path: str, text: str) -> None:
    """Show a file of our own at `path`, inside these namespaces."""
    own = STATE / Path(path).name
    own.write_text(text)
    _do("mount", "--bind", own, path)


def _node(name: str) -> int:
    """Start a node's first process, which does nothing but bury the dead; returns its id."""
    bury = (
        "import os, time\n"
        "while True:\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: time.sleep(0.2)\n"
    )
    outer = _start(
        f"init-{name}", "unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child",
        "--mount-proc", sys.executable, "-S", "-c", bury,
    )  # fmt: skip
    pid = _only_child(outer.pid)
    # Its own /proc is mounted a moment after it exists.
    _wait_for(
        f"node {name}",
        ["nsenter", "--mount", "--pid", "--target", str(pid), "test", "-d", "/proc/self/ns"],
    )
    return pid


def _wait_for(what: str, command: list[str], seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        if time.monotonic() > last:
            raise TimeoutError(f"{what}: {done.stdout}{done.stderr}")
        time.sleep(0.2)


def _slurm(addresses: dict[str, str], pids: dict[str, int]) -> None:
    socket, key = STATE / "munge.socket", STATE / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    _start(
        "munged", "munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}",
        f"--pid-file={STATE}/munged.pid", f"--log-file={STATE}/munged-own.log",
        f"--seed-file={STATE}/munged.seed",
    )  # fmt: skip
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={address} CPUs=4 RealMemory=4000 Gres=gpu:{GPUS} State=UNKNOWN"
        for name, address in addresses.items()
    )
    (STATE / "slurm.conf").write_text(
        f"ClusterName=pretend\nSlurmctldHost={CONTROL}({NETWORK}.254)\n"
        # A requeued job starts again after cred_expire seconds (120 by default).
        f"AuthType=auth/munge\nAuthInfo=socket={socket},cred_expire=5\nCredType=cred/munge\n"
        f"SlurmUser=root\nSlurmdUser=root\nStateSaveLocation={STATE}/slurmctld\n"
        f"SlurmdSpoolDir={STATE}/spool-%n\nSlurmctldPidFile={STATE}/slurmctld.pid\n"
        f"SlurmdPidFile={STATE}/slurmd-%n.pid\nProctrackType=proctrack/linuxproc\n"
        "TaskPlugin=task/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n"
        "MpiDefault=none\nGresTypes=gpu\nReturnToService=2\nSlurmdParameters=config_overrides\n"
        f"{nodes}\nPartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    )
    # Device files that exist and that nothing opens.
    (STATE / "gres.conf").write_text("Name=gpu File=/dev/tty[0-3]\n")
    (STATE / "cgroup.conf").write_text("CgroupAutomount=no\n")
    os.environ["SLURM_CONF"] = str(STATE / "slurm.conf")
    _wait_for("munged", ["test", "-S", str(socket)])
    _start("slurmctld", "slurmctld", "-D")
    for name, pid in pids.items():
        on = ("nsenter", "--mount", "--net", "--uts", "--pid", "--target", pid, "--")
        _start(f"slurmd-{name}", *on, "slurmd", "-D", "-N", name)
    idle = f'test "$(sinfo -h -t idle -o %D)" = {len(pids)}'
    _wait_for("Slurm", ["sh", "-c", idle])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slurm", action="store_true", help="also run Slurm")
    parser.add_argument("--nodes", nargs="+", default=NAMES, metavar="NAME")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", default=["bash"])
    arguments = parser.parse_args()
    if arguments.inside:
        _inside(arguments.nodes, arguments.slurm)
        return 0
    if why := missing(arguments.slurm):
        sys.exit(f"error: {why}")
    with Cluster(arguments.nodes, arguments.slurm) as cluster:
        words = cluster.on(cluster.names[0], arguments.command, Path.cwd())
        return subprocess.run(words, env=cluster.environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
