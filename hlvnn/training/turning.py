"""The first epochs of a fit that maximises a bound: by the ELBO, whose steps groups know.

On an importance-weighted bound posteriors, priors and the noise are left to Adam, which hardly
moves them from their start in a fit of usual length. Near the ELBO's maximum, which is below the
bound's, there is little left for it to do.
"""

from __future__ import annotations

import logging

from hlvnn.config import TrainConfig
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.bound import Bound
from hlvnn.training.group_steps import natural
from hlvnn.training.step import Step

logger = logging.getLogger("hlvnn")

EPOCHS = 5
"""Epochs of the ELBO, at most: enough for sizes to be found, and few where its maximum is far from
the bound's, as a variance of 0 is that q cannot follow."""


def first_steps(
    model: HierarchicalModel, config: TrainConfig, bound: Bound | None, per_epoch: int
) -> tuple[Step, int]:
    """Return the steps that a fit begins with, and after how many epochs the bound's follow.

    0 where none do: there is no bound, or no latent takes steps of its own.
    """
    epochs = 0
    if bound is not None and natural(model.latents, per_epoch):
        epochs = min(EPOCHS, (config.ended_at or config.num_epochs) // 2)
    return Step(model, config, None if epochs else bound, per_epoch, epochs), epochs


def told_of_turn(epochs: int) -> str:
    """Return what a fit says of its first epochs."""
    first = "epoch 1 maximises" if epochs == 1 else f"epochs 1 to {epochs} maximise"
    return (
        f"objective iwae: {first} the ELBO, on which groups take steps of their own; "
        f"the bound from epoch {epochs + 1} on"
    )


def turned(step: Step, bound: Bound) -> Step:
    """Return the bound's steps after the ELBO's; what Adam knew of a parameter it goes on with.

    Posteriors, which have found their place, move at the network's rate.
    """
    step.own.release()
    new = Step(step.model, step.config, bound, step.per_epoch, table_lr=1.0)
    known = {p: state for opt in step.optimizers for p, state in opt.state.items()}
    for optimizer in new.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in known:
                    optimizer.state[parameter] = known[parameter]
    return new
