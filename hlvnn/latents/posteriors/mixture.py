"""Mixture-of-normals posterior, for groups whose rows allow several different explanations."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from hlvnn.latents.covariance import Within, diagonal
from hlvnn.latents.divergence import kl_of_diagonal
from hlvnn.latents.posteriors.base import LARGEST, Posterior, Sight

BETWEEN = 0.8
"""Share of the first variance that lies between the components: equal ones would stay equal.

Two that lie close may settle on one mode: of two modes 1.5 prior SDs either side of 0 some groups
found both from a share of 0.5, and all from 0.8. Where there is one mode it makes no difference.
"""
DRAWS = 8
"""Draws from each component for the part of the KL that has no closed form."""
STEP_DRAWS = 16
"""The same in a natural step, for each group once."""
MOST_SHARED = 0.75
"""Largest share of the spread that components, where they overlap, leave to their distances."""
LARGEST_LOG = 1.0
"""Largest move of a weight's log at once."""
LEAST_LOG = -10.0
"""Least log of a weight: a component without weight would have no gradient to come back by."""


class Mixture(Posterior):
    """q(z_g) = Σ_k w_gk N(m_gk, diag(s_gk²)), K components.

    Draws have no gradient of their own (which component?). The ELBO takes E_q f as
    Σ_k w_k E_{q_k} f instead, with draws from every component: see `stratified`, and
    Roeder, Wu and Duvenaud (2017).

    A component's natural gradient is its own over w_k (Lin, Khan and Schmidt 2019), and that of
    the log of a weight the gradient in w_k. All s_k are as wide as the precision has it that the
    data give on average over q.

    Parameters of a group: the weights' logits [K], m [K·Z], log s [K·Z], component by component.
    """

    normal = False
    natural = True
    recordable = False
    options = ("components",)

    def __init__(self, num_groups: int, width: int, scale: Tensor, *, components: int = 2) -> None:
        self.components = components
        super().__init__(num_groups, width, scale)
        self.strata = components

    @staticmethod
    def num_parameters(width: int, components: int = 2) -> int:
        return components * (1 + 2 * width)

    def start(self, width: int, scale: Tensor) -> Tensor:
        number = self.components
        row, column = torch.arange(1.0, number + 1), torch.arange(1.0, width + 1)
        pattern = torch.cos(torch.outer(row, column).double())
        pattern = pattern - pattern.mean(0)
        pattern = pattern / pattern.square().mean(0).sqrt()  # mean 0 and variance 1 over components
        means = BETWEEN**0.5 * scale * pattern.to(scale.dtype)
        sds = ((1 - BETWEEN) ** 0.5 * scale).expand(number, width)
        return torch.cat([torch.zeros(number), means.flatten(), sds.log().flatten()])

    def law(self, parameters: Tensor) -> Distribution:
        k, z = self.components, self.width
        logits, means, log_sds = parameters.split([k, k * z, k * z], dim=-1)
        normals = Normal(
            means.unflatten(-1, (k, z)), log_sds.unflatten(-1, (k, z)).exp(), validate_args=False
        )
        return MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Independent(normals, 1, validate_args=False),
            validate_args=False,
        )

    def stratified(self, law: Distribution, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Draw `num_samples` times from every component, see `Posterior.stratified`.

        Components draw in pairs on either side of their means: where they overlap, what is linear
        in z comes without noise (antithetic variates).
        """
        assert isinstance(law, MixtureSameFamily)
        parts = law.component_distribution
        half = (self.components + 1) // 2
        mean, sd = parts.mean.movedim(1, 0), parts.stddev.movedim(1, 0)  # [K, B, Z]
        noise = torch.randn_like(mean[:half].expand(num_samples, -1, -1, -1))
        noise = torch.cat([noise, -noise], dim=1)[:, : self.components]
        weights = law.mixture_distribution.probs.mT / num_samples  # [K, B]
        return (mean + sd * noise).flatten(0, 1), weights.repeat(num_samples, 1)

    def kl(self, q: Distribution, p: Distribution) -> Tensor:
        """Return Σ_k w_k (KL(q_k ‖ p) + E_{q_k}[log q − log q_k]), the second part by draws.

        That part is minus the information between z and its component: from −log K, and then
        without noise, where the components lie apart, to 0 where they are the same. It takes
        DRAWS · K² · Z numbers per row. Natural steps take its gradient themselves. p: batch shape
        [].
        """
        assert isinstance(q, MixtureSameFamily)
        parts = q.component_distribution
        weights = q.mixture_distribution.probs  # [B, K]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_stepped):
            shared = _shared(q, DRAWS)
        return (weights * kl_of_diagonal(parts, p)).sum(-1) + shared

    def natural_step(
        self, rows: Tensor, gradient: Tensor, sight: Sight, factor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the steps −S ∇ / w_k and the other parameters, see `Posterior.natural_step`.

        S is that of the rows seen so far. Components that overlap are narrower by what their
        distances leave to them, and their weights, of which the law then hardly depends, stay.
        """
        assert sight.curvature is not None  # a mixture's loss has no closed form
        log_weights = self._parts(rows)[0].log_softmax(-1)
        weights = log_weights.exp()
        of_shared = self._of_shared(rows)
        prior, h = (diagonal(one, 1) for one in (sight.precision, sight.curvature))
        precision = prior + sight.rows * h / sight.weight
        variance = (1 / (sight.beta * prior + sight.seen * h)).unsqueeze(1)
        gradient = gradient + sight.beta * sight.share * of_shared
        of_logits, of_means, _ = self._parts(gradient)
        direction = variance * of_means / weights.unsqueeze(-1)
        most = LARGEST * variance.sqrt()
        steps = torch.maximum(torch.minimum(factor * direction, most), -most)
        of_weights = factor * self._apart(rows) * of_logits / weights / sight.weight
        log_weights = log_weights - of_weights.clamp(-LARGEST_LOG, LARGEST_LOG)
        log_weights = log_weights.log_softmax(-1).clamp(min=LEAST_LOG)
        shared = self._parts(of_shared)[2].sum(1).clamp(min=0, max=MOST_SHARED)
        log_sd = 0.5 * (torch.log1p(-shared) - precision.log())
        return -steps.flatten(1), torch.cat([log_weights, log_sd.repeat(1, self.components)], -1)

    def _of_shared(self, rows: Tensor) -> Tensor:
        """Return the gradient [U, P] of the part of the KL that has no closed form."""
        with torch.enable_grad():
            leaf = rows.detach().clone().requires_grad_()
            law = self.law(leaf)
            assert isinstance(law, MixtureSameFamily)
            (gradient,) = torch.autograd.grad(_shared(law, STEP_DRAWS, alike=True).sum(), leaf)
        return gradient

    def _apart(self, rows: Tensor) -> Tensor:
        """Return how far components are modes of their own, from 0 to 1: [U, 1].

        Two equal ones make two modes from a distance of two SDs on.
        """
        covariance = self.covariance(rows)
        ratio = (covariance.between.square().sum(1) / covariance.values).sum(-1, keepdim=True)
        return (ratio - 1).clamp(0, 1)

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [*, K], means and log SDs [*, K, Z]."""
        k, z = self.components, self.width
        logits, means, log_sds = rows.split([k, k * z, k * z], dim=-1)
        return logits, means.unflatten(-1, (k, z)), log_sds.unflatten(-1, (k, z))

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        k, kz = self.components, self.components * self.width
        others = torch.cat([rows[..., :k], rows[..., k + kz :]], dim=-1)
        return rows[..., k : k + kz], others

    def joined(self, means: Tensor, others: Tensor) -> Tensor:
        k = self.components
        return torch.cat([others[..., :k], means, others[..., k:]], dim=-1)

    def on_average(self, rows: Tensor, means: Tensor) -> Tensor:
        weights = rows[..., : self.components].softmax(-1).unsqueeze(-1)
        return (weights * means.unflatten(-1, (self.components, self.width))).sum(-2)

    def of_mean(self, gradient: Tensor) -> Tensor:
        return self._parts(gradient)[1].sum(-2)

    def scores(
        self, rows: Tensor, gradient: Tensor, pull: Callable[[Tensor], Tensor], *, of_draws: bool
    ) -> Tensor:
        """Return the gradients in m_k over w_k, times √(K w_k), less what the prior has in them.

        Not `of_draws`, components that overlap have their mean's.
        """
        logits, means, _ = self._parts(rows)
        weights = logits.softmax(-1).mT.unsqueeze(-1)  # [K, B, 1]
        own = self._parts(gradient)[1].movedim(1, 0) / weights - pull(means.movedim(1, 0))
        if not of_draws:
            mean = (weights * own).sum(0)
            own = mean + self._apart(rows).sqrt() * (own - mean)
        return (own * (self.components * weights).sqrt()).flatten(0, 1)

    def is_fitted(self) -> bool:
        table = self.table.detach()
        mean = self.on_average(table, self.split(table)[0])
        return bool((mean.abs() > 1e-3 * self.covariance(table).variance().sqrt()).any())

    def covariance(self, rows: Tensor) -> Within:
        logits, means, log_sds = self._parts(rows)
        shares = logits.softmax(-1).unsqueeze(-1)
        apart = means - (shares * means).sum(1, keepdim=True)
        return Within((shares * (2 * log_sds).exp()).sum(1), shares.sqrt() * apart)

    def size_gradient(self, rows: Tensor, gradient: Tensor) -> Tensor:
        _, of_means, of_log_sds = self._parts(gradient)
        means = self._parts(rows)[1]
        mean = self.on_average(rows, means.flatten(-2)).unsqueeze(-2)
        return (of_log_sds + (means - mean) * of_means).sum(-2)

    def in_size(self, rows: Tensor, size: Tensor) -> Tensor:
        """Return the parameters with q's mean times size[:Z], and all about it times size[Z:]."""
        by_mean, by_sd = size.split(self.width)
        logits, means, log_sds = self._parts(rows)
        mean = self.on_average(rows, means.flatten(-2)).unsqueeze(-2)
        means = by_mean * mean + by_sd * (means - mean)
        return torch.cat([logits, means.flatten(-2), (log_sds + by_sd.log()).flatten(-2)], dim=-1)

    def factor(self, q: Distribution, group: Tensor) -> Tensor:
        """Return [√w_k diag(s_k), √w_k (m_k − m)] for all k: within the components and between."""
        assert isinstance(q, MixtureSameFamily)
        share = q.mixture_distribution.probs.sqrt()[..., None, None]  # [*, K, 1, 1]
        parts = q.component_distribution
        within = share * torch.diag_embed(parts.stddev)  # [*, K, Z, Z]
        between = share * (parts.mean - q.mean.unsqueeze(-2)).unsqueeze(-1)  # [*, K, Z, 1]
        return torch.cat([within, between], dim=-1).transpose(-3, -2).flatten(-2)


def _shared(q: MixtureSameFamily, draws: int, *, alike: bool = False) -> Tensor:
    """Return Σ_k w_k E_{q_k}[log q − log q_k] by draws of every component, [B].

    alike: by the same noise for all, in pairs on either side of a mean.
    """
    parts = q.component_distribution
    if alike:
        noise = torch.randn_like(parts.mean[:1].expand(draws // 2, -1, -1, -1))
        z = parts.mean + parts.stddev * torch.cat([noise, -noise])  # [S, B, K, Z]
    else:
        z = parts.rsample(torch.Size([draws]))
    log_q = q.log_prob(z.movedim(2, 1)).movedim(1, 2)  # [S, B, K]
    shared = (log_q - parts.log_prob(z)).mean(0)
    return (q.mixture_distribution.probs * shared).sum(-1)
