"""The family of backbones, one file each: the network without latents."""
