"""Handwriting by writer: latents against what people use, each tuned inside the training rows.

    python benchmarks/handwriting_study.py [--source ../shared/data/unipen_writers.npz]

One command does it all, and goes on where it was stopped. Every method that is trained has three
tries (`METHODS`), scored on a tenth cut from the training rows of the first seed's split; the one
with the fewest nats is refitted on all training rows, once for each seed, and its test rows are
scored once. A seed decides the split (80/20 within each writer) as well as weights and order.
Everything shares the small CNN, the regularisation and the schedule (`SHARED`).

pooled        nothing of the writer
embedding     a vector per writer without a prior, a bias of each class (one-hot) among the tries
fine-tuned    the pooled network, trained on for each writer alone
neighbours    the pooled network's probabilities, mixed with those of two kernel classifiers on its
              hidden layer: over the writer's own training rows, and over everybody's (Marfoq et
              al. 2022, Khandelwal et al. 2020). Bandwidths come from a grid, the mixture's weights
              are their maximum likelihood on the validation rows
ours          hierarchical latents

The table gives means over seeds. ± of a gain is its standard error, from resampling writers with
all their rows of all seeds; ± of the tenth percentile is what resampling each writer's test rows
does to it. Runs are JSON lines in RESULTS/runs.jsonl, their probabilities RESULTS/predictions.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn
from unipen import Options as FolderOptions
from unipen import write_folder

from hlvnn.config import RunConfig, TrainConfig, run_config
from hlvnn.data import load_data
from hlvnn.data.batches import Batches
from hlvnn.data.grouped import GroupedDataset, Level, Split
from hlvnn.errors import run_command
from hlvnn.inference.predict import predict
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding
from hlvnn.training.loop import EpochReport, fit

Floats = NDArray[np.float64]
Settings = dict[str, Any]

SHARED: Settings = {
    "dropout": 0.25,
    "augment": 1.0,
    "num_epochs": 12,
    "batch_size": 100,
    "lr": 4e-3,
    "lr_schedule": "one_cycle",
    "norm": "batch",
}
"""What all methods have, unless a try says otherwise."""
VALIDATION = 0.1
"""Share of the training rows to choose on."""
RESAMPLES = 2000
"""Of writers, or of rows, for a standard error."""
SMALLEST = 1e-12
"""Least probability, against log 0."""


@dataclass(frozen=True)
class Method:
    """How one row of the table comes about.

    kind: `network` is trained from scratch, the others start from that of the method `base`, as it
    was chosen; tries: the settings that were tried, those of `SHARED` apart.
    """

    kind: str
    tries: tuple[Settings, ...]
    base: str = ""


EVERYWHERE = "film@conv1+film@conv2+film@hidden+basis@output:rank=16 level=writer width=32"
POINT = "level=writer posterior=point prior=none"
METHODS: dict[str, Method] = {
    "pooled": Method("network", ({}, {"norm": "none"}, {"weight_decay": 0.01})),
    "embedding": Method(
        "network",
        (
            {"latents": [f"{EVERYWHERE} posterior=point prior=none"], "embedding_lr": 2.0},
            {"latents": [f"concat@output width=10 {POINT}"], "embedding_lr": 5.0},
            {"latents": [f"bias@output {POINT}"], "embedding_lr": 5.0},  # one-hot
        ),
    ),
    "fine-tuned": Method(
        "fine-tuned",
        (
            {"num_epochs": 5, "lr": 1e-3},
            {"num_epochs": 5, "lr": 2e-4},
            {"num_epochs": 5, "lr": 1e-3, "layers": "output"},
        ),
        "pooled",
    ),
    "neighbours": Method("neighbours", ({},), "pooled"),
    "ours": Method(
        "network",
        (
            {"latents": [EVERYWHERE]},
            {"latents": [EVERYWHERE], "kl_weight": 0.5},
            {
                "latents": [
                    f"{EVERYWHERE} prior=nested parent=site",
                    "- level=site width=32 prior=learned",
                ],
                "kl_weight": 0.5,
            },
        ),
    ),
    "ours, neighbours": Method("neighbours", ({},), "ours"),
}
COMPARATORS = ("embedding", "fine-tuned", "neighbours")


class Options(BaseModel):
    """Which methods, how often."""

    source: Path = Path("../shared/data/unipen_writers.npz")
    """The handwriting data."""
    results: Path = Path("results/handwriting_study")
    """Folder of the runs, to go on with."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Rows of the table; the first is what the others are compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of split, weights and order; tries are made on the first."""
    num_samples: int = 30
    """Draws of z averaged in a prediction."""
    validate_only: bool = False
    """Only make the tries; no test row is scored."""
    processes: int = 2
    """Runs at a time, one thread each."""


