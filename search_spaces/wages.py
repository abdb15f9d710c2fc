"""Wages of 545 men over eight years: whether a man has his own level, slope or network, and how.

The study to begin with: real, a second or two a trial, and groups matter. Two of a man's years are
test rows, one is a validation row. It searches the structure (nothing of the man, his intercept,
his slopes of the year and more, a vector that scales a hidden layer or joins it), its width, and
the network's size, dropout and learning rate.

    python tune_search.py wages
"""

BASE = {
    "dataset": "wages",
    "test_fraction": 0.25,
    "val_fraction": 0.17,
    "backbone": "mlp",
    "likelihood": "gaussian",
    "num_epochs": 27,
    "batch_size": 100,
}
METRIC = "val_loss"
MODE = "min"
SWEEP = {"num_trials": 24, "grace_period": 3, "reduction_factor": 3}

SLOPES = {
    "year": "weights@output:columns=year",
    "year, union, married": "weights@output:columns=year,union,married",
}


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4, step=0.1),
        "hidden": [trial.suggest_categorical("hidden", [16, 32, 64])],
    }
    structure = trial.suggest_categorical(
        "structure", ["none", "intercept", "slopes", "film", "concat", "embedding"]
    )
    if structure == "none":
        return drawn | {"latent_config": "none"}
    if structure == "intercept":
        latent = "bias@output level=man"
    elif structure == "slopes":
        columns = SLOPES[trial.suggest_categorical("slopes", list(SLOPES))]
        latent = f"{columns} level=man posterior=full_rank prior=learned_full"
        drawn["skip"] = True  # the slopes are of columns that the output sees
    elif structure == "embedding":
        latent = "concat@hidden1 level=man width=4 posterior=point prior=none"
    else:
        width = trial.suggest_int("width", 1, 8, log=True)
        latent = f"{structure}@hidden1 level=man width={width}"
    return drawn | {"latents": [latent]}
