"""Who may run code on a cluster: Ray's tokens, and whether a cluster asks for one."""

from __future__ import annotations

import os
import subprocess
import sys

import ray

from hlvnn.errors import RunError

MODE = "RAY_AUTH_MODE"
SECRETS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
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


def check_closed(address: str) -> None:
    """Raise `RunError` when the cluster that this process has joined takes anybody's code.

    A cluster of which every node is this machine may be open, and so may any other where the user
    said so with RAY_AUTH_MODE=disabled.
    """
    if os.environ.get(MODE, "").lower() == "disabled" or not _is_on_other_machines():
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
    env |= {MODE: "disabled", "RAY_gcs_rpc_server_connect_timeout_s": "1"}
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
