"""Test errors on two tables with published folds, beside published methods.

    python benchmarks/tabular.py [--source ../shared/data/tabular] [--tables wages spotify]

The tables, their folds and the published errors are those of Sigrist (2023), arXiv 2307.02071:
log wages of 4,696 women, and the danceability of tracks by album, artist, playlist and subgenre.
Each fold is tested once, by models fitted to the other four. Groups without training rows (on
spotify three albums in four) integrate their prior. Scores are mean squared errors; on spotify
predictions are clipped to 0..1, as the published ones were.

Structures (`TABLES`) were chosen on fold 1's training rows alone, by cuts such as --validate-only
makes: the score is then on a fifth of the training rows, taken at random as the test rows are (not
inside groups, so that as many groups are unseen), and no test row is scored. Fold 1's training rows
hold the other folds' test rows: only fold 1 is untouched by that choice.

With --tries N each of the three networks (ours, the one with embeddings, the pooled one) has so
many settings of one and the same list tried on that cut, and the best is fitted: the table's own
first, then random ones (`drawn`). Without, each has the table's own, of which at least those in its
comments were tried for ours. Seconds are CPU seconds of one thread for a fit, features and
predictions included. With several --seeds an error is the mean of single fits, ± their SD.

Peers are fitted here, too (`tabular_peers.py`): CatBoost with as many settings tried as its comment
says, on the same cut, and mixed models, which have nothing to tune. Below a table, ours minus each
of them, paired row by row: ± over rows, and over the kind of group for which it is widest, since
rows of a group are not independent.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from pydantic import BaseModel
from tabular_peers import catboost, mixed_model, paired

import hlvnn
from hlvnn.config import run_config

NETWORKS = {
    "pooled": "pooled network, ours",
    "embedding": "network with embeddings, ours",
    "ours": "**ours**",
}
"""Networks, all of them ours, and what they are called."""
DRAWS = 1000
"""Draws of z a prediction averages: an unseen group's prior is wide, and draws cost little."""
PUBLISHED = {
    "linear": "linear mixed model",
    "boost_cont": "boosting, group ids as numbers",
    "boost_cat": "boosting, group ids as categories",
    "catboost": "CatBoost",
    "gpboost": "GPBoost",
    "gpboost_excl": "GPBoost, ids in the random effects alone",
    "gpboost_incl": "GPBoost, ids in the trees too",
    "neural:ignore": "network without groups",
    "neural:embed": "network with embeddings",
    "neural:lme4": "lme4",
    "neural:lmm": "LMMNN",
}
"""The published methods, by their names in `published_errors.json`."""


@dataclass(frozen=True)
class Peer:
    """Something not ours that is fitted here: a mixed model, or CatBoost where it has settings.

    slopes: columns with a random effect of each group beside the intercept; pieces: whether it gets
    the columns as the networks do.
    """

    label: str
    slopes: tuple[str, ...] = ()
    pieces: bool = True
    settings: dict[str, Any] | None = None


@dataclass(frozen=True)
class Table:
    """One of the tables: its columns, our models and their settings.

    limits: of predictions; squares: columns that enter squared as well, as NAME2; pieces: columns
    enter as their shares of the intervals between their quantiles; latents: of the model `ours`;
    settings: of all networks; own: what each sets otherwise; peers: what is set beside them.
    """

    target: str
    groups: tuple[str, ...]
    limits: tuple[float, float]
    latents: tuple[str, ...]
    settings: dict[str, Any]
    own: dict[str, dict[str, Any]]
    peers: dict[str, Peer]
    squares: tuple[str, ...] = ()
    pieces: bool = False


CATBOOST = {"iterations": 2000, "depth": 6, "learning_rate": 0.065, "l2_leaf_reg": 10}
"""Of six settings, each with any number of trees up to 2,000, the best on both tables. On spotify,
depths 4, 6, 8 gave 0.00840, 0.00835, 0.00840, twice the rate 0.00849, half the columns a tree
0.00838, this 0.00831 (ours on that cut: 0.00858); on wages 0.0951, 0.0941, 0.0946, 0.0952, 0.0944,
0.0936 (ours: 0.0895). Two with 1,000 trees before these, on spotify, were worse."""
SLOPES = "weights@output:columns=t,t2,ttl_exp,tenure"
SPOTIFY = ("album_id", "artist_id", "playlist_id", "subgenre_id")
PIECES = 8
"""Intervals a column: 24 overfitted (0.0108 for 0.0106, without groups), plain columns gave 0.0111;
a network follows a jagged curve badly where trees do not (Gorishniy, Rubachev, Babenko 2022)."""

