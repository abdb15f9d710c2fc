"""The family of priors p(z), one file each."""
