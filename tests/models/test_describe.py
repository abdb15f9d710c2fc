"""Tables of a model's groups: shrinkage and nearest groups, against the laws they stand for.

For linear mixed models the same tables stand beside lme4's in test_published_fits.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import hlvnn
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError, DataError
from hlvnn.latents import distance
from hlvnn.latents.divergence import cholesky
from hlvnn.latents.pairs import refusal
from hlvnn.models.model import HierarchicalModel
from tests.helpers import (
    POSTERIORS,
    PRIORS,
    grouped_data,
    latent,
    posterior_class,
    prior_class,
    tiny_model,
)
from tests.latents.test_dependence import SIZES, STRUCTURES, WIDTH, built, exact_laws

# models without features
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")

PAIRS = [
    (q, p)
    for q in POSTERIORS
    for p in PRIORS
    if p not in ("nested", "none") and not refusal(posterior_class(q), prior_class(p))
]
LABELLED = pd.DataFrame(
    {
        "cost": np.random.default_rng(0).normal(900, 50, 60),
        "ward": np.repeat(["north", "south", "west", "east", "northern"], 12),
        "doctor": np.repeat([1, 12, 13, 25, 31, 308], 10),
    }
)


def factor_model(posterior: str, prior: str, seed: int = 0) -> HierarchicalModel:
    entry = latent("concat", "hidden2", width=2, posterior=posterior, prior=prior)
    return tiny_model(grouped_data(), latents=(entry,), seed=seed)


def labelled(level: str = "ward") -> HierarchicalModel:
    data = GroupedDataset.from_frame(LABELLED, target="cost", features=[], groups=[level])
    entry = latent("bias", "output", level, prior="learned")
    return tiny_model(data, "linear", latents=(entry,), likelihood="gaussian")


def laws(model: HierarchicalModel, name: str, level: int) -> SimpleNamespace:
    """Return means [G, Z] and covariances [G, Z, G, Z] of a level's groups, under q and p."""
    q, p = exact_laws(model)
    start = 0
    for one in model.latents:
        size = one.posterior.num_groups * one.width
        if one.level == level:
            break
        start += size
    own = slice(start, start + size)
    shape = (SIZES[level], WIDTH)
    return SimpleNamespace(
        mean=q.mean[own].view(shape),
        q=q.covariance_matrix[own, own].view(*shape, *shape),
        p=p.covariance_matrix[own, own].view(*shape, *shape),
    )


def levels_of(name: str) -> list[tuple[int, str]]:
    names = ("character", "play")
    return [(i, x) for i, x in enumerate(names) if any(e.level == x for e in STRUCTURES[name])]


# shrinkage


@pytest.mark.parametrize("name", STRUCTURES)
def test_shrinkage_is_that_of_the_marginal_laws(name: str) -> None:
    with torch.no_grad():
        model = built(name)
        for number, level in levels_of(name):
            exact = laws(model, name, number)
            sd = {
                law: np.array(
                    [[cov[g, k, g, k].sqrt() for k in range(WIDTH)] for g in range(SIZES[number])]
                )
                for law, cov in (("q", exact.q), ("p", exact.p))
            }
            table = model.shrinkage(level)
            ratio = table.filter(like="sd_ratio_").to_numpy()
            np.testing.assert_allclose(ratio, sd["q"] / sd["p"], rtol=1e-5)
            shares = table.filter(like="shrinkage_").to_numpy()
            np.testing.assert_allclose(shares, 1 - (sd["q"] / sd["p"]) ** 2, atol=1e-5)
            both = (
                table.filter(regex="^sd_z").to_numpy() / table.filter(like="prior_sd_").to_numpy()
            )
            np.testing.assert_allclose(both, ratio, rtol=1e-12)


@pytest.mark.parametrize(("q", "p"), [pair for pair in PAIRS if pair[0] != "point"])
def test_shrinkage_sets_the_posteriors_sd_against_the_priors(q: str, p: str) -> None:
    model = factor_model(q, p)
    table = model.shrinkage("writer")
    one = model.latents[0]
    with torch.no_grad():
        expected = one.posterior(torch.arange(6)).stddev / one.prior().stddev
    np.testing.assert_allclose(table.filter(like="sd_ratio_"), expected, rtol=1e-5)
    assert table["writer"].tolist() == list(range(6))
    pd.testing.assert_series_equal(table["sd_z1"], model.posterior("writer")["sd_z1"])


