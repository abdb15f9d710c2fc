"""`--scheduler pbt`: who takes over whom, what is written of it, and what is refused."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from hlvnn import search_space
from hlvnn.commands import tune_search
from hlvnn.config import run_config
from hlvnn.errors import ConfigError, RunError
from hlvnn.records import outcomes, perturbations, run_folder
from hlvnn.records.checkpoint import load_checkpoint
from hlvnn.records.journal import NUMBER, Draw
from hlvnn.records.perturbations import Change
from hlvnn.sweep import plan
from hlvnn.sweep import population as population_module
from hlvnn.sweep.combinations import PERTURBED
from hlvnn.sweep.context import Context
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.population import Exchange, Population, explore
from hlvnn.training import execution
from hlvnn.words import shown
from tests.spaces import loaded, write_space
from tests.sweep.epochs import rows
from tests.sweep.populations import FLAGS, SPACE


class Taken:
    """Stands for the folders: notes who took over whom, after which epoch."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int, int]] = []

    def settings_now(self, number: int) -> dict[str, Any]:
        return {"lr": 0.5} if number == 7 else {}

    def take_over(self, number: int, donor: int, epoch: int, chosen: random.Random) -> Any:
        self.pairs.append((number, donor, epoch))
        return {"lr": 0.25}


class Member(SimpleNamespace):
    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


def member(number: int) -> Any:
    config = {"trial": number, "settings": '{"lr": 1.0, "seed": 3}'}
    return Member(trial_id=f"id{number}", config=config, status="PENDING")


def population(count: int, taken: Any) -> Population:
    return Population(
        metric="val_acc", mode="max", num_trials=count, perturb_every=2, seed=0, exchange=taken
    )


# who, whom


def test_the_worst_quarter_takes_over_the_best_once_all_are_there() -> None:
    taken = Taken()
    scheduler = population(8, taken)
    trials = [member(number) for number in range(8)]
    for one in trials:
        scheduler.on_trial_add(None, one)
    decisions = []
    for one in trials:
        first, second, *_ = rows([one.config["trial"] / 10] * 3)
        assert scheduler.on_trial_result(None, one, first) == "CONTINUE"
        decisions.append(scheduler.on_trial_result(None, one, second))
        one.status = "PAUSED" if decisions[-1] == "PAUSE" else "RUNNING"
    assert decisions == ["PAUSE"] * 7 + ["CONTINUE"]
    assert [(number, epoch) for number, _, epoch in taken.pairs] == [(0, 2), (1, 2)]
    assert {donor for _, donor, _ in taken.pairs} <= {6, 7}
    assert '"lr": 0.25, "seed": 3' in trials[0].config["settings"]
    assert '"lr": 1.0' in trials[2].config["settings"]
    assert scheduler.choose_trial_to_run(None) is trials[0]


def test_nobody_waits_for_a_trial_that_failed_diverged_or_is_away() -> None:
    taken = Taken()
    scheduler = population(6, taken)
    trials = [member(number) for number in range(5)]
    for one in trials:
        scheduler.on_trial_add(None, one)
    for one in trials[:4]:
        for row in rows([one.config["trial"] / 10] * 2):
            scheduler.on_trial_result(None, one, row)
        one.status = "PAUSED"
    trials[4].status = "RUNNING"
    assert scheduler.choose_trial_to_run(None) is None
    scheduler.on_trial_error(None, trials[4])
    assert scheduler.choose_trial_to_run(None) is None  # the sixth is still to be drawn
    last = member(5)
    scheduler.on_trial_add(None, last)
    assert scheduler.choose_trial_to_run(None) is last
    diverged = {"epoch": 1, "num_epochs": 9, "diverged": 1, "val_acc": float("-inf")}
    assert scheduler.on_trial_result(None, last, diverged) == "CONTINUE"
    scheduler.on_trial_complete(None, last, diverged)
    assert scheduler.choose_trial_to_run(None) in trials[:4]
    assert taken.pairs == [(0, 3, 2)]


def test_a_round_that_was_cut_short_is_held_again_alike() -> None:
    """The next driver knows the epochs; those that are past the round have it behind them."""
    pairs = []
    for epochs in ([2, 2, 2, 2], [2, 2, 2, 3], [3, 3, 4, 4]):
        taken = Taken()
        scheduler = population(5, taken)
        values = [0.1, 0.2, 0.3, 0.4]
        seen = {n: rows([values[n]] * epoch) for n, epoch in enumerate(epochs)}
        scheduler.refill([rows([0.5] * 9)], seen)
        trials = [member(number) for number in seen]
        for one in trials:
            scheduler.on_trial_add(None, one)
        chosen = scheduler.choose_trial_to_run(None)
        assert chosen is trials[0]
        pairs.append(taken.pairs)
    assert pairs == [[(0, 3, 2)], [], []]
    scheduler = population(1, Taken())
    scheduler.refill([], {7: rows([0.1])})
    changed = member(7)
    scheduler.on_trial_add(None, changed)
    assert '"lr": 0.5' in changed.config["settings"]


