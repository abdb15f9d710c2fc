"""Before a sweep starts: a page of checks, here and on every node, and all problems at once."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import ray
from rich.console import Console

from hlvnn.config import DataConfig
from hlvnn.errors import HlvnnError, Problems, ResourceError, RunError
from hlvnn.records import locks, outcomes
from hlvnn.storage import Remote, is_address, shown_path
from hlvnn.sweep import (
    building,
    cluster,
    group_attributes,
    node,
    node_checks,
    packing,
    plan,
    trackers,
)
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.plan import Plan

Found = TypeVar("Found")


class Page:
    """Runs checks one after the other, whatever they find."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems: list[HlvnnError] = []

    def check(self, what: str, check: Callable[[], Found], told: str = "") -> Found | None:
        """Return what a check returns, or None when it found problems."""
        try:
            found = check()
        except HlvnnError as error:
            self.problems.append(error)
            self.lines.append(f"{what}: not as it must be")
            return None
        self.lines.append(f"{what}: {told or 'as it must be'}")
        return found

    def end(self, console: Console | None) -> None:
        """Print the page, or raise `Problems` with all that was found."""
        if self.problems:
            raise Problems.of(self.problems)
        if console is not None:
            for line in self.lines:
                console.print(f"checked {line}", markup=False, highlight=False, soft_wrap=True)


def checked_plan(options: SweepConfig, console: Console, stack: ExitStack) -> Plan:
    """Check everything about a sweep; return its plan.

    A cluster is joined, and left when `stack` closes. Raises `Problems`, or the one problem that
    there is; nothing was written then.
    """
    page = Page()
    planned = page.check("search space and options", lambda: plan.of(options))
    if options.mlflow or options.wandb:
        page.check("trackers", lambda: trackers.check(options))
    nodes = page.check("cluster", lambda: _nodes(options, stack))
    if nodes is not None:
        yet = "no node can run a trial yet: they wait until one joins that can"
        told = yet if cluster.is_yet_to_grow(options, nodes) else ""
        page.check("resources", lambda: cluster.check(options, nodes), told)
    configs = {config.data for config in planned.sample} if planned is not None else set()
    everywhere = options.address is not None and nodes is not None
    if not is_address(options.root):
        root = Path(options.root).resolve() if planned is None else planned.sweep.parent
        check_nodes(page, root, tuple(configs), everywhere)
    elif planned is not None:  # else an address that makes no sense was told already
        check_nodes(page, Remote(options.root), tuple(configs), everywhere)
    uses_gpus = options.gpus > 0 and planned is not None and planned.device != node.CPU
    if everywhere and uses_gpus and not page.problems:
        page.check(
            "GPUs on every node",
            lambda: node_checks.check_gpus(options, node_checks.living_nodes()),
        )
    if planned is not None:
        planned = _check_trials(page, planned, nodes or [])
    page.end(console)
    assert planned is not None
    return planned


def _check_trials(page: Page, planned: Plan, nodes: list[cluster.Resources]) -> Plan:
    """Check models, disk and memory; return the plan with the share of a GPU that is known now."""
    needed = page.check("models, metrics and data here", lambda: building.check(planned))
    if needed is not None and planned.remote is None:
        page.check("disk", lambda: check_disk(planned, needed))
    if planned.fixed.get(group_attributes.SETTING) and not page.problems:
        page.lines.append(group_attributes.told(planned))
    if planned.options.gpus_per_trial != "auto" or page.problems:
        return planned
    share = page.check("memory of a trial", lambda: packing.propose(planned, nodes))
    if share is None:
        return planned
    page.lines[-1] += f": {round(1 / share)} fit on a GPU, --gpus-per-trial {share:.3g}"
    return planned.with_gpus(share)


def _nodes(options: SweepConfig, stack: ExitStack) -> list[cluster.Resources]:
    if options.address is not None:
        stack.enter_context(cluster.connecting(options.address))
    return cluster.nodes() if ray.is_initialized() else [cluster.this_machine()]


def check_nodes(
    page: Page, root: node_checks.Place, data: tuple[DataConfig, ...], everywhere: bool
) -> None:
    """Check storage, data and versions on this machine, and on all nodes of the cluster."""
    here = page.check("storage on this machine", lambda: _writable(root))
    if isinstance(here, Path) and not locks.has_locks(here):
        page.lines.append(
            f"locks: {shown_path(here)} has none; that one driver at a time works on the sweep is "
            "seen by a heartbeat, its killed one's is waited for (README, What a sweep survives)"
        )
    if here is None or not everywhere:
        return
    with node_checks.leaving_token(here) as request:
        request = replace(request, data=data)
        mine = node_checks.inspect(request)
        reports = [mine, *node_checks.ask_nodes(request, node_checks.living_nodes())]
    page.check(
        f"storage on {len(reports) - 1} nodes", lambda: node_checks.check_storage(reports, root)
    )
    page.check("data on every node", lambda: node_checks.check_data(reports))
    page.check("versions on every node", lambda: node_checks.check_versions(reports))


def _writable(root: node_checks.Place) -> node_checks.Place:
    """Return the nearest folder on the way to `root` that exists, once it proved writable."""
    if isinstance(root, Remote):
        root.check_writable()
        return root
    folder = next(parent for parent in (root, *root.parents) if parent.exists())
    try:
        (probe := folder / f".{uuid.uuid4().hex}").touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"{shown_path(root)} cannot be written ({error.strerror}); give a folder that can, "
            "with --results-dir or --storage"
        ) from error
    return folder


def check_disk(planned: Plan, bytes_a_trial: int) -> None:
    """Raise `ResourceError` when the checkpoints to come would fill the disk."""
    ended = sum(
        outcomes.read(planned.sweep, number) is not None
        for number in range(planned.options.num_trials if planned.sweep.exists() else 0)
    )
    needed = (planned.options.num_trials - ended) * bytes_a_trial
    folder = next(parent for parent in (planned.sweep, *planned.sweep.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"the checkpoints of {planned.options.num_trials - ended} trials need about "
            f"{packing.size(needed)}, and {shown_path(folder)} has {packing.size(free)} free; give "
            "fewer --num-trials, or another disk with --storage"
        )
