"""A fitted model as dataframes, in the user's units and with the user's labels."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from hlvnn.backbones.base import Backbone
from hlvnn.backbones.linear import Linear
from hlvnn.backbones.mlp import MLP
from hlvnn.data.grouped import Level, Schema
from hlvnn.errors import ConfigError, DataError, unknown_label
from hlvnn.latents.distance import prior_sd, squares_from
from hlvnn.latents.divergence import cholesky
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.placements.bias import Bias
from hlvnn.latents.placements.concat import Concat
from hlvnn.latents.placements.weights import Weights
from hlvnn.likelihoods.base import Likelihood
from hlvnn.likelihoods.gaussian import Gaussian

INTERCEPT = "(Intercept)"


class Describer:
    """Names and units of a model's coordinates.

    A latent that enters the output of a model in only one place by `bias` or `weights` is reported
    in y's units (per unit of its column), and so is one by `concat` under a learned prior: the size
    of its effect. Any other is reported in its own units, where the prior is the scale.
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
        factor = torch.ones(latent.width, dtype=torch.float64)
        names = [f"z{number}" for number in range(1, latent.width + 1)]
        if not placements:  # the parent of another, whose units it shares
            return self.coordinates(next(x for x in self.latents if x.parent_name == latent.name))
        placement = placements[0]
        at_output = placement.stage.name == "output"
        if len(placements) == 1 and isinstance(placement, Concat) and latent.normalised:
            return names, factor * (self.y_scale if at_output else 1.0)
        if len(placements) > 1 or not isinstance(placement, Bias | Weights):
            return names, factor
        outputs = self._outputs(placement.stage.out_features, at_output)
        if at_output:
            factor = factor * self.y_scale
        if isinstance(placement, Bias):
            return [output or INTERCEPT for output in outputs], factor
        inputs = placement.columns or tuple(
            f"w{number}" for number in range(1, latent.width // len(outputs))
        )
        columns = self._columns_at_output() if at_output else None
        if columns is not None:
            units = placement.stage.in_features - len(columns)  # of a hidden layer, before them
            scale = torch.cat([torch.ones(units, dtype=torch.float64), columns])
            if placement.chosen is not None:
                scale = scale[placement.chosen.cpu()]
            per_output = torch.cat([torch.ones(1, dtype=torch.float64), 1 / scale])
            factor = factor * per_output.repeat(len(outputs))
        terms = (INTERCEPT, *inputs)
        return [f"{out}:{term}" if out else term for out in outputs for term in terms], factor

    def _columns_at_output(self) -> Tensor | None:
        """Return the scales [D] of the data's columns, where the output stage sees them."""
        backbone = self.backbone
        if isinstance(backbone, Linear) or (isinstance(backbone, MLP) and backbone.skip):
            return backbone.input.scale.detach().double().cpu()
        return None

    def _outputs(self, number: int, at_output: bool) -> list[str]:
        if number == 1:
            return [""]
        labels = self.schema.target.labels if at_output else None
        return (
            [str(label) for label in labels] if labels else [f"u{i}" for i in range(1, number + 1)]
        )

    def fixed_effects(self) -> pd.DataFrame:
        """Return the coefficients of a linear backbone, columns output, term, estimate."""
        assert isinstance(self.backbone, Linear)
        weight = self.backbone.output.weight.detach().double().cpu()
        bias = self.backbone.output.bias.detach().double().cpu()
        scale = self.backbone.input.scale.double().cpu()
        center = self.backbone.input.center.double().cpu()
        slopes = weight / scale
        intercept = self.y_center + self.y_scale * (bias - slopes @ center)
        terms = (INTERCEPT, *(self.schema.columns or ()))
        rows = [
            {
                "part": "fixed",
                "level": "",
                "term": f"{out}:{term}" if out else term,
                "estimate": value,
            }
            for index, out in enumerate(self._outputs(len(bias), True))
            for term, value in zip(
                terms,
                [float(intercept[index]), *(self.y_scale * slopes[index]).tolist()],
                strict=True,
            )
        ]
        return pd.DataFrame(rows)

    def prior(self, latent: Latent) -> list[dict[str, object]]:
        """Return a latent's prior SDs, and correlations where the prior has them."""
        if not latent.prior.learned:
            return []
        names, factor = self.coordinates(latent)
        level = self.schema.levels[latent.level].name
        tril = cholesky(latent.prior()).detach().double().cpu()
        covariance = tril @ tril.T
        sd = covariance.diagonal().sqrt()
        correlation = covariance / sd[:, None] / sd[None, :]
        rows: list[dict[str, object]] = [
            {"part": "prior sd", "level": level, "term": name, "estimate": float(value)}
            for name, value in zip(names, sd * factor, strict=True)
        ]
        if tril.count_nonzero() > latent.width:
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
        frames = [self.fixed_effects()] if isinstance(self.backbone, Linear) else []
        rows = [row for latent in self.latents for row in self.prior(latent)]
        if isinstance(self.likelihood, Gaussian):
            noise = self.likelihood.noise_sd()
            rows.append({"part": "noise sd", "level": "", "term": "", "estimate": noise})
        columns = ["part", "level", "term", "estimate"]
        return pd.concat([*frames, pd.DataFrame(rows, columns=columns)], ignore_index=True)

    def posterior(self, level_name: str) -> pd.DataFrame:
        """Return one row per group: its label, rows, mean_… and sd_… of each coordinate."""
        columns = self._groups(level_name)
        for position, latent, prefix in self._of_level(level_name):
            names, factor = self.coordinates(latent)
            mean, sd = (part * factor for part in self._marginal(position))
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
            _, sd = self._marginal(position)
            with torch.no_grad():
                prior = prior_sd(self.latents, position).cpu()
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

    def _marginal(self, position: int) -> tuple[Tensor, Tensor]:
        """Return the mean and the SD of every group's z, [G, Z] float64."""
        with torch.no_grad():
            mean, sd = self.latents.marginal(position)
        return mean.double().cpu(), sd.double().cpu()


def _with_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out groups without rows, of which nothing is known (see `adapt`)."""
    return table[table["rows"] > 0].reset_index(drop=True)
