"""The latent space of one level: where its groups lie in it, and who lies near whom.

    python -m hlvnn.analysis space RUN
    python -m hlvnn.analysis neighbours RUN --group HAMLET

All latents of the level are seen side by side, in units of the prior SD (see `unit_root`), so that
distances are those of `model.nearest` and a move of 1 is as large as the prior thinks a group is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily

from hlvnn.analysis import canvas
from hlvnn.analysis.places import (
    labels_of,
)
from hlvnn.data.grouped import Schema
from hlvnn.latents.distance import divide, unit_root
from hlvnn.models.model import HierarchicalModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger("hlvnn")

LABELLED = 60
"""Groups that are named in the figure, those with the most rows."""
AT_ONCE, NUMBERS_AT_ONCE = 4096, 2**24
"""Groups whose covariances are computed at a time, at most, and numbers of their factors."""


@dataclass(frozen=True)
class Space:
    """The space of all latents of a level, in prior SDs; D their widths together.

    groups: [G] int64, those with training rows; means: [G, D] float64, posterior means.
    """

    model: HierarchicalModel
    level: int
    groups: Tensor
    means: Tensor
    positions: tuple[int, ...]
    """Which of the model's latents lie side by side here."""

    @property
    def name(self) -> str:
        """The level's name."""
        return self.model.schema.levels[self.level].name

    @property
    def labels(self) -> list[str | int]:
        """The label of each group."""
        every = labels_of(self.model.schema.levels[self.level])
        return [every[group] for group in self.groups.tolist()]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The training rows of each group."""
        counts: NDArray[np.int64] = self.model.latents.counts(self.level).cpu().numpy()
        return counts[self.groups.numpy()]

    def principal(self) -> tuple[Tensor, Tensor]:
        """Return the principal directions of the means, one a row, and their variances.

        [K, D] and [K] float64, K the smaller of D and the number of groups. The sign is such that
        the largest entry of a direction is positive.
        """
        centred = self.means - self.means.mean(0)
        _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
        largest = directions.abs().argmax(1, keepdim=True)
        return directions * directions.gather(1, largest).sign(), sizes.square() / len(self.means)

    def covariances(self, directions: Tensor) -> Tensor:
        """Return the posterior covariances along directions [K, D]: [G, K, K] float64.

        Points have none, 0.
        """
        widths = [self.model.latents[position].width for position in self.positions]
        each = sum(
            width * (len(directions) if self._is_diagonal(position) else width)
            for width, position in zip(widths, self.positions, strict=True)
        )
        size = max(1, min(AT_ONCE, NUMBERS_AT_ONCE // each))
        parts = [self._covariances(chunk, directions) for chunk in self.groups.split(size)]
        return torch.cat(parts)

    @torch.no_grad()
    def _covariances(self, groups: Tensor, directions: Tensor) -> Tensor:
        latents = self.model.latents
        sources: dict[object, Tensor] = {}
        groups = groups.to(self.model.device)
        for position, part in zip(self.positions, self.split(directions), strict=True):
            latent, root = latents[position], unit_root(latents, position)
            if not latent.posterior.random:
                continue
            if self._is_diagonal(position):
                sd = latent.posterior(groups).variance.double().sqrt().unsqueeze(1)
                sources["own", position] = part.to(root) / root * sd
                continue
            if latent.posterior.normal:
                columns: dict[Any, Tensor] = dict(latents.moments_at(position, groups)[1])
            else:
                columns = {position: _factor(latent.posterior(groups))}
            for source, factor in columns.items():
                along = part.to(root) @ divide(root, factor.double())  # [G, K, sources]
                sources[source] = sources[source] + along if source in sources else along
        size = len(directions)
        total = torch.zeros(len(groups), size, size, dtype=torch.float64)
        for factor in sources.values():
            total += (factor @ factor.mT).cpu()
        return total

    def _is_diagonal(self, position: int) -> bool:
        """Return whether a latent's covariances are diagonal, with no factor of Z² numbers."""
        latents = self.model.latents
        latent, root = latents[position], unit_root(latents, position)
        alone = latents.given[position] is None and latent.centred and latents.under_law is None
        if not alone or root.dim() != 1 or not latent.posterior.normal:
            return False
        return isinstance(latent.posterior(self.groups[:1].to(self.model.device)), Independent)

    def split(self, moves: Tensor) -> list[Tensor]:
        """Return moves [*, D] as moves of each latent, in prior SDs."""
        widths = [self.model.latents[position].width for position in self.positions]
        return list(moves.split(widths, dim=-1))

    @torch.no_grad()
    def moved(self, z: list[Tensor], moves: Tensor) -> list[Tensor]:
        """Return every latent of the model, [T, Z] each, with moves [T, D] (in prior SDs) added.

        z: [Z] per latent. A latent whose prior's mean is a moved one is moved with it.
        """
        latents = self.model.latents
        shift: dict[int, Tensor] = {}
        for position, part in zip(self.positions, self.split(moves), strict=True):
            root = unit_root(latents, position).cpu()
            shift[position] = part * root if root.dim() == 1 else part @ root.mT
        for index, parent in enumerate(latents.parent):
            if parent in shift and index not in shift:
                shift[index] = shift[parent]
        return [
            value.expand(len(moves), -1) + shift[index].to(value)
            if index in shift
            else value.expand(len(moves), -1)
            for index, value in enumerate(z)
        ]


