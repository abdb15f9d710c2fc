"""Groups' laws where the KL weighs more or less than the ELBO's 1, against their closed form."""

from __future__ import annotations

import math

import pytest
import torch

from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.models.build import build_model
from hlvnn.training.loop import fit
from tests.helpers import grouped_data, latent

NOISE = 0.8


@pytest.mark.parametrize("posterior", ["mean_field", "full_rank"])
@pytest.mark.parametrize("weight", [0.3, 1.0, 4.0, 100.0])
def test_a_law_is_that_of_the_likelihood_to_one_over_the_weight(
    weight: float, posterior: str
) -> None:
    """The fit minimises −E log p(y | z) + β KL, which is least at q ∝ p(z) p(y | z)^(1/β)."""
    data = grouped_data("features", sizes=(5,), target="real", rows=60)
    entry = latent("bias", "output", prior="standard", posterior=posterior)
    model = build_model(ModelConfig(backbone="linear", latents=(entry,)), data)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
        model.likelihood.log_noise.fill_(math.log(NOISE))  # type: ignore[operator, union-attr]
    model.requires_grad_(False)
    (one,) = model.latents
    one.posterior.requires_grad_(True)
    model.backbone.requires_grad_(True)  # something for the optimiser, which lr holds
    model.backbone.output_bias().requires_grad_(False)  # type: ignore[union-attr]
    settings = TrainConfig(
        num_epochs=60, batch_size=None, lr=1e-12, kl_weight=weight, prior_warmup=0.0
    )
    fit(model, data, settings)
    group = data.train.groups[:, 0].long()
    y = ((data.train.y - model.likelihood.center) / model.likelihood.scale).float()
    rows = torch.zeros(5).index_add_(0, group, torch.ones(len(y)))
    precision = 1 + rows / NOISE**2 / weight
    mean = torch.zeros(5).index_add_(0, group, y) / NOISE**2 / weight / precision
    q = one.posterior(torch.arange(5))
    torch.testing.assert_close(q.mean[:, 0], mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(q.stddev[:, 0], precision.rsqrt(), rtol=1e-3, atol=1e-4)
