"""How a model is fitted: the settings, their defaults, and what does not go together."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hlvnn.columns import VAL_LOSS, is_validation
from hlvnn.strict import Config

FEW = 3
"""Epochs, steps of each, and batches of each split that a fast run has."""


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
    everything), about --batch-size rows on average. Its first epochs maximise the ELBO."""
    lr_schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """Shape of the learning rate over the run; cosine and one_cycle decay to zero."""
    ended_at: int = Field(0, ge=0)
    """Epochs after which the run had ended before it was trained longer; 0 = it was not. Set by
    --resume of a finished run with more --num-epochs."""
    longer: Literal["constant", "restart"] = "constant"
    """How a finished run is trained longer: constant, at the learning rate of nine tenths of its
    schedule; restart, with the schedule anew over the epochs that are added (a warm restart)."""
    embedding_lr: float = Field(5.0, gt=0)
    """Learning rate of points (posterior `point`), as a multiple of --lr. Posteriors have none:
    their steps are in units of their own covariance."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of the backbone's and placements' matrices."""
    augment: float = Field(0.0, ge=0)
    """Strength of random small moves, turns, scalings and slants of training images, anew in each
    batch; 0 leaves them as they are, 1 is moderate."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of a step's gradient of the network; None does not clip."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight β of the KL terms; 1 is the true ELBO."""
    kl_annealing: float = Field(0.0, ge=0)
    """Epochs over which β rises linearly from 0 to --kl-weight."""
    prior_warmup: float = Field(0.1, ge=0, le=1)
    """Share of the run during which learned priors and the noise are held at their start."""
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
    grad_norms: bool = False
    """Measure norms of gradients by part (network, loadings, posteriors, priors) and a step's size
    against the weights, in metrics.csv; steps are slower, and not recorded as CUDA graphs."""
    profile: bool = False
    """Time 20 steps after a few warm ones, and an evaluation, by torch's profiler: a table by stage
    (profile.csv) and a trace for ui.perfetto.dev (trace.json) in the run's folder, after the first
    evaluated epoch. Steps are not recorded as CUDA graphs then."""
    debug: bool = False
    """Anomaly detection, deterministic kernels, first batch's shapes, errors with tracebacks."""

    fast: bool = False
    """Three steps of everything, to see that it runs: an epoch ends after three batches, a split's
    scoring after as many rows, the run after three epochs. Filed like --testing."""

    @model_validator(mode="before")
    @classmethod
    def _few_epochs(cls, values: Any) -> Any:
        """Let a fast run have few epochs, however many are asked for."""
        if isinstance(values, dict) and values.get("fast") is True:
            epochs = values.get("num_epochs", cls.model_fields["num_epochs"].default)
            if isinstance(epochs, int):
                return {**values, "num_epochs": min(epochs, FEW)}
        return values

    @field_validator("select_on")
    @classmethod
    def _of_validation_rows(cls, name: str) -> str:
        if not is_validation(name):
            raise ValueError(
                "only measures of validation rows may choose, such as val_loss or val_acc"
            )
        return name

    @model_validator(mode="after")
    def _longer_than_it_was(self) -> Self:
        if self.ended_at >= self.num_epochs:
            raise ValueError(
                f"--ended-at {self.ended_at}: a run that is trained longer has more epochs than it "
                f"ended with; --num-epochs is {self.num_epochs}"
            )
        return self

    @model_validator(mode="after")
    def _bound_as_it_is(self) -> Self:
        if self.objective == "iwae":
            reasons = {
                "kl_weight": (1.0, "a bound on log p(y) counts the prior and q once"),
                "kl_annealing": (0.0, "a bound on log p(y) counts the prior and q once"),
            }
            for name, (needed, reason) in reasons.items():
                if getattr(self, name) != needed:
                    flag = f"--{name.replace('_', '-')}"
                    raise ValueError(
                        f"{flag} {getattr(self, name)} does not go with --objective iwae: "
                        f"{reason}; use {flag} {needed}, or --objective elbo"
                    )
        return self
