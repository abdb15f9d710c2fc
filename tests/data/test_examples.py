"""Tables that come with the program: what they are said to be, a fit finds."""

from __future__ import annotations

import pytest

import hlvnn
from hlvnn.errors import ConfigError


def fitted(
    name: str, target: str, features: list[str], groups: list[str], *latents: str
) -> dict[str, list[float]]:
    data = hlvnn.GroupedDataset.from_frame(hlvnn.load_example(name), target, features, groups)
    config = hlvnn.ModelConfig(
        backbone="linear", latents=[hlvnn.LatentConfig.from_text(text) for text in latents]
    )
    model = hlvnn.build_model(config, data)
    hlvnn.fit(model, data, hlvnn.TrainConfig(device="cpu"), lambda *_: None)
    table = model.summary()
    return {
        str(part): rows["estimate"].tolist() for part, rows in table.groupby("part", sort=False)
    }


def test_the_wage_panel_is_the_published_one() -> None:
    frame = hlvnn.load_example("wages")
    assert set(frame.groupby("man")["year"].apply(tuple)) == {tuple(range(1980, 1988))}
    assert frame["man"].nunique() == 545
    # Vella and Verbeek (1998), table I: means of wages, union and schooling
    assert frame["log_wage"].mean() == pytest.approx(1.649, abs=5e-4)
    assert frame["union"].mean() == pytest.approx(0.244, abs=5e-4)
    assert frame["schooling"].mean() == pytest.approx(11.77, abs=5e-3)
    assert frame["occupation"].nunique() == 9
    assert not frame.isna().any().any()


def test_a_fit_of_the_simulated_tables_finds_what_they_were_made_with() -> None:
    slopes = "weights@output:columns=day level=subject"
    found = fitted("reaction", "reaction", ["day"], ["subject"], slopes)
    assert found["fixed"] == pytest.approx([250, 10], rel=0.1)
    assert found["prior sd"] == pytest.approx([25, 6], rel=0.2)
    assert found["noise sd"] == pytest.approx([25], rel=0.1)
    wards = ("bias@output level=ward", "bias@output level=hospital")
    found = fitted("patients", "died", ["age", "severity"], ["ward", "hospital"], *wards)
    assert found["fixed"] == pytest.approx([-3 - 0.02 * 60, 0.02, 0.3], rel=0.15)
    assert found["prior sd"] == pytest.approx([0.4, 0.6], rel=0.5)  # of 30 wards, 6 hospitals


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown example 'wage'.*wages"):
        hlvnn.load_example("wage")
