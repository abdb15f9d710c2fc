"""The family of placements, one file each: how a latent enters a stage."""
