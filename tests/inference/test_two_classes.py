"""AUC, average precision and balanced accuracy, against scikit-learn, and through a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

import hlvnn
from hlvnn.analysis import load_runs
from hlvnn.analysis.report.tables import leaderboard
from hlvnn.columns import TWO_CLASSES
from hlvnn.commands import train_one
from hlvnn.inference import two_classes
from hlvnn.inference.metrics import RowScores, across_groups, group_table, overall
from hlvnn.records.predictions import read_predictions
from hlvnn.records.run_folder import read_metrics
from hlvnn.selection import mode_of

SKLEARN: dict[str, Any] = {
    "auc": lambda y, score, chosen: roc_auc_score(y, score),
    "ap": lambda y, score, chosen: average_precision_score(y, score),
    "bacc": lambda y, score, chosen: balanced_accuracy_score(y, chosen),
}
ROWS, GROUPS = 600, 40


def rows_of_two() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y, score (with many ties) and group; few of class 1, groups 5 and 11 without a row."""
    random = np.random.default_rng(0)
    group = random.choice(np.delete(np.arange(GROUPS), [5, 11]), ROWS)
    score = np.round(random.normal(size=ROWS), 1)
    return random.random(ROWS) < 0.1 * np.exp(score / 2), score, group


def test_every_groups_measures_are_scikit_learns_and_none_where_it_has_one_class() -> None:
    y, score, group = rows_of_two()
    got = two_classes.of_groups(y, score, score > 0.5, group, GROUPS)
    alone = 0
    for gid in range(GROUPS):
        mine = group == gid
        if y[mine].all() or not y[mine].any():
            alone += 1
            assert all(np.isnan(value[gid]) for value in got.values())
            continue
        for name, value in got.items():
            expected = SKLEARN[name](y[mine], score[mine], score[mine] > 0.5)
            assert value[gid] == pytest.approx(expected, abs=1e-12)
    assert 2 < alone < GROUPS / 2


def test_tables_and_scalars_leave_out_groups_of_one_class_and_count_the_others() -> None:
    y, score, group = rows_of_two()
    chosen = (score > 0.5).astype(np.int64)
    scores = RowScores(np.ones(ROWS), y.astype(int), chosen, group[:, None], 2, score)
    table = group_table(scores, 0, GROUPS).set_index("gid")
    both = [gid for gid in table.index if 0 < y[group == gid].sum() < (group == gid).sum()]
    assert list(table.columns) == ["n", "acc", "f1", *TWO_CLASSES, "loss"]
    assert table.index[table["auc"].notna()].tolist() == both
    over = across_groups(table)
    assert over["groups_of_both"] == len(both)
    assert over["group_ap"] == pytest.approx(table.loc[both, "ap"].mean())
    found = overall(scores)
    for name, expected in SKLEARN.items():
        assert found[name] == pytest.approx(expected(y, score, chosen), abs=1e-12)
    ones = RowScores(np.ones(3), np.ones(3, int), np.ones(3, int), group[:3, None], 2, np.zeros(3))
    assert set(overall(ones)) == {"loss", "acc", "f1"}, "of one class there is none, and no 0"
    assert across_groups(group_table(ones, 0, GROUPS))["groups_of_both"] == 0


@pytest.mark.parametrize("measure", TWO_CLASSES)
def test_their_better_end_is_known(measure: str) -> None:
    assert mode_of(f"val_{measure}", is_class=True) == "max"
    assert mode_of(f"val_group_{measure}", is_class=True) == "max"
    assert mode_of(f"val_new_{measure}", is_class=True) == "max"


def wards(path: Path, wards: int = 12) -> Path:
    """Write patients of whom few die, and none in the last three wards."""
    random = np.random.default_rng(1)
    size = 50 * wards
    frame = pd.DataFrame({"age": random.normal(size=size), "ward": np.arange(size) % wards})
    dies = random.random(size) < 0.35 / (1 + np.exp(-2 * frame["age"]))
    frame["dead"] = np.where(dies & (frame["ward"] < wards - 3), "yes", "no")
    frame["ward"] = "w" + frame["ward"].astype(str)
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wards")
    table = wards(folder / "wards.csv")
    flags = f"--dataset table --table {table} --target dead --groups ward --val-fraction 0.4"
    flags += f" --latent-config bias --lr 0.02 --num-epochs 3 --results-dir {folder} --name one"
    flags += " --select-on val_auc --stratify"
    assert train_one.main(flags.split()) == 0
    return folder / "wards" / "one"


