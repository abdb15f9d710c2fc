"""Planted sweeps whose truth is known: the report's first screen and next steps say it."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats

from hlvnn.analysis import load_runs, load_sweep
from hlvnn.analysis.report import about, write_report
from hlvnn.analysis.report.compared import Compared
from hlvnn.analysis.report.verdict import sentences
from hlvnn.analysis.verdict import weak_end
from hlvnn.config import TrainConfig
from hlvnn.records import outcomes
from hlvnn.records.outcomes import Status
from tests.planted import CLASSES, EPOCHS, SCHOOL, Trial, plant

LAWS = {
    "lr": FloatDistribution(1e-3, 0.1, log=True),
    "batch_size": CategoricalDistribution([16, 32, 64]),
    "posterior": CategoricalDistribution(["mean_field", "full_rank", "low_rank"]),
    "prior": CategoricalDistribution(["standard", "learned", "nested"]),
    "dropout": FloatDistribution(0.0, 0.5),
    "mirrored": CategoricalDistribution(["on", "off"]),
    "z_dim": IntDistribution(1, 16),
}
TRIALS, BEST, POOLED = 24, 1, 0
CUT = (20, 21)
"""The only ones with `posterior` low_rank: stopped after an epoch."""


def noise(seed: int, sd: float) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, sd, CLASSES)
    return values - values.mean()


def world() -> list[Trial]:
    """Return trials of which 1 has the fewest nats for sure, and 0, pooled, the most accuracy."""
    acc, loss = 0.8 + noise(0, 0.03), 0.6 + noise(1, 0.03)
    found = []
    for number in range(TRIALS):
        is_best, is_cut = number == BEST, number in CUT
        drawn = {
            "lr": 0.099 if is_best else 0.003 + 0.0002 * number,
            "batch_size": 64 if is_best else 32,
            "dropout": 0.25,
            "mirrored": "on" if number < 6 or number in (10, 11) else "off",
        }
        if number != POOLED:
            drawn |= {"z_dim": 4, "prior": "learned" if is_best else "standard"}
            drawn["posterior"] = "low_rank" if is_cut else "full_rank" if is_best else "mean_field"
        shift = -0.1 if is_best else 0.01 * number if not is_cut else 0.5
        worse = noise(2, 0.01) - 0.03 if is_best else -0.05 if number != POOLED else 0.0
        settings = {name: drawn[name] for name in ("lr", "batch_size", "dropout")}
        settings |= {"z_dim": [4]} if number != POOLED else {}
        found.append(
            Trial(
                acc=acc + worse,
                loss=loss + shift + noise(10 + number, 0.01),
                latents="none" if number == POOLED else "factor",
                drawn=drawn,
                epochs=1 if is_cut else EPOCHS,
                status=Status.STOPPED if is_cut else Status.COMPLETED,
                settings=settings,
                outcome={
                    "wall_seconds": 10.0,
                    "node": "gpu-1" if number < 20 else "gpu-2",
                    "ran_on": "NVIDIA H100",
                },
                began=10.0 * number if number < TRIALS - 1 else 7200.0,
            )
        )
    return found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = plant(tmp_path_factory.mktemp("planted") / "sweep", world(), LAWS)
    (outcomes.trial_folder(path, 5) / outcomes.OUTCOME).write_text("{")
    return path


@pytest.fixture(scope="module")
def page(sweep: Path) -> str:
    return write_report(load_sweep(sweep)).read_text(encoding="utf-8")


def plain(part: str) -> str:
    """Return a part of a page as text, cells apart from each other."""
    part = re.sub(r"</(td|th|dt|dd|li|caption)>", " | ", part)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", part)).split())


@pytest.fixture(scope="module")
def first(page: str) -> str:
    return plain(page.split('<section id="verdict"')[1].split("</section>")[0])


def of_pair() -> dict[str, tuple[float, float]]:
    """Return the gain of the best over the pooled, and its error: the larger of the levels'."""
    trials = world()
    own, other = trials[BEST], trials[POOLED]
    found = {}
    for name, gain in (("acc", own.acc - other.acc), ("loss", other.loss - own.loss)):
        schools = [gain[school == SCHOOL].mean() for school in range(SCHOOL.max() + 1)]
        found[name] = float(gain.mean()), float(max(stats.sem(gain), stats.sem(schools)))
    return found


def test_one_verdict_by_every_measure_and_where_they_disagree(first: str) -> None:
    gain, nats = of_pair()["acc"], of_pair()["loss"]
    assert gain[0] < -2 * gain[1]
    assert nats[0] > 2 * nats[1]
    assert "By validation nats a row trial 1, latents factor, is best." in first
    assert (
        "Trial 1 is better than the pooled model (trial 0) by nats a row, and worse by accuracy "
        "and accuracy of the weakest tenth."
    ) in first
    assert (
        f"The measures do not agree on the two: accuracy speaks for trial 0 (by "
        f"{-gain[0]:.3g} ± {gain[1]:.2g}) and nats a row speaks for trial 1 (by {nats[0]:.3g} ± "
        f"{nats[1]:.2g})."
    ) in first
    assert (
        "Validation accuracy and validation nats a row disagree on who wins: by the first it would "
        f"be trial 0 (0.8 beside 0.77, a lead of {-gain[0]:.3g} ± {gain[1]:.2g}), by the second "
        "it is trial 1."
    ) in first
    assert (
        f"accuracy | 0.7700 | trial 0 | 0.8000 | {gain[0]:.4f} | {gain[1]:.4f} | worse |"
    ) in first
    assert f"trial 0 | 0.6000 | +{nats[0]:.4f} | {nats[1]:.4f} | better |" in first
    assert "accuracy of the weakest tenth (4 of 40) |" in first


