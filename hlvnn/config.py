"""The configuration: frozen, strict models with their defaults, and nothing that builds.

Every setting of the project is a field here, once. The command lines are generated from these
classes and `hyperparams.json` is their dump. A configuration never enters a module:
`hlvnn.models.build` unpacks it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, field_validator

from hlvnn import errors
from hlvnn.files import NAME_BYTES
from hlvnn.gone import GONE, refusal, without_gone
from hlvnn.latent_config import EntryConfig, LatentConfig, latent_text
from hlvnn.storage import Place
from hlvnn.strict import Config, known_member, validated
from hlvnn.train_config import TrainConfig as TrainConfig

__all__ = [
    "Config",
    "DataConfig",
    "EntryConfig",
    "LatentConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "flat_settings",
    "flatten",
    "latent_text",
    "run_config",
    "validated",
]


def _latents_from_words(words: list[str]) -> tuple[LatentConfig, ...]:
    try:
        return tuple(LatentConfig.from_text(word) for word in words)
    except errors.ConfigError as error:
        raise ValueError(str(error)) from error


LatentList = Annotated[
    tuple[LatentConfig, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="'PLACEMENT@STAGE level=LEVEL …'",
        instance_from_str=_latents_from_words,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [latent_text(latent) for latent in value],
    ),
]


class DataConfig(Config):
    """Which data, and how they are split."""

    dataset: str = ""
    """Data set: a source (digits, shakespeare, table) or a folder of arrays below --data-dir."""
    data_size: Literal["small", "large"] = "small"
    """Which of the two sizes of the data set."""
    data_dir: Path = Path("data")
    """Root of the folders of arrays: DATA_DIR/DATASET/{small,large}/x_train.npy …"""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of each group's training rows set aside to select on; 0 trains on all of them. Of the
    groups too small for a row of their own, one in so many gives one."""
    stratify: bool = False
    """Let each class have its share of the validation rows, over all rows and, where they have rows
    enough, in each group; what cannot be had is said. Test rows stay as they are."""
    split: Literal["groups", "rows"] = "groups"
    """How validation and test rows are chosen: inside each group, or at random among all rows, so
    that some are of new groups (with --unseen prior)."""
    unseen: Literal["error", "prior"] = "error"
    """Test rows of a group without training rows: refuse them, or integrate the prior."""
    hold_out: float = Field(0.0, ge=0, lt=1)
    """Share of the lowest level's groups held out whole, as new groups: they become test rows."""
    split_seed: int = 0
    """Seed of every random split."""
    table: Path | None = None
    """CSV or Parquet file of the data set `table`."""
    target: str | None = None
    """Target column of the table."""
    trials: str | None = None
    """Column of the table with the number of trials; the target counts the successes."""
    features: tuple[str, ...] = ()
    """Feature columns of the table; none given = all but target, trials and groups."""
    groups: tuple[str, ...] = ()
    """Group columns of the table, lowest level first."""
    test_fraction: float | None = Field(None, ge=0, lt=1)
    """Share of each group's rows kept for testing, where the data bring no test rows of their own;
    None takes the data set's own share: a fifth, of shakespeare a tenth."""
    target_kind: Literal["class", "real", "count"] | None = None
    """What the table's target is; None tells it from its values, and says so."""
    categories: tuple[str, ...] = ()
    """Feature columns of the table that are categories, whatever they look like."""
    dates: tuple[str, ...] = ()
    """Feature columns of the table that are dates: they become days since 1970."""
    sep: str | None = None
    """What parts the columns of a CSV file; None: a comma, in a .tsv file a tab."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of a CSV file's numbers."""
    encoding: str = "utf-8"
    """Encoding of a CSV file."""
    group_table: Path | None = None
    """CSV or Parquet file that says what groups are like (site, age, anything), a row per group, to
    read results by: nothing is trained on it. The column that is called as a group level holds the
    labels, the others are attributes; with several levels it is the lowest that has a column, or
    columns called level and label say which group each row is."""
    x_kind: Literal["image", "channels-last", "tokens", "features"] | None = None
    """What x of a folder of arrays is: images [N, H, W] or [N, C, H, W], images [N, H, W, C], rows
    of tokens, or features; None tells it from shape and type, and says so."""
    only_groups: tuple[str, ...] = ()
    """Only rows of these groups, by their labels (LEVEL=LABEL where two levels have it), in
    training, validation and test; none given = all."""
    limit_rows: int | None = Field(None, gt=0)
    """Train on so many rows, drawn at random by --split-seed and spread over groups as all are;
    validation and test rows stay, but for groups left without training rows. None takes all."""
    overfit: int | None = Field(None, gt=0)
    """So many rows, drawn like --limit-rows, are training, validation and test rows at once, always
    in the same order: a model that can learn anything fits them."""

    @field_validator("dataset")
    @classmethod
    def _a_plain_name(cls, name: str) -> str:
        if name in (".", "..") or set(name) & {"/", "\\", "\0"}:
            raise ValueError("expected a plain name, not a path (--data-dir moves the root)")
        if len(name.encode()) > NAME_BYTES:
            raise ValueError(f"expected the name of a folder, of at most {NAME_BYTES} bytes")
        return name

    @property
    def title(self) -> str:
        """The name that results are filed under."""
        return self.table.name.split(".")[0] if self.table is not None else self.dataset

    @property
    def place(self) -> str:
        """Where the data are, in words."""
        return str(self.table) if self.table is not None else f"{self.dataset} in {self.data_dir}"


