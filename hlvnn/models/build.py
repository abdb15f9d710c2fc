"""The one place where names become objects."""

from __future__ import annotations

import math
from typing import Any

import torch

from hlvnn.backbones.base import Backbone
from hlvnn.config import EntryConfig, LatentConfig, ModelConfig
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.errors import ConfigError, unknown
from hlvnn.families import member_class, member_module, members_with
from hlvnn.latent_config import entry_text
from hlvnn.latents.divergence import described, is_normal
from hlvnn.latents.latent import Latent
from hlvnn.latents.latent_set import LatentSet
from hlvnn.latents.origin import may_centre
from hlvnn.latents.pairs import is_able_to_depend, posteriors_with, refusal
from hlvnn.latents.placements.base import Placement
from hlvnn.latents.posteriors.base import POSTERIOR_START, LevelPosterior, Posterior
from hlvnn.latents.priors.base import Prior
from hlvnn.latents.strata import combinations
from hlvnn.likelihoods.base import Likelihood
from hlvnn.models.doubts import check_identified
from hlvnn.models.model import HierarchicalModel
from hlvnn.models.named import describe, expand, in_order, model_name, upper_of
from hlvnn.random import seeding
from hlvnn.stages import Stage

BACKBONE_FOR = {"image": "cnn", "tokens": "lstm", "features": "mlp"}
PRIOR_START = 0.5
"""First SD of a latent's effect under a learned prior: half the standardised target's SD, where it
enters the output. Dimensions that pass trained loadings (see `Latent.scaled`) share it."""
WIDEST_FULL = 64
"""Widest z whose posterior is full_rank unless said otherwise: it has Z²/2 numbers a group."""
POSTERIOR_OPTIONS = ("posterior_rank", "components", "context")
"""Settings of a latent that belong to some posteriors only; each says which are its own."""
OF_POSTERIORS = ("posterior", "given", *POSTERIOR_OPTIONS)
"""Settings of a latent that ask for a form of q; without any an exact law may be taken."""
OF_BACKBONES = frozenset(
    {"model_size", "dropout", "norm", "skip", "hidden", "channels", "kernel_size", "embedding"}
) | {"lstm"}
"""Settings that belong to some backbones only; each says which are its own."""
TABLE_LIMIT = 8 * 2**30
"""Bytes that one latent's table and its optimiser state may take."""


def build_model(
    config: ModelConfig, data: GroupedDataset, seed: int = 0, *, recorded: bool = False
) -> HierarchicalModel:
    """Build a model for the data, its weights drawn with `seed`.

    recorded: the configuration is that of a run which has begun; in older ones settings of other
    backbones may stand.

    Raises `ConfigError` where the configuration does not fit itself or the data.
    """
    if not recorded:
        check_own(config, data.schema)
    with seeding(seed):
        model = assemble(config, data.schema)
    model.observe(data)
    check_identified(model, data)
    return model


def check_own(config: ModelConfig, schema: Schema) -> None:
    """Raise `ConfigError` for settings of another backbone, which this one would pass over."""
    name = config.backbone or BACKBONE_FOR[schema.x_kind]
    cls = member_class("backbones", name, Backbone, "backbone")
    if schema.x_kind not in cls.x_kinds:
        return  # `assemble` refuses it altogether
    own = cls.settings
    for setting in sorted(OF_BACKBONES - own):
        value = getattr(config, setting)
        if value != ModelConfig.model_fields[setting].default:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            flags = ", ".join(f"--{one.replace('_', '-')}" for one in sorted(own))
            raise ConfigError(
                f"--{setting.replace('_', '-')} {shown} does not belong to backbone {name} "
                f"({f'its own are {flags}' if own else 'it has none'}); leave it out, or choose "
                "another --backbone"
            )


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

    def fixed_width(entry: EntryConfig) -> int | None:
        cls = _placement(entry.placement)
        return cls.width_at(_stage(backbone, name, entry.stage), **_options(entry, cls))

    def stages_for(placement: str | None) -> list[str]:
        stages = backbone.stages.values()
        return [s.name for s in stages if not placement or s.kind in _placement(placement).kinds]

    levels = [level.name for level in schema.levels]
    latent_configs = expand(config, levels, stages_for, fixed_width)
    latents: list[Latent] = []
    ordered = in_order(latent_configs)
    uppers = [upper_of(latent, ordered) for latent in ordered]
    for latent, upper in zip(ordered, uppers, strict=True):
        above = None if upper is None else latents[ordered.index(upper)]
        latents.append(_latent(latent, backbone, name, schema, latents, above))
    latent_set = LatentSet(latents, [level.size for level in schema.levels])
    latent_set.levels = schema.levels
    combinations(latent_set)  # refuses too many components before the first batch does
    return HierarchicalModel(backbone, latent_set, likelihood, schema, model_name(config, name))


