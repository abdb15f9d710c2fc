"""What data and model leave in doubt: refused where nothing can be learned, else said.

`check_identified` and `doubts` look at a model before it is fitted, `singular` at a fitted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError
from hlvnn.latents.collapse import LOST, collapsed, reused_ids
from hlvnn.latents.divergence import root
from hlvnn.latents.latent import Latent
from hlvnn.latents.origin import prior_factor_at_origin
from hlvnn.latents.placements.base import Placement
from hlvnn.latents.under_law import prior_root
from hlvnn.models.describe import Describer
from hlvnn.models.model import HierarchicalModel

FAR = 5.0
"""Mean of a column in its SDs from which slopes on it that cannot be centred are warned of …"""
TOO_FAR = 100.0
"""… and refused: intercept and slope are then one number, to the fourth digit of a correlation."""
SINGULAR = "singular fit"
FALLEN = 0.3
"""Share of its first size below which a prior's smallest SD may be on its way to 0."""
NOISE_ALONE = 1.01
"""Spread of posterior means, as a multiple of what noise alone makes, that leaves groups alike."""
AT_BOUNDARY = 1e-4
"""SD as a share of the noise's below which one that was fitted exactly is 0, as lme4 has it."""
NO_NOISE = 1e-6
"""SD of the noise as a share of the target's below which one that was fitted exactly is 0."""
MOST_GROUPS = 4096
"""Groups that `singular` looks at."""
WIDEST = 64
"""Widest z that `singular` looks at."""


def check_identified(model: HierarchicalModel, data: GroupedDataset) -> None:
    """Raise `ConfigError` where variances or slopes cannot be told apart, whatever the fit."""
    for latent in model.latents:
        for placement, column, distance in _far_columns(model, latent):
            if distance > TOO_FAR:
                raise ConfigError(
                    f"latent {latent.name}: the mean of column {column!r} is {distance:,.0f} of "
                    "its SDs from 0, where a group's intercept is all but determined by its slope; "
                    f"{_remedy(placement)}"
                )
        if _as_many_as_rows(model, data, latent) and not _is_split(data, latent.level):
            name = data.schema.levels[latent.level].name
            raise ConfigError(
                f"latent {latent.name}: every {name} has one row, so that only the sum of its "
                "variance and the noise's can be learned; leave the latent out, give groups with "
                "several rows, or say prior=standard"
            )


def doubts(model: HierarchicalModel, data: GroupedDataset) -> Iterator[str]:
    """Yield a sentence for each thing that makes what is learned doubtful."""
    for latent in model.latents:
        who = f"latent {latent.name}"
        far = [found for found in _far_columns(model, latent) if found[2] > FAR]
        for placement, column, distance in far:
            yield (
                f"{who}: the mean of column {column!r} is {distance:.1f} of its SDs from 0, so its "
                "slopes and intercepts can hardly be told apart, and a prior in which they are "
                f"independent says something else there; {_remedy(placement)}"
            )
        sloping = any(entry.slopes for entry in latent.entries())
        if latent.prior.full and sloping and latent.posterior.random and not latent.posterior.full:
            yield (
                f"{who}: its posterior cannot follow intercepts and slopes that move together, as "
                "the learned_full prior has them: SDs and correlations are learned wrong; say "
                "posterior=full_rank"
            )
        if _as_many_as_rows(model, data, latent):
            name = data.schema.levels[latent.level].name
            yield (
                f"{who}: the split leaves every {name} one row to train on, so that only the sum "
                "of its variance and the noise's can be learned; give a smaller share to "
                "validation and test rows (val_fraction, test_fraction)"
            )
    levels = data.schema.levels
    used = {latent.level for latent in model.latents}
    for lower in sorted(used):
        for upper in range(lower + 1, len(levels)):
            sentence = reused_ids(data.train.groups, lower, upper, levels)
            if sentence:
                yield sentence


def _far_columns(
    model: HierarchicalModel, latent: Latent
) -> Iterator[tuple[Placement, str, float]]:
    """Yield the columns with slopes by group that are not centred, and |mean| / SD of each."""
    if not latent.posterior.random:
        return
    for placement in latent.entries():
        offset = model.backbone.offset(placement.stage.name)
        if offset is None or not placement.slopes or placement.to_origin() is not None:
            continue
        names = placement.stage.inputs or tuple(f"x{i}" for i in range(1, len(offset) + 1))
        places = placement.slopes_on(torch.arange(len(offset), device=offset.device)).tolist()
        for place in places:
            yield placement, names[place], abs(float(offset[place]))


def _remedy(placement: Placement) -> str:
    return (
        "subtract its mean from it (or what its 0 should be), or say posterior=full_rank "
        f"prior=learned_full with {placement.stage.name} as its only place, where it is centred "
        "inside and nothing else changes"
    )


def _as_many_as_rows(model: HierarchicalModel, data: GroupedDataset, latent: Latent) -> bool:
    """Return whether a latent's learned variance stands beside the noise's in every row alone."""
    learned = latent.prior.learned and latent.posterior.random and model.likelihood.noisy
    return learned and int(data.counts(latent.level).max()) == 1


def _is_split(data: GroupedDataset, level: int) -> bool:
    """Return whether some group has more rows in all splits together than in training."""
    groups = torch.cat([split.gids[:, level].cpu() for split in data.splits().values()])
    return len(groups.unique()) < len(groups)


