"""Structures against the pooled network: gains, bounds and Holm's correction on planted numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats


@pytest.fixture(scope="module")
def study(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("never_worse")


def planted(study: ModuleType, mean: float, sd: float = 0.01, groups: int = 400) -> object:
    """Return a comparison of five seeds whose groups have this mean gain, exactly."""
    effects = np.random.default_rng(0).normal(size=groups)
    effects = (effects - effects.mean()) / effects.std(ddof=1) * sd + mean
    seeds = np.array([-2, -1, 0, 1, 2]) * 0.001
    gains = effects + seeds[:, None]
    return study.Comparison("letters", "known", "film", gains, gains + 0.5)


def test_a_gain_has_its_error_over_groups_and_its_spread_over_seeds(study: ModuleType) -> None:
    one = planted(study, mean=-0.003)
    assert one.gain == pytest.approx(-0.003)
    assert one.error == pytest.approx(0.01 / 20)
    assert one.spread == pytest.approx(0.001 * np.sqrt(2.5))
    assert one.bound == -0.002, "errors are small: two thousandths count"
    assert one.p_worse == pytest.approx(stats.t.cdf(-6, 399))
    of_groups, of_seeds = one.error**2, one.spread**2 / 5
    free = (of_groups + of_seeds) ** 2 / (of_groups**2 / 399 + of_seeds**2 / 4)
    both = stats.t.cdf(-0.003 / np.sqrt(of_groups + of_seeds), free)
    assert one.p_worse_anew == pytest.approx(both)
    assert planted(study, mean=-0.003, sd=0.1).bound == pytest.approx(-0.01)
    assert planted(study, mean=0.003).is_gained
    assert not planted(study, mean=0.003, sd=0.1).is_gained


def test_holm_multiplies_by_what_is_left_and_never_falls(study: ModuleType) -> None:
    corrected = study.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert study.holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_the_table_tells_what_is_worse_and_where_nothing_is_gained(study: ModuleType) -> None:
    means = {"film": -0.003, "factor": 0.0, "bias": 0.0001}
    found = [planted(study, mean)._replace(structure=name) for name, mean in means.items()]
    found.append(planted(study, 0.02)._replace(data="digits", kind="new"))
    table = study.shown(found).splitlines()
    assert table[2].startswith("| letters | 400 known | film | -0.0030 ± 0.0005 | 0.0016 |")
    assert table[2].endswith("| -0.0020 | **no** | **p 0.000** | **p 0.014** | +0.4970 |")
    assert table[3].endswith("| -0.0020 | yes | p 1.000 | p 1.000 | +0.5000 |")
    assert "4 comparisons: 1 below the bound, 1 worse than pooled at 5%" in table[-2]
    assert table[-1].startswith("letters, known groups: latents gain nothing beyond two standard")
    assert "bias, +0.0001 ± 0.0005" in table[-1]


def test_runs_are_paired_by_group_and_by_seed(study: ModuleType, tmp_path: Path) -> None:
    (tmp_path / study.GROUPS).mkdir()
    jobs = [study.Job("digits", name, seed) for seed in (0, 1) for name in ("none", "film")]
    for job in jobs[:-1]:  # the last run is not there yet
        group = np.array([0, 1, 2, 3])
        loss = 2.0 + group + job.seed - (job.structure == "film") * 0.1 * (group + 1)
        table = pd.DataFrame({"group": group, "rows": 9, "loss": loss, "chosen": loss**2})
        table.insert(0, "kind", ["known"] * 3 + ["new"])
        table.sample(frac=1, random_state=job.seed).to_parquet(job.path(tmp_path))
    known, new = study.comparisons(tmp_path, jobs)
    assert known.gains == pytest.approx(np.array([[0.1, 0.2, 0.3]]))
    assert (new.kind, new.gain) == ("new", pytest.approx(0.4))
    assert new.chosen == pytest.approx(np.array([[5.0**2 - 4.6**2]])), "told beside it"
    assert new.p_worse == 1, "of one group there is no error"


def test_a_data_set_is_cut_to_so_many_rows_a_group_whatever_is_set_of_latents(
    study: ModuleType,
) -> None:
    options = study.Options(quick=True)
    config = study.config_of(options, study.Job("digits", "film", 0))
    data = study.load_data(config.data)
    few = study.cut(data, 15)
    assert few.counts(0).tolist() == [15] * data.schema.levels[0].size
    assert (few.val, few.test) == (data.val, data.test)
    names = {name for one in study.DATA.values() for name in one.settings}
    assert not names & {"latent_lr", "prior", "posterior", "prior_updates", "z_dim", "kl_weight"}
    assert study.applicable(options, "digits", data.schema) == [
        name for name in study.WITH_PRIOR if "step" not in name and name != "initial-state"
    ]
