"""The configuration: frozen, strict models with their defaults, and nothing that builds.

Every setting of the project is a field here, once. The command lines are generated from these
classes and `hyperparams.json` is their dump. A configuration never enters a module:
`hlvnn.models.build` unpacks it.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import Field, field_validator, model_validator

from hlvnn import errors
from hlvnn.columns import VAL_LOSS, is_validation
from hlvnn.files import NAME_BYTES
from hlvnn.latent_config import EntryConfig, LatentConfig, latent_text
from hlvnn.strict import Config, known_member, validated

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
    x_kind: Literal["image", "channels-last", "tokens", "features"] | None = None
    """What x of a folder of arrays is: images [N, H, W] or [N, C, H, W], images [N, H, W, C], rows
    of tokens, or features; None tells it from shape and type, and says so."""

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
    posterior: str = "mean_field"
    """Posterior of the latents named by --latent-config."""
    prior: str = "standard"
    """Prior of the latents named by --latent-config."""
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
    def _known_posterior(cls, name: str) -> str | None:
        return known_member("latents.posteriors", "posterior", name)

    @field_validator("prior")
    @classmethod
    def _known_prior(cls, name: str) -> str | None:
        if name == "nested":
            raise ValueError(
                "a nested prior needs to know its parent; write the latents out: "
                "--latents '- level=UPPER width=N prior=learned' "
                "'PLACEMENT@STAGE level=LOWER prior=nested parent=UPPER'"
            )
        return known_member("latents.priors", "prior", name)


class TrainConfig(Config):
    """How the model is fitted."""

    num_epochs: int = Field(10, gt=0)
    """Passes over the training rows."""
    batch_size: int | None = Field(200, gt=0)
    """Rows a step; None takes the whole training set at once."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    objective: Literal["elbo", "iwae"] = "elbo"
    """What is maximised: the evidence lower bound, or the importance-weighted bound of
    --num-samples draws (20 to 50, say) by doubly reparameterised gradients. The latter's batches
    hold whole blocks of groups (a top-level group with all within it; where levels cross,
    everything), about --batch-size rows on average."""
    lr_schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """Shape of the learning rate over the run; cosine and one_cycle decay to zero."""
    latent_lr: float | None = Field(None, gt=0)
    """Learning rate of the groups' posteriors, as a multiple of --lr; None takes 10 for minibatches
    (a group is in few of them; 5 without a prior), and 1 for the whole training set at once or
    where the ELBO has a closed form."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of the backbone's and placements' matrices."""
    augment: float = Field(0.0, ge=0)
    """Strength of random small moves, turns, scalings and slants of training images, anew in each
    batch; 0 leaves them as they are, 1 is moderate."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of a step's gradient; None does not clip."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight β of the KL terms; 1 is the true ELBO."""
    kl_annealing: float = Field(0.0, ge=0)
    """Epochs over which β rises linearly from 0 to --kl-weight."""
    prior_warmup: float = Field(0.1, ge=0, le=1)
    """Share of the run during which learned priors and the noise are held at their start."""
    prior_updates: Literal["gradient", "closed_form"] = "gradient"
    """How learned priors move: with the rest, or after each epoch to their maximum given the
    posteriors (an EM step; steadier with small minibatches)."""
    num_samples: int = Field(1, gt=0)
    """Draws of z a training step, where no closed form serves; for --objective iwae the number of
    importance samples (with 1 its bound is the ELBO)."""
    eval_samples: int = Field(10, gt=0)
    """Draws of z averaged in evaluation and prediction."""
    eval_every: int = Field(1, gt=0)
    """Epochs between evaluations (the last epoch is always evaluated)."""
    checkpoint_every: int = Field(1, gt=0)
    """Evaluated epochs between checkpoints (the last is always kept)."""
    print_freq: int = Field(0, ge=0)
    """Steps between progress lines inside an epoch; 0 prints none."""
    select_on: str = VAL_LOSS
    """Column of metrics.csv that chooses the epoch whose weights (best.pt), rows
    (predictions.parquet) and metrics count, by which --patience waits too; among equals the lower
    validation loss, then the earlier. A sweep's trials have its METRIC."""
    select_mode: Literal["auto", "max", "min"] = "auto"
    """Whether --select-on is better high or low; auto knows it of every measure of ours."""
    keep_predictions: int = Field(200_000, ge=0)
    """Rows a split of which predictions.parquet keeps what was predicted at the chosen epoch; of
    more a random choice, the same in every run on these data; 0 writes none."""
    patience: int | None = Field(None, gt=0)
    """Stop after this many evaluations without a better one by --select-on; None never does."""
    device: str = "auto"
    """cpu, cuda, cuda:0 …; auto takes a GPU where there is one."""
    cuda_graph: Literal["auto", "off"] = "auto"
    """auto: on a GPU, record the training step once and replay it, where its operations are the
    same each time; small networks are several times faster. off: launch each step anew."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of the network's matrix products and convolutions; latents, losses and updates stay float32.
    On a GPU tf32 and bf16 are faster for large networks and do little for small ones."""
    threads: int = Field(1, gt=0)
    """CPU threads of torch during the fit. One suits small networks, and does not suffer when other
    processes share the cores; in a sweep it is --cpus-per-trial unless said otherwise."""
    tensorboard: bool = False
    """Write TensorBoard's event files into the run's folder, the groups as histograms; look with
    tensorboard --logdir results."""
    debug: bool = False
    """Anomaly detection, deterministic kernels, first batch's shapes, errors with tracebacks."""

    @field_validator("select_on")
    @classmethod
    def _of_validation_rows(cls, name: str) -> str:
        if not is_validation(name):
            raise ValueError(
                "only measures of validation rows may choose, such as val_loss or val_acc"
            )
        return name

    @model_validator(mode="after")
    def _bound_as_it_is(self) -> Self:
        if self.objective == "iwae":
            reasons = {
                "kl_weight": (1.0, "a bound on log p(y) counts the prior and q once"),
                "kl_annealing": (0.0, "a bound on log p(y) counts the prior and q once"),
                "prior_updates": ("gradient", "the closed form maximises the ELBO, not the bound"),
            }
            for name, (needed, reason) in reasons.items():
                if getattr(self, name) != needed:
                    flag = f"--{name.replace('_', '-')}"
                    raise ValueError(
                        f"{flag} {getattr(self, name)} does not go with --objective iwae: "
                        f"{reason}; use {flag} {needed}, or --objective elbo"
                    )
        return self


class RunConfig(Config):
    """One training run, complete: what `hyperparams.json` holds and what repeats the run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    seed: int = 0
    """Seed of the initial weights, the order of rows and the draws of z."""
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

    In older ones test_fraction, of which only tables took notice, becomes the data set's own.
    """
    if "target_kind" in settings or settings.get("dataset") == "table":
        return settings
    return {name: value for name, value in settings.items() if name != "test_fraction"}


def run_config(settings: dict[str, Any], where: str) -> RunConfig:
    """Build a `RunConfig` from flat settings (the flags' names with underscores).

    Raises `ConfigError`, naming `where`, for an unknown setting or a value that is not allowed.
    """
    known = flat_settings()
    nested: dict[str, Any] = {"data": {}, "model": {}, "train": {}}
    for name, value in settings.items():
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
NOT_REPEATED = (
    *("results_dir", "testing", "debug", "print_freq", "tensorboard", "keep_predictions"),
)
"""Settings that say what is shown and where it goes: no part of how to repeat a run."""


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
