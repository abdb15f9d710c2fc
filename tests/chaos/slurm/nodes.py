"""Nodes in namespaces of this machine, with two ordinary users.

Each node has its own name, address (on a bridge inside the namespaces: no traffic leaves the
machine), processes, /etc, /tmp and /dev/shm; homes are shared. Whatever runs in a node dies with
the node's first process, which is ended by its id.
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
PROGRAMS = ("ip", "nsenter", "unshare", "setpriv", "ss")
CODE = ("hlvnn", "cluster", "search_spaces", "tune_search.py", "train_one.py")
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def why_not(*programs: str) -> str:
    """Return why there can be no such nodes here, or none that run these programs; or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "nodes in namespaces need root on Linux"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in (*PROGRAMS, *programs) if shutil.which(name, path=path) is None]
    if missing:
        return f"{', '.join(missing)} missing (make slurm installs them)"
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


class Nodes:
    """The nodes: `with Nodes() as nodes`."""

    def __init__(self) -> None:
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
        for init in self.inits.values():  # all at once: the end of each takes seconds
            init.kill()
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
        for name in ("etc", "home", "log"):
            (self.folder / name).mkdir(mode=0o755)
        self._write_files()
        for user, uid in USERS.items():
            self._make_home(user, uid)
        for name in NODES:
            self.start_node(name)
        self._join_nodes()

    def _write_files(self) -> None:
        etc = self.folder / "etc"
        hosts = ["127.0.0.1 localhost", *(f"{NETWORK}.{n} {name}" for name, n in NODES.items())]
        (etc / "hosts").write_text("\n".join(hosts) + "\n", encoding="utf-8")
        for file in ("passwd", "group"):
            text = Path("/etc", file).read_text(encoding="utf-8")
            for user, uid in USERS.items():
                home = self.folder / "home" / user
                more = f":{uid}:{user}:{home}:/bin/bash" if file == "passwd" else ":"
                text += f"{user}:x:{uid}{more}\n"
            (etc / file).write_text(text, encoding="utf-8")

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

    def start_node(self, name: str) -> None:
        """Start a node's namespaces."""
        here = self.folder / "nodes" / name
        for part in ("tmp", "spool", "keep"):
            (here / part).mkdir(parents=True, exist_ok=True)
        (here / "tmp").chmod(0o1777)
        if not (here / "etc").exists():  # whole: this machine's may change meanwhile
            shutil.copytree("/etc", here / "etc", symlinks=True, ignore_dangling_symlinks=True)
            for file in ("passwd", "group", "hosts"):
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

    def kill_node(self, name: str) -> None:
        """Take a node away, with all that runs in it."""
        init = self.inits.pop(name, None)
        if init is not None:
            init.kill()  # --kill-child: its child, the node's first process, dies with it
            init.wait()
            assert init.stdout is not None
            init.stdout.close()
            wait_for(lambda: not Path(f"/proc/{self.pids[name]}").exists(), f"end of {name}", 20)

    def daemon(self, name: str, *command: str) -> None:
        path = self.folder / "log" / f"{command[0]}.{name}.out"
        log = self.stack.enter_context(path.open("ab"))
        daemon = subprocess.Popen(
            [*self._inside(name), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": SYSTEM_PATH},
        )
        self.daemons[path] = daemon
        self.stack.callback(daemon.wait)  # its node is gone by then

    def _inside(self, name: str) -> list[str]:
        return ["nsenter", "-t", str(self.pids[name]), "-n", "-u", "-m", "-p", "-i"]

    def words(self, name: str, *command: str, user: str = "root", **env: str) -> list[str]:
        """Return the words of a command that runs in a node, as a user, in the user's tree."""
        home = self.folder / "home" / user if user != "root" else Path("/")
        settings = {
            "HOME": str(home),
            "USER": user,
            "LOGNAME": user,
            "PATH": SYSTEM_PATH,
            "LANG": "C.UTF-8",
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

    def tree(self, user: str) -> Path:
        return self.folder / "home" / user / "hlvnn"

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
