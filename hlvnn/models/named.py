"""The names of latent structures that a user types, and what each stands for.

A name is a list of places, made for each group level: place by place, and within a place the lowest
level first. That is also the order of `--z-dim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hlvnn.config import EntryConfig, LatentConfig, ModelConfig
from hlvnn.errors import ConfigError, unknown
from hlvnn.stages import OUTPUT

EVERY_HIDDEN = "*"
"""As a stage: every stage before the output that the placement can enter."""


@dataclass(frozen=True)
class Structure:
    """What a name stands for.

    latents: one text each, PLACEMENT@STAGE joined by `+` where one vector enters at several.
    model_name: the model's, before the backbone's. posterior, prior: those that belong to the name;
    None takes the configuration's.
    """

    latents: tuple[str, ...]
    model_name: str
    posterior: str | None = None
    prior: str | None = None


STRUCTURES: dict[str, Structure] = {
    "none": Structure((), "Normal"),
    "factor": Structure(("concat@output",), "LatentFactor"),
    "lower": Structure(("concat@hidden",), "LowerLatent"),
    "double": Structure(("concat@output", "concat@hidden"), "DoubleLatent"),
    "bias": Structure(("bias@output",), "LatentBias"),
    "weights": Structure(("weights@output",), "MultilevelOutput"),
    "basis": Structure(("basis@output",), "FactoredMultilevelOutput"),
    "filters": Structure(("basis@conv1", "basis@conv2"), "LatentFilter"),
    "film": Structure((f"film@{EVERY_HIDDEN}",), "Film"),
    "initial-state": Structure(("initial_state@lstm1+initial_state@lstm2",), "LatentInitialState"),
    "step-input": Structure(("concat@lstm1",), "LatentStepInput"),
    "step-hidden": Structure(("concat@lstm2",), "LatentStepHidden"),
    "one-hot": Structure(("bias@output",), "OneHot", posterior="point", prior="none"),
    "embedding": Structure(("concat@output",), "Embedding", posterior="point", prior="none"),
}


def model_name(config: ModelConfig, backbone: str) -> str:
    """Return the model's name: NormalCNN, LatentFactorLSTM …, HierarchicalMLP for combinations."""
    prefix = "Hierarchical"
    if len(config.latent_config) == 1 and not config.latents:
        prefix = STRUCTURES[config.latent_config[0]].model_name
    return prefix + {"linear": "Linear"}.get(backbone, backbone.upper())


def expand(
    config: ModelConfig,
    levels: Sequence[str],
    stages_for: Callable[[str | None], Sequence[str]],
    fixed_width: Callable[[EntryConfig], int | None],
) -> list[LatentConfig]:
    """Return every latent of a model, with its width.

    levels: the data's group levels, lowest first; stages_for(placement): the backbone's stages that
    a placement can enter (None: all); fixed_width(entry): the width that a place requires, or None.
    Latents written out follow the named ones.

    Raises `ConfigError` for an unknown name, a stage the backbone lacks, or a wrong count of widths
    (the latents are listed).
    """
    for name in config.latent_config:
        if name not in STRUCTURES:
            raise ConfigError(unknown("latent configuration", name, STRUCTURES))
    named = [
        LatentConfig(
            level=level,
            entries=_entries(name, text, stages_for),
            posterior=STRUCTURES[name].posterior or config.posterior,
            prior=STRUCTURES[name].prior or config.prior,
        )
        for name in config.latent_config
        for text in STRUCTURES[name].latents
        for level in levels
    ]
    if named and not levels:
        raise ConfigError(
            f"--latent-config {' '.join(config.latent_config)}: the data have no groups"
        )
    latents = [*named, *config.latents]
    free = [
        position
        for position, latent in enumerate(latents)
        if latent.width is None and all(fixed_width(entry) is None for entry in latent.places)
    ]
    if len(config.z_dim) not in (1, len(free)):
        listed = ", ".join(describe(latents[position]) for position in free) or "no latent here"
        raise ConfigError(
            f"--z-dim has {len(config.z_dim)} widths ({' '.join(map(str, config.z_dim))}), "
            f"expected 1 for all or {len(free)}, one each for: {listed}"
        )
    widths = config.z_dim * len(free) if len(config.z_dim) == 1 else config.z_dim
    for position, width in zip(free, widths, strict=False):
        latents[position] = latents[position].model_copy(update={"width": width})
    return latents


def describe(latent: LatentConfig) -> str:
    """Return a latent's short name: `writer concat@output`."""
    places = "+".join(f"{entry.placement}@{entry.stage}" for entry in latent.places)
    return f"{latent.level} {places}".rstrip()


def _entries(
    name: str, text: str, stages_for: Callable[[str | None], Sequence[str]]
) -> tuple[EntryConfig, ...]:
    """Return the places of one latent of a structure at the backbone's own stages.

    `hidden` is the last hidden stage of any backbone.
    """
    entries = []
    for place in text.split("+"):
        placement, _, stage = place.partition("@")
        every = stages_for(None)
        stages = [stage]
        if stage == EVERY_HIDDEN:
            stages = [stage for stage in stages_for(placement) if stage != OUTPUT]
            if not stages:
                raise ConfigError(
                    f"--latent-config {name}: {placement} needs a hidden stage, this backbone has "
                    f"only: {', '.join(every)}"
                )
        elif stage == "hidden" and stage not in every:
            stages = [stage for stage in every if stage.startswith("hidden")][-1:] or stages
        entries += [EntryConfig(stage=stage, placement=placement) for stage in stages]
    return tuple(entries)


def in_order(latents: Sequence[LatentConfig]) -> list[LatentConfig]:
    """Return the latents with each after those it depends on, otherwise as they stand.

    Raises `ConfigError` for a reference to no latent or to several, and for a circle.
    """
    done: list[LatentConfig] = []

    def place(latent: LatentConfig, path: tuple[str, ...]) -> None:
        name = describe(latent)
        if any(latent is other for other in done):
            return
        if name in path:
            raise ConfigError(f"latents depend on each other in a circle: {' → '.join(path)}")
        upper = upper_of(latent, latents)
        if upper is not None:
            place(upper, (*path, name))
        done.append(latent)

    for latent in latents:
        place(latent, ())
    return done


def upper_of(latent: LatentConfig, latents: Sequence[LatentConfig]) -> LatentConfig | None:
    """Return the latent that `latent` names as its parent or its conditioner, if it names one.

    A reference is a latent's short name, or a level: its only latent, or the one that enters at the
    same places.
    """
    reference = latent.parent or latent.conditioner
    if reference is None:
        return None
    short = describe(latent)
    others = [other for other in latents if other is not latent]
    found = [other for other in others if describe(other) == reference]
    found = found or [other for other in others if other.level == reference]
    if len(found) > 1:
        found = [other for other in found if other.places == latent.places] or found
    if len(found) != 1:
        names = ", ".join(describe(other) for other in found or others) or "there are none"
        problem = "several latents" if found else "no latent"
        key = "parent" if latent.parent else "given"
        raise ConfigError(
            f"latent {short}: {key}={reference} names {problem}; name a level or one of: {names}"
        )
    upper = found[0]
    if upper.level == latent.level:
        raise ConfigError(f"latent {short}: it cannot depend on a latent of its own level")
    return upper
