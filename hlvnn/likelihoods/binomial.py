"""Successes out of trials."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor
from torch.distributions import Bernoulli

from hlvnn.likelihoods._quadrature import GaussHermite
from hlvnn.likelihoods.base import Likelihood


class Binomial(Likelihood):
    """y ~ Binomial(n, sigmoid η), one output (the log odds of success).

    y: [B, 2] float64, successes and trials n. As a law, and in predictions, it is that of one
    trial: its mean is the probability of success, to be compared with the observed proportion.
    """

    target = "real"
    closed_form = True
    counts_trials = True

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__(num_classes)
        self.num_outputs = 1
        self.expectation = GaussHermite()

    def start(self, y: Tensor) -> Tensor:
        """Return the log odds of success, with half a success and half a failure more."""
        successes, trials = y.double().sum(0)
        return ((successes + 0.5) / (trials - successes + 0.5)).log()[None]

    def response(self, y: Tensor) -> Tensor:
        return y[:, 0] / y[:, 1]

    def forward(self, eta: Tensor) -> Bernoulli:
        return Bernoulli(logits=eta.squeeze(-1).double(), validate_args=False)

    def log_prob(self, eta: Tensor, y: Tensor) -> Tensor:
        log_odds = eta.squeeze(-1).double()  # large terms cancel: float64
        successes, trials = y.unbind(-1)
        failures = trials - successes
        ways = torch.lgamma(trials + 1) - torch.lgamma(successes + 1) - torch.lgamma(failures + 1)
        log_prob = successes * F.logsigmoid(log_odds) + failures * F.logsigmoid(-log_odds)
        return (ways + log_prob).to(eta.dtype)

    def cumulative(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        successes, trials = y.double().unbind(-1)
        p: Tensor = self(eta).probs
        return _up_to(successes - 1, trials, p), _up_to(successes, trials, p)

    def expected_log_prob(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        expected: Tensor = self.expectation(lambda eta: self.log_prob(eta, y), mean, variance)
        return expected


def _up_to(k: Tensor, n: Tensor, p: Tensor) -> Tensor:
    """Return P(Y ≤ k) of a Binomial(n, p), by the incomplete beta function, which torch lacks."""
    known = [np.asarray(part.detach().cpu()) for part in (k.clamp(min=0) + 1, (n - k).clamp(1), p)]
    inside = torch.from_numpy(special.betaincc(*known)).to(p)
    return torch.where(k < 0, 0.0, torch.where(k >= n, 1.0, inside))
