"""Posteriors of new groups: any model, the encoder, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import hlvnn
from hlvnn.config import DataConfig
from hlvnn.data.assemble import assemble
from hlvnn.data.grouped import GroupedDataset, Loaded, Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.inference.objective import full_elbo
from hlvnn.inference.predict import evaluate, predict
from hlvnn.models.model import HierarchicalModel
from tests.helpers import POSTERIORS, grouped_data, latent, same_bits, small_config, tiny_model
from tests.inference.adapting import pastes_model
from tests.inference.linear import SLEEP, table


def held_out(kind: str = "features", hold_out: float = 0.4) -> GroupedDataset:
    """Return made-up data of which two of six writers are new."""
    data = grouped_data(kind, rows=90)
    config = DataConfig(dataset="made-up", hold_out=hold_out, unseen="prior", val_fraction=0)
    return assemble(config, Loaded(data.schema, data.train, data.test))


def new_rows(data: GroupedDataset) -> Split:
    assert data.test is not None
    return data.test.subset((data.test.groups[:, 0] < 0).nonzero().squeeze(1))


# any model


def test_a_report_may_adapt_the_model_in_the_middle_of_its_fit() -> None:
    data = held_out()
    model = tiny_model(data, latent_config=("factor",))
    adapted: list[HierarchicalModel] = []
    settings = hlvnn.TrainConfig(num_epochs=2, batch_size=20, device="cpu")
    rows = new_rows(data)
    hlvnn.fit(model, data, settings, lambda *_: adapted.append(hlvnn.adapt(model, rows, steps=5)))
    known = data.schema.levels[0].size
    for one in adapted:
        assert len(one.posterior("writer")) == known + 2
        mean = one.latents[0].posterior(torch.arange(known, known + 2)).mean
        assert mean.abs().sum() > 0


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_posterior_adapts_to_a_better_bound_and_nothing_else_moves(posterior: str) -> None:
    data = held_out()
    prior = "standard" if posterior == "point" else "learned"
    entry = latent("concat", "hidden1", width=2, posterior=posterior, prior=prior)
    model = tiny_model(data, latents=(entry,))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = new_rows(data)
    start, end = (hlvnn.adapt(model, rows, steps=steps) for steps in (1, 100))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    known = data.schema.levels[0].size
    for name, value in before.items():
        after = end.state_dict()[name]
        if value.shape == after.shape:
            assert torch.equal(after, value), name
        elif posterior != "joint":
            assert torch.equal(after[:known], value), name
    laws = [m.latents[0].posterior(torch.arange(known)) for m in (model, end)]
    assert torch.equal(laws[0].mean, laws[1].mean)
    named = Split(rows.x, rows.gids, rows.y)
    first, last = (full_elbo(m, named, num_samples=200).value for m in (start, end))
    assert last > first
    assert end.training is False
    assert {p.requires_grad for p in end.parameters()} == {True}


def test_held_out_groups_of_a_split_are_known_afterwards() -> None:
    data = held_out()
    assert data.test is not None
    model = tiny_model(data, latent_config=("factor",))
    adapted = hlvnn.adapt(model, new_rows(data), steps=5)
    size, new = data.schema.levels[0].size, data.schema.levels[0].new
    assert len(new) == 2
    assert adapted.posterior("writer")["writer"].tolist()[size:] == list(new)
    assert adapted.schema.levels[0].size == size + 2
    before, after = (evaluate(m, data.test).groups for m in (model, adapted))
    pd.testing.assert_frame_equal(before[before["gid"] < size], after[after["gid"] < size])
    changed = before["gid"] >= size
    assert (before.loc[changed, "loss"] != after.loc[changed, "loss"]).all()


def test_a_new_group_without_rows_integrates_the_prior_until_it_has_some() -> None:
    data = held_out()
    assert data.test is not None
    model = tiny_model(data, latent_config=("factor",))
    rows = new_rows(data)
    size = data.schema.levels[0].size
    first, second = (
        rows.subset((rows.gids[:, 0] == gid).nonzero().squeeze(1)) for gid in (size, size + 1)
    )
    one = hlvnn.adapt(model, second, steps=20)
    assert one.posterior("writer")["writer"].tolist()[size:] == [data.schema.levels[0].new[1]]
    pd.testing.assert_frame_equal(predict(one, first, seed=3), predict(model, first, seed=3))
    both = hlvnn.adapt(one, first, steps=20)
    assert len(both.posterior("writer")) == size + 2
    pd.testing.assert_frame_equal(predict(both, second), predict(one, second))
    with pytest.raises(DataError, match=r"row 0 .* has no new group"):
        hlvnn.adapt(both, first)


def test_labels_of_a_dataframe_may_be_new_twice(shared: Path) -> None:
    frame = pd.DataFrame({"y": [1.0, 2.0, 4.0, 5.0], "x": [0, 1, 0, 1], "who": list("aabb")})
    data = GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["who"])
    config = hlvnn.ModelConfig(backbone="linear", latent_config="bias", prior="learned")  # type: ignore[arg-type]
    model = hlvnn.build_model(config, data)
    once = hlvnn.adapt(model, frame.assign(who=list("zczc")))
    twice = hlvnn.adapt(once, frame.assign(who="d"))
    assert twice.posterior("who")["who"].tolist() == ["a", "b", "z", "c", "d"]
    assert twice.posterior("who")["rows"].tolist() == [2, 2, 2, 2, 4]
    pd.testing.assert_frame_equal(
        twice.posterior("who")[:4], once.posterior("who"), check_exact=True
    )


def test_the_same_seed_gives_the_same_posterior() -> None:
    data = held_out()
    model = tiny_model(data, latent_config=("factor",))
    one, same, other = (hlvnn.adapt(model, new_rows(data), steps=3, seed=s) for s in (0, 0, 1))
    assert same_bits(one, same)
    assert not same_bits(one, other)


def amortised(data: GroupedDataset) -> HierarchicalModel:
    entry = latent("concat", "output", width=2, posterior="amortised", prior="learned")
    return tiny_model(data, latents=(entry,))


# the encoder


def test_the_encoder_reads_new_groups_as_it_reads_known_ones() -> None:
    data = held_out()
    model = amortised(data)
    model.latents.refresh()
    copied = GroupedDataset(replace(data.schema, unseen="prior"), data.train)
    size = data.schema.levels[0].size
    rows = copied.train
    again = Split(rows.x, torch.full_like(rows.groups, -1), rows.y, rows.groups % 2 + size)
    pair = Split(rows.x, rows.groups % 2, rows.y)
    adapted = hlvnn.adapt(model, again, method="encoder")
    other = hlvnn.build_model(
        small_config(
            latents=(latent("concat", "output", width=2, posterior="amortised", prior="learned"),)
        ),
        GroupedDataset(
            replace(
                data.schema,
                levels=(replace(data.schema.levels[0], size=2, labels=None, new=()),),
            ),
            pair,
        ),
    )
    state = {
        k: v
        for k, v in model.state_dict().items()
        if k.rsplit(".")[-1] not in ("table", "within") and "counts" not in k
    }
    other.load_state_dict(state, strict=False)
    other.latents.refresh()
    law = adapted.latents[0].posterior(torch.tensor([size, size + 1]))
    expected = other.eval().latents[0].posterior(torch.arange(2))
    torch.testing.assert_close(law.mean, expected.mean)
    torch.testing.assert_close(law.stddev, expected.stddev)


def test_steps_refine_what_the_encoder_read() -> None:
    data = held_out()
    model = amortised(data)
    rows = new_rows(data)
    read = hlvnn.adapt(model, rows, method="encoder")
    refined = hlvnn.adapt(model, rows, method="encoder", steps=100)
    named = Split(rows.x, rows.gids, rows.y)
    first, last = (full_elbo(m, named, num_samples=200).value for m in (read, refined))
    assert last > first
    assert not any("table" in name for name, p in refined.named_parameters() if p.requires_grad)


# what is refused


def test_rows_that_do_not_fit_are_refused() -> None:
    data = held_out()
    model = tiny_model(data, latent_config=("factor",))
    rows = new_rows(data)
    with pytest.raises(DataError, match="no rows; give one or more"):
        hlvnn.adapt(model, rows.subset(torch.arange(0)))
    with pytest.raises(DataError, match=r"row 0 .*has no new group \(writer \d\)"):
        hlvnn.adapt(model, data.train)
    with pytest.raises(DataError, match=r"row 0 .* has the number -1 for its writer"):
        hlvnn.adapt(model, Split(rows.x, rows.groups, rows.y))
    with pytest.raises(DataError, match="has the number 99 for its writer"):
        hlvnn.adapt(model, Split(rows.x, rows.groups, rows.y, torch.full_like(rows.groups, 99)))
    with pytest.raises(DataError, match="trained on arrays"):
        hlvnn.adapt(model, pd.DataFrame({"writer": ["a"]}))


def test_settings_that_make_no_sense_are_refused() -> None:
    data = held_out()
    rows = new_rows(data)
    model = tiny_model(data, latent_config=("factor",))
    with pytest.raises(ConfigError, match="unknown method 'optimize'; did you mean 'optimise'"):
        hlvnn.adapt(model, rows, method="optimize")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no encoder reads .* method='optimise'"):
        hlvnn.adapt(model, rows, method="encoder")
    with pytest.raises(ConfigError, match=r"steps \(0\): expected at least 1"):
        hlvnn.adapt(model, rows, steps=0)
    with pytest.raises(ConfigError, match=r"num_samples \(0\)"):
        hlvnn.adapt(model, rows, num_samples=0)
    with pytest.raises(ConfigError, match="has no latents"):
        hlvnn.adapt(tiny_model(data, latent_config=("none",)), rows)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_known_cask_cannot_move_and_a_new_one_has_one_batch(shared: Path) -> None:
    frame = table(shared, "Pastes")
    model = pastes_model(frame[frame["batch"] != "J"], "nested")
    moved = frame[frame["batch"] == "J"].assign(sample="A:a")
    with pytest.raises(DataError, match="lay in another group of batch"):
        hlvnn.adapt(model, moved)
    split = frame[frame["batch"].isin(["I", "J"])].assign(sample="new")
    with pytest.raises(DataError, match="has rows in 2 groups of batch"):
        hlvnn.adapt(model, split)


@pytest.mark.data
def test_a_dataframe_needs_its_target_as_in_training(shared: Path) -> None:
    frame = table(shared, "sleepstudy")
    data = GroupedDataset.from_frame(frame, **SLEEP)  # type: ignore[arg-type]
    config = hlvnn.ModelConfig(backbone="linear", latent_config=("bias",))
    model = hlvnn.build_model(config, data)
    new = frame.assign(Subject=1)
    with pytest.raises(DataError, match="unknown column 'Reaction'"):
        hlvnn.adapt(model, new.drop(columns="Reaction"))
    with pytest.raises(DataError, match="'Reaction' held numbers in training"):
        hlvnn.adapt(model, new.assign(Reaction="slow"))
    with pytest.raises(DataError, match="'Subject' held whole numbers in training"):
        hlvnn.adapt(model, new.assign(Subject="somebody"))
