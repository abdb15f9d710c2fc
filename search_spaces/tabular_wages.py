"""Wages of 4,696 women: how their trajectories differ from one another, and the network's settings.

It searches the structure: nothing of the woman, her intercept, random slopes beside the network
(which columns, how the posterior and the prior hold them together), weights of a narrow last layer
("deep" slopes), a vector that joins, modulates or bends the first layer, or an intercept and such a
vector. With it the widths, the hidden layers, dropout, weight decay, norm, learning rate, batch
size and length. Validation rows are taken at random among all rows, as the published folds were.
The table is the training rows of a published fold:

    python benchmarks/tabular.py --write data/tabular
    python tune_search.py tabular_wages
"""

BASE = {
    "dataset": "table",
    "table": "data/tabular/wages.csv.gz",
    "target": "ln_wage",
    "groups": ["idcode"],
    "test_fraction": 0.0,  # the published test rows are not in the table
    "val_fraction": 0.2,
    "split": "rows",
    "unseen": "prior",
    "backbone": "mlp",
    "likelihood": "gaussian",
    "eval_every": 3,
    "eval_samples": 100,  # with few draws the wide prior of a new group would count as error
}
METRIC = "val_mse"
MODE = "min"
SWEEP = {"num_trials": 60, "grace_period": 6, "reduction_factor": 3}

SLOPES = ("t", "t,t2", "ttl_exp,tenure", "t,t2,ttl_exp,tenure", "t,t2,ttl_exp,tenure,hours")
INTERCEPT = "bias@output level=idcode prior=learned"


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [200, 500, 1000]),
        "num_epochs": trial.suggest_categorical("num_epochs", [15, 30, 60]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
        "weight_decay": trial.suggest_float("weight_decay", 1e-2, 10.0, log=True),
        "norm": trial.suggest_categorical("norm", ["none", "layer"]),
    }
    hidden = [trial.suggest_categorical("hidden", [32, 64, 128, 256])]
    hidden *= trial.suggest_int("layers", 1, 2)
    structure = trial.suggest_categorical(
        "structure", ["none", "intercept", "slopes", "deep", "vector", "intercept+vector"]
    )
    if structure == "none":
        return drawn | {"hidden": hidden}
    latents = [INTERCEPT] if structure.startswith("intercept") else []
    if structure == "slopes":
        drawn["skip"] = True  # the slopes are of columns that the output sees
        place = f"weights@output:columns={trial.suggest_categorical('slopes', SLOPES)}"
        latents.append(f"{place} level=idcode {law(trial)}")
    if structure == "deep":
        hidden = [*hidden, trial.suggest_int("last", 2, 8)]
        latents.append(f"weights@output level=idcode {law(trial)}")
    if structure.endswith("vector"):
        place = trial.suggest_categorical("placement", ["concat", "film", "basis"])
        width = trial.suggest_int("width", 1, 8, log=True)
        latents.append(f"{place}@hidden1 level=idcode width={width} {law(trial)}")
    return drawn | {"hidden": hidden, "latents": latents}


def law(trial):
    """Draw posterior and prior of a latent of several dimensions."""
    posterior = trial.suggest_categorical("posterior", ["mean_field", "full_rank"])
    prior = trial.suggest_categorical("prior", ["standard", "learned", "learned_full"])
    return f"posterior={posterior} prior={prior}"
