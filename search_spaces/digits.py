"""Handwritten digits of 14 writers: whether a latent of the writer helps, where, and how wide.

The smallest study: real handwriting, a small CNN, seconds a trial. It searches the learning rate,
the batch size, which latents there are (none, factor, lower, double, bias) and, where they have a
width of their own, how wide each is, their prior, and the weight and annealing of the KL terms.

    python tune_search.py digits
"""

BASE = {"dataset": "digits", "num_epochs": 12, "model_size": "small", "lr_schedule": "cosine"}
METRIC = "val_acc"
MODE = "max"
SWEEP = {"num_trials": 24, "grace_period": 2, "reduction_factor": 2.5}

WIDTHS = {"factor": ("z_output",), "lower": ("z_hidden",), "double": ("z_output", "z_hidden")}
"""The latents of each structure that have a width to choose, in the order of --z-dim."""


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 3e-4, 2e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
        "latent_config": trial.suggest_categorical(
            "latent_config", ["none", "factor", "lower", "double", "bias"]
        ),
    }
    if drawn["latent_config"] == "none":
        return drawn
    widths = WIDTHS.get(drawn["latent_config"], ())
    if widths:
        drawn["z_dim"] = [trial.suggest_int(name, 1, 16, log=True) for name in widths]
    drawn["prior"] = trial.suggest_categorical("prior", ["standard", "learned"])
    drawn["kl_weight"] = trial.suggest_float("kl_weight", 0.1, 2.0, log=True)
    drawn["kl_annealing"] = trial.suggest_categorical("kl_annealing", [0, 3, 6])
    return drawn