TABLES = {
    "wages": Table(
        target="ln_wage",
        groups=("idcode",),
        limits=(-np.inf, np.inf),
        squares=("t",),
        # Intercepts alone gave 0.0884, with t and t² 0.0855, with experience and tenure 0.0825;
        # the slopes need an output stage that sees the columns (skip).
        latents=(f"{SLOPES} level=idcode posterior=full_rank prior=learned_full",),
        settings={
            "hidden": [64, 64],  # 256 units do no better
            "skip": True,
            "dropout": 0.4,  # without it the network learns the women by heart: 0.0858
            "weight_decay": 1.0,
            "num_epochs": 60,
            "batch_size": 500,
            "lr": 6e-3,
        },
        own={
            "pooled": {"dropout": 0.1, "num_epochs": 20},
            "embedding": {"embedding_lr": 1.0, "num_epochs": 20},  # 5 gave 0.0928, 1 gave 0.0912
        },
        peers={
            "mixed-intercept": Peer("mixed model, intercept"),
            "mixed": Peer("mixed model, intercept, t, t²", slopes=("t", "t2")),
            "mixed-slopes": Peer(
                "mixed model, ours' slopes too", slopes=("t", "t2", "ttl_exp", "tenure")
            ),
            "catboost": Peer("CatBoost", settings=CATBOOST),
        },
    ),
    "spotify": Table(
        target="danceability",
        groups=SPOTIFY,
        limits=(0.0, 1.0),
        pieces=True,
        # More latents at the first layer (concat, basis) gained nothing.
        latents=tuple(f"bias@output level={level} prior=learned" for level in SPOTIFY),
        settings={
            "hidden": [128, 128],
            "dropout": 0.2,
            "weight_decay": 2.0,  # 0 gave 0.00885, 2 gave 0.00871
            "num_epochs": 15,
            "batch_size": 200,
            "lr": 3e-3,
        },
        own={
            "embedding": {"embedding_lr": 5.0, "num_epochs": 6},  # 15 epochs gave 0.0099, 6 0.0095
        },
        peers={
            "mixed": Peer("mixed model, intercepts", pieces=False),
            "mixed-pieces": Peer("mixed model, intercepts, pieces"),
            "catboost": Peer("CatBoost", pieces=False, settings=CATBOOST),
            "catboost-pieces": Peer("CatBoost, pieces", settings=CATBOOST),
        },
    ),
}


class Options(BaseModel):
    """Which tables, which models."""

    source: Path = Path("../shared/data/tabular")
    """Folder of the tables and their published errors."""
    tables: tuple[str, ...] = tuple(TABLES)
    """Tables to run."""
    models: tuple[str, ...] = ()
    """Models to run, networks (`NETWORKS`) and peers of the table (`TABLES`); none = all."""
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Folds to test."""
    seeds: int = 1
    """Fits of each network and of CatBoost."""
    tries: int = 1
    """Settings tried for each network on a cut from the first fold's training rows."""
    validate_only: bool = False
    """Score a fifth of the training rows instead of the test rows."""
    write: Path | None = None
    """Folder to write the first fold's training rows to, as our models read them, for
    search_spaces/tabular_*.py; nothing is fitted."""
    output: Path | None = None
    """JSON file for the figures."""


