"""Who may run code on a cluster: Ray's tokens, and whether a cluster asks for one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import ray

from hlvnn.errors import RunError

MODE = "RAY_AUTH_MODE"
DISABLED = "disabled"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
SECRETS = ("RAY_AUTH_TOKEN", TOKEN_PATH)
HINT = (
    "a cluster's token is read from RAY_AUTH_TOKEN, from the file RAY_AUTH_TOKEN_PATH or from "
    "~/.ray/auth_token, and must be the same on every node (cluster/README.md)"
)
PROBE = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    print("refused")
else:
    print("let in")
"""
PROBE_SECONDS = 60
PROCESSES = Path("/proc")
FLAG = "--gcs-address="
"""What each node's `raylet` is told of its cluster."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The rights of everybody but the owner."""


def close_token_file() -> None:
    """Take other users' rights off the file of this user's token: Ray leaves it to be read by all.

    `ray get-auth-token --generate`, and Ray itself, write ~/.ray/auth_token with the mode 0644.
    """
    path = Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")
    with suppress(OSError):
        found = path.stat()
        if found.st_mode & OTHERS and found.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
            print(
                f"{path}: other users could read this token, and with it run code on the cluster "
                "as you; now only you can. If somebody may have, delete it, make another with "
                "(umask 077; ray get-auth-token --generate), and start the cluster again",
                file=sys.stderr,
            )


def own_cluster() -> str:
    """Return the address of this user's Ray of which this machine is a node, for --address auto.

    Ray itself would take the one that is noted in /tmp/ray, where other users can write, or that of
    any user's process: it would show them this user's token, and run the code there. Raises
    `RunError` where there is none, or more than one.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    if not PROCESSES.is_dir():  # no Linux: left to Ray
        return "auto"
    found = set()
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == os.geteuid():
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0].endswith("/raylet"):
                    found |= {word.partition("=")[2] for word in words if word.startswith(FLAG)}
    if len(found) == 1:
        return found.pop()
    listed = f"several of them: {', '.join(sorted(found))}" if found else "none"
    raise RunError(
        f"--address auto looks for a Ray of yours on this machine, and there is {listed}; say "
        "--address HOST:PORT (or set RAY_ADDRESS), or leave --address out to start Ray here"
    )


def check_closed(address: str) -> None:
    """Raise `RunError` when the cluster that this process has joined takes anybody's code.

    A cluster of which every node is this machine may be open, and so may any other where the user
    said so with RAY_AUTH_MODE=disabled.
    """
    if os.environ.get(MODE, "").lower() == DISABLED or not _is_on_other_machines():
        return
    if is_open_to_anybody(ray.get_runtime_context().gcs_address):
        raise RunError(
            f"--address {address}: this cluster asks nobody for a token, so anyone who reaches it "
            f"can run code on it. Start it again with {MODE}=token; {HINT}. On a network where "
            f"that is no danger, say {MODE}=disabled here"
        )


def is_open_to_anybody(gcs_address: str) -> bool:
    """Return whether a cluster lets in a process that has no token: by asking it as one.

    Another process asks, for Ray reads its mode and token once in each. One that gets no clear
    answer counts as let in.
    """
    env = {name: value for name, value in os.environ.items() if name not in SECRETS}
    env |= {MODE: DISABLED, "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    asked = subprocess.run(
        [sys.executable, "-c", PROBE, gcs_address],
        env=env,
        capture_output=True,
        text=True,
        timeout=PROBE_SECONDS,
        check=False,
    )
    return "refused" not in asked.stdout.split()


def _is_on_other_machines() -> bool:
    here = ray.util.get_node_ip_address()
    return any(node["NodeManagerAddress"] != here for node in ray.nodes() if node["Alive"])