@dataclass(frozen=True)
class Job:
    """One run: a method with settings, on a seed's split, scored on `val` or `test` rows.

    base: the settings of the network it starts from.
    """

    method: str
    settings: Settings
    seed: int
    part: str
    base: Settings | None = None

    @property
    def key(self) -> str:
        """A name of 16 hex digits."""
        told: list[Any] = [METHODS[self.method].kind, {**SHARED, **self.settings}]
        told += [self.seed, self.part] if self.base is None else [self.seed, self.part, self.base]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- data and networks


def configuration(options: Options, job: Job) -> RunConfig:
    """Return the configuration of a job's network."""
    fixed = {
        "dataset": f"seed{job.seed}",
        "data_dir": options.results / "data",
        **(
            {"val_fraction": VALIDATION, "split_seed": job.seed}
            if job.part == "val"
            else {"val_fraction": 0.0}
        ),
        "eval_every": 1000,
        "device": "cpu",
    }
    return run_config({**SHARED, **fixed, **job.settings}, job.method)


def parts(options: Options, job: Job) -> tuple[GroupedDataset, Split]:
    """Return the rows to fit, alone, and the rows to score."""
    data = load_data(configuration(options, replace(job, settings={})).data)
    scored = data.val if job.part == "val" else data.test
    assert scored is not None
    return replace(data, val=None, test=None), scored


def trained(options: Options, job: Job, data: GroupedDataset) -> HierarchicalModel:
    """Return a job's network, trained now or before."""
    path = options.results / "networks" / f"{job.key}.pt"
    config = configuration(options, job)
    model = build_model(config.model, data, job.seed)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        model.latents.refresh()
        return model.eval()
    train(model, data, config.train, job.seed)
    torch.save(model.state_dict(), path)
    return model.eval()


def train(model: HierarchicalModel, data: GroupedDataset, config: TrainConfig, seed: int) -> None:
    """Fit the model in place."""
    with suppress(_Trained):
        fit(model, data, config, report=_stop, seed=seed)


class _Trained(Exception):
    """All epochs are over."""


def _stop(report: EpochReport, checkpoint: Callable[[], Any]) -> None:
    """End a fit before its last ELBO, which is not used here and costs as much as six epochs."""
    raise _Trained


def probabilities(model: HierarchicalModel, rows: Split, num_samples: int) -> Floats:
    """Return p(y | x) of each row and class, averaged over draws of z: [N, K]."""
    columns = predict(model, rows, num_samples=num_samples).filter(regex="^prob_")
    return columns.to_numpy(dtype=np.float64)


# ---------------------------------------------------------------- fine-tuned


def fine_tuned(
    options: Options, network: HierarchicalModel, data: GroupedDataset, scored: Split, job: Job
) -> Floats:
    """Return the probabilities of a copy of the network for each writer, trained on its rows.

    Of the job's settings, `layers` is what the names of the layers to train start with.
    """
    own = {"lr_schedule": "cosine", **job.settings}
    layers = own.pop("layers", "")
    config = configuration(options, replace(job, settings=own)).train
    one = replace(data.schema, levels=(Level("writer", 1),))
    result = np.empty((len(scored), network.schema.target.num_classes or 0))
    for writer in range(data.schema.levels[0].size):
        index = (data.train.groups[:, 0] == writer).nonzero()[:, 0]
        rows = Split(
            data.train.x.subset(index),
            torch.zeros(len(index), 1, dtype=torch.int32),
            data.train.y[index],
        )
        model = copy.deepcopy(network)
        for name, parameter in model.backbone.named_parameters():
            parameter.requires_grad_(name.startswith(layers))
        size = math.ceil(len(index) / max(1, round(len(index) / 20)))  # no batch of one row
        settings = config.model_copy(update={"batch_size": size})
        train(model, GroupedDataset(one, rows), settings, seed=writer)
        asked = (scored.groups[:, 0] == writer).nonzero()[:, 0]
        result[asked.numpy()] = probabilities(model, scored.subset(asked), 1)
    return result


