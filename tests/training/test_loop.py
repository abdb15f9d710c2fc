"""`fit`: it learns, can be interrupted anywhere, repeats, and leaves everything else alone."""

from __future__ import annotations

import copy
import io
import itertools
import logging
import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import evaluate
from hlvnn.config import TrainConfig
from hlvnn.data.grouped import GroupedDataset
from hlvnn.device import resolve_device
from hlvnn.errors import ResourceError
from hlvnn.inference.objective import full_elbo
from hlvnn.inference.predict import predict
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.loop import Checkpoint, EpochReport, FitResult, fit
from tests.helpers import ROOT, grouped_data, latent, same_bits, small_config

LEVELS = ("character", "play")
TIMED = ["seconds", "rows_per_second"]


class StoppedHere(Exception):
    """What a report raises to interrupt a fit."""


def train(**settings: Any) -> TrainConfig:
    return TrainConfig(
        **{"num_epochs": 4, "batch_size": 16, "lr": 0.01, "device": "cpu", **settings}
    )


def untimed(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns=TIMED)


def saved(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint after a trip through a file's bytes."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def stopping_after(epoch: int, kept: list[Checkpoint]) -> Callable[..., None]:
    def report(now: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        if now.epoch == epoch:
            kept.append(saved(checkpoint()))
            raise StoppedHere

    return report


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # model settings, training settings
    "dropout, draws, two levels": (
        {"latent_config": ("double",), "dropout": 0.3, "prior": "learned"},
        {"num_samples": 2, "kl_annealing": 3, "weight_decay": 0.01, "clip_grad": 1.0},
    ),
    "batch norm, full rank": (
        {"latent_config": ("factor",), "norm": "batch", "posterior": "full_rank"},
        {"lr_schedule": "one_cycle", "latent_lr": 3.0},
    ),
    "points": ({"latent_config": ("embedding",)}, {"eval_every": 2}),
    "no latents": ({}, {"patience": 3}),
}


def case(name: str) -> tuple[HierarchicalModel, GroupedDataset, TrainConfig]:
    model_settings, train_settings = CASES[name]
    data = grouped_data(levels=LEVELS, rows=50)
    config = small_config("mlp", z_dim=2, **model_settings)
    return build_model(config, data, seed=1), data, train(**train_settings)


# learning


def test_fitting_lowers_the_loss_and_beats_chance_on_real_handwriting(
    digits: GroupedDataset,
) -> None:
    config = small_config("cnn", channels=(8, 16), hidden=(32,), latent_config="factor", z_dim=2)
    model = build_model(config, digits, seed=0)
    result = fit(model, digits, train(num_epochs=6, batch_size=32, lr=0.01))
    history = result.history
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
    assert history["val_acc"].iloc[-1] > 0.8
    assert result.epochs == 6
    assert not result.diverged
    assert not result.stopped_early
    assert result.elbo_error > 0


def test_latents_learn_what_sets_groups_apart() -> None:
    """Each group has its own favourite class and x says nothing: only the latents can know."""
    data = grouped_data(rows=300)
    favourite = data.train.groups[:, 0].long() % 5
    data.train.y.copy_(favourite)
    data.test.y.copy_(data.test.groups[:, 0].long() % 5)
    settings = train(num_epochs=30, batch_size=32, lr=0.05)
    accuracy = {}
    for name in ("none", "bias"):
        model = build_model(small_config("mlp", latent_config=name), data, seed=0)
        fit(model, data, settings)
        accuracy[name] = evaluate(model, data.test).scalars["acc"]
    assert accuracy["bias"] > 0.95
    assert accuracy["none"] < 0.7


def test_the_result_is_the_full_elbo_of_the_fitted_model() -> None:
    model, data, settings = case("dropout, draws, two levels")
    result = fit(model, data, settings)
    expected = full_elbo(model, data.train)
    assert result.elbo == expected.value
    assert result.elbo_error == expected.standard_error
    assert result.kl == expected.kl
    assert list(result.kl) == [
        "character concat@output",
        "play concat@output",
        "character concat@hidden2",
        "play concat@hidden2",
    ]


# a row of metrics


def test_an_epoch_tells_everything_the_design_names() -> None:
    model, data, settings = case("dropout, draws, two levels")
    history = fit(model, data, settings).history
    names = [latent.name.replace(" ", "_") for latent in model.latents]
    metrics = ["loss", "acc", "f1", "group_mean", "group_p10", "group_p90", "group_worst"]
    expected = {"epoch", "train_loss", "train_nll", "elbo", "lr", "kl_weight", "diverged", *TIMED}
    expected |= {f"kl_{name}" for name in names}
    expected |= {f"{split}_{metric}" for split in ("val", "test") for metric in metrics}
    assert set(history.columns) == expected
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert (history["rows_per_second"] > 0).all()


def test_the_last_row_agrees_with_evaluation_and_the_latents() -> None:
    model, data, settings = case("dropout, draws, two levels")
    last = fit(model, data, settings).history.iloc[-1]
    for name in ("val", "test"):
        result = evaluate(model, data.splits()[name], settings.eval_samples)
        for metric, value in result.scalars.items():
            assert last[f"{name}_{metric}"] == value
    for one, total in zip(model.latents, model.latents.kl_totals(), strict=True):
        assert last[f"kl_{one.name.replace(' ', '_')}"] == total


def test_a_report_brings_a_table_of_every_group_of_every_level_and_split() -> None:
    model, data, settings = case("dropout, draws, two levels")
    tables = []
    fit(model, data, settings, lambda now, _: tables.append(now.groups))
    assert len(tables) == 4
    table = tables[1]
    assert list(table.columns) == ["epoch", "level", "gid", "split", "n", "acc", "f1", "loss"]
    assert (table["epoch"] == 2).all()
    rows = table.groupby(["split", "level"])["n"].sum()
    assert rows.to_dict() == {
        (split, level): len(data.splits()[split]) for split in ("val", "test") for level in LEVELS
    }


def test_evaluation_happens_as_often_as_asked_and_at_the_end() -> None:
    model, data, _ = case("no latents")
    epochs: list[int] = []
    result = fit(
        model, data, train(num_epochs=5, eval_every=2), lambda now, _: epochs.append(now.epoch)
    )
    assert epochs == [2, 4, 5]
    assert result.history["epoch"].tolist() == [2, 4, 5]
    assert result.epochs == 5


def test_the_seconds_of_epochs_that_are_not_evaluated_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ticks(eval_every: int) -> float:
        clock = itertools.count()
        monkeypatch.setattr("hlvnn.training.loop.time.perf_counter", lambda: float(next(clock)))
        model, data, _ = case("no latents")
        history = fit(model, data, train(num_epochs=6, eval_every=eval_every)).history
        return float(history["seconds"].sum())

    assert ticks(3) > 0.6 * ticks(1)


def test_the_kl_weight_rises_linearly_and_stays() -> None:
    model, data, _ = case("dropout, draws, two levels")
    settings = train(num_epochs=6, kl_annealing=4, kl_weight=0.8)
    weights = fit(model, data, settings).history["kl_weight"].tolist()
    expected = [min(1, epoch / 4) for epoch in range(1, 7)]  # at each epoch's last step
    assert weights == pytest.approx([0.8 * share for share in expected])
    assert weights[-1] == 0.8


def test_a_kl_weight_of_zero_pays_nothing_and_a_large_one_ends_at_the_prior() -> None:
    data = grouped_data(rows=100)
    totals = {}
    for weight in (0.0, 1.0, 100.0):
        model = build_model(small_config(latent_config="factor", z_dim=2), data, seed=0)
        settings = train(num_epochs=15, batch_size=25, lr=0.1, kl_weight=weight)
        totals[weight] = sum(fit(model, data, settings).kl.values())
    assert totals[0.0] > totals[1.0] > totals[100.0]
    assert totals[100.0] < 0.1


@pytest.mark.parametrize("schedule", ["cosine", "constant", "one_cycle"])
def test_the_learning_rate_of_an_epoch_is_its_last_steps(schedule: str) -> None:
    model, data, _ = case("no latents")
    history = fit(model, data, train(lr=0.02, lr_schedule=schedule)).history
    share = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * 15 / 16))}
    share["one_cycle"] = 0.5 * (1 + math.cos(math.pi * (15 / 16 - 0.3) / 0.7))
    assert history["lr"].iloc[-1] == pytest.approx(0.02 * share[schedule])


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


