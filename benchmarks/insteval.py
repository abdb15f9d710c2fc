"""InstEval, 73,421 marks by 2,972 students for 1,128 lecturers: ours, GPBoost and NumPyro.

    python benchmarks/insteval.py [--source ../shared/data/grouped/InstEval.csv.gz]
    python benchmarks/insteval.py --fits ours-2 gpboost-2    # some of them
    python benchmarks/insteval.py --optima                   # where each criterion ends (minutes)

Model: y ~ 1 + service + (1 | s) + (1 | d) [+ (1 | dept)], two or three factors. What is minimised
is −2 log likelihood (ours by plain defaults, which is exact; GPBoost) or −2 ELBO (ours where
posteriors are named, NumPyro; of normal posteriors, independent, or with students and lecturers
given the departments). Each has its own least value (`LEAST`); the question is how many seconds a
method takes to within a tolerance of it. Nobody's budget is chosen by hand:

- ours, exactly, stops by itself, always at the same place: nothing is set.
- ours with named posteriors and NumPyro start with few epochs or steps and double them, each time
  from the start, until the criterion changes by less than the tolerance. All tries count. *Reached*
  is when a try first came within the tolerance, *known* when the rule stopped: who does not know
  the answer pays that.
- GPBoost stops by its own tolerance, `delta_rel_conv`: its default, or the one asked for where that
  is finer. (Coarser than its default, 4e-6, it stops 39 from the least with three factors.) Its
  likelihood of crossed factors is approximate (`iterative`, its default) or exact (`cholesky`); the
  table has the exact likelihood at the parameters it found.

Each fit is a process of its own under OMP_NUM_THREADS=1 and the like, and runs everything twice:
seconds are first run / second run, the second without compilation and warm-up. They are CPU seconds
of the process, from the table in memory to the fitted parameters; imports are left out. GPBoost and
NumPyro are used where they are installed (pip install -e '.[comparisons]').

Settings tried, the best taken: ours 3 learning rates (0.05, 0.15, 0.4; no difference but at 0.05)
with two factors and 2 (0.05; 0.15 is not within 4 after 1,600 epochs) with three; NumPyro 4 (a rate
of 0.05 falling linearly, under two estimators of the ELBO; 0.05 and 0.2 falling by e⁷); GPBoost its
two `matrix_inversion_method`s, both shown.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from pydantic import BaseModel

LEVELS = ("s", "d", "dept")
LEAST = {
    "ELBO, independent": 237754.70,
    "ELBO, given departments": 237745.80,
    "likelihood, two factors": 237730.615,
    "likelihood, three factors": 237721.769,
}
"""Least values of −2 × criterion: see `--optima`. The last is lme4's, too. In float32 an ELBO of
this size is known to 0.02."""
GPBOOST_TOLERANCE = 1e-6
"""GPBoost's default, a relative change of its likelihood."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


class Options(BaseModel):
    """Which fits, how near, how long."""

    source: Path = Path("../shared/data/grouped/InstEval.csv.gz")
    """The table."""
    fits: tuple[str, ...] = ()
    """Names of fits (see `FITS`); none = all that can run."""
    tolerances: tuple[float, ...] = (1.0, 0.1)
    """Distances of −2 × criterion from its least value, falling."""
    limit: float = 60.0
    """CPU seconds after which no further try begins."""
    optima: bool = False
    """Compute the least values instead."""
    inside: bool = False
    """Run one fit in this process and print it as JSON (what the script calls itself with)."""


@dataclass(frozen=True)
class Try:
    """One fit: what it was given, where it ended, CPU seconds since the first try began."""

    budget: float
    criterion: float
    seconds: float
    sds: str


Attempt = Callable[[float], tuple[Callable[[], float], str]]
"""Fits with a budget; returns how to compute the criterion, and the SDs."""


@dataclass(frozen=True)
class Fit:
    """A method: its criterion, how its attempts are made, what it needs.

    first: the first try's epochs or steps; 0 = the method stops by a tolerance of its own.
    """

    label: str
    criterion: str
    make: Callable[[pd.DataFrame], Attempt]
    first: int
    package: str = "hlvnn"


def listed(**sds: float) -> str:
    """Return SDs in words."""
    return ", ".join(f"{name} {sd:.4f}" for name, sd in sds.items())


