"""Experiment trackers that are told of each trial by Ray's own callbacks: MLflow, Weights & Biases.

They hold copies. A tracker that fails is warned of once and told no more; the sweep goes on.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from ray.tune import Callback
from ray.tune.logger import LoggerCallback

from hlvnn.errors import ConfigError
from hlvnn.sweep.options import SweepConfig

logger = logging.getLogger("hlvnn")

PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}
"""The option of each tracker, and the package that it needs."""


def check(options: SweepConfig) -> None:
    """Raise `ConfigError` where a tracker is asked for whose package is missing."""
    for option, package in PACKAGES.items():
        if getattr(options, option) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--{option} needs the package {package}, which is not installed; "
                f"pip install {package}, or leave the option out"
            )


def trackers(options: SweepConfig, sweep: str) -> list[Callback]:
    """Return a callback for each tracker that is asked for.

    sweep: the sweep's name, which is MLflow's experiment and the group in Weights & Biases.
    """
    chosen: list[Callback] = []
    if options.mlflow:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        tags = {"description": options.description} if options.description else None
        mlflow = MLflowLoggerCallback(options.mlflow, experiment_name=sweep, tags=tags)
        chosen.append(Tracker("MLflow", mlflow))
    if options.wandb:
        from ray.air.integrations.wandb import WandbLoggerCallback

        wandb = WandbLoggerCallback(options.wandb, group=sweep, notes=options.description or None)
        chosen.append(Tracker("Weights & Biases", wandb))
    return chosen


class Tracker(Callback):
    """One tracker's callback, kept from ending the sweep."""

    def __init__(self, name: str, told: LoggerCallback) -> None:
        self.name = name
        self.told = told
        self.works = True

    def setup(self, *args: Any, **info: Any) -> None:
        self._tell("setup", *args, **info)

    def on_trial_start(self, *args: Any, **info: Any) -> None:
        self._tell("on_trial_start", *args, **info)

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        self._tell("on_trial_result", *args, **info)

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        self._tell("on_trial_complete", *args, **info)

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        self._tell("on_trial_error", *args, **info)

    def on_experiment_end(self, *args: Any, **info: Any) -> None:
        self._tell("on_experiment_end", *args, **info)

    def _tell(self, event: str, *args: Any, **info: Any) -> None:
        if not self.works:
            return
        try:
            getattr(self.told, event)(*args, **info)
        except Exception as error:  # noqa: BLE001  (whatever a tracker's client may raise)
            self.works = False
            first = str(error).splitlines()[0] if str(error) else ""
            logger.warning(
                "%s is told no more of this sweep, which goes on: %s: %s",
                *(self.name, type(error).__name__, first),
            )