# how a fit ends


def stubborn(patience: int | None) -> FitResult:
    """Fit where x says nothing about y, with steps that are far too long."""
    data = grouped_data(rows=60)
    model = build_model(small_config(), data, seed=0)
    return fit(model, data, train(num_epochs=40, lr=0.3, lr_schedule="constant", patience=patience))


def test_patience_stops_after_so_many_evaluations_without_a_better_validation_loss() -> None:
    result = stubborn(3)
    assert result.stopped_early
    assert result.epochs < 40
    losses = result.history["val_loss"].tolist()
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3


def test_without_patience_all_epochs_run() -> None:
    result = stubborn(None)
    assert result.epochs == 40
    assert not result.stopped_early


def test_resuming_a_fit_that_stopped_early_adds_no_epoch() -> None:
    data = grouped_data(rows=60)
    model = build_model(small_config(), data, seed=0)
    settings = train(num_epochs=40, lr=0.3, lr_schedule="constant", patience=2)
    kept: list[Checkpoint] = []
    result = fit(model, data, settings, lambda _, checkpoint: kept.append(saved(checkpoint())))
    again = fit(model, data, settings, resume=kept[-1])
    assert again.epochs == result.epochs
    assert again.stopped_early
    assert len(again.history) == len(result.history)


def test_the_best_epoch_is_the_one_of_the_lowest_validation_loss() -> None:
    model, data, _ = case("no latents")
    told: list[EpochReport] = []
    fit(model, data, train(num_epochs=12, lr=0.2), lambda now, _: told.append(now))
    losses = [now.row["val_loss"] for now in told]
    expected = [loss < min(losses[:i], default=math.inf) for i, loss in enumerate(losses)]
    assert [now.is_best for now in told] == expected
    assert not all(expected)


