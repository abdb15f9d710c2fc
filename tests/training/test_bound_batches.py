"""The importance-weighted bound in batches of whole blocks: their sums, resuming, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import hlvnn
from hlvnn.config import TrainConfig
from hlvnn.data.block_batches import BlockBatches
from hlvnn.errors import ConfigError
from hlvnn.inference.importance import evidence
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.bound import Bound
from hlvnn.training.fit_result import FitResult
from hlvnn.training.loop import Checkpoint, fit
from tests.helpers import grouped_data, latent, same_bits, small_config, tiny_model
from tests.training.fits import StoppedHere, stopping_after, untimed


def test_batches_hold_whole_blocks_the_same_number_each() -> None:
    data = grouped_data(rows=200, sizes=(30, 3))
    block = data.train.groups[:, 0].long()
    batches = BlockBatches(data.train, block, 40, generator=torch.Generator().manual_seed(0))
    passes = [list(batches) for _ in range(2)]
    for found in passes:
        assert len(found) == len(batches) == 5
        held = [batch.groups[:, 0].unique() for batch in found]
        assert [len(part) for part in held] == [6] * 5
        assert torch.cat(held).sort().values.tolist() == list(range(30))
        index = torch.cat([batch.index for batch in found])
        assert torch.equal(index.sort().values, torch.arange(200))
        for batch in found:
            assert torch.equal(batch.x, data.train.x.take(batch.index))
            assert torch.equal(batch.y, data.train.y[batch.index])
            assert torch.equal(batch.groups, data.train.groups[batch.index])
    assert not torch.equal(passes[0][0].index, passes[1][0].index)


@pytest.mark.parametrize(("size", "batches", "blocks"), [(1, 30, 1), (200, 1, 30), (None, 1, 30)])
def test_a_batch_has_a_block_at_least_and_all_at_most(
    size: int | None, batches: int, blocks: int
) -> None:
    data = grouped_data(rows=200, sizes=(30, 3))
    block = data.train.groups[:, 0].long()
    found = BlockBatches(data.train, block, size, generator=torch.Generator())
    assert (len(found), found.per_batch) == (batches, blocks)
    assert sum(len(batch.y) for batch in found) == 200


def test_the_losses_of_a_pass_add_up_to_the_bound_of_everything() -> None:
    """Uneven blocks, and a last batch that is smaller: each loss is scaled by its blocks."""
    data = grouped_data(rows=200, sizes=(31, 3), target="real")
    model = tiny_model(data, "linear", latents=(latent("bias", "output", prior="learned"),))
    bound = Bound.of(model, data.train)
    batches = bound.batches(data.train, 45, torch.Generator().manual_seed(0), torch.device("cpu"))
    torch.manual_seed(0)
    runs = []
    for _ in range(20):
        total = 0.0
        for batch in batches:
            loss = bound.loss(model, batch, 5)
            blocks = len(batch.groups[:, 0].unique())
            total -= loss.loss.item() * bound.size * blocks / bound.number
            assert loss.gap is not None
            shown = (loss.nll + sum(loss.kl) - loss.gap).item() * len(batch.y)
            assert shown * bound.number / blocks / bound.size == pytest.approx(
                loss.loss.item(), rel=1e-4
            )
        runs.append(total)
    exact = [evidence(model, data.train, 5, seed).value for seed in range(20)]
    error = math.hypot(np.std(runs), np.std(exact)) / math.sqrt(20)
    assert np.mean(runs) == pytest.approx(np.mean(exact), abs=4 * error)


INTERRUPTED: dict[str, dict[str, Any]] = {
    "two levels, dropout": {"latent_config": ("double",), "dropout": 0.3, "prior": "learned"},
    "an encoder": {"latent_config": ("factor",), "posterior": "amortised"},
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_resumed_fit_ends_bit_for_bit_where_an_uninterrupted_one_ends(name: str) -> None:
    data = grouped_data(levels=("writer", "school"), sizes=(12, 4), rows=60)
    settings = TrainConfig(
        num_epochs=4,
        batch_size=16,
        lr=0.01,
        device="cpu",
        objective="iwae",
        num_samples=5,
    )

    def fresh() -> HierarchicalModel:
        return hlvnn.build_model(small_config("mlp", z_dim=2, **INTERRUPTED[name]), data, seed=0)

    def results(model: HierarchicalModel, resume: Checkpoint | None = None) -> FitResult:
        return fit(model, data, settings, resume=resume, seed=3)

    whole, second = fresh(), fresh()
    expected = results(whole)
    kept: list[Checkpoint] = []
    with pytest.raises(StoppedHere):
        fit(fresh(), data, settings, stopping_after(2, kept), seed=3)
    torch.manual_seed(99)
    got = results(second, kept[0])
    assert same_bits(whole, second)
    pd.testing.assert_frame_equal(untimed(got.history), untimed(expected.history), check_exact=True)
    assert (expected.history["bound"] >= expected.history["elbo"] - 20).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "the model has no latents"),
        (
            {"latent_config": ("factor",), "posterior": "mixture"},
            r"latent writer concat@output has posterior mixture, and a mixture's draws",
        ),
        (
            {"latent_config": ("embedding",)},
            r"latent writer concat@output has posterior point, and a point has no density",
        ),
    ],
)
def test_models_that_have_no_such_gradient_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    data = grouped_data()
    model = hlvnn.build_model(small_config("mlp", z_dim=2, **settings), data, seed=0)
    with pytest.raises(ConfigError, match=rf"--objective iwae: {message}.*--objective elbo"):
        fit(model, data, TrainConfig(objective="iwae", num_samples=5))


@pytest.mark.parametrize(("name", "value"), [("kl_weight", 0.5), ("kl_annealing", 2.0)])
def test_settings_that_make_it_another_bound_are_refused(name: str, value: object) -> None:
    flag = f"--{name.replace('_', '-')} {value}"
    with pytest.raises(ValueError, match=f"{flag} does not go with --objective iwae"):
        TrainConfig(objective="iwae", **{name: value})  # type: ignore[arg-type]
