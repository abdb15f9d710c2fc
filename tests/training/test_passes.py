"""Which rows a fit takes: in order where the data say so, and a few where it is fast."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch

from hlvnn.config import TrainConfig
from hlvnn.inference.objective import full_elbo
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.callbacks import StepReport
from hlvnn.training.loop import fit
from tests.helpers import grouped_data, tiny_model
from tests.training.fits import train

OBJECTIVES = ["elbo", "iwae"]


class Rows:
    """Keeps the rows of each step, and its loss."""

    def __init__(self) -> None:
        self.of: dict[int, list[list[int]]] = {}
        self.losses: list[float] = []

    def on_step(self, model: HierarchicalModel, step: StepReport) -> None:
        self.of.setdefault(step.epoch, []).append(step.index.tolist())
        self.losses.append(step.loss)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("in_order", [True, False])
def test_rows_come_in_order_where_the_data_say_so(objective: str, in_order: bool) -> None:
    data = replace(grouped_data(), in_order=in_order)
    rows, config = Rows(), train(num_epochs=3, batch_size=20, objective=objective)
    fit(tiny_model(data, latent_config="factor"), data, config, callbacks=rows)
    first, *others = ([*chain(*batches)] for batches in rows.of.values())
    assert sorted(first) == list(range(48))
    assert all(other == first for other in others) == in_order
    if objective == "elbo":
        assert (first == list(range(48))) == in_order


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fast_fit_takes_three_batches_and_scores_as_many(objective: str) -> None:
    data, rows = grouped_data(rows=90), Rows()
    config = train(num_epochs=9, batch_size=5, fast=True, objective=objective)
    model = tiny_model(data, latent_config="factor")
    tables = []
    result = fit(model, data, config, lambda now, _: tables.append(now.groups), callbacks=rows)
    assert result.epochs == 3
    assert [len(batches) for batches in rows.of.values()] == [3, 3, 3]
    assert tables[0].groupby("split")["n"].sum().to_dict() == {"val": 15, "test": 15}
    if objective == "elbo":
        loss = sum(rows.losses[:3]) / 3
        assert result.history["train_loss"].iloc[0] == pytest.approx(loss, rel=1e-5)
        assert result.elbo == full_elbo(model, data.train.subset(torch.arange(15))).value


def test_a_fast_configuration_has_few_epochs_however_it_is_made() -> None:
    assert TrainConfig(fast=True).num_epochs == 3
    assert TrainConfig(fast=True, num_epochs=2).num_epochs == 2
    assert TrainConfig(num_epochs=40).model_copy(update={"fast": True}).num_epochs == 3
    assert TrainConfig.model_validate({"num_epochs": 40, "fast": True}).num_epochs == 3
    assert TrainConfig(num_epochs=40).num_epochs == 40
