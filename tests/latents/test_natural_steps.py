"""Natural steps of laws that are not of the precision's form: where they come to rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from hlvnn.latents.posteriors.base import Sight
from hlvnn.latents.posteriors.low_rank import WIDEST, LowRank
from hlvnn.latents.posteriors.mixture import Mixture
from tests.helpers import generator, randomise

WIDTH, ROWS = 4, 8
START = torch.ones(WIDTH)


def precision(seed: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Return a prior's precision, diagonal, and the data's mean curvature a row."""
    a = torch.randn(rows, WIDTH, generator=generator(seed), dtype=torch.float64)
    a[:, 0] = 1  # an intercept
    return torch.linspace(0.5, 2, WIDTH, dtype=torch.float64), 3 * a.T @ a / rows


def loss(q: LowRank, rows: Tensor, total: Tensor) -> Tensor:
    """Return KL(N(m, D + U Uᵀ) ‖ N(0, Λ⁻¹)) of every row but for a constant."""
    mean = rows[:, : q.width]
    own, columns = q._parts(rows)
    sigma = torch.diag_embed(own) + columns @ columns.mT
    along = (mean @ total * mean).sum(1)
    return 0.5 * ((sigma @ total).diagonal(dim1=1, dim2=2).sum(1) - sigma.logdet() + along)


def lowest(q: LowRank, total: Tensor) -> float:
    """Return the least loss that scipy finds from several starts."""

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        rows = torch.tensor(x)[None].requires_grad_()
        result = loss(q, rows, total)
        (gradient,) = torch.autograd.grad(result.sum(), rows)
        return float(result.detach()), gradient[0].numpy()

    draws = np.random.default_rng(0)
    starts = [0.5 * draws.normal(size=q.table.shape[1]) for _ in range(10)]
    return min(float(minimize(value, start, jac=True, method="BFGS").fun) for start in starts)


def sight(curvature: Tensor | None, prior: Tensor, share: float = 1.0) -> Sight:
    one = torch.ones(1, 1, dtype=torch.float64)
    return Sight(share * one, ROWS * one, ROWS * one, prior, curvature, 1.0)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_low_rank_comes_to_rest_at_the_elbos_maximum(seed: int, rank: int, share: float) -> None:
    """By the ELBO's gradient alone, of a batch with `share` of the group's rows."""
    prior, data = precision(seed)
    total = prior.diag() + ROWS * data
    q = LowRank(1, WIDTH, START, posterior_rank=rank).double()
    rows = q.table.detach().clone()
    rows[:, :WIDTH] = torch.arange(1.0, WIDTH + 1)
    for _ in range(300):
        rows.requires_grad_()
        (gradient,) = torch.autograd.grad(share * loss(q, rows, total).sum(), rows)
        step, others = q.natural_step(rows.detach(), gradient, sight(None, prior, share), 0.25)
        rows = q.joined(q.split(rows.detach())[0] + step, others)
    best = lowest(q, total)
    diagonal = float(0.5 * (WIDTH + total.diagonal().log().sum()))
    assert float(loss(q, rows, total)) == pytest.approx(best, abs=1e-3)
    assert diagonal > best + 0.05, "directions matter here"
    assert rows[0, :WIDTH].abs().max() < 1e-3


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_low_rank_is_the_nearest_to_the_law_that_the_curvature_has(seed: int, rank: int) -> None:
    prior, data = precision(seed)
    total = prior.diag() + ROWS * data
    q = LowRank(1, WIDTH, START, posterior_rank=rank).double()
    rows = q.table.detach().clone()
    rows[:, :WIDTH] = torch.arange(1.0, WIDTH + 1)
    gradient = torch.zeros_like(rows)
    gradient[:, :WIDTH] = rows[:, :WIDTH] @ total
    step, _ = q.natural_step(rows, 0.1 * gradient, sight(data, prior), 1.0)
    torch.testing.assert_close(step, -0.1 * rows[:, :WIDTH])  # Newton's
    for _ in range(300):
        _, others = q.natural_step(rows, gradient, sight(data, prior), 1.0)
        rows = q.joined(torch.zeros(1, WIDTH), others)
    assert float(loss(q, rows, total)) == pytest.approx(lowest(q, total), abs=1e-3)


def test_groups_of_all_sizes_take_their_own_laws() -> None:
    prior, data = precision(1)
    q = LowRank(5, WIDTH, START, posterior_rank=2).double()
    rows = q.table.detach().clone()
    sizes = torch.tensor([3.0, 50.0, 3.0, 1.0, 50.0], dtype=torch.float64)[:, None]
    seen = Sight(torch.ones_like(sizes), sizes, sizes, prior, data, 1.0)
    _, others = q.natural_step(rows, torch.zeros_like(rows), seen, 1.0)
    for number in range(len(rows)):
        one = slice(number, number + 1)
        alone = Sight(seen.share[one], sizes[one], sizes[one], prior, data, 1.0)
        _, expected = q.natural_step(rows[one], torch.zeros_like(rows[one]), alone, 1.0)
        torch.testing.assert_close(others[one], expected)


