"""The stage's weights and bias deviate by the latent."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hlvnn.errors import ConfigError, unknown
from hlvnn.latents.placements.base import LinearPlacement, num_places
from hlvnn.stages import Stage, coefficient_names


class Weights(LinearPlacement):
    """Each group has its own deviation of the stage's matrix and bias: random slopes.

    z is read as [out, 1 + inputs], for each output its intercept first and then its slopes; the
    pre-activation gains intercept + slopes·h. For a convolution the inputs are the kernel's
    in_channels × side × side values.

    offset: [K] float, what `centre` has the slopes' inputs lose, so that the intercept is the one
    at their means; None where they are as they come.

    columns: names of the inputs that have slopes, in this order; none given = all. Raises
    `ConfigError` for a column that the stage does not have.
    """

    kinds = frozenset({"dense", "conv"})
    options = ("columns",)
    slopes = True
    chosen: Tensor | None
    offset: Tensor | None

    def __init__(self, stage: Stage, width: int, *, columns: tuple[str, ...] = ()) -> None:
        super().__init__(stage, width)
        self.columns = columns or stage.inputs
        places = [(stage.inputs or ()).index(column) for column in columns]
        self.register_buffer("chosen", torch.tensor(places) if places else None, persistent=False)
        self.register_buffer("offset", None)

    @staticmethod
    def width_at(stage: Stage, *, columns: tuple[str, ...] = ()) -> int:
        for position, column in enumerate(columns):
            if stage.inputs is None:
                raise ConfigError(
                    f"columns ({', '.join(columns)}): the inputs of stage {stage.name} have no "
                    "names; only a first dense layer on a table's columns can choose among them"
                )
            if column not in stage.inputs:
                raise ConfigError(unknown(f"column at stage {stage.name}", column, stage.inputs))
            if column in columns[:position]:
                raise ConfigError(f"columns: {column!r} is given twice")
        inputs = len(columns) or stage.in_features * stage.kernel_size**2
        return stage.out_features * (1 + inputs)

    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        deviation = z.unflatten(-1, (self.stage.out_features, -1))  # [S, B, out, 1 + in]
        intercept, slopes = deviation[..., :1], deviation[..., 1:]
        if self.chosen is not None:
            h = h[..., self.chosen]
        if self.offset is not None:
            h = h - self.offset
        if self.stage.kind == "dense":
            for _ in range(num_places(self.stage, h)):
                intercept, slopes = intercept.unsqueeze(2), slopes.unsqueeze(2)
            return (slopes @ h.unsqueeze(-1) + intercept).squeeze(-1)
        side = self.stage.kernel_size
        before = (side - 1) // 2
        padded = F.pad(h, (before, side - 1 - before, before, side - 1 - before))
        patches = F.unfold(padded.reshape(-1, *padded.shape[-3:]), side)  # [(S) B, in, H W]
        patches = patches.unflatten(0, h.shape[:-3])
        gained = slopes @ patches + intercept  # [S, B, out, H W]
        return torch.unflatten(gained, -1, h.shape[-2:])

    def constant(self) -> Tensor:
        out = self.stage.out_features
        matrix = torch.zeros(out, self.width)
        matrix.unflatten(1, (out, -1))[:, :, 0] = torch.eye(out)
        return matrix

    def slopes_on(self, columns: Tensor) -> Tensor:
        return columns if self.chosen is None else columns[self.chosen.to(columns.device)]

    def centre(self) -> None:
        if self.stage.kind == "dense":
            self.offset = torch.zeros(self.width // self.stage.out_features - 1)
            self.register_load_state_dict_pre_hook(_as_it_was)

    def observe(self, offset: Tensor | None) -> None:
        if self.offset is not None and offset is not None:
            self.offset.copy_(self.slopes_on(offset))

    def to_origin(self) -> Tensor | None:
        if self.offset is None:
            return None
        one = torch.eye(1 + len(self.offset), dtype=torch.float64)
        one[0, 1:] = -self.offset.double().cpu()
        return torch.block_diag(*[one] * self.stage.out_features)

    def terms(
        self, outputs: Sequence[str], columns: Tensor | None, *, normalised: bool
    ) -> tuple[list[str], Tensor]:
        inputs = self.columns or tuple(f"w{i}" for i in range(1, self.width // len(outputs)))
        names = coefficient_names(outputs, inputs)
        if columns is None:
            return names, torch.ones(self.width, dtype=torch.float64)
        units = self.stage.in_features - len(columns)  # of a hidden layer, before them
        scale = torch.cat([torch.ones(units, dtype=torch.float64), columns])
        if self.chosen is not None:
            scale = scale[self.chosen.cpu()]
        per_output = torch.cat([torch.ones(1, dtype=torch.float64), 1 / scale])
        return names, per_output.repeat(len(outputs))


def _as_it_was(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Leave the inputs as they come in a model that was saved before they were centred."""
    assert isinstance(module, Weights)
    if f"{prefix}offset" not in state and module.offset is not None:
        state[f"{prefix}offset"] = torch.zeros_like(module.offset)
