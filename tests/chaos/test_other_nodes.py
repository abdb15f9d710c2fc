"""A node that joins a sweep's cluster later and is not as it must be: its trials go elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.stage import Stage, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_trials_of_a_node_with_other_versions_go_elsewhere(tmp_path: Path) -> None:
    other = tmp_path / "packages" / "scikit_learn-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 9.9\n")
    with Stage(tmp_path, 16, 40, "--grace-period", "40", "--max-failures", "1") as stage:
        wait_until(lambda: stage.over() or stage.under_way(), "the sweep's beginning")
        small = {"num_cpus": 2, "object_store_memory": 80_000_000}
        stage.cluster.add_node(**small, env_vars={"PYTHONPATH": str(other.parent)})
        # one of the others is lost: what it ran is given to the new one first
        stage.cluster.remove_node(stage.nodes.pop(0), allow_graceful=False)
        text = stage.finish()
        assert "has scikit-learn 9.9, where the driver runs it is" in text, text[-4000:]
        stage.check()
