"""Posteriors that an encoder reads off the group's own rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import hlvnn
from hlvnn.config import LatentConfig, ModelConfig, TrainConfig
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import ConfigError
from hlvnn.inference.objective import BatchLoss, batch_loss
from hlvnn.inference.predict import predict
from hlvnn.latents.posteriors._members import Members
from hlvnn.latents.posteriors.amortised import Amortised
from hlvnn.models.model import HierarchicalModel
from tests.helpers import generator, grouped_data, latent, randomise, small_config

KINDS = ("features", "image", "tokens")
BACKBONE = {"features": "mlp", "image": "cnn", "tokens": "lstm"}


def built(data: GroupedDataset, *, context: int = 50, **settings: object) -> HierarchicalModel:
    kind = data.schema.x_kind
    entry = latent("concat", "output", width=2, posterior="amortised", context=context, **settings)
    model = hlvnn.build_model(small_config(BACKBONE[kind], latents=(entry,)), data)
    return randomise(model, 0.1)


def encoder(model: HierarchicalModel) -> Amortised:
    (only,) = model.latents
    assert isinstance(only.posterior, Amortised)
    return only.posterior


def laws(model: HierarchicalModel) -> Tensor:
    q = encoder(model)(torch.arange(6))
    return torch.cat([q.mean, q.stddev], dim=-1).detach()


@pytest.mark.parametrize("target", ["class", "real"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_encoder_of_any_kind_of_row(kind: str, target: str) -> None:
    data = grouped_data(kind, target=target)
    model = built(data, prior="learned").train()
    (batch,) = Batches(data.train, None)
    for _ in range(2):  # a second step finds nothing of the first one's graph
        model.zero_grad()
        batch_loss(model, batch, 1.0, 1).loss.backward()
    for name, parameter in model.latents.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_rows_does_not_matter(kind: str) -> None:
    data = grouped_data(kind)
    order = torch.randperm(len(data.train), generator=generator())
    shuffled = GroupedDataset(data.schema, data.train.subset(order))
    model, again = built(data).train(), built(shuffled).train()
    torch.testing.assert_close(laws(model), laws(again), rtol=1e-4, atol=1e-5)


def test_no_rows_leave_exactly_the_prior() -> None:
    q = encoder(built(grouped_data()))
    empty = q.pooled(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 3, torch.zeros(0))
    assert torch.equal(empty, torch.zeros(3, 4)), "mean 0 and log SD 0: N(0, I) in ε"


def test_pooling_is_the_product_of_the_experts_and_the_prior() -> None:
    q = encoder(built(grouped_data()))
    experts = torch.randn(5, 4, generator=generator())
    pooled = q.pooled(experts, torch.zeros(5, dtype=torch.int64), 1, torch.ones(5))[0]
    law = q.law(pooled[None])
    grid = torch.linspace(-4, 4, 2001)
    alone = [
        q.pooled(row[None], torch.zeros(1, dtype=torch.int64), 1, torch.ones(1))[0]
        for row in experts
    ]
    for z in range(2):
        # each expert alone gives prior × expert: five of them hold the prior four times too often
        log_density = -4 * Normal(0.0, 1.0).log_prob(grid)
        for one in alone:
            log_density = log_density + Normal(one[z], one[2 + z].exp()).log_prob(grid)
        density = log_density.softmax(0)
        mean = (density * grid).sum()
        assert float(mean) == pytest.approx(float(law.mean[0, z]), abs=2e-3)
        variance = (density * (grid - mean).square()).sum()
        assert float(variance) == pytest.approx(float(law.variance[0, z]), rel=2e-2)


def test_a_part_of_the_rows_stands_for_all_of_them() -> None:
    """Rows that are alike: any number of them read gives the same law."""
    data = grouped_data()
    index = torch.tensor([int((data.train.groups[:, 0] == g).int().argmax()) for g in range(6)])
    same = index[data.train.groups[:, 0].long()]
    alike = Split(data.train.x.subset(same), data.train.groups, data.train.y[same])
    data = GroupedDataset(data.schema, alike)
    few, all_of_them = built(data, context=2).train(), built(data, context=1000).train()
    few.load_state_dict(all_of_them.state_dict())
    torch.testing.assert_close(laws(few), laws(all_of_them), rtol=1e-4, atol=1e-5)


def test_a_saved_model_needs_no_rows() -> None:
    data = grouped_data()
    model = built(data)
    model.latents.refresh()
    fresh = hlvnn.models.build.assemble(
        small_config(latents=(latent("concat", "output", width=2, posterior="amortised"),)),
        data.schema,
    )
    fresh.load_state_dict(model.state_dict())
    assert data.val is not None
    pd.testing.assert_frame_equal(predict(model, data.val), predict(fresh, data.val))
    torch.testing.assert_close(laws(model.train()), laws(fresh.eval()))


def test_a_fit_is_used_as_it_was_left() -> None:
    """Evaluation reads what was kept of the encoder's last state, not of an earlier one."""
    data = grouped_data()
    model = built(data)
    hlvnn.fit(model, data, TrainConfig(num_epochs=2, batch_size=8))
    kept = laws(model.eval())
    torch.testing.assert_close(kept, laws(model.train()))
    assert not torch.equal(kept, torch.cat([torch.zeros(6, 2), torch.ones(6, 2)], dim=1))


