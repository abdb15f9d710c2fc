"""A backbone of one's own whose dense stage sees several places of a row, as many as rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hlvnn.backbones.base import Backbone
from hlvnn.errors import ConfigError
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.models.model import HierarchicalModel
from hlvnn.stages import Enter, Stage, untouched
from tests.helpers import (
    grouped_data,
    likelihood_class,
    placement_class,
    posterior_class,
    prior_class,
    randomise,
)

INPUTS, WIDTH, OUT = 4, 5, 3
DENSE = ("basis", "bias", "concat", "film", "weights")


class Pooled(Backbone):
    """tokens [B, T, D], a dense stage on each, their mean, and the output."""

    x_kinds = frozenset({"features"})

    def __init__(self, *, branch: bool = False) -> None:
        super().__init__()
        self.first, self.output = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, OUT)
        self.branch = branch
        self.stages = {
            "first": Stage("first", "dense", INPUTS, WIDTH),
            "second": Stage("second", "dense", INPUTS, WIDTH),
            "output": Stage("output", "dense", WIDTH, OUT),
        }

    def forward(self, x: Tensor, enter: Enter = untouched) -> Tensor:
        h = torch.tanh(enter("first", x, self.first(x)))
        if self.branch:
            h = h + enter("second", x, self.first(x))
        h = h.mean(-2)
        return enter("output", h, self.output(h))


def model(placement: str, stages: tuple[str, ...] = ("first",), **settings: bool):
    backbone = randomise(Pooled(**settings))
    latents = []
    for number, name in enumerate(stages):
        cls = placement_class(placement)
        width = cls.width_at(backbone.stages[name]) or 2
        entry = randomise(cls(backbone.stages[name], width))
        q = randomise(posterior_class("mean_field")(6, width, torch.ones(width)), sd=1.0)
        prior = prior_class("standard")(width, torch.ones(width))
        latents.append(Latent(f"latent {number}", 0, q, prior, [entry]))
    latent_set = LatentSet(latents, [6])
    data = grouped_data(classes=OUT)
    return HierarchicalModel(
        backbone, latent_set, likelihood_class("categorical")(OUT), data.schema
    )


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("places", [4, 7])
@pytest.mark.parametrize("stages", [("first",), ("first", "output"), ("output",)])
@pytest.mark.parametrize("placement", DENSE)
def test_a_row_s_result_is_its_own_whatever_the_numbers_of_places_rows_and_draws(
    placement: str, stages: tuple[str, ...], places: int, draws: int
) -> None:
    """With 4 places and 4 rows bias, concat and film gave a place its row's neighbour's z."""
    rows = 4
    built = model(placement, stages)
    x = torch.randn(rows, places, INPUTS, generator=torch.Generator().manual_seed(0))
    z = [
        torch.randn(draws, rows, latent.width, generator=torch.Generator().manual_seed(1))
        for latent in built.latents
    ]
    together = built(x, z)
    assert together.shape == (draws, rows, OUT)
    for row in range(rows):
        for draw in range(draws):
            alone = built(x[row : row + 1], [part[draw, row][None, None] for part in z])
            torch.testing.assert_close(together[draw, row], alone[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", DENSE)
def test_a_branch_without_draws_is_told_what_it_lacks(placement: str) -> None:
    built = model(placement, ("first", "second"), branch=True)
    z = [torch.zeros(2, 4, latent.width) for latent in built.latents]
    with pytest.raises(ConfigError, match=r"stage second: a latent entered before it.*S = 2 draws"):
        built(torch.zeros(4, 3, INPUTS), z)


def test_an_output_with_places_is_refused() -> None:
    built = model("bias", ())
    built.backbone.forward = lambda x, enter: x  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"shape \[4, 3, 4\], expected \[B, out\]"):
        built(torch.zeros(4, 3, INPUTS), [])
