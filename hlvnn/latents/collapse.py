"""What levels and learned priors tell of a fault, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hlvnn.data.grouped import Level
from hlvnn.latents.latent import Latent
from hlvnn.latents.pairs import posteriors_with
from hlvnn.latents.posteriors.base import LevelPosterior

if TYPE_CHECKING:
    from hlvnn.latents.latent_set import LatentSet

HAS_COLLAPSED = "a prior SD has collapsed"
COLLAPSED = 0.02
"""Share of its first SD below which a learned prior counts as collapsed."""
LOST = (
    "its variance was lost to another level because their posteriors are independent: say given= "
    "and parent= (see LatentConfig)"
)
TOO_SHORT = "its start was too far off (prior_warmup holds it there for longer)"
SHOWN = 3
"""Groups of an upper level that are named."""


def collapsed(latents: LatentSet) -> Iterator[tuple[Latent, str]]:
    """Yield the latents of which a learned prior SD has collapsed, and a sentence for each."""
    levels = {latent.level for latent in latents}
    independent = all(given is None for given in latents.given)
    for latent in latents:
        if not latent.prior.learned:
            continue
        share = float((latent.prior().stddev.detach() / latent.prior_start).min())
        if share < COLLAPSED:
            reason = LOST if len(levels) > 1 and independent else TOO_SHORT
            why = f"either its groups hardly differ, or {reason}"
            if latent.starts_small or latent.began_small:
                why = "its groups hardly differ, as far as it can tell where it enters"
            sentence = f"latent {latent.name}: {HAS_COLLAPSED} to {share:.2g} of its start; {why}"
            yield latent, sentence


def not_nested(
    latent: Latent, upper: Latent, group: Tensor, above: Tensor, levels: Sequence[Level]
) -> str:
    """Return the sentence for a group that has to lie in one group above it, and lies in several.

    group, above: [P] int64, the distinct pairs, sorted.
    """
    twice = int(group[1:][group[1:] == group[:-1]][0])
    found = above[group == twice].tolist()
    over_level = posteriors_with(lambda posterior: issubclass(posterior, LevelPosterior))
    names = [_name(levels, latent.level), _name(levels, upper.level)]
    label = _label(levels, latent.level, twice)
    return (
        f"latent {latent.name}: {names[0]} {label} has rows in {len(found)} groups of {upper.name} "
        f"({_some(levels, upper.level, found)}), so the levels are not nested. {_remedy(*names)} "
        "Levels that do cross are fitted exactly, all in one law, where the model is linear and "
        "gaussian and no latent says given, posterior or a nested prior. Elsewhere, for levels "
        f"that do cross give {upper.name} posterior={over_level} and {latent.name} "
        f"given={upper.name!r}"
    )


def reused_ids(groups: Tensor, lower: int, upper: int, levels: Sequence[Level]) -> str:
    """Return the sentence for ids that look as if each group of the upper level used them anew.

    Few ids of the lower level, most of them in several of the more groups above. "" where not.
    """
    few, many = levels[lower], levels[upper]
    if few.size >= many.size:
        return ""
    codes = (groups[:, lower].long() * many.size + groups[:, upper].long()).unique()
    counts = torch.bincount(codes // many.size, minlength=few.size)
    if float((counts > 1).double().mean()) <= 0.5:
        return ""
    most = int(counts.argmax())
    found = (codes[codes // many.size == most] % many.size).tolist()
    label = _label(levels, lower, most)
    return (
        f"{few.name} has {few.size} labels, {many.name} above it {many.size}, and {few.name} "
        f"{label} has rows in {len(found)} of these ({_some(levels, upper, found)}): it is taken "
        f"for one and the same {few.name} everywhere. {_remedy(few.name, many.name)}"
    )


def _remedy(lower: str, upper: str) -> str:
    return (
        f"If each {upper} uses its own {lower} ids, give ids that hold their {upper}: "
        f"frame[{lower!r}] = frame[{upper!r}].astype(str) + '/' + frame[{lower!r}].astype(str)."
    )


def _some(levels: Sequence[Level], level: int, groups: Sequence[int]) -> str:
    named = ", ".join(_label(levels, level, group) for group in groups[:SHOWN])
    return named + (", …" if len(groups) > SHOWN else "")


def _name(levels: Sequence[Level], level: int) -> str:
    return levels[level].name if levels else f"level {level + 1}"


def _label(levels: Sequence[Level], level: int, group: int) -> str:
    """Return a group's label as a message has it, its number where it has none."""
    known = level < len(levels) and group < levels[level].size
    return str(levels[level].label(group)) if known else f"number {group}"