# ---------------------------------------------------------------- neighbours


@torch.no_grad()
def hidden(network: HierarchicalModel, rows: Split) -> Tensor:
    """Return the mean over draws of z of each row's hidden layer, to unit length: [N, H]."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0] if inputs[0].dim() == 2 else inputs[0].mean(0))

    handle = network.backbone.get_submodule("output").register_forward_pre_hook(keep)
    draws = 10 if network.is_sampling else 1
    with seeding(0):
        for batch in Batches(rows, 4096 // draws):
            at = network.latents.at(batch.groups, unseen=False)
            network(batch.x, network.latents.sample(at, draws))
    handle.remove()
    return nn.functional.normalize(torch.cat(kept), dim=-1)


@dataclass(frozen=True)
class Near:
    """The nearest training rows of each scored row, nearest first: squared distances and classes.

    own: among the writer's; everybody: among all; [N, k] each, distance inf where there are fewer.
    """

    own: tuple[Tensor, Tensor]
    everybody: tuple[Tensor, Tensor]


NEAREST = 200
"""Training rows that a kernel can count."""
BANDWIDTHS = (0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32)
"""Of the kernels exp(−d²/h), d between vectors of unit length: tried in all pairs."""


def near(network: HierarchicalModel, train: Split, scored: Split) -> Near:
    """Find the nearest training rows of each scored row."""
    known, asked = hidden(network, train), hidden(network, scored)
    own, everybody = [], []
    number = min(NEAREST, len(train))
    for index in torch.arange(len(scored)).split(1024):
        distance = (2 - 2 * asked[index] @ known.T).clamp(min=0)
        found = distance.topk(number, largest=False)
        everybody.append((found.values, train.y[found.indices]))
        foreign = scored.groups[index, 0][:, None] != train.groups[:, 0][None]
        found = distance.masked_fill_(foreign, torch.inf).topk(number, largest=False)
        own.append((found.values, train.y[found.indices]))
    joined = [
        tuple(torch.cat(part) for part in zip(*pairs, strict=True)) for pairs in (own, everybody)
    ]
    return Near(*joined)  # type: ignore[arg-type]


def kernel(near: tuple[Tensor, Tensor], bandwidth: float, num_classes: int) -> Floats:
    """Return each class's share of the kernel's weight: [N, K]."""
    distance, classes = near
    weight = (-distance.double() / bandwidth).softmax(1)
    return torch.zeros(len(weight), num_classes).double().scatter_add(1, classes, weight).numpy()


def mixture_weights(experts: Floats, steps: int = 200) -> Floats:
    """Return the weights [E] that maximise the likelihood of experts' probabilities [N, E], by EM.

    The likelihood is concave in them.
    """
    weights = np.full(experts.shape[1], 1 / experts.shape[1])
    for _ in range(steps):
        shares = experts * weights
        weights = (shares / shares.sum(1, keepdims=True)).mean(0)
    return weights


def neighbours_tuned(pooled: Floats, near: Near, y: NDArray[np.int64]) -> Settings:
    """Return the bandwidths and weights of the mixture with the fewest nats."""
    rows, num_classes = np.arange(len(y)), pooled.shape[1]
    own = {h: kernel(near.own, h, num_classes)[rows, y] for h in BANDWIDTHS}
    everybody = {h: kernel(near.everybody, h, num_classes)[rows, y] for h in BANDWIDTHS}
    best: tuple[float, Settings] = (np.inf, {})
    for first, second in itertools.product(BANDWIDTHS, BANDWIDTHS):
        experts = np.stack([pooled[rows, y], own[first], everybody[second]], axis=1)
        weights = mixture_weights(experts)
        nats = float(-np.log(experts @ weights + SMALLEST).mean())
        if nats < best[0]:
            best = (nats, {"own": first, "everybody": second, "weights": weights.tolist()})
    return best[1]


def neighbours(pooled: Floats, near: Near, tuned: Settings) -> Floats:
    """Return the probabilities of the mixture: [N, K]."""
    num_classes = pooled.shape[1]
    experts = [
        pooled,
        kernel(near.own, tuned["own"], num_classes),
        kernel(near.everybody, tuned["everybody"], num_classes),
    ]
    mixed = sum(w * expert for w, expert in zip(tuned["weights"], experts, strict=True))
    assert isinstance(mixed, np.ndarray)
    return mixed


# ---------------------------------------------------------------- runs


def run(options: Options, job: Job, tuned: Settings | None) -> Settings:
    """Train and score; keep the probabilities; return the run's line.

    tuned: bandwidths and weights of a mixture of neighbours; None chooses them on the scored rows.
    """
    torch.set_num_threads(1)
    started = time.process_time()
    method = METHODS[job.method]
    data, scored = parts(options, job)
    y = scored.y.numpy()
    if job.base is None:
        result = probabilities(trained(options, job, data), scored, options.num_samples)
    else:
        base = replace(job, method=method.base, settings=job.base, base=None)
        network = trained(options, base, data)
        if method.kind == "fine-tuned":
            result = fine_tuned(options, network, data, scored, job)
        else:
            found = near(network, data.train, scored)
            plain = probabilities(network, scored, options.num_samples)
            tuned = tuned or neighbours_tuned(plain, found, y)
            result = neighbours(plain, found, tuned)
    np.save(prediction_path(options, job), result.astype(np.float32))
    loss = -np.log(result[np.arange(len(y)), y] + SMALLEST)
    return {
        "key": job.key,
        "method": job.method,
        "settings": job.settings,
        "base": job.base,
        "seed": job.seed,
        "part": job.part,
        "accuracy": float((result.argmax(1) == y).mean()),
        "nats": float(loss.mean()),
        "seconds": time.process_time() - started,
        "tuned": tuned,
    }


def prediction_path(options: Options, job: Job) -> Path:
    """Return the file of a run's probabilities."""
    return options.results / "predictions" / f"{job.key}.npy"


