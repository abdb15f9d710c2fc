"""Every named structure against the pooled network, with plain defaults: is one ever worse.

    python benchmarks/never_worse.py [--quick] [--data digits wages] [--structures factor film]

Each structure of --latent-config that has a prior and that the backbone can have, beside the same
network without latents: same data, epochs and seed, so that order, dropout and augmentation are the
same too and a pair differs by its latents alone. Nothing is set of latents or of how they are
fitted. 20 % of the groups are held out: a run's test rows are of known and of new groups. They are
scored with 50 draws of z at the fit's end, so that both networks of a pair have had the same
epochs; and once more at each one's own epoch of least validation loss, which is told beside it and
judged by nothing: where few validation rows choose, one network stops early by chance.

A gain is the pooled network's nats minus the structure's, a mean over groups of their mean over
rows and seeds (positive: latents are better). ± is its standard error over groups, SD the spread of
the seeds' gains. A comparison holds where the gain is at least −max(0.002, 2 ±). Being worse is a
one-sided t test over groups, Holm-corrected over all comparisons of the table; it asks of these
seeds alone. Beside it stands the same test with an error over groups and seeds, which asks whether
further seeds would be worse, too: what a training differs by is no property of a structure.

Runs are kept in RESULTS and not made again: a row a run and kind of groups in runs.csv, what each
group fared in groups/. All of it takes some four hours of two quiet cores, most of them for
`weights`; it says how many are left, by the runs that are done. Data of ../shared that are not
there are left out.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import tyro
from handwriting_study import SHARED as HANDWRITING
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import stats
from tabular import TABLES, read, with_features
from unipen import Options as FolderOptions
from unipen import write_folder

from hlvnn.config import RunConfig, run_config
from hlvnn.data import load_data
from hlvnn.data.grouped import GroupedDataset, Schema
from hlvnn.errors import ConfigError, HlvnnError, run_command, unknown
from hlvnn.inference.predict import score_rows
from hlvnn.models.build import assemble, build_model
from hlvnn.models.named import STRUCTURES
from hlvnn.training.loop import EpochReport, fit

Floats = NDArray[np.float64]

POOLED = "none"
"""The structure that the others are compared with."""
WITH_PRIOR = tuple(
    name for name, one in STRUCTURES.items() if name != POOLED and one.posterior != "point"
)
HOLD_OUT = 0.2
"""Share of the groups without training rows."""
DRAWS = 50
"""Draws of z averaged for a test row. A new group has its prior, which is wide: −log of a mean over
few draws is too large."""
FEW = 15
"""Training rows a group, where there are to be few."""
SMALLEST_BOUND = 0.002
"""Nats by which a structure may be worse, however small the error."""
LEVEL = 0.05
"""Of the test, for all comparisons together."""
COST = {"weights": 18.0, "film": 3.0, "filters": 3.0, "step-input": 3.0, "initial-state": 3.0}
"""How many times as long as the pooled network a structure takes, roughly, if it is much."""
LONG = 10.0
"""Cost from which on a structure's runs come last."""
KINDS = ("known", "new")
RUNS, GROUPS = "runs.csv", "groups"
"""Of each run and kind a row; a table for each run, a row a group."""
KEY = ["data", "structure", "seed"]


@dataclass(frozen=True)
class Data:
    """A data set and the network on it.

    settings: of every run on it; seconds: of the pooled network's run, roughly; reads: what of
    ../shared it is made of; at_most: training rows a group, at random; None = all.
    """

    settings: dict[str, Any]
    seconds: float
    reads: str = ""
    at_most: int | None = None


