"""How a sweep searches: schedulers, searchers, objectives, another sweep's trials."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import optuna
import pandas as pd
import pytest

from benchmarks import recorded
from hlvnn import search_space, terminal
from hlvnn.commands import tune_search
from hlvnn.errors import ConfigError, RunError
from hlvnn.records import outcomes, run_folder, sweep_folder, trials_table, weight_files
from hlvnn.records.journal import Draw, Journal
from hlvnn.records.outcomes import Outcome, Status
from hlvnn.records.schedulers import SCHEDULERS, Halving
from hlvnn.records.searchers import SEARCHERS
from hlvnn.sweep import plan, warm
from hlvnn.sweep.options import SweepConfig
from hlvnn.sweep.schedulers import MAKERS, Rules
from hlvnn.sweep.searchers import grid_size, sampler
from hlvnn.sweep.trainable import scalars
from hlvnn.training import execution

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 9}
METRIC, MODE = "val_acc", "max"

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""
GRID = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "num_epochs": 2}
METRIC, MODE = "val_acc", "max"

def space(trial):
    drawn = {"latent_config": trial.suggest_categorical("latent_config", ["none", "factor"])}
    drawn["dropout"] = trial.suggest_float("dropout", 0.0, 0.4, step=0.2)
    if drawn["latent_config"] == "factor":
        drawn["z_dim"] = trial.suggest_int("z_dim", 1, 4)
    return drawn
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder with two search spaces, `study` and `grid`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    write_space("study", SPACE)
    write_space("grid", GRID)
    return tmp_path


def write_space(name: str, text: str) -> search_space.Space:
    Path("search_spaces", f"{name}.py").write_text(text, encoding="utf-8")
    return search_space.load(name)


# ---------------------------------------------------------------------------- schedulers


def test_the_flags_offer_what_the_tables_hold() -> None:
    fields = SweepConfig.model_fields
    assert set(get_args(fields["scheduler"].annotation)) == {*SCHEDULERS}
    assert set(get_args(fields["searcher"].annotation)) == {*SEARCHERS}
    assert SweepConfig().scheduler == "asha"


def rows(values: list[float], num_epochs: int = 9) -> list[dict[str, float]]:
    told = ({"epoch": n, "diverged": 0.0, "val_acc": value} for n, value in enumerate(values, 1))
    return [scalars(row, num_epochs, {"val_acc": -math.inf}) for row in told]


class Controller:
    """What Ray's schedulers see of the loop that calls them: the trials, and stopping one."""

    def __init__(self) -> None:
        self.stopped: list[int] = []
        self.scheduler: Any = None

    def stop_trial(self, trial: Any) -> None:
        self.scheduler.on_trial_remove(self, trial)
        self.stopped.append(trial.config["trial"])

    def get_live_trials(self) -> list[Any]:
        return []


def trial(number: int) -> Any:
    return SimpleNamespaceHashable(
        trial_id=f"id{number}", config={"trial": number}, status="RUNNING", is_saving=False
    )


class SimpleNamespaceHashable(SimpleNamespace):
    __hash__ = object.__hash__


RULES = Rules("val_acc", "max", max_epochs=9, grace_period=1, reduction_factor=3)


def test_the_median_rule_stops_who_is_behind_and_takes_up_an_earlier_sweep() -> None:
    for replayed in (False, True):
        scheduler = MAKERS["median"](RULES)
        past = [rows([0.5, 0.6, 0.7]), rows([0.6, 0.7, 0.8]), rows([0.4, 0.5, 0.6])]
        if replayed:
            scheduler.refill(past, {})
        bad = trial(9)
        scheduler.on_trial_add(Controller(), bad)
        decision = scheduler.on_trial_result(Controller(), bad, rows([0.1])[0])
        assert decision == ("STOP" if replayed else "CONTINUE")
        assert ("behind the median" in scheduler.reasons.get("id9", "")) == replayed


def test_a_band_is_as_large_as_its_brackets() -> None:
    scheduler = MAKERS["hyperband"](RULES)
    for number in range(SCHEDULERS["hyperband"].drawn_at_once(Halving(9, 1, 3), 1)):
        scheduler.on_trial_add(Controller(), trial(number))
    assert scheduler.debug_string().count("Round") == 1
    scheduler.on_trial_add(Controller(), trial(99))
    assert scheduler.debug_string().count("Round") == 2


