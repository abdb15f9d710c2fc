"""How a user says a latent: its level, its law, and the places where it enters."""

from __future__ import annotations

import shlex
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from hlvnn import errors
from hlvnn.strict import Config, known_member, validated

PLACE_FORM = "PLACEMENT@STAGE[:rank=N][:columns=A,B]"
LATENT_FORM = f"{PLACE_FORM} level=LEVEL [width=N] [posterior=NAME] [prior=NAME] …"
NOWHERE = "-"
"""Stands for the places of a latent that is only the parent of another."""
INDEPENDENT = "none"
"""As `LatentConfig.given`: depend on no other latent's draw."""


def entry_text(entry: EntryConfig) -> str:
    """Return a place as a user types it: `basis@hidden:rank=4`."""
    text = f"{entry.placement}@{entry.stage}"
    if entry.rank is not None:
        text += f":rank={entry.rank}"
    if entry.columns:
        text += f":columns={','.join(entry.columns)}"
    return text


def latent_text(latent: LatentConfig) -> str:
    """Return the text form that `LatentConfig.from_text` reads."""
    words = ["+".join(entry_text(entry) for entry in latent.places) or NOWHERE]
    where = ("stage", "placement", "rank", "columns", "entries")
    for name in LatentConfig.model_fields:
        value = getattr(latent, name)
        if name not in where and value is not None:
            words.append(f"{name}={value}")
    return shlex.join(words)


def _entry(text: str) -> dict[str, Any]:
    """Read `PLACEMENT@STAGE[:rank=N][:columns=A,B]`."""
    place, *options = text.split(":")
    placement, at, stage = place.partition("@")
    settings: dict[str, Any] = {"placement": placement, "stage": stage}
    for option in options:
        key, equals, value = option.partition("=")
        at = at if equals else ""
        settings[key] = tuple(value.split(",")) if key == "columns" else value
    if not at:
        raise errors.ConfigError(f"expected the form {PLACE_FORM}, got {text!r}")
    return settings


class EntryConfig(Config):
    """One place where a latent enters the network."""

    stage: str
    """Stage of the backbone, for example conv1, hidden, output."""
    placement: str
    """How the latent enters there: a file of hlvnn/latents/placements."""
    rank: int | None = Field(None, gt=0)
    """Rank of a `basis`; None takes the latent's width."""
    columns: tuple[str, ...] = ()
    """Input columns whose weights deviate (`weights`); none given = all. The bias always does."""

    @field_validator("placement")
    @classmethod
    def _known_placement(cls, name: str) -> str | None:
        return known_member("latents.placements", "placement", name)


