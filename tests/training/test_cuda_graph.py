"""Steps that a GPU looks up and replays: the same as the loop's own, one by one and recorded."""

from __future__ import annotations

import copy
import math
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.optim import RowwiseAdam
from hlvnn.training.cuda_graph import MIN_STEPS, TRIAL_STEPS, RecordedSteps
from hlvnn.training.loop import EpochReport, fit
from hlvnn.training.step import Step
from tests.helpers import generator

ROWS, GROUPS, BATCH = 230, 7, 20
KINDS = {"mlp": "features", "cnn": "image", "lstm": "tokens"}
STRUCTURES: dict[str, dict[str, Any]] = {
    "none": {"latent_config": ("none",)},
    "factor": {"latent_config": ("factor",)},
    "film": {"latent_config": ("film",)},
    "double": {"latent_config": ("double",)},
    "full rank": {"latent_config": ("factor",), "posterior": "full_rank"},
    "low rank": {"latent_config": ("factor",), "posterior": "low_rank"},
    "mixture": {"latent_config": ("factor",), "posterior": "mixture"},
    "point": {"latent_config": ("bias",), "posterior": "point", "prior": "standard"},
    "nested": {
        "latents": (
            "- level=school width=3 prior=learned",
            "concat@output level=pupil width=3 prior=nested parent=school",
        )
    },
    "learned full": {"latent_config": ("factor",), "prior": "learned_full"},
    "intercepts": {"latents": ("bias@output level=pupil width=3 prior=learned",)},
}


