"""How torch is set while a fit runs, and that it is as before when the fit has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from hlvnn.config import TrainConfig
from hlvnn.models.model import HierarchicalModel
from hlvnn.random import seeding


@contextmanager
def surrounding(
    model: HierarchicalModel, config: TrainConfig, device: torch.device, seed: int
) -> Iterator[None]:
    """Seed torch's streams, set its threads, the model's precision and, for --debug, its checks.

    The model is left in evaluation mode.
    """
    with ExitStack() as stack:
        stack.enter_context(seeding(seed, device))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(config.threads)
        stack.callback(setattr, model, "precision", model.precision)
        model.precision = config.precision
        if config.debug:
            stack.enter_context(torch.autograd.set_detect_anomaly(True))
            stack.callback(
                torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()
            )
            torch.use_deterministic_algorithms(True)
        stack.callback(model.eval)
        yield
