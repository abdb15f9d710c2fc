"""The names of latent structures that a user types, and what each stands for.

A name is a list of places, made for each group level: place by place, and within a place the lowest
level first. That is also the order of `--z-dim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hlvnn.config import LatentConfig, ModelConfig
from hlvnn.errors import ConfigError, unknown


@dataclass(frozen=True)
class Structure:
    """What a name stands for: places as (placement, stage), and the model's historical name."""

    places: tuple[tuple[str, str], ...]
    model_name: str | None = None
    posterior: str | None = None
    """Posterior that belongs to the name; None takes the configuration's."""
    prior: str | None = None
    """Prior that belongs to the name; None takes the configuration's."""


STRUCTURES: dict[str, Structure] = {
    "none": Structure((), "Normal"),
    "factor": Structure((("concat", "output"),), "LatentFactor"),
    "lower": Structure((("concat", "hidden"),), "LowerLatent"),
    "double": Structure((("concat", "output"), ("concat", "hidden")), "DoubleLatent"),
    "bias": Structure((("bias", "output"),), "LatentBias"),
    "weights": Structure((("weights", "output"),), "MultilevelOutput"),
    "one-hot": Structure((("bias", "output"),), "OneHot", posterior="point", prior="none"),
    "embedding": Structure((("concat", "output"),), "Embedding", posterior="point", prior="none"),
}


def model_name(config: ModelConfig, backbone: str) -> str:
    """Return the model's name: NormalCNN, LatentFactorLSTM …, HierarchicalMLP for combinations."""
    prefix = "Hierarchical"
    if len(config.latent_config) == 1 and not config.latents:
        prefix = STRUCTURES[config.latent_config[0]].model_name or prefix
    return prefix + {"linear": "Linear"}.get(backbone, backbone.upper())


def expand(
    config: ModelConfig,
    levels: Sequence[str],
    stages: Sequence[str],
    fixed_width: Callable[[str, str], int | None],
) -> list[LatentConfig]:
    """Return every latent of a model, with its width.

    levels: the data's group levels, lowest first; stages: the backbone's; fixed_width(placement,
    stage): the width that a stage requires, or None. Latents written out follow the named ones.

    Raises `ConfigError` for an unknown name, a stage the backbone lacks, or a wrong count of widths
    (the latents are listed).
    """
    for name in config.latent_config:
        if name not in STRUCTURES:
            raise ConfigError(unknown("latent configuration", name, STRUCTURES))
    named = [
        LatentConfig(
            level=level,
            stage=_stage(stage, stages),
            placement=placement,
            posterior=structure.posterior or config.posterior,
            prior=structure.prior or config.prior,
        )
        for structure in (STRUCTURES[name] for name in config.latent_config)
        for placement, stage in structure.places
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
        if latent.width is None
        and all(fixed_width(entry.placement, entry.stage) is None for entry in latent.places)
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


def _stage(name: str, stages: Sequence[str]) -> str:
    """Return the backbone's stage for a name; `hidden` is the last hidden stage of any backbone."""
    if name == "hidden" and name not in stages:
        hidden = [stage for stage in stages if stage.startswith("hidden")]
        return hidden[-1] if hidden else name
    return name