def test_hyperband_lets_a_third_of_a_bracket_go_on() -> None:
    scheduler, controller = MAKERS["hyperband"](RULES), Controller()
    controller.scheduler = scheduler
    trials = [trial(number) for number in range(3 + 5)]  # a bracket of 3 at 9 epochs, 5 at 3
    for one in trials:
        scheduler.on_trial_add(controller, one)
    bracket = trials[3:]
    for one in bracket:
        values = [0.1 * one.config["trial"]] * 3
        *_, last = (scheduler.on_trial_result(controller, one, row) for row in rows(values))
        if one is not bracket[-1]:
            assert last == "PAUSE"
            one.status = "PAUSED"
    assert last == "CONTINUE"
    assert sorted(controller.stopped) == [3, 4, 5]
    assert "best 1/3 of its bracket" in scheduler.reasons["id3"]


@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_a_diverged_or_ending_trial_is_left_to_end(name: str) -> None:
    scheduler, controller = MAKERS[name](RULES), Controller()
    controller.scheduler = scheduler
    scheduler.refill([rows([0.5] * 8)] * 4, {})
    lost, last = trial(1), trial(2)
    diverged = scalars({"epoch": 1, "diverged": 1.0}, 9, {"val_acc": -math.inf})
    for one, row in ((lost, diverged), (last, rows([0.1], num_epochs=1)[0])):
        scheduler.on_trial_add(controller, one)
        assert scheduler.on_trial_result(controller, one, row) == "CONTINUE"
        scheduler.on_trial_complete(controller, one, row)
    assert scheduler.reasons == {}


# ----------------------------------------------------------------------------- searchers


def test_earlier_trials_inform_the_search_and_its_startup_is_not_repeated(here: Path) -> None:
    """An extended sweep opens the same journal in a new process and asks for more."""
    space = search_space.load("study")

    def distances(journal: Journal, count: int, seed: int) -> list[float]:
        study = optuna.load_study(
            study_name="sweep",
            storage=journal.storage,
            sampler=sampler("tpe", seed, len(journal)),
        )
        found = []
        for _ in range(count):
            one = study.ask()
            off = abs(math.log10(space.function(one)["lr"]) + 2)  # best at 0.01
            study.tell(one, -(off**2))
            found.append(off)
        return found

    first: list[float] = []
    more: list[float] = []
    for seed in range(4):
        folder = here / str(seed)
        folder.mkdir()
        first += distances(Journal.create(folder, "max"), 16, seed)[:10]
        more += distances(Journal.open(folder), 8, seed)  # startup would be 10 draws at random
    assert np.median(more) < 0.6 * np.median(first)


def test_every_searcher_proposes_and_goes_on_without_repeating_itself(here: Path) -> None:
    space = search_space.load("study")
    for name in set(SEARCHERS) - {"grid"}:
        folder = here / name
        folder.mkdir()
        journal = Journal.create(folder, "max")
        for _ in range(2):  # a start, and a resumption
            study = optuna.load_study(
                study_name="sweep", storage=journal.storage, sampler=sampler(name, 3, len(journal))
            )
            for _ in range(6):
                one = study.ask()
                study.tell(one, -((math.log10(space.function(one)["lr"]) + 2) ** 2))
        drawn = [one.params["lr"] for one in journal.study.trials]
        assert len(set(drawn)) == 12, name


def test_the_grid_is_counted_and_every_point_is_drawn_once(here: Path) -> None:
    space = search_space.load("grid")
    assert grid_size(space) == 3 + 3 * 4
    study = optuna.create_study(sampler=sampler("grid", 0))
    for _ in range(15):
        one = study.ask()
        space.function(one)
        with pytest.raises(RuntimeError) if one.number == 14 else _nothing():
            study.tell(one, 0.0)  # after the last point the sampler asks for the study's end
    assert len({str(sorted(one.params.items())) for one in study.trials}) == 15


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_grid_that_cannot_be_is_refused(here: Path) -> None:
    assert len(plan.new_plan(SweepConfig(space="grid", searcher="grid", num_trials=15)).sample) > 0
    with pytest.raises(
        ConfigError, match=r"15 points, --num-trials 16 is more; give --num-tri.*15"
    ):
        plan.new_plan(SweepConfig(space="grid", searcher="grid", num_trials=16))
    with pytest.raises(ConfigError, match="draws 'lr' as a real number without steps"):
        plan.new_plan(SweepConfig(space="study", searcher="grid"))
    write_space("large", GRID.replace("1, 4", "1, 4000"))
    with pytest.raises(ConfigError, match="more than 2000 points"):
        plan.new_plan(SweepConfig(space="large", searcher="grid"))
    with pytest.raises(ConfigError, match="--max-concurrent 2: hyperband's trials wait"):
        plan.new_plan(SweepConfig(space="study", scheduler="hyperband", max_concurrent=2))


