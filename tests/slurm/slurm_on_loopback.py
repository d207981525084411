"""A real SLURM on this machine alone: munged, slurmctld and slurmd on loopback, with all files in one folder.

    python tests/slurm/slurm_on_loopback.py FOLDER      starts one for experiments, until Ctrl-C or SIGTERM

It needs the programs (Debian: slurm-wlm and munge) and root, whose jobs it runs. Several do not interfere
with each other, nor with the machine's own SLURM.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
SECONDS_TO_START = 30

# One node with more CPUs than the machine may have: the jobs are tiny. A requeued job waits until its
# credentials expire, which takes two minutes by default.
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait={kill_wait}
NodeName=localhost NodeHostname={hostname} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return why it cannot be started here, or "" if it can."""
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge"
    if os.geteuid() != 0:
        return "SLURM's daemons are started as root"
    return ""


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class LoopbackSlurm:
    """A SLURM that `start` starts and `stop` ends; its commands need the variables of `environment`."""

    def __init__(self, folder: Path, kill_wait: int = 20):
        """
        Args:
            folder: an existing folder with a short path, since it holds a socket. Neither it nor its parents
                may be writable for all.
            kill_wait: seconds between SIGTERM and SIGKILL.
        """
        self._folder = folder
        self._processes: list[subprocess.Popen] = []
        self._configuration = folder / "slurm.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                folder=folder,
                hostname=socket.gethostname().partition(".")[0],
                controller_port=free_port(),
                node_port=free_port(),
                kill_wait=kill_wait,
            )
        )
        self.environment = {"SLURM_CONF": str(self._configuration)}

    def start(self) -> None:
        """Start the daemons, and return when the node is idle.

        Raises:
            RuntimeError: it does not start.
        """
        folder = self._folder
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {name: folder / "munge" / name for name in ("socket", "pid-file", "log-file", "seed-file")}
        self._run("munged", "--foreground", f"--key-file={key}", *(f"--{k}={v}" for k, v in files.items()))
        self._wait(lambda: files["socket"].exists())
        self._run("slurmctld", "-D", "-i", "-f", str(self._configuration))
        self._run("slurmd", "-D", "-N", "localhost", "-f", str(self._configuration))
        self._wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))

    def stop(self) -> None:
        """End the jobs and the daemons, which are children of this process, by their ids."""
        if len(self._processes) == 3 and all(process.poll() is None for process in self._processes):
            self.ask("scancel", "--user=root", "--signal=KILL")
            self.ask("scancel", "--user=root")
            deadline = time.monotonic() + 5
            while self.ask("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.2)
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, *command: str) -> str:
        """Return the output of one of SLURM's commands."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ).stdout

    def _run(self, program: str, *arguments: str) -> None:
        with (self._folder / f"{program}.out").open("w") as output:
            self._processes.append(
                subprocess.Popen([find(program), *arguments], stdout=output, stderr=output, env=os.environ)
            )

    def _wait(self, ready) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while not ready():
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > deadline:
                self.stop()
                logs = "\n".join(path.read_text()[-1500:] for path in sorted(self._folder.glob("*.out")))
                raise RuntimeError(f"SLURM does not start in {self._folder}:\n{logs}")
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    if reason := why_not():
        sys.exit(reason)
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    slurm = LoopbackSlurm(folder)
    slurm.start()
    print(f"export SLURM_CONF={slurm.environment['SLURM_CONF']}", flush=True)
    ending = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    signal.sigwait(ending)
    slurm.stop()


if __name__ == "__main__":
    main()
