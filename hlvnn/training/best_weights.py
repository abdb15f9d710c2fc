"""The weights of a fit's chosen epoch, kept while it goes on and put back when it ends."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from hlvnn.models.model import HierarchicalModel
from hlvnn.training.epoch_report import Checkpoint

logger = logging.getLogger("hlvnn")

BEST_WEIGHTS = "best_weights"
"""Entry of a checkpoint: the weights of the chosen epoch, where a fit ends with them."""


class BestWeights:
    """Keeps the weights of the chosen epoch, if that is wanted, on the CPU."""

    def __init__(self, model: HierarchicalModel, wanted: bool) -> None:
        self.model, self.wanted = model, wanted
        self.best: dict[str, Tensor] | None = None
        self.last: dict[str, Any] | None = None

    def keep(self) -> None:
        """Keep the weights as they are: their epoch is the chosen one."""
        if self.wanted:
            self.best = self._copied()

    def put_back(self, chosen: dict[str, float] | None, epoch: int, by: str) -> None:
        """Give the model the weights of the chosen epoch, and say so.

        epoch: the last; by: the metric that chose.
        """
        if not self.wanted or chosen is None or int(chosen["epoch"]) == epoch:
            return
        if self.best is None:
            logger.warning(
                "the weights are of the last epoch, %d: the chosen one, %d (%s %.4g), came before "
                "the checkpoint that the fit went on from, which does not hold it",
                *(epoch, int(chosen["epoch"]), by, chosen[by]),
            )
            return
        self.last = self._copied()
        self.model.load_state_dict(self.best)
        self.model.latents.refresh()
        logger.info(
            "the weights are of epoch %d, the chosen one (%s %.4g), not of the last, %d; "
            "best_weights=False keeps the last",
            *(int(chosen["epoch"]), by, chosen[by], epoch),
        )

    def entries(self) -> Checkpoint:
        """Return a checkpoint's entries: the weights of the last epoch, and those kept."""
        last = self.model.state_dict() if self.last is None else self.last
        return {"model": last} | ({BEST_WEIGHTS: self.best} if self.best is not None else {})

    def take_up(self, checkpoint: Checkpoint, chosen: dict[str, float] | None) -> None:
        """Go on from a checkpoint, whose weights the model has."""
        if not self.wanted or chosen is None:
            return
        if int(chosen["epoch"]) == checkpoint["epoch"]:
            self.keep()
        else:
            self.best = checkpoint.get(BEST_WEIGHTS)

    def _copied(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