@torch.no_grad()
def singular(model: HierarchicalModel) -> Iterator[tuple[Latent, str]]:
    """Yield the latents with a learned prior variance at its boundary, 0, and a sentence for each.

    In coordinates in which the prior is N(0, I) let W_g be the covariance of q, R_g = I − W_g and
    m_g the mean. If groups did not differ at all, rows' noise alone would give the m_g the
    covariance A = mean R_g (I − R_g); what they differ by adds to it. Where along some direction
    they have no more, the variance that maximises the ELBO is 0 there, or a correlation ±1,
    however far the fit has come on its way. Balanced groups make this exact.
    """
    describer = Describer(model.backbone, model.latents, model.likelihood, model.schema)
    for index, latent in enumerate(model.latents):
        usable = latent.prior.learned and latent.prior.normal and latent.posterior.random
        if not usable or latent.is_normalised or latent.width > WIDEST:
            continue
        size = int((model.latents.counts(latent.level) > 0).sum())
        spread = None if size <= latent.width else _least_spread(model, index)
        if spread is None:
            continue
        names, factor = describer.coordinates(latent)
        own = root(latent.prior()).double().cpu().square().sum(-1).sqrt()
        least = names[int((spread.abs() / own).argmax())]
        sds = prior_factor_at_origin(latent).square().sum(-1).sqrt() * factor
        told = ", ".join(f"{name} {float(sd):.3g}" for name, sd in zip(names, sds, strict=True))
        which = "its prior variance" if latent.width == 1 else f"a prior variance (of {least})"
        more = " or a correlation ±1" if latent.prior.full and latent.width > 1 else ""
        sentence = (
            f"latent {latent.name}: {SINGULAR}, {which} is at its boundary, 0{more}: its groups "
            "differ no more than the noise of their rows makes them, and a longer fit only brings "
            f"it nearer (prior SD: {told}); leave it out, or give more rows or groups"
        )
        yield latent, sentence


def _least_spread(model: HierarchicalModel, index: int) -> Tensor | None:
    """Return the direction [Z] of z along which groups do not differ; None where they all do."""
    latents, latent = model.latents, model.latents[index]
    if latents.law is not None:
        return _direction_at_boundary(model, latent)
    groups = (latents.counts(latent.level) > 0).nonzero().squeeze(1)
    groups = groups[:: max(1, len(groups) // MOST_GROUPS)]
    mean, columns = latents.around_prior(index, groups)
    factor = root(latent.prior()).double()
    start = factor / latent.prior_start.double().unsqueeze(-1)
    if float(torch.linalg.svdvals(start).min()) > FALLEN:
        return None
    mean = torch.linalg.solve_triangular(factor, mean.double().unsqueeze(-1), upper=False)
    own = [torch.linalg.solve_triangular(factor, x.double(), upper=False) for x in columns.values()]
    covariance = torch.stack([part @ part.mT for part in own]).sum(0)
    told = torch.eye(latent.width, dtype=torch.float64, device=mean.device) - covariance
    if not latent.prior.full:  # each variance by itself, the others as they are
        mean, told, covariance = (
            torch.diag_embed(part)
            for part in (
                mean.squeeze(-1),
                told.diagonal(dim1=-2, dim2=-1),
                covariance.diagonal(dim1=-2, dim2=-1),
            )
        )
    noise = (told @ covariance).mean(0)
    noise = 0.5 * (noise + noise.mT)
    means = (mean @ mean.mT).mean(0)
    values, vectors = torch.linalg.eigh(noise)
    if float(values.min()) <= 0:
        return None  # q is wider than the prior: it is not fitted yet
    half = vectors * values.rsqrt()
    ratio, directions = torch.linalg.eigh(half.mT @ means @ half)
    if float(ratio[0]) > NOISE_ALONE:
        return None
    return (factor @ half @ directions[:, 0]).cpu()


def _direction_at_boundary(model: HierarchicalModel, latent: Latent) -> Tensor | None:
    """Return the same of a latent fitted exactly, whose variance is then 0 itself, or None."""
    factor = prior_root(latent).cpu()
    relative = factor.diagonal() / _relative_noise(model)
    least = int(relative.argmin())
    return factor[:, least] if float(relative[least]) < AT_BOUNDARY else None


def _relative_noise(model: HierarchicalModel) -> float:
    """Return the noise's SD as a share of the target's."""
    return float(cast(Any, model.likelihood).log_noise.detach().double().exp())


def told_of_variances(model: HierarchicalModel) -> Iterator[str]:
    """Yield a sentence for each learned variance of a fitted model that is 0."""
    if model.latents.law is not None and _relative_noise(model) < NO_NOISE:
        yield (
            "the noise's SD is at its boundary, 0: fixed effects and groups explain every row, so "
            "that the likelihood has no maximum; leave columns or latents out, or give more rows"
        )
    told: list[Latent] = []
    fallen = list(collapsed(model.latents)) if model.latents.law is None else []
    lost = [pair for pair in fallen if LOST in pair[1]]  # it says why, which `singular` does not
    for latent, sentence in (*lost, *singular(model), *fallen):
        if not any(latent is other for other in told):
            told.append(latent)
            yield sentence