def test_a_group_is_shrunk_the_less_the_more_rows_it_has() -> None:
    random = np.random.default_rng(0)
    sizes = np.array([2, 5, 10, 40, 80])
    who = np.repeat(np.arange(5), sizes)
    frame = pd.DataFrame({"y": random.normal(0, 1, 5)[who] + random.normal(0, 2, len(who))})
    data = GroupedDataset.from_frame(frame.assign(who=who), target="y", features=[], groups=["who"])
    entry = hlvnn.LatentConfig(level="who", stage="output", placement="bias", prior="learned")
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=[entry])
    model = hlvnn.build_model(config, data, seed=0)
    hlvnn.fit(
        model, data, hlvnn.TrainConfig(num_epochs=100, batch_size=None, lr=0.1, eval_every=100)
    )
    table = model.shrinkage("who")
    assert table["rows"].tolist() == sizes.tolist()
    assert table["shrinkage_(Intercept)"].is_monotonic_increasing
    assert table["shrinkage_(Intercept)"].between(0, 1).all()


def test_several_latents_of_a_level_are_told_apart_and_points_left_out() -> None:
    entries = (
        latent("concat", "hidden2", width=1),
        latent("concat", "output", width=1, prior="learned"),
        latent("concat", "hidden1", width=1, posterior="point", prior="none"),
    )
    table = tiny_model(grouped_data(), latents=entries).shrinkage("writer")
    assert [name for name in table if name.startswith("shrinkage")] == [
        "shrinkage_concat@hidden2 z1",
        "shrinkage_concat@output z1",
    ]


def test_points_have_no_shrinkage() -> None:
    model = tiny_model(grouped_data(), latent_config="embedding")
    with pytest.raises(ConfigError, match="level 'writer' are points, which have no SD"):
        model.shrinkage("writer")


# nearest


@pytest.mark.parametrize("name", STRUCTURES)
def test_distances_are_those_of_the_joint_laws(name: str) -> None:
    with torch.no_grad():
        model = built(name)
        for number, level in levels_of(name):
            exact = laws(model, name, number)
            groups = range(SIZES[number])
            inverse = torch.linalg.inv(exact.p[0, :, 0, :])
            for a in groups:
                table = model.nearest(level, a).set_index(level)
                assert set(table.index) == set(groups) - {a}
                assert table["distance"].is_monotonic_increasing
                for b in table.index:
                    d = exact.mean[a] - exact.mean[b]
                    cov = (
                        exact.q[a, :, a, :] + exact.q[b, :, b, :]
                        - exact.q[a, :, b, :] - exact.q[b, :, a, :]
                    )  # fmt: skip
                    between = float(d @ inverse @ d)
                    expected = between + float(torch.trace(inverse @ cov))
                    assert table["distance_means"][b] ** 2 == pytest.approx(between, rel=1e-4)
                    assert table["distance"][b] ** 2 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("q", "p"), PAIRS)
def test_distances_are_the_mean_over_draws(q: str, p: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "NUMBERS_AT_ONCE", 8)  # several chunks of groups
    model = factor_model(q, p)
    one = model.latents[0]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        root = cholesky(one.prior())
        if q == "joint":
            whole = model.latents.moments_at(0, torch.arange(6))
            noise = torch.randn(40000, whole[1]["own", 0].shape[-1])
            z = whole[0] + torch.einsum("gzk,sk->sgz", whole[1]["own", 0], noise)
        else:
            z = one.posterior(torch.arange(6)).sample((40000,))
        scaled = torch.linalg.solve_triangular(root, z.mT, upper=False).mT  # [S, G, Z]
        squares = (scaled - scaled[:, 2:3]).square().sum(-1)
    table = model.nearest("writer", 2).set_index("writer").sort_index()
    others = [0, 1, 3, 4, 5]
    error = squares.std(0)[others] / 200
    apart = np.abs(table["distance"].to_numpy() ** 2 - squares.mean(0)[others].numpy())
    assert (apart <= 5 * error.numpy() + 1e-5).all()


def test_distances_do_not_depend_on_the_latents_coordinates() -> None:
    """Under a full prior covariance z and M z are the same latent."""
    model = factor_model("full_rank", "learned_full")
    before = model.nearest("writer", 1)
    one = model.latents[0]
    stretch = torch.tensor([3.0, 0.2])
    with torch.no_grad():  # z times a diagonal matrix, in q and in p
        z = one.width
        one.posterior.table[:, :z] *= stretch
        one.posterior.table[:, z : 2 * z] += stretch.log()
        one.posterior.table[:, 2 * z :] *= stretch[1]
        one.prior.log_diagonal += stretch.log()
        one.prior.lower *= stretch[1]
    pd.testing.assert_frame_equal(model.nearest("writer", 1), before, rtol=1e-4)