class ModelConfig(Config):
    """The network, its latents and its likelihood."""

    backbone: str | None = None
    """Backbone: cnn, lstm, mlp, linear; None takes the one made for the data."""
    model_size: Literal["small", "large"] = "small"
    """Which of the backbone's two sizes."""
    likelihood: str | None = None
    """Likelihood of y: categorical, bernoulli, binomial, gaussian, poisson; None takes the one made
    for the target."""
    latent_config: tuple[str, ...] = ("none",)
    """Names of latent structures, made for each group level; several are added together."""
    z_dim: tuple[int, ...] = (10,)
    """Latent widths: one for all, or one per latent (place by place, lowest level first)."""
    posterior: str | None = None
    """Posterior of the latents named by --latent-config. None takes the exact law of a linear
    gaussian model with latents at its output under --prior learned or learned_full; elsewhere
    full_rank for slopes under learned_full (--latent-config weights), and mean_field."""
    prior: str | None = None
    """Prior of the latents named by --latent-config; None takes learned, and standard for a
    point."""
    latents: LatentList = ()
    """Latents written out, beside or instead of the named ones."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability around the hidden layers."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation of the hidden stages' pre-activations."""
    skip: bool = False
    """Let an MLP's output stage see the columns beside the last hidden layer: a linear part, with
    slopes by group where `weights@output:columns=…` enters."""
    hidden: tuple[int, ...] | None = None
    """Widths of the dense hidden layers, in place of the size's own."""
    channels: tuple[int, ...] | None = None
    """Channels of the CNN's two convolutions, in place of the size's own."""
    kernel_size: int | None = Field(None, gt=0)
    """Side of the CNN's kernels, in place of the size's own."""
    embedding: int | None = Field(None, gt=0)
    """Width of the LSTM's character embedding, in place of the size's own."""
    lstm: tuple[int, ...] | None = None
    """Widths of the two LSTM layers, in place of the size's own."""

    @field_validator("latent_config", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        parts = (value,) if isinstance(value, str) else value
        if isinstance(parts, list | tuple) and all(isinstance(part, str) for part in parts):
            return tuple(name for part in parts for name in part.split("+"))
        return value

    @field_validator("z_dim", mode="before")
    @classmethod
    def _one_width(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("z_dim")
    @classmethod
    def _positive_widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("every latent width must be at least 1")
        return value

    @field_validator("latents", mode="before")
    @classmethod
    def _read_text_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            return tuple(_latents_from_words([v])[0] if isinstance(v, str) else v for v in value)
        return value

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str | None) -> str | None:
        return known_member("backbones", "backbone", name)

    @field_validator("likelihood")
    @classmethod
    def _known_likelihood(cls, name: str | None) -> str | None:
        return known_member("likelihoods", "likelihood", name)

    @field_validator("posterior")
    @classmethod
    def _known_posterior(cls, name: str | None) -> str | None:
        return known_member("latents.posteriors", "posterior", name)

    @field_validator("prior")
    @classmethod
    def _known_prior(cls, name: str | None) -> str | None:
        if name == "nested":
            raise ValueError(
                "a nested prior needs to know its parent; write the latents out: "
                "--latents '- level=UPPER width=N prior=learned' "
                "'PLACEMENT@STAGE level=LOWER prior=nested parent=UPPER'"
            )
        return known_member("latents.priors", "prior", name)


class RunConfig(Config):
    """One training run, complete: what `hyperparams.json` holds and what repeats the run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    seed: int = 0
    """Seed of the initial weights, the order of rows and the draws of z."""
    from_weights: Place | None = None
    """Folder or address of a run whose chosen epoch's weights this one begins with, where they fit
    by name and shape; posteriors by their groups' labels. What does not fit begins as ever, and is
    told."""
    description: str = ""
    """A line for whoever reads the results."""
    testing: bool = False
    """File the run under RESULTS_DIR/tests instead of RESULTS_DIR/DATASET."""
    results_dir: Path = Path("results")
    """Root of the results."""


def flat_settings() -> dict[str, str]:
    """Return every setting's flat name -> the part of `RunConfig` it is in ("" = RunConfig)."""
    parts: dict[str, type[Config]] = {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
    }
    flat = {name: part for part, cls in parts.items() for name in cls.model_fields}
    return flat | {name: "" for name in RunConfig.model_fields if name not in parts}


def in_todays_terms(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run's record, whatever state of the program wrote it.

    Settings that are gone are left out (`hlvnn.gone`). In older records test_fraction, of which
    only tables took notice, becomes the data set's own.
    """
    settings = without_gone(settings)
    if "target_kind" in settings or settings.get("table") is not None:
        return settings
    return {name: value for name, value in settings.items() if name != "test_fraction"}


OLD_POSTERIOR = "mean_field"
"""What a latent's posterior was where none was said, before that depended on its prior."""


def with_posteriors(settings: dict[str, Any]) -> dict[str, Any]:
    """Return flat settings to compare with older ones: a posterior not said is `OLD_POSTERIOR`."""
    latents = [
        latent | {"posterior": latent["posterior"] or OLD_POSTERIOR}
        for latent in settings["latents"]
    ]
    return settings | {"posterior": settings["posterior"] or OLD_POSTERIOR, "latents": latents}


def run_config(settings: dict[str, Any], where: str) -> RunConfig:
    """Build a `RunConfig` from flat settings (the flags' names with underscores).

    Raises `ConfigError`, naming `where`, for an unknown setting or a value that is not allowed.
    """
    known = flat_settings()
    nested: dict[str, Any] = {"data": {}, "model": {}, "train": {}}
    for name, value in settings.items():
        if name in GONE:
            raise errors.ConfigError(f"{where}: {refusal(name)}")
        if name not in known:
            raise errors.ConfigError(f"{where}: {errors.unknown('setting', name, known)}")
        (nested[known[name]] if known[name] else nested)[name] = value
    return validated(RunConfig, nested, where)


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return a run's settings as one flat, JSON-ready dict (the inverse of `run_config`)."""
    dump = json.loads(config.model_dump_json())
    flat = {
        name: value for part in ("data", "model", "train") for name, value in dump.pop(part).items()
    }
    return flat | dump


DATA_PLACES = ("data_dir", "table")
"""Settings that say where data are. They may move; what they are is known by their hash."""
PLACES = (*DATA_PLACES, "group_table")
"""Settings that say where files are, that of what groups are like among them: nothing that is
computed depends on them."""
DATA_PARTS = ("only_groups", "limit_rows", "overfit")
"""Settings that take a part of the data, as it was loaded and split."""
NOT_REPEATED = (
    *("results_dir", "testing", "debug", "print_freq", "tensorboard", "keep_predictions"),
    *("grad_norms", "profile"),
)
"""Settings that say what is shown and where it goes: no part of how to repeat a run."""


def in_place(config: RunConfig, places: Mapping[str, Path | None]) -> RunConfig:
    """Return a run's settings with its data where they are now: `DATA_PLACES`; None = as it was."""
    moved = {name: place for name, place in places.items() if place is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=moved)})


def repeated(config: RunConfig) -> RunConfig:
    """Return what repeats a run: its settings but those of `NOT_REPEATED`, which are as usual."""
    usual = RunConfig()
    own = {name: getattr(usual, name) for name in NOT_REPEATED if name in RunConfig.model_fields}
    shown = {name: getattr(usual.train, name) for name in NOT_REPEATED if name not in own}
    return config.model_copy(update={**own, "train": config.train.model_copy(update=shown)})


def command_line(config: RunConfig) -> str:
    """Return the flags of `train_one.py` that make this configuration from the defaults."""
    default = RunConfig()
    words: list[str] = []
    for name, part in flat_settings().items():
        value, usual = (getattr(c, part) if part else c for c in (config, default))
        value, usual = getattr(value, name), getattr(usual, name)
        if value == usual or name in NOT_REPEATED:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if name == "latents":
            words += [latent_text(latent) for latent in value]
        elif isinstance(value, tuple):
            words += [str(item) for item in value]
        elif not isinstance(value, bool):
            words.append(str(value))
    return shlex.join(words)
