"""`--scheduler pbt`: a population, of which the worst trials take over the best from time to time.

After every `perturb_every` epochs all trials wait for each other. Each of the worst quarter (by the
metric of that epoch) goes on from the weights, optimisers and random streams of one of the best
quarter, whose drawn parameters are changed a little. What a trial was given, and from whom, stands
in its perturbations.json. A round depends on nothing but the scores of its epoch and the sweep's
seed, so that one which was cut short is held again alike.

Ray's own PopulationBasedTraining is not used: it refuses whatever proposes trials, hands over only
checkpoints that Ray has stored (ours lie in the trials' folders), loses everything with the driver,
and, when its trials wait for each other, waits for ever for one that has failed.

Source: Jaderberg et al. (2017), Population Based Training of Neural Networks.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from hlvnn import files
from hlvnn.config import flatten, in_todays_terms, run_config
from hlvnn.errors import CheckpointError
from hlvnn.records import perturbations, run_folder
from hlvnn.records.checkpoint import load_checkpoint, previous, save_checkpoint
from hlvnn.records.perturbations import Change
from hlvnn.search_space import Space, quieting_optuna
from hlvnn.sweep.comparing import Row, is_compared
from hlvnn.sweep.context import Context
from hlvnn.sweep.searchers import Independent
from hlvnn.words import Settings, shown

QUARTER = 0.25
"""Share of the population that is replaced in a round, and share that is taken over."""
FACTORS = (0.8, 1.2)
"""By which a number is multiplied, up or down."""
ANEW = 0.25
"""How often a parameter is drawn anew instead."""
STALE_SECONDS = 30.0
"""How long a network file system may show a folder as it was."""
OWN = ("history",)
"""What a trial keeps of its own checkpoint: its epochs' rows, which its chosen epoch is among."""


class Population(TrialScheduler):
    """Lets trials wait for each other, and decides who takes over whom.

    num_trials: members that are to come; perturb_every: epochs between rounds; exchange: what
    carries a decision out (`Exchange`).
    """

    _supports_buffered_results = False

    def __init__(
        self,
        *,
        metric: str,
        mode: str,
        num_trials: int,
        perturb_every: int,
        seed: int,
        exchange: Exchange | None,
    ) -> None:
        super().__init__()
        self._metric = metric
        self.sign = 1 if mode == "max" else -1
        self.to_come = num_trials
        self.every = perturb_every
        self.seed = seed
        self.exchange = exchange
        self.reasons: dict[str, str] = {}
        """Empty: no trial is stopped."""
        self.next = perturb_every
        self.live: dict[int, Trial] = {}
        self.added: set[int] = set()
        self.at: dict[int, int] = {}
        """The last epoch of each trial."""
        self.scores: dict[int, float] = {}
        """Of the trials that wait for the next round."""
        self.replaced: set[int] = set()
        """Those that took over another trial in the round that was held last."""
        self._unfinished: dict[int, list[Row]] = {}
        self._given: dict[int, Settings] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its arguments into a file that nobody reads

    def refill(self, ended: Iterable[list[Row]], unfinished: dict[int, list[Row]]) -> None:
        """Take up an earlier driver's population: those of its trials that go on."""
        self.to_come -= len(list(ended))
        self._unfinished = unfinished
        if self.exchange is not None:
            self._given = {number: self.exchange.settings_now(number) for number in unfinished}
        epochs = [int(rows[-1]["epoch"]) if rows else 0 for rows in unfinished.values()]
        first, last = min(epochs, default=0), max(epochs, default=0)
        self.next = first - first % self.every
        if self.next < last or self.next == 0:  # somebody went on: that round was held
            self.next += self.every

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        number = trial.config["trial"]
        self.live[number] = trial
        self.added.add(number)
        if changed := self._given.pop(number, {}):
            _configure(trial, changed)
        for row in self._unfinished.get(number, []):
            self._note(number, row)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        assert {"epoch", "num_epochs", self._metric} <= result.keys(), f"incomplete: {result}"
        number = trial.config["trial"]
        self._note(number, result)
        if number not in self.scores:
            return TrialScheduler.CONTINUE
        self._hold_round()
        # the last one to come need not wait, and starts anew only if it takes over another
        waits = number in self.scores or number in self.replaced
        return TrialScheduler.PAUSE if waits else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.on_trial_remove(tune_controller, trial)  # if it is tried again it is added again

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.live.pop(trial.config["trial"], None)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._hold_round()  # the one that the others waited for may have failed
        free = [trial for number, trial in self.live.items() if number not in self.scores]
        for status in (Trial.PAUSED, Trial.PENDING):  # one that is chosen is pending until it runs
            for trial in free:
                if trial.status == status:
                    return trial
        return None

    def debug_string(self) -> str:
        return f"population: {len(self.live)} trials, next round after epoch {self.next}"

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep is taken up from its own files."""

    def _note(self, number: int, row: Row) -> None:
        """Take a result in; in its last epoch, or diverged, a trial is left to end by itself."""
        epoch = int(row["epoch"])
        self.at[number] = max(epoch, self.at.get(number, 0))
        if epoch == self.next and is_compared(row):
            self.scores[number] = self.sign * row[str(self._metric)]

    def _hold_round(self) -> None:
        """Let the worst take over the best, once everybody is there."""
        behind = any(self.at.get(number, 0) < self.next for number in self.live)
        if behind or len(self.added) < self.to_come or not self.scores:
            return
        self.replaced = set()
        there = sorted(self.scores.keys() & self.live.keys())
        order = sorted(there, key=lambda number: (self.scores[number], number))
        count = min(math.ceil(QUARTER * len(order)), len(order) // 2)
        for number in order[:count]:
            chosen = random.Random(f"{self.seed} {self.next} {number}")
            donor = chosen.choice(order[len(order) - count :])
            assert self.exchange is not None
            if changed := self.exchange.take_over(number, donor, self.next, chosen):
                self.replaced.add(number)
                _configure(self.live[number], changed)
        self.next += self.every
        self.scores = {}


class Exchange:
    """Carries out what a population decides, in the folders of its trials, which wait meanwhile."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def settings_now(self, number: int) -> Settings:
        """Return the settings that a trial was given since it began."""
        return perturbations.settings_now(self.context.folder(number))

    def take_over(
        self, number: int, donor: int, epoch: int, chosen: random.Random
    ) -> Settings | None:
        """Give a trial another one's state, and settings near that one's; return the settings.

        None where a checkpoint of this epoch is missing, as one was damaged: nothing is changed.
        """
        folder, source = self.context.folder(number), self.context.folder(donor)
        changes = perturbations.read(folder) or [self._beginning(number)]
        if changes[-1].epoch == epoch:  # an earlier driver got as far as this
            return changes[-1].settings
        known = perturbations.read(source) or [self._beginning(donor)]
        params, settings = explore(self.context.space, known[-1].params, chosen)
        change = Change(epoch=epoch, from_trial=donor, params=params, settings=settings)
        try:
            self.context.patience.patiently(
                lambda: self._write(folder, source, [*changes, change]), str(folder)
            )
        except CheckpointError as error:
            self.context.say(f"trial {number} goes on by itself after epoch {epoch}: {error}")
            return None
        self.context.board.entries[number].settings = shown(settings)
        self.context.say(f"trial {number}: {change.told()}")
        return settings

    def _beginning(self, number: int) -> Change:
        """Return the settings that a trial was drawn with, as if they were its first change."""
        params = self.context.journal.latest()[number].params
        settings = explore(self.context.space, params, None)[1]
        return Change(epoch=0, params=params, settings=settings)

    def _write(self, folder: Path, donor: Path, changes: list[Change]) -> None:
        """Write the trial's new state; perturbations.json comes last: with it, it is done."""
        own, state = (
            _of_epoch(changes[-1].epoch, at / run_folder.CHECKPOINT) for at in (folder, donor)
        )
        previous(folder / run_folder.CHECKPOINT).unlink(
            missing_ok=True
        )  # of the weights that are left
        save_checkpoint({**state, **{key: own[key] for key in OWN}}, folder / run_folder.CHECKPOINT)
        path = folder / run_folder.HYPERPARAMS
        record = files.read_json(path)
        config = run_config(
            {**in_todays_terms(record["config"]), **changes[-1].settings}, str(path)
        )
        files.write_json(path, {**record, "config": flatten(config)})
        perturbations.write(folder, changes)


