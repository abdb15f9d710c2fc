"""Rows computed at a time: bounded by what a row takes, and nothing that anybody can see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference import chunks
from hlvnn.inference.chunks import BYTES_AT_ONCE, ROWS_AT_ONCE, rows_at_once
from hlvnn.inference.objective import full_elbo
from hlvnn.inference.predict import score_rows
from hlvnn.models.model import HierarchicalModel
from tests.helpers import grouped_data, latent, tiny_model

KINDS = {"image": "cnn", "tokens": "lstm", "features": "mlp"}


def model_of(data: GroupedDataset, place: str, **law: str) -> HierarchicalModel:
    entry = latent(*place.split("@"), width=2, **law)
    return tiny_model(data, KINDS[data.schema.x_kind], latents=(entry,)).eval()


@pytest.mark.parametrize("draws", [1, 10])
@pytest.mark.parametrize(
    ("kind", "place"),
    [("image", "film@conv1"), ("tokens", "concat@lstm1"), ("features", "film@hidden1")],
)
def test_no_activation_of_a_stage_is_larger_than_the_limit(
    kind: str, place: str, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grouped_data(kind)
    model = model_of(data, place)
    with torch.no_grad():
        limit = 7 * model.bytes_a_row(data.train.x.take(torch.tensor([3])), draws)
    monkeypatch.setattr(chunks, "BYTES_AT_ONCE", limit)
    assert rows_at_once(model, data.train, draws) == 7
    largest = 0

    def watch(module: torch.nn.Module, args: object, output: object) -> None:
        nonlocal largest
        parts = output if isinstance(output, tuple) else (output,)
        largest = max(largest, *(part.nbytes for part in parts if isinstance(part, torch.Tensor)))

    for module in model.backbone.modules():
        module.register_forward_hook(watch)
    score_rows(model, data.train, draws)
    assert limit / 8 <= largest <= limit  # what a module gives may have draws to come


def test_small_rows_are_bounded_by_their_number() -> None:
    data = grouped_data()
    assert rows_at_once(model_of(data, "concat@output"), data.train, 50) == ROWS_AT_ONCE // 50
    large = BYTES_AT_ONCE // 4
    wide = tiny_model(data, "mlp", hidden=(large,), latents=()).eval()
    assert rows_at_once(wide, data.train, 1) == 1
    none = data.train.subset(torch.arange(0))
    assert rows_at_once(wide, none, 1) == ROWS_AT_ONCE


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_computed_does_not_depend_on_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = grouped_data(kind)
    model = model_of(data, "concat@output", posterior="point", prior="none")
    found = []
    for limit in (BYTES_AT_ONCE, 20_000, 1):
        monkeypatch.setattr(chunks, "BYTES_AT_ONCE", limit)
        found.append((score_rows(model, data.train, 5).loss, full_elbo(model, data.train).value))
    for losses, elbo in found[1:]:
        np.testing.assert_allclose(losses, found[0][0], rtol=1e-5)
        assert elbo == pytest.approx(found[0][1], rel=1e-6)
