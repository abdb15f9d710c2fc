"""Ray Tune's loop, mended: for the private parts of one version of Ray (see `ray_patch`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController

from hlvnn.errors import ConfigError, NodeError

NODE_ID = "ray.io/node-id"
"""Ray's label of each node."""

LOST_STARTS = 10
"""Times that a trial may be lost before it ran, which do not count as its failures; after as many
something is wrong with the nodes."""


class Controller(TuneController):
    """Ray Tune's loop, which here hears of a loss once, and does not blame a trial that never ran.

    A trial that takes over the process of an earlier one is told so by a task, `reset`. When that
    process is lost just then, Ray is told twice: at first it takes the trial up again; the second
    time, as the trial waits by now, it ends it for good, whatever --max-failures says. It also
    believes that the reset goes on, and would never start the trial.

    A draw that cannot be valid (`ConfigError`) is not tried again.
    """

    known: Exception | None = None
    """The loss that it was told of last."""
    lost_starts: Counter[str]
    """How often each trial was lost before it ran, by Ray's id."""
    bad_nodes: set[str]
    """Ray's ids of the nodes that are not as they must be."""

    def __init__(self, *args: Any, **named: Any) -> None:
        self.lost_starts = Counter()
        self.bad_nodes = set()
        super().__init__(*args, **named)

    def _process_trial_failure(self, trial: Any, exception: Any) -> None:
        if exception is self.known:
            return
        self.known = exception
        if isinstance(exception, RayActorError) and self._is_yet_to_run(trial):
            self._resetting_trials.discard(trial)
            self.lost_starts[trial.trial_id] += 1
            if self.lost_starts[trial.trial_id] <= LOST_STARTS and not exception.preempted:
                trial.run_metadata.num_failures -= 1  # Ray is about to count it
        if isinstance(exception, RayTaskError) and isinstance(exception.cause, ConfigError):
            trial.run_metadata.num_failures = trial.max_failures  # it could only fail again
        cause = exception.cause if isinstance(exception, RayTaskError) else None
        if isinstance(cause, NodeError) and self._avoid(cause.node_id, trial):
            trial.run_metadata.num_failures -= 1  # Ray is about to count it
            self._place(trial)
        super()._process_trial_failure(trial, exception)

    def add_trial(self, trial: Any) -> None:
        if not self.bad_nodes:
            super().add_trial(trial)
            return
        trial.create_placement_group_factory()
        self._place(trial)
        trial.create_placement_group_factory = lambda: None  # Ray is about to make it anew
        try:
            super().add_trial(trial)
        finally:
            del trial.create_placement_group_factory

    def _avoid(self, node_id: str, trial: Any) -> bool:
        """Give no trial to a node any more; return False where no other one could run this one."""
        bad = {*self.bad_nodes, node_id}
        asked = trial.placement_group_factory.required_resources
        rest = [
            node
            for node in ray.nodes()
            if node["Alive"] and node["NodeID"] not in bad
            if all(node["Resources"].get(what, 0) >= size for what, size in asked.items())
        ]
        if rest:
            self.bad_nodes = bad
        return bool(rest)

    def _place(self, trial: Any) -> None:
        """Have a trial, when it is started next, keep away from the nodes that are at fault."""
        before = trial.placement_group_factory
        away = [{NODE_ID: f"!in({','.join(sorted(self.bad_nodes))})"}]
        trial.placement_group_factory = PlacementGroupFactory(
            before.bundles, before.strategy, bundle_label_selector=away
        )

    def _is_yet_to_run(self, trial: Any) -> bool:
        if trial in self._resetting_trials:
            return True
        actor = self._trial_to_actor.get(trial)  # of one that ran it is forgotten by now
        return actor is not None and actor not in self._started_actors