def test_what_is_drawn_near_a_trial_stays_in_the_space(here: Path) -> None:
    space = loaded(
        SPACE.replace(
            "return {",
            'return {"clip_grad": trial.suggest_int("clip", 1, 9), '
            '"dropout": trial.suggest_float("dropout", 0.0, 0.4, step=0.1), ',
        )
    )
    params = {"lr": 0.09, "decay": 0.05, "kl": 0.3, "clip": 5, "dropout": 0.2}
    same, settings = explore(space, params, None)
    assert same == params
    assert settings["weight_decay"] == 0.05
    drawn = [explore(space, params, random.Random(seed))[0] for seed in range(200)]
    assert {one["clip"] for one in drawn} >= {4, 6}
    assert {round(one["dropout"], 9) for one in drawn} <= {0.0, 0.1, 0.2, 0.3, 0.4}
    assert all(1e-4 <= one["lr"] <= 0.1 for one in drawn)
    near = [
        one["decay"] for one in drawn if min(abs(one["decay"] - x) for x in (0.04, 0.06)) < 1e-9
    ]
    assert 0.6 < len(near) / len(drawn) < 0.9
    kls = [one["kl"] for one in drawn]
    assert kls.count(0.3) > kls.count(2.0) > 0
    again = [explore(space, params, random.Random(seed))[0] for seed in range(200)]
    assert again == drawn


def test_a_trial_is_given_what_another_has_or_is_left_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population_module, "STALE_SECONDS", 0.0)
    space = search_space.load("study")
    drawn = {n: {"lr": 0.01 * (n + 1), "decay": 0.1 * n, "kl": 1.0} for n in range(2)}
    folders = [outcomes.trial_folder(here, number) for number in drawn]
    for number, folder in enumerate(folders):
        settings = space.base | explore(space, drawn[number], None)[1] | {"num_epochs": 2}
        execution.execute(run_config(settings, "a test"), folder)
    said = io.StringIO()
    planned = plan.Plan(SweepConfig(space="study"), space, here, {}, [])
    context = Context.of(planned, 1, Console(file=said))
    for number, params in drawn.items():
        context.journal.study.enqueue_trial(params)
        trial = context.journal.study.ask()
        trial.set_user_attr(NUMBER, number)
        context.board.add(Draw(number, space.function(trial)))
    exchange = Exchange(context)
    assert exchange.take_over(0, 1, 1, random.Random(0)) is None  # they are past that epoch
    assert "trial 0 goes on by itself after epoch 1" in said.getvalue()
    assert perturbations.read(folders[0]) == []

    before, donor = (load_checkpoint(folder / run_folder.CHECKPOINT) for folder in folders)
    settings = exchange.take_over(0, 1, 2, random.Random(0))
    begun, change = perturbations.read(folders[0])
    assert (begun.epoch, begun.from_trial, begun.params) == (0, None, drawn[0])
    assert (change.epoch, change.from_trial, change.settings) == (2, 1, settings)
    assert f"trial 0: {change.told()}" in said.getvalue()
    assert context.board.entries[0].settings == shown(settings)
    now = load_checkpoint(folders[0] / run_folder.CHECKPOINT)
    assert all(torch.equal(now["model"][key], donor["model"][key]) for key in donor["model"])
    assert now["history"] == before["history"]
    assert not (folders[0] / run_folder.PREVIOUS).exists()
    config = run_folder.read_config(folders[0])
    assert {name: getattr(config.train, name) for name in change.settings} == settings
    # once is enough: a driver that was killed after it asks again
    assert exchange.take_over(0, 1, 2, random.Random(5)) == settings
    assert len(perturbations.read(folders[0])) == 2
    # and the next one to take it over starts from what it has now
    (folders[1] / run_folder.CHECKPOINT).write_bytes(b"cut short")
    assert exchange.take_over(1, 0, 2, random.Random(0)) is None
    assert "not a readable checkpoint" in said.getvalue()


def refused(*flags: str) -> str:
    with pytest.raises(ConfigError) as error:
        plan.new_plan(tune_search.parse([*FLAGS, *flags]))
    return str(error.value)


# what is refused


def test_a_population_that_cannot_be_is_refused(here: Path) -> None:
    assert plan.new_plan(tune_search.parse([*FLAGS])).options.scheduler == "pbt"
    for searcher in ("tpe", "gp", "grid"):
        assert f"--searcher {searcher} takes what a trial" in refused("--searcher", searcher)
    assert "give at least 4" in refused("--num-trials", "3")
    assert "pbt's trials wait for each other" in refused("--max-concurrent", "2")
    assert "--perturb-every 7 must be below the 7 epochs" in refused("--perturb-every", "7")
    assert "a multiple of --eval-every 2" in refused("--eval-every", "2")
    assert "--checkpoint-every 3 must be 1" in refused("--checkpoint-every", "3")
    write_space(SPACE.replace("return {", 'return {"z_dim": trial.suggest_int("z", 1, 9), '))
    assert "draws z_dim, which cannot change while a trial runs" in refused()
    write_space(SPACE.replace("return {", 'return {"z_dim": 1} if trial.number < 0 else {'))
    assert plan.new_plan(tune_search.parse([*FLAGS])).sample
    write_space(re.sub(r"return \{.*\}", "return {}", SPACE, flags=re.DOTALL))
    assert f"draws none of {', '.join(PERTURBED)}" in refused()


def test_a_damaged_file_of_perturbations_is_told(tmp_path: Path) -> None:
    file = tmp_path / perturbations.PERTURBATIONS
    assert perturbations.read(tmp_path) == []
    begun = Change(epoch=0, params={}, settings={"lr": 0.1})
    changes = [begun, Change(epoch=3, from_trial=1, params={}, settings={"lr": 0.2})]
    perturbations.write(tmp_path, changes)
    assert perturbations.read(tmp_path) == changes
    assert perturbations.settings_now(tmp_path) == {"lr": 0.2}
    for damaged in ("{}", "[]", "[1, 2]", "[{}]", "["):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(RunError, match=r"perturbations.json"):
            perturbations.read(tmp_path)
    file.write_text('[{"epoch": 0}, {"epoch": -3}]', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"perturbations.json"):
        perturbations.read(tmp_path)
