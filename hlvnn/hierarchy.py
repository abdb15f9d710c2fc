"""Which latent depends on which: references in a configuration resolved, and put in order."""

from __future__ import annotations

from collections.abc import Sequence

from hlvnn.errors import ConfigError
from hlvnn.latent_config import LatentConfig
from hlvnn.named import describe


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
