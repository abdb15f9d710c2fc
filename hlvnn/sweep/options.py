"""The flags of `tune_search.py`, and which of them a resumed sweep may change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro
from pydantic import BeforeValidator, Field, create_model, field_validator

from hlvnn.config import PLACES, Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from hlvnn.errors import ConfigError
from hlvnn.records.outcomes import Status
from hlvnn.records.schedulers import ASHA, SCHEDULERS, Halving, Scheduler, users_of
from hlvnn.records.searchers import SEARCHERS, TPE, Searcher
from hlvnn.storage import Place
from hlvnn.words import text

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
RETRIED = (Status.FAILED,)
"""How a trial may have ended that --retry tries again: no searcher was told anything of it."""
CHANGEABLE = {
    *("num_trials", "cpus_per_trial", "gpus_per_trial", "gpu_memory", "max_concurrent"),
    *("time_budget", "address", "max_failures", "trial_timeout", "storage_patience"),
    *(
        "retry",
        "max_failed_trials",
        "resume",
        "or_resume",
        "extend",
        "dry_run",
        "keep_checkpoints",
        "pooled_reference",
        "report",
        "metrics_port",
        "mlflow",
        "wandb",
    ),
}
"""What may be said anew when a sweep is resumed; anything else would change its meaning."""


NOT_FIXED = ("latents", "select_on", "select_mode", "fast")
"""Settings that a search space alone says: the first by a text form with spaces, the next two by
its METRIC and MODE; and the last, which is of a single run."""


def seconds(value: object) -> object:
    """Read a length of time: 90, 90s, 30m, 8h, 2d or several of them, 1h30m."""
    if isinstance(value, int | float) or value is None:
        return value
    number = r"(\d+\.?\d*|\.\d+)"
    told = "".join(str(value).split())
    if not re.fullmatch(rf"{number}|({number}[smhd])+", told):
        raise ValueError(f"expected a time such as 90s, 30m, 8h, 2d or 1h30m, got {value!r}")
    return sum(float(size) * UNITS[unit] for size, unit in re.findall(rf"{number}([smhd]?)", told))


def _read_seconds(words: list[str]) -> float:
    value = seconds(words[0])
    assert isinstance(value, float)
    return value


Seconds = Annotated[
    float,
    BeforeValidator(seconds),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="TIME",
        instance_from_str=_read_seconds,
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [f"{value:g}s"],
    ),
]


def _or_none(annotation: Any) -> Any:
    return annotation | None


def _optional_settings() -> type[Config]:
    """Return a model of a run's settings in which each may be left out: made from `RunConfig`'s."""
    fields: dict[str, Any] = {
        name: (_or_none(field.annotation), Field(None, description=field.description))
        for part in (DataConfig, ModelConfig, TrainConfig)
        for name, field in part.model_fields.items()
        if name not in NOT_FIXED
    }
    return create_model("Fixed", __base__=Config, **fields)


if TYPE_CHECKING:

    class Fixed(Config):
        """Settings of a run, each of which may be left out."""

    SearcherName: TypeAlias = str
    SchedulerName: TypeAlias = str
    RetryName: TypeAlias = str
else:
    Fixed = _optional_settings()
    SearcherName = Literal[tuple(SEARCHERS)]
    SchedulerName = Literal[tuple(SCHEDULERS)]
    RetryName = Literal[tuple(str(status) for status in RETRIED)]


def _sentences(known: Mapping[str, Searcher] | Mapping[str, Scheduler]) -> str:
    return "; ".join(f"{one.name} {one.sentence}" for one in known.values())


class SweepConfig(Config):
    """Search a space: many trials, spread over this machine or a cluster.

    Examples: `python tune_search.py digits`, `python tune_search.py digits --dry-run`,
    `python tune_search.py femnist --num-trials 200 --gpus-per-trial 0.25 --address auto`,
    `python tune_search.py --resume results/digits/SWEEP`.
    """

    space: Annotated[str | None, tyro.conf.Positional] = None
    """Search space: a file of search_spaces/, without .py. It may set defaults for these flags."""
    name: str | None = None
    """Name of the sweep's folder, RESULTS_DIR/DATASET/NAME; none given = the space and the time."""
    num_trials: int = Field(20, gt=0)
    """Trials in all; with --resume it may be raised."""
    cpus_per_trial: float = Field(1.0, gt=0)
    """CPUs (and threads) a trial."""
    gpus_per_trial: float | Literal["auto"] = 0.0
    """GPUs a trial; 0.25 lets four trials share one, and gives each a quarter of its memory; auto
    trains the largest draws for a few steps and proposes how many trials fit."""
    gpu_memory: float | None = Field(None, gt=0)
    """With --gpus-per-trial auto: GiB of memory of each GPU; none given = what the GPU says."""
    max_concurrent: int | None = Field(None, gt=0)
    """Trials at a time; none given = as many as the CPUs and GPUs allow, also those of nodes that
    join later. On a cluster without any yet it must be given: trials then wait for the nodes."""
    time_budget: Seconds | None = Field(None, gt=0)
    """Stop so long (90s, 30m, 8h, 2d, 1h30m) after the first trial began; --resume then goes on."""
    seed: int = Field(0, ge=0)
    """Seed of the draws; trial 7's own seed is this plus 7."""
    searcher: SearcherName = Field(
        TPE.name, description=f"What proposes the trials: {_sentences(SEARCHERS)}."
    )
    scheduler: SchedulerName = Field(
        ASHA.name, description=f"What ends trials early: {_sentences(SCHEDULERS)}."
    )
    grace_period: int = Field(
        1,
        gt=0,
        description=f"{users_of('grace_period')}: epochs that every trial gets before it may be "
        "stopped.",
    )
    reduction_factor: float = Field(
        3.0,
        gt=1,
        description=f"{users_of('reduction_factor')}: at each rung about one trial in this many "
        "goes on, and rungs lie this factor apart.",
    )
    perturb_every: int = Field(
        4,
        gt=0,
        description=f"{users_of('perturb_every')}: epochs between rounds, in each of which the "
        "worst quarter of all trials takes over the best quarter.",
    )
    max_failures: int = Field(1, ge=0)
    """Times a failed trial (its node was lost, say) goes on from its checkpoint before it has
    finished a further epoch."""
    max_failed_trials: int | None = Field(None, ge=0)
    """End the sweep when more trials than this have failed; none given = never."""
    trial_timeout: Seconds | None = Field(None, gt=0)
    """End a trial that has not finished an epoch for this long (its process hangs)."""
    storage_patience: Seconds = Field(300.0, ge=0)
    """Wait this long for storage that fails (a full disk, an outage) before giving up."""
    address: str | None = None
    """Ray cluster to join (auto, or HOST:PORT); none given = start Ray on this machine."""
    storage: Place | None = None
    """Root of the sweep's folder in place of --results-dir: a folder or an address that every node
    can reach."""
    results_dir: Place = str(RunConfig.model_fields["results_dir"].default)
    """Root of the results: a folder, or an address (s3://bucket/dir?region=…, gs://, file://)."""
    description: str = ""
    """A line for whoever reads the results."""
    mlflow: str | None = None
    """Tell each trial's settings and metrics to MLflow as well: its server's address."""
    wandb: str | None = None
    """Tell each trial to Weights & Biases as well: the project's name."""
    pooled_reference: bool = True
    """When all trials have ended and the best has latents, train its settings without latents, and
    those of the best trial without, for as many epochs as it has: what it is compared with in the
    report. Kept out of ranking and study, and spared by --keep-checkpoints. With --extend they are
    trained anew where the best trial is another; when the time budget is over or at Ctrl-C they
    wait for --resume."""
    report: bool = True
    """Write report.html into the sweep's folder when it ends (needs hlvnn[analysis])."""
    metrics_port: int | None = Field(None, gt=0, lt=65536)
    """Tell Prometheus how the sweep gets on: a port of 127.0.0.1, http://127.0.0.1:PORT/metrics."""
    resume: Place | None = None
    """Folder or address of a sweep to go on with: unfinished trials continue, finished ones are
    kept."""
    or_resume: bool = False
    """With --name: go on with the sweep of that name where there is one, begin it where there is
    none, so that one command serves a scheduler that tries again."""
    retry: RetryName | None = None
    """With --resume: trials that are tried again, once the cause is gone; each goes on from its
    checkpoint, or begins again."""
    extend: Place | None = None
    """Folder or address of a finished sweep to add --num-trials further trials to; those that it
    has inform the search."""
    warm_start: Place | None = None
    """Folder or address of another sweep to learn from: its trials count as if they had ended
    here."""
    keep_checkpoints: int | None = Field(None, ge=0)
    """When all trials have ended, delete the weights (checkpoint.pt, the one before it, best.pt) of
    all but the best so many; none given = keep all. No other file is ever deleted."""
    dry_run: bool = False
    """Check space, data, models and metrics, and print what would be run (configurations,
    resources, time it may take); start nothing."""
    fixed: Fixed = Fixed()
    """Settings fixed for every trial, over those of the space's BASE, which hold where None is."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _at_most_one(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, str):
            return gpus
        if gpus < 0:
            raise ValueError(f"a trial cannot have {gpus:g} GPUs")
        if gpus > 1:
            raise ValueError(
                f"a trial trains on one GPU, and {gpus:g} would leave the others idle; give 1, a "
                "fraction (0.25: four trials share one), or auto"
            )
        return gpus

    @property
    def gpus(self) -> float:
        """GPUs a trial; a whole one before it is known what `auto` comes to."""
        return 1.0 if self.gpus_per_trial == "auto" else self.gpus_per_trial

    def halving(self, max_epochs: int) -> Halving:
        """What rungs follow from, where the longest trial has so many epochs."""
        return Halving(max_epochs, self.grace_period, self.reduction_factor)

    @property
    def fixed_settings(self) -> dict[str, Any]:
        """The settings that were fixed on the command line."""
        return self.fixed.model_dump(mode="json", exclude_none=True)

    @property
    def root(self) -> str:
        """The folder, or its address, that the results of every data set are under."""
        return self.storage if self.storage is not None else self.results_dir


def _told(options: SweepConfig) -> dict[str, Any]:
    """Return every flag's value by its name: the options, and the settings that are fixed."""
    whole = options.model_dump(exclude={"fixed"}, exclude_none=True)
    return whole | options.fixed_settings


def check_changes(before: SweepConfig, now: SweepConfig) -> None:
    """Raise `ConfigError` for an option that differs and may not when a sweep is resumed."""
    was, given = (_told(one) for one in (before, now))
    changed = [
        f"--{name.replace('_', '-')} (was {text(was.get(name))}, got {text(given.get(name))})"
        for name in {**was, **given}
        if was.get(name) != given.get(name) and name not in {*CHANGEABLE, *PLACES}
    ]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change when a sweep is resumed; leave it out, or start a "
            "new sweep"
        )
    if now.num_trials < before.num_trials:
        raise ConfigError(
            f"--num-trials {now.num_trials}: the sweep has {before.num_trials} trials already; it "
            "can only be raised"
        )
