"""A fitted model as dataframes, in the user's units and with the user's labels."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from hlvnn.backbones.base import Backbone
from hlvnn.data.grouped import Level, Schema
from hlvnn.errors import ConfigError, DataError, unknown_label
from hlvnn.latents.distance import squares_from
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.origin import (
    marginal_at_origin,
    prior_factor_at_origin,
    prior_sd_at_origin,
)
from hlvnn.latents.placements.base import Placement, coordinate_names
from hlvnn.likelihoods.base import Likelihood
from hlvnn.stages import OUTPUT, coefficient_names


class Describer:
    """Names and units of a model's coordinates.

    A latent that enters a model in only one place is reported in the units that its placement gives
    it (see `Placement.terms`), which at the output are y's: per unit of a column for `weights`, the
    size of its effect for `concat` under a learned prior. Any other is reported in its own units,
    where the prior is the scale.
    """

    def __init__(
        self, backbone: Backbone, latents: LatentSet, likelihood: Likelihood, schema: Schema
    ) -> None:
        self.backbone, self.latents = backbone, latents
        self.likelihood, self.schema = likelihood, schema
        self.y_center, self.y_scale = likelihood.units()

    def coordinates(self, latent: Latent) -> tuple[list[str], Tensor]:
        """Return each coordinate's name, and the factors [Z] (float64) to the user's units."""
        placements = list(latent.entries())
        if not placements:  # the parent of another, whose units it shares
            return self.coordinates(next(x for x in self.latents if x.parent_name == latent.name))
        terms = self._terms(latent, placements[0]) if len(placements) == 1 else None
        if terms is None:
            return coordinate_names(latent.width), torch.ones(latent.width, dtype=torch.float64)
        return terms

    def _terms(self, latent: Latent, placement: Placement) -> tuple[list[str], Tensor] | None:
        """Return the coordinates of a latent in units of its only stage, None in its own."""
        at_output = placement.stage.name == OUTPUT
        terms = placement.terms(
            self._outputs(placement.stage.out_features, at_output),
            self.backbone.columns_at_output() if at_output else None,
            normalised=latent.is_normalised,
        )
        if terms is None or not at_output:
            return terms
        names, factor = terms
        return names, factor * self.y_scale

    def _outputs(self, number: int, at_output: bool) -> list[str]:
        if number == 1:
            return [""]
        labels = self.schema.target.labels if at_output else None
        return (
            [str(label) for label in labels] if labels else [f"u{i}" for i in range(1, number + 1)]
        )

    def fixed_effects(self) -> pd.DataFrame | None:
        """Return a linear backbone's coefficients, a row each (see `summary`); None for others."""
        effects = self.backbone.fixed_effects()
        if effects is None:
            return None
        intercepts, slopes = effects
        intercepts = self.y_center + self.y_scale * intercepts
        values = torch.cat([intercepts[:, None], self.y_scale * slopes], dim=1).flatten().tolist()
        inputs = self.schema.columns or [f"x{i}" for i in range(1, slopes.shape[1] + 1)]
        names = coefficient_names(self._outputs(len(slopes), True), inputs)
        rows = [
            {"part": "fixed", "level": "", "term": term, "estimate": value}
            for term, value in zip(names, values, strict=True)
        ]
        return pd.DataFrame(rows)

    def prior(self, latent: Latent) -> list[dict[str, object]]:
        """Return a latent's prior SDs, and correlations where the prior has them."""
        if not latent.prior.learned:
            return []
        names, factor = self.coordinates(latent)
        level = self.schema.levels[latent.level].name
        root = prior_factor_at_origin(latent)
        covariance = root @ root.T
        sd = covariance.diagonal().sqrt()
        correlation = covariance / sd[:, None] / sd[None, :]
        rows: list[dict[str, object]] = [
            {"part": "prior sd", "level": level, "term": name, "estimate": float(value)}
            for name, value in zip(names, sd * factor, strict=True)
        ]
        if latent.prior.full and latent.width > 1:
            rows += [
                {
                    "part": "prior correlation",
                    "level": level,
                    "term": f"{names[j]}, {names[i]}",
                    "estimate": float(correlation[i, j]),
                }
                for i in range(latent.width)
                for j in range(i)
            ]
        return rows

    def summary(self) -> pd.DataFrame:
        """Return columns part, level, term, estimate: fixed effects, priors and noise."""
        fixed = self.fixed_effects()
        rows = [row for latent in self.latents for row in self.prior(latent)]
        rows += [
            {"part": part, "level": "", "term": "", "estimate": value}
            for part, value in self.likelihood.terms().items()
        ]
        columns = ["part", "level", "term", "estimate"]
        frames = [] if fixed is None else [fixed]
        return pd.concat([*frames, pd.DataFrame(rows, columns=columns)], ignore_index=True)

    def posterior(self, level_name: str) -> pd.DataFrame:
        """Return one row per group: its label, rows, mean_… and sd_… of each coordinate."""
        columns = self._groups(level_name)
        for position, latent, prefix in self._of_level(level_name):
            names, factor = self.coordinates(latent)
            mean, sd = (part * factor for part in marginal_at_origin(self.latents, position))
            for k, name in enumerate(names):
                columns[f"mean_{prefix}{name}"] = mean[:, k].numpy()
                columns[f"sd_{prefix}{name}"] = sd[:, k].numpy()
        return _with_rows(pd.DataFrame(columns))

    def shrinkage(self, level_name: str) -> pd.DataFrame:
        """Return one row per group: posterior SDs beside prior SDs, see the model's method."""
        columns = self._groups(level_name)
        latents = [one for one in self._of_level(level_name) if one[1].posterior.random]
        if not latents:
            raise ConfigError(
                f"the latents of level {level_name!r} are points, which have no SD to set against "
                "a prior's; use another posterior (mean_field, full_rank)"
            )
        for position, latent, prefix in latents:
            names, factor = self.coordinates(latent)
            _, sd = marginal_at_origin(self.latents, position)
            prior = prior_sd_at_origin(self.latents, position)
            for k, name in enumerate(names):
                ratio = sd[:, k] / prior[k]
                columns[f"sd_{prefix}{name}"] = (sd[:, k] * factor[k]).numpy()
                columns[f"prior_sd_{prefix}{name}"] = float(prior[k] * factor[k])
                columns[f"sd_ratio_{prefix}{name}"] = ratio.numpy()
                columns[f"shrinkage_{prefix}{name}"] = (1 - ratio.square()).numpy()
        return _with_rows(pd.DataFrame(columns))

    def nearest(self, level_name: str, label: str | int, k: int) -> pd.DataFrame:
        """Return the k groups nearest to one in the latent space, see the model's method."""
        latents = self._of_level(level_name)
        level = self.schema.levels[self.schema.level_index(level_name)]
        if k < 1:
            raise ConfigError(f"k ({k}): at least one group has to be asked for")
        labels = self._labels(level)
        if label in level.new:
            raise DataError(f"{level_name} {label!r} has no training rows, and so no posterior")
        if label not in labels:
            raise DataError(unknown_label(level_name, label, labels))
        group = labels.index(label)
        with torch.no_grad():
            squares = [squares_from(self.latents, position, group) for position, *_ in latents]
        between, expected = (torch.stack(part).sum(0).cpu() for part in zip(*squares, strict=True))
        table = pd.DataFrame(self._groups(level_name)).assign(
            distance=expected.sqrt().numpy(), distance_means=between.sqrt().numpy()
        )
        return (
            _with_rows(table.drop(index=group))
            .sort_values("distance", kind="stable", ignore_index=True)
            .head(k)
        )

    def _of_level(self, level_name: str) -> list[tuple[int, Latent, str]]:
        """Return a level's latents: position, latent, and what its columns' names begin with."""
        level = self.schema.level_index(level_name)
        found = [(i, latent) for i, latent in enumerate(self.latents) if latent.level == level]
        if not found:
            raise ConfigError(f"the model has no latent for level {level_name!r}")
        several = len(found) > 1
        return [
            (i, latent, f"{latent.name.removeprefix(level_name + ' ')} " if several else "")
            for i, latent in found
        ]

    @staticmethod
    def _labels(level: Level) -> list[str | int]:
        return list(range(level.size)) if level.labels is None else list(level.labels)

    def _groups(self, level_name: str) -> dict[str, object]:
        """Return the first columns of a table of groups: their labels and training rows."""
        index = self.schema.level_index(level_name)
        return {
            level_name: self._labels(self.schema.levels[index]),
            "rows": self.latents.counts(index).cpu().numpy(),
        }


def _with_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out groups without rows, of which nothing is known (see `adapt`)."""
    return table[table["rows"] > 0].reset_index(drop=True)
