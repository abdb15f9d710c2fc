"""A real Slurm of three nodes on this machine, with two ordinary users: Debian's, in namespaces.

Each node has its own name, address (on a bridge inside the namespaces: no traffic leaves the
machine), processes, /tmp and /dev/shm; homes are shared. Whatever runs in a node dies with the
node's first process, which is ended by its id.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.helpers import ROOT

HERE = Path(__file__).parent
NODES = {"ctl": 254, "n1": 1, "n2": 2, "n3": 3}
"""Names, and the last number of each one's address."""
NETWORK = "10.77.0"
USERS = {"alice": 7101, "bob": 7102}
PREFIX = "hlvnn-slurm-"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "nsenter", "unshare", "setpriv", "ss")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
CODE = ("hlvnn", "cluster", "search_spaces", "tune_search.py", "train_one.py")


def why_not() -> str:
    """Return why there can be no such cluster here, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm in namespaces needs root on Linux"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install slurm-wlm munge (make slurm does it)"
    tried = ["unshare", "--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "true"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        return "namespaces cannot be made here"
    return ""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """Return what a condition returns once that is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.3)
    return found


class Kit:
    """The cluster: `with Kit() as kit`."""

    def __init__(self, kill_wait: int = 10) -> None:
        self.settings = {"KILLWAIT": str(kill_wait), "PARAMETERS": "idle_on_node_suspend"}
        self.stack = ExitStack()
        self.inits: dict[str, subprocess.Popen[str]] = {}
        self.pids: dict[str, int] = {}
        self.daemons: dict[Path, subprocess.Popen[bytes]] = {}
        self.shm = "2g"

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        for name in list(self.inits):
            self.kill_node(name)
        self.stack.close()

    def _begin(self) -> None:
        for left in Path("/var/lib").glob(f"{PREFIX}*"):  # of one whose process was killed
            if not Path(f"/proc/{left.name.split('-')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/var/lib"))
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        for name in ("etc", "home", "log", "munge", "state", "dev"):
            (self.folder / name).mkdir(mode=0o755)
        for number in range(2):
            (self.folder / "dev" / f"nvidia{number}").touch()
        self._write_files()
        for user, uid in USERS.items():
            self._make_home(user, uid)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for name in NODES:
            self.start_node(name)
        self._join_nodes()
        munge = [f"--{what}={self.folder}/munge/{what.split('-')[0]}" for what in (
            "socket", "key-file", "pid-file", "log-file", "seed-file")]  # fmt: skip
        self._daemon("ctl", "munged", "--foreground", "--force", *munge)
        wait_for((self.folder / "munge" / "socket").exists, "munged", 20)
        self._daemon("ctl", "slurmctld", "-D", "-f", str(self.conf), "-c")
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

    def _write_files(self) -> None:
        etc = self.folder / "etc"
        self.write_conf()
        gres = f"Name=gpu File={self.folder}/dev/nvidia[0-1]\n"
        (etc / "gres.conf").write_text(gres, encoding="utf-8")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        hosts = ["127.0.0.1 localhost", *(f"{NETWORK}.{n} {name}" for name, n in NODES.items())]
        (etc / "hosts").write_text("\n".join(hosts) + "\n", encoding="utf-8")
        for file in ("passwd", "group"):
            text = Path("/etc", file).read_text(encoding="utf-8")
            for user, uid in USERS.items():
                home = self.folder / "home" / user
                more = f":{uid}:{user}:{home}:/bin/bash" if file == "passwd" else ":"
                text += f"{user}:x:{uid}{more}\n"
            (etc / file).write_text(text, encoding="utf-8")

    def write_conf(self, **settings: str) -> None:
        """Write slurm.conf, with other settings than it had."""
        self.settings |= settings
        text = (HERE / "slurm.conf").read_text(encoding="utf-8")
        for name, value in {"KIT": str(self.folder), **self.settings}.items():
            text = text.replace(f"@{name}@", value)
        self.conf.write_text(text, encoding="utf-8")

    def _make_home(self, user: str, uid: int) -> None:
        home = self.folder / "home" / user
        tree = home / "hlvnn"
        tree.mkdir(parents=True)
        home.chmod(0o755)
        for name in CODE:
            unwanted = shutil.ignore_patterns("__pycache__")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=unwanted)
            else:
                shutil.copy(ROOT / name, tree)
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, uid)

    # nodes

    def start_node(self, name: str) -> None:
        """Start a node's namespaces."""
        here = self.folder / "nodes" / name
        for part in ("etc", "tmp", "spool", "keep"):
            (here / part).mkdir(parents=True, exist_ok=True)
        (here / "tmp").chmod(0o1777)
        for file in ("passwd", "group", "hosts"):
            if not (here / "etc" / file).exists():
                shutil.copy(self.folder / "etc" / file, here / "etc")
        needed = [Path(sys.base_prefix), Path(sys.prefix)]
        closed = {top for path in needed for top in path.parents if not top.stat().st_mode & 0o001}
        cover = " ".join(str(min(path.parents, key=lambda one: (one not in closed, len(one.parts))))
                         for path in needed if closed & {*path.parents})  # fmt: skip
        spaces = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
        command = ["bash", str(HERE / "node.sh"), str(self.folder), name, *map(str, needed)]
        init = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "COVER": cover, "SHM": self.shm},
        )
        self.inits[name] = init
        assert init.stdout is not None
        assert init.stdout.readline() == "up\n"
        children = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text(encoding="ascii")
        self.pids[name] = int(children)
        self.run(name, "ip", "link", "set", "lo", "up")

    def _join_nodes(self) -> None:
        self.run("ctl", "ip", "link", "add", "br0", "type", "bridge")
        self.run("ctl", "ip", "addr", "add", f"{NETWORK}.254/24", "dev", "br0")
        self.run("ctl", "ip", "link", "set", "br0", "up")
        for name in list(NODES)[1:]:
            self.join_node(name)

    def join_node(self, name: str) -> None:
        """Give a node its address on the bridge."""
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self.pids[name])]
        inside = ["nsenter", "-t", str(self.pids["ctl"]), "-n"]  # not its pid namespace: netns PID
        subprocess.run([*inside, "ip", "link", "add", f"v-{name}", *peer], check=True)
        self.run("ctl", "ip", "link", "set", f"v-{name}", "master", "br0", "up")
        self.run(name, "ip", "addr", "add", f"{NETWORK}.{NODES[name]}/24", "dev", "eth0")
        self.run(name, "ip", "link", "set", "eth0", "up")
        self.run(name, "ip", "route", "add", "default", "via", f"{NETWORK}.254")

    def start_slurmd(self, name: str) -> None:
        self._daemon(name, "slurmd", "-D", "-N", name, "-f", str(self.conf))

    def kill_node(self, name: str) -> None:
        """Take a node away, with all that runs in it."""
        init = self.inits.pop(name, None)
        if init is not None:
            init.kill()  # --kill-child: its child, the node's first process, dies with it
            init.wait()
            assert init.stdout is not None
            init.stdout.close()
            wait_for(lambda: not Path(f"/proc/{self.pids[name]}").exists(), f"end of {name}", 20)

    def restart_node(self, name: str) -> None:
        self.start_node(name)
        self.join_node(name)
        self.start_slurmd(name)

    def _daemon(self, name: str, *command: str) -> None:
        path = self.folder / "log" / f"{command[0]}.{name}.out"
        log = self.stack.enter_context(path.open("ab"))
        daemon = subprocess.Popen(
            [*self._inside(name), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
        )
        self.daemons[path] = daemon
        self.stack.callback(daemon.wait)  # its node is gone by then

    # commands

    def _inside(self, name: str) -> list[str]:
        return ["nsenter", "-t", str(self.pids[name]), "-n", "-u", "-m", "-p", "-i"]

    def words(self, name: str, *command: str, user: str = "root", **env: str) -> list[str]:
        """Return the words of a command that runs in a node, as a user, in the user's tree."""
        home = self.folder / "home" / user if user != "root" else Path("/")
        settings = {
            "HOME": str(home),
            "USER": user,
            "LOGNAME": user,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            "HLVNN_VENV": sys.prefix,
            **env,
        }
        told = [f"{key}={value}" for key, value in settings.items()]
        words = ["env", "-i", *told]
        if user != "root":
            uid = str(USERS[user])
            become = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
            words = [*become, "env", "-i", "-C", str(home / "hlvnn"), *told]
        return [*self._inside(name), *words, *command]

    def run(
        self, name: str, *command: str, user: str = "root", check: bool = True, **env: str
    ) -> str:
        """Run a command in a node; return what it printed."""
        done = subprocess.run(
            self.words(name, *command, user=user, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{name}: {command}: {done.stdout}"
        return done.stdout

    def idle(self) -> int:
        """Return how many nodes wait for work."""
        found = self.run("ctl", "sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False)
        return int(found) if found.strip().isdigit() else 0

    def cancel_all(self) -> None:
        """End every job."""
        for user in USERS:
            self.run("ctl", "scancel", "--user", user, check=False)

    def tree(self, user: str) -> Path:
        return self.folder / "home" / user / "hlvnn"

    def submit(self, *words: str, user: str = "alice", **env: str) -> Job:
        """Submit a job from the login node."""
        printed = self.run("ctl", "sbatch", "--parsable", *words, user=user, **env)
        return Job(self, printed.strip().splitlines()[-1], user)

    def processes(self, user: str) -> list[str]:
        """Return a user's processes on the nodes of work."""
        found = []
        for name in self.inits:
            if name != "ctl":
                uid = str(USERS[user])
                text = self.run(name, "ps", "-o", "pid=,stat=,args=", "-u", uid, check=False)
                found += [f"{name}: {line}" for line in text.splitlines() if " Z" not in line[:14]]
        return found

    def left(self, user: str) -> list[Path]:
        """Return what a user has left in the nodes' folders for temporary files."""
        found = [
            path for name in NODES for path in (self.folder / "nodes" / name / "tmp").iterdir()
        ]
        return [path for path in found if path.stat().st_uid == USERS[user]]


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
