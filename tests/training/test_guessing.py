"""A run that is worse than guessing says so beside "completed", in its log and in every table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hlvnn.analysis import load_runs
from hlvnn.analysis.report import write_report
from hlvnn.models.build import build_model
from hlvnn.records.run_folder import HYPERPARAMS
from hlvnn.training.execution import execute
from hlvnn.training.guessing import guess_losses
from tests.helpers import grouped_data, small_config
from tests.runs import configured


def test_guessing_is_worth_the_entropy_of_the_frequencies() -> None:
    data = grouped_data(rows=200)
    data.train.y.copy_((data.train.y * 0 + 1).long())  # always class 1 of 5
    assert data.val is not None
    data.val.y.copy_((data.val.y * 0 + 1).long())
    data.test.y.copy_((data.test.y * 0 + 2).long())
    model = build_model(small_config(), data, seed=0)
    count = len(data.train) + 5
    guess = guess_losses(model, data)
    assert guess["val"] == pytest.approx(-math.log((len(data.train) + 1) / count))
    assert guess["test"] == pytest.approx(-math.log(1 / count))


def test_of_a_normal_target_it_is_the_density_by_mean_and_sd() -> None:
    data = grouped_data(target="real")
    model = build_model(small_config(), data, seed=0)
    y, val = data.train.y.numpy(), data.splits()["val"].y.numpy()
    z = (val - y.mean()) / y.std(ddof=1)
    expected = np.log(y.std(ddof=1)) + 0.5 * np.log(2 * np.pi) + 0.5 * np.square(z).mean()
    assert guess_losses(model, data)["val"] == pytest.approx(expected)


@pytest.mark.parametrize(("lr", "is_worse"), [(3.0, True), (0.02, False)])
def test_it_is_told_in_log_table_and_report(
    image_folder: Path, tmp_path: Path, lr: float, is_worse: bool
) -> None:
    folder = tmp_path / "runs" / "run"
    execute(configured(image_folder, lr=lr, lr_schedule="constant", num_epochs=2), folder)
    if not is_worse:  # of this world nothing can be learned: guessing is made worse by hand
        record = json.loads((folder / HYPERPARAMS).read_text(encoding="utf-8"))
        record["guess"]["val"] = 50.0
        (folder / HYPERPARAMS).write_text(json.dumps(record), encoding="utf-8")
    log = (folder / "train.log").read_text(encoding="utf-8")
    results = load_runs(folder.parent)
    page = write_report(results, num_samples=2).read_text(encoding="utf-8")
    words = "guessing by the training rows&#39; distribution alone has"
    assert results.trials["status"].iloc[0] == "completed"
    assert ("distribution alone has" in results.trials["reason"].iloc[0]) == is_worse
    assert (words in page.split('<section id="repeat"')[0]) == is_worse
    if is_worse:
        assert "distribution alone has" in log
