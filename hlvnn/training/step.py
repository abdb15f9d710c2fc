"""One step of `fit`: a batch's loss, its gradients, and what the optimisers make of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hlvnn.config import TrainConfig
from hlvnn.data.augment import jittered
from hlvnn.data.batches import Batch
from hlvnn.inference.objective import BatchLoss, batch_loss, parts_loss
from hlvnn.latents.latent import Latent
from hlvnn.marks import AUGMENTATION, BACKWARD, GROUPS, LOSS, NORMS, OPTIMISER, marking
from hlvnn.models.model import HierarchicalModel
from hlvnn.optim import AdamW, RowwiseAdam, clip_gradients, lr_factor
from hlvnn.training.bound import Bound
from hlvnn.training.group_steps import GroupSteps
from hlvnn.training.norms import Norms
from hlvnn.training.pace import Pace, pace

TABLE_LR = 10.0
"""Learning rate, as a multiple of the network's, of posteriors that know no natural step, with
minibatches (a group is in few of them)."""


LEAST_WAIT = 60
"""Steps that latents which start small wait, at least, or half of the fit. Before a network has
learned something the loss hardly bends in z: noise seems to cost nothing, and slows learning."""
LATE = 0.9
"""Where on their way the schedules stand still in a run that is trained longer: a cosine's learning
rate is there 2.4 % of its largest."""


def least_rows(model: nn.Module) -> int:
    """Return how many rows a batch has to have: batch normalisation compares two or more."""
    normed = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
    return 2 if normed else 1


class Step:
    """The parameters' moves: optimisers, schedules, and what is held when.

    bound: what is maximised in the ELBO's place, if anything. per_epoch: steps of an epoch.
    turns_at: epochs after which others follow, if not 0 (see `turning`). table_lr: see `TABLE_LR`.
    """

    def __init__(
        self,
        model: HierarchicalModel,
        config: TrainConfig,
        bound: Bound | None,
        per_epoch: int,
        turns_at: int = 0,
        table_lr: float = TABLE_LR,
    ) -> None:
        self.table_lr = 1.0 if per_epoch == 1 else table_lr
        self.model, self.config, self.bound, self.per_epoch = model, config, bound, per_epoch
        self.total = config.num_epochs * per_epoch
        self.ended_at = config.ended_at * per_epoch  # where the run was to end at first
        self.warm_steps = config.prior_warmup * (self.ended_at or self.total)
        self.turns_at = turns_at * per_epoch
        own_total = self.turns_at or self.ended_at or self.total
        is_bound = bound is not None
        self.own = GroupSteps(model, per_epoch, self.warm_steps, own_total, bound=is_bound)
        if self.own.waiting:
            self.warm_steps = max(self.warm_steps, min(LEAST_WAIT, own_total / 2))
        others = [x for x in model.latents if not any(x is one for one in self.own.natural)]
        self.tables = [table for latent in others for table in latent.tables()]
        self.all_tables = [table for latent in model.latents for table in latent.tables()]
        self.others = others
        priors = [p for latent in model.latents for p in latent.prior.parameters()]
        own = {id(p) for p in self.own.parameters}
        learned = priors + list(model.likelihood.parameters())
        self.learned = [p for p in learned if id(p) not in own]
        read = [latent.posterior for latent in model.latents if latent.posterior.reads_rows]
        self.encoders = [p for q in read for p in q.parameters() if p.requires_grad]
        self.optimizers = self._optimizers()
        self.groups = [group for opt in self.optimizers for group in opt.param_groups]
        self.base_lrs = [group["lr"] for group in self.groups]
        self.norms = Norms(model) if config.grad_norms else None

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        lr = self.config.lr
        tables = {id(p) for p in [*self.tables, *self.own.parameters]}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.dense = [p for p in trained if id(p) not in tables]
        learned = {id(p) for p in self.learned}
        matrices = [p for p in self.dense if p.dim() >= 2 and id(p) not in learned]
        others = [p for p in self.dense if p.dim() < 2 or id(p) in learned]
        decay = self.config.weight_decay
        groups = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        if not decay:  # a second group costs 2 % of a small network's step
            groups = [{"params": matrices + others, "weight_decay": 0.0}]
        capturable = self.model.device.type == "cuda"
        optimizers: list[torch.optim.Optimizer] = [
            AdamW(groups, lr=lr, fused=True, capturable=capturable)
        ]
        if self.tables:
            table_groups = [
                {"params": latent.tables(), "lr": lr * self._table_lr(latent)}
                for latent in self.others
                if latent.tables()
            ]
            optimizers.append(RowwiseAdam(table_groups, lr=lr))
        return optimizers

    def _table_lr(self, latent: Latent) -> float:
        if not latent.posterior.random:
            return self.config.embedding_lr
        return self.table_lr

    def is_warming(self, number: int) -> bool:
        """Return whether learned priors are held at the fit's step `number` (from 0)."""
        return number < self.warm_steps

    def beta(self, number: int) -> float:
        """Return β at the fit's step `number` (from 0): a linear rise, then `kl_weight`."""
        annealing_steps = self.config.kl_annealing * self.per_epoch
        if annealing_steps == 0:
            return self.config.kl_weight
        return self.config.kl_weight * min(1.0, (number + 1) / annealing_steps)

    def progress(self, number: int) -> float:
        """Return how far the schedules are, 0..1, at the fit's step `number` (from 0).

        In a run that is trained longer they are as they were to its first end, and then stand still
        near theirs, or begin anew.
        """
        if number < (first := self.ended_at or self.total):
            return number / first
        if self.config.longer == "constant":
            return LATE
        return (number - self.ended_at) / (self.total - self.ended_at)

    def lr_factor(self, number: int) -> float:
        """Return the factor of all learning rates at the fit's step `number` (from 0)."""
        return lr_factor(self.config.lr_schedule, self.progress(number))

    def __call__(self, batch: Batch, number: int) -> tuple[Tensor, list[Tensor]]:
        """Do the fit's step `number` (from 0) as `move` does, at its learning rates and β."""
        factor = self.lr_factor(number)
        for group, lr in zip(self.groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor
        self.start_if_due(number)
        return self.move(batch, self.beta(number), self.is_warming(number), self.pace(number))

    def pace(self, number: int) -> Pace:
        """Return how far groups, priors and the noise go at the fit's step `number` (from 0)."""
        done = number / self.per_epoch
        first = number < (self.ended_at or self.total)
        progress = number / self.turns_at if self.turns_at else self.progress(number)
        return pace(progress, done, self.own.passes, held=first)

    def start_if_due(self, number: int) -> None:
        """Let the latents begin that have waited, when it is the fit's step `number` (from 0)."""
        if self.own.waiting and not self.is_warming(number):
            self.own.start()

    def move(
        self, batch: Batch, beta: float | Tensor, warming: bool, paced: Pace
    ) -> tuple[Tensor, list[Tensor]]:
        """Move the parameters once.

        Returns the loss and means over rows: nll, each latent's KL_g / n_g and the bound's gap, if
        there is a bound. On a CPU a loss that is not finite moves nothing.
        """
        config = self.config
        if config.augment:
            with marking(AUGMENTATION):
                batch = batch._replace(x=jittered(batch.x, config.augment))
        with marking(GROUPS):
            self.own.watch(batch.groups)
        with marking(LOSS):
            loss = self._loss(batch, beta)
        means = [loss.nll, *loss.kl] + ([] if loss.gap is None else [loss.gap])
        told = loss.loss.detach(), [mean.detach() for mean in means]
        on_cpu = told[0].device.type == "cpu"
        if on_cpu and not config.debug and not math.isfinite(float(told[0])):
            return told  # the parameters stay as they made it, to be looked at
        with marking(OPTIMISER):
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        with marking(BACKWARD):
            loss.loss.backward()
        if self.encoders:
            self._teach_encoders(batch, beta)
        for parameter in self.learned if warming else ():
            parameter.grad = None
        if self.norms is not None:
            with marking(NORMS):
                self.norms.begin()
        with marking(OPTIMISER):
            if config.clip_grad is not None:
                clip_gradients(self.dense, config.clip_grad)
            for optimizer in self.optimizers:
                optimizer.step()
        if self.norms is not None:
            with marking(NORMS):
                self.norms.end()
        with marking(GROUPS):
            self.own.move(float(len(batch.y)), beta, paced, warming=warming)
        return told

    def _teach_encoders(self, batch: Batch, beta: float | Tensor) -> None:
        """Add the gradients of what encoders alone learn from: random parts of groups."""
        # lent for dropout too: a pass of this model alone
        with self.model.latents.source.lending(), marking(LOSS):
            parts = parts_loss(self.model, batch, beta, self.config.num_samples)
        with marking(BACKWARD):
            parts.loss.backward(inputs=self.encoders)

    def _loss(self, batch: Batch, beta: float | Tensor) -> BatchLoss:
        if self.bound is not None:
            return self.bound.loss(self.model, batch, self.config.num_samples)
        return batch_loss(self.model, batch, beta, self.config.num_samples)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the optimisers' state."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        for group in (group for state in states for group in state["param_groups"]):
            group["lr"] = float(group["lr"])  # a recorded step keeps it on the device
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take over the optimisers' state; learning rates, weight decay and the like stay."""
        for optimizer, saved in zip(self.optimizers, states, strict=True):
            now = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict(saved | {"param_groups": now})
        self.groups = [group for opt in self.optimizers for group in opt.param_groups]
