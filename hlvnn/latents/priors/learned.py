"""The normal prior with a learned variance per dimension."""

from hlvnn.latents.priors._variances import LearnedVariances


class Learned(LearnedVariances):
    """p(z) = N(0, diag(τ²)), τ learned by empirical Bayes (maximum of the ELBO).

    The mean stays 0: a mean would repeat the backbone's own bias.
    """