def ours(levels: str, lr: float | None) -> Callable[[pd.DataFrame], Attempt]:
    """Return our fits: exact by plain defaults (lr None), or of named posteriors by full batches.

    Of the latter three factors are conditional on the departments.
    """

    def make(frame: pd.DataFrame) -> Attempt:
        import hlvnn

        def intercept(level: str, **settings: str) -> hlvnn.LatentConfig:
            place = {"stage": "output", "placement": "bias", "prior": "learned"}
            return hlvnn.LatentConfig(level=level, **place, **settings)  # type: ignore[arg-type]

        latents = [intercept(level, posterior="mean_field") for level in ("s", "d")]
        if lr is None:
            latents = [intercept(level) for level in LEVELS[: 3 if levels == "three" else 2]]
        elif levels == "three":
            latents = [intercept(level, given="dept") for level in ("s", "d")]
            latents.append(intercept("dept", posterior="joint"))
        config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=latents)

        def attempt(budget: float) -> tuple[Callable[[], float], str]:
            data = hlvnn.GroupedDataset.from_frame(
                frame, target="y", features=["service"], groups=LEVELS, target_kind="real"
            )
            model = hlvnn.build_model(config, data, seed=0)
            train = hlvnn.TrainConfig()
            if lr is not None:
                epochs = int(budget)
                train = hlvnn.TrainConfig(
                    num_epochs=epochs, batch_size=None, lr=lr, eval_every=epochs, threads=1
                )
            result = hlvnn.fit(model, data, train)
            table = model.summary()
            priors = table[table["part"] == "prior sd"]
            sds = {row.level: row.estimate for row in priors.itertuples()}
            noise = float(table.loc[table["part"] == "noise sd", "estimate"].iloc[0])
            return lambda: -2 * result.elbo, listed(**sds, noise=noise)

        return attempt

    return make


def gpboost(levels: str, inversion: str) -> Callable[[pd.DataFrame], Attempt]:
    """Return GPBoost's fits by maximum likelihood."""

    def make(frame: pd.DataFrame) -> Attempt:
        import gpboost as gpb

        groups = frame[["s", "d", "dept"] if levels == "three" else ["s", "d"]].to_numpy()
        x = np.column_stack([np.ones(len(frame)), frame["service"]])
        y = frame["y"].to_numpy(float)

        def model(inversion: str) -> gpb.GPModel:
            return gpb.GPModel(
                group_data=groups, likelihood="gaussian", matrix_inversion_method=inversion
            )

        def attempt(budget: float) -> tuple[Callable[[], float], str]:
            fitted = model(inversion)
            fitted.fit(y=y, X=x, params={"delta_rel_conv": budget})
            variances = np.asarray(fitted.get_cov_pars(std_err=False)).ravel()
            effects = np.asarray(fitted.get_coef(std_err=False)).ravel()

            def exact() -> float:
                # A third of a second by Cholesky; the iterative value is some 0.8 off.
                return 2 * model("cholesky").neg_log_likelihood(
                    cov_pars=variances, y=y, fixed_effects=x @ effects
                )

            noise, *rest = variances**0.5 if (variances > 0).all() else variances
            sds = {level: float(sd) for level, sd in zip(LEVELS, rest, strict=False)}
            return exact, listed(**sds, noise=float(noise))

        return attempt

    return make


def exact(label: str, levels: str, inversion: str) -> Fit:
    """Return GPBoost's fit of two or three factors."""
    criterion = f"likelihood, {levels} factors"
    return Fit(label, criterion, gpboost(levels, inversion), 0, "gpboost")


def numpyro(lr: float) -> Callable[[pd.DataFrame], Attempt]:
    """Return NumPyro's stochastic variational inference, independent normals.

    The KL is in closed form where it can be (TraceMeanField_ELBO), the rate falls by e⁷. The number
    of steps is an argument of the compiled function, so that it is compiled once for all tries.
    """

    def make(frame: pd.DataFrame) -> Attempt:
        import jax
        import numpyro as npr
        import numpyro.distributions as dist
        from numpyro.infer import SVI, TraceMeanField_ELBO
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

        @jax.jit
        def run(steps: jax.Array) -> dict[str, jax.Array]:
            adam = Adam(lambda t: lr * jax.numpy.exp(-7.0 * t / steps))
            svi = SVI(model, AutoNormal(model, init_scale=0.1), adam, TraceMeanField_ELBO())
            state = svi.init(jax.random.PRNGKey(0))
            state = jax.lax.fori_loop(0, steps, lambda _, s: svi.update(s)[0], state)
            return svi.get_params(state)

        def attempt(budget: float) -> tuple[Callable[[], float], str]:
            found = run(int(budget))
            values = {name: np.asarray(value, float) for name, value in found.items()}
            sds = listed(
                s=float(values["sd_s"]), d=float(values["sd_d"]), noise=float(values["noise"])
            )
            return lambda: minus_two_elbo(columns, values), sds

        return attempt

    return make


