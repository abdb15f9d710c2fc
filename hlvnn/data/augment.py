"""Random small affine maps of training images, against overfitting."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 0.06
"""At strength 1: largest move each way, as a share of the image's width …"""
ROTATE = 10.0
"""… largest turn, in degrees …"""
SCALE = 0.1
"""… largest change of the width, and of the height, as a share …"""
SHEAR = 0.15
"""… and largest slope of what was upright."""


def jittered(x: Tensor, strength: float) -> Tensor:
    """Return each image moved, turned, scaled and sheared at random, anew at each call.

    x: [B, H, W] or [B, C, H, W], bytes (returned as floats, 0..1) or floats. Each amount is uniform
    between minus and plus `strength` times the constants above. What comes in at the border is 0.
    Uses torch's own random stream.
    """
    images = x.unsqueeze(1) if x.dim() == 3 else x
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    rows, _, height, width = images.shape

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(rows, device=x.device) - 1) * limit

    angle, slope = uniform(strength * math.radians(ROTATE)), uniform(strength * SHEAR)
    wide, high = 1 + uniform(strength * SCALE), 1 + uniform(strength * SCALE)
    cos, sin = torch.cos(angle), torch.sin(angle)
    # where in the image each pixel of the result comes from, in units of half its size
    across = torch.stack([cos / wide, (slope - sin) / wide * height / width], dim=1)
    down = torch.stack([sin / high * width / height, cos / high], dim=1)
    move = torch.stack([uniform(2 * strength * SHIFT), uniform(2 * strength * SHIFT)], dim=1)
    theta = torch.cat([torch.stack([across, down], dim=1), move.unsqueeze(-1)], dim=-1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    out = F.grid_sample(images, grid, align_corners=False)
    return out.squeeze(1) if x.dim() == 3 else out
