"""`HierarchicalModel`: a backbone, a list of latents and a likelihood, for every case."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from hlvnn import marks
from hlvnn.backbones.base import Backbone
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.errors import ConfigError
from hlvnn.latents.draws import LatentRows
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.placements.base import LinearPlacement, Placement
from hlvnn.likelihoods.base import Likelihood
from hlvnn.models.describe import Describer
from hlvnn.models.marked_stages import marking_stages
from hlvnn.precision import Precision, multiplying_in
from hlvnn.stages import OUTPUT, Enter, Recurrence, Stage


class HierarchicalModel(nn.Module):
    """Shared weights for everybody, latents for every group, a likelihood for y.

    schema: what the data are (levels, columns, target), kept for reading dataframes and for
    reporting in the user's units. precision: of the backbone's products (see `products`).
    """

    def __init__(
        self,
        backbone: Backbone,
        latents: LatentSet,
        likelihood: Likelihood,
        schema: Schema,
        name: str = "HierarchicalModel",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.latents = latents
        self.likelihood = likelihood
        self.schema = schema
        self.name = name
        self.precision: Precision = "float32"
        self._entries: _Entries = {}
        for index, latent in enumerate(latents):
            for placement in latent.entries():
                self._entries.setdefault(placement.stage.name, []).append((index, placement))

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def is_linear_at_output(self) -> bool:
        """Whether all latents are normal and enter linearly at the output, and nowhere else.

        Then the predictor's mean and variance under q are exact (`predictor_moments`).
        """
        return all(x.posterior.normal and x.prior.normal for x in self.latents) and all(
            placement.linear and stage == OUTPUT
            for stage, entries in self._entries.items()
            for _, placement in entries
        )

    @property
    def is_sampling(self) -> bool:
        """Whether anything is random given the groups: some latent that is not a point."""
        return any(latent.posterior.random for latent in self.latents)

    def forward(self, x: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Return the network's output [S, B, out] (S = 1 where no latent enters).

        draws: one [S, B, Z] per latent, from `self.latents.sample`.
        """
        scaled = [latent.scaled(z) for latent, z in zip(self.latents, draws, strict=True)]
        hook = _Draws(self._entries, scaled)
        with multiplying_in(self.precision, x.device):
            eta = self._pass(x, hook)
        if eta.dim() not in ((2, 3) if hook.entered else (2,)):
            lead = "[S, B, out]" if hook.entered else "[B, out]"
            raise ConfigError(
                f"the backbone's output has shape {list(eta.shape)}, expected {lead}: one value "
                "per output of each row"
            )
        return _exact(eta if eta.dim() == 3 else eta.unsqueeze(0))

    def _pass(self, x: Tensor, hook: Enter) -> Tensor:
        if not marks.are_on():
            return self.backbone(x, hook)
        with marking_stages(self.backbone, hook) as marked:
            return self.backbone(x, marked)

    def bytes_a_row(self, x: Tensor, samples: int) -> int:
        """Return the size of a row's largest activation at a stage, all its draws of z together.

        x: [1, …], any row.
        """
        draws = [torch.zeros(samples, 1, latent.width, device=x.device) for latent in self.latents]
        scaled = [latent.scaled(z) for latent, z in zip(self.latents, draws, strict=True)]
        hook = _Measured(self._entries, scaled)
        with multiplying_in(self.precision, x.device):
            eta: Tensor = self.backbone(x, hook)
        return max(hook.largest, eta.nbytes)

    def predictor_moments(self, x: Tensor, rows: LatentRows) -> tuple[Tensor, Tensor]:
        """Return the output's mean and variance under q, [B, out] each (see `is_linear_at_output`).

        The mean gains J m; the variance is the diagonal of J V Jᵀ, by applying J to the columns of
        V's factors. Latents that depend on each other share sources of noise, so their effects are
        added before they are squared.
        """
        moments = [
            (latent.scaled(mean), {source: latent.scaled(part.mT) for source, part in own.items()})
            for latent, (mean, own) in zip(self.latents, self.latents.moments(rows), strict=True)
        ]
        hook = _Moments(self._entries.get(OUTPUT, []), moments)
        with multiplying_in(self.precision, x.device):
            mean = self._pass(x, hook)
        return _exact(mean), _exact(hook.variance)

    @torch.no_grad()
    def observe(self, data: GroupedDataset) -> None:
        """Take scales, group counts and the output's start from the training rows.

        Done once, when a model is built.
        """
        self.backbone.observe(data.train.x)
        self.likelihood.observe(data.train.y)
        bias = self.backbone.output_bias()
        if bias is not None:
            bias.copy_(self.likelihood.start(data.train.y))
        self.latents.observe(data.train)
        for latent in self.latents:
            for placement in latent.entries():
                placement.observe(self.backbone.offset(placement.stage.name))

    def summary(self) -> pd.DataFrame:
        """Return columns part, level, term, estimate, in the user's units.

        Fixed effects (linear backbone), the SDs and correlations of learned priors, the noise SD.
        """
        return self._describer().summary()

    def posterior(self, level: str) -> pd.DataFrame:
        """Return one row per group of a level, with its label and training rows.

        mean_… and sd_… are each latent coordinate's posterior, in the user's units.

        Raises `DataError` for an unknown level, `ConfigError` for one without a latent.
        """
        return self._describer().posterior(level)

    def shrinkage(self, level: str) -> pd.DataFrame:
        """Return how much the rows of each group of a level have told of its latent.

        One row per group: its label, `rows` (in training), and for each coordinate `sd_…`
        (posterior) and `prior_sd_…` in the user's units, `sd_ratio_…`, the first over the second,
        and `shrinkage_…` = 1 − sd_ratio²: the share of the prior variance that the rows explain. 1:
        the group speaks for itself; 0: nothing was learned of it beyond the prior. In a linear
        model with a random intercept it is n τ²/(n τ² + σ²), the reliability, by which a group's
        mean is pulled to everybody's. It is negative where a posterior is wider than its prior.

        SDs are marginal: a posterior that depends on another level's counts that one's variance,
        and so does a nested prior. Points are left out: they have no SD.

        Raises `DataError` for an unknown level, `ConfigError` for one with no latent but points.
        Source: Raudenbush and Bryk (2002), reliability; Betancourt (2018), posterior shrinkage;
        one minus it is the pooling of Gelman and Pardoe (2006).
        """
        return self._describer().shrinkage(level)

    def nearest(self, level: str, label: str | int, k: int = 10) -> pd.DataFrame:
        """Return the k groups nearest to the group `label` in the latent space, nearest first.

        One row per other group: its label, `rows` (in training) and two distances in prior SDs.
        With L Lᵀ the prior covariance of one group's z, `distance` is √E|L⁻¹(z_a − z_b)|² under
        the posterior: √(|L⁻¹(m_a − m_b)|² + tr L⁻¹ Var(z_a − z_b) L⁻ᵀ). So a group of which little
        is known is near nobody; what two groups share with each other cancels. `distance_means` is
        the first part alone, the Mahalanobis distance of the posterior means. Two groups drawn from
        the prior lie √(2 Z) apart on average (root mean square), Z the width; the squares of a
        level's several latents add up. A latent without a prior is measured by its SD over groups.

        Raises `DataError` for an unknown level or label, `ConfigError` for a level without a latent
        or k below 1.
        Source: Mahalanobis (1936); the mean of a quadratic form: Mathai and Provost (1992).
        """
        return self._describer().nearest(level, label, k)

    def _describer(self) -> Describer:
        return Describer(self.backbone, self.latents, self.likelihood, self.schema)


