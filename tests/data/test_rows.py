"""Rows of every kind obey the same laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hlvnn.data.grouped import JoinedRows, SubsetRows, TensorRows, WindowRows


def all_rows() -> list[Any]:
    rng = torch.Generator().manual_seed(0)
    tensor = TensorRows(torch.randint(0, 255, (20, 4), generator=rng, dtype=torch.uint8))
    tokens = torch.randint(0, 60, (100,), generator=rng, dtype=torch.uint8)
    windows = WindowRows(tokens, torch.arange(0, 90, 7), length=4)
    some = torch.tensor([5, 3, 11, 0])
    return [
        tensor,
        windows,
        SubsetRows(tensor, some),
        JoinedRows([SubsetRows(tensor, some), windows]),
    ]


@pytest.mark.parametrize("rows", all_rows(), ids=lambda rows: type(rows).__name__)
def test_rows_obey_the_same_laws(rows: Any) -> None:
    everything = rows.all()
    assert len(rows) == len(everything)
    assert everything.dtype == torch.uint8
    index = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    assert torch.equal(rows.take(index), everything[index])
    part = rows.subset(index[:3])
    assert len(part) == 3
    assert torch.equal(part.all(), everything[index[:3]])
    assert torch.equal(part.subset(torch.tensor([2, 0])).all(), everything[index[:3]][[2, 0]])
    assert torch.equal(rows.to("cpu").all(), everything)
    assert rows.take(index[:0]).shape == (0, 4)
    assert rows.nbytes > 0


def test_windows_share_one_text() -> None:
    tokens = torch.arange(100, dtype=torch.int16)
    rows = WindowRows(tokens, torch.tensor([0, 19]), length=80)
    assert rows.all().tolist() == [list(range(80)), list(range(19, 99))]
    assert rows.windows.data_ptr() == tokens.data_ptr()


def test_floats_come_out_as_float32() -> None:
    rows = TensorRows(torch.ones(3, 2, dtype=torch.float64))
    assert rows.take(torch.tensor([0])).dtype == rows.all().dtype == torch.float32
