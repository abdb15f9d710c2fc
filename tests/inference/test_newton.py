"""The expected gain of a Newton step against what the marginal likelihood says there is to gain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch.utils._python_dispatch import TorchDispatchMode

from hlvnn.analysis.latent_space import space_of
from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.newton import newton_gain
from hlvnn.inference.objective import full_elbo
from hlvnn.models.build import build_model
from hlvnn.training.loop import fit
from tests.helpers import grouped_data, small_config
from tests.truths.test_groups_by_themselves import FEATURES, planted

SIZES = np.tile([1, 2, 4, 9], 100)


def minus_log_likelihood(logs: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """Return −log p of one-way residuals at the logs of τ and σ, written out."""
    tau2, sigma2 = np.exp(2 * logs)
    n, total = np.bincount(group), np.bincount(group, y)
    within = (y**2).sum() - (total**2 / n).sum()
    of_mean = sigma2 / n + tau2
    terms = np.log(of_mean * n / sigma2) + (total / n) ** 2 / of_mean
    return 0.5 * (len(y) * math.log(2 * math.pi * sigma2) + within / sigma2 + float(terms.sum()))


@pytest.mark.parametrize("posterior", ["mean_field", "full_rank"])
@pytest.mark.parametrize(("of_sd", "of_noise"), [(0.1, 0.0), (0.0, 0.05), (0.08, -0.04)])
def test_the_gain_is_what_is_left_of_the_marginal_likelihood(
    posterior: str, of_sd: float, of_noise: float
) -> None:
    frame = planted("gaussian", SIZES, 0.8, 0.7)
    data = GroupedDataset.from_frame(frame, target="y", features=FEATURES, groups=["g"])
    prior = "learned" if posterior == "mean_field" else "learned_full"
    config = ModelConfig(backbone="linear", latent_config="bias", posterior=posterior, prior=prior)
    model = build_model(config, data)
    eta = model.backbone(data.train.x.all()).detach().squeeze(-1).double().numpy()
    center, scale = model.likelihood.units()
    y = (data.train.y.numpy() - center) / scale - eta
    group = data.train.groups[:, 0].long().numpy()
    best = optimize.minimize(minus_log_likelihood, np.log([0.5, 0.5]), (y, group), method="BFGS")
    log_sd, log_noise = best.x + np.array([of_sd, of_noise])
    left = minus_log_likelihood(np.array([log_sd, log_noise]), y, group) - best.fun
    [one] = model.latents
    precision = math.exp(-2 * log_sd) + np.bincount(group) * math.exp(-2 * log_noise)
    mean = np.bincount(group, y) * math.exp(-2 * log_noise) / precision
    law = torch.from_numpy(np.stack([mean, -0.5 * np.log(precision)], 1))
    with torch.no_grad():
        one.prior.set_sd(torch.tensor([math.exp(log_sd)]))
        model.likelihood.log_sds()[0].fill_(log_noise)
        one.posterior.table.copy_(law)
    found = newton_gain(model, full_elbo(model, data.train), len(data.train))
    assert found == pytest.approx(left, rel=0.15, abs=1e-3)
    assert found > 0.3


def test_nothing_learned_is_nothing_to_gain() -> None:
    frame = planted("bernoulli", SIZES, 0.8)
    data = GroupedDataset.from_frame(
        frame, target="y", features=FEATURES, groups=["g"], target_kind="class"
    )
    config = ModelConfig(backbone="mlp", latent_config="bias", prior="standard")
    model = build_model(config, data)
    assert math.isnan(newton_gain(model, full_elbo(model, data.train), len(data.train)))


class Largest(TorchDispatchMode):
    """Notes the numbers of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and one.layout == torch.strided:
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // 4)
        return made


def test_nothing_of_a_wide_latents_squared_width_is_made_from_the_fit_to_the_report() -> None:
    """16,000 weights of an output stage are 2 GB squared, for each group."""
    data = grouped_data(levels=("writer",), sizes=(5,), rows=24)
    settings = {"latent_config": ("weights",), "prior": "learned", "hidden": (500,)}
    model = build_model(small_config("mlp", **settings), data, seed=0)
    [one] = model.latents
    with Largest() as largest:
        fit(model, data, TrainConfig(num_epochs=1, batch_size=8, device="cpu"), lambda *_: None)
        space = space_of(model, 0)
        space.covariances(space.principal()[0][:2])
        model.latents.marginal(0)
    print(f"\nwidth {one.width}, squared {one.width**2}, largest {largest.numbers}")
    assert largest.numbers < one.width**2 / 4
