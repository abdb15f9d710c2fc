"""A fitted model as dataframes, in the user's units and with the user's labels."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from hlvnn.backbones.base import Backbone
from hlvnn.backbones.linear import Linear
from hlvnn.backbones.mlp import MLP
from hlvnn.data.grouped import Schema
from hlvnn.errors import ConfigError
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
        level = self.schema.level_index(level_name)
        latents = {i: latent for i, latent in enumerate(self.latents) if latent.level == level}
        if not latents:
            raise ConfigError(f"the model has no latent for level {level_name!r}")
        labels = self.schema.levels[level].labels
        counts = self.latents.counts(level)
        columns: dict[str, object] = {
            level_name: list(labels) if labels is not None else list(range(len(counts))),
            "rows": counts.cpu().numpy(),
        }
        for position, latent in latents.items():
            names, factor = self.coordinates(latent)
            with torch.no_grad():
                mean, sd = (
                    part.double().cpu() * factor for part in self.latents.marginal(position)
                )
            prefix = f"{latent.name.removeprefix(level_name + ' ')} " if len(latents) > 1 else ""
            for k, name in enumerate(names):
                columns[f"mean_{prefix}{name}"] = mean[:, k].numpy()
                columns[f"sd_{prefix}{name}"] = sd[:, k].numpy()
        return pd.DataFrame(columns)
