"""Danceability by album, artist, playlist and subgenre: which of them matter, where, and how.

It searches the structure: for each of the four crossed levels whether it has an intercept, and a
vector at a hidden layer, how wide, and how it enters; the vectors' posteriors and priors; whether a
playlist's intercept is independent of its subgenre's a posteriori or depends on it (every playlist
lies in one subgenre). With it the hidden layers, dropout, weight decay, norm, learning rate, batch
size, length and the weight of the KL terms. Validation rows are taken at random among all rows, as
the published folds were: three albums in four are new in them. The table is the training rows of a
published fold, its columns as the benchmark's networks read them:

    python benchmarks/tabular.py --write data/tabular
    python tune_search.py tabular_spotify
"""

LEVELS = ("album_id", "artist_id", "playlist_id", "subgenre_id")
BASE = {
    "dataset": "table",
    "table": "data/tabular/spotify.csv.gz",
    "target": "danceability",
    "groups": list(LEVELS),
    "test_fraction": 0.0,  # the published test rows are not in the table
    "val_fraction": 0.2,
    "split": "rows",
    "unseen": "prior",
    "backbone": "mlp",
    "likelihood": "gaussian",
    "eval_every": 4,
    "eval_samples": 100,  # with few draws the wide prior of a new group would count as error
}
METRIC = "val_mse"
MODE = "min"
SWEEP = {"num_trials": 60, "grace_period": 4, "reduction_factor": 3}

INTERCEPT = "bias@output level={} prior=learned"


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [100, 200, 400]),
        "num_epochs": trial.suggest_categorical("num_epochs", [8, 15, 30]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
        "weight_decay": trial.suggest_float("weight_decay", 1e-2, 10.0, log=True),
        "norm": trial.suggest_categorical("norm", ["none", "layer"]),
    }
    layers = trial.suggest_int("layers", 1, 2)
    drawn["hidden"] = [trial.suggest_categorical("hidden", [64, 128, 256])] * layers
    latents = [text for level in LEVELS for text in of_level(trial, level, layers)]
    playlist, subgenre = (INTERCEPT.format(level) for level in LEVELS[2:])
    if playlist in latents and subgenre in latents:
        given = trial.suggest_categorical("given", ["none", "subgenre_id"])
        latents[latents.index(playlist)] = f"{playlist} given={given}"
    drawn["latents"] = latents
    if drawn["latents"]:
        drawn["kl_weight"] = trial.suggest_float("kl_weight", 0.3, 2.0, log=True)
    return drawn


def of_level(trial, level, layers):
    """Draw the latents of one level."""
    name = level.removesuffix("_id")
    latents = []
    if trial.suggest_categorical(f"{name}_intercept", [True, False]):
        latents.append(INTERCEPT.format(level))
    if trial.suggest_categorical(f"{name}_vector", [True, False]):
        place = trial.suggest_categorical(f"{name}_placement", ["concat", "film", "basis"])
        stage = trial.suggest_int(f"{name}_stage", 1, layers)
        width = trial.suggest_int(f"{name}_width", 1, 8, log=True)
        posterior = trial.suggest_categorical(f"{name}_posterior", ["mean_field", "full_rank"])
        prior = trial.suggest_categorical(f"{name}_prior", ["standard", "learned"])
        law = f"width={width} posterior={posterior} prior={prior}"
        latents.append(f"{place}@hidden{stage} level={level} {law}")
    return latents
