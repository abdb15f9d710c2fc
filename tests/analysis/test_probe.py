"""What a model reads as z moves: where z goes, what is computed there, what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn import load_run
from hlvnn.analysis import places, probe
from hlvnn.analysis.latent_space import space_of
from hlvnn.config import LatentConfig, run_config
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.build import build_model
from tests.conftest import Ended
from tests.helpers import grouped_data, latent, randomise, small_config, untrained_run


@pytest.fixture(scope="module")
def data() -> GroupedDataset:
    return grouped_data("image", levels=("writer", "site"), rows=80)


def test_z_moves_by_prior_sds_and_nothing_else_does(data: GroupedDataset) -> None:
    latents = (
        latent("concat", "output", width=3, prior="learned_full"),
        latent("concat", "hidden", width=2, prior="learned"),
        latent("bias", "output", "site"),
    )
    model = randomise(build_model(small_config("cnn", latents=latents), data), sd=0.5)
    space, z = space_of(model, 0), places.mean_z(model, [2, 1])
    moves = torch.randn(4, 5, dtype=torch.float64)
    moved = space.moved(z, moves)
    for position, part in zip(space.positions, moves.split([3, 2], dim=1), strict=True):
        law = model.latents[position].prior()
        shift = (moved[position] - z[position]).detach().double()
        if position == space.positions[0]:
            expected = part @ torch.linalg.cholesky(law.covariance_matrix.double()).T
        else:
            expected = part * law.stddev.double()
        torch.testing.assert_close(shift, expected.detach(), atol=1e-5, rtol=1e-4)
    site = next(i for i, x in enumerate(model.latents) if x.level == 1)
    assert torch.equal(moved[site], z[site].expand(4, -1))


def test_a_child_moves_with_its_parent(data: GroupedDataset) -> None:
    latents = (
        latent("concat", "output", "writer", width=2, prior="nested", parent="site"),
        LatentConfig(level="site", width=2, prior="learned"),
    )
    model = randomise(build_model(small_config("cnn", latents=latents), data), sd=0.5)
    space = space_of(model, 1)
    z = places.mean_z(model, [None, 1])
    for before, after in zip(z, space.moved(z, torch.eye(2, dtype=torch.float64)), strict=True):
        assert not torch.equal(before.expand(2, -1), after)
    down = space_of(model, 0)
    moved = down.moved(z, torch.eye(2, dtype=torch.float64))
    parent = next(i for i, x in enumerate(model.latents) if x.level == 1)
    assert torch.equal(moved[parent], z[parent].expand(2, -1)), "the parent stays"


def test_the_middle_of_the_way_is_what_the_model_reads_at_the_posterior_mean(
    data: GroupedDataset,
) -> None:
    model = randomise(
        build_model(small_config("cnn", latent_config="double", z_dim=2), data)
    ).eval()
    space, z = space_of(model, 0), places.mean_z(model, [3, 0])
    direction = space.principal()[0][1]
    move = probe.move_along(space, 3, direction * 7, "direction 1", reach=2.0)
    assert move.at[[0, 20, 40]].tolist() == pytest.approx([-2, 0, 2])
    assert float(move.others[3]) == 0
    expected = float((space.means[5] - space.means[3]) @ direction)
    assert float(move.others[5]) == pytest.approx(expected)
    x = data.train.x.take(torch.arange(4))
    answers = probe.responses(model, space, z, move, x)
    assert answers.shape == (41, 4, 5)
    torch.testing.assert_close(answers.sum(-1), torch.ones(41, 4, dtype=torch.float64))
    with torch.no_grad():
        draws = [part.expand(1, 4, -1) for part in z]
        here = model.likelihood.probabilities(model(x, draws))[0].double()
        end = [part.expand(1, 4, -1) for part in space.moved(z, 2 * direction[None])]
        there = model.likelihood.probabilities(model(x, end))[0].double()
    torch.testing.assert_close(answers[20], here)
    torch.testing.assert_close(answers[40], there)
    assert not torch.allclose(here, there)


def test_rows_that_change_most_come_first() -> None:
    still = torch.tensor([[0.5, 0.5]] * 3)
    there_and_back = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    little = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    answers = torch.stack([still, little, there_and_back], dim=1)
    assert probe.most_moved(answers, 3) == [2, 1, 0]
    assert probe.most_moved(answers, 1) == [2]


def test_the_figure_shows_the_image_and_the_likely_classes_along_the_way(
    data: GroupedDataset,
) -> None:
    model = randomise(build_model(small_config("cnn", latent_config="factor", z_dim=2), data))
    space = space_of(model, 0)
    move = probe.move_along(space, 1, space.principal()[0][0], "principal direction 0", 3.0)
    x = data.train.x.take(torch.tensor([7, 9]))
    answers = probe.responses(model, space, places.mean_z(model, [1, 1]), move, x)
    answers[:, 1, 2:] = 0  # two classes are left that are ever likely
    table = probe.response_table(answers, move, [7, 9], data.schema)
    assert table.columns.tolist() == ["row", "at", *(f"prob_{k}" for k in range(5))]
    figure = probe.draw_responses(table, move, x, [4, 1], data.schema)
    shown, first, _, second = figure.axes
    assert np.array_equal(shown.images[0].get_array(), x[0].numpy())
    assert shown.get_title() == "row 7, y: 4"
    curves = {
        line.get_label(): line for line in first.lines if not line.get_label().startswith("_")
    }
    assert set(curves) == {str(k) for k in range(5)}
    for label, line in curves.items():
        part = table[table["row"] == 7]
        np.testing.assert_array_equal(line.get_xdata(), part["at"])
        np.testing.assert_array_equal(line.get_ydata(), part[f"prob_{label}"])
    drawn = [line.get_label() for line in second.lines if not line.get_label().startswith("_")]
    assert drawn == ["0", "1"]
    assert second.get_xlabel() == "z moves along principal direction 0, in prior SDs"
    band = first.patches[0].get_extents()
    low, high = first.transData.inverted().transform([band.min, band.max])[:, 0]
    assert (high - low) / 2 == pytest.approx(move.sd)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"dataset": "digits", "backbone": "mlp", "hidden": [12], "latent_config": "double"}
    folder = tmp_path_factory.mktemp("digits") / "run"
    return untrained_run(folder, run_config({**settings, "z_dim": [3]}, "test"))


def test_probe_of_a_run(digits_run: Path, analysis: Callable[..., Ended], tmp_path: Path) -> None:
    ended = analysis("probe", digits_run, "--group", 3, "--direction", 0)
    assert ended.code == 0, ended.err
    assert "writer 3, z moved along principal direction 0" in ended.out
    (file,) = (digits_run / "figures").glob("probe*.csv")
    table = pd.read_csv(file)
    rows = list(dict.fromkeys(table["row"]))
    assert len(rows) == 3
    run = load_run(digits_run)
    test = run.data.test
    assert test is not None
    assert (test.groups[rows, 0] == 3).all()
    changes = [
        np.ptp(part.filter(like="prob_").to_numpy(), axis=0).max()
        for _, part in table.groupby("row", sort=False)
    ]
    assert changes[0] > 0.01
    ways = ["--towards", 5, "--row", 0, 10, "--out", tmp_path / "way"]
    ended = analysis("probe", digits_run, "--group", 3, *ways)
    assert ended.code == 0, ended.err
    table = pd.read_csv(tmp_path / "way.csv")
    assert sorted(set(table["row"])) == [0, 10]
    coordinate = ["--axes", "coordinates", "--direction", 5, "--out", tmp_path / "c"]
    assert analysis("probe", digits_run, "--group", 3, *coordinate).code == 0


def test_probe_refuses_what_it_cannot_show(
    digits_run: Path, analysis: Callable[..., Ended], tmp_path: Path
) -> None:
    for flags, message in (
        (["--group", 3, "--direction", 6], "--direction 6: the space has 6, give 0 to 5"),
        (["--group", 3, "--row", 5000], "--row 5000: the test rows count from 0 to 359"),
        (["--group", 3, "--towards", 3], "that is the group itself"),
        (["--group", "x"], "unknown writer 'x'"),
        (["--direction", 0], "group"),
    ):
        ended = analysis("probe", digits_run, *flags, "--out", tmp_path / "none")
        assert ended.code == 2
        assert message in ended.err + ended.out
    assert not list(tmp_path.iterdir())


def test_rows_of_a_table_are_probed_too(analysis: Callable[..., Ended], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"dose": random.normal(size=60), "ward": ["a", "b", "c"] * 20})
    frame["score"] = 3 * frame["dose"] + random.normal(size=60)
    frame.to_csv(tmp_path / "wards.csv", index=False)
    settings = {"dataset": "table", "table": tmp_path / "wards.csv", "target": "score"}
    settings |= {"groups": ["ward"], "backbone": "linear", "latent_config": "weights"}
    run = untrained_run(tmp_path / "run", run_config({**settings, "prior": "learned"}, "test"))
    ended = analysis("probe", run, "--group", "b", "--count", 1)
    assert ended.code == 0, ended.err
    (file,) = (run / "figures").glob("probe_ward_b*.csv")
    table = pd.read_csv(file)
    assert table.columns.tolist() == ["row", "at", "mean"]
    steps = np.diff(table["mean"])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)  # z enters linearly
    assert abs(steps[0]) > 1e-4
    frame.iloc[::-1].to_csv(tmp_path / "wards.csv", index=False)
    ended = analysis("probe", run, "--group", "b", "--out", tmp_path / "none")
    assert ended.code == 2
    assert "the data set wards has changed since" in ended.err
    assert not list(tmp_path.glob("none*"))