def _factor(law: Distribution) -> Tensor:
    """Return F with F Fᵀ the covariance of a law over z: [G, Z, *].

    Exact for a mixture; any other law is taken as one without correlations.
    """
    if not isinstance(law, MixtureSameFamily):
        return torch.diag_embed(law.stddev)
    parts, weights = law.component_distribution, law.mixture_distribution.probs
    root = weights.sqrt()[:, :, None, None]  # [G, components, 1, 1]
    within = (root * torch.diag_embed(parts.stddev)).transpose(1, 2).flatten(2)
    apart = (root[..., 0] * (parts.mean - law.mean[:, None])).mT
    return torch.cat([within, apart], dim=-1)


@torch.no_grad()
def space_of(model: HierarchicalModel, level: int) -> Space:
    """Return the latent space of a level (that has latents)."""
    positions = tuple(i for i, latent in enumerate(model.latents) if latent.level == level)
    groups = (model.latents.counts(level).cpu() > 0).nonzero().squeeze(1)
    parts = []
    for position in positions:
        root = unit_root(model.latents, position)
        mean = model.latents.marginal(position)[0].double().unsqueeze(-1)
        parts.append(divide(root, mean).squeeze(-1).cpu()[groups])
    return Space(model, level, groups, torch.cat(parts, dim=1), positions)


def positions(space: Space, above: pd.Series[Any] | None = None) -> pd.DataFrame:
    """Return where each group lies in the plane of the first two principal directions.

    Columns: the level's name (the label), `rows`, `above` where given (its group of an upper
    level), `x` and `y` (posterior means, from the centre of all), `sd_x`, `sd_y` and
    `correlation` of its posterior there; all in prior SDs. A space of one dimension has no y.
    """
    directions, _ = space.principal()
    plane = directions[:2]
    where = ((space.means - space.means.mean(0)) @ plane.T).numpy()
    covariance = space.covariances(plane).numpy()
    columns: dict[str, object] = {space.name: space.labels, "rows": space.rows}
    if above is not None:
        columns["above"] = above.to_numpy()
    for k, axis in enumerate("xy"[: len(plane)]):
        columns[axis] = where[:, k]
        columns[f"sd_{axis}"] = np.sqrt(covariance[:, k, k])
    if len(plane) == 2:
        sds = np.sqrt(covariance[:, 0, 0] * covariance[:, 1, 1])
        columns["correlation"] = np.divide(
            covariance[:, 0, 1], sds, out=np.zeros_like(sds), where=sds > 0
        )
    return pd.DataFrame(columns)


def draw_positions(table: pd.DataFrame, space: Space, above_name: str = "") -> Figure:
    """Draw the groups in the plane with their SD ellipses, coloured by the group above them.

    Without one they are coloured by their rows. In a space of one dimension the rows are its y.
    """
    figure = canvas.new_figure(9, 7)
    axes = figure.subplots()
    _, variances = space.principal()
    total = max(float(variances.sum()), 1e-300)
    shares = [f"{100 * float(part) / total:.0f} %" for part in variances[:2]]
    axes.set_xlabel(f"principal direction 0, in prior SDs ({shares[0]} of the groups' variance)")
    if "y" in table:
        axes.set_ylabel(f"principal direction 1, in prior SDs ({shares[1]})")
        axes.set_aspect("equal", adjustable="datalim")
        y, sd_y = table["y"].to_numpy(), table["sd_y"].to_numpy()
    else:
        axes.set_ylabel("training rows")
        axes.set_yscale("log")
        y, sd_y = table["rows"].to_numpy(), np.zeros(len(table))
    colours = _colours(table, axes, y, above_name)
    _ellipses(table, axes, y, sd_y, colours)
    named = table["rows"].sort_values(ascending=False, kind="stable").index[:LABELLED]
    for index in named:
        axes.annotate(
            str(table[space.name].iloc[index]),
            (table["x"].iloc[index], y[index]),
            textcoords="offset points",
            xytext=(4, 3),
            fontsize=7,
        )
    axes.grid(alpha=0.25)
    axes.set_title(
        f"{space.model.name}: the {len(table)} groups of {space.name}; a point is a posterior "
        "mean, its ellipse one posterior SD",
        fontsize=10,
    )
    canvas.hide_overlapping_labels(axes)
    return figure


