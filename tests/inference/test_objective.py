"""The ELBO: each row's share of the KL adds up, batches are unbiased, the full value is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.objective import batch_loss, full_elbo, has_closed_form
from hlvnn.models.model import HierarchicalModel
from tests.helpers import grouped_data, latent, tiny_model

LEVELS = ("character", "play")
ENTRIES = (
    latent("concat", "output", "character", width=2, prior="learned"),
    latent("concat", "output", "play", width=3, posterior="full_rank", prior="learned_full"),
    latent("bias", "output", "play"),
)
WITH_A_POINT = (*ENTRIES, latent("concat", "hidden1", "character", width=2, posterior="point"))


def exact_case(rows: int = 48) -> tuple[HierarchicalModel, GroupedDataset]:
    """Return a model whose ELBO has a closed form: latents enter linearly, y is Gaussian."""
    data = grouped_data(levels=LEVELS, target="real", rows=rows)
    model = tiny_model(data, latents=ENTRIES)
    assert has_closed_form(model)
    return model, data


def sampled_case() -> tuple[HierarchicalModel, GroupedDataset]:
    """Return a model whose ELBO needs draws: classes, and a latent below the top."""
    data = grouped_data(levels=LEVELS)
    model = tiny_model(data, latents=WITH_A_POINT)
    assert not has_closed_form(model)
    return model, data


def gaussian_kl(mean: Tensor, v: Tensor, prior: Tensor) -> float:
    """Return KL(N(mean, v) ‖ N(0, prior)) by the textbook formula, in numpy."""
    m, v, t = (x.detach().double().numpy() for x in (mean, v, prior))
    inverse = np.linalg.inv(t)
    log_ratio = np.linalg.slogdet(t)[1] - np.linalg.slogdet(v)[1]
    return 0.5 * float(np.trace(inverse @ v) + m @ inverse @ m - len(m) + log_ratio)


def sum_over_groups(model: HierarchicalModel) -> list[float]:
    """Return Σ_g KL of each latent, group by group, from first and second moments alone."""
    totals = []
    for one in model.latents:
        total = 0.0
        for group in range(len(model.latents.counts(one.level))):
            q, p = one.posterior(torch.tensor([group])), one.prior()
            if not one.posterior.normal:
                total += 0.5 * float(
                    q.mean.detach().square().sum()
                )  # a point under the standard prior
                continue
            covariance = [
                getattr(law, "covariance_matrix", torch.diag_embed(law.variance)) for law in (q, p)
            ]
            total += gaussian_kl(q.mean[0], covariance[0][0], covariance[1])
        totals.append(total)
    return totals


@pytest.mark.parametrize("case", [exact_case, sampled_case])
def test_the_shares_of_all_rows_add_up_to_the_sum_over_groups(case) -> None:
    model, data = case()
    counts = [data.counts(level).tolist() for level in range(2)]
    assert all(len(set(rows)) > 2 for rows in counts), "the groups should be uneven"
    rows = model.latents.at(data.train.groups, unseen=False)
    shares = model.latents.kl_rows(rows)
    expected = sum_over_groups(model)
    assert all(value > 0.1 for value in expected)
    for got, total in zip(shares, expected, strict=True):
        assert got.shape == (len(data.train),)
        assert float(got.detach().double().sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("case", [exact_case, sampled_case])
def test_the_totals_are_the_sum_over_groups(case) -> None:
    model, _ = case()
    assert model.latents.kl_totals() == pytest.approx(sum_over_groups(model), rel=1e-5)
    assert model.latents.kl_totals(chunk=2) == pytest.approx(sum_over_groups(model), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch_size", [1, 7, 48])
def test_batches_average_to_the_full_loss(batch_size: int, beta: float) -> None:
    model, data = exact_case()
    rows = len(data.train)
    total = torch.zeros((), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for batch in Batches(data.train, batch_size, generator=generator):
        loss = batch_loss(model, batch, beta, 1)
        total += loss.loss.detach().double() * len(batch.y) / rows
    elbo = full_elbo(model, data.train)
    expected = (-elbo.log_likelihood + beta * sum(elbo.kl.values())) / rows
    assert float(total) == pytest.approx(expected, rel=1e-5)
    if beta == 1:
        assert float(total) == pytest.approx(-elbo.value / rows, rel=1e-5)


def gradients(model: HierarchicalModel) -> dict[str, Tensor]:
    return {
        name: parameter.grad.to_dense().double().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def test_gradients_of_batches_average_to_the_full_gradient() -> None:
    model, data = exact_case()
    sums: dict[str, Tensor] = {}
    for batch in Batches(data.train, 7):
        model.zero_grad()
        batch_loss(model, batch, 1.0, 1).loss.backward()
        for name, gradient in gradients(model).items():
            share = gradient * len(batch.y) / len(data.train)
            sums[name] = sums.get(name, torch.zeros_like(gradient)) + share
    model.zero_grad()
    (whole,) = Batches(data.train, None)
    batch_loss(model, whole, 1.0, 1).loss.backward()
    full = gradients(model)
    assert sums.keys() == full.keys()
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in full.values())
    for name, gradient in full.items():  # some are 0 in exact arithmetic, see `Latent.scaled`
        torch.testing.assert_close(sums[name], gradient, rtol=1e-4, atol=rounding)


def test_a_sampled_batch_is_unbiased() -> None:
    model, data = sampled_case()
    (whole,) = Batches(data.train, None)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        values = torch.stack([batch_loss(model, whole, 1.0, 1).loss for _ in range(400)]).double()
    reference = full_elbo(model, data.train, num_samples=4000)
    error = float(values.std()) / math.sqrt(len(values))
    error = math.hypot(error, reference.standard_error / len(data.train))
    assert abs(float(values.mean()) + reference.value / len(data.train)) < 4 * error


def test_the_parts_of_a_batch_loss_add_up() -> None:
    model, data = sampled_case()
    (whole,) = Batches(data.train, None)
    loss = batch_loss(model, whole, 0.7, 2)
    assert len(loss.kl) == len(model.latents)
    torch.testing.assert_close(loss.loss, loss.nll + 0.7 * torch.stack(loss.kl).sum())


def test_several_draws_average_the_log_likelihood_not_the_likelihood() -> None:
    model, data = sampled_case()
    (whole,) = Batches(data.train, None)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        rows = model.latents.at(whole.groups, unseen=False)
        eta = model(whole.x, model.latents.sample(rows, 5))
        expected = eta.log_softmax(-1).gather(-1, whole.y.expand(5, -1)[..., None]).mean()
        torch.manual_seed(0)
        got = batch_loss(model, whole, 1.0, 5).nll
    torch.testing.assert_close(got, -expected)


# the full value


def test_the_exact_elbo_is_that_of_monte_carlo() -> None:
    model, data = exact_case()
    exact = full_elbo(model, data.train)
    assert exact.standard_error == 0
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        (whole,) = Batches(data.train, None)
        rows = model.latents.at(whole.groups, unseen=False)
        eta = model(whole.x, model.latents.sample(rows, 20_000))
        sums = model.likelihood.log_prob(eta, whole.y).double().sum(1)
    error = float(sums.std()) / math.sqrt(len(sums))
    assert abs(exact.log_likelihood - float(sums.mean())) < 4 * error
    assert exact.value == pytest.approx(exact.log_likelihood - sum(sum_over_groups(model)))


@pytest.mark.parametrize("rank", [1, 2])
def test_the_exact_elbo_of_low_rank_is_that_of_full_rank_with_the_same_covariance(
    rank: int,
) -> None:
    data = grouped_data(target="real")

    def model(**posterior: object) -> HierarchicalModel:
        entry = latent("concat", "output", width=3, prior="learned_full", **posterior)
        return tiny_model(data, latents=(entry,))

    low, full = model(posterior="low_rank", posterior_rank=rank), model(posterior="full_rank")
    assert has_closed_form(low)
    law = low.latents[0].posterior(torch.arange(6))
    tril = torch.linalg.cholesky(law.covariance_matrix.detach())
    row, column = torch.tril_indices(3, 3, -1)
    log_diagonal = tril.diagonal(dim1=-2, dim2=-1).log()
    table = torch.cat([law.mean.detach(), log_diagonal, tril[:, row, column]], dim=1)
    full.load_state_dict({**low.state_dict(), "latents.latents.0.posterior.table": table})
    one, other = full_elbo(low, data.train), full_elbo(full, data.train)
    assert one.standard_error == other.standard_error == 0
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-5)
    assert one.value == pytest.approx(other.value, rel=1e-5)


def test_a_sampled_elbo_states_its_error() -> None:
    model, data = sampled_case()
    reference = full_elbo(model, data.train, num_samples=5000)
    estimates = [full_elbo(model, data.train, num_samples=10, seed=seed) for seed in range(1, 61)]
    values = np.array([one.value for one in estimates])
    stated = np.array([one.standard_error for one in estimates])
    assert (stated > 0).all()
    assert np.sqrt((stated**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.3)
    assert abs(values.mean() - reference.value) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("batch_size", [5, 48, 1000])
def test_the_full_elbo_does_not_depend_on_how_it_is_cut(batch_size: int) -> None:
    model, data = exact_case()
    whole = full_elbo(model, data.train)
    assert full_elbo(model, data.train, batch_size=batch_size).value == pytest.approx(whole.value)


def test_points_and_models_without_latents_are_exact() -> None:
    data = grouped_data()
    (whole,) = Batches(data.train, None)
    for entries in ((), (latent("concat", "hidden1", width=2, posterior="point"),)):
        model = tiny_model(data, latents=entries)
        elbo = full_elbo(model, data.train)
        z = [one.posterior(whole.groups[:, 0]).mean[None] for one in model.latents]
        log_prob = model(whole.x, z)[0].log_softmax(-1).gather(-1, whole.y[:, None]).sum()
        assert elbo.standard_error == 0
        assert elbo.value == pytest.approx(
            float(log_prob.detach()) - sum(sum_over_groups(model)), rel=1e-5
        )


def test_the_elbo_names_each_latents_kl() -> None:
    model, data = exact_case()
    assert list(full_elbo(model, data.train).kl) == [
        "character concat@output",
        "play concat@output",
        "play bias@output",
    ]


def test_the_elbo_is_below_the_log_evidence_and_reaches_it_at_the_true_posterior() -> None:
    """A conjugate case: y = z + noise, one group, known variances; the evidence is a normal."""
    data = grouped_data("features", sizes=(1,), target="real", rows=12)
    entry = latent("bias", "output", posterior="full_rank", prior="standard")
    model = tiny_model(data, "linear", latents=(entry,))
    likelihood = model.likelihood
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
        likelihood.log_noise.fill_(math.log(0.8))
    y = (data.train.y - likelihood.center) / likelihood.scale
    n, noise = len(y), 0.8**2
    covariance = torch.full((n, n), 1.0, dtype=torch.float64) + noise * torch.eye(n).double()
    law = torch.distributions.MultivariateNormal(torch.zeros(n).double(), covariance)
    evidence = float(law.log_prob(y)) - n * math.log(float(likelihood.scale))
    below = full_elbo(model, data.train).value
    variance = 1 / (1 + n / noise)
    mean = variance * float(y.sum()) / noise
    with torch.no_grad():
        (one,) = model.latents
        one.posterior.table.copy_(torch.tensor([[mean, 0.5 * math.log(variance)]]))
    assert full_elbo(model, data.train).value == pytest.approx(evidence, abs=1e-4)
    assert below < evidence - 0.1


def test_measuring_leaves_the_mode_and_the_callers_random_stream_alone() -> None:
    model, data = sampled_case()
    before = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        full_elbo(model, data.train)
        assert model.training is training
    assert torch.equal(torch.get_rng_state(), before)


def test_measuring_is_without_dropout() -> None:
    data = grouped_data(levels=LEVELS, target="real")
    model = tiny_model(data, latents=ENTRIES, dropout=0.5).train()
    assert full_elbo(model, data.train, seed=1) == full_elbo(model, data.train, seed=2)
