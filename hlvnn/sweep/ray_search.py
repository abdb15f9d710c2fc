"""Ray's OptunaSearch on a journal: each trial of the sweep is one trial of the study, for good."""

from __future__ import annotations

from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.searcher import Searcher

from hlvnn.columns import best_of
from hlvnn.sweep.ending import Ending


class JournaledSearch(OptunaSearch):
    """Ray's OptunaSearch, whose state is its journal: nothing is pickled.

    A trial that was cut short stays open in the study, and goes on there when the sweep does.
    """

    ending: Ending
    open_trials: list[int]

    def take_up(self, ending: Ending, open_trials: list[int]) -> None:
        """Go on with these Optuna trials (their ids) before any new one is drawn."""
        self.ending = ending
        self.open_trials = open_trials

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.ending.is_winding_down:
            return Searcher.FINISHED  # type: ignore[return-value]  # as its base class says it may
        if self.open_trials and trial_id not in self._ot_trials:
            self._ot_trials[trial_id] = optuna.Trial(self._study, self.open_trials.pop(0))
        return super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        epoch = int(result["epoch"])
        trial = self._ot_trials[trial_id]._trial_id
        if epoch not in self._study._storage.get_trial(trial).intermediate_values:
            super().on_trial_result(trial_id, {**result, "training_iteration": epoch})

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if trial_id in self.ending.cut:
            return
        metrics = self.metric if isinstance(self.metric, list) else [self.metric]
        if result:  # the study holds the chosen epoch's values, as all tables do
            chosen = {metric: result[best_of(metric)] for metric in metrics}
            result = {**result, **chosen}
        super().on_trial_complete(trial_id, result, error)

    @property
    def _study(self) -> optuna.Study:
        study = self._ot_study
        assert isinstance(study, optuna.Study)
        return study

    def save(self, checkpoint_path: str) -> None:
        """Do nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
