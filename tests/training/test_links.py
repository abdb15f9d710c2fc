"""Steps of latents that depend on each other: their law becomes the exact posterior."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from hlvnn.config import LatentConfig, ModelConfig, TrainConfig
from hlvnn.data.batches import Batch
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.group_steps import GroupSteps
from hlvnn.training.links import LinkedSteps
from hlvnn.training.loop import fit
from tests.training.test_group_steps import step

SCHOOLS, CLASSES = 5, 3
BIAS = {"stage": "output", "placement": "bias", "posterior": "mean_field"}


def pupils(rows: int = 4) -> GroupedDataset:
    """Return pupils of classes in schools; every other class has one more."""
    draws = np.random.default_rng(0)
    number = SCHOOLS * CLASSES
    group = np.repeat(np.arange(number), rows + np.arange(number) % 2)
    school = group // CLASSES
    y = draws.normal(size=SCHOOLS)[school] + 0.5 * draws.normal(size=number)[group]
    frame = pd.DataFrame({"x": draws.normal(size=len(group)), "class": group, "school": school})
    frame["y"] = y + 0.7 * draws.normal(size=len(group))
    return GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["class", "school"])


def built(data: GroupedDataset, how: str) -> HierarchicalModel:
    """Return a line with a class' effect around its school's, or beside it."""
    upper = LatentConfig(level="school", width=1, posterior="mean_field", prior="learned")
    lower = LatentConfig(level="class", prior="nested", parent="school", **BIAS)
    if how == "given":
        upper = LatentConfig(level="school", **BIAS)
        lower = LatentConfig(level="class", given="school", **BIAS)
    return build_model(ModelConfig(backbone="linear", latents=[lower, upper]), data, seed=0)


def exact(model: HierarchicalModel, data: GroupedDataset, how: str) -> tuple[np.ndarray, ...]:
    """Return the posterior of schools' and classes' z by the dense normal equations."""
    train = data.train
    groups = train.groups.numpy()
    number = SCHOOLS * CLASSES
    school, lower = groups[:, 1], SCHOOLS + groups[:, 0]
    design = np.zeros((len(groups), SCHOOLS + number))
    design[np.arange(len(groups)), lower] = 1.0
    if how == "given":
        design[np.arange(len(groups)), school] = 1.0
    sd = {one.level: float(one.prior().stddev.detach()) for one in model.latents}
    prior = np.eye(SCHOOLS + number) / sd[0] ** 2
    prior[:SCHOOLS, :SCHOOLS] = np.eye(SCHOOLS) / sd[1] ** 2
    if how == "nested":
        apart = np.hstack([-np.kron(np.eye(SCHOOLS), np.ones((CLASSES, 1))), np.eye(number)])
        prior = apart.T @ apart / sd[0] ** 2
        prior[:SCHOOLS, :SCHOOLS] += np.eye(SCHOOLS) / sd[1] ** 2
    noise = np.exp(2 * float(model.likelihood.log_sds()[0].detach()))
    with torch.no_grad():
        fixed = model(train.x.take(torch.arange(len(train))), [torch.zeros(1, len(train), 1)] * 2)
    center, scale = model.likelihood.units()
    residual = ((train.y - center) / scale - fixed[0, :, 0]).numpy()
    covariance = np.linalg.inv(prior + design.T @ design / noise)
    return covariance @ design.T @ residual / noise, covariance


@pytest.mark.parametrize("how", ["nested", "given"])
def test_the_law_of_levels_becomes_the_exact_posterior(how: str) -> None:
    data = pupils()
    model = built(data, how)
    own = GroupSteps(model, 2, 0.0, bound=False)
    rows = torch.arange(len(data.train))
    batch = Batch(data.train.x.take(rows), data.train.groups, data.train.y, rows)
    assert all(isinstance(one, LinkedSteps) for one in own.steps)
    for _ in range(60):
        step(model, own, batch, warming=True)
    mean, covariance = exact(model, data, how)
    school, lower = own.steps
    found = np.concatenate([one.q.table[:, 0].numpy() for one in (school, lower)])
    np.testing.assert_allclose(found, mean, atol=2e-3)
    spread = school.q.covariance(school.q.table).variance()[:, 0]
    np.testing.assert_allclose(spread, covariance.diagonal()[:SCHOOLS], rtol=1e-3)
    above = np.arange(SCHOOLS * CLASSES) // CLASSES
    place = SCHOOLS + np.arange(SCHOOLS * CLASSES)
    along = covariance[place, above] / covariance[above, above]
    slopes = lower.latent.slopes
    assert slopes is not None
    np.testing.assert_allclose(slopes.detach()[:, 0], along, atol=2e-3)
    rest = covariance[place, place] - along**2 * covariance[above, above]
    np.testing.assert_allclose(lower.q.covariance(lower.q.table).variance()[:, 0], rest, rtol=1e-3)


@pytest.mark.parametrize("how", ["nested", "given"])
def test_sizes_change_deviations_and_leave_predictions_of_the_law(how: str) -> None:
    """What is nested moves with what it is nested in; its deviation, and u's, keep their law."""
    data = pupils()
    model = built(data, how)
    own = GroupSteps(model, 2, 0.0, bound=False)
    school, lower = own.steps
    assert isinstance(school, LinkedSteps)
    assert isinstance(lower, LinkedSteps)
    for one in own.steps:
        one.q.table.data.normal_(std=0.3)
        one.found = torch.arange(len(one.counts))
        one.now = one.q.table.data.clone()
    assert lower.latent.slopes is not None
    lower.latent.slopes.data.uniform_(0.2, 0.8)
    before = [model.latents.marginal(index) for index in (0, 1)]
    apart, slopes = lower.around(), lower.latent.slopes.data - lower.follows[0]
    size = torch.tensor([1.5])
    school._scale(size, size)
    torch.testing.assert_close(lower.around(), apart)
    torch.testing.assert_close(lower.latent.slopes.data - lower.follows[0], slopes / 1.5)
    after = [model.latents.marginal(index) for index in (0, 1)]
    torch.testing.assert_close(after[0], tuple(1.5 * part for part in before[0]))
    lower._scale(size, size)
    torch.testing.assert_close(lower.around(), 1.5 * apart)
    assert model.latents.marginal(0)[0].equal(after[0][0]), "the school stays"


def test_a_fit_leaves_what_depends_as_it_was_taken() -> None:
    data = pupils(rows=20)
    model = built(data, "given")
    fit(model, data, TrainConfig(num_epochs=2, batch_size=32, device="cpu"))
    for latent in model.latents:
        assert all(table.requires_grad for table in latent.tables())
        assert latent.posterior.size is None
    assert not model.latents.by_row


def test_levels_of_which_one_is_left_to_adam_are_all_left_to_it() -> None:
    data = pupils()
    model = built(data, "given")
    model.latents[0].posterior.table.requires_grad_(False)  # the school's is frozen
    own = GroupSteps(model, 2, 0.0, bound=False)
    assert not own.steps
    assert GroupSteps(built(data, "given"), 1, 0.0, bound=False).steps == []
