"""Placements: the laws that each one keeps, alone."""

from __future__ import annotations

import pytest
import torch

from hlvnn.latents.placements.base import LinearPlacement
from tests.helpers import PLACEMENTS, placement_class, reloaded, same_bits, untouched_parameters
from tests.latents.placing import STAGES, B, S, inputs, make, normal

CASES = [
    (name, kind)
    for name in PLACEMENTS
    for kind in sorted(placement_class(name).kinds - {"rnn"})  # an LSTM takes them in: see below
]
LINEAR = [(name, kind) for name, kind in CASES if placement_class(name).linear]


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_draw_is_treated_as_if_it_were_alone(name: str, kind: str, drawn: bool) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind, drawn=drawn)
    z = normal(S, B, placement.width, seed=2)
    together = placement(h, pre, z)
    assert together.shape == (S, *pre.shape[-(pre.dim() - drawn) :])
    for s in range(S):
        own = slice(s, s + 1)
        input_of = h[own] if drawn and kind != "embedding" else h
        alone = placement(input_of, pre[own] if drawn else pre, z[own])
        torch.testing.assert_close(together[s], alone[0])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_row_is_treated_as_if_it_were_alone(name: str, kind: str) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind)
    z = normal(S, B, placement.width, seed=2)
    together = placement(h, pre, z)
    for b in range(B):
        own = slice(b, b + 1)
        torch.testing.assert_close(together[:, own], placement(h[own], pre[own], z[:, own]))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_reach_the_latent_the_input_and_every_parameter(name: str, kind: str) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind)
    pre.requires_grad_()
    z = normal(S, B, placement.width, seed=2).requires_grad_()
    out = placement(h, pre, z)
    (out * normal(*out.shape, seed=3)).sum().backward()
    assert untouched_parameters(placement) == []
    assert (z.grad != 0).all()
    assert (pre.grad != 0).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_placement_saves_and_loads_the_same_bits(name: str, kind: str) -> None:
    placement = make(name, kind)
    cls = type(placement)
    again = reloaded(placement, cls(STAGES[kind], placement.width))
    h, pre = inputs(kind)
    z = normal(S, B, placement.width, seed=2)
    assert same_bits(placement, again)
    assert torch.equal(placement(h, pre, z), again(h, pre, z))


@pytest.mark.parametrize(("name", "kind"), LINEAR)
def test_a_linear_placement_adds_j_times_z(name: str, kind: str) -> None:
    placement = make(name, kind)
    assert isinstance(placement, LinearPlacement)
    h, pre = inputs(kind)
    width = placement.width
    columns = placement.gain(h, torch.eye(width)[:, None, :].expand(width, B, width))
    z = normal(S, B, width, seed=2)
    expected = pre + torch.einsum("zb...,sbz->sb...", columns, z)
    torch.testing.assert_close(placement(h, pre, z), expected)


@pytest.mark.parametrize(("name", "kind"), LINEAR)
def test_a_linear_placement_adds_nothing_where_z_is_zero(name: str, kind: str) -> None:
    placement = make(name, kind)
    h, pre = inputs(kind)
    assert torch.equal(placement(h, pre, torch.zeros(1, B, placement.width))[0], pre)
