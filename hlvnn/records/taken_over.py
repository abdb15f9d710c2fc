"""Weights of a run that another begins with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hlvnn.data.grouped import GroupedDataset, Level
from hlvnn.errors import ConfigError
from hlvnn.latents.latent import Latent
from hlvnn.latents.posteriors.base import LevelPosterior
from hlvnn.models.model import HierarchicalModel
from hlvnn.records.run_folder import load_run

LATENTS = "latents.latents."
"""Before a latent's number in its parameters' names."""
SHOWN = 5
"""Tensors and groups that are named."""


@torch.no_grad()
def take_over(model: HierarchicalModel, data: GroupedDataset, place: str) -> list[str]:
    """Give a model the weights of a run's chosen epoch, where they fit; return what is told of it.

    Parameters fit by name and shape. A group has its posterior from the group with its label; one
    that the run did not have begins as ever. What is measured of the data (columns' means and SDs,
    the target's) stays that of these data. Raises what `load_run` raises, and `ConfigError` where
    nothing fits.
    """
    run = load_run(place, "best")
    source, tables = run.model, {id(t) for x in model.latents for t in x.tables()}
    theirs = _tensors(source)
    ours = {name: p for name, p in _tensors(model).items() if id(p) not in tables}
    taken, other = [], []
    for name, tensor in ours.items():
        if name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
            taken.append(name)
        else:
            shape = f"[{', '.join(map(str, tensor.shape))}]"
            was = f"[{', '.join(map(str, theirs[name].shape))}]" if name in theirs else "none"
            other.append(f"{name} {shape} (there {was})")
    told = [f"weights of {place}, epoch {run.epoch}: {len(taken)} of {len(ours)} tensors"]
    if other:
        told.append(f"begun anew: {_listed(other)}")
    found = 0
    for latent in model.latents:
        if (sentence := _groups(latent, source, data, run.schema.levels)) is not None:
            told.append(sentence)
            found += 1
    if not taken and not found:
        raise ConfigError(
            f"--from-weights {place}: nothing of {source.name} fits {model.name}; "
            f"begun anew would be {_listed(other)}"
        )
    if run.schema.target != data.schema.target:
        told.append("its target is another: what leads to the output may mean something else")
    return told


def _tensors(model: HierarchicalModel) -> dict[str, Tensor]:
    """Return parameters and running statistics by name; those of a latent by its own name."""
    found: dict[str, Tensor] = {}
    for name, tensor in (dict(model.named_parameters()) | _statistics(model)).items():
        if name.startswith(LATENTS):
            number, own = name.removeprefix(LATENTS).split(".", 1)
            found[f"{model.latents[int(number)].name}: {own}"] = tensor
        else:
            found[name] = tensor
    return found


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of batch normalisation, by name."""
    return {
        f"{name}.{own}": buffer
        for name, part in model.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        for own, buffer in part.named_buffers(recurse=False)
    }


def _groups(
    latent: Latent, source: HierarchicalModel, data: GroupedDataset, levels: tuple[Level, ...]
) -> str | None:
    """Give a latent's groups the posteriors of those with their labels; return what is told."""
    theirs = next((one for one in source.latents if one.name == latent.name), None)
    if theirs is None or isinstance(latent.posterior, LevelPosterior) or latent.dense:
        return None
    if (type(theirs.posterior), theirs.width) != (type(latent.posterior), latent.width):
        return None
    level, known = data.schema.levels[latent.level], levels[theirs.level]
    place = {known.label(gid): gid for gid in range(known.size)}
    pairs = [(g, place[level.label(g)]) for g in range(level.size) if level.label(g) in place]
    if pairs:
        own, other = torch.tensor(pairs).T
        for to, of in zip(latent.tables(), theirs.tables(), strict=True):
            if to.shape[1] == of.shape[1]:
                to[own.to(to.device)] = of[other].to(to)
    return f"{latent.name}: {len(pairs)} of {level.size} groups of {level.name} are known there"


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
