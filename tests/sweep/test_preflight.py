"""Before a sweep starts: every problem is told, all of a page at once, and nothing is written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from hlvnn import errors
from hlvnn.commands import tune_search
from hlvnn.config import DataConfig, flatten
from hlvnn.errors import HlvnnError, ResourceError
from hlvnn.sweep import cluster, node_checks, packing, plan, preflight
from hlvnn.sweep.options import SweepConfig
from tests.helpers import ROOT
from tests.spaces import write_space

SPACE = """
BASE = {"dataset": "table", "table": "rows.csv", "target": "y", "groups": ["ward"],
        "num_epochs": 3, "backbone": "mlp"}
METRIC, MODE = "val_mse", "min"

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""


@pytest.fixture
def here(here: Path) -> Path:
    """Return a folder with a table and one search space, `study`."""
    write_rows(0.5)
    return here


def write_rows(first: float) -> None:
    rows = [{"y": first + n, "x": n % 7, "ward": n % 3} for n in range(60)]
    pd.DataFrame(rows).to_csv("rows.csv", index=False)


def told(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    """Run the command, which must refuse; return its problems, one a line."""
    before = {path for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end:
        errors.run_command(lambda: tune_search.main(list(args)))
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in message
    assert {path for path in Path().rglob("*") if path.is_file()} == before
    first, *lines = message.strip().splitlines()
    assert first == f"error: {len(lines)} problems:" or not lines
    return lines or [first]


def has_one(lines: list[str], words: str) -> None:
    assert sum(words in line for line in lines) == 1, (words, lines)


def test_twelve_planted_problems_and_twelve_messages(here: Path, capsys) -> None:
    # seven of the search space, its options and the machine, in one page
    (here / "results" / "rows" / "taken").mkdir(parents=True)
    (here / "file").touch()
    write_space(SPACE.replace('"mlp"', '"transformer"'))
    page = ("study", "--name", "taken", "--searcher", "grid", "--warm-start", "elsewhere")
    flags = ("--scheduler", "hyperband", "--cpus-per-trial", "4096", "--device", "cuda:3")
    lines = told(capsys, *page, *flags)
    has_one(lines, "unknown backbone 'transformer'")  # 1
    has_one(lines, "results/rows/taken exists already")  # 2
    has_one(lines, "draws 'lr' as a real number without steps")  # 3
    has_one(lines, "elsewhere is not a sweep")  # 4
    has_one(lines, "no node of this machine has that")  # 5
    has_one(lines, "--device cuda:3 needs a GPU, and the trials have none")  # 6
    assert len(lines) == 6

    # three that show when the space is sound: of its models, the storage and the disk
    write_space(SPACE.replace("val_mse", "val_acc"))
    many = ("--num-trials", str(10**13))
    lines = told(capsys, "study", "--storage", str(here / "file" / "below"), *many)
    has_one(lines, "METRIC = 'val_acc' is not measured on these data")  # 7
    has_one(lines, "cannot be written (Not a directory); give a folder that can")  # 8
    assert len(lines) == 2
    write_space(SPACE)
    (line,) = told(capsys, "study", *many)
    assert "the checkpoints of 10000000000000 trials need about" in line  # 9
    assert "free; give fewer --num-trials, or another disk" in line


def test_a_node_that_differs_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look is another node's: its disk and its packages are what the test made them."""
    config = DataConfig(dataset="table", table=here / "rows.csv", target="y", groups=("ward",))
    with node_checks.leaving_token(here) as request:
        request = replace(request, data=(config,))
        mine = node_checks.inspect(request)
        assert mine == replace(node_checks.inspect(request), node=mine.node)
        for check in (node_checks.check_data, node_checks.check_versions):
            check([mine, mine])
        node_checks.check_storage([mine, mine], here)

        elsewhere = node_checks.inspect(replace(request, folder=str(here / "not" / "shared")))
        with pytest.raises(HlvnnError, match=r"one folder that every node can write: .* does"):
            node_checks.check_storage([mine, elsewhere], here)  # 10

        write_rows(0.25)
        changed = node_checks.inspect(request)
        with pytest.raises(HlvnnError, match=f"the data differ from this.*{changed.digests[0]}"):
            node_checks.check_data([mine, changed])  # 11
        (here / "rows.csv").unlink()
        with pytest.raises(HlvnnError, match=r"the data are not on every node: .*rows\.csv"):
            node_checks.check_data([mine, node_checks.inspect(request)])

        old = here / "packages" / "torch-1.2.3.dist-info"
        old.mkdir(parents=True)
        (old / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2.3\n")
        monkeypatch.syspath_prepend(old.parent)
        with pytest.raises(HlvnnError, match=r"has torch 1\.2\.3, here it is .*constraints\.txt"):
            node_checks.check_versions([mine, node_checks.inspect(request)])  # 12
    assert not list(here.glob(".preflight*"))


@pytest.mark.ray
def test_nodes_are_asked_and_trials_packed_where_the_gpu_is_only_declared(
    here: Path, local_ray: None
) -> None:
    planned = plan.of(SweepConfig(space="study", gpus_per_trial="auto", gpu_memory=16))
    page = preflight.Page()
    preflight.check_nodes(page, here, (planned.sample[0].data,), everywhere=True)
    assert page.problems == []
    assert "storage on 1 nodes: as it must be" in page.lines
    nodes = cluster.nodes()
    assert packing.propose(planned, nodes) == 0.5  # its 2 CPUs feed two trials
    unknown = plan.of(SweepConfig(space="study", gpus_per_trial="auto"))
    if not torch.cuda.is_available():
        with pytest.raises(HlvnnError, match=r"only declared.*say what each has with --gpu-mem"):
            packing.propose(unknown, nodes)


@pytest.mark.ray
def test_each_node_is_asked_and_one_that_is_lost_meanwhile_is_not_missed(here: Path) -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 5}
    head = {**small, "include_dashboard": False, "_system_config": quick}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = nodes.add_node(**small)
        ray.init(address=nodes.address, log_to_driver=False)
        with node_checks.leaving_token(here) as request:
            listed = node_checks.living_nodes()
            assert len(node_checks.ask_nodes(request, listed)) == len(listed) == 2
            nodes.remove_node(second, allow_graceful=False)
            (answer,) = node_checks.ask_nodes(request, listed)
        assert not answer.data
        assert not answer.storage
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_as_many_trials_share_a_gpu_as_fit() -> None:
    gib = 2**30
    assert packing.share(2 * gib, 24 * gib, most=16) == pytest.approx(1 / 10)
    assert packing.share(2 * gib, 24 * gib, most=4) == 1 / 4
    assert packing.share(1, 24 * gib, most=99) == 1 / packing.MOST
    assert packing.share(15 * gib, 24 * gib, most=9) == 1
    with pytest.raises(ResourceError, match=r"needs 25\.8 GB of a GPU's memory, and a GPU has 17"):
        packing.share(20 * gib, 16 * gib, most=9)


def test_the_largest_draws_are_probed(here: Path) -> None:
    wide = SPACE.replace(
        "    return {",
        '    width = trial.suggest_int("width", 4, 512)\n    return {"hidden": [width],',
    )
    write_space(wide)
    planned = plan.of(SweepConfig(space="study"))
    hidden = [config.model.hidden for config in planned.sample[: 4 * packing.PROBED]]
    assert packing.largest(planned.sample)[0].model.hidden == max(h for h in hidden if h)
    used, has = packing.measure([flatten(config) for config in packing.largest(planned.sample)])
    assert used > 0
    assert (has > 0) == torch.cuda.is_available()


def test_a_file_system_without_locks_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for has_locks in (True, False):
        monkeypatch.setattr(preflight.locks, "has_locks", lambda folder, has=has_locks: has)
        page = preflight.Page()
        preflight.check_nodes(page, here / "results", (), everywhere=False)
        told = [line for line in page.lines if line.startswith("locks: ")]
        assert len(told) == (not has_locks)
    assert (
        "has none; that one driver at a time works on the sweep is seen by a heartbeat" in told[0]
    )


def test_gpus_are_asked_for_on_each_node_that_has_them(
    here: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU here is only a number, as one is that torch cannot use."""
    if torch.cuda.is_available():
        pytest.skip("torch sees a CUDA device")
    options = SweepConfig(space="study", gpus_per_trial=0.5)
    with pytest.raises(HlvnnError, match=r"--gpus-per-trial 0.5: \S+ was given a GPU \(CUDA_VIS"):
        node_checks.check_gpus(options, node_checks.living_nodes())
    nodes = [one | {"Resources": {"CPU": 1.0}} for one in node_checks.living_nodes()]
    node_checks.check_gpus(options, nodes)  # where there is none there is nothing to ask