SHAKESPEARE = {
    "dataset": "shakespeare",
    "backbone": "lstm",
    "dropout": 0.25,
    "num_epochs": 6,
    "batch_size": 200,
    "lr": 1e-2,
    "clip_grad": 1.0,
}
UNIPEN = {"dataset": "unipen", "data_size": "small", "backbone": "cnn", **HANDWRITING}
WAGES = TABLES["wages"]
OF_NETWORK = ("hidden", "skip", "dropout", "weight_decay", "num_epochs", "batch_size", "lr")
"""Settings of tabular.py's networks that have nothing to do with latents."""
DATA: dict[str, Data] = {
    "digits": Data(
        {"dataset": "digits", "backbone": "cnn", "num_epochs": 30, "batch_size": 100, "lr": 5e-3},
        seconds=5,
    ),
    "wages": Data(
        {
            "dataset": "table",
            "target": WAGES.target,
            "groups": WAGES.groups,
            "backbone": "mlp",
            "likelihood": "gaussian",
            **{
                name: value
                for name, value in {**WAGES.settings, **WAGES.own["pooled"]}.items()
                if name in OF_NETWORK
            },
        },
        seconds=8,
        reads="tabular/wages.csv.gz",
    ),
    "shakespeare": Data(SHAKESPEARE, seconds=35),
    "shakespeare-15": Data(
        {**SHAKESPEARE, "num_epochs": 16, "eval_every": 2}, seconds=8, at_most=FEW
    ),
    "handwriting": Data(UNIPEN, seconds=80, reads="unipen_writers.npz"),
    "handwriting-15": Data(
        {**UNIPEN, "num_epochs": 24, "eval_every": 2},
        seconds=40,
        reads="unipen_writers.npz",
        at_most=FEW,
    ),
}
"""By name. Each has about the epochs at whose end the pooled network is at its best, so that those
with few rows a group have more."""


class Options(BaseModel):
    """Which data, which structures, how often."""

    data: tuple[str, ...] = tuple(DATA)
    """Data sets."""
    structures: tuple[str, ...] = WITH_PRIOR
    """Structures of --latent-config; those that a backbone cannot have are left out."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of weights, order and draws; the split stays."""
    quick: bool = False
    """One seed, two structures, digits, five epochs."""
    shared: Path = Path("../shared/data")
    """Folder of the handwriting and of the tables."""
    data_dir: Path = Path("data")
    """Root of what data sets keep."""
    results: Path = Path("results/never_worse")
    """Folder of the runs, to go on with."""
    processes: int = 2
    """Runs at a time, one thread each."""


@dataclass(frozen=True)
class Job:
    """One run."""

    data: str
    structure: str
    seed: int

    def path(self, results: Path) -> Path:
        """Return the file of what its groups fared."""
        return results / GROUPS / f"{self.data}_{self.structure}_{self.seed}.parquet"


# ---------------------------------------------------------------- a run


def config_of(options: Options, job: Job) -> RunConfig:
    """Return a run's configuration: nothing of it is about latents but the structure's name."""
    settings: dict[str, Any] = {
        "data_dir": options.data_dir,
        **DATA[job.data].settings,
        "latent_config": job.structure,
        "hold_out": HOLD_OUT,
        "unseen": "prior",
        "seed": job.seed,
        "device": "cpu",
    }
    if settings["dataset"] == "unipen":
        settings["data_dir"] = options.results / "data"
    if settings["dataset"] == "table":
        settings["table"] = options.results / "data" / f"{job.data}.csv"
    if options.quick:
        settings["num_epochs"] = 5
    return run_config(settings, "never_worse")


