"""What more draws of z cost in prediction: S = 1, 10 and 50, side by side.

    python benchmarks/prediction.py [--latent-configs factor lower film]

`factor` enters at the output, so that all below it is computed once for all draws; `lower` enters
one stage earlier, and `film` at every hidden one, so that all above the first stage is computed
for each draw. The CNN and the LSTM, small, one thread; the numbers of draws take turns, the ratio
is the median over rounds.
"""

from __future__ import annotations

import statistics
import time

import torch
import tyro
from pydantic import BaseModel
from train_step import dataset

from hlvnn.config import ModelConfig
from hlvnn.inference.predict import score_rows
from hlvnn.models.build import build_model

DRAWS = (1, 10, 50)


class Options(BaseModel):
    """What to measure."""

    rounds: int = 5
    """Rounds; a warm-up comes before them."""
    models: tuple[str, ...] = ("cnn", "lstm")
    """Backbones."""
    latent_configs: tuple[str, ...] = ("factor", "lower", "film")
    """Latent structures."""
    batches: int = 20
    """Rows, in batches of 200."""


def measure(model: str, latent_config: str, options: Options) -> dict[int, list[float]]:
    """Return the seconds of each round, by the number of draws."""
    data = dataset(model, options.batches)
    network = build_model(ModelConfig(backbone=model, latent_config=(latent_config,)), data)
    seconds: dict[int, list[float]] = {draws: [] for draws in DRAWS}
    for _ in range(options.rounds + 1):
        for draws in DRAWS:
            began = time.perf_counter()
            score_rows(network, data.train, draws)
            seconds[draws].append(time.perf_counter() - began)
    return {draws: times[1:] for draws, times in seconds.items()}


def main(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = 200 * options.batches
    print(f"one thread, {rows:,} rows, {options.rounds} rounds")
    print("| model | latents | rows/s at S = 1 | S = 10 over S = 1 | S = 50 over S = 1 |")
    print("|---|---|---|---|---|")
    for model in options.models:
        for latent_config in options.latent_configs:
            seconds = measure(model, latent_config, options)
            ten, fifty = (
                statistics.median(a / b for a, b in zip(seconds[draws], seconds[1], strict=True))
                for draws in DRAWS[1:]
            )
            speed = rows / statistics.median(seconds[1])
            print(
                f"| {model} | {latent_config} | {speed:,.0f} | {ten:.2f} | {fifty:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
