"""Minibatches: every row once, in the generator's order."""

from __future__ import annotations

import pytest
import torch

from hlvnn.data import batches
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import Split, TensorRows, WindowRows

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def make_split(rows: int = 1003, kind: str = "tensor") -> Split:
    rng = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 9, (rows, 2), generator=rng, dtype=torch.int32)
    y = torch.arange(rows)
    if kind == "windows":
        tokens = torch.randint(0, 62, (5000,), generator=rng, dtype=torch.uint8)
        starts = torch.randint(0, 4900, (rows,), generator=rng)
        return Split(WindowRows(tokens, starts), groups, y)
    split = Split(TensorRows(torch.randn(rows, 5, generator=rng)), groups, y)
    if kind == "subset":
        return split.subset(torch.randperm(rows, generator=rng)[: rows // 2])
    return split


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["tensor", "windows", "subset"])
@pytest.mark.parametrize("batch_size", [1, 200, 5000, None])
@pytest.mark.parametrize("seed", [None, 0])
def test_every_row_once(device: str, kind: str, batch_size: int | None, seed: int | None) -> None:
    split = make_split(kind=kind)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    passes = Batches(split, batch_size, generator=generator, device=device)
    assert passes.num_batches == len(passes)
    seen = list(passes)
    assert len(seen) == len(passes)
    assert {len(batch.y) for batch in seen[:-1]} <= {batch_size}
    index = torch.cat([batch.index for batch in seen]).cpu()
    assert torch.equal(index.sort().values, torch.arange(len(split)))
    if seed is None:
        assert torch.equal(index, torch.arange(len(split)))
    x = split.x.all()
    for batch in seen:
        assert batch.x.device.type == device
        where = batch.index.cpu()
        assert torch.equal(batch.x.cpu(), x[where])
        assert torch.equal(batch.groups.cpu(), split.groups[where])
        assert torch.equal(batch.y.cpu(), split.y[where])


def test_chunks_do_not_change_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split()
    one = list(Batches(split, 7, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr(batches, "CPU_CHUNK", 1)
    two = list(Batches(split, 7, generator=torch.Generator().manual_seed(1)))
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


def test_the_generator_s_state_repeats_a_pass() -> None:
    generator = torch.Generator().manual_seed(3)
    passes = Batches(make_split(), 100, generator=generator)

    def order() -> torch.Tensor:
        return torch.cat([batch.index for batch in passes])

    first = order()
    state = generator.get_state()
    second = order()
    assert not torch.equal(first, second)
    generator.set_state(state)
    assert torch.equal(order(), second)


def test_one_batch_of_all_rows_is_the_split_itself() -> None:
    split = make_split()
    (batch,) = Batches(split, None, generator=torch.Generator())
    assert batch.x.data_ptr() == split.x.all().data_ptr()
    assert batch.y.data_ptr() == split.y.data_ptr()


@pytest.mark.parametrize("kind", ["tensor", "windows", "subset"])
def test_the_split_is_not_copied_on_the_cpu(kind: str) -> None:
    split = make_split(kind=kind)
    assert Batches(split, 10).split is split


def test_bytes_stay_bytes() -> None:
    split = make_split(kind="windows")
    assert next(iter(Batches(split, 10))).x.dtype == torch.uint8


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["tensor", "windows", "subset"])
def test_streaming_gives_what_residence_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(50_000, kind)
    resident = Batches(split, 64, generator=torch.Generator().manual_seed(0), device="cuda")
    assert resident.resident
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0)
    monkeypatch.setattr(batches, "STREAM_CHUNK", 50_000)
    streamed = Batches(split, 64, generator=torch.Generator().manual_seed(0), device="cuda")
    assert not streamed.resident
    for a, b in zip(resident, streamed, strict=True):
        torch.cuda._sleep(100_000)  # let copies run ahead of their use
        assert all(torch.equal(left, right) for left, right in zip(a, b, strict=True))
