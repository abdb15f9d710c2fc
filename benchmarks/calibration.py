"""Simulation-based calibration: where the truth ranks among draws of its group's posterior.

    python benchmarks/calibration.py [--data-sets 2000] [--seed 0]

A data set is one group: its intercept and slope are drawn from the prior, then its rows given them.
The shared weights, the prior and the noise stay at the simulating truth, so that groups are
independent and 2,000 data sets are fitted as one model with 2,000 groups. Per data set and
coordinate the statistic is the rank of the truth among 9,999 draws, uniform on 0 to 9,999 where
the posterior is exact (Talts, Betancourt, Simpson, Vehtari and Gelman 2018). Chi-squared is over 20
bins, KS is the distance of the ranks' distribution to the uniform one, coverage the share of truths
within the draws' central 90 %. "weighted" draws are resampled by the importance weights of the
group's own rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import tyro
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import stats
from torch import Tensor

import hlvnn
from hlvnn.backbones.linear import Linear
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.inference.importance import first_of
from hlvnn.latents.origin import to_origin
from hlvnn.likelihoods.gaussian import Gaussian
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding

COORDINATES = ("intercept", "slope")
BINS = 20
DRAWS = 9_999
"""Draws L that the truth is ranked among; 20 bins divide L + 1. So many that their own noise is
small: among 999 draws one set of exact posteriors had p from 0.004 to 0.35, by the draws' seed."""
AT_ONCE = 2**20
"""Rows × draws of one pass through the network."""


@dataclass(frozen=True)
class Truth:
    """What simulates: y's law at intercept + slope · x, whose deviations by group are N(0, T)."""

    likelihood: str
    mean: tuple[float, float]
    """Intercept and slope of the average group."""
    sd: tuple[float, float]
    """SDs of the groups' intercepts and slopes."""
    correlation: float
    x: tuple[float, float]
    """Range of x, uniform."""
    rows: tuple[int, int]
    """Fewest and most rows of a group."""
    noise: float = 1.0
    """SD of a Gaussian y."""

    @property
    def covariance(self) -> NDArray[np.float64]:
        """T, [2, 2]."""
        correlation = np.array([[1, self.correlation], [self.correlation, 1]])
        return np.outer(self.sd, self.sd) * correlation


TRUTHS = {
    # numbers and units much like sleepstudy's
    "linear": Truth("gaussian", (250.0, 10.0), (24.0, 6.0), 0.1, (0.0, 9.0), (5, 15), noise=25.0),
    "logistic": Truth("bernoulli", (-0.5, 1.0), (1.0, 0.7), 0.3, (-2.0, 2.0), (5, 25)),
}


def simulate(truth: Truth, groups: int, seed: int) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return a table with columns group, x, y, sorted by group, and the true z: [G, 2]."""
    rng = np.random.default_rng(seed)
    z = rng.multivariate_normal(np.zeros(2), truth.covariance, size=groups)
    group = np.repeat(np.arange(groups), rng.integers(*truth.rows, groups, endpoint=True))
    x = rng.uniform(*truth.x, len(group)).astype(np.float32).astype(float)  # as the model reads it
    intercept, slope = (np.array(truth.mean) + z[group]).T
    eta = intercept + slope * x
    if truth.likelihood == "gaussian":
        y = rng.normal(eta, truth.noise)
    else:
        y = rng.uniform(size=len(eta)) < 1 / (1 + np.exp(-eta))
    return pd.DataFrame({"group": group, "x": x, "y": y}), z


def units(model: HierarchicalModel) -> NDArray[np.float64]:
    """Return the factors [2] from the model's z to the simulation's: y's scale, per x's."""
    assert isinstance(model.backbone, Linear)
    _, y_scale = model.likelihood.units()
    return y_scale / np.array([1.0, float(model.backbone.input.scale)])


def at_origin(model: HierarchicalModel) -> Tensor:
    """Return R [2, 2]: R z is z at x = 0; z itself may be at the mean of x."""
    (latent,) = model.latents
    turn = to_origin(latent)
    return torch.eye(2, dtype=torch.float64) if turn is None else turn


@torch.no_grad()
def fix_globals(model: HierarchicalModel, truth: Truth) -> None:
    """Set all but the posterior to the truth, in the model's units, and freeze it there."""
    assert isinstance(model.backbone, Linear)
    (latent,) = model.latents
    center, scale = model.likelihood.units()
    intercept, slope = truth.mean
    at_center = intercept + slope * float(model.backbone.input.center)
    model.backbone.output.bias.fill_((at_center - center) / scale)
    model.backbone.output.weight.fill_(slope / units(model)[1])
    if isinstance(model.likelihood, Gaussian):
        model.likelihood.log_noise.fill_(np.log(truth.noise / scale))
    inside = torch.from_numpy(truth.covariance / np.outer(units(model), units(model)))
    turn = at_origin(model)
    latent.prior.update(torch.linalg.solve(turn, torch.linalg.solve(turn, inside).T))
    model.requires_grad_(False)
    latent.posterior.requires_grad_(True)