def prepare(options: Options, name: str) -> None:
    """Write what a data set is read from, where that is not there yet."""
    source = options.shared / DATA[name].reads
    folder = options.results / "data"
    if DATA[name].settings["dataset"] == "unipen" and not (folder / "unipen").exists():
        write_folder(FolderOptions(source=source, out=folder / "unipen" / "small"))
    if DATA[name].settings["dataset"] == "table" and not (folder / f"{name}.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = read(source.parent, name).drop(columns="fold")
        with_features(TABLES[name], rows, rows).to_csv(folder / f"{name}.csv", index=False)


def cut(data: GroupedDataset, at_most: int) -> GroupedDataset:
    """Return the data with so many training rows of each lowest group, drawn at random."""
    group = data.train.groups[:, 0].numpy()
    order = np.random.default_rng(0).permutation(len(group))
    place = pd.Series(group[order]).groupby(group[order]).cumcount().to_numpy()
    kept = torch.from_numpy(np.sort(order[place < at_most]))
    return replace(data, train=data.train.subset(kept))


def fared(options: Options, job: Job) -> tuple[pd.DataFrame, float]:
    """Train a network; return what each group's test rows fared, and the seconds that it took.

    Columns kind, group (its number), rows, loss (mean nats a row at the fit's end) and chosen (at
    the epoch of least validation loss).
    """
    torch.set_num_threads(1)
    began = time.perf_counter()
    config = config_of(options, job)
    data = load_data(config.data)
    if (at_most := DATA[job.data].at_most) is not None:
        data = cut(data, at_most)
    test = data.test
    assert test is not None
    network = build_model(config.model, data, config.seed)
    best: dict[str, Any] = {}

    def keep(epoch: EpochReport, checkpoint: Callable[[], dict[str, Any]]) -> None:
        if epoch.is_best and epoch.epoch < config.train.num_epochs:
            best.update(copy.deepcopy(checkpoint()["model"]))
        elif epoch.is_best:
            best.clear()

    fit(network, replace(data, test=None), config.train, keep, seed=config.seed)
    losses = 2 * [score_rows(network, test, DRAWS)]
    if best:  # not the last epoch
        network.load_state_dict(best)
        network.latents.refresh()
        losses[1] = score_rows(network, test, DRAWS)
    frame = pd.DataFrame({"group": losses[0].groups[:, 0]})
    frame["loss"], frame["chosen"] = (one.loss for one in losses)
    by_group = frame.groupby("group")
    groups = by_group.mean().reset_index()
    groups.insert(1, "rows", by_group.size().to_numpy())
    is_new = groups["group"] >= data.schema.levels[0].size
    groups.insert(0, "kind", np.where(is_new, *reversed(KINDS)))
    return groups, time.perf_counter() - began


def applicable(options: Options, name: str, schema: Schema) -> list[str]:
    """Return the structures that the backbone can have."""
    found = []
    for structure in options.structures:
        config = config_of(options, Job(name, structure, 0))
        try:
            assemble(config.model, schema)
        except ConfigError:
            continue
        found.append(structure)
    return found


# ---------------------------------------------------------------- the table


class Comparison(NamedTuple):
    """A structure against the pooled network on one kind of groups of a data set.

    gains: [seeds, groups], nats, positive where the structure is better; chosen: the same at each
    network's own best epoch.
    """

    data: str
    kind: str
    structure: str
    gains: Floats
    chosen: Floats

    @property
    def gain(self) -> float:
        """Mean over groups and seeds."""
        return float(self.gains.mean())

    @property
    def error(self) -> float:
        """Standard error over groups; NaN for one group."""
        of_group = self.gains.mean(0)
        return float(of_group.std(ddof=1) / np.sqrt(len(of_group))) if len(of_group) > 1 else np.nan

    @property
    def spread(self) -> float:
        """SD of the seeds' gains; NaN for one seed."""
        return float(self.gains.mean(1).std(ddof=1)) if len(self.gains) > 1 else np.nan

    @property
    def bound(self) -> float:
        """Least gain that is not worse."""
        return -float(np.nanmax([SMALLEST_BOUND, 2 * self.error]))

    @property
    def is_gained(self) -> bool:
        """Whether the gain is beyond two standard errors."""
        return self.gain > 2 * self.error

    @property
    def p_worse(self) -> float:
        """P of so low a gain, were there none: one-sided t over groups; 1 where it is unknown."""
        if not self.error > 0:
            return 1.0
        return float(stats.t.cdf(self.gain / self.error, self.gains.shape[1] - 1))

    @property
    def p_worse_anew(self) -> float:
        """The same with an error over seeds, too (Satterthwaite's degrees of freedom)."""
        seeds, groups = self.gains.shape
        if seeds == 1 or not self.error > 0:
            return self.p_worse
        parts = np.array([self.error**2, self.spread**2 / seeds])
        free = parts.sum() ** 2 / (parts**2 / (groups - 1, seeds - 1)).sum()
        return float(stats.t.cdf(self.gain / np.sqrt(parts.sum()), free))


def holm(p: Floats) -> Floats:
    """Return p-values corrected for their number (Holm 1979), [K] as given."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = steps.clip(max=1.0)
    return corrected


def comparisons(results: Path, jobs: list[Job]) -> list[Comparison]:
    """Return what the finished runs tell, by the seeds of which both networks are there."""
    there = {job: pd.read_parquet(path) for job in jobs if (path := job.path(results)).exists()}
    found = []
    for data in dict.fromkeys(job.data for job in jobs):
        names = dict.fromkeys(job.structure for job in jobs if job.data == data)
        for kind in KINDS:
            for name in (name for name in names if name != POOLED):
                pairs = [
                    (there[Job(data, POOLED, job.seed)], table)
                    for job, table in there.items()
                    if (job.data, job.structure) == (data, name)
                    and Job(data, POOLED, job.seed) in there
                ]
                both = [
                    np.stack([gains_of(pooled, own, kind, at) for pooled, own in pairs])
                    for at in ("loss", "chosen")
                    if pairs
                ]
                if both and both[0].size:
                    found.append(Comparison(data, kind, name, *both))
    return found


def gains_of(pooled: pd.DataFrame, own: pd.DataFrame, kind: str, column: str) -> Floats:
    """Return each group's gain, [groups], in order of their numbers."""
    losses = [one[one["kind"] == kind].set_index("group")[column] for one in (pooled, own)]
    difference = losses[0] - losses[1]
    if difference.isna().any():
        raise ConfigError("runs of other data stand in the results; give another --results")
    return difference.sort_index().to_numpy(np.float64)


def shown(found: list[Comparison]) -> str:
    """Return the table as Markdown, and what is to be said of it."""
    corrected = holm(np.array([one.p_worse for one in found]))
    anew = holm(np.array([one.p_worse_anew for one in found]))
    head = ["data", "groups", "structure", "gain, nats", "SD over seeds", "bound", "holds", "worse"]
    head += ["worse with other seeds"]
    head += ["gain at its own best epoch"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one, p, again in zip(found, corrected, anew, strict=True):
        told = [one.data, f"{one.gains.shape[1]} {one.kind}", one.structure]
        spread = f"{one.spread:.4f}" if len(one.gains) > 1 else ""
        told += [f"{one.gain:+.4f} ± {one.error:.4f}", spread, f"{one.bound:+.4f}"]
        told += ["yes" if one.gain >= one.bound else "**no**"]
        told += [f"p {x:.3f}" if x >= LEVEL else f"**p {x:.3f}**" for x in (p, again)]
        told += [f"{one.chosen.mean():+.4f}"]
        lines.append(f"| {' | '.join(told)} |")
    broken = [one for one in found if one.gain < one.bound]
    worse = [one for one, p in zip(found, corrected, strict=True) if p < LEVEL]
    lines += ["", f"{len(found)} comparisons: {len(broken)} below the bound, {len(worse)} worse"]
    lines[-1] += f" than pooled at {LEVEL:.0%}, Holm-corrected ({(anew < LEVEL).sum()} where other "
    lines[-1] += "seeds count as well)."
    for data, kind in dict.fromkeys((one.data, one.kind) for one in found):
        here = [one for one in found if (one.data, one.kind) == (data, kind)]
        if not any(one.is_gained for one in here):
            best = max(here, key=lambda one: one.gain)
            lines.append(
                f"{data}, {kind} groups: latents gain nothing beyond two standard errors (at most "
                f"{best.structure}, {best.gain:+.4f} ± {best.error:.4f})."
            )
    return "\n".join(lines)


# ---------------------------------------------------------------- all of it


@dataclass
class Runs:
    """The runs that are done, and how long each took."""

    options: Options
    seconds: dict[Job, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.options.results / GROUPS).mkdir(parents=True, exist_ok=True)
        self.path = self.options.results / RUNS
        if self.path.exists():
            for row in pd.read_csv(self.path).to_dict("records"):
                job = Job(*(row[name] for name in KEY))
                if job.path(self.options.results).exists():
                    self.seconds[job] = row["seconds"]

    def keep(self, job: Job, groups: pd.DataFrame, seconds: float) -> None:
        """Write a finished run, its groups first."""
        groups.to_parquet(job.path(self.options.results), index=False)
        self.seconds[job] = seconds
        rows = [
            {
                **dict(zip(KEY, (job.data, job.structure, job.seed), strict=True)),
                "groups": kind,
                "number": len(own),
                "rows": int(own["rows"].sum()),
                "nats": round(float(own["loss"].mean()), 6),
                "chosen_nats": round(float(own["chosen"].mean()), 6),
                "seconds": round(seconds, 1),
            }
            for kind, own in groups.groupby("kind")
        ]
        pd.DataFrame(rows).to_csv(self.path, mode="a", header=not self.path.exists(), index=False)
        told = ", ".join(f"{row['groups']} {row['nats']:.4f}" for row in rows)
        print(f"{job.data} {job.structure} {job.seed}: {told} nats, {seconds:.0f} s", flush=True)

    def hours(self, jobs: list[Job]) -> float:
        """Return the hours that runs will take, by those that are done where there are some."""
        known: dict[tuple[str, str], list[float]] = {}
        for job, seconds in self.seconds.items():
            known.setdefault((job.data, job.structure), []).append(seconds)
        usual = {job: DATA[job.data].seconds * COST.get(job.structure, 1.0) for job in jobs}
        each = [np.mean(known.get((job.data, job.structure), [usual[job]])) for job in jobs]
        return float(sum(each)) / self.options.processes / 3600


def chosen(options: Options) -> list[Job]:
    """Return all runs, the pooled network's first of each seed; those that take long last."""
    for given, known, what in (
        (options.data, DATA, "data set"),
        (options.structures, WITH_PRIOR, "structure"),
    ):
        for name in given:
            if name not in known:
                raise ConfigError(unknown(what, name, known))
    jobs = []
    for name in options.data:
        if (lack := DATA[name].reads) and not (options.shared / lack).exists():
            print(f"{name}: left out, {options.shared / lack} is not here")
            continue
        prepare(options, name)
        schema = load_data(config_of(options, Job(name, POOLED, 0)).data).schema
        structures = applicable(options, name, schema)
        if others := [one for one in options.structures if one not in structures]:
            print(f"{name}: its backbone cannot have {', '.join(others)}")
        jobs += [Job(name, one, seed) for seed in options.seeds for one in (POOLED, *structures)]
    return sorted(jobs, key=lambda job: COST.get(job.structure, 1.0) > LONG)


def main() -> int:
    """Make the runs that are not done, and print the table."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    if options.quick:
        quick = {"data": ("digits",), "structures": ("factor", "film"), "seeds": (0,)}
        quick["results"] = options.results / "quick"
        options = options.model_copy(update=quick)
    jobs = chosen(options)
    runs = Runs(options)
    left = [job for job in jobs if job not in runs.seconds]
    print(f"{len(jobs)} runs, {len(left)} to do: about {runs.hours(left):.1f} hours", flush=True)
    failed = 0
    with ProcessPoolExecutor(options.processes) as pool:
        futures = {pool.submit(fared, options, job): job for job in left}
        for future in as_completed(futures):
            job = futures[future]
            left.remove(job)
            try:
                runs.keep(job, *future.result())
            except (HlvnnError, RuntimeError) as error:  # told; the others go on
                failed += 1
                print(f"{job.data} {job.structure} {job.seed}: failed: {error}", flush=True)
            if len(left) and len(left) % 10 == 0:
                print(f"{len(left)} left: about {runs.hours(left):.1f} hours", flush=True)
    if found := comparisons(options.results, jobs):
        print(shown(found))
    if failed:
        print(f"{failed} runs failed; start again to make them", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
