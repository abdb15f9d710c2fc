"""The seven models of the system this one succeeds, trained on real data: ELBO and KL per latent.

    python benchmarks/seven_models.py [--epochs 3]

The four CNNs on scikit-learn's digits (14 writers), the three LSTMs on Shakespeare (60 characters
in 35 plays); small sizes, one seed. It shows that all train and what each latent costs; it is no
comparison of quality (see handwriting.py for that).
"""

from __future__ import annotations

import torch
import tyro
from pydantic import BaseModel

from hlvnn.config import run_config
from hlvnn.data import load_data
from hlvnn.models.build import build_model
from hlvnn.training.loop import fit

MODELS = (
    *(("digits", name) for name in ("none", "factor", "double", "bias")),
    *(("shakespeare", name) for name in ("none", "factor", "double")),
)


class Options(BaseModel):
    """How long."""

    epochs: int = 3
    """Epochs on Shakespeare; the digits, being few, get ten times as many."""


def main(options: Options) -> None:
    """Train the seven and print the table."""
    torch.set_num_threads(1)
    print("| model | data | test accuracy | test nats | ELBO | KL per latent |")
    print("|---|---|---|---|---|---|")
    for dataset, name in MODELS:
        epochs = options.epochs * (10 if dataset == "digits" else 1)
        settings = {
            "dataset": dataset,
            "latent_config": name,
            "z_dim": 8,
            "lr": 5e-3,
            "batch_size": 100 if dataset == "digits" else 200,
            "num_epochs": epochs,
            "eval_every": epochs,
            "device": "cpu",
        }
        config = run_config(settings, "seven_models")
        data = load_data(config.data)
        model = build_model(config.model, data, config.seed)
        result = fit(model, data, config.train, seed=config.seed)
        last = result.history.iloc[-1]
        kl = ", ".join(f"{latent} {value:.1f}" for latent, value in result.kl.items())
        error = f" ± {result.elbo_error:.1f}" if result.elbo_error else ""
        print(
            f"| {model.name} | {dataset} | {last['test_acc']:.3f} | {last['test_loss']:.3f} "
            f"| {result.elbo:,.1f}{error} | {kl or '–'} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
