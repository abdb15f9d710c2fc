"""Row-wise Adam, gradient clipping over dense and sparse gradients, learning-rate schedules."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from hlvnn.optim import RowwiseAdam, clip_gradients, coalesced, lr_factor
from tests.helpers import generator

GROUPS, WIDTH = 6, 3


def new_table(seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(GROUPS, WIDTH, generator=generator(seed)))


def sparse(rows: list[int], values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, (GROUPS, WIDTH), check_invariants=True
    )


def gradients(steps: int, rows: int = GROUPS) -> list[Tensor]:
    random = generator(1)
    return [torch.randn(rows, WIDTH, generator=random) for _ in range(steps)]


def test_with_every_row_in_every_step_it_is_adam() -> None:
    table, dense = new_table(), new_table()
    mine, theirs = RowwiseAdam([table], lr=0.05), torch.optim.Adam([dense], lr=0.05)
    for gradient in gradients(100):
        table.grad, dense.grad = sparse(list(range(GROUPS)), gradient), gradient.clone()
        mine.step()
        theirs.step()
    torch.testing.assert_close(table.detach(), dense.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1e6])
def test_it_is_adam_for_tiny_and_huge_gradients(size: float) -> None:
    table, dense = new_table(), new_table()
    mine, theirs = RowwiseAdam([table], lr=0.05), torch.optim.Adam([dense], lr=0.05)
    for gradient in gradients(5):
        table.grad = sparse(list(range(GROUPS)), size * gradient)
        dense.grad = size * gradient
        mine.step()
        theirs.step()
    torch.testing.assert_close(table.detach(), dense.detach(), rtol=1e-5, atol=1e-6)


def test_a_row_sees_the_adam_of_its_own_steps_alone() -> None:
    table, start = new_table(), new_table().detach()
    optimizer = RowwiseAdam([table], lr=0.05)
    own = {row: [] for row in range(GROUPS)}
    for number, gradient in enumerate(gradients(30)):
        rows = [row for row in range(GROUPS) if number % (row + 1) == 0]  # row g every g+1 steps
        table.grad = sparse(rows, gradient[rows])
        optimizer.step()
        for row in rows:
            own[row].append(gradient[row])
    for row, mine in own.items():
        alone = nn.Parameter(start[row].clone())
        adam = torch.optim.Adam([alone], lr=0.05)
        for gradient in mine:
            alone.grad = gradient.clone()
            adam.step()
        torch.testing.assert_close(table.detach()[row], alone.detach(), rtol=1e-5, atol=1e-6)


def test_untouched_rows_keep_their_bits_even_with_momentum() -> None:
    table = new_table()
    optimizer = RowwiseAdam([table], lr=0.05)
    table.grad = sparse(list(range(GROUPS)), gradients(1)[0])
    optimizer.step()
    before = table.detach().clone()
    for gradient in gradients(10, 2):
        table.grad = sparse([1, 4], gradient)
        optimizer.step()
    moved = (table.detach() != before).any(1)
    assert moved.tolist() == [False, True, False, False, True, False]


def test_a_row_that_stands_twice_in_the_gradient_takes_the_sum_once() -> None:
    once, twice = new_table(), new_table()
    first, second = RowwiseAdam([once], lr=0.05), RowwiseAdam([twice], lr=0.05)
    for gradient in gradients(10, 3):
        once.grad = sparse([2, 5], torch.stack([gradient[0] + gradient[2], gradient[1]]))
        twice.grad = sparse([2, 5, 2], gradient)
        first.step()
        second.step()
    torch.testing.assert_close(once.detach(), twice.detach())


def test_a_table_without_gradient_stays() -> None:
    table, other = new_table(), new_table(1)
    before = other.detach().clone()
    optimizer = RowwiseAdam([table, other], lr=0.05)
    table.grad = sparse([0], torch.ones(1, WIDTH))
    optimizer.step()
    assert torch.equal(other.detach(), before)


def test_the_learning_rate_may_change_between_steps() -> None:
    table, dense = new_table(), new_table()
    mine, theirs = RowwiseAdam([table], lr=1.0), torch.optim.Adam([dense], lr=1.0)
    for number, gradient in enumerate(gradients(10)):
        for optimizer in (mine, theirs):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
        table.grad, dense.grad = sparse(list(range(GROUPS)), gradient), gradient.clone()
        mine.step()
        theirs.step()
    torch.testing.assert_close(table.detach(), dense.detach(), rtol=1e-5, atol=1e-6)


def test_its_state_saves_and_goes_on_with_the_same_bits() -> None:
    table = new_table()
    optimizer = RowwiseAdam([table], lr=0.05)
    steps = gradients(6, 2)
    for gradient in steps[:3]:
        table.grad = sparse([1, 4], gradient)
        optimizer.step()
    other = nn.Parameter(table.detach().clone())
    resumed = RowwiseAdam([other], lr=0.05)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for gradient in steps[3:]:
        table.grad, other.grad = sparse([1, 2], gradient), sparse([1, 2], gradient)
        optimizer.step()
        resumed.step()
    assert torch.equal(table.detach(), other.detach())


# clipping


@pytest.mark.parametrize("limit", [0.01, 1.0, 1e6])
def test_clipping_is_torchs(limit: float) -> None:
    one, other, unused = new_table(1), new_table(2), new_table(3)
    one.grad, other.grad = gradients(1)[0], 3 * gradients(1)[0]
    twins = [nn.Parameter(p.detach().clone()) for p in (one, other)]
    twins[0].grad, twins[1].grad = one.grad.clone(), other.grad.clone()
    clip_gradients([one, unused, other], limit)
    torch.nn.utils.clip_grad_norm_(twins, limit)
    torch.testing.assert_close(one.grad, twins[0].grad)
    torch.testing.assert_close(other.grad, twins[1].grad)
    assert unused.grad is None
    clip_gradients([unused], limit)
    assert unused.grad is None


def test_coalescing_gives_each_row_once() -> None:
    table = new_table()
    table.grad = sparse([4, 1, 4], torch.ones(3, WIDTH))
    index, values = coalesced(table)
    assert index.tolist() == [1, 4]
    assert values[:, 0].tolist() == [1, 2]


# schedules


def test_the_constant_schedule_is_constant() -> None:
    assert [lr_factor("constant", t / 10) for t in range(11)] == [1] * 11


def test_the_cosine_schedule_is_torchs() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert lr_factor("cosine", step / 20) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert lr_factor("cosine", 1.0) == pytest.approx(0, abs=1e-12)


def test_the_one_cycle_schedule_rises_to_its_peak_and_falls_to_zero() -> None:
    values = [lr_factor("one_cycle", t / 100) for t in range(101)]
    peak = values.index(max(values))
    assert peak == 30
    assert values[0] == pytest.approx(1 / 25)
    assert values[30] == pytest.approx(1)
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert max(abs(a - b) for a, b in itertools.pairwise(values)) < math.pi / 40
