"""An attribute that matters, and a bad group, are planted and asked back from report and tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlvnn.analysis import Results, load_sweep
from hlvnn.analysis.by_attribute import by_attribute, weakest_of
from hlvnn.analysis.figures.attributes import gain_by_attribute
from hlvnn.analysis.gains import gains
from hlvnn.analysis.report import attributes
from hlvnn.analysis.report.sections import Measured
from hlvnn.data.attributes import attributes_of
from hlvnn.errors import DataError
from hlvnn.records.group_file import write_groups
from tests.analysis.wards import BAD, LATENT, POOLED, WARDS, Truth, leave_sweep, truth

TRIALS = [POOLED, LATENT, POOLED, LATENT]


@pytest.fixture(scope="module")
def known() -> Truth:
    return truth()


@pytest.fixture(scope="module")
def swept(known: Truth, tmp_path_factory: pytest.TempPathFactory) -> Results:
    sweep = leave_sweep(tmp_path_factory.mktemp("wards") / "s", known, TRIALS, of_training=0.02)
    write_groups(sweep, attributes_of(known.table, ["ward"], "wards.csv").table)
    return load_sweep(sweep)


def section(results: Results) -> str:
    """Return what the report's section says."""
    return attributes.look(Measured(results, 2))


def test_the_report_says_whose_site_gains_and_which_ward_is_bad(swept: Results) -> None:
    text = section(swept)
    by_site = re.search(r"By site: B \+0\.(\d+) ± 0\.(\d+) \(10 groups\), (.*?)\.", text)
    assert by_site is not None, text
    assert float(f"0.{by_site[1]}") == pytest.approx(0.3, abs=0.04)
    for other in re.findall(r"[AC] ([+-]0\.\d+) ± ", text.split("By site: ")[1]):
        assert abs(float(other)) < 0.06
    assert "(gains differ, p < 0.001)" in text
    assert f"The weakest tenth: {BAD}," in text
    assert "By age: " in text
    assert "no difference that chance would not make" in text
    assert "2 attributes were looked at" in text
    found = attributes.of_sweep(swept, gains(swept))
    table = attributes.table(found)
    assert table is not None
    assert [cell.text for cell in table.rows[0][:3]] == ["site", "B", "10"]
    drawn = gain_by_attribute(found, "acc", "test")
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["site", "age"]


def test_attributes_join_the_tables_of_groups(swept: Results, known: Truth) -> None:
    frame = swept.groups.read(
        ["acc"], trials=[1], epochs=3, split="test", labels=True, attributes=["site", "age"]
    )
    assert list(frame) == ["acc", "label", "site", "age"]
    assert frame["site"].tolist() == known.table["site"].tolist()
    assert frame["age"].tolist() == known.table["age"].tolist()
    both = swept.groups.read(["trial", "acc"], epochs=3, split="test", attributes="site")
    means = both.groupby(["trial", "site"])["acc"].mean().unstack()
    gain = means.loc[[1, 3]].mean() - means.loc[[0, 2]].mean()
    assert gain.to_numpy() == pytest.approx([0, 0.3, 0], abs=0.04)


def test_a_sweep_that_had_none_is_told_later(known: Truth, tmp_path: Path) -> None:
    results = load_sweep(leave_sweep(tmp_path / "s", known, TRIALS[:2]))
    path = tmp_path / "later.csv"
    known.table.to_csv(path, index=False)
    for table in (known.table, path, str(path)):
        frame = results.groups.read(["gid"], trials=0, epochs=1, split="val", attributes=table)
        assert list(frame) == ["gid", "site", "age"]
        assert frame["site"].tolist() == known.table["site"].tolist()
    with pytest.raises(DataError, match="attributes: no column holds the labels"):
        results.groups.read(attributes=known.table.rename(columns={"ward": "w"}))
    with pytest.raises(
        DataError, match=r"attributes: none of its 30 labels \(W00, .*of level 'war"
    ):
        results.groups.read(attributes=known.table.assign(ward=known.table["ward"].str.upper()))
    rows = results.groups.read(["gid"], trials=0, epochs=1, split="val", attributes=["rows"])
    assert rows["rows"].isna().all()
    assert any("ran before rows of groups were kept" in one for one in results.problems)
    results.groups.take_attributes(known.table)
    assert "By site: B +0." in section(results)


def test_numbers_are_ranked_and_small_categories_taken_together(swept: Results) -> None:
    frame = gains(swept)
    rng = np.random.default_rng(0)
    few = ["one", "two", *["many"] * (WARDS - 5), "many", "many", "many"]
    table = pd.DataFrame(
        {
            "beds": frame["gain"] + rng.normal(0, 0.05, WARDS),
            "kind": few,
            "same": 1,
            "name": [f"n{ward}" for ward in range(WARDS)],
        }
    )
    table.loc[:3, "beds"] = np.nan
    found = {one.name: one for one in by_attribute(frame, table)}
    assert list(found) == ["beds", "kind"], "the surest first, and only what tells groups apart"
    beds = found["beds"]
    assert beds.without == 4
    assert beds.rank is not None
    assert beds.rank[1] < beds.rank[0] < beds.rank[2]
    assert beds.rank[1] > 0.4
    assert beds.p < 0.001
    assert beds.parts["groups"].sum() == WARDS - 4
    assert beds.parts["gain"].is_monotonic_increasing
    assert set(found["kind"].parts["value"]) == {"many", "others (2)"}
    assert found["kind"].p > 0.05
    assert frame["label"].iloc[weakest_of(frame)[0]] == BAD


def test_what_the_weakest_have_in_common_is_said_where_chance_would_not_make_it(
    swept: Results,
) -> None:
    frame = gains(swept)
    weak = weakest_of(frame)
    values = np.array(["strong"] * WARDS, dtype=object)
    values[[*weak, 29]] = "weak"
    table = pd.DataFrame({"ward": frame["label"], "build": values})
    own = load_sweep(swept.path)
    own.groups.take_attributes(table)
    assert "3 of 3 have build weak, as 4 of 30 groups do (p < 0.001)" in section(own)
