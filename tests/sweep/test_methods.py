"""Searchers and schedulers: their records, held against what makes them and against Ray."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler

from hlvnn.commands import tune_search
from hlvnn.config import validated
from hlvnn.errors import ConfigError
from hlvnn.records.schedulers import SCHEDULERS, Halving, users_of
from hlvnn.records.searchers import SEARCHERS
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.population import Population
from hlvnn.sweep.schedulers import MAKERS, Guarded, Rules
from hlvnn.sweep.searchers import SAMPLERS

HALVINGS = [
    Halving(epochs, grace, factor)
    for epochs in (1, 2, 3, 4, 6, 9, 10, 20, 27, 28, 81, 100)
    for grace in (1, 2, 5, 10)
    for factor in (1.1, 1.5, 2, 2.5, 3.0, 4)
]


class Member(SimpleNamespace):
    """Stands for one of Ray's trials."""

    __hash__ = object.__hash__


def test_what_is_known_and_what_is_made_have_the_same_names() -> None:
    assert [*SAMPLERS] == [*SEARCHERS] == [one.name for one in SEARCHERS.values()]
    assert [*MAKERS] == [*SCHEDULERS] == [one.name for one in SCHEDULERS.values()]


def test_the_options_of_a_scheduler_are_the_sweeps() -> None:
    for scheduler in SCHEDULERS.values():
        assert {*scheduler.options} <= SweepConfig.model_fields.keys()
    assert users_of("grace_period") == "asha, median"


def test_help_lists_every_name_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune_search.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for known in (SEARCHERS, SCHEDULERS):
        assert f"{{{','.join(known)}}}" in shown
        for name, one in known.items():
            assert f"{name} {one.sentence}" in shown


@pytest.mark.parametrize(("option", "known"), [("searcher", SEARCHERS), ("scheduler", SCHEDULERS)])
def test_a_name_that_is_none_is_refused(
    option: str, known: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_args(SweepConfig.model_fields[option].annotation) == tuple(known)
    with pytest.raises(SystemExit) as end:
        tune_search.parse([f"--{option}", "nope"])
    assert end.value.code == 2
    assert "invalid choice 'nope'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=rf"sweep.json: {option}.*'{next(iter(known))}'"):
        validated(SweepConfig, {option: "nope"}, "sweep.json")


@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_what_is_said_of_a_scheduler_is_what_it_does(name: str) -> None:
    known, made = SCHEDULERS[name], MAKERS[name](Rules("val_acc", "max", 9, 1, 3))
    assert isinstance(made, Population) == known.perturbs
    if isinstance(made, Guarded):
        assert made.replayed == known.resumes
    halving = Halving(27, 1, 3)
    assert known.has_rungs == bool(known.rungs(halving))
    assert known.is_waiting == (known.drawn_at_once is not None)
    assert (known.expected_share(halving) < 1) == known.stops


def of_ray(rungs: list[float], last: int) -> list[int]:
    """Return the whole epochs before the last at which Ray compares."""
    return sorted({math.ceil(rung) for rung in rungs if math.ceil(rung) < last})


def rays_asha(halving: Halving) -> list[int]:
    ray = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="val_acc",
        mode="max",
        max_t=max(halving.max_epochs, halving.grace_period),
        grace_period=halving.grace_period,
        reduction_factor=halving.reduction_factor,
        stop_last_trials=False,
    )
    rungs = [rung for bracket in ray._brackets for rung, _ in bracket._rungs]
    return of_ray(rungs, halving.max_epochs)


def rays_hyperband(halving: Halving) -> tuple[list[int], int]:
    """Return the rungs of all brackets, and the trials that fill them."""
    ray = HyperBandScheduler(
        time_attr="epoch",
        metric="val_acc",
        mode="max",
        max_t=halving.max_epochs,
        reduction_factor=halving.reduction_factor,
        stop_last_trials=False,
    )
    rungs = []
    for s in range(ray._s_max_1):
        if ray._get_r0(s) == 0:
            continue
        bracket = ray._create_bracket(s)
        bracket.add_trial(Member())
        while bracket._halves:
            rungs.append(bracket._cumul_r)
            bracket._live_trials = {one: {"val_acc": 0.0} for one in bracket._live_trials}
            bracket.successive_halving("val_acc", 1.0)
    sizes = (ray._get_n0(s) for s in range(ray._s_max_1))
    return of_ray(rungs, halving.max_epochs), sum(sizes)


def test_the_rungs_are_those_of_rays_own_schedulers() -> None:
    hyperband = SCHEDULERS["hyperband"]
    assert hyperband.drawn_at_once is not None
    for halving in HALVINGS:
        assert SCHEDULERS["asha"].rungs(halving) == rays_asha(halving), halving
        found = hyperband.rungs(halving), hyperband.drawn_at_once(halving, 7)
        assert found == rays_hyperband(halving), halving


def test_asha_compares_at_its_rungs_and_at_no_other_epoch() -> None:
    """A trial that is worse than all before is stopped at the first epoch that is a rung."""
    halving = Halving(20, 3, 2.5)
    rules = Rules("val_acc", "max", halving.max_epochs, halving.grace_period, 2.5)
    rungs = SCHEDULERS["asha"].rungs(halving)
    assert rungs == [3, 8, 19]

    def row(epoch: int, value: float) -> dict[str, float]:
        return {"epoch": epoch, "num_epochs": 20, "diverged": 0, "val_acc": value}

    for first_bad in range(1, 20):
        scheduler = MAKERS["asha"](rules)
        for number in (0, 1):
            one: Any = Member(trial_id=f"id{number}", config={"trial": number}, status="RUNNING")
            scheduler.on_trial_add(None, one)
            for epoch in range(1, 20):
                value = -1.0 if number == 1 and epoch >= first_bad else 1.0
                if scheduler.on_trial_result(None, one, row(epoch, value)) == "STOP":
                    break
        assert epoch == next(rung for rung in rungs if rung >= first_bad)
