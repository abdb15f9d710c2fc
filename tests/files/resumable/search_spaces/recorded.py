"""Digits, in networks so small that a sweep of them can be kept: with latents and without.

python tune_search.py recorded
"""

BASE = {
    "dataset": "digits",
    "channels": [2, 3],
    "hidden": [6],
    "batch_size": 100,
    "num_epochs": 4,
    "val_fraction": 0.2,
}
METRIC = "val_acc"
MODE = "max"
SWEEP = {"num_trials": 6, "max_concurrent": 1}


def space(trial):
    """Draw one trial: a structure, and the width of its latent where there is one."""
    latents = trial.suggest_categorical("latent_config", ["none", "factor", "film"])
    drawn = {"lr": trial.suggest_float("lr", 1e-3, 3e-2, log=True), "latent_config": [latents]}
    if latents != "none":
        drawn["z_dim"] = [trial.suggest_int("z_dim", 2, 4)]
    return drawn