@pytest.mark.parametrize("full", [False, True])
def test_wide_ones_know_the_curvature_by_its_diagonal(full: bool) -> None:
    width = WIDEST + 1
    q = LowRank(1, width, torch.ones(width), posterior_rank=2)
    assert not q.has_matrix
    rows = q.table.detach()
    curvature = torch.full((width,), 0.5)
    if full:  # under a prior with covariances it is a matrix
        curvature = curvature.diag()
    one = torch.ones(1, 1)
    seen = Sight(one, ROWS * one, ROWS * one, torch.ones(width), curvature, 1.0)
    step, others = q.natural_step(rows, torch.ones_like(rows), seen, 1.0)
    torch.testing.assert_close(step, torch.full((1, width), -0.2))
    variance = q.covariance(q.joined(step, others)).variance()
    torch.testing.assert_close(variance, torch.full((1, width), 0.2), rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", ["low_rank", "mixture"])
def test_covariances_of_either_form_are_those_of_the_dense_matrix(kind: str) -> None:
    options = {"posterior_rank": 2} if kind == "low_rank" else {"components": 3}
    q = (LowRank if kind == "low_rank" else Mixture)(3, WIDTH, START, **options)
    rows = randomise(q, 0.7).table.detach()
    found, factor = q.covariance(rows), q.factor(q.law(rows), torch.arange(3))
    dense, matrix = factor @ factor.mT, precision(1)[1].float()
    torch.testing.assert_close(found.variance(), dense.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(found.trace(matrix), (dense @ matrix).diagonal(dim1=1, dim2=2))
    prior = torch.linspace(0.5, 2, WIDTH)
    torch.testing.assert_close(found.trace(prior), dense.diagonal(dim1=1, dim2=2) * prior)
    if kind == "low_rank":
        inverse = torch.linalg.inv(dense).diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(found.precision(), inverse)


@pytest.mark.parametrize("kind", ["low_rank", "mixture"])
def test_a_size_is_of_the_mean_and_of_what_is_about_it(kind: str) -> None:
    options = {"posterior_rank": 2} if kind == "low_rank" else {"components": 3}
    q = (LowRank if kind == "low_rank" else Mixture)(3, WIDTH, START, **options)
    rows = randomise(q, 0.7).table.detach()
    size = torch.linspace(0.5, 3, 2 * WIDTH)
    sized = q.in_size(rows, size)
    before, after = q.law(rows), q.law(sized)
    torch.testing.assert_close(after.mean, size[:WIDTH] * before.mean)
    by_sd = size[WIDTH:]
    factors = [q.factor(law, torch.arange(3)) for law in (before, after)]
    old, new = (factor @ factor.mT for factor in factors)
    torch.testing.assert_close(new, by_sd[:, None] * old * by_sd)
    torch.testing.assert_close(q.in_size(sized, 1 / size), rows)


@pytest.mark.parametrize("kind", ["low_rank", "mixture"])
def test_the_gradient_in_a_size_is_that_of_the_parameters_in_it(kind: str) -> None:
    options = {"posterior_rank": 2} if kind == "low_rank" else {"components": 3}
    q = (LowRank if kind == "low_rank" else Mixture)(3, WIDTH, START, **options)
    rows = randomise(q, 0.7).table.detach()
    weight = torch.randn(rows.shape, generator=generator(5))
    log_size = torch.zeros(3, WIDTH, requires_grad=True)
    sized = torch.stack(
        [
            q.in_size(row[None], torch.cat([torch.ones(WIDTH), one.exp()]))[0]
            for row, one in zip(rows, log_size, strict=True)
        ]
    )
    (expected,) = torch.autograd.grad((weight * sized).sum(), log_size)
    torch.testing.assert_close(q.size_gradient(rows, weight), expected)


def test_components_that_are_modes_go_each_to_its_own() -> None:
    """Two equal normals about −2 and 2; means, SDs and the second's three times the weight."""
    mode, sd, h = 2.0, 0.2, 25.0
    q = Mixture(1, 1, torch.ones(1), components=2)
    rows = torch.tensor([[0.0, 0.0, -1.0, 1.2, -1.0, -1.0]])
    one = torch.ones(1, 1)
    seen = Sight(one, one, one, torch.full((1,), 1e-6), torch.full((1,), h), 1.0)
    for _ in range(40):
        weights = rows[0, :2].softmax(0)
        means, log_sds = rows[0, 2:4], rows[0, 4:]
        squares = h / 2 * ((means - torch.tensor([-mode, mode])).square() + (2 * log_sds).exp())
        cost = squares - log_sds - torch.tensor([0.25, 0.75]).log()
        of_logits = weights * (cost - (weights * cost).sum())
        of_means = weights * h * (means - torch.tensor([-mode, mode]))
        of_log_sds = weights * (h * (2 * log_sds).exp() - 1)
        gradient = torch.cat([of_logits, of_means, of_log_sds])[None]
        step, others = q.natural_step(rows, gradient, seen, 0.5)
        rows = q.joined(q.split(rows)[0] + step, others)
    assert rows[0, 2:4].tolist() == pytest.approx([-mode, mode], abs=0.02)
    assert rows[0, 4:].exp().tolist() == pytest.approx([sd, sd], rel=0.02)
    assert rows[0, :2].softmax(0).tolist() == pytest.approx([0.25, 0.75], abs=0.02)
