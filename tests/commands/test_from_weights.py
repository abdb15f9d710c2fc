"""A run that begins with another's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from hlvnn import load_run
from hlvnn.data import load_data
from hlvnn.models.build import build_model
from hlvnn.records.taken_over import take_over
from tests.conftest import Ended

RUN = Path("runs/one/one")


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write two tables: the second has other groups too, and in another order."""
    monkeypatch.chdir(tmp_path)
    draws = torch.Generator().manual_seed(0)
    for name, groups in (("one", "abcdefgh"), ("two", "zhgyfe")):
        rows = [group for group in groups for _ in range(40)]
        x = torch.randn(len(rows), 2, generator=draws)
        effect = torch.tensor([float(ord(group) - ord("d")) for group in rows])
        y = x[:, 0] + effect + 0.1 * torch.randn(len(rows), generator=draws)
        frame = pd.DataFrame(x.numpy(), columns=["a", "b"]).assign(g=rows, y=y.numpy())
        frame.to_csv(f"{name}.csv", index=False)


def run(train_one: Callable[..., Ended], table: str, *more: object) -> Ended:
    ended = train_one(
        *("--dataset", "table", "--table", f"{table}.csv", "--target", "y", "--groups", "g"),
        *("--backbone", "mlp", "--results-dir", "runs", "--device", "cpu", *more),
    )
    assert ended.code == 0, ended.err
    return ended


def test_what_fits_is_taken_groups_by_their_labels(train_one: Callable[..., Ended]) -> None:
    run(train_one, "one", "--latent-config", "factor", "bias", "--name", "one", "--num-epochs", 6)
    ended = run(
        *(train_one, "two", "--latent-config", "bias", "--from-weights", RUN, "--name", "two"),
        *("--num-epochs", 1, "--lr", "1e-9"),
    )
    told = ended.out + ended.err
    assert f"weights of {RUN}, epoch 6: " in told
    assert "g bias@output: 4 of 6 groups of g are known there" in told
    one, two = load_run(RUN, "best"), load_run("runs/two/two", "last")
    theirs, ours = (dict(x.model.backbone.named_parameters()) for x in (one, two))
    for name in ours:
        if "hidden" in name:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
    again = train_one("--from-trial", "runs/two/two", "--name", "again", "--results-dir", "runs")
    assert again.code == 0
    assert f"weights of {RUN}" in again.out + again.err, "a repeated run begins as it did"


def test_a_groups_posterior_is_that_of_its_label(train_one: Callable[..., Ended]) -> None:
    run(train_one, "one", "--latent-config", "bias", "--name", "one", "--num-epochs", 6)
    run(train_one, "two", "--latent-config", "bias", "--name", "two", "--num-epochs", 1)
    config = load_run("runs/two/two").config
    data = load_data(config.data)
    model = build_model(config.model, data, seed=5)
    [latent], [other] = model.latents, load_run(RUN, "best").model.latents
    before = latent.posterior.table.detach().clone()
    take_over(model, data, str(RUN))
    labels = data.schema.levels[0].labels
    assert labels is not None
    old = load_run(RUN).schema.levels[0].labels
    assert old is not None
    for number, label in enumerate(labels):
        expected = other.posterior.table[old.index(label)] if label in old else before[number]
        torch.testing.assert_close(latent.posterior.table[number], expected)


def test_a_network_of_which_nothing_fits_is_refused(
    train_one: Callable[..., Ended],
) -> None:
    run(train_one, "one", "--name", "one", "--num-epochs", 1)
    ended = train_one(
        *("--dataset", "digits", "--from-weights", RUN, "--results-dir", "runs", "--name", "no"),
    )
    assert ended.code == 2
    assert f"--from-weights {RUN}: nothing of " in ended.err
    assert not Path("runs/digits/no").exists()
    ended = train_one("--dataset", "digits", "--from-weights", "nowhere", "--results-dir", "runs")
    assert ended.code == 2
    assert "nowhere" in ended.err
