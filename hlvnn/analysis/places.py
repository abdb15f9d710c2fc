"""A run opened for a look at its latents: by which flags, its groups, and where results go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hlvnn.analysis.latent_tables import check_data
from hlvnn.columns import DATA_HASH
from hlvnn.data.grouped import GroupedDataset, Level, Schema, Split
from hlvnn.errors import ConfigError, DataError, unknown_label
from hlvnn.files import read_json
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding
from hlvnn.records.run_folder import HYPERPARAMS, Run


def level_with_latents(model: HierarchicalModel, name: str | None) -> int:
    """Return the number of a level that has latents; without a name, of the lowest one.

    Raises `DataError` for an unknown level and `ConfigError` for one without a latent.
    """
    levels = model.schema.levels
    having = sorted({latent.level for latent in model.latents})
    if not having:
        raise ConfigError(f"{model.name} has no latents, so there is no latent space to look at")
    if name is None:
        return having[0]
    index = model.schema.level_index(name)
    if index not in having:
        listed = ", ".join(levels[i].name for i in having)
        raise ConfigError(f"the model has no latent for level {name!r}; it has for: {listed}")
    return index


def labels_of(level: Level) -> list[str | int]:
    """Return the labels of a level's groups that have training rows."""
    return list(range(level.size)) if level.labels is None else list(level.labels)


def find_group(level: Level, words: str) -> int:
    """Return the number of the group that is called so.

    Where no label is exactly `words`, the only one that begins with them will do, or else the only
    one that contains them, whatever the case.
    Raises `DataError` for no such label (the nearest are named), or for several.
    """
    texts = [str(label) for label in labels_of(level)]
    if words in texts:
        return texts.index(words)
    for matches in (
        [i for i, text in enumerate(texts) if text.lower() == words.lower()],
        [i for i, text in enumerate(texts) if text.lower().startswith(words.lower())],
        [i for i, text in enumerate(texts) if words.lower() in text.lower()],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            some = ", ".join(repr(texts[i]) for i in matches[:5])
            more = f" and {len(matches) - 5} more" if len(matches) > 5 else ""
            raise DataError(f"{level.name} {words!r} may be {some}{more}; give the whole label")
    if words in map(str, level.new):
        raise DataError(f"{level.name} {words!r} has no training rows, and so no posterior")
    raise DataError(unknown_label(level.name, words, texts))


def whereabouts(split: Split, schema: Schema, level: int) -> Tensor:
    """Return, for each group of a level, the group of every level that most of its rows lie in.

    [G, L] int64; -1 for a group without rows in the split.
    """
    own = split.groups[:, level].long()
    size = schema.levels[level].size
    found = torch.full((size, len(schema.levels)), -1, dtype=torch.int64)
    for other, upper in enumerate(schema.levels):
        pairs = torch.stack([own, split.groups[:, other].long()], dim=1)
        pairs = pairs[(pairs >= 0).all(1)]
        distinct, counts = (pairs[:, 0] * upper.size + pairs[:, 1]).unique(return_counts=True)
        for code in distinct[counts.argsort(stable=True)]:  # the most frequent is written last
            found[code // upper.size, other] = code % upper.size
    return found


Place = Sequence[int | None]
"""A group of each level; None stands for somebody who was never seen."""


def mean_z(model: HierarchicalModel, place: Place) -> list[Tensor]:
    """Return the posterior mean of every latent at a place, [Z] each.

    For somebody never seen it is the prior's mean: 0, or the z of the parent.
    """
    result: list[Tensor] = []
    with torch.no_grad():
        for index, latent in enumerate(model.latents):
            group, parent = place[latent.level], model.latents.parent[index]
            if group is not None:
                result.append(model.latents.marginal(index)[0][group])
            elif parent is not None:
                result.append(result[parent])
            else:
                result.append(torch.zeros(latent.width, device=model.device))
    return result


def drawn_z(model: HierarchicalModel, place: Place, seed: int) -> list[Tensor]:
    """Return one draw of every latent at a place, [Z] each: of q, or of the prior if never seen."""
    groups = torch.tensor([[-1 if group is None else group for group in place]])
    with torch.no_grad(), seeding(seed, model.device):
        rows = model.latents.at(groups.to(model.device), unseen=True)
        return [draw[0, 0] for draw in model.latents.sample(rows, 1)]


def data_of(run: Run) -> GroupedDataset:
    """Return the run's data set, loaded again; `DataError` unless it is the one it was trained on.

    (Where labels had moved, a figure would name the wrong groups.)
    """
    record = read_json(run.folder / HYPERPARAMS)
    check_data(run, str(record.get(DATA_HASH) or ""))
    return run.data


def data_or_none(run: Run) -> tuple[GroupedDataset | None, str]:
    """Return the run's data set and "", or None and why it cannot be used."""
    try:
        return data_of(run), ""
    except DataError as error:
        return None, str(error)


def plain(label: object) -> str:
    """Return a label as part of a file's name."""
    kept = "".join(c if c.isalnum() else "_" for c in str(label))
    return "_".join(part for part in kept.split("_") if part)[:60] or "group"