def test_a_run_is_chosen_by_the_auc_of_its_validation_rows(run: Path) -> None:
    metrics = read_metrics(run)
    kept = read_predictions(run)
    assert kept is not None
    assert metrics["val_auc"].max() == metrics.set_index("epoch").loc[kept.epoch, "val_auc"]
    for split in ("val", "test"):
        rows = kept.table[kept.table["split"] == split]
        of_y = np.exp(rows["log_prob"])
        score = np.where(rows["y"] == 1, of_y, 1 - of_y)
        chosen = metrics.set_index("epoch").loc[kept.epoch]
        for name, expected in SKLEARN.items():
            value = expected(rows["y"], score, rows["prediction"])
            assert chosen[f"{split}_{name}"] == pytest.approx(value, abs=1e-6)
    assert metrics["val_auc"].iloc[-1] > 0.6, "age was planted"


def test_groups_of_one_class_are_counted_and_said(run: Path) -> None:
    log = (run / "train.log").read_text()
    metrics = read_metrics(run)
    both = int(metrics["val_groups_of_both"].iloc[0])
    assert both <= 9
    assert f"val: {12 - both} of 12 ward have rows of one class only: no AUC" in log
    runs = load_runs(run.parent)
    groups = runs.groups
    titles = [title for title, _ in leaderboard(runs).columns]
    assert "test AUC" in titles
    described = runs.describe()
    (meaning,) = described.loc[described["column"] == "val_group_auc", "meaning"].unique()
    assert meaning.startswith("mean of AUC over the groups with rows of both")
    assert set(TWO_CLASSES) <= set(groups.measures)
    spread = groups.spread(measure="auc")
    assert spread["groups"].unique().tolist() == [both]
    assert spread["mean"].tolist() == pytest.approx(metrics["val_group_auc"].tolist())
    assert (spread["worst"] <= spread["mean"]).all()


def frame_of(classes: int, rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=rows), "g": np.arange(rows) % 6})
    return frame.assign(y=[f"c{i}" for i in random.permutation(np.arange(rows) % classes)])


@pytest.mark.parametrize(
    ("classes", "metric", "message"),
    [
        (3, "val_auc", "AUC needs rows of both of two classes, and the target has 3 classes"),
        (2, "val_ap", "average precision needs rows of both of two classes, and all 5 rows are of"),
        (2, "val_group_bacc", "and no group has them; --val-fraction and --stratify give it more"),
    ],
)
def test_where_it_is_not_measured_the_reason_is_said(
    classes: int, metric: str, message: str
) -> None:
    frame = frame_of(classes)
    data = hlvnn.GroupedDataset.from_frame(
        frame, target="y", features=["x"], groups=["g"], val_fraction=0.3
    )
    assert data.val is not None
    if "all 5" in message:
        rows = data.val.subset((data.val.y == 0).nonzero()[:5, 0])
        data = hlvnn.GroupedDataset(data.schema, data.train, rows)
    elif "group" in metric:
        first = [int((data.val.y == c).nonzero()[0, 0]) for c in range(2)]
        a, b = (int(data.val.groups[i, 0]) for i in first)
        if a == b:
            others = (data.val.y == 1) & (data.val.groups[:, 0] != a)
            first[1] = int(others.nonzero()[0, 0])
        rows = data.val.subset(data.val.y.new_tensor(first))
        data = hlvnn.GroupedDataset(data.schema, data.train, rows)
    model = hlvnn.build_model(hlvnn.ModelConfig(latent_config=("bias",)), data, seed=0)
    with pytest.raises(hlvnn.errors.ConfigError) as told:
        hlvnn.fit(model, data, hlvnn.TrainConfig(select_on=metric))
    assert message in str(told.value)
    assert f"--select-on {metric}" in str(told.value)
