"""`fit`: the only training loop. It knows `report`, and neither Ray nor any folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor

from hlvnn import columns
from hlvnn.columns import DIVERGED, EXACT, ROWS_PER_SECOND, TRAIN_LOSS, TRAIN_NLL, VAL_LOSS
from hlvnn.config import TrainConfig
from hlvnn.data import describe
from hlvnn.data.batches import Batch
from hlvnn.data.grouped import GroupedDataset
from hlvnn.device import resolve_device
from hlvnn.inference.metrics import RowScores
from hlvnn.inference.newton import newton_gain, told_gain
from hlvnn.inference.objective import Elbo, full_elbo
from hlvnn.marks import EPOCH_END, EVALUATION, marking
from hlvnn.models.doubts import doubts, told_of_variances
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import OLD_NOISE, Noise, seeding, streams, take_up_streams
from hlvnn.records.begun_before import GROUPS, check_checkpoint
from hlvnn.training.at_once import fit_mixed_model
from hlvnn.training.best_weights import BestWeights
from hlvnn.training.bound import Bound
from hlvnn.training.callbacks import Callbacks, StepReport
from hlvnn.training.checks import check, log_shapes
from hlvnn.training.choosing import check_selection, selection_of
from hlvnn.training.cuda_graph import RecordedSteps, recorded
from hlvnn.training.epoch_line import epoch_line, step_line
from hlvnn.training.epoch_report import SELECTION as SELECTION
from hlvnn.training.epoch_report import Checkpoint as Checkpoint
from hlvnn.training.epoch_report import EpochReport as EpochReport
from hlvnn.training.epoch_report import Report as Report
from hlvnn.training.epoch_report import State
from hlvnn.training.exact import is_mixed_model, told_by_minibatches, why_not_exact
from hlvnn.training.fit_result import FitResult as FitResult
from hlvnn.training.fit_result import Interrupted as Interrupted
from hlvnn.training.gpu_meter import GpuMeter
from hlvnn.training.not_finite import EVERY, Watch
from hlvnn.training.passes import FAST, batches_of, first_rows, scored, splits_to_score
from hlvnn.training.profiling import REPORT, Profiler
from hlvnn.training.progress import is_notebook, showing_progress
from hlvnn.training.sums import Sums
from hlvnn.training.surroundings import surrounding
from hlvnn.training.turning import first_steps, told_of_turn, turned

logger = logging.getLogger("hlvnn")


def fit(
    model: HierarchicalModel,
    data: GroupedDataset,
    config: TrainConfig,
    report: Report | None = None,
    resume: Checkpoint | None = None,
    *,
    seed: int = 0,
    callbacks: Iterable[object] | object = (),
    best_weights: bool | None = None,
) -> FitResult:
    """Fit the model in place by maximising the ELBO, or the importance-weighted bound.

    A mixed model whose posteriors nobody named is fitted all at once, in one epoch: exactly where
    it is linear (`hlvnn.training.exact`), else to its ELBO's maximum (`hlvnn.training.at_once`).

    report: called after each evaluated epoch with an `EpochReport` and a function that returns the
    checkpoint to save; it may raise to end the fit. resume: such a checkpoint; on the CPU the
    resumed fit ends bit for bit where an uninterrupted one ends. seed: order of rows, dropout and
    draws. Without a report it shows its progress on a terminal or in a notebook.

    callbacks: an object, or several, with `on_step(model, step)`, called after each step with a
    `StepReport` (number, epoch, loss, index of the batch's rows, lr), or `on_epoch(model, epoch)`,
    called after each evaluated epoch with its `EpochReport`, or both. One that returns True ends
    the fit: at once, but for the evaluation and the report of the epoch begun. With an `on_step`
    steps are not recorded as CUDA graphs; an exact fit has no steps.

    best_weights: end with the weights of the chosen epoch (by `select_on`), of which the ELBO then
    is; None does so where `patience` is set. Checkpoints hold the last epoch's nonetheless.

    Ctrl-C raises `Interrupted`, which holds the result so far; in a notebook that is returned. The
    model is left in evaluation mode, however the fit ends.

    Raises `ResourceError` for a device that is not there, `ConfigError` for what `check` refuses.
    """
    with ExitStack() as stack:
        device = resolve_device(config.device)
        stack.enter_context(surrounding(model, config, device, seed))
        show = stack.enter_context(showing_progress(report is None, bool(config.print_freq)))
        run = _Fit(model.to(device), data, config, device, seed, Callbacks(callbacks, model))
        run.best.wanted = config.patience is not None if best_weights is None else best_weights
        stack.callback(run.step.own.release)
        try:
            return run.run(report, resume, show)
        except KeyboardInterrupt:
            model.latents.refresh()
            run.put_back(interrupted=True)
            result = run.result(diverged=False, stopped=False)
            if not is_notebook():
                raise Interrupted(result) from None
            logger.warning("interrupted after epoch %d: this is the fit so far", result.epochs)
            return result


class _Fit:
    """One run of the loop: the optimisers, the schedules and the state between epochs."""

    def __init__(
        self,
        model: HierarchicalModel,
        data: GroupedDataset,
        config: TrainConfig,
        device: torch.device,
        seed: int,
        callbacks: Callbacks,
    ) -> None:
        check(model, data, config)
        self.selection = selection_of(model, data, config)
        self.model, self.data, self.config, self.device = model, data, config, device
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = Noise(seed, device)
        self.bound = Bound.of(model, data.train) if config.objective == "iwae" else None
        self.batches = batches_of(model, data, config, self.bound, self.generator)
        self.evaluated = splits_to_score(data, config, device)
        self.callbacks, self.best = callbacks, BestWeights(model, wanted=False)
        self.seen, self.is_asked_to_end = 0, False  # rows of the epoch; whether a callback did
        self.step, self.turns_at = first_steps(model, config, self.bound, len(self.batches))
        self.exact = is_mixed_model(model) and why_not_exact(model, config) is None
        self.newton_gain = math.nan
        steps = (self.step, self.batches, device)
        is_told = bool(callbacks.on_step)
        self.recorded = None if self.exact else recorded(*steps, is_each_told=is_told)
        self.state = State()
        self.gpu = GpuMeter(device)
        self.watch = Watch(model, data, self.step.beta)
        self.profiler = Profiler(model, config, self.evaluated, self.step.total * (not self.exact))

    def run(
        self,
        report: Report | None,
        resume: Checkpoint | None,
        show: Callable[[str, bool], None] | None,
    ) -> FitResult:
        if resume is not None:
            self._load(resume)
        model, config, state = self.model, self.config, self.state
        for sentence in describe.told(self.data) if show is not None and resume is None else ():
            logger.info(sentence)
        for sentence in doubts(model, self.data) if resume is None else ():
            logger.warning(sentence)
        self._begin(resumed=resume is not None)
        last = 1 if self.exact else config.num_epochs
        diverged, stopped = False, state.is_out_of(config.patience)
        since = time.perf_counter()  # of the epochs that the next row tells of
        while state.epoch < last and not diverged and not stopped:
            self.epoch_began = time.perf_counter()
            model.train()
            sums = self._epoch()
            state.epoch += 1
            train_seconds = time.perf_counter() - self.epoch_began
            if state.epoch % config.eval_every and state.epoch < last and not self.is_asked_to_end:
                continue
            with self.profiler.timing(EVALUATION):
                row, groups, scores = self._evaluate(sums)
            diverged = bool(row[DIVERGED])
            row["seconds"] = time.perf_counter() - since
            row[ROWS_PER_SECOND] = self.seen / train_seconds
            row |= self.gpu.read() | (self.step.norms.read() if self.step.norms else {})
            if state.note(row, self.selection):
                self.best.keep()
            told = EpochReport(row, groups, state.chosen, scores)
            if report is not None:
                with self.profiler.timing(REPORT):
                    self._report(report, told)
            self.profiler.tell(state.epoch, train_seconds, self.callbacks)
            asked = self.callbacks.epoch(told) or self.is_asked_to_end
            stopped = asked or state.is_out_of(config.patience)
            if show is not None:
                show(epoch_line(row, last), state.epoch == last)
            since = time.perf_counter()
        self.profiler.end(self.callbacks)
        if diverged:
            self.watch.tell(len(self.batches), validating=True)
        self.put_back()
        elbo = None if diverged else self._elbo()
        found = () if diverged else tuple(told_of_variances(model))
        for sentence in found:
            logger.warning(sentence)
        return self.result(elbo, found, diverged=diverged, stopped=stopped)

    def put_back(self, *, interrupted: bool = False) -> None:
        """Give the model the weights of its chosen epoch, where that is wanted."""
        last = self.state.epoch + interrupted
        self.best.put_back(self.state.chosen, last, self.selection.metric)

    def _begin(self, *, resumed: bool) -> None:
        """Say where a mixed model is not fitted exactly, or fast; a law of an earlier fit goes."""
        latents = self.model.latents
        if self.config.fast:
            logger.info(FAST)
        if self.exact and self.state.history and not self.state.history[-1].get(EXACT):
            self.exact = False  # begun by a program that did not fit at once
        if not self.exact:
            latents.law = None
        if self.turns_at and not resumed:
            logger.info(told_of_turn(self.turns_at))
        if is_mixed_model(self.model) and not self.exact and not resumed:
            logger.info(told_by_minibatches(self.model, self.config))

    def result(
        self,
        elbo: Elbo | None = None,
        doubts: tuple[str, ...] = (),
        *,
        diverged: bool,
        stopped: bool,
    ) -> FitResult:
        """Return how far the fit has come."""
        elbo = elbo or Elbo(math.nan, math.nan, math.nan, {})
        return FitResult(
            elbo.value,
            elbo.standard_error,
            elbo.kl,
            self.state.epoch,
            diverged,
            stopped,
            pd.DataFrame(self.state.history),
            self.config.objective,
            doubts,
            self.newton_gain,
            self.watch.failure,
            self.profiler.profile,
        )

    def _report(self, report: Report, epoch: EpochReport) -> None:
        """Report, and go on with the random streams as they were, whatever the report draws."""
        streams = self._streams()
        with seeding(0, self.device):
            report(epoch, lambda: self._checkpoint(streams))

    def _streams(self) -> dict[str, Tensor]:
        return {"order": self.generator.get_state()} | streams(self.device) | self.noise.state()

    def _epoch(self) -> list[float]:
        """Train one epoch; return sums over rows: nll, each latent's KL share, the bound's gap."""
        if self.exact:
            return self._exactly()
        if self.state.epoch == self.turns_at:
            self._turn()
        sums, self.seen = Sums(2 + len(self.model.latents), self.device), 0
        if self.recorded is not None:
            self._replay(self.recorded, sums)
        else:
            for number, batch in enumerate(self.profiler.each(self.batches), start=1):
                self._step(batch, sums)
                self._tell(number)
                if self.watch.found is not None or self.is_asked_to_end:
                    break
        with marking(EPOCH_END):
            self.step.own.recentre()
            self.model.latents.refresh()  # here, whether or not the epoch is evaluated
            self.watch.read()
        if self.watch.found is not None:
            return [math.nan] * len(sums.read())
        return sums.read()  # waits for the GPU

    def _turn(self) -> None:
        """Have the bound take the ELBO's place, where it has not yet."""
        if self.turns_at and self.bound is not None:
            self.step = turned(self.step, self.bound)

    def _exactly(self) -> list[float]:
        """Fit all at once; return what an epoch of steps would (see `_epoch`)."""
        self.step.own.release()
        found = fit_mixed_model(self.model, self.data.train)
        self.state.step, self.newton_gain = 1, found.newton_gain
        self.seen = len(self.data.train)
        logger.info(found.told)
        kl = self.model.latents.kl_totals()
        return [-found.log_likelihood - sum(kl), *kl, 0.0]

    def _step(self, batch: Batch, sums: Sums) -> None:
        if self.config.debug and self.state.step == 0:
            with seeding(0, self.device):
                log_shapes(self.model, batch, self.config.num_samples)
        self.watch.begin(self.noise)
        with self.model.latents.source.using(self.noise):
            self.loss, means = self.step(batch, self.state.step)
        self.watch.look(self.loss, self.state.step, batch.index)
        self.state.step += 1
        self.seen += len(batch.y)
        sums.add(means, len(batch.y))
        if self.callbacks.on_step:
            number, lr = self.state.step, self.config.lr * self.step.lr_factor(self.state.step - 1)
            told = StepReport(number, self.state.epoch + 1, float(self.loss), batch.index, lr)
            self.is_asked_to_end |= self.callbacks.step(told)

    def _replay(self, recorded: RecordedSteps, sums: Sums) -> None:
        order = recorded.batches.order()
        recorded.begin(order, self.state.step)
        self.loss = recorded.loss
        done, began, size = 0, self.state.step, recorded.batches.batch_size
        while done < recorded.per_epoch and self.watch.found is None:
            with self.model.latents.source.using(self.noise):
                steps = recorded(self.state.step, recorded.per_epoch - done)
            self.state.step += steps
            self.seen += steps * size
            done += steps
            self._tell(done)
            if done % EVERY < steps or done == recorded.per_epoch:
                self.watch.read_recorded(recorded.bad, order, began, size)
        sums.add(list(recorded.end()), 1)
        rest = order[len(recorded.order) :]
        if len(rest) and self.watch.found is None:
            self._step(recorded.batches.gather(rest), sums)

    def _tell(self, number: int) -> None:
        """Look at the GPU, and print a line, when it is time to; `number` steps are done."""
        self.gpu.sample()
        if self.config.print_freq and number % self.config.print_freq == 0:
            rows = min(number * self.batches.batch_size, len(self.data.train))
            pace, epoch = rows / (time.perf_counter() - self.epoch_began), self.state.epoch + 1
            logger.info(step_line(epoch, number, len(self.batches), float(self.loss), pace))

    def _evaluate(
        self, sums: list[float]
    ) -> tuple[dict[str, float], pd.DataFrame, dict[str, RowScores]]:
        """Return the epoch's row of metrics, its per-group tables, and each row's scores."""
        model, config, rows = self.model, self.config, len(self.data.train)
        nll, *kl_shares, gap = (value / self.seen for value in sums)
        beta = self.step.beta(self.state.step - 1)
        row: dict[str, float] = {"epoch": self.state.epoch}
        row[TRAIN_LOSS] = nll + beta * sum(kl_shares) - gap
        row[TRAIN_NLL] = nll
        with seeding(0, self.device):  # a mixture's KL draws; evaluating must not change the fit
            totals = model.latents.kl_totals()
        row["elbo"] = -rows * nll - sum(totals)
        if self.bound is not None:
            row["bound"] = -rows * row[TRAIN_LOSS]
        for latent, total in zip(model.latents, totals, strict=True):
            row[columns.kl(latent.name)] = total
        to_score = self.evaluated if math.isfinite(row[TRAIN_LOSS]) else {}
        found, groups, scores = scored(model, to_score, config.eval_samples, self.state.epoch)
        row |= found
        row["lr"] = config.lr * self.step.lr_factor(self.state.step - 1)
        row["kl_weight"] = beta
        if self.exact:
            row[EXACT] = 1.0
        losses = (row[TRAIN_LOSS], row.get(VAL_LOSS, 0.0))
        row[DIVERGED] = float(not all(math.isfinite(loss) for loss in losses))
        return row, groups, scores

    def _elbo(self) -> Elbo:
        self.model.latents.refresh()
        train = first_rows(self.data.train, self.config)
        if self.bound is not None:
            bound = self.bound if train is self.data.train else Bound.of(self.model, train)
            return bound.full(self.model, train, self.config.num_samples)
        elbo = full_elbo(self.model, train)
        if self.config.kl_weight == 1 and not self.exact:
            self.newton_gain = told_gain(newton_gain(self.model, elbo, len(self.data.train)))
        return elbo

    def _checkpoint(self, streams: dict[str, Tensor]) -> Checkpoint:
        state = self.state
        return {
            "epoch": state.epoch,
            "step": state.step,
            SELECTION: asdict(self.selection),
            "history": list(state.history),
            **self.best.entries(),
            "optimizers": self.step.state_dict(),
            GROUPS: self.step.own.state_dict(),
            **streams,
        }

    def _load(self, checkpoint: Checkpoint) -> None:
        check_checkpoint(checkpoint, "the checkpoint to resume")
        self.model.load_state_dict(checkpoint["model"])
        if checkpoint["epoch"] > self.turns_at:
            self._turn()
        self.step.load_state_dict(checkpoint["optimizers"])
        self.step.own.load_state_dict(checkpoint[GROUPS])
        self.generator.set_state(checkpoint["order"])
        take_up_streams(checkpoint, self.device)
        if not self.noise.take_up(checkpoint) and self.model.is_sampling:
            logger.info(OLD_NOISE)
        check_selection(self.selection, checkpoint.get(SELECTION))
        self.state = State(epoch=checkpoint["epoch"], step=checkpoint["step"])
        for row in checkpoint["history"]:  # an older checkpoint's own best may be of another rule
            self.state.note(row, self.selection)
        self.best.take_up(checkpoint, self.state.chosen)
