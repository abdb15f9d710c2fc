"""A latent: one random vector per group of one level, its law, and where it enters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.latents.placements.base import Placement
from hlvnn.latents.posteriors.base import LevelPosterior, Posterior
from hlvnn.latents.priors.base import Prior
from hlvnn.latents.table import table_rows
from hlvnn.stages import OUTPUT

SIGNAL_TO_NOISE = 0.5
"""τ²/σ² at which the first dependence on a conditioner is the exact one: learned SDs start so."""
SMALLEST = 1e-12
"""Added to a mean square before a root, against dividing by 0."""


class Latent(nn.Module):
    """One random vector per group of one level: its law, and the placements where it enters.

    placements: one per stage, in the order of the configuration (none for a mere parent).
    parent, given: the latents whose z is the prior's mean, and on whose draw q depends; both come
    earlier in the set.

    A latent a that depends on another, b, has q(z_a | u) = N(m_a + Λ_a u, S_a), u = z_b − E z_b.
    `slopes` holds Λ: [G, Z·U] float, row by row, where u is the deviation of the one group of b in
    which a group of a lies (U = Z_b), or of all groups of b where q_b is a `LevelPosterior`
    (U = G_b·Z_b). `within`: [G] int64, that one group of b (of the parent, for a nested prior).

    centred: whether q describes z. If not it describes ε, with z = [parent's z +] L ε, L Lᵀ the
    prior's covariance, and ε ~ N(0, I) a priori (Papaspiliopoulos, Roberts and Sköld 2007).

    asked: whether anybody asked for this form of q; if not, an exact law may take its place.
    """

    within: Tensor
    prior_start: Tensor
    began_small: bool

    def __init__(
        self,
        name: str,
        level: int,
        posterior: Posterior,
        prior: Prior,
        placements: Sequence[Placement],
        *,
        parent: Latent | None = None,
        given: Latent | None = None,
        centred: bool = True,
        asked: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        self.level = level
        self.width = posterior.width
        self.posterior = posterior
        self.prior = prior
        self.placements = nn.ModuleList(placements)
        self.centred = centred
        self.asked = asked
        self.began_small = False  # whether a fit let it begin at next to nothing
        start = prior().stddev.detach().clone()
        self.register_buffer("prior_start", start, persistent=False)
        self.parent_name = parent.name if parent is not None else None
        self.given_name = given.name if given is not None else None
        whole_level = given is not None and isinstance(given.posterior, LevelPosterior)
        self.dense = whole_level and parent is None
        if given is not None:
            reach = given.width * (given.posterior.num_groups if self.dense else 1)
            self.slopes: nn.Parameter | None = nn.Parameter(
                torch.zeros(posterior.num_groups, self.width * reach)
            )
        else:
            self.slopes = None
        self.register_buffer("within", torch.zeros(posterior.num_groups, dtype=torch.int64))
        if self.is_normalised:
            self._hold_lone_loading()

    def _hold_lone_loading(self) -> None:
        """Leave a dimension's only loading as it is: its size is the prior's, its gradient noise.

        Adam turns such noise into steps of full size, until the loading passes 0 and z its sign.
        """
        loadings = [matrix for entry in self.entries() for matrix in entry.loadings()]
        if sum(len(matrix) for matrix in loadings) == 1:
            for matrix in loadings:
                matrix.requires_grad_(False)

    @property
    def is_within_another(self) -> bool:
        """Whether each group must lie in one group of another latent."""
        return self.parent_name is not None or (self.slopes is not None and not self.dense)

    @property
    def is_drawn_by_noise(self) -> bool:
        """Whether all that is drawn of it is a function of standard normal noise, or not random.

        Else torch's own stream is lent for its draws (see `hlvnn.random.Noise`).
        """
        q = self.posterior
        return not q.random or (q.normal and self.prior.normal)

    def entries(self) -> Iterator[Placement]:
        """Yield the placements with their type."""
        for placement in self.placements:
            assert isinstance(placement, Placement)
            yield placement

    @property
    def starts_small(self) -> bool:
        """Whether it begins at next to nothing.

        Not where it enters the output alone and without trained loadings: there a small start is a
        plateau, and a large one no noise that the network has to train under.
        """
        places = list(self.entries())
        return any(place.stage.name != OUTPUT or place.loadings() for place in places)

    @property
    def is_normalised(self) -> bool:
        """Whether z is measured by its effect (see `scaled`), having no scale of its own."""
        loadings = [entry.loadings() for entry in self.entries()]
        return self.prior.learned and bool(loadings) and all(loadings)

    def scaled(self, z: Tensor) -> Tensor:
        """Return z [*, Z] as it enters the network.

        Where the prior's SDs are learned and every entry has trained loadings, the ELBO knows only
        their product: an SD could double while its loadings halve, and mean nothing. There each
        dimension is divided by the root mean square of its loadings over all entries, so that its
        prior SD is the size of its effect on a pre-activation (as a share of it for `film`'s scale;
        along a direction for `basis`). Dimensions may still be rotated into each other.
        """
        if not self.is_normalised:
            return z
        columns = torch.cat([matrix for entry in self.entries() for matrix in entry.loadings()])
        return z * (columns.square().mean(0) + SMALLEST).rsqrt()

    def in_output_bias(self) -> Tensor | None:
        """Return M [out, Z]: z enters the output's pre-activation as if its bias gained M z.

        Columns of coordinates that do more than that are 0. None: it enters elsewhere too.
        """
        parts = [entry.constant() for entry in self.entries() if entry.stage.name == OUTPUT]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(self.placements):
            return None
        return torch.stack([self.scaled(part) for part in known]).sum(0)

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with one row per group, which get sparse gradients."""
        tables = self.posterior.tables()
        return tables if self.slopes is None else [*tables, self.slopes]

    def dependence(self, group: Tensor) -> Tensor:
        """Return Λ of the groups [U]: [U, Z, reach]."""
        assert self.slopes is not None
        rows = table_rows(self.slopes, group)
        return rows.unflatten(-1, (self.width, -1))

    @torch.no_grad()
    def grow(self, number: int, given: Latent | None) -> None:
        """Add `number` groups after the others, each at its own prior's mean 0 and SD.

        given: the latent on whose draw q depends; it has grown already.
        """
        sd = self.prior().stddev if self.centred else torch.ones(self.width)
        self.posterior.grow(number, sd)
        self.within = F.pad(self.within, (0, number))
        if self.slopes is None:
            return
        assert given is not None
        reach = given.width * (given.posterior.num_groups if self.dense else 1)
        slopes = self.slopes.unflatten(1, (self.width, -1))
        more = (0, reach - slopes.shape[-1], 0, 0, 0, number)
        self.slopes = nn.Parameter(F.pad(slopes, more).flatten(1))

    @torch.no_grad()
    def start_dependence(self, given: Latent, meetings: Tensor, fresh: Tensor) -> None:
        """Start Λ where the data of two effects that add up at the same stages would have it.

        meetings: [U, G_b] float, training rows of the groups of a that are `fresh` ([G] bool) in
        each group of b. For a nested prior Λ starts at I: a group follows its parent.
        """
        assert self.slopes is not None
        same = given.width == self.width
        if self.parent_name is not None:
            eye = torch.eye(self.width) if self.centred else torch.zeros(self.width, self.width)
            self.slopes[fresh] = eye.flatten().to(self.slopes)
        elif same and self._places() == given._places():
            rows = meetings.sum(1, keepdim=True)
            share = -meetings / (rows + 1 / SIGNAL_TO_NOISE)  # [G, G_b]
            if not self.dense:
                share = share.sum(1, keepdim=True)
            eye = torch.eye(self.width, device=share.device)
            start = share[:, None, :, None] * eye[None, :, None, :]  # [G, Z, reach, Z]
            if not self.centred:
                start = start / self.prior().stddev[None, :, None, None]
            self.slopes[fresh] = start.flatten(1)

    def _places(self) -> list[tuple[str, str]]:
        """Return where the latent enters without a matrix of its own (bias, weights)."""
        entries = list(self.entries())
        if any(list(entry.parameters()) for entry in entries):
            return [("", self.name)]
        return [(type(entry).__name__, entry.stage.name) for entry in entries]