class Runs:
    """The runs that are done, by key, kept as JSON lines."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.path = options.results / "runs.jsonl"
        for name in ("networks", "predictions"):
            (options.results / name).mkdir(parents=True, exist_ok=True)
        text = self.path.read_text() if self.path.exists() else ""
        self.done = {line["key"]: line for line in map(json.loads, text.splitlines())}

    def make(self, jobs: Iterable[Job], tuned: dict[str, Settings | None]) -> None:
        """Run what is not done yet; tuned: mixtures of neighbours by method."""
        todo = {job.key: job for job in jobs if job.key not in self.done}
        with ProcessPoolExecutor(self.options.processes) as pool:
            futures = [
                pool.submit(run, self.options, job, tuned.get(job.method)) for job in todo.values()
            ]
            for future in as_completed(futures):
                line = future.result()
                self.done[line["key"]] = line
                with self.path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                shown = [line[name] for name in ("part", "seed", "method", "settings", "tuned")]
                print(f"{line['accuracy']:.4f} {line['nats']:.4f}", *shown, flush=True)

    def chosen(self, method: str, base: Settings | None) -> dict[str, Any]:
        """Return the line of a method's try with the fewest validation nats."""
        seed = self.options.seeds[0]
        tries = [Job(method, settings, seed, "val", base) for settings in METHODS[method].tries]
        return min((self.done[job.key] for job in tries), key=lambda line: line["nats"])


def study(options: Options, runs: Runs) -> dict[str, list[Job]]:
    """Make all tries, then each method's runs on test rows; return the latter, one a seed."""
    bases = [name for name in options.methods if not METHODS[name].base]
    derived = [name for name in options.methods if METHODS[name].base]
    chosen: dict[str, Settings] = {}
    tuned: dict[str, Settings | None] = {}
    jobs: dict[str, list[Job]] = {}
    for names in (bases, derived):
        base = {name: chosen[METHODS[name].base] if METHODS[name].base else None for name in names}
        tries = [
            Job(name, settings, options.seeds[0], "val", base[name])
            for name in names
            for settings in METHODS[name].tries
        ]
        runs.make(tries, {})
        for name in names:
            line = runs.chosen(name, base[name])
            chosen[name], tuned[name] = line["settings"], line["tuned"]
            jobs[name] = [Job(name, chosen[name], s, "test", base[name]) for s in options.seeds]
            print(f"{name}: {line['accuracy']:.4f} {line['nats']:.4f} with {chosen[name]}")
    if not options.validate_only:
        for number, names in itertools.product(range(len(options.seeds)), (bases, derived)):
            runs.make([jobs[name][number] for name in names], tuned)
    return jobs


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Scores:
    """A method's test rows of all seeds: whether right, nats, writer and seed, [N] each."""

    hit: Floats
    loss: Floats
    writer: NDArray[np.int64]
    seed: NDArray[np.int64]

    def per_seed(self, values: Floats) -> Floats:
        """Return the mean of values in each seed."""
        return np.array([values[self.seed == seed].mean() for seed in np.unique(self.seed)])

    def weak(self, generator: np.random.Generator) -> tuple[float, float]:
        """Return the tenth percentile of writers' accuracy, and its SD over resampled rows.

        Mean over seeds. Resampling a writer's n rows gives a binomial number of hits.
        """
        values, spread = [], []
        for seed in np.unique(self.seed):
            own = self.seed == seed
            rows = np.bincount(self.writer[own])
            rate = np.bincount(self.writer[own], self.hit[own])[rows > 0] / rows[rows > 0]
            again = generator.binomial(rows[rows > 0], rate, (RESAMPLES, len(rate)))
            values.append(np.quantile(rate, 0.1))
            spread.append(np.quantile(again / rows[rows > 0], 0.1, axis=1).std())
        return float(np.mean(values)), float(np.mean(spread))