# ---------------------------------------------------------------------------- objectives

TWO = SPACE.replace(
    'METRIC, MODE = "val_acc", "max"',
    'METRIC, MODE = ["val_acc", "val_group_p10", "val_loss"], ["max", "max", "min"]',
)


def test_several_objectives_are_read_and_wrong_ones_refused(here: Path) -> None:
    space = write_space("two", TWO)
    assert space.metric == "val_acc"
    assert space.objectives == (("val_acc", "max"), ("val_group_p10", "max"), ("val_loss", "min"))
    assert space.worsts == {"val_acc": -math.inf, "val_group_p10": -math.inf, "val_loss": math.inf}
    both = write_space("two", TWO.replace('["max", "max", "min"]', '"max"'))
    assert {mode for _, mode in both.objectives} == {"max"}
    with pytest.raises(ConfigError, match="METRIC lists 3 objectives; MODE must be a list of as"):
        write_space("two", TWO.replace('["max", "max", "min"]', '["max", "min"]'))
    with pytest.raises(ConfigError, match="names an objective twice"):
        write_space("two", TWO.replace("val_group_p10", "val_acc"))
    with pytest.raises(ConfigError, match="'test_acc': a sweep selects on validation"):
        write_space("two", TWO.replace("val_group_p10", "test_acc"))


def test_the_pareto_front_is_what_nobody_beats(here: Path) -> None:
    space = write_space("two", TWO)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 6, (200, 3)) / 6, columns=[*space.worsts])
    frame = frame.add_prefix("best_").assign(status=rng.choice(["completed", "failed"], 200))
    frame.loc[3, "best_val_acc"] = np.nan
    front = trials_table.on_front(frame, space)
    placed = frame[(frame["status"] == "completed") & frame["best_val_acc"].notna()]
    points = placed[["best_val_acc", "best_val_group_p10"]].assign(low=-placed["best_val_loss"])
    for row, point in points.iterrows():
        beaten = ((points >= point).all(axis=1) & (points > point).any(axis=1)).any()
        assert front[row] == (not beaten)
    assert not front[frame.index.difference(placed.index)].any()


# -------------------------------------------------------------------- another sweep's trials


def sweep_of(
    space: search_space.Space, folder: Path, lrs: list[float], statuses: list[Status] | None = None
) -> Path:
    """Write what a sweep leaves of trials with these learning rates."""
    folder.mkdir(parents=True)
    journal = Journal.create(folder, space.mode)
    for number, lr in enumerate(lrs):
        status = statuses[number] if statuses else Status.COMPLETED
        journal.study.enqueue_trial({"lr": lr})
        one = journal.study.ask()
        settings = space.function(one)
        one.set_user_attr("trial", number)
        one.set_user_attr("draw", {"settings": settings, "drawn": settings, "problem": ""})
        journal.study.tell(one, 0.5)
        outcomes.write(folder, Outcome(trial=number, status=status))
        told = {"seconds": 1.0, "diverged": 0.0}
        metrics = [{"epoch": e, **told, "val_acc": lr * e, "val_loss": e} for e in (1, 2)]
        execution.write_rows(outcomes.trial_folder(folder, number) / run_folder.METRICS, metrics)
    options = SweepConfig(space=space.name, num_trials=len(lrs)).model_dump(mode="json")
    record = {"options": options, "space": {"sha256": space.sha256}, "fixed": {}, "starts": []}
    execution.write_json(folder / sweep_folder.SWEEP, record)
    return folder