def test_under_a_learned_prior_it_describes_the_whitened_latent() -> None:
    model = built(grouped_data(), prior="learned_full")
    model.latents.refresh()
    (only,) = model.latents
    prior = only.prior()
    assert isinstance(prior, MultivariateNormal)
    tril = prior.scale_tril
    q = encoder(model.eval())(torch.arange(6))
    mean, sd = model.latents.marginal(0)
    torch.testing.assert_close(mean, q.mean @ tril.T)
    factor = tril @ torch.diag_embed(q.stddev)
    torch.testing.assert_close(sd, factor.square().sum(-1).sqrt())


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # a model without features
def test_it_finds_the_exact_posterior_of_a_random_intercept(shared: Path) -> None:
    """The exact posterior is such a product: an expert at y_i − intercept, the same λ for all."""
    frame = pd.read_csv(shared / "data/grouped/Dyestuff.csv.gz")
    data = GroupedDataset.from_frame(frame, target="Yield", features=[], groups=["Batch"])
    entry = LatentConfig(
        level="Batch", stage="output", placement="bias", posterior="amortised", prior="learned"
    )
    config = ModelConfig(backbone="linear", likelihood="gaussian", latents=(entry,))
    model = hlvnn.build_model(config, data)
    result = hlvnn.fit(
        model, data, TrainConfig(num_epochs=600, batch_size=None, lr=0.02, eval_every=600)
    )
    assert -2 * result.elbo == pytest.approx(327.3271, abs=0.02)


def test_parts_of_groups_are_any_set_of_their_size_with_the_row_in_them() -> None:
    group = torch.tensor([0, 1, 1, 0, 2, 1, 1, 0, 1])  # sizes 3, 5, 1
    members = Members(group, 3)
    drawn: dict[frozenset[int], int] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(1500):
            index = torch.randperm(len(group))
            read, sizes = members.parts(index, 10)
            for row, part, size in zip(index.tolist(), read.tolist(), sizes.tolist(), strict=True):
                chosen = {i for i in part if i >= 0}
                assert row in chosen
                assert len(chosen) == size == sum(i >= 0 for i in part)
                assert {int(group[i]) for i in chosen} == {int(group[row])}
                if group[row] == 1:
                    drawn[frozenset(chosen)] = drawn.get(frozenset(chosen), 0) + 1
    total = sum(drawn.values())
    for size in range(1, 6):
        shares = [n / total for part, n in drawn.items() if len(part) == size]
        expected = math.log((size + 1) / size) / math.log(6)
        assert len(shares) == math.comb(5, size)
        assert sum(shares) == pytest.approx(expected, abs=0.02), "sizes are log-uniform"
        assert max(shares) / min(shares) < 1.6, "every part of a size is as likely"


def test_of_a_large_part_only_so_many_rows_are_read() -> None:
    """The row is among those read as often as any other of its part."""
    members = Members(torch.zeros(40, dtype=torch.int64), 1)
    own, expected = 0, 0.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(200):
            read, sizes = members.parts(torch.arange(40), 4)
            assert ((read >= 0).sum(1) == sizes.clamp(max=4)).all()
            assert all(len(set(part)) == 4 for part in read[sizes >= 4].tolist())
            own += int((read == torch.arange(40)[:, None]).sum())
            expected += float((sizes.clamp(max=4) / sizes).sum())
    assert own == pytest.approx(expected, rel=0.05)


