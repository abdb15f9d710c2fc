"""InstEval, 73,421 marks by 2,972 students for 1,128 lecturers: ours, GPBoost and NumPyro.

    python benchmarks/insteval.py [--source ../shared/data/grouped/InstEval.csv.gz]

All in one process, one after the other. GPBoost and NumPyro are used where they are installed
(pip install -e '.[comparisons]'). Model: y ~ 1 + service + (1 | s) + (1 | d) [+ (1 | dept)].
GPBoost maximises the exact likelihood; NumPyro's SVI and ours without `given` the ELBO of
independent normal posteriors. Seconds are of the fit alone; NumPyro's include its compilation.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from pydantic import BaseModel

import hlvnn
from hlvnn.data.grouped import GroupedDataset


class Options(BaseModel):
    """Which data, how long."""

    source: Path = Path("../shared/data/grouped/InstEval.csv.gz")
    """The table."""
    epochs: int = 120
    """Epochs of the fit with two independent levels."""
    conditional_epochs: int = 800
    """Epochs of the fit in which both levels depend on the departments."""
    svi_steps: int = 2000
    """Steps of NumPyro's SVI."""
    threads: int = 1
    """Threads of torch."""


Row = tuple[str, float, float, str]


def intercept(level: str, **settings: str) -> hlvnn.LatentConfig:
    """Return a random intercept with a learned SD."""
    return hlvnn.LatentConfig(
        level=level,
        stage="output",
        placement="bias",
        prior="learned",
        **settings,  # type: ignore[arg-type]
    )


def ours(
    name: str,
    frame: pd.DataFrame,
    latents: tuple[hlvnn.LatentConfig, ...],
    epochs: int,
    lr: float,
    threads: int,
) -> Row:
    """Fit with full batches."""
    data = GroupedDataset.from_frame(
        frame, target="y", features=["service"], groups=["s", "d", "dept"], target_kind="real"
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=latents)
    model = hlvnn.build_model(config, data, seed=0)
    train = hlvnn.TrainConfig(
        num_epochs=epochs, batch_size=None, lr=lr, eval_every=epochs, threads=threads
    )
    started = time.perf_counter()
    result = hlvnn.fit(model, data, train)
    seconds = time.perf_counter() - started
    table = model.summary()
    sds = table[table["part"] == "prior sd"]
    listed = [f"{row.level} {row.estimate:.4f}" for row in sds.itertuples()]
    noise = float(table.loc[table["part"] == "noise sd", "estimate"].iloc[0])
    return name, -2 * result.elbo, seconds, ", ".join([*listed, f"noise {noise:.4f}"])


def gpboost(frame: pd.DataFrame) -> Row:
    """Fit the two-factor model by exact maximum likelihood."""
    import gpboost as gpb

    x = np.column_stack([np.ones(len(frame)), frame["service"]])
    model = gpb.GPModel(group_data=frame[["s", "d"]].to_numpy(), likelihood="gaussian")
    started = time.perf_counter()
    model.fit(y=frame["y"].to_numpy(float), X=x)
    seconds = time.perf_counter() - started
    noise, students, lecturers = np.sqrt(np.asarray(model.get_cov_pars(std_err=False)).ravel()[:3])
    sds = f"s {students:.4f}, d {lecturers:.4f}, noise {noise:.4f}"
    return "GPBoost, exact", 2 * float(model.get_current_neg_log_likelihood()), seconds, sds


def numpyro(frame: pd.DataFrame, steps: int) -> Row:
    """Fit the two-factor model by stochastic variational inference, independent normals."""
    import jax
    import numpyro as npr
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal
    from numpyro.optim import Adam

    columns = {name: frame[name].to_numpy() for name in ("s", "d", "service", "y")}
    sizes = {level: int(columns[level].max()) + 1 for level in ("s", "d")}

    def model() -> None:
        eta = npr.param("intercept", 3.0) + npr.param("slope", 0.0) * columns["service"]
        for level in ("s", "d"):
            sd = npr.param(f"sd_{level}", 0.5, constraint=dist.constraints.positive)
            with npr.plate(level, sizes[level]):
                z = npr.sample(f"z_{level}", dist.Normal(0, sd))
            eta = eta + z[columns[level]]
        noise = npr.param("noise", 1.0, constraint=dist.constraints.positive)
        npr.sample("y", dist.Normal(eta, noise), obs=columns["y"])

    guide = AutoNormal(model, init_scale=0.1)
    started = time.perf_counter()
    svi = SVI(model, guide, Adam(lambda t: 0.05 * (1 - t / steps)), Trace_ELBO())
    result = svi.run(jax.random.PRNGKey(0), steps, progress_bar=False)
    seconds = time.perf_counter() - started
    check = Trace_ELBO(num_particles=100)
    loss = check.loss(jax.random.PRNGKey(1), result.params, model, guide)
    sds = ", ".join(f"{k} {float(result.params[v]):.4f}" for k, v in NAMES.items())
    return "NumPyro, SVI", 2 * float(loss), seconds, sds


NAMES = {"s": "sd_s", "d": "sd_d", "noise": "noise"}


def main(options: Options) -> None:
    """Run what is there and print the table."""
    torch.set_num_threads(options.threads)
    frame = pd.read_csv(options.source)
    for level in ("s", "d", "dept"):
        frame[level] = pd.factorize(frame[level], sort=True)[0]
    given = {"given": "dept"}
    independent = (intercept("s"), intercept("d"))
    conditional = (
        intercept("s", **given),
        intercept("d", **given),
        intercept("dept", posterior="joint"),
    )
    ours("warm-up", frame, independent, 2, 0.1, options.threads)
    runs: list[Callable[[], Row]] = [
        lambda: ours(
            "ours, independent", frame, independent, options.epochs, 0.15, options.threads
        ),
        lambda: ours(
            "ours, given departments",
            *(frame, conditional, options.conditional_epochs, 0.05, options.threads),
        ),
    ]
    if importlib.util.find_spec("gpboost"):
        runs.insert(1, lambda: gpboost(frame))
    if importlib.util.find_spec("numpyro"):
        runs.append(lambda: numpyro(frame, options.svi_steps))
    print("| fit | −2 log likelihood or −2 ELBO | seconds | SDs |")
    print("|---|---|---|---|")
    for run in runs:
        name, criterion, seconds, sds = run()
        print(f"| {name} | {criterion:.2f} | {seconds:.1f} | {sds} |", flush=True)
    for package in ("gpboost", "numpyro"):
        if not importlib.util.find_spec(package):
            print(f"{package} is not installed: skipped")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
