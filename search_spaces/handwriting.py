"""Handwriting by writer: which latents a small CNN should have, and where they enter.

The structure is searched together with the settings: the level (writers alone, or writers around
their collection site by a nested prior), the places (film at the hidden stages, basis, concat or
bias at the output, alone or together through one vector), its width, the basis's rank, and the
prior; with them dropout, the strength of random moves of the images, the learning rate and the
weight of the KL terms. Selection is on validation nats: they count every class's probability, and
are less noisy than accuracy. The data are a folder of arrays with the levels writer and site:

    python benchmarks/unipen.py unipen_writers.npz --out data/handwriting/small --sites
    python tune_search.py handwriting
"""

BASE = {
    "dataset": "handwriting",
    "data_size": "small",
    "backbone": "cnn",
    "batch_size": 100,
    "num_epochs": 12,
    "lr_schedule": "one_cycle",
    "print_freq": 0,
}
METRIC = "val_loss"
MODE = "min"
SWEEP = {"num_trials": 24, "grace_period": 3, "reduction_factor": 3}

FILM = "film@conv1+film@conv2+film@hidden"
PLACES = {
    "film": FILM,
    "film+basis": FILM + "+basis@output:rank={rank}",
    "film+concat": FILM + "+concat@output",
    "basis": "basis@output:rank={rank}",
    "filters+basis": "basis@conv1:rank=4+basis@conv2:rank=4+basis@output:rank={rank}",
    "concat": "concat@hidden+concat@output",
}
"""Where one vector of a writer enters."""


def space(trial):
    """Draw one trial."""
    drawn = {
        "lr": trial.suggest_float("lr", 1e-3, 4e-3, log=True),
        "dropout": trial.suggest_float("dropout", 0.1, 0.5),
        "augment": trial.suggest_float("augment", 0.0, 1.5),
    }
    structure = trial.suggest_categorical("structure", ["none", *PLACES])
    if structure == "none":
        return drawn
    places = PLACES[structure]
    if "rank" in places:
        places = places.format(rank=trial.suggest_int("rank", 2, 32, log=True))
    width = trial.suggest_int("width", 4, 64, log=True)
    prior = trial.suggest_categorical("prior", ["standard", "learned", "nested"])
    latent = f"{places} level=writer width={width} prior={prior}"
    if prior == "nested":  # a writer lies around the site's mean, which enters nowhere itself
        drawn["latents"] = [f"{latent} parent=site", f"- level=site width={width} prior=learned"]
    else:
        drawn["latents"] = [latent]
    drawn["kl_weight"] = trial.suggest_float("kl_weight", 0.3, 1.5, log=True)
    return drawn
