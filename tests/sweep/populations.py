"""A population: its search space and the flags that ask for it."""

from __future__ import annotations

SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [16], "batch_size": 32, "num_epochs": 7,
        "latent_config": "factor"}
METRIC, MODE = "val_loss", "min"

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
            "weight_decay": trial.suggest_float("decay", 0.0, 0.1),
            "kl_weight": trial.suggest_categorical("kl", [0.3, 1.0, 2.0])}
"""
FLAGS = ("study", "--scheduler", "pbt", "--searcher", "random", "--num-trials", "5")
FLAGS = (*FLAGS, "--perturb-every", "3", "--name", "one")