_Entries = dict[str, list[tuple[int, Placement]]]


def _exact(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.bfloat16 else values


class _Draws:
    """The hook by which draws [S, B, Z] of each latent enter.

    entered: whether one has: tensors are [B, …] before and [S, B, …] from then on, which no shape
    tells (a row may have as many places as there are rows, or draws).
    """

    def __init__(self, entries: _Entries, draws: Sequence[Tensor]) -> None:
        self.entries, self.draws = entries, draws
        self.entered = False

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        for index, placement in self.entries.get(stage, ()):
            z = self.draws[index]
            if self.entered:
                _check_drawn(placement.stage, pre, z)
            else:
                h, pre = _with_draws(placement.stage, h, pre)
            pre = placement(h, pre, z)
            self.entered = True
        return pre

    def recurrence(self, stage: str) -> Recurrence:
        given = Recurrence()
        for index, placement in self.entries.get(stage, ()):
            given = given + placement.recurrence(self.draws[index])
            self.entered = True
        return given


class _Measured(_Draws):
    """The same, looking at the size of what passes."""

    largest = 0

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        out = super().__call__(stage, h, pre)
        self.largest = max(self.largest, h.nbytes, pre.nbytes, out.nbytes)
        return out

    def recurrence(self, stage: str) -> Recurrence:
        before, given = self.entered, super().recurrence(stage)
        if self.entered and not before:  # every step of a row is then computed for each draw
            self.largest *= len(self.draws[0])
        return given


def _with_draws(stage: Stage, h: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    """Give a dense stage's [B, …, D] an axis of draws where its rows have several places."""
    if stage.kind == "dense" and pre.dim() > 2:
        return h.unsqueeze(0), pre.unsqueeze(0)
    return h, pre


def _check_drawn(stage: Stage, pre: Tensor, z: Tensor) -> None:
    """Raise `ConfigError` for [B, …, D] where an earlier latent has made [S, B, …, D] of rows."""
    if stage.kind == "dense" and pre.dim() > 2:
        lead = [size in (1, drawn) for size, drawn in zip(pre.shape[:2], z.shape[:2], strict=True)]
        if not all(lead):
            raise ConfigError(
                f"stage {stage.name}: a latent entered before it, so its pre-activation has to be "
                f"[S, B, …] with S = {z.shape[0]} draws of B = {z.shape[1]} rows, got "
                f"{list(pre.shape)}; where a branch of the backbone has no latent, give it the "
                "axis with unsqueeze(0)"
            )


class _Moments:
    """The hook that turns latents' moments into the output's, linearly.

    moments: per latent its mean [B, Z] and the factors [B, K, Z] of its deviation, by source.
    """

    def __init__(
        self,
        entries: Sequence[tuple[int, Placement]],
        moments: Sequence[tuple[Tensor, dict[tuple[str, int], Tensor]]],
    ) -> None:
        self.entries, self.moments = entries, moments
        self.variance = torch.zeros(())

    def __call__(self, stage: str, h: Tensor, pre: Tensor) -> Tensor:
        if stage != OUTPUT:
            return pre
        mean, self.variance = pre, torch.zeros_like(pre)
        if self.entries:
            h = _with_draws(self.entries[0][1].stage, h, pre)[0]
        spread: dict[tuple[str, int], Tensor] = {}
        for index, placement in self.entries:
            assert isinstance(placement, LinearPlacement)
            z, factors = self.moments[index]
            mean = mean + placement.gain(h, z[None])[0]
            for source, factor in factors.items():
                gained = placement.gain(h, factor.transpose(0, 1))  # [K, B, …], like draws
                spread[source] = spread[source] + gained if source in spread else gained
        for part in spread.values():
            self.variance = self.variance + part.square().sum(0)
        return mean

    def recurrence(self, stage: str) -> Recurrence:
        return Recurrence()


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
