"""Shakespeare's characters, small: whether latents of character and play help an LSTM, and where.

Two questions at once: which latents there are (none, or of both levels at the output, at the
dense layer, at both, or as a bias of the output), and how wide each is, apart for characters and
plays. With them the learning rate, the batch size, the dense layer's width, the prior, and the
weight and annealing of the KL terms. Three epochs tell good settings from bad ones; ASHA compares
after the first. On two CPU cores it takes a few minutes.

    python tune_search.py shakespeare
"""

BASE = {
    "dataset": "shakespeare",
    "data_size": "small",
    "model_size": "small",
    "num_epochs": 3,
    "lr_schedule": "cosine",
    "clip_grad": 1.0,
}
METRIC = "val_acc"
MODE = "max"
SWEEP = {"num_trials": 16, "grace_period": 1, "reduction_factor": 4}

OUTPUT = ("z_character_output", "z_play_output")
HIDDEN = ("z_character_hidden", "z_play_hidden")
WIDTHS = {"factor": OUTPUT, "lower": HIDDEN, "double": OUTPUT + HIDDEN}
"""The latents of each structure that have a width to choose, in the order of --z-dim."""


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 3e-3, 3e-2, log=True),  # few epochs need a high one
        "batch_size": trial.suggest_categorical("batch_size", [100, 200, 400]),
        "hidden": [trial.suggest_categorical("hidden", [32, 64, 128])],
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
    drawn["kl_annealing"] = trial.suggest_categorical("kl_annealing", [0, 1, 2])
    return drawn
