"""What each node of a cluster is asked before a sweep starts, and what its answers must be."""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hlvnn.config import DataConfig
from hlvnn.data import data_of
from hlvnn.errors import ConfigError, HlvnnError, ResourceError, RunError
from hlvnn.records import run_folder
from hlvnn.storage import Remote, is_address, shown_path
from hlvnn.sweep import node
from hlvnn.sweep.options import SweepConfig

Place = Path | Remote
"""Where the results of a sweep go."""
NODE_SECONDS = 300
"""How long a node may take to answer: it loads the data."""
LOST_SECONDS = 40
"""How long Ray may take to see that a node is lost."""
GPU_SECONDS = 60
"""How long a node's GPU may be busy with others' work until it is not looked at."""


@dataclass(frozen=True)
class Request:
    """What a node is asked."""

    folder: str
    """Folder on the storage (or its address) where the driver left a token, and the node leaves its
    answer."""
    token: str
    data: tuple[DataConfig, ...]


@dataclass(frozen=True)
class NodeReport:
    """What a node found."""

    node: str
    versions: dict[str, str] = field(default_factory=dict)
    storage: str = ""
    """Why the storage cannot be used, or ""."""
    digests: tuple[str, ...] = ()
    """Hash of each data set, as far as they loaded."""
    data: str = ""
    """Why a data set did not load, or ""."""


@contextmanager
def leaving_token(folder: Place) -> Iterator[Request]:
    """Leave a token in a folder of the storage, for nodes to find; clean up behind them."""
    token = uuid.uuid4().hex
    if isinstance(folder, Remote):
        folder.write(token := f".preflight-{token}", b"")
        try:
            yield Request(str(folder), token, ())
        finally:
            folder.remove(token)
        return
    place = folder / f".preflight-{token}"
    place.mkdir()
    try:
        (place / token).touch()
        yield Request(str(place), token, ())
    finally:
        shutil.rmtree(place, ignore_errors=True)


def inspect(request: Request) -> NodeReport:
    """Look at this node: can it use the storage, has it the data, and which versions."""
    report = NodeReport(socket.gethostname(), run_folder.versions(), _storage_problem(request))
    digests: list[str] = []
    for config in request.data:
        try:
            digests.append(data_of(config).digest())
        except HlvnnError as error:
            report = replace(report, data=str(error))
            break
    return replace(report, digests=tuple(digests))


def _storage_problem(request: Request) -> str:
    """Return why this node cannot use the storage, or ""."""
    unseen = "does not see the files that this machine writes there"
    try:
        if is_address(request.folder):
            remote = Remote.at(request.folder)
            if not remote.exists(request.token):
                return unseen
            remote.check_writable()
            return ""
        folder = Path(request.folder)
        if not (folder / request.token).exists():
            return unseen
        (folder / f"{uuid.uuid4().hex}.answer").touch()
    except (OSError, HlvnnError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        return f"cannot write there ({why or error})"
    return ""


def living_nodes() -> list[dict[str, Any]]:
    """Return what Ray knows of each living node of the cluster."""
    return [node for node in ray.nodes() if node["Alive"]]


def ask_nodes(request: Request, nodes: Sequence[dict[str, Any]]) -> list[NodeReport]:
    """Return what the nodes found, each asked on itself; of one that is lost meanwhile, nothing."""
    task = ray.remote(num_cpus=0)(inspect)
    answers = [task.options(scheduling_strategy=_on(one)).remote(request) for one in nodes]
    reports = []
    for one, answer in zip(nodes, answers, strict=True):
        try:
            reports.append(ray.get(answer, timeout=NODE_SECONDS))
        except ray.exceptions.RayError as error:
            if not _is_lost(one):
                said = f"it did not answer ({_first_line(error)})"
                reports.append(NodeReport(one["NodeManagerHostname"], data=said))
    return reports


def _on(node: dict[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _is_lost(node: dict[str, Any]) -> bool:
    """Return whether a node has left the cluster, which Ray may see a little later than we."""
    until = time.monotonic() + LOST_SECONDS
    while any(other["NodeID"] == node["NodeID"] for other in living_nodes()):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def check_storage(reports: Sequence[NodeReport], root: Place) -> None:
    """Raise `RunError` when a node cannot use the storage."""
    bad = [f"{report.node} {report.storage}" for report in reports if report.storage]
    if bad:
        place = root if isinstance(root, Remote) else shown_path(root)
        raise RunError(
            f"{place} must be one folder that every node can write: {'; '.join(bad)}; "
            "give one that they share, with --storage"
        )


def check_data(reports: Sequence[NodeReport]) -> None:
    """Raise when a node lacks the data, or has others than this machine (the first report)."""
    mine = reports[0]
    bad = [f"{report.node}: {report.data}" for report in reports if report.data]
    if bad:
        raise ConfigError(f"the data are not on every node: {'; '.join(bad)}")
    bad = [
        f"{report.node} has {', '.join(report.digests)}"
        for report in reports
        if report.digests != mine.digests
    ]
    if bad:
        raise ConfigError(
            f"the data differ from this machine's (hash {', '.join(mine.digests)}): "
            f"{'; '.join(bad)}; copy them anew"
        )


def check_versions(reports: Sequence[NodeReport]) -> None:
    """Raise `RunError` when a node runs other versions than this machine (the first report)."""
    mine = reports[0].versions
    bad = [
        f"{report.node} has {', '.join(other)}"
        for report in reports
        if report.versions and (other := node.other_versions(mine, report.versions, "here"))
    ]
    if bad:
        raise RunError(
            f"all nodes must run the same versions: {'; '.join(bad)}; install those of "
            "constraints.txt on every node"
        )


def check_gpus(options: SweepConfig, nodes: Sequence[dict[str, Any]]) -> None:
    """Raise `ResourceError` when torch cannot use the GPUs of a node.

    Each node that has GPUs is asked by a task that is given one: without, it may see none. One that
    is busy with others' work is not waited for long: its trials look for themselves (`node.check`).
    """
    task = ray.remote(num_cpus=0, num_gpus=min(options.gpus, 1.0))(node.gpu_problem)
    asked = [one for one in nodes if one["Resources"].get("GPU", 0) >= min(options.gpus, 1.0)]
    answers = {task.options(scheduling_strategy=_on(one)).remote(): one for one in asked}
    ready, busy = ray.wait(list(answers), num_returns=len(answers), timeout=GPU_SECONDS)
    bad = []
    for answer in ready:
        name = answers[answer]["NodeManagerHostname"]
        try:
            problem = ray.get(answer)
        except ray.exceptions.RayError as error:
            problem = "" if _is_lost(answers[answer]) else f"did not answer ({_first_line(error)})"
        bad += [f"{name} {problem}"] if problem else []
    for answer in busy:
        ray.cancel(answer, force=True)
    if bad:
        raise ResourceError(
            f"--gpus-per-trial {options.gpus:g}: {'; '.join(sorted(bad))}. Install a torch for "
            "CUDA that the driver there can run (nvidia-smi says which), or leave "
            "--gpus-per-trial out to train on CPUs"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
