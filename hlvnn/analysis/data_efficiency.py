"""How well models serve new groups, against the number of rows that these bring.

    python -m hlvnn.analysis.data_efficiency results/femnist/pooled results/femnist/latent …

takes runs that were trained with the same groups held out (`--hold-out`). Every new group brings 0,
1, 2, 5, … of its rows, drawn at random; a model with latents adapts to them (an amortised one by
its encoder, any other by optimising q), one without predicts as it is, and all are scored on the
group's other rows, the same ones whatever it brought. Nothing is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.table import Table
from torch import Tensor

from hlvnn.analysis.canvas import new_figure
from hlvnn.columns import BETTER_HIGH
from hlvnn.data.grouped import Split
from hlvnn.errors import ConfigError, DataError
from hlvnn.files import replacing
from hlvnn.inference.adapt import STEPS, Method, adapt
from hlvnn.inference.metrics import group_table
from hlvnn.inference.predict import score_rows
from hlvnn.models.model import HierarchicalModel
from hlvnn.terminal import text_of

logger = logging.getLogger("hlvnn")

SIZES = (0, 1, 2, 5, 10, 20)
"""Rows that a new group brings."""
COLUMNS = ("model", "rows", "repeat", "gid", "n")
"""Columns of the table beside the measures: n is the number of rows scored."""


def data_efficiency(
    models: Mapping[str, HierarchicalModel],
    rows: Split,
    *,
    sizes: Sequence[int] = SIZES,
    repeats: int = 3,
    steps: int = STEPS,
    refine: int = 0,
    num_samples: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Return each new group's measures by model, rows brought and repeat.

    rows: of the data set that all models were built for; those whose group of the lowest level is
    new are used. steps: of `adapt` where it optimises; refine: steps that refine what an encoder
    read. num_samples: draws of z averaged in a prediction.

    Columns model, rows, repeat, gid (as in `Split.gids`), n, then acc, f1 (or mse), loss. Groups
    that have no row left to score are left out. Raises `DataError` where no group is left.
    """
    if repeats < 1 or not sizes or min(sizes) < 0:
        raise ConfigError(
            f"sizes {tuple(sizes)}, repeats {repeats}: expected numbers of rows from 0 on, and at "
            "least one repeat"
        )
    rows = rows_of_new_groups(next(iter(models.values())), rows)
    chosen = RowsBrought(rows, max(sizes))
    tables: list[pd.DataFrame] = []
    for repeat in range(repeats):
        brought, scored = chosen.draw((seed, repeat))
        for name, model in models.items():
            for size in sorted(sizes):
                context = rows.subset(brought[:, :size].flatten())
                method = method_of(model)
                if size and method is None:
                    table = tables[-1].assign(rows=size)  # a pooled model learns nothing
                else:
                    taught = model
                    if size and method is not None:
                        number = refine if method == "encoder" else steps
                        taught = adapt(model, context, method=method, steps=number, seed=seed)
                    table = _scores(taught, rows.subset(scored), num_samples, seed)
                    table.insert(0, "model", name)
                    table.insert(1, "rows", size)
                    table.insert(2, "repeat", repeat)
                tables.append(table)
    return pd.concat(tables, ignore_index=True)


def rows_of_new_groups(model: HierarchicalModel, rows: Split) -> Split:
    """Return the rows whose group of the lowest level is new to the model."""
    level = model.schema.levels[0]
    new = (rows.gids[:, 0] >= level.size).nonzero().squeeze(1)
    if not len(new):
        raise DataError(
            f"no row belongs to a new {level.name}; hold groups out in training (--hold-out 0.2 "
            "--unseen prior)"
        )
    return rows.subset(new)


def method_of(model: HierarchicalModel) -> Method | None:
    """Return how the model takes in new groups of the lowest level; None where it cannot."""
    latents = [latent for latent in model.latents if latent.level == 0]
    if not latents:
        return None
    read = all(latent.posterior.reads_rows and latent.slopes is None for latent in latents)
    return "encoder" if read else "optimise"


def _scores(model: HierarchicalModel, rows: Split, num_samples: int, seed: int) -> pd.DataFrame:
    level = model.schema.levels[0]
    scores = score_rows(model, rows, num_samples, seed)
    return group_table(scores, 0, level.size + len(level.new))