def test_two_groups_of_which_nothing_is_known_lie_as_far_apart_as_two_draws_of_the_prior() -> None:
    model = factor_model("mean_field", "learned")
    one = model.latents[0]
    with torch.no_grad():
        one.posterior.table[:, :2] = 0
        one.posterior.table[:, 2:] = one.prior().stddev.log()
    table = model.nearest("writer", 0)
    np.testing.assert_allclose(table["distance"], 2.0, rtol=1e-5)  # √(2 · 2)
    assert (table["distance_means"] == 0).all()
    assert table["writer"].tolist() == [1, 2, 3, 4, 5]  # ties keep their order


def test_embeddings_are_measured_by_their_sd_over_the_groups() -> None:
    model = tiny_model(grouped_data(), latent_config="embedding")
    z = model.latents[0].posterior.table.detach().double().numpy()
    scaled = z / z.std(0)
    table = model.nearest("writer", 4).set_index("writer").sort_index()
    expected = np.linalg.norm(scaled - scaled[4], axis=1)[[0, 1, 2, 3, 5]]
    np.testing.assert_allclose(table["distance"], expected, rtol=1e-5)
    pd.testing.assert_series_equal(table["distance"], table["distance_means"], check_names=False)


def test_the_squares_of_several_latents_add_up() -> None:
    entries = (latent("concat", "hidden2", width=1), latent("film", "hidden1", width=3))
    model = tiny_model(grouped_data(), latents=entries)
    table = model.nearest("writer", 0).set_index("writer").sort_index()
    with torch.no_grad():
        parts = [distance.squares_from(model.latents, index, 0)[1] for index in range(2)]
    np.testing.assert_allclose(table["distance"] ** 2, sum(parts)[1:], rtol=1e-9)


def test_a_vector_too_wide_for_its_covariance_has_neighbours() -> None:
    """20,000 coordinates: a covariance factor would be 1.6 GB for each group."""
    data = grouped_data(sizes=(4,))
    model = tiny_model(data, latents=(latent("concat", "hidden1", width=20000),))
    assert len(model.nearest("writer", 0, k=2)) == 2


def test_the_k_nearest_keep_their_labels_and_rows() -> None:
    model = labelled()
    table = model.nearest("ward", "west", k=2)
    assert list(table.columns) == ["ward", "rows", "distance", "distance_means"]
    assert len(table) == 2
    assert table["rows"].tolist() == [12, 12]
    whole = model.nearest("ward", "west")
    assert set(whole["ward"]) == {"north", "south", "east", "northern"}
    pd.testing.assert_frame_equal(whole.head(2), table)


@pytest.mark.parametrize(
    ("level", "label", "message"),
    [
        ("ward", "nord", r"unknown ward 'nord'; did you mean 'north' or 'northern'\?"),
        ("ward", "zzz", r"unknown ward 'zzz'\. There are 5, from 'east' to 'west'"),
        ("doctor", "308", r"unknown doctor '308'; did you mean 308\?"),
        ("doctor", 14, r"unknown doctor 14; did you mean 1, "),
    ],
)
def test_an_unknown_label_is_refused_with_the_nearest(
    level: str, label: str | int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        labelled(level).nearest(level, label)


def test_a_group_without_training_rows_has_no_neighbours() -> None:
    data = GroupedDataset.from_frame(LABELLED, target="cost", features=[], groups=["ward"])
    schema = data.schema
    level = hlvnn.data.grouped.Level("ward", 5, schema.levels[0].labels, new=("centre",))
    model = labelled()
    model.schema = type(schema)(**{**vars(schema), "levels": (level,)})
    with pytest.raises(DataError, match="ward 'centre' has no training rows"):
        model.nearest("ward", "centre")


def test_impossible_requests_are_refused() -> None:
    model = labelled()
    with pytest.raises(ConfigError, match=r"k \(0\)"):
        model.nearest("ward", "west", k=0)
    for ask in (model.shrinkage, lambda level: model.nearest(level, "west")):
        with pytest.raises(DataError, match="unknown group level 'wrad'; did you mean 'ward'"):
            ask("wrad")
    plain = tiny_model(grouped_data(), latent_config="none")
    for ask in (plain.shrinkage, lambda level: plain.nearest(level, 1)):
        with pytest.raises(ConfigError, match="no latent for level 'writer'"):
            ask("writer")


def test_inputs_without_names_are_numbered() -> None:
    data = grouped_data(target="real")
    model = tiny_model(data, "linear", latents=(), likelihood="gaussian")
    terms = model.summary().query("part == 'fixed'")["term"].tolist()
    width = data.schema.x_shape[0]
    assert terms == ["(Intercept)", *(f"x{i}" for i in range(1, width + 1))]
