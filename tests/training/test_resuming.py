"""An interrupted fit ends bit for bit where an uninterrupted one ends; seeds say all."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import evaluate
from hlvnn.inference.predict import predict
from hlvnn.training.loop import Checkpoint, EpochReport, fit
from tests.helpers import same_bits
from tests.training.fits import (
    CASES,
    StoppedHere,
    case,
    saved,
    stopping_after,
    train,
    untimed,
)

# interruption


@pytest.mark.parametrize("epoch", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_fit_ends_bit_for_bit_where_an_uninterrupted_one_ends(
    name: str, epoch: int
) -> None:
    whole, data, settings = case(name)
    expected = fit(whole, data, settings, seed=3)
    kept: list[Checkpoint] = []
    first, _, _ = case(name)
    with pytest.raises(StoppedHere):
        fit(first, data, settings, stopping_after(epoch, kept), seed=3)
    second, _, _ = case(name)
    torch.manual_seed(99)  # whatever the new process' random stream is
    got = fit(second, data, settings, resume=kept[0], seed=3)
    assert same_bits(whole, second)
    pd.testing.assert_frame_equal(untimed(got.history), untimed(expected.history), check_exact=True)
    assert (got.elbo, got.kl, got.epochs) == (expected.elbo, expected.kl, expected.epochs)


def test_a_fit_interrupted_after_every_epoch_is_still_the_same() -> None:
    name = "dropout, draws, two levels"
    whole, data, settings = case(name)
    fit(whole, data, settings)
    resume = None
    for epoch in range(1, 5):
        model, _, _ = case(name)
        kept: list[Checkpoint] = []
        with pytest.raises(StoppedHere):
            fit(model, data, settings, stopping_after(epoch, kept), resume=resume)
        (resume,) = kept
    assert same_bits(whole, model)


def test_a_resumed_fit_reports_only_the_epochs_that_were_missing() -> None:
    model, data, settings = case("no latents")
    kept: list[Checkpoint] = []
    with pytest.raises(StoppedHere):
        fit(model, data, settings, stopping_after(2, kept))
    epochs: list[int] = []
    fit(model, data, settings, lambda now, _: epochs.append(now.epoch), resume=kept[0])
    assert epochs == [3, 4]


def test_taking_a_checkpoint_changes_nothing() -> None:
    plain, data, settings = case("dropout, draws, two levels")
    fit(plain, data, settings)
    watched, _, _ = case("dropout, draws, two levels")
    fit(watched, data, settings, lambda _, checkpoint: saved(checkpoint()) and None)
    assert same_bits(plain, watched)


def test_a_report_may_draw_random_numbers() -> None:
    name = "dropout, draws, two levels"
    plain, data, settings = case(name)
    expected = fit(plain, data, settings)
    kept: list[Checkpoint] = []

    def draw(now: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        torch.rand(7)
        if now.epoch == 2:
            kept.append(saved(checkpoint()))

    watched, _, _ = case(name)
    fit(watched, data, settings, draw)
    assert same_bits(plain, watched)
    resumed, _, _ = case(name)
    got = fit(resumed, data, settings, draw, resume=kept[0])
    assert same_bits(plain, resumed)
    assert got.elbo == expected.elbo


# randomness


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    models, histories = [], []
    for seed in (3, 3, 4):
        model, data, settings = case("dropout, draws, two levels")
        histories.append(untimed(fit(model, data, settings, seed=seed).history))
        models.append(model)
    assert same_bits(models[0], models[1])
    pd.testing.assert_frame_equal(histories[0], histories[1], check_exact=True)
    assert not same_bits(models[0], models[2])


def test_the_callers_random_streams_are_left_alone() -> None:
    model, data, settings = case("dropout, draws, two levels")
    torch.manual_seed(1)
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    fit(model, data, settings)
    evaluate(model, data.test)
    predict(model, data.test)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert np.random.get_state()[1].tolist() == streams[2]  # noqa: NPY002


def test_the_streams_are_left_alone_when_a_report_raises() -> None:
    model, data, settings = case("dropout, draws, two levels")
    before = torch.get_rng_state()
    with pytest.raises(StoppedHere):
        fit(model, data, settings, stopping_after(1, []))
    assert torch.equal(torch.get_rng_state(), before)


def test_how_often_is_evaluated_does_not_change_the_weights() -> None:
    often, data, _ = case("dropout, draws, two levels")
    seldom, _, _ = case("dropout, draws, two levels")
    fit(often, data, train(eval_every=1))
    fit(seldom, data, train(eval_every=4, eval_samples=3))
    assert same_bits(often, seldom)


def test_the_data_are_left_alone() -> None:
    model, data, settings = case("dropout, draws, two levels")
    before = copy.deepcopy([data.train.x.all(), data.train.groups, data.train.y])
    fit(model, data, settings)
    for tensor, kept in zip(
        [data.train.x.all(), data.train.groups, data.train.y], before, strict=True
    ):
        assert torch.equal(tensor, kept)