def data(x_kind: str = "features") -> GroupedDataset:
    """Return rows of pupils in schools, with a signal."""
    random = generator(3)
    pupil = torch.randint(0, GROUPS, (ROWS,), generator=random)
    groups = torch.stack([pupil, pupil // 3], dim=1).to(torch.int32)
    shape = {"features": (6,), "image": (8, 8), "tokens": (12,)}[x_kind]
    x = torch.randn((ROWS, *shape), generator=random)
    if x_kind == "image":
        x = (x.abs() * 80).clamp(max=255).to(torch.uint8)
    if x_kind == "tokens":
        x = torch.randint(0, 9, (ROWS, *shape), generator=random).to(torch.uint8)
    y = (x.float().flatten(1).sum(1) + pupil).long() % 3
    schema = Schema(
        levels=(Level("pupil", GROUPS), Level("school", 3)),
        x_kind=x_kind,
        x_shape=shape,
        num_tokens=9 if x_kind == "tokens" else None,
        target=Target("class", "class", None, 3),
    )
    rows = Split(TensorRows(x), groups, y)
    val = rows.subset(torch.arange(0, ROWS, 5))
    return GroupedDataset(schema, rows, val)


def model(rows: GroupedDataset, structure: str, backbone: str = "mlp", **more: Any) -> Any:
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, **STRUCTURES[structure], **more)
    return build_model(config, rows)


def trained(
    start: HierarchicalModel, rows: GroupedDataset, config: TrainConfig, looked_up: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the weights and the last epoch's sums after all steps of full batches."""
    network = copy.deepcopy(start).train()
    full = rows.train.subset(torch.arange(ROWS - ROWS % BATCH))
    batches = Batches(full, BATCH, generator=generator(1))
    step = Step(network, config, None, len(batches))
    recorded = RecordedSteps(step, batches, at_once=4)
    torch.manual_seed(2)
    number = 0
    sums = torch.zeros(1 + len(network.latents))
    for _ in range(config.num_epochs):
        sums = torch.zeros_like(sums)
        if looked_up:
            recorded.begin(batches.order(), number)
            left = recorded.per_epoch
            while left:
                done = recorded(number, left)
                number, left = number + done, left - done
            sums = recorded.end().clone()
            continue
        for batch in batches:
            sums += BATCH * torch.stack(step(batch, number)[1])
            number += 1
    return network.state_dict(), sums


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_step_that_looks_up_what_comes_next_is_the_loops_own(structure: str) -> None:
    rows = data()
    start = model(rows, structure, dropout=0.2)
    config = TrainConfig(
        num_epochs=3, lr=0.01, lr_schedule="one_cycle", kl_annealing=1.5, prior_warmup=0.4
    )
    one, sums = trained(start, rows, config, looked_up=False)
    other, looked_up = trained(start, rows, config, looked_up=True)
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(looked_up, sums, rtol=1e-5, atol=1e-5)


def test_it_clips_and_decays_as_the_loop_does() -> None:
    rows = data()
    start = model(rows, "factor")
    config = TrainConfig(num_epochs=2, lr=0.01, clip_grad=0.05, weight_decay=0.1)
    one, _ = trained(start, rows, config, looked_up=False)
    other, _ = trained(start, rows, config, looked_up=True)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-6, msg=name)


def test_dense_gradients_move_rows_as_sparse_ones_do() -> None:
    random = generator(5)
    one = torch.nn.Parameter(torch.randn(5, 4, generator=random))
    other = torch.nn.Parameter(one.detach().clone())
    mine, theirs = RowwiseAdam([one], lr=0.1), RowwiseAdam([other], lr=0.1)
    for number in range(20):
        rows = torch.randperm(5, generator=random)[: 1 + number % 3]
        values = torch.randn(len(rows), 4, generator=random)
        one.grad = torch.sparse_coo_tensor(rows[None], values, (5, 4), check_invariants=True)
        other.grad = torch.zeros(5, 4).index_copy(0, rows, values)
        mine.step()
        theirs.step()
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    for name, values in mine.state[one].items():
        torch.testing.assert_close(theirs.state[other][name], values, rtol=1e-5, atol=1e-6)


def test_only_a_step_of_the_same_operations_is_recorded() -> None:
    rows = data()

    def is_possible(structure: str, batch_size: int | None = BATCH, **more: Any) -> bool:
        batches = Batches(rows.train, batch_size, generator=generator(0))
        network = model(rows, structure, **more)
        return RecordedSteps.is_possible(Step(network, TrainConfig(), None, len(batches)), batches)

    assert is_possible("factor")
    assert is_possible("none")
    assert not is_possible("factor", batch_size=None), "one batch of everything: nothing to look up"
    assert not is_possible("factor", posterior="amortised")
    assert not is_possible("factor", posterior="joint")
    assert not is_possible("low rank")
    assert not is_possible("mixture")


def reports(rows: GroupedDataset, config: TrainConfig, **how: Any) -> pd.DataFrame:
    network = model(rows, **how)
    kept: list[dict[str, float]] = []

    def keep(epoch: EpochReport, checkpoint: object) -> None:
        kept.append(epoch.row)

    fit(network, rows, config, keep, seed=4)
    return pd.DataFrame(kept)


@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm"])
def test_bf16_rounds_the_networks_products_and_nothing_else(backbone: str) -> None:
    rows = data(KINDS[backbone])
    network = model(rows, "film", backbone)
    (batch,) = Batches(rows.train, None)
    at = network.latents.at(batch.groups, unseen=False)
    draws = [law.mean[None] for law in at.posteriors]
    exact = network(batch.x, draws)
    network.precision = "bf16"
    rounded = network(batch.x, draws)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    config = TrainConfig(num_epochs=2, batch_size=BATCH, device="cpu", precision="bf16")
    fitted = fit(network, rows, config)
    assert not fitted.diverged
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.precision == "bf16", "as it was before the fit"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm"])
def test_a_recorded_fit_in_low_precision_is_near_the_exact_one(
    backbone: str, precision: str
) -> None:
    rows = data(KINDS[backbone])
    settings = {"num_epochs": 20, "batch_size": BATCH, "device": "cuda"}
    exact = reports(rows, TrainConfig(**settings), structure="film", backbone=backbone)
    config = TrainConfig(**settings, precision=precision)
    low = reports(rows, config, structure="film", backbone=backbone)
    assert abs(low["train_loss"] - exact["train_loss"]).iloc[-1] < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("backbone", ["mlp", "cnn", "lstm"])
def test_a_recorded_fit_is_the_one_that_is_not(structure: str, backbone: str) -> None:
    rows = data(KINDS[backbone])
    epochs = math.ceil(2 * MIN_STEPS / (ROWS // BATCH + 1))
    settings = {"num_epochs": epochs, "batch_size": BATCH, "device": "cuda", "prior_warmup": 0.5}
    how = {"structure": structure, "backbone": backbone, "dropout": 0.2}
    graph = reports(rows, TrainConfig(**settings), **how)
    plain = reports(rows, TrainConfig(**settings, cuda_graph="off"), **how)
    names = [name for name in plain if name.endswith(("loss", "nll", "acc")) or "kl_" in name]
    early, late = graph.loc[0, names], graph.loc[len(graph) - 1, names]
    assert (early - plain.loc[0, names]).abs().max() < 0.02
    assert (late - plain.loc[len(plain) - 1, names]).abs().max() < 0.1 * (1 + late.abs().max())


@pytest.mark.gpu
@pytest.mark.parametrize("graph", ["auto", "off"])
def test_a_fit_resumes_on_a_gpu(graph: str) -> None:
    rows = data()
    config = TrainConfig(num_epochs=20, batch_size=BATCH, device="cuda", cuda_graph=graph)
    saved: list[Any] = []

    def keep(epoch: EpochReport, checkpoint: Any) -> None:
        if epoch.epoch == 10:
            saved.append(copy.deepcopy(checkpoint()))

    whole = fit(model(rows, "factor"), rows, config, keep, seed=1)
    resumed = fit(model(rows, "factor"), rows, config, resume=saved[0], seed=1)
    assert resumed.epochs == whole.epochs == 20
    ends = [result.history.iloc[-1]["train_loss"] for result in (whole, resumed)]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)
    assert ROWS // BATCH * 20 > MIN_STEPS + 2 * TRIAL_STEPS