def test_without_validation_the_training_loss_decides() -> None:
    full = grouped_data(rows=60)
    data = GroupedDataset(full.schema, full.train)
    model = build_model(small_config(), data)
    told: list[EpochReport] = []
    fit(model, data, train(), lambda now, _: told.append(now))
    assert "val_loss" not in told[0].row
    assert len(told[0].groups) == 0
    losses = [now.row["train_loss"] for now in told]
    assert told[-1].is_best == (losses[-1] < min(losses[:-1]))


@pytest.mark.parametrize("target", ["class", "real"])
def test_divergence_ends_the_fit_with_its_flag_and_no_exception(target: str) -> None:
    data = grouped_data(target=target)
    model = build_model(small_config(latent_config="factor", z_dim=2), data)
    told: list[EpochReport] = []
    settings = train(num_epochs=30, lr=1e30, lr_schedule="constant", prior_warmup=0)
    result = fit(model, data, settings, lambda now, _: told.append(now))
    assert result.diverged
    assert result.epochs < 30
    assert math.isnan(result.elbo)
    assert [now.diverged for now in told] == [False] * (len(told) - 1) + [True]
    assert not told[-1].is_best


def test_weights_that_are_not_numbers_end_the_fit_too() -> None:
    model, data, settings = case("dropout, draws, two levels")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(math.nan)
    result = fit(model, data, settings)
    assert result.diverged
    assert result.epochs == 1


# what is shown