def parts(frame: pd.DataFrame, fold: int, validate_only: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to fit and the rows to score."""
    train, test = frame[frame["fold"] != fold], frame[frame["fold"] == fold]
    if validate_only:
        order = np.random.default_rng(fold).permutation(len(train))
        cut = len(train) // 5
        train, test = train.iloc[order[cut:]], train.iloc[order[:cut]]
    return train.drop(columns="fold"), test.drop(columns="fold")


def with_features(table: Table, train: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns the networks read; quantiles are of the training rows."""
    features = [name for name in rows if name not in (table.target, *table.groups)]
    columns = {name: rows[name] for name in (*table.groups, table.target)}
    for name in features:
        if table.pieces:
            edges = np.unique(np.quantile(train[name], np.linspace(0, 1, PIECES + 1)))
            for piece, (low, high) in enumerate(pairwise(edges), start=1):
                columns[f"{name}_{piece}"] = ((rows[name] - low) / (high - low)).clip(0, 1)
        else:
            columns[name] = rows[name]
        if name in table.squares:
            columns[f"{name}2"] = rows[name] ** 2
    return pd.DataFrame(columns)


def latents(table: Table, model: str) -> tuple[hlvnn.LatentConfig, ...]:
    """Return the latents of one of the models."""
    texts: tuple[str, ...] = ()
    if model == "ours":
        texts = table.latents
    elif model == "embedding":
        place = "concat@hidden1 width=8 posterior=point prior=none"
        texts = tuple(f"{place} level={level}" for level in table.groups)
    return tuple(hlvnn.LatentConfig.from_text(text) for text in texts)


def read(source: Path, name: str) -> pd.DataFrame:
    """Return a table's rows, labels of groups as whole numbers."""
    return pd.read_csv(source / f"{name}.csv.gz", dtype=dict.fromkeys(TABLES[name].groups, "int64"))


def write_training_rows(options: Options, folder: Path) -> None:
    """Write the first fold's training rows of each table, without the column `fold`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.tables:
        train, _ = parts(read(options.source, name), options.folds[0], validate_only=False)
        path = folder / f"{name}.csv.gz"
        with_features(TABLES[name], train, train).to_csv(path, index=False)
        print(f"{path}: {len(train)} training rows of fold {options.folds[0]}")


def drawn(table: Table, model: str, number: int) -> dict[str, Any]:
    """Return the settings of a network's try: 0 is the table's own, others are drawn at random.

    The draws are the same for all three networks; embeddings have a learning rate beside them.
    """
    own = {**table.settings, **table.own.get(model, {})}
    if number == 0:
        return own
    random = np.random.default_rng(number)
    longest = table.settings["num_epochs"]
    settings = {
        "lr": float(np.exp(random.uniform(np.log(1e-3), np.log(1e-2)))),
        "dropout": float(random.choice([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])),
        "weight_decay": float(np.exp(random.uniform(np.log(0.01), np.log(5)))),
        "num_epochs": int(random.choice([longest // 3, longest // 2, longest])),
        "hidden": [int(random.choice([32, 64, 128]))] * int(random.choice([1, 2])),
    }
    embedding_lr = float(np.exp(random.uniform(np.log(0.3), np.log(5))))
    return {**own, **settings} | ({"embedding_lr": embedding_lr} if model == "embedding" else {})


def chosen(options: Options, name: str, model: str) -> dict[str, Any]:
    """Return a network's settings: of its tries those with the least error on the cut."""
    table = TABLES[name]
    if options.tries == 1:
        return drawn(table, model, 0)
    train, cut = parts(read(options.source, name), options.folds[0], validate_only=True)
    errors = []
    for number in range(options.tries):
        settings = drawn(table, model, number)
        [mean] = predictions(table, model, train, cut, 1, settings)
        errors.append(float(np.mean((mean - cut[table.target]) ** 2)))
        print(f"{name} {model} try {number}: {errors[-1]:.5f}  {settings}", flush=True)
    return drawn(table, model, int(np.argmin(errors)))


def predictions(
    table: Table,
    model: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    seeds: int,
    settings: dict[str, Any],
) -> list[np.ndarray]:
    """Fit a model with each seed and predict the test rows: [rows] each.

    settings: of a network; a peer has its own.
    """
    seen, unseen = with_features(table, train, train), with_features(table, train, test)
    if peer := table.peers.get(model):
        rows = (seen, unseen) if peer.pieces else (train, test)
        if peer.settings is None:
            fits = [mixed_model(*rows, table.target, table.groups, peer.slopes).predicted]
        else:
            about = (table.target, table.groups, peer.settings)
            fits = [catboost(*rows, *about, seed) for seed in range(seeds)]
        return [fit.clip(*table.limits) for fit in fits]
    features = [name for name in seen if name not in (table.target, *table.groups)]
    data = hlvnn.GroupedDataset.from_frame(seen, table.target, features, table.groups)
    fixed = {"backbone": "mlp", "likelihood": "gaussian", "eval_every": 1000, "device": "cpu"}
    config = run_config({**settings, **fixed, "latents": latents(table, model)}, "tabular")
    result = []
    for seed in range(seeds):
        network = hlvnn.build_model(config.model, data, seed)
        hlvnn.fit(network, data, config.train, seed=seed)
        mean = hlvnn.predict(network, unseen, num_samples=DRAWS)["mean"].to_numpy()
        result.append(mean.clip(*table.limits))
    return result


def run(options: Options, name: str, model: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Fit one model to every fold and score it; return its figures, and its rows' errors."""
    table = TABLES[name]
    frame = read(options.source, name)
    settings = chosen(options, name, model) if model in NETWORKS else {}
    errors, seconds, rows = [], [], []
    for fold in options.folds:
        train, test = parts(frame, fold, options.validate_only)
        started = time.process_time()  # of the one thread, whoever else uses the machine
        means = predictions(table, model, train, test, options.seeds, settings)
        seconds.append((time.process_time() - started) / len(means))
        y = test[table.target].to_numpy()
        squares = np.stack([(mean - y) ** 2 for mean in means])
        errors.append(squares.mean(1))
        rows.append(test[list(table.groups)].assign(fold=fold, square=squares.mean(0)))
        print(
            f"{name} {model} fold {fold}: {errors[-1].mean():.5f}  {seconds[-1]:.0f} s", flush=True
        )
    of_fit = np.mean(errors, axis=0)
    figures = {
        "table": name,
        "model": model,
        "settings": settings,
        "fits": len(of_fit),
        "folds": [float(error.mean()) for error in errors],
        "mean": float(of_fit.mean()),
        "sd": float(of_fit.std(ddof=1)) if len(of_fit) > 1 else None,
        "seconds": float(np.mean(seconds)),
    }
    return figures, pd.concat(rows)


def label(name: str, model: str) -> str:
    """Return what a model that ran here is called."""
    if peer := TABLES[name].peers.get(model):
        by = "statsmodels" if peer.slopes else "GPBoost"
        return f"{peer.label} ({f'{by}, ' if peer.settings is None else ''}fitted here)"
    return NETWORKS[model]


def shown(options: Options, name: str, rows: list[dict[str, Any]]) -> str:
    """Return a table's Markdown: published methods and those that ran, the best first."""
    published = json.loads((options.source / "published_errors.json").read_text())
    lines = []
    for method, known in published[name]["test_mse"].items():
        folds = [known["folds"][fold - 1] for fold in options.folds]
        told = f"{PUBLISHED.get(method, method)} (published)"
        lines.append((float(np.mean(folds)), "", told, folds, known["seconds"]))
    for row in rows:
        spread = f" ± {row['sd']:.5f}" if row["sd"] is not None else ""
        lines.append((row["mean"], spread, label(name, row["model"]), row["folds"], row["seconds"]))
    head = ["method", "mean", *(f"fold {fold}" for fold in options.folds), "s"]
    text = [f"{name}:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for mean, spread, told, folds, seconds in sorted(lines, key=lambda line: line[0]):
        cells = " | ".join(f"{error:.5f}" for error in folds)
        text.append(f"| {told} | {mean:.5f}{spread} | {cells} | {seconds:.0f} |")
    return "\n".join(text)


def differences(name: str, ran: dict[str, pd.DataFrame]) -> str:
    """Return a Markdown table: ours minus each other model that ran, on the first fold and on all.

    A mean over rows, so that folds of unequal sizes count by their rows.
    """
    head = ["ours minus", "rows of", "difference", "± over rows", "± over groups", "groups of"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    ours = ran["ours"]
    for model, rows in ran.items():
        folds = sorted(rows["fold"].unique())
        for which in dict.fromkeys([folds[0], None if len(folds) > 1 else folds[0]]):
            kept = (rows["fold"] == which).to_numpy() if which else np.ones(len(rows), bool)
            gap = (ours["square"].to_numpy() - rows["square"].to_numpy())[kept]
            groups = rows.loc[kept, list(TABLES[name].groups)]
            mean, over_rows, over_groups = paired(gap, groups)
            widest = max(over_groups, key=lambda kind: over_groups[kind])
            cells = [label(name, model), f"fold {which}" if which else "all folds"]
            cells += [f"{mean:+.6f}", f"{over_rows:.6f}", f"{over_groups[widest]:.6f}", widest]
            if model != "ours":
                text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def main(options: Options) -> None:
    """Run all and print the tables."""
    if options.write is not None:
        write_training_rows(options, options.write)
        return
    torch.set_num_threads(1)
    rows = []
    for name in options.tables:
        models = options.models or (*NETWORKS, *TABLES[name].peers)
        of_table = {model: run(options, name, model) for model in models}
        figures = [figure for figure, _ in of_table.values()]
        rows += figures
        if not options.validate_only:
            print("\n" + shown(options, name, figures) + "\n", flush=True)
            if "ours" in models and len(models) > 1:
                ran = {model: errors for model, (_, errors) in of_table.items()}
                print(differences(name, ran) + "\n", flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