def _likelihood(config: ModelConfig, schema: Schema) -> Likelihood:
    target = schema.target
    name = config.likelihood
    if name is None:
        name = "gaussian" if target.kind == "real" else "categorical"
        name = "bernoulli" if target.num_classes == 2 else name
        name = "binomial" if target.trials is not None else name
        name = "poisson" if target.counts else name
    cls = member_class("likelihoods", name, Likelihood, "likelihood")
    if target.trials is not None and not cls.counts_trials:
        able = members_with("likelihoods", Likelihood, lambda one: one.counts_trials)
        raise ConfigError(
            f"--likelihood {name} cannot use the trials in {target.trials!r}; leave trials out, "
            f"or use --likelihood {' or '.join(able)}"
        )
    if cls.target != target.kind:
        raise ConfigError(
            f"--likelihood {name} needs a {cls.target} target; {target.name!r} is {target.kind}"
            + ("; say --target-kind class (target_kind=)" if cls.target == "class" else "")
        )
    if cls.counts_trials and target.trials is None:
        raise ConfigError(
            f"--likelihood {name} needs the number of trials behind each {target.name!r}; name "
            "their column (--trials, or from_frame(trials=…))"
        )
    likelihood = cls(target.num_classes)
    likelihood.target_name = target.name
    return likelihood


def _stage(backbone: Backbone, backbone_name: str, stage: str) -> Stage:
    if stage not in backbone.stages:
        raise ConfigError(unknown(f"stage of backbone {backbone_name}", stage, backbone.stages))
    return backbone.stages[stage]


