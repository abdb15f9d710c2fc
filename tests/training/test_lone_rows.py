"""A last batch of one row, which batch normalisation cannot take, joins the batch before."""

from __future__ import annotations

import pytest
import torch

from hlvnn.config import TrainConfig
from hlvnn.data.batches import Batches
from hlvnn.data.block_batches import BlockBatches
from hlvnn.errors import ConfigError
from hlvnn.training.checks import check
from hlvnn.training.cuda_graph import RecordedSteps
from hlvnn.training.loop import fit
from hlvnn.training.step import Step
from tests.helpers import data_for, generator, grouped_data, tiny_model


@pytest.mark.parametrize("backbone", ["cnn", "lstm", "mlp"])
@pytest.mark.parametrize("rows", [181, 31])
def test_batch_normalisation_trains_whatever_rows_are_left(backbone: str, rows: int) -> None:
    """181 rows in batches of 30 ended in "Expected more than 1 value per channel"."""
    data = data_for(backbone, rows=rows)
    model = tiny_model(data, backbone, norm="batch", latent_config=("factor",))
    result = fit(model, data, TrainConfig(num_epochs=2, batch_size=30, device="cpu"))
    assert not result.diverged


@pytest.mark.parametrize(
    ("rows", "size", "least", "sizes"),
    [
        (181, 30, 2, [30] * 5 + [31]),
        (181, 30, 1, [30] * 6 + [1]),
        (182, 30, 2, [30] * 6 + [2]),
        (180, 30, 2, [30] * 6),
        (31, 30, 2, [31]),
        (1, 30, 2, [1]),
    ],
)
def test_every_row_comes_once_and_in_its_order(
    rows: int, size: int, least: int, sizes: list[int]
) -> None:
    split = grouped_data(rows=190).train.subset(torch.arange(rows))
    batches, before = (
        Batches(split, size, generator=generator(), least=number) for number in (least, 1)
    )
    found = list(batches)
    assert [len(batch.y) for batch in found] == sizes
    assert len(batches) == len(sizes)
    order = torch.cat([batch.index for batch in found])
    assert torch.equal(order, torch.cat([batch.index for batch in before]))
    assert torch.equal(torch.cat([batch.y for batch in found]), split.y[order])


def test_a_last_block_of_one_row_joins_the_batch_before() -> None:
    split = grouped_data(rows=41).train
    batches = BlockBatches(split, torch.arange(41), 10, generator=generator(), least=2)
    sizes = [len(batch.y) for batch in batches]
    assert sizes == [10, 10, 10, 11]
    assert len(batches) == 4


def test_recorded_steps_leave_the_joined_batch_to_the_loop() -> None:
    data = grouped_data(rows=181)
    config = TrainConfig(num_epochs=2, batch_size=30)
    model = tiny_model(data, norm="batch", latent_config=("factor",))
    batches = Batches(data.train, 30, generator=generator(), least=2)
    step = Step(model, config, None, len(batches))
    assert RecordedSteps.is_possible(step, batches)
    recorded = RecordedSteps(step, batches)
    assert len(batches.order()[len(recorded.order) :]) == 31
    assert not RecordedSteps.is_possible(step, Batches(data.train, 180, least=2))


@pytest.mark.parametrize("size", [1, None])
def test_batches_of_one_row_are_refused(size: int | None) -> None:
    data = grouped_data(rows=24, sizes=(1,) if size is None else (6,))
    model = tiny_model(data, norm="batch")
    if size is None:
        data = type(data)(data.schema, data.train.subset(torch.arange(1)))
    with pytest.raises(ConfigError, match=r"--norm batch compares rows of a batch, and --batch"):
        check(model, data, TrainConfig(batch_size=size))
