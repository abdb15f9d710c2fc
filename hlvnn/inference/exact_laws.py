"""The exact law of a mixed model's latents: given its rows, and with new groups."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hlvnn.data.grouped import Split
from hlvnn.inference.mixed_model import System
from hlvnn.inference.row_sums import ROWS_AT_ONCE, Designs, RowSums, summed
from hlvnn.latents.exact_law import AT_ONCE, ExactLaw, Layout
from hlvnn.latents.under_law import prior_root
from hlvnn.models.model import HierarchicalModel


@torch.no_grad()
def law_of(model: HierarchicalModel, sums: RowSums) -> tuple[ExactLaw, float]:
    """Return the law of the latents given the rows at the model's parameters, and log p(y)."""
    beta, variance = _parameters(model)
    system = System(sums, _factors(model, sums.layout, variance))
    log_scale = float(cast(Any, model.likelihood).scale.log())
    criterion = system.criterion(beta, variance) + 2 * sums.number * log_scale
    return system.law(beta, variance), -0.5 * criterion


def _parameters(model: HierarchicalModel) -> tuple[Tensor, float]:
    """Return the fixed effects, the intercept first, and the noise's variance, standardised."""
    output = cast(Any, model.backbone).output
    beta = torch.cat([output.bias.detach(), output.weight.detach()[0]]).double().cpu()
    return beta, float(cast(Any, model.likelihood).log_noise.detach().double().exp().square())


def _factors(model: HierarchicalModel, layout: Layout, variance: float) -> dict[int, Tensor]:
    """Return by level the factor of the latents' covariance over the noise's SD."""
    roots: dict[int, list[Tensor]] = {level: [] for level in layout.widths}
    for (level, _), latent in zip(layout.at, model.latents, strict=True):
        roots[level].append(prior_root(latent).cpu() / variance**0.5)
    return {level: torch.block_diag(*parts) for level, parts in roots.items()}


@torch.no_grad()
def with_new_groups(
    model: HierarchicalModel, law: ExactLaw, split: Split, fresh: Sequence[Tensor]
) -> ExactLaw:
    """Return a law with new groups given their rows, in which the known ones are as they were.

    fresh: by level which groups ([G] bool) are new and have rows; those beyond the law have none
    and the prior. The new follow what they meet of the levels that the law has a factor of; of the
    largest level's known groups they know the mean.
    """
    law = copy.deepcopy(law).cpu()
    design = Designs(model)
    layout, (beta, variance) = design.layout, _parameters(model)
    largest = next(level for level in layout.widths if law.is_largest(level))
    new: dict[int, Tensor] = {}
    for level in layout.widths:
        mask = fresh[level].cpu().clone()
        mask[len(law.mean(level)) :] = True
        new[level] = mask.nonzero().squeeze(1)
    of_new = {level: _places(new[level], len(fresh[level])) for level in new}
    met = _met(law, split, of_new)
    sums = summed(
        _around(design, law, split, beta, of_new, met),
        *(layout, {level: max(1, len(at)) for level, at in new.items()}, largest),
    )
    system = System(sums, _factors(model, layout, variance))
    return _joined(law, system, new, met, variance)


def _places(chosen: Tensor, number: int) -> Tensor:
    """Return each of `number` groups' place among the chosen, −1 for none."""
    places = torch.full((number,), -1)
    places[chosen] = torch.arange(len(chosen))
    return places


def _met(law: ExactLaw, split: Split, of_new: dict[int, Tensor]) -> Tensor:
    """Return the coordinates of u_rest, [K] int64, of known groups that rows lie in."""
    found = [torch.zeros(0, dtype=torch.int64)]
    for level, place in of_new.items():
        group = split.groups[:, level].long().cpu().unique()
        if not law.is_largest(level):
            found.append(law.columns(level, group[place[group] < 0]).flatten())
    return torch.cat(found).sort().values