def test_another_sweeps_trials_become_completed_trials_of_the_study(here: Path) -> None:
    space = search_space.load("study")
    statuses = [Status.COMPLETED, Status.STOPPED, Status.DIVERGED, Status.FAILED]
    source = sweep_of(space, here / "earlier", [0.01, 0.02, 0.03, 0.04], statuses)
    journal = Journal.create(here, "max")
    earlier = warm.read(source, space)
    for _ in range(2):  # a resumed sweep learns them once
        warm.learn(journal.study, earlier)
    told = [(one.state.name, one.params["lr"], one.value) for one in journal.study.trials]
    assert told == [
        ("COMPLETE", 0.01, 0.02),
        ("COMPLETE", 0.02, 0.04),
        ("COMPLETE", 0.03, -math.inf),
    ]
    assert journal.draws() == {}  # none is a trial of this sweep
    assert earlier.told().startswith("warm start: 3 trials of ")


def test_trials_that_do_not_fit_the_space_are_told(here: Path) -> None:
    source = sweep_of(search_space.load("study"), here / "earlier", [0.002, 0.05])
    narrow = write_space("narrow", SPACE.replace("1e-1", "1e-2"))
    told = warm.read(source, narrow).told()
    assert "1 trials of" in told
    assert "1 do not fit this space, the first: trial 1: lr = 0.05 is not in 0.001 … 0.01" in told
    for text, why in (
        (SPACE.replace('"lr", 1e-3', '"lr", 0.06'), r"trial 0: lr = 0.002 is not in 0.06 … 0.1"),
        (
            SPACE.replace('suggest_float("lr"', 'suggest_float("rate"'),
            "rate is drawn here, and was",
        ),
        (SPACE.replace('trial.suggest_float("lr", 1e-3, 1e-1, log=True)', "0.1"), "it drew lr ="),
        (
            SPACE.replace("float", "categorical").replace("1e-3, 1e-1, log=True", "[0.5, 0.7]"),
            "lr = 0.002 is none of 0.5, 0.7",
        ),
    ):
        other = write_space("other", text)
        with pytest.raises(ConfigError, match=f"none of its trials serves .*{why}"):
            warm.read(source, other)
        with pytest.raises(ConfigError, match="--warm-start"):
            plan.new_plan(SweepConfig(space="other", warm_start=str(source)))
    other = write_space("other", SPACE.replace("val_acc", "val_f1"))
    with pytest.raises(
        ConfigError, match=r"did not measure val_f1.*they measured val_acc, val_los"
    ):
        warm.read(source, other)
    with pytest.raises(RunError, match="is not a sweep"):
        plan.new_plan(SweepConfig(space="study", warm_start=str(here)))
    assert not (here / "results").exists()


def test_extend_asks_for_that_many_more_of_a_finished_sweep(here: Path) -> None:
    space = search_space.load("study")
    source = sweep_of(space, here / "results" / "digits" / "done", [0.01, 0.02])
    options = tune_search.parse(["--extend", str(source), "--num-trials", "5"])
    planned = plan.of(options)
    assert planned.options.num_trials == 2 + 5
    assert (planned.sweep, planned.options.extend) == (source, None)
    outcomes.write(source, Outcome(trial=1, status=Status.STOPPED, unfinished=True))
    with pytest.raises(RunError, match=r"trial 1 has not ended; finish the sweep first: .*--resum"):
        plan.of(options)
    with pytest.raises(ConfigError, match="give only one of them"):
        tune_search.parse(["--extend", str(source), "--resume", str(source)])


TABLE = """
from benchmarks.recorded import GRID

BASE = {"dataset": "digits", "dropout": 0.0}
METRIC, MODE = "val_acc", "max"

def space(trial):
    drawn = {"lr": GRID["lr"][trial.suggest_int("lr", 0, 7)]}
    for name in ("batch_size", "latent_config", "weight_decay"):
        drawn[name] = trial.suggest_categorical(name, GRID[name])
    return drawn
"""


