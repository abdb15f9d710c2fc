"""What Ray Tune gets wrong when nodes are lost, without starting it."""

from __future__ import annotations

import importlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.tune.execution.tune_controller import TuneController

from hlvnn.sweep import ray_patch
from hlvnn.sweep.ray_controller import LOST_STARTS, Controller
from hlvnn.sweep.ray_patch import LOOPBACK, LOSSES, NOTICES, is_there, mending, on_loopback


class Member(SimpleNamespace):
    __hash__ = object.__hash__


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what Ray's own part is told, which counts a failure as Ray does."""
    found: list[Any] = []

    def process(controller: Any, trial: Any, exception: Any) -> None:
        trial.run_metadata.num_failures += 1
        found.append(exception)

    monkeypatch.setattr(TuneController, "_process_trial_failure", process)
    return found


def controller(**state: Any) -> Any:
    made = object.__new__(Controller)
    parts = {"_resetting_trials": set(), "_trial_to_actor": {}, "_started_actors": set()}
    vars(made).update(parts | {"lost_starts": Counter()} | state)
    return made


def trial() -> Any:
    return Member(trial_id="id", run_metadata=SimpleNamespace(num_failures=0))


def lost() -> ActorUnavailableError:
    return ActorUnavailableError("the node is away", None)


def test_a_process_lost_as_it_was_taken_over_is_told_once(told: list[Any]) -> None:
    one = trial()
    loop = controller(_resetting_trials={one})
    loss = lost()
    for _ in range(2):  # Ray's own way
        loop._process_trial_failure(one, loss)
    assert told == [loss]
    assert loop._resetting_trials == set()  # or it would never be started
    assert one.run_metadata.num_failures == 0


def test_a_trial_that_never_ran_is_not_to_blame_until_it_is_hopeless(told: list[Any]) -> None:
    one = trial()
    loop = controller(_trial_to_actor={one: "actor"})
    for _ in range(LOST_STARTS):
        loop._process_trial_failure(one, lost())
    assert one.run_metadata.num_failures == 0
    loop._process_trial_failure(one, lost())
    assert one.run_metadata.num_failures == 1


@pytest.mark.parametrize("where", ["running", "told"])
def test_a_trial_that_ran_is_counted(told: list[Any], where: str) -> None:
    one = trial()
    actors = {one: "actor"} if where == "running" else {}  # it is forgotten when Ray hears of it
    loop = controller(_trial_to_actor=actors, _started_actors={"actor"})
    loop._process_trial_failure(one, lost())
    loop._process_trial_failure(one, RayTaskError("train", "traceback", ValueError("no")))
    assert one.run_metadata.num_failures == 2


def test_rays_notices_take_a_line_each_and_all_is_as_it_was_afterwards() -> None:
    worker: Any = importlib.import_module("ray._private.worker")
    tuning: Any = importlib.import_module("ray.tune.tune")
    before = worker.print_to_stdstream, tuning.TuneController
    said: list[str] = []
    with mending(said.append):
        assert tuning.TuneController is Controller
        text = "A node was lost." + " and so on" * 50 + "\nTraceback (most recent call last):\n"
        for _ in range(3):
            worker.print_to_stdstream({"lines": [text], "is_err": False}, ignore_prefix=False)
    assert len(said) == 1
    assert said[0].startswith("Ray: A node was lost. and so on")
    assert "\n" not in said[0]
    assert len(said[0]) <= ray_patch.NOTICE_WIDTH + len("Ray: ")
    assert (worker.print_to_stdstream, tuning.TuneController) == before


def replaced() -> list[bool]:
    """Return which of Ray's parts are replaced now."""
    worker: Any = importlib.import_module("ray._private.worker")
    tuning: Any = importlib.import_module("ray.tune.tune")
    ours = (tuning.TuneController, worker.print_to_stdstream)
    return [part.__module__.startswith("hlvnn") for part in ours]


def test_this_ray_has_all_that_is_replaced() -> None:
    said: list[str] = []
    assert LOSSES.missing == NOTICES.missing == LOOPBACK.missing == []
    with mending(said.append):
        assert replaced() == [True, True]
    assert said == []


def test_a_ray_may_be_started_on_loopback() -> None:
    services: Any = importlib.import_module("ray._private.services")
    before = services.resolve_ip_for_localhost
    with on_loopback():
        assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
    assert services.resolve_ip_for_localhost is before


def test_another_ray_is_left_as_it_is_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_patch.ray, "__version__", "2.61.1")
    said: list[str] = []
    with mending(said.append):
        assert replaced() == [False, False]
    (line,) = said
    assert line.startswith("Ray 2.61.1 is not mended")
    for words in ("2.60.x", "--max-failures", "printed at full length"):
        assert words in line


def test_a_part_that_ray_lacks_is_told_and_the_others_are_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(TuneController, "_process_trial_failure")
    said: list[str] = []
    with mending(said.append):
        assert replaced() == [False, True]
    (line,) = said
    assert "lacks ray.tune.execution.tune_controller:TuneController._process_trial_fail" in line
    assert LOSSES.without in line
    assert NOTICES.without not in line


@pytest.mark.parametrize(
    "name",
    [
        *("ray.nowhere:Thing", "ray.tune.tune:Nothing", f"{ray_patch.LOOP}._other_trials"),
        *("ray.tune.tune:Nothing._part", "ray._private.worker:Nothing.more.parts"),
    ],
)
def test_what_is_not_there_is_seen(name: str) -> None:
    assert not is_there(name)
