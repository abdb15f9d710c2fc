"""A finished run that is trained longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.records.run_folder import read_config
from tests.conftest import Ended

RUN = Path("runs/digits/one")
SETTINGS = ("--dataset", "digits", "--latent-config", "film", "--z-dim", 2, "--device", "cpu")
SECONDS = ["seconds", "rows_per_second"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(train_one: Callable[..., Ended], name: str, *more: object) -> Ended:
    ended = train_one(*SETTINGS, "--results-dir", "runs", "--name", name, *more)
    assert ended.code == 0, ended.err
    return ended


def measured(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").drop(columns=SECONDS)


@pytest.mark.parametrize("how", ["constant", "restart"])
def test_it_goes_on_with_the_schedule_that_was_asked_for(
    train_one: Callable[..., Ended], how: str
) -> None:
    trained(train_one, "one", "--num-epochs", 3)
    before = measured(RUN)
    ended = train_one("--resume", RUN, "--num-epochs", 5, "--longer", how)
    assert ended.code == 0
    assert "trained longer: it had ended after 3 epochs" in ended.out + ended.err
    after = measured(RUN)
    pd.testing.assert_frame_equal(after[:3], before)
    lr = after["lr"].tolist()
    if how == "constant":
        assert lr[3:] == pytest.approx([2.447e-5] * 2, rel=1e-3), "1e-3 at nine tenths"
    else:
        assert lr[3] > 10 * lr[2]
        assert lr[4] < lr[3], "it falls again"
    config = read_config(RUN).train
    assert (config.num_epochs, config.ended_at, config.longer) == (5, 3, how)
    trained(train_one, "two", "--num-epochs", 5, "--ended-at", 3, "--longer", how)
    pd.testing.assert_frame_equal(measured(RUN.with_name("two")), after, check_exact=True)


def test_a_run_that_stopped_early_or_has_not_ended_is_not(train_one: Callable[..., Ended]) -> None:
    trained(train_one, "one", "--num-epochs", 8, "--patience", 1, "--lr", 0.1)
    ended = train_one("--resume", RUN, "--num-epochs", 20)
    assert ended.code == 2
    assert "stopped early" in ended.err
    assert f"--from-weights {RUN}" in ended.err
    (RUN / "result.json").unlink()
    ended = train_one("--resume", RUN, "--num-epochs", 20)
    assert ended.code == 2
    assert "--num-epochs 20 (was 8)" in ended.err


def test_fewer_epochs_than_it_had_are_refused(train_one: Callable[..., Ended]) -> None:
    trained(train_one, "one", "--num-epochs", 3)
    ended = train_one("--resume", RUN, "--num-epochs", 2)
    assert ended.code == 2
    assert "--num-epochs 2 (was 3)" in ended.err
    ended = train_one(*SETTINGS, "--num-epochs", 3, "--ended-at", 3)
    assert ended.code == 2
    assert "--ended-at 3: a run that is trained longer has more epochs" in ended.err