def test_a_warm_start_has_better_first_trials_than_a_cold_one(here: Path) -> None:
    """Recorded runs with dropout teach a search of those without: the first ten of each seed."""
    curves = recorded.load()["val_acc"]
    space = write_space("recorded", TABLE)

    def measured(settings: dict[str, Any], dropout: float) -> list[float]:
        point = {**settings, "dropout": dropout}
        return curves.loc[tuple(point[name] for name in recorded.GRID)].tolist()

    def first_ten(folder: Path, seed: int, earlier: warm.Earlier | None) -> float:
        folder.mkdir(parents=True)
        journal = Journal.create(folder, "max")
        if earlier is not None:
            warm.learn(journal.study, earlier)
        study = optuna.load_study(
            study_name="sweep", storage=journal.storage, sampler=sampler("tpe", seed, len(journal))
        )
        for _ in range(10):
            one = study.ask()
            study.tell(one, measured(space.function(one), 0.0)[-1])
        return float(np.median([one.value for one in study.trials[-10:]]))

    cold, learned = [], []
    for seed in range(6):
        source = here / f"source_{seed}"
        drawing = optuna.create_study(sampler=sampler("random", 100 + seed))
        source.mkdir()
        journal = Journal.create(source, "max")
        for number in range(14):
            journal.study.enqueue_trial(_params(space, drawing))
            one = journal.study.ask()
            values = measured(space.function(one), 0.25)
            one.set_user_attr("trial", number)
            journal.study.tell(one, values[-1])
            outcomes.write(source, Outcome(trial=number, status=Status.COMPLETED))
            rows = [{"epoch": epoch, "val_acc": value} for epoch, value in enumerate(values, 1)]
            execution.write_rows(outcomes.trial_folder(source, number) / run_folder.METRICS, rows)
        cold.append(first_ten(here / f"cold_{seed}", seed, None))
        learned.append(first_ten(here / f"warm_{seed}", seed, warm.read(source, space)))
    assert np.median(learned) > np.median(cold) + 0.005
    assert np.mean(np.array(learned) > np.array(cold)) > 0.7


def _params(space: search_space.Space, study: optuna.Study) -> dict[str, Any]:
    one = study.ask()
    space.function(one)
    return one.params


# --------------------------------------------------------------------------- kept weights


def test_only_the_weights_of_the_others_are_deleted_and_only_at_the_end(here: Path) -> None:
    for number in range(4):
        folder = outcomes.trial_folder(here, number)
        (folder / run_folder.STATS).mkdir(parents=True)
        for name in (
            run_folder.CHECKPOINT,
            run_folder.BEST,
            run_folder.METRICS,
            run_folder.HYPERPARAMS,
            "mine.pt",
        ):
            (folder / name).write_bytes(b"12345")
    before = {path for path in here.rglob("*") if path.is_file()}
    ranked = pd.DataFrame({"trial": [2, 0, 3, 1], "status": "completed", "unfinished": False})
    going_on = ranked.assign(unfinished=[False, False, False, True])
    assert weight_files.prune(here, going_on, 0).trials == 0
    freed = weight_files.prune(here, ranked, 2)
    assert (freed.trials, freed.bytes) == (2, 20)
    gone = before - {path for path in here.rglob("*") if path.is_file()}
    assert gone == {
        outcomes.trial_folder(here, number) / name
        for number in (3, 1)
        for name in (run_folder.CHECKPOINT, run_folder.BEST)
    }
    assert weight_files.prune(here, ranked, 2).trials == 0


def test_the_front_is_ranked_first_and_told(here: Path) -> None:
    space = write_space("two", TWO)
    frame = pd.DataFrame(
        {
            "trial": range(4),
            "status": ["completed", "stopped", "completed", "failed"],
            "best_val_acc": [0.9, 0.8, 0.85, 0.99],
            "best_val_group_p10": [0.5, 0.7, 0.5, 0.9],
            "best_val_loss": [0.3, 0.3, 0.4, 0.1],
        }
    )
    frame[trials_table.PARETO] = trials_table.on_front(frame, space)
    ranked = trials_table.ranked(frame, space)
    assert ranked["trial"].tolist() == [0, 1, 2, 3]
    lines = terminal.front(ranked, space)
    assert lines[0] == "Pareto front of val_acc (max), val_group_p10 (max), val_loss (min):"
    assert [line.split(":")[0] for line in lines[1:]] == ["  trial 1", "  trial 0"]
    assert terminal.front(ranked.drop(columns=trials_table.PARETO), space) == []


def test_the_journal_of_several_objectives_draws(here: Path) -> None:
    journal = Journal.create(here, "max", "min")
    study = optuna.load_study(
        study_name="sweep", storage=journal.storage, sampler=sampler("tpe", 0)
    )
    for value in (*np.linspace(0, 1, 12), math.inf):
        one = study.ask()
        one.suggest_float("lr", 0, 1)
        study.tell(one, (-value, value))  # the last one diverged
    assert len(study.best_trials) == 1
    assert study.ask().suggest_float("lr", 0, 1) >= 0
    assert Draw(0).problem == ""