class LatentConfig(Config):
    """One latent vector per group of one level, and where it enters.

    Give `stage` and `placement` for one place, or `entries` for several. A latent that is only the
    `parent` of another enters nowhere itself and needs a `width`.

    Levels that know of each other, `cask` lying in `batch`, both as intercepts:

    - batch and cask with `prior="learned"`, cask with `given="batch"`: two effects that add up,
      q(cask | batch);
    - batch entering nowhere, cask with `prior="nested", parent="batch"`: a cask's effect is its
      batch's plus its own deviation.

    Both contain the exact posterior of a linear model. For crossed levels give the smaller one
    `posterior="joint"` and the larger `given=` the smaller. A linear gaussian model of which no
    latent says `posterior` or `given` has the exact law over all levels, whatever crosses.
    """

    level: str
    """Group level, by its name in the data (writer, character, Subject)."""
    stage: str | None = None
    """Stage where it enters (with `placement`)."""
    placement: str | None = None
    """How it enters (with `stage`)."""
    width: int | None = Field(None, gt=0)
    """Latent dimensions; None takes the stage's own width where the placement fixes it."""
    rank: int | None = Field(None, gt=0)
    """Rank of a `basis` (with `stage`); None takes the width."""
    columns: tuple[str, ...] = ()
    """Input columns whose weights deviate (with `stage` and `weights`); none given = all."""
    posterior: str | None = None
    """Family of q(z): a file of hlvnn/latents/posteriors. None takes the exact law where it can be
    had (linear backbone, gaussian likelihood, all latents at the output without loadings, priors
    learned, learned_full or nested, see README); elsewhere full_rank for slopes under a
    learned_full prior, whose correlations mean_field cannot follow, and mean_field."""
    prior: str | None = None
    """Prior p(z): a file of hlvnn/latents/priors; None takes learned, and standard for a point."""
    parent: str | None = None
    """With prior `nested`: the level (or latent, as `LEVEL PLACE`) whose z is the prior's mean."""
    given: str | None = None
    """Level (or latent) on whose draw q depends, linearly; None = the parent if there is one;
    `none` = independent."""
    posterior_rank: int | None = Field(None, gt=0)
    """Rank of the posterior `low_rank`; None takes 1."""
    components: int | None = Field(None, gt=1)
    """Components of the posterior `mixture`; None takes 2."""
    context: int | None = Field(None, gt=0)
    """Rows of its own group that the posterior `amortised` reads; None takes 50."""
    centred: bool = True
    """Whether q describes z itself. If not, q describes ε with z = L ε and prior covariance L Lᵀ,
    which suits learned priors that are nearly singular."""
    entries: tuple[EntryConfig, ...] = ()
    """Several places for the same vector."""

    @field_validator("placement")
    @classmethod
    def _known_placement(cls, name: str | None) -> str | None:
        return known_member("latents.placements", "placement", name)

    @field_validator("posterior")
    @classmethod
    def _known_posterior(cls, name: str | None) -> str | None:
        return known_member("latents.posteriors", "posterior", name)

    @field_validator("prior")
    @classmethod
    def _known_prior(cls, name: str | None) -> str | None:
        return known_member("latents.priors", "prior", name)

    @model_validator(mode="after")
    def _one_way_of_saying_where(self) -> Self:
        one_place = self.stage is not None and self.placement is not None
        partial = (self.stage is None) != (self.placement is None)
        if partial or (one_place and self.entries):
            raise ValueError("a latent needs a stage and a placement, or entries, and not both")
        if not one_place and (self.rank is not None or self.columns):
            raise ValueError("rank and columns belong to a stage and placement, or to an entry")
        if not self.places and self.width is None:
            raise ValueError(
                "a latent needs a stage and a placement, or entries; one that is only the parent "
                "of another needs a width"
            )
        return self

    @model_validator(mode="after")
    def _nested_has_a_parent(self) -> Self:
        if (self.prior == "nested") != (self.parent is not None):
            raise ValueError(
                "prior nested and parent belong together: prior=nested parent=LEVEL, "
                f"got prior {self.prior} and parent {self.parent}"
            )
        if self.parent is not None and self.given not in (None, self.parent, INDEPENDENT):
            raise ValueError(
                f"given ({self.given}): a nested latent can depend on its parent ({self.parent}) "
                "or on nothing (none)"
            )
        return self

    @property
    def conditioner(self) -> str | None:
        """The level or latent on whose draw q depends, None for an independent posterior."""
        return None if self.given == INDEPENDENT else self.given or self.parent

    @property
    def places(self) -> tuple[EntryConfig, ...]:
        """The places where the latent enters, however they were written."""
        if self.stage is not None and self.placement is not None:
            return (
                EntryConfig(
                    stage=self.stage,
                    placement=self.placement,
                    rank=self.rank,
                    columns=self.columns,
                ),
            )
        return self.entries

    @classmethod
    def from_text(cls, text: str) -> LatentConfig:
        """Read places joined by `+`, then KEY=VALUE for the other settings; see `LATENT_FORM`.

        `-` in place of the places is a latent that enters nowhere itself. Raises `ConfigError` when
        the text does not have that form.
        """
        words = shlex.split(text)
        try:
            first = words[0] if words else ""
            places = [] if first == NOWHERE else first.split("+")
            entries = [_entry(place) for place in places]
        except errors.ConfigError as error:
            raise errors.ConfigError(f"latent {text!r}: {error}; form: {LATENT_FORM}") from None
        settings: dict[str, Any] = dict(entries[0]) if len(entries) == 1 else {"entries": entries}
        for word in words[1:]:
            key, equals, value = word.partition("=")
            if not equals:
                raise errors.ConfigError(
                    f"latent {text!r}: {word!r} is not KEY=VALUE; form: {LATENT_FORM}"
                )
            settings[key] = value
        return validated(cls, settings, f"latent {text!r}")