def test_progress_lines_come_every_so_many_steps(caplog: pytest.LogCaptureFixture) -> None:
    model, data, _ = case("no latents")  # 50 rows: 4 steps an epoch
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        fit(model, data, train(num_epochs=2, print_freq=2))
    steps = [record.getMessage() for record in caplog.records]
    assert [line.split("  loss")[0] for line in steps] == [
        "epoch 1  step 2/4",
        "epoch 1  step 4/4",
        "epoch 2  step 2/4",
        "epoch 2  step 4/4",
    ]
    assert all("rows/s" in line for line in steps)


def test_without_print_freq_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model, data, settings = case("no latents")
    with caplog.at_level(logging.DEBUG, logger="hlvnn"):
        fit(model, data, settings)
    assert caplog.records == []


def test_debug_shows_shapes_and_changes_no_number(caplog: pytest.LogCaptureFixture) -> None:
    name = "dropout, draws, two levels"
    plain, data, settings = case(name)
    fit(plain, data, settings)
    watched, _, _ = case(name)
    with caplog.at_level(logging.INFO, logger="hlvnn"):
        fit(watched, data, settings.model_copy(update={"debug": True}))
    lines = [record.getMessage() for record in caplog.records]
    assert "first batch  x: [16, 4] float32" in lines
    assert "first batch  groups: [16, 2] int32" in lines
    assert "first batch  z[play concat@hidden2]: [2, 16, 2] float32" in lines
    assert "first batch  output: [2, 16, 5] float32" in lines
    assert same_bits(plain, watched)
    assert not torch.is_anomaly_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.filterwarnings("ignore:Error detected")  # torch's own account of where
def test_debug_stops_at_the_operation_that_made_a_nan() -> None:
    model, data, settings = case("no latents")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(math.nan)
    with pytest.raises(RuntimeError, match="nan"):
        fit(model, data, settings.model_copy(update={"debug": True}))
    assert not torch.is_anomaly_enabled()


# settings


def held_parameters(model: HierarchicalModel) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ".prior." in name or name.startswith("likelihood.")
    }


@pytest.mark.parametrize(("warmup", "held"), [(1.0, True), (0.0, False), (0.5, False)])
def test_priors_and_noise_are_held_through_the_warm_up(warmup: float, held: bool) -> None:
    data = grouped_data(target="real")
    config = small_config(
        latent_config="factor", z_dim=2, prior="learned_full", posterior="full_rank"
    )
    model = build_model(config, data)
    before = held_parameters(model)
    after: list[dict[str, torch.Tensor]] = []
    fit(
        model,
        data,
        train(prior_warmup=warmup, weight_decay=0.1),
        lambda *_: after.append(held_parameters(model)),
    )
    assert len(before) == 3
    for name, start in before.items():
        assert torch.equal(after[-1][name], start) is held
        if warmup == 0.5:
            assert torch.equal(after[1][name], start), "held for two of four epochs"
            assert not torch.equal(after[2][name], start)


@pytest.mark.parametrize("updates", ["gradient", "closed_form"])
def test_frozen_parameters_stay_while_the_posteriors_learn(updates: str) -> None:
    data = grouped_data(target="real")
    config = small_config(
        latent_config="factor", z_dim=2, prior="learned_full", posterior="full_rank"
    )
    model = build_model(config, data).requires_grad_(False)
    model.latents[0].posterior.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    fit(model, data, train(prior_updates=updates, prior_warmup=0.0, clip_grad=1.0))
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"latents.latents.0.posterior.table"}


def test_a_clipped_step_is_short() -> None:
    """Adam forgets the gradient's size but for its ε, which a tiny limit brings out."""
    moved = {}
    for limit in (None, 1e-12):
        model, data, _ = case("dropout, draws, two levels")
        before = [p.detach().clone() for p in model.parameters()]
        fit(model, data, train(clip_grad=limit))
        pairs = zip(model.parameters(), before, strict=True)
        moved[limit] = max(float((p.detach() - kept).abs().max()) for p, kept in pairs)
    assert moved[None] > 0.01
    assert moved[1e-12] < 0.01 * moved[None]


