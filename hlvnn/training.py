"""`fit`: the only training loop. It knows `report`, and neither Ray nor any folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from hlvnn.bound import Bound, check_bound
from hlvnn.config import TrainConfig
from hlvnn.data.augment import jittered
from hlvnn.data.batches import Batch, Batches
from hlvnn.data.grouped import GroupedDataset
from hlvnn.device import resolve_device
from hlvnn.errors import ConfigError
from hlvnn.gpu import GpuMeter
from hlvnn.latents.collapse import collapsed
from hlvnn.latents.latent import Latent
from hlvnn.model import HierarchicalModel
from hlvnn.objective import BatchLoss, Elbo, batch_loss, full_elbo, has_closed_form, parts_loss
from hlvnn.optim import RowwiseAdam, clip_gradients, lr_factor
from hlvnn.predict import evaluate
from hlvnn.random import seeded

logger = logging.getLogger("hlvnn")

Checkpoint = dict[str, Any]

LATENT_LR = 10.0
"""Default learning rate of the posteriors with minibatches, as a multiple of the network's."""
FREE_LATENT_LR = 5.0
"""The same without a prior, where nothing holds an embedding back from overfitting."""


@dataclass(frozen=True)
class EpochReport:
    """What an evaluated epoch tells: a row for `metrics.csv` and the per-group tables.

    groups: columns epoch, level, gid, split, n, acc, f1 (or mse), loss.
    """

    row: dict[str, float]
    groups: pd.DataFrame
    is_best: bool
    """Whether its validation loss (else training loss) is the lowest so far."""

    @property
    def epoch(self) -> int:
        return int(self.row["epoch"])

    @property
    def diverged(self) -> bool:
        return bool(self.row["diverged"])


