"""Ray: starting it on this machine or joining a cluster, and what its nodes have."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import AuthenticationError

from hlvnn.errors import ResourceError, RunError
from hlvnn.sweep import access, local_ray, shipping
from hlvnn.sweep.options import SweepConfig

ROOT = Path(__file__).resolve().parent.parent.parent
"""Where the package hlvnn lies: on the workers' path, or sent to them; it need not be installed."""
WORKER_ENV = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "60"}
"""A stopped trial may take this long to put its last files in order before its process is reused;
Ray's 2 seconds would fail the next trial."""
WARM_UP = "hlvnn.sweep.trainable.warm_up"
"""What each of the workers' processes calls when it starts, before it is given a trial."""
KNOCK_SECONDS = 10

Resources = dict[str, float]


@contextmanager
def connecting(address: str | None) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at `address`; leave it at the end.

    A Ray that is started here is this user's alone (`local_ray`); one that runs in this process
    already is used, and left running. A cluster's workers get this working tree's code and see none
    of this machine's files. Raises `RunError` when there is no cluster at the address, when it
    refuses this process's token, and when it reaches beyond this machine and asks nobody for one.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with ExitStack() as stack:
        if address is None:
            _start(stack)
        else:
            _join(address)
        stack.callback(ray.shutdown)
        if address is not None:
            access.check_closed(address)
        yield


QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def _start(stack: ExitStack) -> None:
    """Start Ray on this machine, for this user alone; what it leaves goes when `stack` closes."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # inherited by the workers, and quicker than a runtime_env
    os.environ.update({**WORKER_ENV, "PYTHONPATH": path})
    runtime_env = {"worker_process_setup_hook": WARM_UP}
    try:
        private = stack.enter_context(local_ray.private())
        ray.init("local", include_dashboard=False, runtime_env=runtime_env, **private, **QUIET)
    except (ConnectionError, OSError) as error:
        raise RunError(f"Ray could not be started on this machine: {error}") from error


def _join(address: str) -> None:
    """Join a cluster, and send its workers the code."""
    access.close_token_file()
    found = access.own_cluster() if address == "auto" else address
    try:
        _knock(found)
        with shipping.staging(ROOT) as code:
            sent = {"env_vars": WORKER_ENV, "working_dir": str(code)}
            runtime_env = {"worker_process_setup_hook": WARM_UP, **sent}
            ray.init(found, runtime_env=runtime_env, **QUIET)
    except AuthenticationError as error:
        raise RunError(f"--address {address}: there is no token to show; {access.HINT}") from error
    except (ConnectionError, OSError) as error:
        raise RunError(
            f"--address {address}: no Ray cluster answers there, or it refuses this token "
            f"({error}); start one as cluster/README.md says, or leave --address out to start Ray "
            f"on this machine; {access.HINT}"
        ) from error


def _knock(address: str | None) -> None:
    """Raise `OSError` when nothing listens at HOST:PORT (Ray would try for minutes)."""
    if address is not None and address.startswith("ray://"):
        raise RunError(
            f"--address {address}: a sweep's driver runs on the cluster itself; start it on one of "
            "its nodes with --address auto"
        )
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def this_machine() -> Resources:
    """Return what Ray will find on this machine, without starting it."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def nodes() -> list[Resources]:
    """Return the CPUs and GPUs of each living node of the cluster."""
    return [
        {"CPU": node["Resources"].get("CPU", 0.0), "GPU": node["Resources"].get("GPU", 0.0)}
        for node in ray.nodes()
        if node["Alive"]
    ]


def check(options: SweepConfig, nodes: Sequence[Resources]) -> None:
    """Raise `ResourceError` when no node could ever run a trial (Ray would wait for ever)."""
    if is_yet_to_grow(options, nodes):
        return
    where = f"the cluster at {options.address}" if options.address else "this machine"
    gpus = max(node["GPU"] for node in nodes)
    cpus = max(node["CPU"] for node in nodes)
    if options.gpus > 0 and gpus == 0:
        raise ResourceError(
            f"--gpus-per-trial {options.gpus:g}: {where} has no GPU; leave it out to "
            "train on CPUs, or join a cluster that has GPUs with --address" + GROWS
        )
    if not any(_places_on(options, node) for node in nodes):
        most = f"; ask for at most {cpus:g} CPUs and {gpus:g} GPUs" if cpus > 0 else ""
        listed = "; ".join(f"{node['CPU']:g} CPUs and {node['GPU']:g} GPUs" for node in nodes[:8])
        raise ResourceError(
            f"a trial asks for {options.cpus_per_trial:g} CPUs and {options.gpus:g} GPUs "
            f"on one node (--cpus-per-trial, --gpus-per-trial), and no node of {where} has that: "
            f"{listed}{most}" + GROWS
        )


GROWS = " (on a cluster that grows say --max-concurrent: its trials wait for the nodes to come)"


def is_yet_to_grow(options: SweepConfig, nodes: Sequence[Resources]) -> bool:
    """Whether a cluster has nothing to run trials on, and is said to grow: --max-concurrent."""
    if options.address is None or options.max_concurrent is None:
        return False
    kinds = ("CPU", "GPU") if options.gpus > 0 else ("CPU",)
    return not any(all(node[kind] for kind in kinds) for node in nodes)


def slots(options: SweepConfig, nodes: Sequence[Resources]) -> int:
    """Return how many trials run at a time: --max-concurrent, or as many as the nodes can hold.

    The former may be more, on a cluster that grows.
    """
    return options.max_concurrent or sum(_places_on(options, node) for node in nodes)


def _places_on(options: SweepConfig, node: Resources) -> int:
    by_cpu = int(node["CPU"] / options.cpus_per_trial + 1e-9)
    if options.gpus == 0:
        return by_cpu
    return min(by_cpu, int(node["GPU"]) * int(1 / options.gpus + 1e-9))  # a share lies on one GPU
