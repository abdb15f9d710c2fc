"""Grouped data from DataFrames: coding, splits, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split, Target, TensorRows
from hlvnn.errors import DataError


def make_frame(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.normal(50, 10, rows),
            "ward": rng.choice(["b", "a", "c"], rows),
            "smokes": rng.choice([True, False], rows),
            "los": rng.normal(size=rows),
            "died": rng.choice(["no", "yes"], rows),
            "hospital": rng.permutation(np.arange(rows) % 7) + 300,
            "region": rng.permutation(np.arange(rows) % 3).astype(str),
        }
    )


def from_frame(frame: pd.DataFrame, **changes: Any) -> GroupedDataset:
    settings: dict[str, Any] = {
        "target": "los",
        "features": ["age", "ward", "smokes"],
        "groups": ["hospital", "region"],
    }
    return GroupedDataset.from_frame(frame, **(settings | changes))


@pytest.mark.data
def test_sleepstudy_keeps_its_subjects(shared: Path) -> None:
    frame = pd.read_csv(shared / "data/grouped/sleepstudy.csv.gz")
    data = GroupedDataset.from_frame(
        frame, target="Reaction", features=["Days"], groups=["Subject"]
    )
    level = data.schema.levels[0]
    assert (level.size, level.labels[:3]) == (18, (308, 309, 310))
    assert data.schema.target == Target("Reaction", "real")
    assert list(data.splits()) == ["train"]
    assert data.counts(0).tolist() == [10] * 18
    x = data.train.x.all()
    assert x.dtype == torch.float32
    assert torch.equal(x[:, 0], torch.tensor(frame["Days"].to_numpy(), dtype=torch.float32))
    assert np.array_equal(data.train.y.numpy(), frame["Reaction"].to_numpy())


def test_categories_are_treatment_coded_and_the_first_is_the_reference() -> None:
    frame = make_frame()
    data = from_frame(frame)
    assert data.schema.columns == ("age", "ward[b]", "ward[c]", "smokes[True]")
    assert data.schema.coding == {
        "age": "number",
        "ward": ("a", "b", "c"),
        "smokes": (False, True),
    }
    x = data.train.x.all().numpy()
    assert np.array_equal(x[:, 1], frame["ward"] == "b")
    assert np.array_equal(x[:, 3], frame["smokes"])


def test_a_categorical_keeps_its_order_and_drops_unused_categories() -> None:
    frame = make_frame()
    frame["ward"] = pd.Categorical(frame["ward"], categories=["c", "unused", "a", "b"])
    assert from_frame(frame).schema.coding["ward"] == ("c", "a", "b")


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        ([0, 1, 1, 0], "class", (0, 1)),
        ([2.0, 0.0, 2.0, 2.0], "class", (0, 2)),
        ([0, 3, 2, 0], "real", None),
        ([0.5, 1.5, 1.0, 0.0], "real", None),
        ([True, False, True, True], "class", (False, True)),
        (["yes", "no", "no", "yes"], "class", ("no", "yes")),
        (pd.Categorical([3, 1, 2, 3], categories=[3, 2, 1]), "class", (3, 2, 1)),
    ],
)
def test_the_target_s_type_says_what_it_is(values: Any, kind: str, labels: Any) -> None:
    frame = pd.DataFrame({"y": values, "g": ["a", "a", "b", "b"]})
    data = GroupedDataset.from_frame(frame, target="y", features=[], groups=["g"])
    target = data.schema.target
    assert (target.kind, target.labels) == (kind, labels)
    assert data.train.x.all().shape == (4, 0)
    if labels is None:
        assert data.train.y.dtype == torch.float64
    else:
        assert target.num_classes == len(labels)
        assert [labels[i] for i in data.train.y] == list(values)


def test_coding_a_frame_again_gives_the_training_arrays() -> None:
    frame = make_frame()
    data = from_frame(frame)
    shuffled = frame.sample(frac=1, random_state=1)
    where = torch.from_numpy(shuffled.index.to_numpy().copy())
    assert torch.equal(data.schema.features_of(shuffled), data.train.x.take(where))
    assert torch.equal(data.schema.groups_of(shuffled), data.train.groups[where])


def test_labels_never_seen_are_minus_one() -> None:
    data = from_frame(make_frame())
    new = pd.DataFrame({"hospital": [303, 999], "region": ["elsewhere", "0"]})
    assert data.schema.groups_of(new).tolist() == [[3, -1], [-1, 0]]


def test_labels_of_another_type_are_refused_instead_of_all_being_new() -> None:
    data = from_frame(make_frame())
    new = pd.DataFrame({"hospital": ["303"], "region": ["0"]})
    with pytest.raises(DataError, match=r"'hospital' held whole numbers .* holds text"):
        data.schema.groups_of(new)


def test_splits_are_inside_groups_and_make_up_the_frame() -> None:
    frame = make_frame(400)
    data = from_frame(frame, val_fraction=0.1, test_fraction=0.25, seed=3)
    sizes = {name: len(split) for name, split in data.splits().items()}
    assert sum(sizes.values()) == 400
    assert 90 <= sizes["test"] <= 110
    assert 20 <= sizes["val"] <= 40
    seen = torch.cat([split.y for split in data.splits().values()]).sort().values
    assert torch.equal(seen, torch.tensor(frame["los"].to_numpy().copy()).sort().values)
    assert min(data.counts(0).min(), data.counts(1).min()) >= 1
    again = from_frame(frame, val_fraction=0.1, test_fraction=0.25, seed=3)
    other = from_frame(frame, val_fraction=0.1, test_fraction=0.25, seed=4)
    assert torch.equal(again.test.y, data.test.y)
    assert not torch.equal(other.test.y, data.test.y)


def test_the_frame_is_not_changed() -> None:
    frame = make_frame()
    before = frame.copy(deep=True)
    data = from_frame(frame)
    data.train.y.zero_()
    data.train.x.all().zero_()
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("age", math.nan, r"column 'age' has no value in row 5 .*1 of 60.*drop"),
        ("age", math.inf, r"column 'age', row 5 .* is inf, expected a finite number"),
        ("age", 1e39, r"column 'age', row 5 is 1e\+39, beyond 32-bit floats"),
        ("los", math.nan, r"column 'los' has no value in row 5"),
        ("los", -math.inf, r"column 'los', row 5 .* is -inf"),
        ("ward", None, r"column 'ward' has no value in row 5"),
        ("region", None, r"column 'region' has no value in row 5"),
    ],
)
def test_bad_values_name_the_column_and_the_row(column: str, value: Any, message: str) -> None:
    frame = make_frame()
    frame.loc[5, column] = value
    with pytest.raises(DataError, match="ward.csv: " + message):
        from_frame(frame, name="ward.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "loss"}, r"unknown column 'loss'; did you mean 'los'\?"),
        ({"features": ["agee"]}, r"unknown column 'agee'; did you mean 'age'\?"),
        ({"groups": ["hospitol"]}, r"unknown column 'hospitol'; did you mean 'hospital'\?"),
        ({"features": ["age", "los"]}, r"the target 'los' is among the features"),
        ({"groups": []}, r"at least one group level"),
        ({"groups": ["age"]}, r"group column 'age', row 0 .* expected a label"),
        ({"groups": ["region", "region"]}, r"level names must differ"),
        ({"features": "age"}, r"lists of column names, got a string"),
    ],
)
def test_bad_column_choices(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_frame(make_frame(), **changes)


def test_a_frame_without_rows() -> None:
    with pytest.raises(DataError, match="training set is empty"):
        from_frame(make_frame().iloc[:0])


def test_times_are_not_features() -> None:
    frame = make_frame().assign(age=pd.Timestamp("2020-01-01"))
    with pytest.raises(DataError, match="'age' holds times"):
        from_frame(frame)


def test_prediction_refuses_categories_and_types_it_cannot_code() -> None:
    schema = from_frame(make_frame()).schema
    with pytest.raises(DataError, match=r"'ward', row 1 .*unknown category 'd'.*Known: a, b, c"):
        schema.features_of(pd.DataFrame({"age": [1, 2], "ward": ["a", "d"], "smokes": True}))
    with pytest.raises(DataError, match=r"'age' held numbers in training"):
        schema.features_of(pd.DataFrame({"age": ["1"], "ward": ["a"], "smokes": True}))
    with pytest.raises(DataError, match=r"unknown column 'smokes'"):
        schema.features_of(pd.DataFrame({"age": [1], "ward": ["a"]}))
    with pytest.raises(DataError, match=r"trained on arrays \(features, \[2\] a row\)"):
        SCHEMA.features_of(make_frame())


@pytest.mark.parametrize("target", ["los", "died"])
def test_the_schema_survives_json(target: str) -> None:
    schema = from_frame(make_frame(), target=target).schema
    text = json.dumps(schema.to_json())
    assert Schema.from_json(json.loads(text)) == schema


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda j: j.pop("levels"), r"run/schema.json: levels: Field required"),
        (lambda j: j.update(level=1), r"schema.json: level: Unexpected"),
        (lambda j: j["levels"][0].update(size="7"), r"levels.0.size: .*integer"),
        (
            lambda j: j["levels"][0]["labels"].pop(),
            r"run/schema.json: level 'hospital': .*6 labels",
        ),
        (lambda j: j.update(x_kind="sound"), r"x_kind"),
        (lambda j: j["columns"].pop(), r"3 feature columns but rows of shape \(4,\)"),
    ],
)
def test_a_damaged_schema_is_refused(damage: Any, message: str) -> None:
    value = from_frame(make_frame()).schema.to_json()
    damage(value)
    with pytest.raises(DataError, match=message):
        Schema.from_json(value, "run/schema.json")


def test_unknown_levels_name_the_nearest() -> None:
    schema = from_frame(make_frame()).schema
    assert schema.level_index("region") == 1
    with pytest.raises(DataError, match=r"'regoin'; did you mean 'region'\?"):
        schema.level_index("regoin")


SCHEMA = Schema(
    levels=(Level("writer", 3),),
    x_kind="features",
    x_shape=(2,),
    target=Target("y", "class", num_classes=4),
)


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(9, 2, generator=rng),
        "groups": torch.arange(9, dtype=torch.int32)[:, None] % 3,
        "y": torch.arange(9) % 4,
    }


def dataset(parts: dict[str, torch.Tensor], schema: Schema = SCHEMA) -> GroupedDataset:
    rows = TensorRows(parts["x"], "rows.npy")
    return GroupedDataset(schema, Split(rows, parts["groups"], parts["y"]))


# Data sets built from tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["x"].__setitem__((4, 1), math.nan), r"rows.npy: row 4, column 1 .*is nan"),
        (lambda p: p["x"].__setitem__((8, 0), -math.inf), r"rows.npy: row 8, column 0 .*is -inf"),
        (lambda p: p.update(x=p["x"][:8]), r"train.x: 8 rows, but train.y has 9"),
        (lambda p: p.update(groups=p["groups"][:7]), r"train.groups: 7 rows, but train.y has 9"),
        (lambda p: p.update(y=p["y"][:0]), r"training set is empty"),
        (lambda p: p["groups"].__setitem__((2, 0), -3), r"\(level 'writer'\): row 2 .*is -3"),
        (lambda p: p["groups"].__setitem__(p["groups"] == 1, 0), r"but 1 never occurs"),
        (lambda p: p["groups"].__setitem__((0, 0), 7), r"go up to 7 but 3 never occurs"),
        (lambda p: p.update(groups=p["groups"].double()), r"expected integer group.*float64"),
        (lambda p: p.update(groups=p["groups"].repeat(1, 2)), r"expected shape \[N, 1\].*writer"),
        (lambda p: p.update(y=torch.eye(4)[p["y"]]), r"train.y: .*one-hot.*argmax"),
        (lambda p: p["y"].__setitem__(3, 4), r"train.y: row 3 .*is 4, expected .* 0 to 3"),
        (lambda p: p["y"].__setitem__(3, -1), r"train.y: row 3 .*is -1"),
        (lambda p: p.update(y=p["y"].double()), r"train.y: expected torch.int64 for a class"),
    ],
)
def test_bad_tensors_name_array_row_and_expectation(change: Any, message: str) -> None:
    parts = tensors()
    dataset(parts)
    change(parts)
    with pytest.raises(DataError, match=message):
        dataset(parts)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("unseen", ["error", "prior"])
def test_rows_of_new_groups_need_the_prior(unseen: Any, part: str) -> None:
    parts = tensors()
    schema = Schema(**(vars(SCHEMA) | {"unseen": unseen}))
    train = Split(TensorRows(parts["x"]), parts["groups"], parts["y"])
    new = Split(train.x, torch.where(parts["groups"] == 1, -1, parts["groups"]), train.y)
    if unseen == "prior":
        data = GroupedDataset(schema, train, **{part: new})
        assert len(data.splits()[part]) == 9
    else:
        with pytest.raises(DataError, match=rf"{part}.groups.*row 1 .*no training rows.*prior"):
            GroupedDataset(schema, train, **{part: new})


def test_non_finite_values_beyond_the_first_piece_are_found() -> None:
    parts = tensors()
    parts["x"] = torch.zeros(3_000_000, 2)
    parts["x"][2_999_999, 1] = math.inf
    parts["groups"] = torch.arange(3_000_000, dtype=torch.int32)[:, None] % 3
    parts["y"] = torch.zeros(3_000_000, dtype=torch.int64)
    with pytest.raises(DataError, match=r"row 2999999, column 1 .*is inf"):
        dataset(parts)


def test_large_finite_values_pass() -> None:
    parts = tensors()
    parts["x"].fill_(3e38)
    dataset(parts)


@pytest.mark.parametrize("name", ["x", "groups", "y"])
def test_the_digest_changes_with_any_array(name: str) -> None:
    parts = tensors()
    parts["groups"] = torch.tensor([[0], [0], [1], [1], [2], [2], [0], [1], [2]], dtype=torch.int32)
    before = dataset(parts).digest()
    assert before == dataset({key: value.clone() for key, value in parts.items()}).digest()
    parts[name] = parts[name].clone()
    parts[name][0] += 1
    assert dataset(parts).digest() != before


def test_the_digest_changes_with_the_schema_and_the_split() -> None:
    parts = tensors()
    data = dataset(parts)
    renamed = Schema(**(vars(SCHEMA) | {"levels": (Level("author", 3),)}))
    assert dataset(parts, renamed).digest() != data.digest()
    keep, cut = torch.arange(6), torch.arange(6, 9)
    split = GroupedDataset(SCHEMA, data.train.subset(keep), data.train.subset(cut))
    other = GroupedDataset(SCHEMA, data.train.subset(keep), data.train.subset(cut.flip(0)))
    assert len({data.digest(), split.digest(), other.digest()}) == 3
