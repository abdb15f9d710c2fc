"""Handwritten characters of thousands of writers: which latents of the writer serve a CNN best.

The study for a cluster. It searches the structure (none, a latent at the output, at the dense
layer, at both, or a bias of the output), each latent's width, the posterior and the prior, the
model's size and dropout, the learning rate, the batch size, and the weight and annealing of the KL
terms. It expects the arrays in data/femnist/{small,large}; --data-dir moves the root.

    python tune_search.py femnist --data-size large --num-trials 200 --gpus-per-trial 0.25 \
        --address auto
"""

BASE = {"dataset": "femnist", "data_size": "small", "num_epochs": 30, "lr_schedule": "cosine"}
METRIC = "val_acc"
MODE = "max"
SWEEP = {"num_trials": 100, "grace_period": 2, "reduction_factor": 3}

WIDTHS = {"factor": ("z_output",), "lower": ("z_hidden",), "double": ("z_output", "z_hidden")}
"""The latents of each structure that have a width to choose, in the order of --z-dim."""


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [100, 200, 400]),
        "model_size": trial.suggest_categorical("model_size", ["small", "large"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
        "latent_config": trial.suggest_categorical(
            "latent_config", ["none", "factor", "lower", "double", "bias"]
        ),
    }
    if drawn["latent_config"] == "none":
        return drawn
    widths = WIDTHS.get(drawn["latent_config"], ())
    if widths:
        drawn["z_dim"] = [trial.suggest_int(name, 2, 64, log=True) for name in widths]
        drawn["posterior"] = trial.suggest_categorical("posterior", ["mean_field", "full_rank"])
    drawn["prior"] = trial.suggest_categorical("prior", ["standard", "learned"])
    drawn["kl_weight"] = trial.suggest_float("kl_weight", 0.1, 2.0, log=True)
    drawn["kl_annealing"] = trial.suggest_categorical("kl_annealing", [0, 5, 10])
    return drawn
