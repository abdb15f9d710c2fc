"""Text written by a model of characters, as the z of a group has it.

    python -m hlvnn.analysis generate RUN --group HAMLET --length 300

Several texts are written side by side, their z on the line from one end to the other:

- from somebody of the same play, never seen (the group's own latents at their prior's mean, those
  of the levels above as they are), to the group itself;
- with --towards, from the group to another one.

All texts go on from the same passage with the same random numbers, so that they differ by z alone.

Each character is drawn from what the model says of the window before it, read from its own start
as in training. (Carrying the network's state on would be quicker, and another model.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from hlvnn.models.model import HierarchicalModel

logger = logging.getLogger("hlvnn")

WIDTH = 96
"""Columns of the text printed."""


@torch.no_grad()
def write(
    model: HierarchicalModel,
    z: Sequence[Tensor],
    prompt: Tensor,
    length: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Return the tokens that follow a passage, [R, length] int64, for R values of z at once.

    z: [R, Z] per latent. prompt: [P] int, P ≥ 1, of which the last window's worth counts.
    temperature: below 1 the likelier characters become likelier still, 0 takes the likeliest. All
    R texts use the same random numbers, those of `seed`.
    """
    texts = len(z[0]) if len(z) else 1
    draws = [part.unsqueeze(0) for part in z]  # [1, R, Z]
    uniform = torch.rand(length, generator=torch.Generator().manual_seed(seed))
    window = model.schema.x_shape[0]
    written = prompt.to(model.device).long().expand(texts, -1)
    for number in uniform.to(model.device):
        probabilities = model.likelihood.probabilities(model(written[:, -window:], draws))
        token = _choose(probabilities[0], temperature, number)
        written = torch.cat([written, token.unsqueeze(1)], dim=1)
    return written[:, len(prompt) :].cpu()


def _choose(probabilities: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Return a class for each row of probabilities [R, K] by one uniform number for all: [R]."""
    if temperature == 0:
        return probabilities.argmax(-1)
    sharpened = torch.softmax(probabilities.double().log() / temperature, dim=-1)
    total = sharpened.cumsum(-1)
    return (total < uniform.double()).sum(-1).clamp(max=total.shape[-1] - 1)


def between(start: Sequence[Tensor], end: Sequence[Tensor], steps: int) -> list[Tensor]:
    """Return every latent at `steps` points of the line from start to end, [steps, Z] each."""
    share = torch.linspace(0, 1, steps).unsqueeze(1).to(start[0].device)
    return [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]
