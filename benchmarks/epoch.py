"""Whole epochs, evaluation and groups' metrics included: the ideal, `fit`, and Lightning.

    python benchmarks/epoch.py [--rounds 8] [--device cpu]

The ideal is the bare step on one resident batch (see train_step.py; on a GPU as a CUDA graph) for
as many steps as an epoch has, and then bare inference over the validation rows (no gradients, the
draws of z in one batch, probabilities averaged) for nothing but loss and prediction. `fit` is timed
as it tells it in `metrics.csv` (column `seconds`), with its tables of groups. PyTorch Lightning
(`pip install 'hlvnn[comparisons]'`, left out where absent) trains the same model with the same
optimisers from a DataLoader that takes a batch of rows at once (pinned on a GPU) and validates it
with the same draws, without tables of groups, logger, checkpoints or progress bar; on a GPU it
launches each operation, where `fit` replays a graph. What `fit` does once at its end, the ELBO of
all training rows, is no part of an epoch and stands in a column of its own, in epochs. All take
turns inside one run; a ratio is the median over rounds. (On a
GPU Lightning comes first: at its end it clears workspaces of torch that recorded steps read.)
"""

from __future__ import annotations

import importlib.util
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import tyro
from pydantic import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader
from train_step import BATCH, SHAPES, Loop, dataset, loader_of

from hlvnn.config import ModelConfig, TrainConfig
from hlvnn.data.batches import Batch, Batches
from hlvnn.data.grouped import GroupedDataset, Split
from hlvnn.inference.chunks import rows_at_once
from hlvnn.inference.objective import full_elbo
from hlvnn.latents.table import keeping_gradients_dense
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.loop import EpochReport, fit

STEPS = {"cnn": 60, "lstm": 60, "mlp": 600}
"""Training steps of an epoch; validation has a fifth as many rows."""


class Options(BaseModel):
    """What to measure."""

    rounds: int = 8
    """Rounds; the first is a warm-up."""
    latent_config: str = "factor"
    """Latent structure of the models."""
    models: tuple[str, ...] = tuple(SHAPES)
    """Backbones."""
    device: str = "cpu"
    """cpu or cuda."""
    draws: int = 10
    """Draws of z in validation."""
    scale: float = 1.0
    """Share of the usual number of steps."""
    lightning: int = 100
    """Rounds in which Lightning takes part."""

    def steps(self, name: str) -> int:
        """Return the training steps of an epoch."""
        return max(5, round(self.scale * STEPS[name]))


