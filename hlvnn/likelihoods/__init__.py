"""The family of likelihoods p(y | η), one file each."""
