"""Latents: what they are, their laws, and how they enter the network."""