Report = Callable[[EpochReport, Callable[[], Checkpoint]], None]


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    elbo: the full-data ELBO at β = 1 in y's units, exact (`elbo_error` = 0) or an estimate with its
    standard error; kl: Σ_g KL of each latent; history: a row per evaluated epoch.
    """

    elbo: float
    elbo_error: float
    kl: dict[str, float]
    epochs: int
    diverged: bool
    stopped_early: bool
    history: pd.DataFrame


@dataclass
class _State:
    """What a checkpoint keeps beside weights, optimisers and random streams."""

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    model: HierarchicalModel,
    data: GroupedDataset,
    config: TrainConfig,
    report: Report | None = None,
    resume: Checkpoint | None = None,
    *,
    seed: int = 0,
) -> FitResult:
    """Fit the model in place by maximising the ELBO, or the importance-weighted bound.

    report: called after each evaluated epoch with an `EpochReport` and a function that returns the
    checkpoint to save; it may raise to end the fit. resume: such a checkpoint; on the CPU the
    resumed fit ends bit for bit where an uninterrupted one ends. seed: order of rows, dropout and
    draws.

    Raises `ResourceError` for a device that is not there, `ConfigError` for what `check` refuses.
    """
    with ExitStack() as stack:
        device = resolve_device(config.device)
        stack.enter_context(seeded(seed, device))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(config.threads)
        if config.debug:
            stack.enter_context(torch.autograd.set_detect_anomaly(True))
            stack.callback(
                torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()
            )
            torch.use_deterministic_algorithms(True)
        return _Fit(model.to(device), data, config, device, seed).run(report, resume)


def check(model: HierarchicalModel, data: GroupedDataset, config: TrainConfig) -> None:
    """Raise `ConfigError` for settings that this model or these data do not allow."""
    if config.augment and data.schema.x_kind != "image":
        raise ConfigError(
            f"--augment {config.augment:g} moves images; the data are {data.schema.x_kind}; "
            "leave it out"
        )
    if config.objective == "iwae":
        check_bound(model)


class _Fit:
    """One run of the loop: the optimisers, the schedules and the state between epochs."""

    def __init__(
        self,
        model: HierarchicalModel,
        data: GroupedDataset,
        config: TrainConfig,
        device: torch.device,
        seed: int,
    ) -> None:
        check(model, data, config)
        self.model, self.data, self.config, self.device = model, data, config, device
        self.generator = torch.Generator().manual_seed(seed)
        self.bound = Bound.of(model, data.train) if config.objective == "iwae" else None
        self.batches = (
            Batches(data.train, config.batch_size, generator=self.generator, device=device)
            if self.bound is None
            else self.bound.batches(data.train, config.batch_size, self.generator, device)
        )
        self.total_steps = config.num_epochs * len(self.batches)
        self.state = _State()
        self.gpu = GpuMeter(device)
        self.tables = [table for latent in model.latents for table in latent.tables()]
        held = [p for latent in model.latents for p in latent.prior.parameters()]
        self.held = held + list(model.likelihood.parameters())
        self.closed = self._closed_form_priors()
        read = [x.posterior for x in model.latents if x.posterior.reads_rows]
        self.encoders = [p for q in read for p in q.parameters() if p.requires_grad]
        self.optimizers = self._optimizers()
        self.base_lrs = [[group["lr"] for group in opt.param_groups] for opt in self.optimizers]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        lr = self.config.lr
        tables = {id(table) for table in self.tables}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        dense = [p for p in trained if id(p) not in tables]
        held = {id(p) for p in self.held}
        matrices = [p for p in dense if p.dim() >= 2 and id(p) not in held]
        others = [p for p in dense if p.dim() < 2 or id(p) in held]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.dense = dense
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, fused=True)]
        if self.tables:
            table_groups = [
                {"params": latent.tables(), "lr": lr * self._latent_lr(latent)}
                for latent in self.model.latents
                if latent.tables()
            ]
            optimizers.append(RowwiseAdam(table_groups, lr=lr))
        return optimizers

    def _closed_form_priors(self) -> list[nn.Parameter]:
        """Return the parameters of the priors that `LatentSet.update_priors` sets."""
        if self.config.prior_updates == "gradient":
            return []
        chosen = [x for x in self.model.latents if x.centred and x.posterior.random]
        return [p for latent in chosen for p in latent.prior.parameters()]

    def _latent_lr(self, latent: Latent) -> float:
        if self.config.latent_lr is not None:
            return self.config.latent_lr
        if len(self.batches) == 1 or (self.bound is None and has_closed_form(self.model)):
            return 1.0
        return LATENT_LR if latent.prior.proper else FREE_LATENT_LR

    def run(self, report: Report | None, resume: Checkpoint | None) -> FitResult:
        if resume is not None:
            self._load(resume)
        model, config, state = self.model, self.config, self.state
        diverged, stopped = False, self._out_of_patience()
        since = time.perf_counter()  # of the epochs that the next row tells of
        while state.epoch < config.num_epochs and not diverged and not stopped:
            started = time.perf_counter()
            model.train()
            sums = self._epoch()
            state.epoch += 1
            train_seconds = time.perf_counter() - started
            if state.epoch % config.eval_every and state.epoch < config.num_epochs:
                continue
            row, groups = self._evaluate(sums)
            diverged = bool(row["diverged"])
            score = row.get("val_loss", row["train_loss"])
            is_best = score < state.best
            state.best = min(score, state.best)
            state.waited = 0 if is_best else state.waited + 1
            stopped = self._out_of_patience()
            row["seconds"] = time.perf_counter() - since
            row["rows_per_second"] = len(self.data.train) / train_seconds
            row |= self.gpu.read()
            state.history.append(row)
            if report is not None:
                self._report(report, EpochReport(row, groups, is_best))
            since = time.perf_counter()
        elbo = Elbo(math.nan, math.nan, math.nan, {}) if diverged else self._elbo()
        for sentence in [] if diverged else collapsed(model.latents):
            logger.warning(sentence)
        return FitResult(
            elbo.value,
            elbo.standard_error,
            elbo.kl,
            state.epoch,
            diverged,
            stopped,
            pd.DataFrame(state.history),
        )

    def _report(self, report: Report, epoch: EpochReport) -> None:
        """Report, and go on with the random streams as they were, whatever the report draws."""
        streams = self._streams()
        with seeded(0, self.device):
            report(epoch, lambda: self._checkpoint(streams))

    def _streams(self) -> dict[str, Tensor]:
        streams = {"order": self.generator.get_state(), "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            streams["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return streams

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.state.waited >= self.config.patience

    def _epoch(self) -> Tensor:
        """Train one epoch; return sums over rows: nll, each latent's KL share, the bound's gap."""
        model, config, state = self.model, self.config, self.state
        warm_steps = config.prior_warmup * self.total_steps
        sums = torch.zeros(2 + len(model.latents), device=self.device)
        started, steps = time.perf_counter(), len(self.batches)
        for number, batch in enumerate(self.batches, start=1):
            if config.debug and state.step == 0:
                self._log_shapes(batch)
            if config.augment:
                batch = batch._replace(x=jittered(batch.x, config.augment))
            self._set_lr(lr_factor(config.lr_schedule, state.step / self.total_steps))
            loss = self._loss(batch)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.loss.backward()
            if self.encoders:
                parts = parts_loss(model, batch, self._beta(state.step + 1), config.num_samples)
                parts.loss.backward(inputs=self.encoders)
            held = self.held if state.step < warm_steps else self.closed
            for parameter in held:
                parameter.grad = None
            if config.clip_grad is not None:
                clip_gradients(self.dense, self.tables, config.clip_grad)
            for optimizer in self.optimizers:
                optimizer.step()
            state.step += 1
            means = [loss.nll, *loss.kl] + ([] if loss.gap is None else [loss.gap])
            sums[: len(means)].add_(torch.stack(means).detach(), alpha=len(batch.y))
            self.gpu.sample(number, steps)
            if config.print_freq and number % config.print_freq == 0:
                rate = min(number * self.batches.batch_size, len(self.data.train))
                logger.info(
                    "epoch %d  step %d/%d  loss %.4f  %s rows/s",
                    *(state.epoch + 1, number, steps, float(loss.loss.detach())),
                    f"{rate / (time.perf_counter() - started):,.0f}",
                )
        if self.closed and state.step >= warm_steps:
            model.latents.update_priors()
        return sums

    def _loss(self, batch: Batch) -> BatchLoss:
        samples = self.config.num_samples
        if self.bound is not None:
            return self.bound.loss(self.model, batch, samples)
        return batch_loss(self.model, batch, self._beta(self.state.step + 1), samples)

    def _beta(self, steps: int) -> float:
        """Return β at the fit's step number `steps` (from 1): a linear rise, then `kl_weight`."""
        annealing_steps = self.config.kl_annealing * len(self.batches)
        if annealing_steps == 0:
            return self.config.kl_weight
        return self.config.kl_weight * min(1.0, steps / annealing_steps)

    def _set_lr(self, factor: float) -> None:
        for optimizer, lrs in zip(self.optimizers, self.base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor

    def _evaluate(self, sums: Tensor) -> tuple[dict[str, float], pd.DataFrame]:
        """Return the epoch's row of metrics and its per-group tables."""
        model, config, rows = self.model, self.config, len(self.data.train)
        nll, *kl_shares, gap = (sums / rows).tolist()
        model.latents.refresh()
        beta = self._beta(self.state.step)
        row: dict[str, float] = {"epoch": self.state.epoch}
        row["train_loss"] = nll + beta * sum(kl_shares) - gap
        row["train_nll"] = nll
        with seeded(0, self.device):  # a mixture's KL draws; evaluating must not change the fit
            totals = model.latents.kl_totals()
        row["elbo"] = -rows * nll - sum(totals)
        if self.bound is not None:
            row["bound"] = -rows * row["train_loss"]
        for latent, total in zip(model.latents, totals, strict=True):
            row[f"kl_{latent.name.replace(' ', '_')}"] = total
        tables = []
        for name, split in self.data.splits().items():
            if name == "train" or not math.isfinite(row["train_loss"]):
                continue
            result = evaluate(model, split, config.eval_samples)
            row |= {f"{name}_{metric}": value for metric, value in result.scalars.items()}
            table = result.groups
            table.insert(0, "epoch", self.state.epoch)
            table.insert(min(3, table.shape[1]), "split", name)
            tables.append(table)
        row["lr"] = self.base_lrs[0][0] * lr_factor(
            config.lr_schedule, (self.state.step - 1) / self.total_steps
        )
        row["kl_weight"] = beta
        losses = (row["train_loss"], row.get("val_loss", 0.0))
        row["diverged"] = float(not all(math.isfinite(loss) for loss in losses))
        return row, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def _elbo(self) -> Elbo:
        self.model.latents.refresh()
        return full_elbo(self.model, self.data.train)

    def _log_shapes(self, batch: Batch) -> None:
        rows = self.model.latents.at(batch.groups, unseen=False)
        shapes = {"x": batch.x, "groups": batch.groups, "y": batch.y}
        with torch.no_grad(), seeded(0, self.device):
            draws = self.model.latents.sample(rows, self.config.num_samples)
            shapes |= {
                f"z[{latent.name}]": z for latent, z in zip(self.model.latents, draws, strict=True)
            }
            shapes["output"] = self.model(batch.x, draws)
        for name, tensor in shapes.items():
            logger.info("first batch  %s: %s %s", name, list(tensor.shape), str(tensor.dtype)[6:])

    def _checkpoint(self, streams: dict[str, Tensor]) -> Checkpoint:
        state = self.state
        return {
            "epoch": state.epoch,
            "step": state.step,
            "best": state.best,
            "waited": state.waited,
            "history": list(state.history),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **streams,
        }

    def _load(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint["model"])
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizers"], strict=True):
            now = optimizer.state_dict()["param_groups"]  # lr and weight decay may have changed
            optimizer.load_state_dict(saved | {"param_groups": now})
        self.generator.set_state(checkpoint["order"])
        torch.set_rng_state(checkpoint["random"])
        if self.device.type == "cuda" and "random_cuda" in checkpoint:
            torch.cuda.set_rng_state(checkpoint["random_cuda"], self.device)
        kept = {name: checkpoint[name] for name in ("epoch", "step", "best", "waited")}
        self.state = _State(**kept, history=list(checkpoint["history"]))


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