def _colours(table: pd.DataFrame, axes: Axes, y: NDArray[Any], above_name: str) -> list[Any]:
    """Draw the points; return each group's colour."""
    if "above" not in table:
        points = axes.scatter(table["x"], y, c=table["rows"], norm="log", s=18, zorder=3)
        bar = axes.figure.colorbar(points, ax=axes, shrink=0.7)
        bar.set_label("training rows")
        return list(points.to_rgba(table["rows"].to_numpy()))
    counts = table["above"].value_counts()
    shown = list(counts.index[: len(canvas.PALETTE)])
    colour = {label: canvas.PALETTE[i] for i, label in enumerate(shown)}
    chosen = [colour.get(label, canvas.GREY) for label in table["above"]]
    for label in shown:
        part = (table["above"] == label).to_numpy()
        axes.scatter(table["x"][part], y[part], s=18, color=colour[label], label=label, zorder=3)
    rest = ~table["above"].isin(shown).to_numpy()
    if rest.any():
        name = f"{len(counts) - len(shown)} others"
        axes.scatter(table["x"][rest], y[rest], s=18, color=canvas.GREY, label=name, zorder=3)
    axes.legend(title=above_name, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return chosen


def _ellipses(
    table: pd.DataFrame, axes: Axes, y: NDArray[Any], sd_y: NDArray[Any], colours: list[Any]
) -> None:
    from matplotlib.patches import Ellipse

    if "y" not in table:
        bars = {"fmt": "none", "ecolor": colours, "alpha": 0.5}
        axes.errorbar(table["x"], y, xerr=table["sd_x"], **bars)  # type: ignore[arg-type]
        return
    for index, colour in enumerate(colours):
        sds = np.array([table["sd_x"].iloc[index], sd_y[index]])
        covariance = np.outer(sds, sds) * np.array(
            [[1, table["correlation"].iloc[index]], [table["correlation"].iloc[index], 1]]
        )
        sizes, vectors = np.linalg.eigh(covariance)
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        long, short = 2 * np.sqrt(np.clip(sizes[::-1], 0, None))
        centre = (float(table["x"].iloc[index]), float(y[index]))
        axes.add_patch(
            Ellipse(centre, long, short, angle=angle, fill=False, color=colour, lw=0.7, alpha=0.6)
        )


def above_of(space: Space, places: Tensor, schema: Schema) -> pd.Series[Any]:
    """Return the label of each group's group one level up."""
    upper = schema.levels[space.level + 1]
    labels = labels_of(upper)
    above = places[space.groups, space.level + 1].tolist()
    return pd.Series([labels[group] if group >= 0 else "" for group in above], dtype=object)


def usual_distance(model: HierarchicalModel, level: int) -> float:
    """Return √(2 Z), the root mean square distance of two groups drawn from the prior."""
    return (2 * sum(x.width for x in model.latents if x.level == level)) ** 0.5


def draw_neighbours(table: pd.DataFrame, label: str, far: float) -> Figure:
    """Draw the neighbours' distances as bars, the part that the means make in a darker colour."""
    figure = canvas.new_figure(8, 1.6 + 0.3 * len(table))
    axes = figure.subplots()
    place = np.arange(len(table))
    axes.barh(place, table["distance"], color="#a6cbe3", label="expected distance")
    axes.barh(place, table["distance_means"], height=0.4, color="#0072b2", label="of the means")
    axes.axvline(far, color="black", ls="--", lw=1, label="two groups drawn from the prior")
    names = [f"{name}  ({rows:,} rows)" for name, rows in table.iloc[:, :2].itertuples(index=False)]
    axes.set_yticks(place, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("distance in prior SDs")
    axes.set_title(f"nearest to {label}", fontsize=10)
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=3)
    return figure
