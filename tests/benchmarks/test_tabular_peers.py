"""The tables' peers: a mixed model is lme4's, folds do not meet, errors are paired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def scripts(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tabular")


def test_a_mixed_model_reaches_lme4s_deviance_whatever_the_columns_repeat(
    scripts: ModuleType, shared: Path
) -> None:
    pytest.importorskip("statsmodels")
    path = shared / "data" / "grouped" / "sleepstudy.csv.gz"
    frame = pd.read_csv(path).assign(Twice=lambda rows: 2 * rows["Days"] + 1, Same=1.0)
    new = frame.iloc[[0, 9]].assign(Subject=[308, 999])
    fit = scripts.mixed_model(frame, new, "Reaction", ("Subject",), ("Days",))
    assert fit.converged
    assert fit.deviance == pytest.approx(1751.9393, abs=1e-3)
    # Fixed effects 251.405 and 10.467; subject 308's modes are 2.815 and 9.076 (lme4, ML).
    assert fit.predicted[0] == pytest.approx(251.405 + 2.815, abs=0.05)
    assert fit.predicted[1] == pytest.approx(251.405 + 9 * 10.467, abs=0.05)


def test_each_row_is_tested_once_and_a_cut_never_scores_a_test_row(scripts: ModuleType) -> None:
    frame = pd.DataFrame({"row": range(100), "fold": np.arange(100) % 5 + 1})
    tested = []
    for fold in range(1, 6):
        train, test = scripts.parts(frame, fold, validate_only=False)
        assert sorted([*train["row"], *test["row"]]) == list(range(100))
        tested += list(test["row"])
        fitted, scored = scripts.parts(frame, fold, validate_only=True)
        assert not set(scored["row"]) & (set(test["row"]) | set(fitted["row"]))
        assert len(scored) == len(train) // 5
    assert sorted(tested) == list(range(100))


def test_an_error_over_groups_takes_a_group_for_one_draw(scripts: ModuleType) -> None:
    generator = np.random.default_rng(0)
    effects, labels = generator.normal(size=400), np.repeat(np.arange(400), 25)
    kinds = pd.DataFrame({"school": labels, "row": np.arange(10_000)})
    mean, rows, groups = scripts.paired(effects[labels], kinds)
    assert mean == pytest.approx(effects.mean())
    assert groups["row"] == pytest.approx(rows)
    assert groups["school"] == pytest.approx(effects.std(ddof=1) / 20)
    assert rows == pytest.approx(groups["school"] / 5, rel=0.01)


def test_pieces_are_cut_at_quantiles_of_the_training_rows(scripts: ModuleType) -> None:
    table = scripts.TABLES["spotify"]
    columns = {name: [1, 1, 2] for name in table.groups}
    train = pd.DataFrame(columns | {"danceability": [0.1, 0.2, 0.3], "tempo": [0.0, 1.0, 2.0]})
    test = train.assign(tempo=[-5.0, 1.0, 99.0])
    pieces = scripts.with_features(table, train, test).filter(like="tempo_").to_numpy()
    assert pieces.shape == (3, scripts.PIECES)
    assert pieces.sum(axis=1).tolist() == [0, scripts.PIECES / 2, scripts.PIECES]


def test_peers_are_marked_as_fitted_here_and_networks_as_ours(scripts: ModuleType) -> None:
    for name, table in scripts.TABLES.items():
        assert all("fitted here" in scripts.label(name, peer) for peer in table.peers)
        assert all("ours" in scripts.label(name, network) for network in scripts.NETWORKS)
