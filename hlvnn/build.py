"""The one place where names become objects."""

from __future__ import annotations

import torch

from hlvnn.backbones.base import Backbone
from hlvnn.config import LatentConfig, ModelConfig
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.errors import ConfigError, unknown
from hlvnn.families import member_class, member_module
from hlvnn.latents.divergence import refusal
from hlvnn.latents.latent import Latent, LatentSet
from hlvnn.latents.placements.base import Placement
from hlvnn.latents.posteriors.base import Posterior
from hlvnn.latents.priors.base import Prior
from hlvnn.likelihoods.base import Likelihood
from hlvnn.model import HierarchicalModel
from hlvnn.named import describe, expand, model_name
from hlvnn.random import seeded
from hlvnn.stages import Stage

BACKBONE_FOR = {"image": "cnn", "tokens": "lstm", "features": "mlp"}
PRIOR_START = {"bias": 0.5, "weights": 0.5}
"""First SD of a learned prior: half the standardised target's for latents in its units; else 1."""
POSTERIOR_START = 0.3
"""First SD of a posterior, as a share of its prior's."""
TABLE_LIMIT = 8 * 2**30
"""Bytes that one latent's table and its optimiser state may take."""


def build_model(config: ModelConfig, data: GroupedDataset, seed: int = 0) -> HierarchicalModel:
    """Build a model for the data, its weights drawn with `seed`.

    Raises `ConfigError` where the configuration does not fit itself or the data.
    """
    with seeded(seed):
        model = assemble(config, data.schema)
    model.observe(data)
    return model


def assemble(config: ModelConfig, schema: Schema) -> HierarchicalModel:
    """Build a model from its configuration and the data's schema alone (scales are not yet set)."""
    likelihood = _likelihood(config, schema)
    name = config.backbone or BACKBONE_FOR[schema.x_kind]
    x_kinds = member_class("backbones", name, Backbone, "backbone").x_kinds
    if schema.x_kind not in x_kinds:
        raise ConfigError(
            f"--backbone {name} reads {' or '.join(sorted(x_kinds))}, the data are "
            f"{schema.x_kind}; use --backbone {BACKBONE_FOR[schema.x_kind]}"
        )
    make = member_module("backbones", name, "backbone").build
    backbone: Backbone = make(config, schema, likelihood.num_outputs)

    def fixed_width(placement: str, stage: str) -> int | None:
        cls = member_class("latents.placements", placement, Placement, "placement")
        return cls.width_at(_stage(backbone, name, stage))

    levels = [level.name for level in schema.levels]
    latent_configs = expand(config, levels, list(backbone.stages), fixed_width)
    latents: list[Latent] = []
    for latent in latent_configs:
        taken = [other.name for other in latents]
        latents.append(_latent(latent, backbone, name, schema, taken))
    latent_set = LatentSet(latents, [level.size for level in schema.levels])
    return HierarchicalModel(backbone, latent_set, likelihood, schema, model_name(config, name))


def _likelihood(config: ModelConfig, schema: Schema) -> Likelihood:
    target = schema.target
    name = config.likelihood
    if name is None:
        name = "gaussian" if target.kind == "real" else "categorical"
        name = "bernoulli" if target.num_classes == 2 else name
    cls = member_class("likelihoods", name, Likelihood, "likelihood")
    if cls.target != target.kind:
        raise ConfigError(
            f"--likelihood {name} needs a {cls.target} target; {target.name!r} is {target.kind}"
            + ("; give class labels as text or booleans" if cls.target == "class" else "")
        )
    return cls(target.num_classes)


def _stage(backbone: Backbone, backbone_name: str, stage: str) -> Stage:
    if stage not in backbone.stages:
        raise ConfigError(unknown(f"stage of backbone {backbone_name}", stage, backbone.stages))
    return backbone.stages[stage]


def _latent(
    config: LatentConfig, backbone: Backbone, backbone_name: str, schema: Schema, taken: list[str]
) -> Latent:
    short = describe(config)
    name = (
        short if short not in taken else f"{short} #{1 + sum(t.startswith(short) for t in taken)}"
    )
    levels = [level.name for level in schema.levels]
    if config.level not in levels:
        raise ConfigError(f"latent {short}: {unknown('group level', config.level, levels)}")
    level = levels.index(config.level)
    stages = [_stage(backbone, backbone_name, entry.stage) for entry in config.places]
    classes = [
        member_class("latents.placements", entry.placement, Placement, "placement")
        for entry in config.places
    ]
    for entry, stage, cls in zip(config.places, stages, classes, strict=True):
        if stage.kind not in cls.kinds:
            able = [s.name for s in backbone.stages.values() if s.kind in cls.kinds]
            raise ConfigError(
                f"latent {short}: {entry.placement} cannot enter {stage.name} "
                f"(a {stage.kind} stage); it can enter: {', '.join(able) or 'none here'}"
            )
    width = _width(config, short, stages, classes)
    posterior = member_class("latents.posteriors", config.posterior, Posterior, "posterior")
    prior = member_class("latents.priors", config.prior, Prior, "prior")
    reason = refusal(posterior, prior)
    if reason:
        raise ConfigError(
            f"latent {short}: posterior {config.posterior} under prior {config.prior}: {reason}"
        )
    groups = schema.levels[level].size
    _check_memory(short, groups, posterior.num_parameters(width), width)
    start = min(PRIOR_START.get(entry.placement, 1.0) for entry in config.places)
    prior_sd = torch.full((width,), start if prior.learned else 1.0)
    return Latent(
        name,
        level,
        posterior(groups, width, POSTERIOR_START * prior_sd),
        prior(width, prior_sd),
        [cls(stage, width) for cls, stage in zip(classes, stages, strict=True)],
    )


def _width(
    config: LatentConfig, short: str, stages: list[Stage], classes: list[type[Placement]]
) -> int:
    required = {cls.width_at(stage) for cls, stage in zip(classes, stages, strict=True)} - {None}
    widths = {width for width in {*required, config.width} if width is not None}
    if len(widths) > 1:
        raise ConfigError(
            f"latent {short}: width {config.width} is not what the stage requires "
            f"({', '.join(map(str, sorted(widths - {config.width})))}); leave width out"
        )
    return widths.pop()


def _check_memory(short: str, groups: int, parameters: int, width: int) -> None:
    size = groups * parameters * 4 * 3  # the table and Adam's two moments, float32
    if size > TABLE_LIMIT:
        raise ConfigError(
            f"latent {short}: {groups} groups × {parameters} parameters (width {width}) would take "
            f"{size:,} bytes ({size / 2**30:.1f} GiB) with the optimiser's state, the limit is "
            f"{TABLE_LIMIT / 2**30:.0f} GiB; use concat with a small width, or a smaller stage"
        )
