"""What a node must be like: the versions of the driver's machine, and a GPU that torch can use."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

import torch

from hlvnn.config import RunConfig, run_config
from hlvnn.errors import ConfigError, NodeError
from hlvnn.records import run_folder

CPU = "cpu"
"""The --device of trials that are meant not to use the GPU that they are given."""
MAY_DIFFER = {"python"}
"""Versions whose last part may differ from node to node."""


def other_versions(
    mine: Mapping[str, str], theirs: Mapping[str, str], there: str = "where the driver runs"
) -> list[str]:
    """Return in words which versions are not `mine`, those of the driver's machine."""
    return [
        f"{name} {theirs.get(name, 'not at all')}, {there} it is {version}"
        for name, version in mine.items()
        if _compared(name, theirs.get(name, "")) != _compared(name, version)
    ]


def _compared(name: str, version: str) -> str:
    return version.rpartition(".")[0] if name in MAY_DIFFER else version


def gpu_problem() -> str:
    """Return why torch cannot use the GPU that this process was given, or ""."""
    try:
        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")
            return ""
        why = "sees no CUDA device"
    except RuntimeError as error:  # an old driver, a GPU that this torch has no code for
        why = f"cannot use it ({str(error).strip().splitlines()[0]})"
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    return (
        f"was given a GPU (CUDA_VISIBLE_DEVICES={given}), and torch {torch.__version__}, {built}, "
        f"{why}"
    )


def check(versions: Mapping[str, str], gpus: float) -> None:
    """Raise `NodeError` where this node is not as it must be for a trial.

    versions: of the driver's machine; gpus: how many the trial was given.
    """
    bad = other_versions(versions, run_folder.versions())
    if bad:
        raise NodeError(
            f"node {socket.gethostname()} has {'; '.join(bad)}; install the versions of "
            "constraints.txt there"
        )
    if gpus > 0 and (problem := gpu_problem()):
        raise NodeError(f"node {socket.gethostname()} {problem}")


def settled(settings: dict[str, Any], where: str) -> RunConfig:
    """Return a trial's run; the driver has built it already, and what was right there is here.

    Raises `NodeError` where it is not: this node's copy of the code is another one or damaged.
    """
    try:
        return run_config(settings, where)
    except (ConfigError, OSError) as error:
        raise NodeError(
            f"node {socket.gethostname()} refuses what the driver took: its copy of hlvnn is "
            f"damaged or another one ({error})"
        ) from error