def _around(
    design: Designs,
    law: ExactLaw,
    split: Split,
    beta: Tensor,
    of_new: dict[int, Tensor],
    met: Tensor,
) -> Iterator[tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]]:
    """Yield rows around what is known of them.

    (a of the coordinates `met`, y less what is known) [B, K + 1]; by level a of the new groups
    (0 where the row's is known) and their places.
    """
    size = max(1, min(ROWS_AT_ONCE, AT_ONCE // max(1, len(met))))
    for index in torch.arange(len(split)).split(size):
        f, a, groups = design(split, index)
        rest = f[:, -1] - f[:, :-1] @ beta
        known = torch.zeros(len(f), len(met), dtype=torch.float64)
        at = {}
        for level, load in a.items():
            place = of_new[level][groups[level]]
            old = (place < 0).nonzero().squeeze(1)
            own = groups[level][old]
            rest[old] -= (load[old] * law.mean(level)[own]).sum(1)
            if not law.is_largest(level):
                column = torch.searchsorted(met, law.columns(level, own))
                known[old[:, None], column] = load[old]
            load[old] = 0.0
            at[level] = place.clamp(min=0)
        yield torch.cat([known, rest[:, None]], 1), a, at


def _joined(
    law: ExactLaw, system: System, new: dict[int, Tensor], met: Tensor, variance: float
) -> ExactLaw:
    """Return the law of known groups and new ones, `system` being of the latter given u_rest.

    met: [K], the coordinates of u_rest that stand in the system for fixed effects.
    """
    number, more = len(law.root), len(system.root)
    own = system.law(torch.zeros(len(met), dtype=torch.float64), variance)
    eye = torch.eye(more, dtype=torch.float64)
    solved = torch.linalg.solve_triangular(system.root.mT, eye, upper=True) @ system.solved[:, :-1]
    root = torch.zeros(number + more, number + more, dtype=torch.float64)
    root[:number, :number] = law.root
    root[number:, :number] = -system.unscale(solved) @ law.root[met]
    root[number:, number:] = own.root
    parts: dict[str, Tensor] = {"root": root}
    whole = root @ root.mT
    for level, at in new.items():
        names = [f"mean_{level}", f"log_det_{level}", f"place_{level}", f"variance_{level}"]
        if law.is_largest(level):
            parts |= {name: _replaced(law, own, name, at) for name in [*names, "own"]}
            continue
        parts |= {name: _replaced(law, own, name, at) for name in names}
        place = parts[f"place_{level}"]
        place[at] += number
        index = place[:, None] + torch.arange(law.mean(level).shape[1])
        parts[f"variance_{level}"] = whole[index[:, :, None], index[:, None, :]]
    largest = system.sums.largest
    joined = ExactLaw(parts | _entries(law, own, system, new[largest], met))
    at = new[largest]
    joined.variance(largest)[at] = joined.own[at] @ joined.own[at].mT + joined.spread(at)
    return joined


def _entries(
    law: ExactLaw, own: ExactLaw, system: System, at: Tensor, met: Tensor
) -> dict[str, Tensor]:
    """Return what the largest level's groups have of u_rest: the known ones, and the new."""
    is_old = torch.ones(len(law.own), dtype=torch.bool)
    is_old[at[at < len(law.own)]] = False
    old, every = is_old.nonzero().squeeze(1), torch.arange(len(at))
    entry, row = law.entries(old)
    group, column, share = [old[row]], [law.column[entry]], [law.share[entry]]
    entry, row = own.entries(every)
    group.append(at[row])
    column.append(own.column[entry] + len(law.root))
    share.append(own.share[entry])
    on_met = -(system.whiten.mT @ system.fixed[:, :, :-1])[every].mT  # [new, K, W]
    row, place = (on_met != 0).any(-1).nonzero().T
    group.append(at[row])
    column.append(met[place])
    share.append(on_met[row, place])
    of, order = torch.cat(group).sort(stable=True)
    size = max(len(law.own), int(at.max()) + 1 if len(at) else 0)
    first = torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.bincount(of, minlength=size).cumsum(0)]
    )
    return {"first": first, "column": torch.cat(column)[order], "share": torch.cat(share)[order]}


def _replaced(law: ExactLaw, own: ExactLaw, name: str, at: Tensor) -> Tensor:
    """Return a law's table by group with another's values for the groups `at`, the new ones."""
    old, values = law.get_buffer(name), own.get_buffer(name)
    size = max(len(old), int(at.max()) + 1 if len(at) else 0)
    table = old.new_zeros(size, *old.shape[1:])
    table[: len(old)] = old
    table[at] = values[: len(at)]
    return table
