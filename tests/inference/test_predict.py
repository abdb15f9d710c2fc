"""Prediction: posterior draws averaged in probability space, and metrics that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from hlvnn import evaluate
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import DataError
from hlvnn.inference.chunks import ROWS_AT_ONCE
from hlvnn.inference.predict import is_exact, output_draws, predict, score_rows
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from tests.helpers import grouped_data, latent, randomise, small_config, tiny_model

LEVELS = ("character", "play")


def class_case(**settings: object) -> tuple[HierarchicalModel, Split]:
    data = grouped_data(levels=LEVELS, rows=90)
    entries = (latent("concat", "hidden2", "character", width=2), latent("bias", "output", "play"))
    return tiny_model(data, latents=entries, **settings), data.test


def frame(rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.normal(60, 10, rows),
            "sex": random.choice(["f", "m"], rows),
            "ward": random.choice(["north", "south", "west"], rows),
            "cost": random.normal(900, 50, rows),
            "outcome": random.choice(["alive", "dead", "moved"], rows),
        }
    )


def frame_model(target: str = "cost", **settings: object) -> HierarchicalModel:
    data = GroupedDataset.from_frame(
        frame(), target=target, features=["age", "sex"], groups=["ward"]
    )
    config = small_config("mlp", **{"latent_config": "factor", "z_dim": 2, **settings})
    return randomise(build_model(config, data, seed=0))


# averages over draws


def test_class_probabilities_are_averaged_over_draws() -> None:
    model, split = class_case()
    table = predict(model, split, num_samples=7, seed=3)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        rows = model.latents.at(split.groups, unseen=True)
        probabilities = (
            model(split.x.all(), model.latents.sample_mirrored(rows, 7)).softmax(-1).double()
        )
    names = [f"prob_{k}" for k in range(5)]
    np.testing.assert_allclose(table[names], probabilities.mean(0), rtol=1e-5)
    spread = probabilities.std(0, correction=0)
    np.testing.assert_allclose(table[[f"sd_{k}" for k in range(5)]], spread, atol=1e-6)


def test_draws_come_in_pairs_on_either_side_of_the_mean() -> None:
    model, split = class_case()
    rows = model.eval().latents.at(split.groups, unseen=True)
    for z, q in zip(model.latents.sample_mirrored(rows, 6), rows.posteriors, strict=True):
        torch.testing.assert_close(z.mean(0), q.mean, rtol=1e-4, atol=1e-5)
        assert (z.std(0) > 0).all()


def test_few_draws_of_a_prior_come_nearer_to_many_than_independent_ones() -> None:
    """−log of a mean of independent draws is too large by half its relative variance."""
    data = grouped_data(rows=600, sizes=(40,))
    model = tiny_model(data, latents=(latent("film", "hidden1", width=2, prior="learned"),))
    model.latents[0].prior.set_sd(torch.full((2,), 0.6))
    split = data.test
    new = split.__class__(split.x, torch.full_like(split.groups, -1), split.y)
    few, many = (
        np.mean([score_rows(model, new, n, seed=seed).loss.mean() for seed in range(4000 // n)])
        for n in (10, 2000)
    )
    model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        rows = model.latents.at(new.groups, unseen=True)
        z = model.latents.sample(rows, 4000)
        p = model.likelihood(model(new.x.all(), z)).log_prob(new.y).exp()
        independent = -p.unflatten(0, (400, 10)).mean(1).log().mean()
    assert independent > many
    assert abs(few - many) < 0.75 * float(independent - many)


def test_probabilities_add_up_and_the_prediction_is_the_likeliest() -> None:
    model, split = class_case()
    table = predict(model, split)
    probabilities = table.filter(like="prob_").to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert table["prediction"].tolist() == probabilities.argmax(1).tolist()
    assert (table.filter(like="sd_").to_numpy() > 0).all()


def test_the_losses_are_minus_the_log_of_the_averaged_probability() -> None:
    model, split = class_case()
    table = predict(model, split, num_samples=9, seed=2)
    scores = score_rows(model, split, num_samples=9, seed=2)
    probabilities = table.filter(like="prob_").to_numpy()
    chosen = probabilities[np.arange(len(split)), split.y.numpy()]
    np.testing.assert_allclose(scores.loss, -np.log(chosen), rtol=1e-4)


def test_real_densities_are_averaged_over_draws_as_well() -> None:
    data = grouped_data(target="real", rows=60)
    model = tiny_model(data, latents=(latent("concat", "hidden1", width=2),))
    scores = score_rows(model, data.test, num_samples=6, seed=4)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        rows = model.latents.at(data.test.groups, unseen=False)
        law = model.likelihood(model(data.test.x.all(), model.latents.sample_mirrored(rows, 6)))
    expected = -law.log_prob(data.test.y).exp().mean(0).log()
    np.testing.assert_allclose(scores.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.prediction, law.mean.mean(0), rtol=1e-6)


def test_a_real_prediction_splits_its_variance_into_noise_and_ignorance() -> None:
    model = frame_model()
    table = predict(model, frame(), num_samples=50)
    assert list(table.columns) == ["mean", "sd", "sd_mean"]
    noise = model.likelihood.noise_sd()
    np.testing.assert_allclose(table["sd"] ** 2, noise**2 + table["sd_mean"] ** 2, rtol=1e-6)
    assert (table["sd_mean"] > 0).all()


def test_more_draws_are_not_biased() -> None:
    model, split = class_case()
    many = predict(model, split, num_samples=2000).filter(like="prob_")
    spread = predict(model, split, num_samples=2000).filter(like="sd_").to_numpy()
    few = np.mean(
        [predict(model, split, num_samples=5, seed=s).filter(like="prob_") for s in range(40)],
        axis=0,
    )
    assert (np.abs(few - many.to_numpy()) < 5 * spread / math.sqrt(200) + 1e-4).all()


def test_a_point_has_no_uncertainty() -> None:
    data = grouped_data()
    model = tiny_model(data, latent_config="embedding")
    table = predict(model, data.test, num_samples=10)
    assert (table.filter(like="sd_").to_numpy() == 0).all()


# stability


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    model, split = class_case()
    pd.testing.assert_frame_equal(predict(model, split, seed=1), predict(model, split, seed=1))
    assert not predict(model, split, seed=1).equals(predict(model, split, seed=2))


def test_prediction_is_without_dropout_and_keeps_the_mode() -> None:
    model, split = class_case(dropout=0.5)
    for training in (True, False):
        model.train(training)
        first = predict(model, split)
        pd.testing.assert_frame_equal(first, predict(model, split))
        assert model.training is training


def test_prediction_leaves_no_gradients() -> None:
    model, split = class_case()
    predict(model, split)
    evaluate(model, split)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rows_keep_their_order_over_many_batches() -> None:
    data = grouped_data(rows=3000)
    model = tiny_model(data, latent_config="embedding")
    table = predict(model, data.train, num_samples=1)
    rows = [0, 255, 256, 257, 1234, 2999]
    alone = predict(model, data.train.subset(torch.tensor(rows)), num_samples=1)
    np.testing.assert_allclose(
        table.filter(like="prob_").iloc[rows], alone.filter(like="prob_"), rtol=1e-5
    )


# groups without training rows


def test_a_new_group_integrates_the_prior_and_not_zero() -> None:
    data = grouped_data(target="real", rows=60)
    entry = latent("bias", "output", prior="learned")
    model = tiny_model(data, "linear", latents=(entry,))
    split = Split(data.test.x, torch.full_like(data.test.groups, -1), data.test.y)
    table = predict(model, split)
    (one,) = model.latents
    prior_sd = float(one.prior().stddev.detach()) * float(model.likelihood.scale)
    np.testing.assert_allclose(table["sd_mean"], prior_sd, rtol=1e-4)
    fixed = model(data.test.x.all(), [torch.zeros(1, len(split), 1)])
    expected = model.likelihood(fixed).mean[0].detach().numpy()
    np.testing.assert_allclose(table["mean"], expected, rtol=1e-5)


@pytest.mark.parametrize("posterior", ["mean_field", "full_rank"])
def test_a_linear_model_needs_no_draws_and_agrees_with_many(posterior: str) -> None:
    data = grouped_data(target="real", rows=60)
    entry = latent("weights", "output", posterior=posterior)
    model = tiny_model(data, "linear", latents=(entry,))
    with torch.no_grad():
        for table in next(iter(model.latents)).tables():
            table.add_(0.3 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    assert is_exact(model)
    exact = predict(model, data.test, num_samples=1, seed=0)
    pd.testing.assert_frame_equal(exact, predict(model, data.test, num_samples=7, seed=1))
    draws = [drawn.eta for drawn in output_draws(model, data.test, 20_000, seed=3)]
    with torch.no_grad():
        law = model.likelihood(torch.cat(draws, dim=1))
    mean, spread = exact["mean"].to_numpy(), exact["sd_mean"].to_numpy()
    off = law.mean.mean(0).numpy() - mean
    assert (np.abs(off) < 5 * spread / math.sqrt(20_000)).all()
    np.testing.assert_allclose(law.mean.std(0).numpy(), spread, rtol=0.03)
    density = law.log_prob(data.test.y).exp()
    ratio = np.exp(-score_rows(model, data.test).loss) / density.mean(0).numpy()
    error = (density.std(0) / density.mean(0)).numpy() / math.sqrt(20_000)
    assert (np.abs(ratio - 1) < 5 * error).all()


def test_rows_of_a_new_group_draw_each_for_themselves() -> None:
    model, split = class_case()
    lonely = Split(split.x, torch.full_like(split.groups, -1), split.y)
    same = lonely.subset(torch.zeros(2, dtype=torch.int64))
    table = predict(model, same, num_samples=20).filter(like="prob_")
    assert not np.allclose(table.iloc[0], table.iloc[1])


def test_a_new_group_of_an_embedding_gets_its_start() -> None:
    data = grouped_data()
    model = tiny_model(data, latent_config="embedding")
    split = Split(data.test.x, torch.full_like(data.test.groups, -1), data.test.y)
    expected = model.eval()(split.x.all(), [torch.zeros(1, len(split), 2)])[0].softmax(-1).detach()
    got = predict(model, split).filter(like="prob_")
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rows_of_new_groups_are_measured_apart() -> None:
    model, split = class_case()
    groups = split.groups.clone()
    groups[:10, 0] = -1
    total = len(split)
    scores = evaluate(model, Split(split.x, groups, split.y))
    counted = scores.groups.groupby("level")["n"].sum()
    assert counted.to_dict() == {"character": total - 10, "play": total}


# evaluation


def test_evaluation_is_scikit_learns_on_the_predicted_probabilities() -> None:
    model, split = class_case()
    table = predict(model, split, num_samples=10)
    probabilities = table.filter(like="prob_").to_numpy()
    probabilities = probabilities / probabilities.sum(1, keepdims=True)
    y, guess = split.y.numpy(), table["prediction"].to_numpy()
    result = evaluate(model, split, num_samples=10)
    expected = {
        "acc": accuracy_score(y, guess),
        "f1": f1_score(y, guess, average="weighted", zero_division=0),
        "loss": log_loss(y, probabilities, labels=range(5)),
    }
    for name, value in expected.items():
        assert result.scalars[name] == pytest.approx(value, rel=1e-5)
    for index, level in enumerate(LEVELS):
        part = result.groups[result.groups["level"] == level].set_index("gid")
        for gid in np.unique(split.groups[:, index]):
            mine = split.groups[:, index].numpy() == gid
            assert part.loc[gid, "n"] == mine.sum()
            assert part.loc[gid, "acc"] == pytest.approx(accuracy_score(y[mine], guess[mine]))
            loss = log_loss(y[mine], probabilities[mine], labels=range(5))
            assert part.loc[gid, "loss"] == pytest.approx(loss, rel=1e-5)


def test_the_summary_is_over_the_groups_of_the_lowest_level() -> None:
    model, split = class_case()
    result = evaluate(model, split)
    lowest = result.groups[result.groups["level"] == "character"]["acc"]
    assert result.scalars["group_mean"] == pytest.approx(lowest.mean())
    assert result.scalars["group_worst"] == lowest.min()


def test_the_likelihood_of_impossible_labels_stays_finite() -> None:
    data = grouped_data()
    model = tiny_model(data, "linear")
    with torch.no_grad():
        model.backbone.output.bias.copy_(torch.tensor([1e4, 0.0, 0, 0, 0]))
    scores = score_rows(model, data.test)
    assert np.isfinite(scores.loss).all()
    assert scores.loss.max() > 80


def test_a_binary_target_has_two_probabilities() -> None:
    data = grouped_data(classes=2)
    model = tiny_model(data, latent_config="factor")
    table = predict(model, data.test)
    assert list(table.columns) == ["prediction", "prob_0", "prob_1", "sd_0", "sd_1"]
    np.testing.assert_allclose(table["prob_0"] + table["prob_1"], 1, rtol=1e-5)
    np.testing.assert_allclose(table["sd_0"], table["sd_1"], rtol=1e-3)
    guess = table["prediction"].to_numpy()
    assert evaluate(model, data.test, 100).scalars["acc"] == accuracy_score(data.test.y, guess)


# dataframes


def test_a_frame_gives_a_row_per_row_under_its_own_index() -> None:
    model = frame_model()
    rows = frame().iloc[[7, 3, 3, 0]][["ward", "sex", "age"]]
    table = predict(model, rows)
    assert table.index.tolist() == [7, 3, 3, 0]


def test_a_frames_rows_are_those_of_training() -> None:
    model = frame_model()
    data = GroupedDataset.from_frame(
        frame(), target="cost", features=["age", "sex"], groups=["ward"]
    )
    got, expected = predict(model, frame(), seed=1), predict(model, data.train, seed=1)
    pd.testing.assert_frame_equal(got, expected)


def test_classes_have_the_labels_of_the_target() -> None:
    table = predict(frame_model("outcome"), frame())
    labels = ["alive", "dead", "moved"]
    assert list(table.columns) == [
        "prediction",
        *(f"prob_{label}" for label in labels),
        *(f"sd_{label}" for label in labels),
    ]
    assert set(table["prediction"]) <= set(labels)
    best = table[[f"prob_{label}" for label in labels]].idxmax(axis=1).str.removeprefix("prob_")
    assert table["prediction"].tolist() == best.tolist()


def test_a_label_never_seen_is_less_certain_than_a_known_one() -> None:
    model = frame_model(latent_config="bias")
    (one,) = model.latents
    one.posterior.set_law(0.3 * one.prior().stddev)
    rows = frame().iloc[[0, 0]].assign(ward=["north", "harbour"])
    known, new = predict(model, rows, num_samples=3000)["sd_mean"]
    assert new > 1.5 * known


def test_an_empty_frame_gives_an_empty_table() -> None:
    for target in ("cost", "outcome"):
        model = frame_model(target)
        full, empty = predict(model, frame()), predict(model, frame().iloc[:0])
        assert len(empty) == 0
        assert list(empty.columns) == list(full.columns)


def test_many_draws_do_not_put_more_rows_in_memory() -> None:
    """Rows × draws stay bounded: here 60 rows × 5,000 draws come in pieces."""
    model = frame_model()
    largest = 0

    def watch(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        nonlocal largest
        largest = max(largest, args[0].shape[0] * args[0].shape[1])

    model.likelihood.register_forward_pre_hook(watch)
    predict(model, frame(), num_samples=5000)
    assert 0 < largest <= ROWS_AT_ONCE


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (frame().drop(columns="age"), "unknown column 'age'"),
        (frame().drop(columns="ward"), "unknown column 'ward'"),
        (frame().assign(age=np.nan), "column 'age' has no value in row 0"),
        (frame().assign(sex="x"), "column 'sex', row 0 .*unknown category 'x'"),
        (frame().assign(ward=3), "every group would look new"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predict(frame_model(), rows)


def test_a_model_of_arrays_reads_no_frames() -> None:
    model, _ = class_case()
    with pytest.raises(DataError, match="not dataframes; pass a split"):
        predict(model, frame())


def test_unknown_levels_of_a_posterior_are_refused() -> None:
    with pytest.raises(DataError, match="unknown group level 'wrad'; did you mean 'ward'"):
        frame_model().posterior("wrad")
