"""The columns of the tables that runs and sweeps leave: each name once, and how names are made.

A column of two words or more is written here and nowhere else (`tests/test_literals.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)
"""The splits of a data set, as tables and column names call them."""
SCORED = (VAL, TEST)
"""Those that an evaluated epoch scores."""

EPOCH = "epoch"
"""Number of the epoch, from 1."""
SECONDS = "seconds"
"""Seconds of training and evaluation."""
EXACT = "exact"
"""1 where the model was fitted all at once, to its maximum; absent elsewhere."""
DIVERGED = "diverged"
"""1 where the loss was no longer a number, else 0."""
ROWS_PER_SECOND = "rows_per_second"
"""Training rows a second."""
GPU_PERCENT = "gpu_percent"
"""Per cent of the time in which the GPU was busy."""
TRAIN_NLL = "train_nll"
"""Mean of −log p(y | x, z) over the epoch's training rows."""
GROUP_MEAN = "group_mean"
"""Mean over the lowest level's groups of their accuracy, or mean squared error."""
GROUP_P10 = "group_p10"
"""The tenth percentile of the groups, from the weak end."""
GROUP_P90 = "group_p90"
"""The ninetieth percentile of the groups, from the weak end."""
GROUP_WORST = "group_worst"
"""The weakest group."""
BEST_EPOCH = "best_epoch"
"""The chosen epoch: the one with the best validation metric (`hlvnn.selection`)."""
DATA_HASH = "data_hash"
"""Digest of the data that a run was trained on."""
RAN_ON = "ran_on"
"""Device that a trial was trained on: cpu, or the name of a GPU."""
STOPPED_EARLY = "stopped_early"
"""Whether a run was ended by its own --patience."""
ELBO_ERROR = "elbo_error"
"""Standard error of the final ELBO, 0 where it is exact."""
PRIOR_SD = "prior_sd"
"""SD of a latent's coordinate under its prior."""
WORST_DECILE = "worst_decile"
"""Mean of the weakest tenth of groups."""


AUC, AP, BACC = "auc", "ap", "bacc"
TWO_CLASSES = (AUC, AP, BACC)
"""Measures of targets with two classes, which rows of one class alone do not have."""


@dataclass(frozen=True)
class Measure:
    """What is measured of rows: its name in words, what it is, and its unit."""

    title: str
    meaning: str
    unit: str


MEASURES = {
    "acc": Measure("accuracy", "share of the rows that are predicted rightly", "share"),
    "f1": Measure("F1", "F1 of the predicted classes, mean over classes", "share"),
    AUC: Measure(
        "AUC",
        "of two classes: probability that a row of class 1 gets the higher score than one of class "
        "0; none where all rows are of one class",
        "share",
    ),
    AP: Measure(
        "average precision",
        "of two classes: precision, averaged over the recall of class 1; none where all rows are "
        "of one class",
        "share",
    ),
    BACC: Measure(
        "balanced accuracy",
        "of two classes: mean of the shares of each class that are predicted rightly; none where "
        "all rows are of one class",
        "share",
    ),
    "mse": Measure("mean squared error", "mean squared error", "target's unit, squared"),
    "loss": Measure("nats a row", "−log of the predictive probability (density) of y", "nats/row"),
    "nll": Measure("nats a row", "mean of −log p(y | x, z)", "nats/row"),
}
"""What is measured of rows, by the end of its column's name."""


@dataclass(frozen=True)
class Told:
    """What a column holds, and in which unit ("" where it has none)."""

    meaning: str
    unit: str = ""


GRADIENTS = ("grad_network", "grad_loadings", "grad_posteriors", "grad_priors")
"""Norms of the gradients of the network, of what z passes on its way into it, of the posteriors and
of the priors (with the likelihood's own parameters), on average over an epoch's steps
(--grad-norms)."""
STEP_SIZE = "step_size"
"""How far a step takes the network's weights, as a share of their norm, on average over an epoch
(--grad-norms)."""
OTHERS = {
    "trial": Told("number of the trial in its sweep, from 0; −1, −2, … are pooled references"),
    "epochs": Told("epoch that was evaluated last"),
    "folder": Told("the trial's folder; none where it never began, or is gone"),
    "name": Told("name of its folder"),
    "structure": Told("its latents as they are typed; none = without latents, the pooled model"),
    "pooled": Told("whether it has no latents"),
    "model": Told("name of the model"),
    "parameters": Told("number of the network's and the latents' parameters"),
    "started": Told("when it began", "UTC"),
    "pareto": Told("of several objectives: whether no trial is as good in all and better in one"),
    "elbo": Told("running estimate of the ELBO in the epoch, over all training rows", "nats"),
    "lr": Told("learning rate at the epoch's end"),
    "kl_weight": Told("weight of the KL, β, at the epoch's end"),
    "level": Told("group level"),
    "gid": Told("number of the group in its level, from 0"),
    "label": Told("what the group is called in the data"),
    "split": Told("val or test"),
    "n": Told("rows of the group in the split", "rows"),
    "rows": Told("training rows of the group", "rows"),
    "row": Told("place of the row in its split, from 0"),
    "y": Told("the target: a class's index, or a value", "target's unit"),
    "prediction": Told("what was predicted: a class's index, or a value", "target's unit"),
    "log_prob": Told("log of the predictive probability (density) of y", "nats"),
}
"""Columns of tables that no constant here names."""
OF_EFFECTS = {
    "value": Told("value of the setting"),
    "trials": Told("trials with it that are compared"),
    "n": Told("rows of the group that were scored, in all splits", "rows"),
    "raw": Told("gain as measured, mean over the trials of the value", "measure's unit"),
    "gain": Told(
        "true gain over the reference, positive is better: of the setting its mean over groups, of "
        "a group shrunk to that mean",
        "measure's unit",
    ),
    "error": Told("standard error of the mean gain, over groups and over trials", "measure's unit"),
    "low": Told("lower end of the gain's interval of 95 %", "measure's unit"),
    "high": Told("upper end of the gain's interval of 95 %", "measure's unit"),
    "sd": Told("SD of the groups' true gains", "measure's unit"),
    "sd_low": Told("lower end of its interval of 95 %, 0 where it may be none", "measure's unit"),
    "sd_high": Told("upper end of its interval of 95 %", "measure's unit"),
}
"""Columns of `groups.effects`."""
UNITS = {
    SECONDS: "s",
    ROWS_PER_SECOND: "rows/s",
    GPU_PERCENT: "%",
    TRAIN_NLL: "nats/row",
    ELBO_ERROR: "nats",
    "wall_seconds": "s",
}
"""Units of columns whose constant or field says what they mean."""

