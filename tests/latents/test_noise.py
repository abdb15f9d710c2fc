"""Draws made of a stream's own standard normal noise: the right law, and torch's stream unmoved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from hlvnn.latents.delta import Delta
from hlvnn.latents.noise import drawn, from_noise, noise_width
from hlvnn.random import Noise
from tests.helpers import generator

B, Z = 2, 3
MEAN = torch.randn(B, Z, generator=generator())
SD = torch.rand(B, Z, generator=generator(1)) + 0.3
TRIL = torch.randn(B, Z, Z, generator=generator(2)).tril(-1) + torch.diag_embed(SD)
NORMALS: dict[str, Distribution] = {
    "diagonal": Independent(Normal(MEAN, SD), 1),
    "full": MultivariateNormal(MEAN, scale_tril=TRIL),
    "low rank": LowRankMultivariateNormal(MEAN, TRIL[..., :2], SD.square()),
}
OTHERS: dict[str, Distribution] = {
    "point": Delta(MEAN),
    "Laplace": Independent(Laplace(MEAN, SD), 1),
    "mixture": MixtureSameFamily(
        Categorical(torch.ones(B, 2)),
        Independent(Normal(torch.stack([MEAN, -MEAN], 1), torch.stack([SD, SD], 1)), 1),
    ),
}


@pytest.mark.parametrize("name", NORMALS)
def test_noise_makes_a_draw_with_the_laws_mean_and_covariance(name: str) -> None:
    law = NORMALS[name]
    width = noise_width(law)
    columns = from_noise(law, torch.eye(width)[:, None, :].expand(width, B, width)) - law.mean
    factor = columns.permute(1, 2, 0)  # [B, Z, K]: what each number of the noise does
    covariance = (
        law.covariance_matrix
        if isinstance(law, MultivariateNormal | LowRankMultivariateNormal)
        else torch.diag_embed(SD.square())
    )
    torch.testing.assert_close(factor @ factor.mT, covariance)
    torch.testing.assert_close(from_noise(law, torch.zeros(4, B, width)), MEAN.expand(4, B, Z))


def test_the_same_noise_makes_the_draw_that_torch_makes() -> None:
    for name in ("diagonal", "full"):
        law = NORMALS[name]
        torch.manual_seed(5)
        expected = law.rsample(torch.Size([7]))
        torch.manual_seed(5)
        torch.testing.assert_close(from_noise(law, torch.randn(7, B, Z)), expected)


@pytest.mark.parametrize("name", [*NORMALS, *OTHERS])
def test_a_draw_is_of_its_stream_and_leaves_torchs_own_where_it_was(name: str) -> None:
    law = (NORMALS | OTHERS)[name]
    torch.manual_seed(8)
    before = torch.get_rng_state()

    def twice(seed: int) -> list[Tensor]:
        noise = Noise(seed)
        return [drawn(law, torch.Size([5]), noise) for _ in range(2)]

    one, again, other = twice(1), twice(1), twice(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert one[0].shape == (5, B, Z)
    assert all(map(torch.equal, one, again))
    if name != "point":
        assert not torch.equal(one[0], one[1])
        assert not torch.equal(one[0], other[0])
        many = drawn(law, torch.Size([20_000]), Noise(3))
        torch.testing.assert_close(many.mean(0), law.mean, atol=0.05, rtol=0)
        torch.testing.assert_close(many.var(0), law.variance, atol=0.1, rtol=0.05)


def test_a_stream_goes_on_from_where_a_checkpoint_has_it() -> None:
    law = NORMALS["full"]
    one, other = Noise(1), Noise(2)
    drawn(law, torch.Size([3]), one)
    assert other.take_up(one.state())
    assert torch.equal(drawn(law, torch.Size([3]), one), drawn(law, torch.Size([3]), other))
    assert not other.take_up({}), "an older checkpoint has none"


def test_a_stream_is_not_the_one_that_torch_has_of_the_same_seed() -> None:
    torch.manual_seed(4)
    assert not torch.equal(torch.randn(4), Noise(4).normal(torch.Size([4]), torch.zeros(1)))