def with_validation(name: str, steps: int) -> GroupedDataset:
    """Return random rows for training, and a fifth as many beside them."""
    data = dataset(name, steps + max(1, steps // 5))
    rows, end = data.train, BATCH * steps
    val = rows.subset(torch.arange(end, len(rows)))
    return replace(data, train=rows.subset(torch.arange(end)), val=val)


def bare_inference(model: HierarchicalModel, rows: Split, draws: int) -> Tensor:
    """Return the mean loss: all that validation must compute."""
    model.eval()
    total = torch.zeros((), device=model.device)
    samples = draws if model.is_sampling else 1
    with torch.inference_mode():
        for batch in Batches(rows, rows_at_once(model, rows, samples), device=model.device):
            loss, _ = scored(model, batch, samples)
            total += loss.sum()
    model.train()
    return total / len(rows)


def scored(model: HierarchicalModel, batch: Batch, draws: int) -> tuple[Tensor, Tensor]:
    """Return each row's loss and prediction."""
    z = model.latents.sample(model.latents.at(batch.groups, unseen=False), draws)
    probabilities = model.likelihood.probabilities(model(batch.x, z)).mean(0)
    loss = -probabilities.gather(1, batch.y[:, None]).log()[:, 0]
    return loss, probabilities.argmax(-1)


def lightning_seconds(data: GroupedDataset, config: ModelConfig, options: Options) -> list[float]:
    """Return the seconds of each of Lightning's epochs; its start-up is not counted."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False  # two optimisers
            self.loop = Loop(build_model(config, data).to(options.device))
            self.model = self.loop.model
            self.seconds: list[float] = []

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return self.loop.optimizers

        def training_step(self, rows: list[Tensor], index: int) -> None:
            with keeping_gradients_dense() if options.device == "cuda" else nullcontext():
                self.loop.step(Batch(*rows, rows[2]))

        def validation_step(self, rows: list[Tensor], index: int) -> None:
            draws = options.draws if self.model.is_sampling else 1
            loss, prediction = scored(self.model, Batch(*rows, rows[2]), draws)
            self.log("loss", loss.mean(), batch_size=len(loss))
            self.log("acc", (prediction == rows[2]).float().mean(), batch_size=len(loss))

        def on_train_epoch_start(self) -> None:
            self.began = now(options.device)

        def on_train_epoch_end(self) -> None:  # after validation
            self.seconds.append(now(options.device) - self.began)

    def loader(rows: Split, size: int, shuffle: bool) -> DataLoader[Any]:
        return loader_of(rows, size, shuffle=shuffle, pinned=options.device == "cuda")

    module = Module()
    assert data.val is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        size = rows_at_once(module.model.eval(), data.val, options.draws)
        trainer.fit(module, loader(data.train, BATCH, True), loader(data.val, size, False))
    return module.seconds[1:]


def now(device: str) -> float:
    """Return the time when the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Epochs(NamedTuple):
    """Median seconds of an epoch, ideal and ours; ratios of rounds; our last ELBO, in epochs."""

    ideal: float
    ours: float
    to_ideal: list[float]
    to_lightning: list[float]
    final_elbo: float


def measure(name: str, options: Options) -> Epochs:
    """Measure one backbone."""
    data = with_validation(name, options.steps(name))
    assert data.val is not None
    config = ModelConfig(backbone=name, latent_config=(options.latent_config,))
    bare = Loop(build_model(config, data).to(options.device))
    val = data.val.to(options.device)
    one = torch.arange(BATCH)
    train = data.train
    batch = Batch(train.x.take(one), train.groups[one], train.y[one], one)
    batch = Batch(*(part.to(options.device) for part in batch))
    on_gpu = options.device == "cuda"
    step: Callable[[], None] = bare.recorded(batch).replay if on_gpu else lambda: bare.step(batch)
    ideal, ours, theirs = [], [], []

    def lightning() -> float:
        if importlib.util.find_spec("lightning") is None:
            return math.nan
        return statistics.mean(lightning_seconds(data, config, options))

    def take_turns(epoch: EpochReport, checkpoint: object) -> None:
        ours.append(epoch.row["seconds"])
        began = now(options.device)
        for _ in range(options.steps(name)):
            step()
        float(bare_inference(bare.model, val, options.draws))
        ideal.append(now(options.device) - began)
        if not on_gpu and len(theirs) < options.lightning:
            theirs.append(lightning())

    settings = TrainConfig(
        num_epochs=options.rounds + 1,
        batch_size=BATCH,
        device=options.device,
        eval_samples=options.draws,
    )
    if on_gpu:
        theirs = [lightning() for _ in range(min(options.lightning, options.rounds + 1))]
    model = build_model(config, data)
    fit(model, data, settings, take_turns)
    began = now(options.device)
    full_elbo(model, data.train)
    elbo = now(options.device) - began
    pairs = list(zip(ideal, ours, strict=True))[1:]
    to_ideal = [best / own for best, own in pairs]
    turns = zip(theirs if on_gpu else theirs[1:], ours[1:], strict=False)
    to_lightning = [other / own for other, own in turns]
    best, own = (statistics.median(x) for x in zip(*pairs, strict=True))
    return Epochs(best, own, to_ideal, to_lightning, elbo / own)


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(
        f"{options.device}, one thread, batch {BATCH}, latents: {options.latent_config}, "
        f"{options.draws} draws in validation, {options.rounds} rounds"
    )
    print(
        "| model | ideal, s an epoch | fit, s | share of the ideal | times Lightning | last ELBO |"
    )
    print("|---|---|---|---|---|---|")
    for name in options.models:
        found = measure(name, options)
        times = f"{statistics.median(found.to_lightning or [math.nan]):.2f}"
        share = statistics.median(found.to_ideal)
        print(
            f"| {name} | {found.ideal:.2f} | {found.ours:.2f} | {share:.3f} | {times} "
            f"| {found.final_elbo:.1f} epochs |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
