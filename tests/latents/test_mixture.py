"""Mixtures: stratified draws, the KL and the full ELBO, against quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hlvnn.data.batches import Batch
from hlvnn.errors import ConfigError
from hlvnn.inference.objective import KL_RUNS, expected_log_likelihood, full_elbo
from hlvnn.latents.posteriors.mixture import DRAWS, Mixture
from hlvnn.latents.strata import LIMIT, combinations, stratified
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding
from tests.helpers import generator, grouped_data, latent, prior_class, randomise, tiny_model
from tests.latents.mixtures import GRID, STEP, mixed, whole

LEVELS = ("character", "play")


def doubled(batch: Batch) -> Batch:
    return batch._replace(x=batch.x.double())


def in_double(model: HierarchicalModel) -> HierarchicalModel:
    """Return the model in float64, components apart, with SDs that the quadrature resolves."""
    for one in model.latents:
        randomise(one, 0.5)
        if isinstance(one.posterior, Mixture):
            table = one.posterior.table.detach()
            log_sds = table[:, one.posterior.components * (1 + one.width) :]
            log_sds.normal_(math.log(0.5), 0.3, generator=generator())
    return model.double()


def one_mixture(target: str = "class", **settings: object) -> tuple[HierarchicalModel, Batch]:
    data = grouped_data(sizes=(2,), rows=12, classes=2, target=target)
    model = in_double(tiny_model(data, "linear", latents=(mixed(**settings),)))
    return model, doubled(whole(data.train))


def by_quadrature(model: HierarchicalModel, batch: Batch) -> Tensor:
    """Return E_q log p(y | x, z) of every row, [B], for one latent of width 1, by its density.

    With gradients through q's density, not through draws: the trapezoid rule is exact to rounding.
    """
    (one,) = model.latents
    rows = model.latents.at(batch.groups, unseen=False)
    grid = GRID[:, None].expand(-1, len(batch.y), 1)
    density = rows.posteriors[0].log_prob(grid).exp()
    z = grid if one.centred else grid * one.prior().stddev
    return (density * model.likelihood.log_prob(model(batch.x, [z]), batch.y)).sum(0) * STEP


def gradients_and_value(
    model: HierarchicalModel, estimate: Callable[[], Tensor], weight: Tensor
) -> Tensor:
    """Return the value [B] and the gradients of its weighted sum, flat, in one vector."""
    model.zero_grad()
    value = estimate()
    (weight * value).sum().backward()
    parts = [p.grad.to_dense().flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([value.detach(), *parts])


def assert_unbiased(
    model: HierarchicalModel, batch: Batch, exact: Callable[[], Tensor], runs: int = 300
) -> None:
    """Check the sampled value and its gradients, mean over runs, against the exact ones."""
    weight = torch.linspace(0.5, 1.5, len(batch.y), dtype=torch.float64)
    expected = gradients_and_value(model, exact, weight)

    def sampled() -> Tensor:
        return expected_log_likelihood(model, batch, 4)[0]

    with seeding(0):
        got = torch.stack([gradients_and_value(model, sampled, weight) for _ in range(runs)])
    assert got.shape[1] == len(expected)
    error = got.std(0) / math.sqrt(runs)
    deviation = (got.mean(0) - expected).abs()
    assert (deviation <= 4.5 * error + 1e-9).all(), (deviation / error).max()
    moved = error > 0
    assert (deviation[moved] / error[moved]).square().mean() < 1.7, "larger than chance would have"
    signal = expected.abs() > 10 * error
    assert signal.double().mean() > 0.5, "too noisy to tell anything"


# the stratified objective


@pytest.mark.parametrize(("prior", "centred"), [("standard", True), ("learned", False)])
@pytest.mark.parametrize("target", ["class", "real"])
def test_value_and_gradients_are_those_of_quadrature(
    target: str, prior: str, centred: bool
) -> None:
    """With respect to logits, means and log SDs, and to the network and the prior behind them."""
    model, batch = one_mixture(target, prior=prior, centred=centred)
    assert_unbiased(model, batch, lambda: by_quadrature(model, batch))


def test_a_model_with_one_component_in_all_but_name_is_that_of_mean_field() -> None:
    """Equal components: the weights do not matter, and the closed form is that of one normal."""
    data = grouped_data(sizes=(2,), rows=12, target="real")
    model = tiny_model(data, "linear", latents=(mixed(components=2),))
    single = tiny_model(data, "linear", latents=(mixed(components=None, posterior="mean_field"),))
    single.load_state_dict(
        {**model.state_dict(), "latents.latents.0.posterior.table": torch.tensor([[0.4, -0.3]] * 2)}
    )
    table = torch.tensor([[0.7, -0.2, 0.4, 0.4, -0.3, -0.3]] * 2)
    with torch.no_grad(), seeding(0):
        model.latents[0].posterior.table.copy_(table)
        batch = whole(data.train)
        got, (paid,) = expected_log_likelihood(model, batch, 20_000)
        expected, (exactly,) = expected_log_likelihood(single, batch, 1)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.01)
    torch.testing.assert_close(paid, exactly)


def two_mixtures() -> tuple[HierarchicalModel, Batch]:
    """Return a model with mixtures of 2 and of 4 components, and a point between."""
    data = grouped_data(levels=LEVELS, sizes=(4, 2), rows=15, classes=2)
    entries = (
        mixed("character", 2),
        latent("concat", "output", "play", width=1, posterior="point"),
        mixed("play", 4),
    )
    model = in_double(tiny_model(data, "linear", latents=entries))
    return model, doubled(whole(data.train))


def over_a_plane(model: HierarchicalModel, batch: Batch) -> Tensor:
    """Return E_q log p(y | x, z) of every row of `two_mixtures` by quadrature in two dimensions."""
    rows = model.latents.at(batch.groups, unseen=False)
    line = torch.linspace(-8, 8, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)[:, None].expand(-1, len(batch.y), 2)
    first, last = grid[..., :1], grid[..., 1:]
    log_density = rows.posteriors[0].log_prob(first) + rows.posteriors[2].log_prob(last)
    point = rows.posteriors[1].mean.expand(len(grid), -1, -1)
    log_prob = model.likelihood.log_prob(model(batch.x, [first, point, last]), batch.y)
    return (log_density.exp() * log_prob).sum(0) * float(line[1] - line[0]) ** 2


def test_two_mixtures_value_and_gradients_are_those_of_quadrature() -> None:
    model, batch = two_mixtures()
    assert_unbiased(model, batch, lambda: over_a_plane(model, batch))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_every_combination_is_drawn_with_its_own_weight(num_samples: int) -> None:
    """Components so narrow that a draw tells which one it came from."""
    data = grouped_data(levels=LEVELS)
    entries = (
        mixed("character", 2, width=2),
        latent("concat", "hidden1", "character", width=2),
        mixed("play", 3, width=2),
        mixed("play", 4, width=1, prior="learned", centred=False),
    )
    model = tiny_model(data, latents=entries)
    mixtures = [one for one in model.latents if isinstance(one.posterior, Mixture)]
    with torch.no_grad():
        for one in mixtures:
            randomise(one, 1.0)
            k, z = one.posterior.components, one.width
            one.posterior.table[:, k + k * z :] = -12
    assert combinations(model.latents) == 24
    assert [one.posterior.strata for one in model.latents] == [2, 1, 3, 4]
    groups = torch.tensor([[0, 0], [4, 1], [5, 2]])
    with torch.no_grad(), seeding(0):
        rows = model.latents.at(groups, unseen=False)
        draws, weights = stratified(model.latents, rows, num_samples)
    assert weights is not None
    assert weights.shape == (24 * num_samples, 3)
    torch.testing.assert_close(weights.sum(0), torch.ones(3))
    for row in range(3):
        expected = torch.full((24 * num_samples,), 1 / num_samples)
        chosen = []
        for index, one in enumerate(model.latents):
            if one not in mixtures:
                continue
            law = rows.posteriors[index]
            means = law.component_distribution.mean[row]
            if not one.centred:
                means = means * one.prior().stddev
            distance, which = torch.cdist(draws[index][:, row], means).min(1)
            assert distance.max() < 1e-3
            expected = expected * law.mixture_distribution.probs[row][which]
            chosen.append(which.tolist())
        torch.testing.assert_close(weights[:, row], expected)
        all_of_them = itertools.product(range(2), range(3), range(4))
        assert sorted(zip(*chosen, strict=True)) == sorted(list(all_of_them) * num_samples)


def test_a_model_without_mixtures_draws_as_ever() -> None:
    model = tiny_model(grouped_data(levels=LEVELS), latent_config=("factor",))
    rows = model.latents.at(torch.tensor([[0, 0], [4, 1]]), unseen=False)
    with torch.no_grad():
        with seeding(0):
            draws, weights = stratified(model.latents, rows, 3)
        with seeding(0):
            expected = model.latents.sample(rows, 3)
    assert weights is None
    assert combinations(model.latents) == 1
    assert all(torch.equal(a, b) for a, b in zip(draws, expected, strict=True))


def test_groups_without_training_rows_follow_the_prior() -> None:
    model = in_double(tiny_model(grouped_data(), "linear", latents=(mixed(prior="learned"),)))
    groups = torch.tensor([[-1], [2]])
    with torch.no_grad(), seeding(0):
        rows = model.latents.at(groups, unseen=True)
        (z,), weights = stratified(model.latents, rows, 30_000)
        (one,) = model.latents
        assert weights is not None
        weight = weights[..., None]
        mean = (weight * z).sum(0)
        sd = (weight * (z - mean).square()).sum(0).sqrt()
        expected = torch.cat([one.prior().stddev, one.posterior(groups[1]).stddev[0]])
    torch.testing.assert_close(sd[:, 0], expected, rtol=0.03, atol=0)


def test_too_many_combinations_are_refused_with_the_names() -> None:
    entries = (mixed("character", 13), mixed("play", 5), latent("bias", "output", "play"))
    data = grouped_data(levels=LEVELS)
    with pytest.raises(ConfigError) as caught:
        tiny_model(data, latents=entries)
    message = str(caught.value)
    assert f"have 65 combinations, the limit is {LIMIT}" in message
    assert message.endswith("to: character concat@output (13), play concat@output (5)")
    assert LIMIT == 64
    at_the_limit = tiny_model(data, latents=(mixed("character", 8), mixed("play", 8)))
    assert combinations(at_the_limit.latents) == LIMIT
    expected_log_likelihood(at_the_limit, whole(data.train), 1)


def kl_by_quadrature(q: Mixture, prior: torch.distributions.Distribution) -> Tensor:
    law = q(torch.arange(q.num_groups))
    grid = GRID[:, None].expand(-1, q.num_groups, 1)
    log_q = law.log_prob(grid)
    return (log_q.exp() * (log_q - prior.log_prob(grid))).sum(0) * STEP


# the KL


@pytest.mark.parametrize("components", [2, 4])
@pytest.mark.parametrize("name", ["standard", "learned", "learned_full"])
def test_the_kl_and_its_gradients_are_those_of_quadrature(name: str, components: int) -> None:
    scale, groups = torch.tensor([0.8]), 6
    q = randomise(Mixture(groups, 1, scale, components=components), 0.6).double()
    p = randomise(prior_class(name)(1, scale), seed=1).double()
    parameters = [q.table, *p.parameters()]

    def flat(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value.sum(), parameters)
        return torch.cat([value.detach(), *(part.to_dense().flatten() for part in parts)])

    expected = flat(kl_by_quadrature(q, p()))
    with seeding(0):
        got = torch.stack([flat(q.kl(q(torch.arange(groups)), p())) for _ in range(400)])
    error = got.std(0) / 20
    deviation = (got.mean(0) - expected).abs()
    # far apart, what is left of the overlap are rare events that the error does not know of
    assert (deviation <= 4.5 * error + 1e-3).all()
    assert error[:groups].max() < 0.02
    assert DRAWS == 8


def test_far_apart_components_pay_the_entropy_of_their_weights_without_noise() -> None:
    """KL = Σ w_k KL_k + Σ w_k log w_k: each group knows which component a draw came from."""
    q = Mixture(1, 2, torch.ones(2), components=2)
    logits, means, log_sds = [0.4, -0.2], [5.0, 5.0, -5.0, -5.0], [-1.0] * 4
    q.load_state_dict({"table": torch.tensor([logits + means + log_sds])})
    p = prior_class("standard")(2, torch.ones(2))()
    law = q(torch.tensor([0]))
    weights = torch.tensor(logits).softmax(0)
    of_one = 25.0 + 2 * (0.5 * math.exp(-2.0) - 0.5 + 1.0)
    expected = of_one + float((weights * weights.log()).sum())
    for _ in range(3):
        assert float(q.kl(law, p).detach()) == pytest.approx(expected, rel=1e-6)


# the full ELBO


@pytest.mark.parametrize("loading", [0.0, 1.5])
def test_the_elbo_states_an_honest_error(loading: float) -> None:
    """Without a loading the KL alone is sampled, so that its own error is seen as well."""
    data = grouped_data(target="real")
    model = tiny_model(data, "linear", latents=(mixed(width=2, prior="standard"),))
    with torch.no_grad():
        for placement in model.latents[0].entries():
            for parameter in placement.parameters():
                parameter.fill_(loading)
    runs = [full_elbo(model, data.train, num_samples=20, seed=seed) for seed in range(80)]
    values = np.array([one.value for one in runs])
    stated = np.array([one.standard_error for one in runs])
    assert (stated > 0).all()
    assert np.sqrt((stated**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.25)
    divergences = np.array([sum(one.kl.values()) for one in runs])
    assert divergences.std() > 0
    if loading == 0:
        log_likelihoods = np.array([one.log_likelihood for one in runs])
        assert log_likelihoods.std() == pytest.approx(0, abs=1e-9)
    reference = full_elbo(model, data.train, num_samples=2000, seed=1000)
    error = math.hypot(reference.standard_error, values.std() / math.sqrt(len(values)))
    assert abs(values.mean() - reference.value) < 4.5 * error
    assert full_elbo(model, data.train, seed=3) == full_elbo(model, data.train, seed=3)
    assert KL_RUNS == 32
