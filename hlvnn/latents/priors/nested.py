"""The prior whose mean is the latent of the group above."""

from hlvnn.latents.priors._variances import LearnedVariances


class Nested(LearnedVariances):
    """p(z_c | z_p) = N(z_p, diag(τ²)): a character's z lies around its play's, τ learned.

    Called, it returns the law of the deviation z_c − z_p. The parent's z is a latent of its own,
    with its own prior; `LatentSet` puts the two together.
    """

    nested = True
