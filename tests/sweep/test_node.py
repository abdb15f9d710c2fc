"""Nodes that are not as they must be: other versions, a GPU that torch cannot use."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from ray.exceptions import RayTaskError
from ray.tune import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController

from hlvnn import families
from hlvnn.analysis.report.about import ran_on
from hlvnn.errors import NodeError
from hlvnn.records import run_folder
from hlvnn.sweep import node, ray_controller
from hlvnn.sweep.ray_controller import NODE_ID, Controller


def test_other_versions_are_told_but_pythons_last_part() -> None:
    mine = run_folder.versions()
    assert node.other_versions(mine, mine) == []
    patch = {**mine, "python": mine["python"].rpartition(".")[0] + ".99"}
    assert node.other_versions(mine, patch) == []
    other = {**mine, "torch": "1.0"}
    del other["numpy"]
    assert node.other_versions(mine, other) == [
        f"torch 1.0, where the driver runs it is {mine['torch']}",
        f"numpy not at all, where the driver runs it is {mine['numpy']}",
    ]
    with pytest.raises(NodeError, match=r"^node \S+ has torch .*; install the versions of"):
        node.check({**mine, "torch": "99"}, 0)
    node.check(mine, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    problem = node.gpu_problem()
    told = f"was given a GPU (CUDA_VISIBLE_DEVICES=0), and torch {torch.__version__}"
    assert problem.startswith(told)
    assert problem.endswith("sees no CUDA device")
    with pytest.raises(NodeError, match="was given a GPU"):
        node.check(run_folder.versions(), 0.5)


def test_a_copy_of_the_code_that_is_damaged_is_the_nodes_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"dataset": "digits", "backbone": "mlp"}
    assert node.settled(settings, "trial 3").model.backbone == "mlp"
    families.members.cache_clear()
    monkeypatch.setattr(families, "ROOT", tmp_path)
    try:
        with pytest.raises(NodeError, match=r"^node \S+ refuses what the driver took.*backbones"):
            node.settled(settings, "trial 3")  # the folder is gone
        (tmp_path / "backbones").mkdir()
        with pytest.raises(NodeError, match=r"damaged or another one \(trial 3: model.backbone"):
            node.settled(settings, "trial 3")  # a part of it is
    finally:
        families.members.cache_clear()


class Loop(SimpleNamespace):
    """A trial, or the loop that has it."""

    __hash__ = object.__hash__


def trial() -> Any:
    return Loop(
        trial_id="id",
        status="PENDING",
        run_metadata=SimpleNamespace(num_failures=0),
        max_failures=1,
        placement_group_factory=PlacementGroupFactory([{"CPU": 1, "GPU": 0.5}]),
    )


def alive(name: str, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": True, "Resources": resources}


def test_the_trials_of_a_node_at_fault_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def process(controller: Any, one: Any, exception: Any) -> None:
        one.run_metadata.num_failures += 1

    monkeypatch.setattr(TuneController, "_process_trial_failure", process)
    monkeypatch.setattr(TuneController, "add_trial", lambda self, one: None)
    nodes = [alive("aa", CPU=4, GPU=2), alive("bb", CPU=4, GPU=2), alive("cc", CPU=64)]
    monkeypatch.setattr(ray_controller.ray, "nodes", lambda: nodes)
    faulty, running, later = trial(), trial(), trial()
    type(later).create_placement_group_factory = lambda self: None
    loop: Any = object.__new__(Controller)
    vars(loop).update(
        _resetting_trials=set(), _trial_to_actor={}, _started_actors=set(), bad_nodes=set(),
        lost_starts=Counter(),
    )  # fmt: skip

    def fault(name: str) -> RayTaskError:
        error = NodeError("node n has torch 1")
        error.node_id = name
        return RayTaskError("train", "traceback", error)

    loop._process_trial_failure(faulty, fault("aa"))
    assert faulty.run_metadata.num_failures == 0  # it is not to blame
    away = {"bundle_label_selector": [{NODE_ID: "!in(aa)"}]}
    assert faulty.placement_group_factory._kwargs == away
    assert running.placement_group_factory._kwargs == {}
    loop.add_trial(later)
    assert later.placement_group_factory._kwargs == away
    assert later.placement_group_factory.bundles == [{"CPU": 1, "GPU": 0.5}]

    loop._process_trial_failure(faulty, fault("bb"))  # no other node could run it
    assert faulty.run_metadata.num_failures == 1
    assert loop.bad_nodes == {"aa"}


def test_the_report_says_on_what_trials_were_trained() -> None:
    assert ran_on(pd.DataFrame({"trial": [0]})) == ""
    assert ran_on(pd.DataFrame({"ran_on": ["cpu", "cpu", ""]})) == "cpu"
    both = pd.DataFrame({"ran_on": ["NVIDIA H100", "cpu", "NVIDIA H100"]})
    assert ran_on(both) == "NVIDIA H100 (2 trials), cpu (1 trials)"


def test_the_log_and_the_outcome_have_the_device(small_sweep: Path) -> None:
    log = (small_sweep / "trial_0000" / run_folder.LOG).read_text(encoding="utf-8")
    assert "\ntrained on: cpu\n" in log