def _of_epoch(epoch: int, path: Path) -> dict[str, Any]:
    """Return a checkpoint of an epoch; raise `CheckpointError` where it is of another."""
    until = time.monotonic() + STALE_SECONDS
    while (checkpoint := load_checkpoint(path))["epoch"] != epoch:
        if time.monotonic() > until:
            raise CheckpointError(f"{path}: of epoch {checkpoint['epoch']}, not of epoch {epoch}")
        time.sleep(1.0)
    return checkpoint


def _configure(trial: Any, changed: Settings) -> None:
    """Have a trial start with these settings when it is started next."""
    settings = json.loads(trial.config["settings"]) | changed
    trial.set_config({**trial.config, "settings": json.dumps(settings)})


def explore(
    space: Space, params: dict[str, Any], chosen: random.Random | None
) -> tuple[dict[str, Any], Settings]:
    """Return parameters near these, within the space's ranges, and the settings made of them.

    chosen: None keeps the parameters as they are.
    """
    with quieting_optuna():
        trial = optuna.create_study(sampler=_Near(params, chosen)).ask()
    settings = json.loads(json.dumps(space.function(trial)))
    return dict(trial.params), settings


class _Near(Independent):
    """Draws a number 0.8 or 1.2 times what it was, a choice next to it, or now and then anew."""

    def __init__(self, params: dict[str, Any], chosen: random.Random | None) -> None:
        self.params = params
        self.chosen = chosen

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        known = param_name in self.params
        if known and self.chosen is None:
            return self.params[param_name]
        chosen = self.chosen or random.Random(param_name)
        if not known or chosen.random() < ANEW:
            anew = RandomSampler(seed=chosen.randrange(2**31))
            return anew.sample_independent(study, trial, param_name, param_distribution)
        return _moved(self.params[param_name], param_distribution, chosen)


def _moved(value: Any, distribution: BaseDistribution, chosen: random.Random) -> Any:
    """Return the value beside this one."""
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        beside = choices.index(value) + chosen.choice((-1, 1))
        return choices[min(max(beside, 0), len(choices) - 1)]
    low, high, step = distribution.low, distribution.high, distribution.step  # type: ignore[attr-defined]
    moved = value * chosen.choice(FACTORS)
    if step is not None:
        moved = low + round((moved - low) / step) * step
    return type(value)(min(max(moved, low), high))
