"""Ray: starting it on this machine or joining a cluster, and what its nodes have."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import AuthenticationError

from hlvnn.errors import ResourceError, RunError
from hlvnn.sweep import access, shipping
from hlvnn.sweep.options import SweepConfig

ROOT = Path(__file__).resolve().parent.parent.parent
"""Where the package hlvnn lies: on the workers' path, or sent to them; it need not be installed."""
WORKER_ENV = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "60"}
"""A stopped trial may take this long to put its last files in order before its process is reused;
Ray's 2 seconds would fail the next trial."""
SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Bytes of the longest path of a Unix socket."""
BELOW_TMPDIR = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.12")
"""Bytes of Ray's longest socket's path below the folder for temporary files."""
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where a short folder may be."""
WARM_UP = "hlvnn.sweep.trainable.warm_up"
"""What each of the workers' processes calls when it starts, before it is given a trial."""
KNOCK_SECONDS = 10

Resources = dict[str, float]


@contextmanager
def connecting(address: str | None) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at `address`; leave it at the end.

    A Ray that runs in this process already is used, and left running.
    A cluster's workers get this working tree's code and see none of this machine's files. Raises
    `RunError` when there is no cluster at the address, when it refuses this process's token, and
    when it reaches beyond this machine and asks nobody for one.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    runtime_env: dict[str, Any] = {"worker_process_setup_hook": WARM_UP}
    short = None
    try:
        if address is None:
            if (short := short_folder()) is not None:
                options["_temp_dir"] = short
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            # inherited by the workers, and quicker than a runtime_env
            os.environ.update({**WORKER_ENV, "PYTHONPATH": path})
            ray.init("local", include_dashboard=False, runtime_env=runtime_env, **options)
        else:
            _knock(address)
            with shipping.staging(ROOT) as code:
                runtime_env |= {"env_vars": WORKER_ENV, "working_dir": str(code)}
                ray.init(address, runtime_env=runtime_env, **options)
    except AuthenticationError as error:
        raise RunError(f"--address {address}: there is no token to show; {access.HINT}") from error
    except (ConnectionError, OSError) as error:
        if short is not None:
            shutil.rmtree(short, ignore_errors=True)
        if address is None:
            raise RunError(f"Ray could not be started on this machine: {error}") from error
        raise RunError(
            f"--address {address}: no Ray cluster answers there, or it refuses this token "
            f"({error}); start one with `ray start --head`, or leave --address out to start Ray on "
            f"this machine; {access.HINT}"
        ) from error
    try:
        if address is not None:
            access.check_closed(address)
        yield
    finally:
        ray.shutdown()
        if short is not None:
            shutil.rmtree(short, ignore_errors=True)


def short_folder() -> str | None:
    """Return a new private folder for Ray's sockets, or None where its usual one will do.

    The path of a socket has at most `SOCKET_BYTES`, and Ray puts its own below TMPDIR. Raises
    `RunError` where there is no shorter place.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(usual)) + BELOW_TMPDIR <= SOCKET_BYTES:
        return None
    for place in SHORT_PLACES:
        with suppress(OSError):
            return tempfile.mkdtemp(prefix="hlvnn-", dir=place)
    raise RunError(
        f"TMPDIR={usual} is too long for Ray (a socket's path has {SOCKET_BYTES} bytes), and none "
        f"of {', '.join(SHORT_PLACES)} can be written; set TMPDIR to a short folder"
    )


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
    where = f"the cluster at {options.address}" if options.address else "this machine"
    gpus = max(node["GPU"] for node in nodes)
    cpus = max(node["CPU"] for node in nodes)
    if options.gpus > 0 and gpus == 0:
        raise ResourceError(
            f"--gpus-per-trial {options.gpus:g}: {where} has no GPU; leave it out to "
            "train on CPUs, or join a cluster that has GPUs with --address"
        )
    if not any(_places_on(options, node) for node in nodes):
        listed = "; ".join(f"{node['CPU']:g} CPUs and {node['GPU']:g} GPUs" for node in nodes[:8])
        raise ResourceError(
            f"a trial asks for {options.cpus_per_trial:g} CPUs and {options.gpus:g} GPUs "
            f"on one node (--cpus-per-trial, --gpus-per-trial), and no node of {where} has that: "
            f"{listed}; ask for at most {cpus:g} CPUs and {gpus:g} GPUs"
        )


def slots(options: SweepConfig, nodes: Sequence[Resources]) -> int:
    """Return how many trials run at a time: --max-concurrent, or as many as the nodes can hold.

    The former may be more, on a cluster that grows.
    """
    return options.max_concurrent or sum(_places_on(options, node) for node in nodes)


def _places_on(options: SweepConfig, node: Resources) -> int:
    by_cpu = int(node["CPU"] / options.cpus_per_trial + 1e-9)
    if options.gpus == 0:
        return by_cpu
    if options.gpus < 1:  # a trial's share lies on one GPU
        return min(by_cpu, int(node["GPU"]) * int(1 / options.gpus + 1e-9))
    return min(by_cpu, int(node["GPU"] / options.gpus))