def test_in_part_a_law_is_read_off_a_part_of_its_group() -> None:
    """Each row pays KL(q_C ‖ p) / |C|, and the law that it meets is read off C."""
    data = grouped_data()
    model = built(data, prior="learned").train()
    (batch,) = Batches(data.train, None)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        rows = model.latents.at(batch.groups, unseen=False, index=batch.index)
    ((q,), (sizes,), (shares,)) = rows.posteriors, rows.sizes, model.latents.kl_rows(rows)
    counts = model.latents.counts(0)[batch.groups[:, 0].long()]
    assert (sizes >= 1).all()
    assert (sizes <= counts).all()
    assert (sizes < counts).any()
    zero_one = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    torch.testing.assert_close(shares, kl_divergence(q, zero_one) / sizes)
    evaluated = model.eval().latents.at(batch.groups, unseen=False, index=batch.index)
    assert torch.equal(evaluated.sizes[0], counts), "only in training"


def test_only_the_encoder_learns_from_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = grouped_data()
    one_step = TrainConfig(num_epochs=1, batch_size=None, prior_warmup=0.0)
    model, without = built(data, prior="learned"), built(data, prior="learned")
    hlvnn.fit(model, data, one_step)

    def nothing(model: HierarchicalModel, *_: object) -> BatchLoss:
        zero = sum(p.sum() * 0 for p in model.parameters())
        assert isinstance(zero, Tensor)
        return BatchLoss(zero, zero, [])

    monkeypatch.setattr("hlvnn.training.step.parts_loss", nothing)
    hlvnn.fit(without, data, one_step)
    for (name, one), other in zip(model.named_parameters(), without.parameters(), strict=True):
        if name.endswith("table"):
            continue
        assert torch.equal(one, other) == ("encoder" not in name), name


@pytest.fixture(scope="module")
def random_intercepts() -> tuple[HierarchicalModel, float]:
    """A model fitted to 60 groups of 60 rows, and its own (prior SD / noise SD)², about 1."""
    random = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 60)
    y = random.normal(size=60)[who] + random.normal(size=len(who))
    frame = pd.DataFrame({"y": y, "who": who, "x": 0.0})
    data = GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["who"])
    entry = LatentConfig(
        level="who",
        stage="output",
        placement="bias",
        posterior="amortised",
        prior="learned",
        context=30,
    )
    config = ModelConfig(backbone="linear", likelihood="gaussian", latents=(entry,))
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, TrainConfig(num_epochs=12, batch_size=60, lr=0.01, eval_every=12))
    summary = model.summary().set_index("part")["estimate"]
    return model, float(summary["prior sd"] / summary["noise sd"]) ** 2


@pytest.mark.parametrize("rows", [1, 2, 5, 20, 60, 120])
def test_it_is_as_sure_as_a_groups_rows_allow(
    random_intercepts: tuple[HierarchicalModel, float], rows: int
) -> None:
    """Exact: precision 1 + n τ²/σ² in units of the prior's, whatever a group's rows are."""
    model, ratio = random_intercepts
    random = np.random.default_rng(1)
    who = np.repeat(np.arange(50), rows)
    y = random.normal(size=50)[who] + random.normal(size=len(who))
    frame = pd.DataFrame({"y": y, "who": 1000 + who, "x": 0.0})
    adapted = hlvnn.adapt(model, frame, method="encoder")
    found = adapted.posterior("who").iloc[60:]
    summary = model.summary().set_index("part")["estimate"]
    precision = summary["prior sd"] ** 2 / found["sd_(Intercept)"] ** 2
    expected = 1 + rows * ratio
    assert precision.mean() == pytest.approx(expected, rel=0.05)
    intercept = model.summary().set_index("term").loc["(Intercept)", "estimate"].iloc[0]
    mean = (frame["y"] - intercept).groupby(who).sum().to_numpy() * ratio / expected
    sd = summary["prior sd"] / math.sqrt(expected)
    assert np.abs(found["mean_(Intercept)"] - mean).mean() < 0.3 * sd


def test_context_belongs_to_it_alone() -> None:
    entry = latent("concat", "output", width=2, context=5)
    with pytest.raises(ConfigError, match="context does not belong to posterior mean_field"):
        hlvnn.build_model(small_config(latents=(entry,)), grouped_data())
