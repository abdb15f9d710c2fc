"""By what the epoch of a fit is chosen, checked before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hlvnn.columns import TRAIN_LOSS, VAL, VAL_LOSS, measure_of, of_split
from hlvnn.config import TrainConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError, unknown
from hlvnn.inference.predict import measured_names, why_not_measured
from hlvnn.models.model import HierarchicalModel
from hlvnn.selection import MIN, Selection, mode_of


def selection_of(model: HierarchicalModel, data: GroupedDataset, config: TrainConfig) -> Selection:
    """Return what chooses the epoch of a fit: --select-on.

    Without validation rows it is the training loss.
    Raises `ConfigError` for a metric that is not measured, or whose better end is not known.
    """
    metric, flag = config.select_on, f"--select-on {config.select_on}"
    is_loss = metric == VAL_LOSS
    if data.val is None:
        if is_loss:
            return Selection(TRAIN_LOSS, MIN)
        raise ConfigError(
            f"{flag}: the data have no validation rows to select on; set some aside "
            "(--val-fraction 0.1), or leave it out"
        )
    mode = mode_of(metric, model.likelihood.target == "class")
    if config.select_mode != "auto":
        if is_loss and config.select_mode != mode:
            raise ConfigError(f"{flag} --select-mode {config.select_mode}: a loss is better low")
        mode = config.select_mode
    if not is_loss:
        measured = [of_split(VAL, name) for name in measured_names(model, data.val)]
        if metric not in measured:
            if why := why_not_measured(model, data.val, measure_of(metric)):
                raise ConfigError(f"{flag}: {why}")
            raise ConfigError(f"--select-on: {unknown('validation column', metric, measured)}")
    if mode is None:
        raise ConfigError(f"{flag}: say whether it is better high or low: --select-mode max")
    return Selection(metric, mode)


def check_selection(selection: Selection, before: Mapping[str, Any] | None) -> None:
    """Raise `ConfigError` where a checkpoint's epoch is chosen in another way (None: not known)."""
    if before is not None and before != asdict(selection):
        raise ConfigError(
            f"--select-on {selection.metric} ({selection.mode}): the checkpoint's epoch is chosen "
            f"by {before['metric']} ({before['mode']}); go on with that"
        )
