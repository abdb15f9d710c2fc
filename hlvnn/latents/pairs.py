"""Which posteriors make sense under which priors, and which may depend on another latent's draw."""

from __future__ import annotations

from collections.abc import Callable

from hlvnn.families import members_with
from hlvnn.latents.posteriors.base import LevelPosterior, Posterior
from hlvnn.latents.priors.base import Prior


def refusal(posterior: type[Posterior], prior: type[Prior]) -> str | None:
    """Return why a posterior makes no sense under a prior, or None where it does."""
    if posterior.random and not prior.proper:
        return (
            "without a prior nothing bounds its variance; use posterior "
            f"{posteriors_with(lambda one: not one.random)}, or a proper prior"
        )
    if not posterior.random and prior.learned:
        return "the density at a point grows without bound as the learned prior shrinks to it"
    if not prior.normal and (prior.nested or issubclass(posterior, LevelPosterior)):
        return "levels and groups that move together are known for normal priors only"
    if prior.nested and not is_able_to_depend(posterior):
        reason = (
            "its groups would have to follow their parents"
            if posterior.normal
            else "the KL of a latent that depends on another is known for normal ones"
        )
        return f"{reason}; use {posteriors_with(is_able_to_depend)}"
    return None


def is_able_to_depend(posterior: type[Posterior]) -> bool:
    """Return whether a posterior can move with another latent's draw: normal, group by group."""
    return posterior.normal and not issubclass(posterior, LevelPosterior)


def posteriors_with(wanted: Callable[[type[Posterior]], bool]) -> str:
    """Return the names of the posteriors that are as wanted, as a message lists them."""
    return ", ".join(members_with("latents.posteriors", Posterior, wanted))