def test_the_winners_settings_stand_beside_base_with_what_was_searched(first: str) -> None:
    assert "setting | BASE | trial 1 | searched |" in first
    assert "lr | 0.01 | 0.099 | 0.001 to 0.1 (log) |" in first
    assert f"batch_size | {TrainConfig().batch_size} (default) | 64 | 16, 32, 64 |" in first
    assert "mean_field, full_rank, low_rank; 23 trials of 24 drew it |" in first
    assert "z_dim |" in first
    assert "1 to 16; 23 trials of 24 drew it |" in first
    assert "As BASE has it: dataset=pupils, num_epochs=2. All else is at its default." in first


def test_how_it_was_searched_how_long_and_where(first: str) -> None:
    assert "trials | 24: 22 completed, 2 stopped |" in first
    assert "searcher | tpe: learns from those that ended" in first
    assert "ASHA | grace period 1, factor 2; rungs at epochs 1 |" in first
    # without its outcome trial 5 is known by its metrics alone: 4 s of training in place of 10
    assert "time | 3 min 54 s by the clock while trials ran; 1 min 32 s in trials, all" in first
    assert "machines | gpu-1 (19 trials), gpu-2 (4 trials); NVIDIA H100 |" in first
    assert "damage | 1 note below, under “Beware” |" in first


def test_the_next_steps_tell_edges_of_ranges_and_of_choices(page: str) -> None:
    steps = plain(page.split('<section id="next"')[1].split("</section>")[0])
    assert "lr = 0.099 is at the upper end of its range (0.001 to 0.1)" in steps
    assert "batch_size = 64 is the largest of its choices (16, 32, 64)" in steps
    assert "prior was hardly tried as learned (1 of 23 trials), nested (never)" in steps
    assert (
        "posterior = low_rank was only cut early: none of 2 trials ran to its end (2 stopped, the "
        "longest after 1 epoch)."
    ) in steps
    assert (
        "The best 5 trials all have mirrored = on, as have 8 of the 24 that drew it and have a "
        "result (by chance 0.13 % of the time"
    ) in steps
    assert "dropout = " not in steps


def test_every_level_of_groups_has_its_own_sections(page: str, sweep: Path) -> None:
    for name in ("spread", "gain", "shrinkage"):
        first, second = (page.index(f'<figure id="{name}{end}"') for end in ("", "-2"))
        assert first < second
    text = plain(page)
    assert "How each class fares, over epochs (trial 1)" in text
    assert "How each school fares, over epochs (trial 1)" in text
    assert "What each school gains by latents (trial 1)" in text
    table = plain(page.split('<table id="groups-2"')[1].split("</table>")[0])
    assert "8 of 8 groups" in table
    assert "(level school)" in table
    trials = world()
    gain = float((trials[BEST].acc - trials[POOLED].acc)[SCHOOL == 3].mean())
    assert f"s3 | | 125 | {trials[BEST].acc[SCHOOL == 3].mean():.3f} |" in table
    assert f"| {gain:+.4f} |" in table
    assert "Over the 8 groups of the level school the mean gain by latents in test accuracy" in text


def test_what_cannot_be_told_apart_is_said_to_be_so(tmp_path: Path) -> None:
    base = 0.8 + noise(0, 0.05), 0.6 + noise(1, 0.05)
    trials = [
        Trial(acc=base[0], loss=base[1], latents="none"),
        Trial(acc=base[0] + noise(5, 0.02), loss=base[1] - 0.001 + noise(4, 0.02)),
    ]
    results = load_sweep(plant(tmp_path / "sweep", trials, {}))
    found = Compared.of(results, lambda _, measure: measure())
    assert [one.sign for one in found.beside] == [0, 0, 0]
    told = " ".join(sentences(results, found.beside, [0], found.disagreement))
    assert (
        "Trial 1 and the pooled model (trial 0) cannot be told apart by accuracy, nats a row and "
        "accuracy of the weakest tenth."
    ) in told
    assert "The validation rows cannot tell it from 1 other trial" in told


def test_the_error_of_the_weak_end_is_about_what_new_groups_would_give(tmp_path: Path) -> None:
    """Pairs that do not differ are told apart by chance alone in about one of twenty."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        skill = 0.8 + rng.normal(0, 0.06, 60)
        frame = pd.DataFrame({n: skill + rng.normal(0, 0.04, 60) for n in ("trial", "pooled")})
        frame.attrs = {"trials": (1, 0), "measure": "acc"}
        wrong += weak_end(frame).sign != 0
    assert 1 <= wrong <= 24


def test_single_runs_have_their_settings_beside_the_defaults(sweep: Path, tmp_path: Path) -> None:
    for number, name in ((POOLED, "pooled"), (BEST, "latents")):
        shutil.copytree(outcomes.trial_folder(sweep, number), tmp_path / name)
    found = about.settings(load_runs(tmp_path, "val_loss", "min"))
    assert found is not None
    assert found.caption == "The settings of trial 0 (latents) that differ between runs."
    assert [title for title, _ in found.columns][::3] == ["setting", "in all runs"]
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in found.rows}
    assert cells["lr"] == ["0.001 (default)", "0.099", "0.003, 0.099"]
    assert cells["latent_config"] == ["none (default)", "factor", "factor, none"]
    assert "dropout" not in cells
