"""Text as a group would write it.

python -m hlvnn.analysis generate RUN --group LABEL
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from hlvnn.analysis import places
from hlvnn.analysis.generate import WIDTH, between, write
from hlvnn.analysis.places import Place, find_group, level_with_latents
from hlvnn.commands.run_options import RunOptions
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.errors import ConfigError, DataError
from hlvnn.files import replacing
from hlvnn.models.model import HierarchicalModel
from hlvnn.records.run_folder import Run

logger = logging.getLogger("hlvnn")


class GenerateOptions(RunOptions):
    """Write text with a group's z, without it, and with what lies between."""

    group: str | None = None
    """The group, by its label or an unmistakable part of it; none given = somebody never seen."""
    level: str | None = None
    """Its level; none given = the lowest one with a latent."""
    towards: str | None = None
    """Another group of that level: write from --group's z to this one's."""
    steps: int = Field(3, gt=1)
    """Texts, from one end of the line to the other."""
    length: int = Field(300, gt=0)
    """Characters of each text."""
    temperature: float = Field(0.7, ge=0)
    """1 = as probable as the model says; lower = safer; 0 = always the likeliest character."""
    z: Literal["mean", "draw"] = "mean"
    """The posterior's mean, or a draw of it by --seed."""
    prompt: str | None = None
    """Passage to go on from; none given = one that the group says in the test rows."""
    seed: int = 0
    """Seed of the text and of z."""


def generate(options: GenerateOptions) -> None:
    """Print the texts, and write them as a table."""
    run = options.open()
    _expect_text(run)
    if options.group is None and options.towards is not None:
        raise ConfigError("--towards needs a --group to start from")
    data, problem = places.data_or_none(run)
    ends, names = _ends(run, options, data, problem)
    prompt = _prompt(run.schema, options, data, ends[-1])
    z = [_at(run.model, place, options) for place in ends]
    line = between(z[0], z[-1], options.steps) if len(z) > 1 else [part[None] for part in z[0]]
    tokens = write(
        run.model,
        line,
        prompt,
        options.length,
        temperature=options.temperature,
        seed=options.seed,
    )
    vocabulary = run.schema.vocabulary or ""
    texts = ["".join(vocabulary[token] for token in row) for row in tokens.tolist()]
    given = "".join(vocabulary[token] for token in prompt.tolist())
    shares = [step / max(1, len(texts) - 1) for step in range(len(texts))]
    if len(z) == 1:
        shares = [1.0]
    logger.info("goes on from: %s\n", textwrap.shorten(given, WIDTH * 2))
    for share, text in zip(shares, texts, strict=True):
        logger.info("--- %s\n%s\n", _title(names, share), _filled(text))
    table = pd.DataFrame(
        {"from": names[0], "to": names[-1], "share": shares, "prompt": given, "text": texts}
    )
    what = "" if options.group is None else f"_{places.plain(options.group)}"
    out = options.target(f"text{what}").with_suffix(".csv")
    with replacing(out) as temporary:
        table.to_csv(temporary, index=False)
    logger.info("written: %s", out)


def _expect_text(run: Run) -> None:
    schema = run.schema
    if schema.x_kind != "tokens":
        raise ConfigError(
            f"{run.folder}: generate needs a model of text, and {run.model.name} reads "
            f"{schema.x_kind}; try: python -m hlvnn.analysis probe {run.folder}"
        )
    if schema.vocabulary is None or schema.target.num_classes != len(schema.vocabulary):
        raise ConfigError(
            f"{run.folder}: generate needs a model that predicts the next character, with the "
            "vocabulary in its schema.json; this one's has none"
        )


def _ends(
    run: Run, options: GenerateOptions, data: GroupedDataset | None, problem: str
) -> tuple[list[Place], list[str]]:
    """Return the places at the two ends of the line (or the only one), and their names."""
    schema, nobody = run.schema, [None] * len(run.schema.levels)
    if options.group is None:
        return [nobody], ["somebody never seen"]
    level = level_with_latents(run.model, options.level)
    described = schema.levels[level]
    labels = places.labels_of(described)
    chosen = [options.group] if options.towards is None else [options.group, options.towards]
    groups = [find_group(described, words) for words in chosen]
    if len(schema.levels) > 1 and data is None:
        raise DataError(f"which groups belong together is told by the data, but: {problem}")
    ends = [_place(schema, data, level, group) for group in groups]
    names = [str(labels[group]) for group in groups]
    if options.towards is not None:
        return list(ends), names
    anyone = [None if i <= level else group for i, group in enumerate(ends[0])]
    upper = [
        str(places.labels_of(schema.levels[i])[group])
        for i, group in enumerate(anyone)
        if group is not None
    ]
    who = f"somebody never seen{', of ' + ', '.join(upper) if upper else ''}"
    return [anyone, ends[0]], [who, names[0]]


def _at(model: HierarchicalModel, place: Place, options: GenerateOptions) -> list[Tensor]:
    if options.z == "draw":
        return places.drawn_z(model, place, options.seed)
    return places.mean_z(model, place)


def _prompt(
    schema: Schema, options: GenerateOptions, data: GroupedDataset | None, place: Place
) -> Tensor:
    """Return the passage to go on from, [P] int64."""
    vocabulary = schema.vocabulary or ""
    if options.prompt is not None:
        unknown = sorted(set(options.prompt) - set(vocabulary))
        if unknown or not options.prompt:
            said = f"{unknown} are not among the model's characters" if unknown else "it is empty"
            raise ConfigError(f"--prompt: {said}; expected one or more of these: {vocabulary!r}")
        return torch.tensor([vocabulary.index(character) for character in options.prompt])
    split = None if data is None else (data.test or data.val or data.train)
    if split is None:
        logger.info("without its data the text begins with a new line (see --prompt)")
        return torch.tensor([vocabulary.index("\n") if "\n" in vocabulary else 0])
    mask = torch.ones(len(split), dtype=torch.bool)
    for level, group in enumerate(place):
        if group is not None:
            mask &= split.groups[:, level] == group
    rows = mask.nonzero().squeeze(1)
    first = rows[:1] if len(rows) else torch.zeros(1, dtype=torch.int64)
    return split.x.take(first)[0].long()


def _title(names: Sequence[str], share: float) -> str:
    if share in (0.0, 1.0):
        return names[0] if share == 0 else names[-1]
    return f"{share:.0%} of the way from {names[0]} to {names[-1]}"


def _filled(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def _place(schema: Schema, data: GroupedDataset | None, level: int, group: int) -> Place:
    """Return a group with those of the levels above it; those below it are unknown."""
    if data is None:
        return [group]
    row = places.whereabouts(data.train, schema, level)[group].tolist()
    return [None if i < level or found < 0 else found for i, found in enumerate(row)]