def fitted(
    truth: Truth, frame: pd.DataFrame, posterior: str, epochs: int, threads: int = 1
) -> tuple[HierarchicalModel, Split]:
    """Fit the posteriors of all groups with everything else at the truth."""
    data = GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["group"])
    slopes = hlvnn.LatentConfig(
        level="group",
        stage="output",
        placement="weights",
        posterior=posterior,
        prior="learned_full",
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood=truth.likelihood, latents=(slopes,))
    model = hlvnn.build_model(config, data, seed=0)
    fix_globals(model, truth)
    train = hlvnn.TrainConfig(
        num_epochs=epochs,
        batch_size=None,
        lr=0.05,
        eval_every=epochs,
        device="cpu",
        threads=threads,
    )
    hlvnn.fit(model, data, train)
    return model, data.train


@torch.no_grad()
def draw(model: HierarchicalModel, rows: Split, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return draws of every group's z, [S, G, 2], and log p(z) − log q(z) of each, [S, G]."""
    first = first_of(rows.groups[:, 0])
    with seeding(seed):
        at = model.latents.at(rows.groups[first], unseen=False)
        (z,), (ratio,) = model.latents.sample_groups(at, number)
    return z, ratio


@torch.no_grad()
def log_weights(model: HierarchicalModel, rows: Split, z: Tensor, ratio: Tensor) -> Tensor:
    """Return log p(y | z) + log p(z) − log q(z) of every group's draws, [S, G] float64."""
    group, x = rows.groups[:, 0].long(), rows.x.all()
    parts = []
    for part in z.split(max(1, AT_ONCE // len(group))):
        each = model.likelihood.log_prob(model(x, [part[:, group]]), rows.y).double()
        total = torch.zeros(part.shape[:2], dtype=torch.float64)
        parts.append(total.index_add_(1, group, each))
    return torch.cat(parts) + ratio


def resampled(z: Tensor, log_weight: Tensor, seed: int) -> Tensor:
    """Return as many draws of every group, chosen with replacement by their weights."""
    with seeding(seed):
        chosen = log_weight.T.softmax(1).multinomial(len(z), replacement=True)  # [G, S]
    return z.gather(0, chosen.T[:, :, None].expand_as(z))


def ranks(model: HierarchicalModel, draws: Tensor, z: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many of its group's draws lie below each true coordinate, [G, 2]."""
    inside = torch.from_numpy(z / units(model))
    return np.asarray((draws.double() @ at_origin(model).T < inside).sum(0))


@dataclass(frozen=True)
class Figures:
    """How far ranks are from uniform."""

    p: float
    """Of a chi-squared test over 20 bins."""
    ks: float
    coverage: float
    """Share of truths in the central 90 % of the draws."""


def figures(rank: NDArray[np.int64]) -> Figures:
    """Return the figures of one coordinate's ranks, [G]."""
    count = np.bincount(rank * BINS // (DRAWS + 1), minlength=BINS)
    place = (rank + 0.5) / (DRAWS + 1)
    return Figures(
        float(stats.chisquare(count).pvalue),
        float(stats.kstest(place, "uniform").statistic),
        float(((place > 0.05) & (place < 0.95)).mean()),
    )


Calibration = dict[str, dict[str, Figures]]
"""By kind of draws ("", or "weighted") and coordinate."""


def calibrate(
    name: str, posterior: str, data_sets: int, seed: int, epochs: int, threads: int = 1
) -> Calibration:
    """Simulate, fit and rank; a logistic model's draws once more after importance weighting."""
    truth = TRUTHS[name]
    frame, z = simulate(truth, data_sets, seed)
    model, rows = fitted(truth, frame, posterior, epochs, threads)
    draws, ratio = draw(model, rows, DRAWS, seed)
    by_kind = {"": ranks(model, draws, z)}
    if truth.likelihood != "gaussian":
        weight = log_weights(model, rows, draws, ratio)
        by_kind["weighted"] = ranks(model, resampled(draws, weight, seed), z)
    return {
        kind: {coordinate: figures(rank[:, k]) for k, coordinate in enumerate(COORDINATES)}
        for kind, rank in by_kind.items()
    }


class Options(BaseModel):
    """How much, how long."""

    data_sets: int = Field(2000, gt=0)
    """Simulated data sets, of one group each."""
    seed: int = Field(0, ge=0)
    """Seed of the simulation and of the draws."""
    epochs: int = Field(400, gt=0)
    """Epochs of each fit, with full batches."""
    threads: int = Field(1, gt=0)
    """Threads of torch."""


def main(options: Options) -> None:
    """Fit every pair of model and posterior and print the table."""
    torch.set_num_threads(options.threads)
    print("| model | posterior | coordinate | chi-squared p | KS | coverage of 90 % intervals |")
    print("|---|---|---|---|---|---|")
    for name in TRUTHS:
        for posterior in ("full_rank", "mean_field"):
            found = calibrate(name, posterior, **options.model_dump())
            for kind, by_coordinate in found.items():
                shown = f"{posterior}, {kind}" if kind else posterior
                for coordinate, own in by_coordinate.items():
                    numbers = f"{own.p:.3g} | {own.ks:.3f} | {100 * own.coverage:.1f} %"
                    print(f"| {name} | {shown} | {coordinate} | {numbers} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