def scores(options: Options, jobs: list[Job]) -> Scores:
    """Read a method's probabilities back."""
    hit, loss, writer, seed = [], [], [], []
    for job in jobs:
        folder = options.results / "data" / f"seed{job.seed}" / "small"
        y, gid = (np.load(folder / f"{n}_test.npy", allow_pickle=False) for n in ("y", "gid"))
        result = np.load(prediction_path(options, job), allow_pickle=False)
        hit.append((result.argmax(1) == y).astype(np.float64))
        loss.append(-np.log(result[np.arange(len(y)), y].astype(np.float64) + SMALLEST))
        writer.append(gid.astype(np.int64))
        seed.append(np.full(len(y), job.seed))
    return Scores(*map(np.concatenate, (hit, loss, writer, seed)))


def paired(
    difference: Floats, writer: NDArray[np.int64], generator: np.random.Generator
) -> tuple[float, float]:
    """Return the mean of a difference by row, and its standard error, resampling writers."""
    total, rows = np.bincount(writer, difference), np.bincount(writer)
    again = generator.integers(0, len(rows), (RESAMPLES, len(rows)))
    return float(difference.mean()), float((total[again].sum(1) / rows[again].sum(1)).std())


def over_seeds(values: Floats) -> str:
    """Return the mean of a figure over seeds, with its SD where there are several."""
    spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def table(options: Options, jobs: dict[str, list[Job]]) -> str:
    """Return the Markdown table, and how ours differs from the best comparator."""
    found = {name: scores(options, own) for name, own in jobs.items()}
    first = found[options.methods[0]]
    generator = np.random.default_rng(0)

    def gains(one: Scores, other: Scores) -> str:
        right = paired(one.hit - other.hit, one.writer, generator)
        nats = paired(one.loss - other.loss, one.writer, generator)
        return f"{right[0]:+.4f} ± {right[1]:.4f} | {nats[0]:+.4f} ± {nats[1]:.4f}"

    gained = [f"{name} against {options.methods[0]}" for name in ("accuracy", "nats")]
    columns = ["method", "accuracy", "nats", "10th percentile of writers", *gained]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, own in found.items():
        means = [over_seeds(own.per_seed(values)) for values in (own.hit, own.loss)]
        weak = "{:.3f} ± {:.3f}".format(*own.weak(generator))
        gain = " | " if own is first else gains(own, first)
        lines.append(f"| {' | '.join([name, *means, weak, gain])} |")
    rivals = [name for name in COMPARATORS if name in found]
    if rivals and "ours" in found:
        best = min(rivals, key=lambda name: float(found[name].loss.mean()))
        lines += ["", f"ours against {best}: {gains(found['ours'], found[best])}"]
    return "\n".join(lines)


def main() -> int:
    """Run all and print the table."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    for seed in options.seeds:
        out = options.results / "data" / f"seed{seed}" / "small"
        if not out.exists():
            write_folder(FolderOptions(source=options.source, out=out, seed=seed, sites=True))
    jobs = study(options, Runs(options))
    if not options.validate_only:
        print(table(options, jobs))
    return 0


if __name__ == "__main__":
    run_command(main)