class RowsBrought:
    """The random choice of the rows that each group brings, at most `most`, and of the others."""

    def __init__(self, rows: Split, most: int) -> None:
        self.gid = rows.gids[:, 0].long()
        self.most = most
        counts = torch.bincount(self.gid)
        self.groups = (counts > most).nonzero().squeeze(1)
        short = int((counts > 0).sum()) - len(self.groups)
        if not len(self.groups):
            raise DataError(
                f"no new group has more than {most} rows, so that none is left to score; bring "
                f"fewer (--sizes, up to {int(counts.max()) - 1})"
            )
        if short:
            logger.warning("%d new groups have no more than %d rows and are left out", short, most)

    def draw(self, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return rows brought, [groups, most] in random order, and rows scored, [M]."""
        random = np.random.default_rng([part % 2**63 for part in seed])
        mixed = torch.from_numpy(random.permutation(len(self.gid)))
        own = [mixed[self.gid[mixed] == group] for group in self.groups]
        brought = torch.stack([part[: self.most] for part in own])
        return brought, torch.cat([part[self.most :] for part in own]).sort().values


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and rows brought: means over groups, and differences to the first.

    Columns model, rows, groups, then for each measure its mean over groups, NAME_se (standard error
    over groups), NAME_gain (better than the first model on the same groups and rows, so that more
    is better for every measure) and NAME_gain_se, paired by group. Repeats are averaged first.
    """
    measures = [str(name) for name in table if name not in COLUMNS]
    each = table.groupby(["model", "rows", "gid"], sort=False)[measures].mean()
    first = each.xs(table["model"].iloc[0], level="model")
    lines = []
    for (model, rows), part in each.groupby(level=["model", "rows"], sort=False):
        own = part.droplevel(["model", "rows"])
        base = first.xs(rows, level="rows").loc[own.index]
        line: dict[str, object] = {"model": model, "rows": rows, "groups": len(own)}
        for name in measures:
            gain = (own[name] - base[name]) * (1 if name in BETTER_HIGH else -1)
            for key, values in ((name, own[name]), (f"{name}_gain", gain)):
                line[key] = values.mean()
                line[f"{key}_se"] = values.std() / np.sqrt(len(values))
        lines.append(line)
    return pd.DataFrame(lines)


def as_text(summary: pd.DataFrame) -> str:
    """Return the summary as a table for a terminal."""
    measure = "acc" if "acc" in summary else "mse"
    first = summary["model"].iloc[0]
    table = Table(box=None, title=f"new groups: means over {summary['groups'].iloc[0]}")
    table.add_column("model")
    for column in ("rows", measure, f"better than {first}", "nats", f"better than {first}"):
        table.add_column(column, justify="right")
    for _, line in summary.iterrows():
        cells = [str(line["model"]), str(line["rows"])]
        for name in (measure, "loss"):
            cells += [f"{line[name]:.4f}", f"{line[f'{name}_gain']:+.4f}"]
            cells[-1] += f" ± {line[f'{name}_gain_se']:.4f}"
        table.add_row(*cells)
    return text_of(table)


def draw(summary: pd.DataFrame, path: Path) -> None:
    """Write the figure: each measure against the rows brought, a line a model."""
    measure = "acc" if "acc" in summary else "mse"
    figure = new_figure(9, 3.6)
    sizes = sorted(summary["rows"].unique())
    names = {"acc": "accuracy", "mse": "mean squared error", "loss": "nats a row"}
    for axes, name in zip(figure.subplots(1, 2), (measure, "loss"), strict=True):
        for model, part in summary.groupby("model", sort=False):
            place = [sizes.index(size) for size in part["rows"]]
            axes.errorbar(
                place, part[name], part[f"{name}_gain_se"], marker="o", capsize=3, label=model
            )
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlabel("rows that a new group brings")
        axes.set_ylabel(names[name])
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle("bars: standard error of the difference to the first, over groups", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def write(table: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Write OUT.parquet (all), OUT.csv (the summary) and OUT.png; return the summary."""
    summary = summarise(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out.with_suffix(".parquet")) as temporary:
        table.to_parquet(temporary, index=False)
    with replacing(out.with_suffix(".csv")) as temporary:
        summary.to_csv(temporary, index=False)
    draw(summary, out.with_suffix(".png"))
    return summary
