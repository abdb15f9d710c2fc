"""A sweep on a cluster of three nodes, of which parts are killed: nothing is lost or done twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.stage import Stage

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


def test_a_process_a_node_and_the_driver_are_lost_in_one_sweep(tmp_path: Path) -> None:
    chosen = random.Random(1)
    with Stage(tmp_path, 5, 12, "--grace-period", "4") as stage:
        stage.wait_for_progress()
        stage.kill_trial(chosen)
        stage.wait_for_progress()
        stage.remove_node(chosen)
        stage.wait_for_progress()
        cut = stage.under_way()
        stage.kill_driver()
        printed = stage.finish()
        assert "will go on after an error" in printed
        stage.check()
        for number in cut[:1]:
            stage.check_repeatable(number)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["process", "node", "both", "driver"])
def test_each_kind_of_loss_three_times(tmp_path: Path, what: str) -> None:
    chosen = random.Random(2)
    with Stage(tmp_path, 8, 20, "--grace-period", "6") as stage:
        cut: set[int] = set()
        for _ in range(3):
            stage.wait_for_progress()
            assert not stage.over(), "the sweep ended before all was lost that was to be"
            cut |= set(stage.under_way())
            if what in ("process", "both"):
                stage.kill_trial(chosen)
            if what in ("node", "both"):
                stage.remove_node(chosen)
            if what == "driver":
                stage.kill_driver()
        stage.finish()
        stage.check()
        assert cut
        for number in sorted(cut)[:3]:
            stage.check_repeatable(number)