def test_latent_lr_multiplies_the_posteriors_learning_rate_alone() -> None:
    tables, backbones = {}, {}
    for multiple in (1e-12, 1.0):
        model, data, _ = case("points")
        settings = train(num_epochs=1, batch_size=None, latent_lr=multiple, lr_schedule="constant")
        before = [one.posterior.table.detach().clone() for one in model.latents]
        fit(model, data, settings)
        tables[multiple] = max(
            float((one.posterior.table.detach() - kept).abs().max())
            for one, kept in zip(model.latents, before, strict=True)
        )
        backbones[multiple] = copy.deepcopy(model.backbone)
    assert tables[1e-12] < 1e-9
    assert tables[1.0] == pytest.approx(0.01, rel=0.05)
    assert same_bits(backbones[1e-12], backbones[1.0])


def test_weight_decay_shrinks_matrices_and_spares_biases_and_latents() -> None:
    data = grouped_data(levels=LEVELS)
    models = {}
    for decay in (0.0, 0.5):
        model = build_model(small_config(latent_config="factor", z_dim=2), data, seed=0)
        settings = train(num_epochs=1, batch_size=None, lr_schedule="constant", weight_decay=decay)
        fit(model, data, settings)
        models[decay] = dict(model.named_parameters())
    start = dict(
        build_model(small_config(latent_config="factor", z_dim=2), data).named_parameters()
    )
    for name, plain in models[0.0].items():
        decayed = models[0.5][name]
        if plain.dim() >= 2 and "posterior" not in name:
            torch.testing.assert_close(decayed, plain - 0.01 * 0.5 * start[name], atol=1e-6, rtol=0)
        else:
            assert torch.equal(decayed, plain), name


def test_one_batch_of_everything_is_one_step_an_epoch() -> None:
    data = grouped_data(rows=50)
    both = []
    for size in (None, 50, 5000):
        model = build_model(small_config(latent_config="factor", z_dim=2), data, seed=0)
        fit(model, data, train(batch_size=size))
        both.append(model)
    assert same_bits(both[0], both[1])
    assert same_bits(both[0], both[2])


def test_several_latents_of_one_name_keep_their_columns_apart() -> None:
    data = grouped_data()
    entries = tuple(latent("concat", "output", width=2) for _ in range(2))
    model = build_model(small_config(latents=entries), data)
    result = fit(model, data, train(num_epochs=1))
    assert len(result.kl) == 2
    assert {"kl_writer_concat@output", "kl_writer_concat@output_#2"} <= set(result.history.columns)


# devices


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_with_the_count(name: str) -> None:
    with pytest.raises(ResourceError, match=f"--device {name}: torch sees 0 GPUs"):
        resolve_device(name)
    assert resolve_device("auto") == torch.device("cpu")


def test_an_unknown_kind_of_device_is_refused() -> None:
    with pytest.raises(ResourceError, match="--device gpu: no such kind of device; use auto"):
        resolve_device("gpu")


def test_a_fit_uses_its_own_number_of_threads_and_gives_the_callers_back() -> None:
    model, data, _ = case("no latents")
    before = torch.get_num_threads()
    during: list[int] = []
    settings = train(num_epochs=1, threads=before + 1)
    fit(model, data, settings, lambda *_: during.append(torch.get_num_threads()))
    assert during == [before + 1]
    assert torch.get_num_threads() == before


def test_a_fit_does_not_import_torchs_compiler() -> None:
    """It takes seconds, in every worker of a sweep."""
    code = """
import sys
from sklearn.datasets import load_iris
from hlvnn import GroupedDataset
from hlvnn.models.build import build_model
from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.training.loop import fit
frame = load_iris(as_frame=True).frame
frame["group"] = frame.index % 5
features = [name for name in frame if name.endswith("(cm)")]
data = GroupedDataset.from_frame(frame, "target", features, ["group"])
config = ModelConfig(backbone="mlp", latent_config=("factor",))
settings = TrainConfig(num_epochs=1, batch_size=20, clip_grad=1.0, device="cpu")
fit(build_model(config, data), data, settings)
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=200, cwd=ROOT
    )
    assert ended.stdout.strip() == "False", ended.stderr
