"""A real Slurm on the nodes of nodes.py: Debian's."""

from __future__ import annotations

import os
from pathlib import Path

from tests.chaos.slurm import nodes
from tests.chaos.slurm.nodes import HERE, NODES, USERS, Nodes, wait_for

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


def why_not() -> str:
    """Return why there can be no such cluster here, or ""."""
    return nodes.why_not(*PROGRAMS)


class Kit(Nodes):
    """The cluster: `with Kit() as kit`."""

    def __init__(self, kill_wait: int = 10) -> None:
        super().__init__()
        self.settings = {"KILLWAIT": str(kill_wait), "PARAMETERS": "idle_on_node_suspend"}

    def _begin(self) -> None:
        super()._begin()
        for name in ("munge", "state", "dev"):
            (self.folder / name).mkdir(mode=0o755)
        for number in range(2):
            (self.folder / "dev" / f"nvidia{number}").touch()
        self.write_conf()
        gres = f"Name=gpu File={self.folder}/dev/nvidia[0-1]\n"
        etc = self.conf.parent
        (etc / "gres.conf").write_text(gres, encoding="utf-8")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = [f"--{what}={self.folder}/munge/{what.split('-')[0]}" for what in (
            "socket", "key-file", "pid-file", "log-file", "seed-file")]  # fmt: skip
        self.daemon("ctl", "munged", "--foreground", "--force", *munge)
        wait_for((self.folder / "munge" / "socket").exists, "munged", 20)
        self.daemon("ctl", "slurmctld", "-D", "-f", str(self.conf), "-c")
        for name in list(NODES)[1:]:
            self.start_slurmd(name)
        wait_for(lambda: self.idle() == 3 or self.fallen(), "three idle nodes", 60)
        assert not self.fallen(), self.fallen()

    def fallen(self) -> str:
        """Return the last words of a daemon that has ended by itself, or ""."""
        for log, daemon in self.daemons.items():
            if daemon.poll() is not None:
                return f"{log}: {log.read_text(encoding='utf-8')[-1000:]}"
        return ""

    @property
    def conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    def write_conf(self, **settings: str) -> None:
        """Write slurm.conf, with other settings than it had."""
        self.settings |= settings
        text = (HERE / "slurm.conf").read_text(encoding="utf-8")
        for name, value in {"KIT": str(self.folder), **self.settings}.items():
            text = text.replace(f"@{name}@", value)
        self.conf.write_text(text, encoding="utf-8")

    def start_slurmd(self, name: str) -> None:
        self.daemon(name, "slurmd", "-D", "-N", name, "-f", str(self.conf))

    def restart_node(self, name: str) -> None:
        self.start_node(name)
        self.join_node(name)
        self.start_slurmd(name)

    def words(self, name: str, *command: str, user: str = "root", **env: str) -> list[str]:
        return super().words(name, *command, user=user, SLURM_CONF=str(self.conf), **env)

    def idle(self) -> int:
        """Return how many nodes wait for work."""
        found = self.run("ctl", "sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False)
        return int(found) if found.strip().isdigit() else 0

    def cancel_all(self) -> None:
        """End every job."""
        for user in USERS:
            self.run("ctl", "scancel", "--user", user, check=False)

    def submit(self, *words: str, user: str = "alice", **env: str) -> Job:
        """Submit a job from the login node."""
        printed = self.run("ctl", "sbatch", "--parsable", *words, user=user, **env)
        return Job(self, printed.strip().splitlines()[-1], user)


class Job:
    """A job of the cluster."""

    def __init__(self, kit: Kit, number: str, user: str) -> None:
        self.kit, self.number, self.user = kit, number, user

    def show(self, what: str) -> str:
        """Return a field of what Slurm knows of the job."""
        told = self.kit.run("ctl", "scontrol", "show", "job", "-o", self.number)
        return next(
            (word.partition("=")[2] for word in told.split() if word.startswith(f"{what}=")), ""
        )

    @property
    def state(self) -> str:
        return self.show("JobState")

    def wait(self, *states: str, seconds: float = 240) -> str:
        """Wait until the job is in one of these states, by default until it is over."""
        try:
            return wait_for(lambda: (s := self.state) in (states or OVER) and s, "the job", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.state}\n{self.printed()[-3000:]}") from None

    def wait_for_restart(self, seconds: float = 180) -> None:
        """Wait until the job was requeued, and let it start at once: Slurm waits two minutes."""
        wait_for(lambda: self.show("Restarts") == "1", f"a restart of {self.printed()}", seconds)
        wait_for(lambda: self.state in ("PENDING", "RUNNING", *OVER), "the end of the first", 60)
        words = ("update", f"JobId={self.number}", "StartTime=now")
        self.kit.run("ctl", "scontrol", *words, check=False)

    def ends(self, state: str) -> None:
        """Wait until the job is over; fail unless it ended so."""
        assert self.wait() == state, f"{self.state}:\n{self.printed()[-4000:]}"

    def printed(self) -> str:
        path = self.kit.tree(self.user) / f"slurm-{self.number}.out"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
