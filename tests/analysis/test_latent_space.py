"""The latent space: where groups lie, how sure that is, who is near whom, and what figures show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse

from hlvnn import load_run
from hlvnn.analysis import latent_space, places
from hlvnn.config import LatentConfig, run_config
from hlvnn.data.grouped import GroupedDataset, Level, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.execution import execute
from tests.conftest import Ended
from tests.helpers import grouped_data, latent, randomise, small_config, tiny_model


@pytest.fixture(scope="module")
def data() -> GroupedDataset:
    return grouped_data(levels=("writer", "site"), rows=80)


def two_latents(data: GroupedDataset, posterior: str = "full_rank") -> HierarchicalModel:
    """Return a model with two latents of the writer and one of the site."""
    latents = (
        latent("concat", "output", width=3, posterior=posterior, prior="learned_full"),
        latent("concat", "hidden2", width=2, posterior=posterior, prior="learned"),
        latent("bias", "output", "site"),
    )
    return randomise(build_model(small_config(latents=latents), data), sd=0.5)


def test_distances_in_the_space_are_those_of_nearest(data: GroupedDataset) -> None:
    model = two_latents(data)
    space = latent_space.space_of(model, 0)
    assert space.means.shape == (6, 5)
    for group in range(6):
        apart = (space.means - space.means[group]).norm(dim=1)
        table = model.nearest("writer", group, k=5).set_index("writer")
        for other in table.index:
            assert float(apart[other]) == pytest.approx(table["distance_means"][other], rel=1e-9)


def test_principal_directions_keep_distances_and_order_variance(data: GroupedDataset) -> None:
    space = latent_space.space_of(two_latents(data), 0)
    directions, variances = space.principal()
    torch.testing.assert_close(directions @ directions.T, torch.eye(5, dtype=torch.float64))
    assert (variances.diff() <= 1e-12).all()
    expected = np.linalg.eigvalsh(np.cov(space.means.numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(variances.numpy(), expected, atol=1e-12)
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize(
    "kind", ["full_rank", "low_rank", "mean_field", "mixture", "given", "joint"]
)
def test_ellipses_are_the_posteriors_own(data: GroupedDataset, kind: str) -> None:
    """The covariance in the plane is that of many draws of all latents, moved into it."""
    if kind in ("given", "joint"):
        upper = "joint" if kind == "joint" else "full_rank"
        latents: tuple[LatentConfig, ...] = (
            latent("bias", "output", "writer", prior="learned", given="site"),
            latent("bias", "output", "site", prior="learned", posterior=upper),
        )
        model = randomise(build_model(small_config("linear", latents=latents), data), sd=0.3)
        level = 1 if kind == "joint" else 0
    else:
        model, level = two_latents(data, kind), 0
    space = latent_space.space_of(model, level)
    plane = space.principal()[0][:2]
    found = space.covariances(plane)
    for group in (0, len(space.means) - 1):
        draws = 20000
        row = data.train.groups[data.train.groups[:, level] == group][:1]
        with torch.no_grad():
            rows = model.latents.at(row.expand(draws, -1), unseen=False)
            sampled = model.latents.sample(rows, 1)
        parts = []
        for position in space.positions:
            root = latent_space.unit_root(model.latents, position)
            z = sampled[position][0].double().unsqueeze(-1)
            parts.append(latent_space.divide(root, z).squeeze(-1))
        along = (torch.cat(parts, dim=1).detach() @ plane.T).numpy()
        sampled_covariance = np.cov(along.T)
        scale = np.sqrt(np.outer(*[np.diag(sampled_covariance)] * 2))
        difference = (found[group].numpy() - sampled_covariance) / scale
        assert np.abs(difference).max() < 0.06


def test_the_figure_shows_the_table_in_the_colours_of_the_level_above(
    data: GroupedDataset,
) -> None:
    space = latent_space.space_of(two_latents(data), 0)
    where = places.whereabouts(data.train, data.schema, 0)
    assert where[:, 0].tolist() == list(range(6))
    assert where[:, 1].tolist() == [g % 3 for g in range(6)]
    above = latent_space.above_of(space, where, data.schema)
    table = latent_space.positions(space, above)
    assert table.columns.tolist() == [
        *("writer", "rows", "above", "x", "sd_x", "y", "sd_y", "correlation")
    ]
    assert table["rows"].tolist() == data.counts(0).tolist()
    assert table[["x", "y"]].mean().abs().max() < 1e-9
    figure = latent_space.draw_positions(table, space, "site")
    axes = figure.axes[0]
    drawn = np.concatenate([c.get_offsets().data for c in axes.collections])
    expected = table[["x", "y"]].to_numpy()
    assert sorted(map(tuple, drawn.round(9))) == sorted(map(tuple, expected.round(9)))
    ellipses = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
    assert len(ellipses) == 6
    for k, ellipse in enumerate(ellipses):
        assert ellipse.center == pytest.approx(expected[k])
        angle = np.radians(ellipse.angle)
        turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        reach = np.sqrt((turn * [ellipse.width / 2, ellipse.height / 2]) ** 2 @ [1, 1])
        np.testing.assert_allclose(reach, table[["sd_x", "sd_y"]].iloc[k], rtol=1e-9)
        slope = np.sin(2 * angle) * (ellipse.width**2 - ellipse.height**2) / 8
        expected_slope = table["correlation"].iloc[k] * reach.prod()
        assert slope == pytest.approx(expected_slope, abs=1e-9)
        same = [e for e, other in zip(ellipses, above, strict=True) if other == above[k]]
        assert len({e.get_edgecolor() for e in same}) == 1
    legend = axes.get_legend()
    assert sorted(text.get_text() for text in legend.get_texts()) == ["0", "1", "2"]
    assert legend.get_title().get_text() == "site"
    assert "% of the groups' variance" in axes.get_xlabel()
    named = [text.get_text() for text in axes.texts]
    assert sorted(named) == [str(g) for g in range(6)]
    assert any(text.get_visible() for text in axes.texts)


def test_without_a_level_above_groups_are_coloured_by_their_rows_and_one_dimension_is_drawn() -> (
    None
):
    data = grouped_data(rows=80)
    model = tiny_model(data, latent_config=("factor",), z_dim=1)
    space = latent_space.space_of(model, 0)
    table = latent_space.positions(space)
    assert "y" not in table
    figure = latent_space.draw_positions(table, space)
    axes, bar = figure.axes
    drawn = axes.collections[0].get_offsets().data
    np.testing.assert_allclose(drawn, table[["x", "rows"]].to_numpy(), rtol=1e-12)
    assert axes.get_yscale() == "log"
    assert bar.get_ylabel() == "training rows"


def test_more_groups_above_than_colours_share_grey() -> None:
    data = grouped_data(levels=("writer", "site"), sizes=(40, 20), rows=200)
    model = tiny_model(
        data, latents=(latent("concat", "output", width=2),), latent_config=("none",)
    )
    space = latent_space.space_of(model, 0)
    where = places.whereabouts(data.train, data.schema, 0)
    above = latent_space.above_of(space, where, data.schema)
    figure = latent_space.draw_positions(latent_space.positions(space, above), space, "site")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == 13
    assert legend[-1] == "8 others"
    grey = [c for c in figure.axes[0].collections if c.get_label() == "8 others"]
    assert len(grey[0].get_offsets()) == 16
    assert to_rgba(tuple(grey[0].get_facecolor()[0])) == to_rgba(latent_space.canvas.GREY)


def test_crossed_levels_take_the_group_above_that_most_rows_are_in() -> None:
    data = grouped_data(levels=("writer", "site"), rows=60)
    groups = data.train.groups.clone()
    own = (groups[:, 0] == 5).nonzero().squeeze(1)
    groups[own[: len(own) // 4], 1] = 0
    split = Split(data.train.x, groups, data.train.y)
    assert places.whereabouts(split, data.schema, 0)[5].tolist() == [5, 2]


def test_neighbours_are_drawn_as_long_as_they_are(data: GroupedDataset) -> None:
    model = two_latents(data)
    table = model.nearest("writer", 2, k=4)
    far = latent_space.usual_distance(model, 0)
    assert far == pytest.approx(10**0.5)
    axes = latent_space.draw_neighbours(table, "2", far).axes[0]
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == pytest.approx([*table["distance"], *table["distance_means"]])
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert [label.split()[0] for label in labels] == [str(name) for name in table["writer"]]
    assert axes.yaxis_inverted(), "the nearest comes first"
    assert axes.lines[0].get_xdata()[0] == pytest.approx(far)


def test_a_group_is_found_by_a_part_of_its_label_that_nobody_else_has() -> None:
    level = Level("who", 4, ("Hamlet (Hamlet)", "Ghost (Hamlet)", "Othello (Othello)", "Ghost"))
    find = places.find_group
    assert find(level, "Ghost") == 3, "a whole label first"
    assert find(level, "ghost") == 3
    assert find(level, "hamlet") == 0, "then how a label begins"
    assert find(level, "othello (o") == 2
    with pytest.raises(DataError, match=r"who 'g' may be 'Ghost \(Hamlet\)', 'Ghost'; give the"):
        find(level, "g")
    with pytest.raises(DataError, match="unknown who 'Iago'"):
        find(level, "Iago")
    assert find(Level("n", 12), "1") == 1
    with pytest.raises(DataError, match="'new' has no training rows"):
        find(Level("n", 1, ("old",), ("new",)), "new")


def test_a_level_without_latents_is_refused(data: GroupedDataset) -> None:
    model = two_latents(data)
    assert places.level_with_latents(model, None) == 0
    assert places.level_with_latents(model, "site") == 1
    pooled = tiny_model(data, latent_config=("none",))
    with pytest.raises(ConfigError, match="has no latents"):
        places.level_with_latents(pooled, None)
    only = tiny_model(data, latents=(latent("bias", "output", "site"),), latent_config=("none",))
    with pytest.raises(ConfigError, match="no latent for level 'writer'; it has for: site"):
        places.level_with_latents(only, "writer")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run on real handwriting."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    settings = {"dataset": "digits", "backbone": "mlp", "hidden": [16], "num_epochs": 4}
    settings |= {"latent_config": "double", "z_dim": [2, 3], "lr": 0.01, "batch_size": 32}
    execute(run_config(settings, "test"), folder)
    return folder


def test_space_and_neighbours_of_a_run(
    digits_run: Path, analysis: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = analysis("space", digits_run)
    assert ended.code == 0, ended.err
    assert "14 groups of writer" in ended.out
    table = pd.read_csv(digits_run / "figures" / "space_writer.csv")
    assert table["writer"].tolist() == list(range(14))
    assert (digits_run / "figures" / "space_writer.png").read_bytes()[:4] == b"\x89PNG"
    out = tmp_path / "near"
    ended = analysis("neighbours", digits_run, "--group", 3, "--k", 4, "--out", out)
    assert ended.code == 0, ended.err
    model = load_run(digits_run, "best").model
    expected = model.nearest("writer", 3, 4)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "near.csv"), expected, check_dtype=False)
    assert f"{expected['distance'][0]:.2f}" in ended.out
    for args, message in (
        (("neighbours", digits_run, "--group", "99"), "unknown writer '99'"),
        (("neighbours", digits_run), "group"),
        (("space", digits_run, "--level", "site"), "unknown group level 'site'"),
        (("space", tmp_path), "no such file"),
        (("spce", digits_run), "did you mean 'space'?"),
        (("space", digits_run, "--out", digits_run / "train.log" / "x"), "say --out elsewhere"),
    ):
        ended = analysis(*args)
        assert ended.code == 2
        assert message in ended.err + ended.out
        assert "Traceback" not in ended.err


def test_a_run_behind_an_address_is_looked_at_and_left(
    digits_run: Path,
    analysis: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in digits_run.rglob("*")}
    ended = analysis("space", digits_run.as_uri())  # file://
    assert ended.code == 0, ended.err
    assert {path: path.stat().st_mtime_ns for path in digits_run.rglob("*")} == before
    assert len(pd.read_csv(tmp_path / "figures" / "space_writer.csv")) == 14


def test_the_commands_are_listed(analysis: Callable[..., Ended]) -> None:
    ended = analysis("--help")
    assert ended.code == 0
    for name in ("space", "neighbours", "probe", "generate", "calibration", "watch", "promote"):
        assert f"\n  {name} " in ended.out
    assert analysis().code == 2