KNOWN = "known_"
"""What a measure of the rows of groups with training rows begins with, where a split has others."""
NEW = "new_"
"""What a measure of the rows of groups without training rows begins with."""
KL = "kl_"
"""What the column of a latent's KL begins with; see `kl`."""
BEST = "best_"
"""What a metric at the epoch with the best validation metric begins with."""
FINAL = "final_"
"""What a metric at the last epoch begins with."""
PARAMETER = "param_"
"""What a parameter that Optuna drew begins with."""
BETTER_HIGH = ("acc", "f1", *TWO_CLASSES)
"""Measures that are better when they are higher."""
BETTER_LOW = ("loss", "mse", "nll")
"""Measures that are better when they are lower."""
GROUP_MEASURES = (GROUP_MEAN, GROUP_P10, GROUP_P90, GROUP_WORST)
"""What is measured over groups: of their accuracies, or of their mean squared errors."""


def over_groups(measure: str) -> str:
    """Return what a measure of two classes is called as a mean over groups: `group_auc`."""
    return f"group_{measure}"


GROUPS_OF_BOTH = "groups_of_both"
"""How many of the lowest level's groups have rows of both classes; the others have no AUC and the
like, and are left out of the means over groups."""


def of_split(split: str, measure: str) -> str:
    """Return the column of a measure on a split: `val_acc`."""
    return f"{split}_{measure}"


TRAIN_LOSS = of_split(TRAIN, "loss")
"""What was minimised, a row of the epoch: the negative ELBO (or bound) over N."""
VAL_LOSS = of_split(VAL, "loss")
"""−log of the predictive probability (density) of y, mean over validation rows."""
VAL_ACC = of_split(VAL, "acc")
"""Share of the validation rows that are predicted rightly."""
VAL_MSE = of_split(VAL, "mse")
"""Mean squared error of the validation rows."""
TEST_ACC = of_split(TEST, "acc")
"""Share of the test rows that are predicted rightly."""
TEST_AUC = of_split(TEST, AUC)
"""AUC of the test rows, of two classes."""
TEST_MSE = of_split(TEST, "mse")
"""Mean squared error of the test rows."""
VAL_GROUP_P10 = of_split(VAL, GROUP_P10)
"""The tenth percentile of the groups on validation rows."""
VAL_GROUP_WORST = of_split(VAL, GROUP_WORST)
"""The weakest group on validation rows."""


def is_validation(column: object) -> bool:
    """Whether a column is a measure of validation rows, which a sweep may select on."""
    return str(column).startswith(f"{VAL}_")


def measure_of(column: str) -> str:
    """Return what a validation column measures: `val_acc` is acc."""
    return column.removeprefix(f"{VAL}_")


def on_test(column: str) -> str:
    """Return the column of the same measure on test rows, of the training loss the test loss.

    Others stay as they are.
    """
    if column == TRAIN_LOSS:  # what chooses where there are no validation rows
        return of_split(TEST, "loss")
    return of_split(TEST, measure_of(column)) if is_validation(column) else column


def validation_of(columns: Iterable[object]) -> list[str]:
    """Return those columns that are measures of validation rows."""
    return [str(column) for column in columns if is_validation(column)]


def best_of(column: str) -> str:
    """Return the column of trials that holds a metric at the best epoch."""
    return f"{BEST}{column}"


def final_of(column: str) -> str:
    """Return the column of trials that holds a metric at the last epoch."""
    return f"{FINAL}{column}"


def kl(latent: str) -> str:
    """Return the column of metrics.csv with the KL of a latent of this name."""
    return f"{KL}{latent.replace(' ', '_')}"


def level_of(latent: str, levels: Iterable[str]) -> str | None:
    """Return the group level of a latent by its name, which opens with it; None where none does."""
    found = [level for level in levels if latent.startswith(f"{level} ")]
    return max(found, key=len, default=None)
