"""A private one-node Slurm cluster for tests: real daemons, declared larger than the machine, no accounting.

It needs root, because Slurm's job steps read their settings from /etc/slurm/slurm.conf only. Its own munge socket,
ports and folders keep it apart from everything else; what it starts it stops, by process id.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG_FILE = Path("/etc/slurm/slurm.conf")
MARK = "# A private test cluster of LossAtlas; it may be deleted when no test is running."
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scontrol", "scancel")
CONFIG = """{mark}
ClusterName=lossatlas
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=pmi2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=86400
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def install() -> None:
    """Install Slurm and munge from Debian's packages where they are missing."""
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit("test-slurm: Slurm and munge are missing; as root on Debian this command installs them itself")
    quiet = {"DEBIAN_FRONTEND": "noninteractive", **os.environ}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]):
        subprocess.run(["apt-get", "-qq", *command], check=True, env=quiet, stdout=subprocess.DEVNULL)


class Cluster:
    """The running daemons; ``with Cluster():`` starts and stops them."""

    def __enter__(self) -> "Cluster":
        if os.geteuid() != 0:
            sys.exit("test-slurm: a test cluster needs root")
        if CONFIG_FILE.exists() and MARK not in CONFIG_FILE.read_text():
            sys.exit(f"test-slurm: this machine has a Slurm of its own ({CONFIG_FILE}); its settings stay untouched")
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        self.daemons: list[subprocess.Popen] = []
        try:
            self._start_munge()
            self._start_slurm()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()
        CONFIG_FILE.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_munge(self) -> None:
        home = self.folder / "munge"
        home.mkdir()
        home.chmod(0o711)
        key = home / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "--foreground", *(f"--{option}={home / name}" for option, name in places.items()))
        self._wait_for(lambda: (home / "socket").exists(), "munged")

    def _start_slurm(self) -> None:
        host = socket.gethostname().split(".")[0]
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        ports = {"port": free_port(), "node_port": free_port()}
        CONFIG_FILE.parent.mkdir(parents=True, exist_ok=True)
        CONFIG_FILE.write_text(CONFIG.format(mark=MARK, host=host, folder=self.folder, **ports))
        self._daemon("slurmctld", "-D", "-c")
        self._wait_for(lambda: answers("scontrol", "ping"), "slurmctld")
        self._daemon("slurmd", "-D")
        self._wait_for(lambda: answers("srun", "--immediate=5", "true"), "slurmd")

    def _daemon(self, name: str, *arguments: str) -> None:
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        program = shutil.which(name, path=path)
        log = (self.folder / f"{name}.log").open("w")
        self.daemons.append(subprocess.Popen([program, *arguments], stdout=log, stderr=subprocess.STDOUT))

    def _wait_for(self, ready, name: str) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            if self.daemons[-1].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{(self.folder / f'{name}.log').read_text()[-3000:]}")
            time.sleep(0.3)


def answers(*command: str) -> bool:
    """Return whether a command succeeds (``scontrol ping`` says DOWN with status 0)."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0 and "DOWN" not in done.stdout


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    install()
