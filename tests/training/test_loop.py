"""A fit learns, tells a row of metrics an epoch, and ends as it should."""

from __future__ import annotations

import itertools
import logging
import math

import pytest
import torch

from hlvnn import evaluate
from hlvnn.data.grouped import GroupedDataset
from hlvnn.inference.objective import full_elbo
from hlvnn.models.build import build_model
from hlvnn.training.fit_result import FitResult
from hlvnn.training.loop import Checkpoint, EpochReport, fit
from tests.helpers import grouped_data, same_bits, small_config
from tests.training.fits import LEVELS, TIMED, case, saved, train

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


def stubborn(patience: int | None) -> FitResult:
    """Fit where x says nothing about y, with steps that are far too long."""
    data = grouped_data(rows=60)
    model = build_model(small_config(), data, seed=0)
    return fit(model, data, train(num_epochs=40, lr=0.3, lr_schedule="constant", patience=patience))


# how a fit ends


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
        fit(model, data, settings, best_weights=False)
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


# devices


def test_a_fit_uses_its_own_number_of_threads_and_gives_the_callers_back() -> None:
    model, data, _ = case("no latents")
    before = torch.get_num_threads()
    during: list[int] = []
    settings = train(num_epochs=1, threads=before + 1)
    fit(model, data, settings, lambda *_: during.append(torch.get_num_threads()))
    assert during == [before + 1]
    assert torch.get_num_threads() == before