def minus_two_elbo(columns: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> float:
    """Return −2 ELBO of independent normals exactly, from NumPyro's parameters."""
    y, noise = columns["y"].astype(float), values["noise"]
    eta = values["intercept"] + values["slope"] * columns["service"]
    variance, kl = np.zeros(len(y)), 0.0
    for level in ("s", "d"):
        mean, sd = values[f"z_{level}_auto_loc"], values[f"z_{level}_auto_scale"]
        prior = values[f"sd_{level}"]
        eta = eta + mean[columns[level]]
        variance += sd[columns[level]] ** 2
        kl += np.sum(np.log(prior / sd) + (sd**2 + mean**2) / (2 * prior**2) - 0.5)
    squares = np.sum((y - eta) ** 2 + variance) / noise**2
    return float(len(y) * np.log(2 * np.pi * noise**2) + squares + 2 * kl)


def least_independent(frame: pd.DataFrame, rounds: int = 4000) -> float:
    """Return the least −2 ELBO of independent normals: every parameter in turn set to its best.

    In float64, with none of the three programs.
    """
    columns = {name: frame[name].to_numpy() for name in ("s", "d", "service", "y")}
    y = columns["y"].astype(float)
    x = np.column_stack([np.ones(len(y)), columns["service"]]).astype(float)
    gram = np.linalg.inv(x.T @ x)
    counts = {level: np.bincount(columns[level]) for level in ("s", "d")}
    mean = {level: np.zeros(len(counts[level])) for level in counts}
    prior, noise, sd = dict.fromkeys(counts, 0.25), 1.0, dict(mean)
    effects = gram @ (x.T @ y)
    for _ in range(rounds):
        for level, other in (("s", "d"), ("d", "s")):
            rest = y - x @ effects - mean[other][columns[other]]
            precision = counts[level] / noise + 1 / prior[level]
            mean[level] = np.bincount(columns[level], rest) / noise / precision
            sd[level] = precision**-0.5
            prior[level] = float(np.mean(mean[level] ** 2 + sd[level] ** 2))
        rest = y - mean["s"][columns["s"]] - mean["d"][columns["d"]]
        effects = gram @ (x.T @ rest)
        spread = sum((counts[level] * sd[level] ** 2).sum() for level in counts)
        noise = float((((rest - x @ effects) ** 2).sum() + spread) / len(y))
    values = {"intercept": effects[0], "slope": effects[1], "noise": noise**0.5}
    for level in counts:
        values |= {f"z_{level}_auto_loc": mean[level], f"z_{level}_auto_scale": sd[level]}
        values[f"sd_{level}"] = prior[level] ** 0.5
    return minus_two_elbo(columns, values)


FITS = {
    "exact-2": Fit("ours, 2 factors, exact", "likelihood, two factors", ours("two", None), 0),
    "exact-3": Fit("ours, 3 factors, exact", "likelihood, three factors", ours("three", None), 0),
    "ours-2": Fit("ours, 2 factors", "ELBO, independent", ours("two", 0.15), 25),
    "numpyro-2": Fit("NumPyro, 2 factors", "ELBO, independent", numpyro(0.05), 250, "numpyro"),
    "gpboost-2": exact("GPBoost, 2 factors", "two", "iterative"),
    "gpboost-2-cholesky": exact("GPBoost, 2 factors, Cholesky", "two", "cholesky"),
    "ours-3": Fit("ours, 3 factors", "ELBO, given departments", ours("three", 0.05), 25),
    "gpboost-3": exact("GPBoost, 3 factors", "three", "iterative"),
    "gpboost-3-cholesky": exact("GPBoost, 3 factors, Cholesky", "three", "cholesky"),
}


def read(source: Path) -> pd.DataFrame:
    """Return the table with groups numbered from 0."""
    frame = pd.read_csv(source)
    for level in LEVELS:
        frame[level] = pd.factorize(frame[level], sort=True)[0]
    return frame


def doubled(attempt: Attempt, first: int, tolerance: float, limit: float) -> list[Try]:
    """Return tries of twice the budget each, until the criterion changes by less than tolerance."""
    tries: list[Try] = []
    began, budget = time.process_time(), first
    while True:
        criterion, sds = attempt(budget)
        value = criterion()
        tries.append(Try(budget, value, time.process_time() - began, sds))
        if len(tries) > 1 and abs(tries[-2].criterion - value) < tolerance:
            return tries
        if tries[-1].seconds > limit:
            return tries
        budget *= 2


def stopped_by_itself(attempt: Attempt, tolerances: tuple[float, ...], about: float) -> list[Try]:
    """Return a fit for each tolerance, by a method that has a relative tolerance of its own."""
    tries = []
    for tolerance in tolerances:
        relative = min(tolerance / about, GPBOOST_TOLERANCE)
        began = time.process_time()
        criterion, sds = attempt(relative)
        seconds = time.process_time() - began
        tries.append(Try(relative, criterion(), seconds, sds))
    return tries


def reached(tries: list[Try], least: float, tolerance: float) -> Try | None:
    """Return the first try within tolerance of the least value."""
    return next((one for one in tries if one.criterion - least <= tolerance), None)


def known(tries: list[Try], tolerance: float) -> Try | None:
    """Return the first try that differs from the one before by less than tolerance."""
    pairs = pairwise(tries)
    return next((b for a, b in pairs if abs(a.criterion - b.criterion) < tolerance), None)


def cells(fit: Fit, runs: list[list[Try]], tolerances: tuple[float, ...]) -> list[str]:
    """Return a fit's row of the table."""
    least, row = LEAST[fit.criterion], []
    for number, tolerance in enumerate(tolerances):
        ways: list[list[Try | None]] = [
            [reached(tries, least, tolerance) for tries in runs],
            [known(tries, tolerance) for tries in runs],
        ]
        if not fit.first:
            own = [reached(tries[number : number + 1], least, tolerance) for tries in runs]
            ways = [own, own]
        for found in ways:
            told = " / ".join(f"{one.seconds:.1f}" for one in found if one is not None)
            row.append(told or f"not in {max(tries[-1].seconds for tries in runs):.0f}")
    last = runs[0][-1]
    return [fit.label, f"{least:.2f}", *row, f"{last.criterion - least:+.2f}", last.sds]


def inside(options: Options, name: str) -> None:
    """Run one fit twice in this process; print its tries as JSON."""
    frame, fit = read(options.source), FITS[name]
    attempt, runs = fit.make(frame), []
    for _ in range(2):
        if fit.first:
            runs.append(doubled(attempt, fit.first, min(options.tolerances), options.limit))
        else:
            runs.append(stopped_by_itself(attempt, options.tolerances, LEAST[fit.criterion]))
    print(json.dumps([[asdict(one) for one in tries] for tries in runs]))


def outside(options: Options, name: str) -> list[list[Try]]:
    """Run one fit in a process of its own, with one thread."""
    command = [sys.executable, __file__, "--inside", "--fits", name]
    command += ["--source", str(options.source), "--limit", str(options.limit)]
    command += ["--tolerances", *map(str, options.tolerances)]
    environment = os.environ | ONE_THREAD
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [[Try(**one) for one in tries] for tries in json.loads(done.stdout.splitlines()[-1])]


def print_optima(options: Options) -> None:
    """Print the least values that `LEAST` holds."""
    frame = read(options.source)
    print(f"ELBO, independent: {least_independent(frame):.3f}")
    values = [FITS["ours-3"].make(frame)(epochs)[0]() for epochs in (1600, 3200)]
    print(f"ELBO, given departments: {values[0]:.3f}, with twice the epochs {values[1]:.3f}")
    for name in ("gpboost-2-cholesky", "gpboost-3-cholesky"):
        if importlib.util.find_spec("gpboost"):
            fit = FITS[name]
            print(f"{fit.criterion}: {fit.make(frame)(1e-10)[0]():.3f}", flush=True)


def given(fit: Fit, one: Try) -> str:
    """Return what a try was given."""
    if fit.label.endswith("exact"):
        return "nothing"
    if not fit.first:
        return f"relative tolerance {one.budget:.1e}"
    return f"{one.budget:g} {'steps' if fit.package == 'numpyro' else 'epochs'}"


def main(options: Options) -> None:
    """Run what is there and print the tables."""
    names = options.fits or tuple(FITS)
    if options.inside:
        return inside(options, names[0])
    if options.optima:
        return print_optima(options)
    within = [f"{way} within {t:g}, s" for t in options.tolerances for way in ("reached", "known")]
    head = ["fit", "least", *within, "from the least", "SDs"]
    rows, all_tries = [], []
    for name in names:
        fit = FITS[name]
        if not importlib.util.find_spec(fit.package):
            print(f"{fit.package} is not installed: {fit.label} is skipped", flush=True)
            continue
        runs = outside(options, name)
        rows.append(cells(fit, runs, options.tolerances))
        all_tries += [
            f"| {fit.label} | {given(fit, one)} | {one.criterion:.2f} | {one.seconds:.1f} |"
            for one in runs[0]
        ]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    print("\n".join(lines))
    print("\n| fit | given | −2 × criterion | s, first run |\n|---|---|---|---|")
    print("\n".join(all_tries))
    return None


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