def _latent(
    config: LatentConfig,
    backbone: Backbone,
    backbone_name: str,
    schema: Schema,
    earlier: list[Latent],
    upper: Latent | None,
) -> Latent:
    short = describe(config)
    taken = [other.name for other in earlier]
    name = (
        short if short not in taken else f"{short} #{1 + sum(t.startswith(short) for t in taken)}"
    )
    levels = [level.name for level in schema.levels]
    if config.level not in levels:
        raise ConfigError(f"latent {short}: {unknown('group level', config.level, levels)}")
    level = levels.index(config.level)
    stages = [_stage(backbone, backbone_name, entry.stage) for entry in config.places]
    classes = [_placement(entry.placement) for entry in config.places]
    for entry, stage, cls in zip(config.places, stages, classes, strict=True):
        if stage.kind not in cls.kinds:
            able = [s.name for s in backbone.stages.values() if s.kind in cls.kinds]
            raise ConfigError(
                f"latent {short}: {entry.placement} cannot enter {stage.name} "
                f"(a {stage.kind} stage); it can enter: {', '.join(able) or 'none here'}"
            )
    entries = [
        (stage, cls, _options(entry, cls))
        for entry, stage, cls in zip(config.places, stages, classes, strict=True)
    ]
    width = _width(config, short, [cls.width_at(stage, **own) for stage, cls, own in entries])
    config = config.model_copy(update={"prior": config.prior or _default_prior(config.posterior)})
    assert config.prior is not None
    prior = member_class("latents.priors", config.prior, Prior, "prior")
    asked = any(getattr(config, name) is not None for name in OF_POSTERIORS) or not config.centred
    family = config.posterior or _default_posterior(prior, classes, width)
    config = config.model_copy(update={"posterior": family})
    posterior = member_class("latents.posteriors", family, Posterior, "posterior")
    reason = refusal(posterior, prior)
    if reason:
        raise ConfigError(
            f"latent {short}: posterior {config.posterior} under prior {config.prior}: {reason}"
        )
    groups = schema.levels[level].size
    options = {name: getattr(config, name) for name in POSTERIOR_OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    for option in options:
        if option not in posterior.options:
            raise ConfigError(
                f"latent {short}: {option} does not belong to posterior {config.posterior}"
            )
    size = options | ({"num_groups": groups} if issubclass(posterior, LevelPosterior) else {})
    _check_memory(short, groups, posterior.num_parameters(width, **size), width)
    if upper is not None:
        _check_dependence(config, short, posterior, width, upper)
    placements = [cls(stage, width, **own) for stage, cls, own in entries]
    first_sd = 1.0
    if prior.learned:
        loaded = bool(placements) and all(placement.loadings() for placement in placements)
        first_sd = PRIOR_START / (math.sqrt(width) if loaded else 1)
    prior_sd = torch.full((width,), first_sd)
    centred = config.centred and not posterior.whitened
    if not prior.normal and not (centred and config.conditioner is None):
        raise ConfigError(
            f"latent {short}: prior {config.prior} is not normal, and so there is no q(ε) "
            f"(centred=False, posterior {config.posterior}) and no q that depends on another "
            "latent under it; use a normal prior, or an independent posterior of z itself"
        )
    scale = prior_sd if centred else torch.ones(width)
    if not (posterior.natural and centred and prior.normal):
        scale = POSTERIOR_START * scale
    reads = {"schema": schema} if posterior.reads_rows else {}
    q = posterior(groups, width, scale, **options, **reads)
    p = prior(width, prior_sd)
    _check_laws(f"latent {short}", config, q, p)
    if may_centre(posterior, prior, len(placements)):
        placements[0].centre()
    return Latent(
        name,
        level,
        q,
        p,
        placements,
        parent=upper if config.parent is not None else None,
        given=upper if config.conditioner is not None else None,
        centred=centred,
        asked=asked,
    )


@torch.no_grad()
def _check_laws(who: str, config: LatentConfig, q: Posterior, p: Prior) -> None:
    """Raise `ConfigError` unless both laws are over [Z], and normal where they say so."""
    groups = torch.zeros(1, dtype=torch.int64)
    laws = {
        f"posterior {config.posterior}": (q(groups), q.normal, (1,)),
        f"prior {config.prior}": (p(), p.normal, ()),
    }
    for name, (law, normal, batch) in laws.items():
        if (law.batch_shape, law.event_shape) != (batch, (q.width,)):
            raise ConfigError(
                f"{who}: {name} gives a {described(law)} with batch shape "
                f"{list(law.batch_shape)} and event shape {list(law.event_shape)}, expected "
                f"{list(batch)} and {[q.width]} (torch.distributions.Independent(law, 1) makes one "
                "vector of independent numbers)"
            )
        if normal and not is_normal(law):
            raise ConfigError(
                f"{who}: {name} says that it is normal, and its law is {described(law)}; say "
                "normal = False"
            )


def _default_prior(posterior: str | None) -> str:
    """Return the prior where none is said; under a learned one a point's density has no bound."""
    if posterior is None:
        return "learned"
    family = member_class("latents.posteriors", posterior, Posterior, "posterior")
    return "learned" if family.random else "standard"


def _default_posterior(prior: type[Prior], placements: list[type[Placement]], width: int) -> str:
    """Return the family of q where none is said."""
    together = prior.full and any(placement.slopes for placement in placements)
    return "full_rank" if together and width <= WIDEST_FULL else "mean_field"


def _check_dependence(
    config: LatentConfig, short: str, posterior: type[Posterior], width: int, upper: Latent
) -> None:
    if not is_able_to_depend(posterior):
        raise ConfigError(
            f"latent {short}: posterior {config.posterior} cannot depend on {upper.name}; use "
            f"{posteriors_with(is_able_to_depend)}, or given=none"
        )
    if not upper.posterior.normal:
        raise ConfigError(
            f"latent {short}: it depends on {upper.name}, whose posterior must be normal "
            f"({posteriors_with(lambda one: one.normal)})"
        )
    if config.parent is not None and width != upper.width:
        raise ConfigError(
            f"latent {short}: width {width} differs from its parent's, {upper.name} has "
            f"{upper.width}; give both the same"
        )
    reach = upper.width * (upper.posterior.num_groups if config.parent is None else 1)
    if isinstance(upper.posterior, LevelPosterior):
        _check_memory(short, upper.posterior.num_groups, width * reach, width)


def _placement(name: str) -> type[Placement]:
    return member_class("latents.placements", name, Placement, "placement")


def _options(entry: EntryConfig, placement: type[Placement]) -> dict[str, Any]:
    """Return an entry's settings that are set; refuse those of other placements."""
    given = {"rank": entry.rank, "columns": entry.columns}
    options = {name: value for name, value in given.items() if value not in (None, ())}
    for option in options:
        if option not in placement.options:
            raise ConfigError(
                f"{entry_text(entry)}: {option} does not belong to placement {entry.placement}"
            )
    return options


def _width(config: LatentConfig, short: str, fixed: list[int | None]) -> int:
    required = {*fixed} - {None}
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
