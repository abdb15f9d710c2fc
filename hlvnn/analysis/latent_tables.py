"""What a trial learned of its groups: posteriors by name, and calibration on rows it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hlvnn.columns import PRIOR_SD, TEST, VAL
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.errors import DataChangedError, DataError
from hlvnn.inference import calibration
from hlvnn.latents.origin import marginal_at_origin, prior_sd_at_origin
from hlvnn.models.describe import Describer
from hlvnn.records.run_folder import BEST, Run, load_run

LATENT_COLUMNS = (
    *("trial", "epoch", "level", "gid", "label", "rows", "latent", "coordinate"),
    *("mean", "sd", PRIOR_SD, "shrinkage"),
)
PIT_BINS = 10


def best_run(folder: Path) -> Run:
    """Rebuild a run with its best weights, or the last ones where it has no better."""
    return load_run(folder, "best" if (folder / BEST).exists() else "last")


def latent_table(trial: int, run: Run) -> pd.DataFrame:
    """Return the posteriors of a run's groups: a row per group, latent and coordinate.

    Columns: see `Results.latents`.
    """
    model = run.model
    describer = Describer(model.backbone, model.latents, model.likelihood, model.schema)
    tables = []
    for position, latent in enumerate(model.latents):
        level = model.schema.levels[latent.level]
        names, factor = describer.coordinates(latent)
        mean, sd = marginal_at_origin(model.latents, position)
        own = latent.posterior.random and latent.prior.proper
        prior = prior_sd_at_origin(model.latents, position) if own else None
        counts = model.latents.counts(latent.level).cpu().numpy()
        for k, name in enumerate(names):
            columns: dict[str, object] = {
                "trial": trial,
                "epoch": run.epoch,
                "level": level.name,
                "gid": range(level.size),
                "label": [str(level.label(gid)) for gid in range(level.size)],
                "rows": counts,
                "latent": latent.name,
                "coordinate": name,
                "mean": (mean[:, k] * factor[k]).detach().numpy(),
                "sd": (sd[:, k] * factor[k]).detach().numpy(),
                PRIOR_SD: float("nan") if prior is None else float(prior[k] * factor[k]),
                "shrinkage": float("nan")
                if prior is None
                else (1 - (sd[:, k] / prior[k]).square()).numpy(),
            }
            tables.append(pd.DataFrame(columns))
    if not tables:
        return pd.DataFrame(columns=list(LATENT_COLUMNS))
    frame = pd.concat(tables, ignore_index=True)
    return frame[frame["rows"] > 0].reset_index(drop=True)


def calibration_table(trial: int, run: Run, num_samples: int) -> pd.DataFrame:
    """Return whether a run's probabilities come true; columns: see `Results.calibration`.

    Loads the run's data again. Raises `DataError` when they are gone, or not those it was trained
    on.
    """
    name, split = _unseen(run.data)
    if run.schema.target.kind == "class":
        frame = calibration.reliability(run.model, split, num_samples=num_samples)
    else:
        values = calibration.pit(run.model, split, num_samples)
        count, edges = np.histogram(values, PIT_BINS, (0, 1))
        frame = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": count})
        frame["share"] = count / max(1, count.sum())
    frame.insert(0, "trial", trial)
    frame.insert(1, "epoch", run.epoch)
    frame.insert(2, "split", name)
    return frame


def check_data(run: Run, digest: str) -> None:
    """Raise `DataError` unless the data loaded now are those that the run was trained on."""
    if digest and run.data.digest() != digest:
        raise DataChangedError(
            f"{run.folder}: the data set {run.config.data.title} has changed since (hash "
            f"{run.data.digest()}, was {digest})"
        )


def _unseen(data: GroupedDataset) -> tuple[str, Split]:
    for name, split in ((TEST, data.test), (VAL, data.val)):
        if split is not None:
            return name, split
    raise DataError("the data have neither test nor validation rows")
