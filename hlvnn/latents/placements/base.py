"""What every placement shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from hlvnn.stages import Recurrence, Stage, StageKind


class Placement(nn.Module, ABC):
    """How a latent enters one stage. Called, it turns the pre-activation into another.

    A member gives `kinds` (the kinds of stage it can enter) and, where the stage fixes the latent's
    width, `width_at`; one that can enter an LSTM gives `recurrence`.
    """

    kinds: ClassVar[frozenset[StageKind]]
    linear: ClassVar[bool] = False
    """Whether the pre-activation is linear in z."""

    slopes: ClassVar[bool] = False
    """Whether z holds slopes on the stage's inputs, beside an intercept."""

    options: ClassVar[tuple[str, ...]] = ()
    """Settings of `EntryConfig` that the constructor and `width_at` take as keywords."""

    def __init__(self, stage: Stage, width: int) -> None:
        super().__init__()
        self.stage = stage
        self.width = width

    @staticmethod
    def width_at(stage: Stage) -> int | None:
        """Return the latent width that the stage requires, or None where any will do."""
        return None

    @abstractmethod
    def forward(self, h: Tensor, pre: Tensor, z: Tensor) -> Tensor:
        """Return the pre-activation [S, B, …] with the latent in it.

        h: [B, …] or [S, B, …], the stage's input; pre: the same for its pre-activation;
        z: [S, B, Z]. Where a row of a dense stage has several places they are [1 or S, B, …, D].
        """

    def recurrence(self, z: Tensor) -> Recurrence:
        """Return what the draws z [S, B, Z] give an LSTM."""
        raise TypeError(f"{type(self).__name__} does not enter an LSTM")

    def loadings(self) -> list[Tensor]:
        """Return the trained matrices [*, Z] that z passes first (see `Latent.scale`)."""
        return []

    def constant(self) -> Tensor | None:
        """Return M [out, Z]: a row's pre-activation gains M z whatever the stage's input is.

        Columns of coordinates of z whose effect depends on the input are 0. None (the default):
        all are such.
        """
        return None

    def slopes_on(self, columns: Tensor) -> Tensor:
        """Return which of the stage's inputs [D] z has slopes on, as [K] of `columns` [D].

        None by default: [0].
        """
        return columns[:0]

    def centre(self) -> None:
        """Have z's slopes act on centred inputs from now on, where it has slopes."""

    def observe(self, offset: Tensor | None) -> None:
        """Take what is needed of the stage's inputs: their means [D], where they are known."""

    def to_origin(self) -> Tensor | None:
        """Return R [Z, Z] float64, R z being what z would be on inputs that are not centred.

        None (the default): the inputs are not centred.
        """
        return None

    def terms(
        self, outputs: Sequence[str], columns: Tensor | None, *, normalised: bool
    ) -> tuple[list[str], Tensor] | None:
        """Return z's coordinates in units of the pre-activation: their names, and factors [Z].

        None (the default): z has units of its own. Factors are float64. outputs: the names of the
        stage's outputs, "" for an only one; columns: [D] float64, by what the data's columns are
        divided, where they are the last inputs of the stage; normalised: whether z is measured by
        its effect (see `Latent.scaled`).
        """
        return None

    def extra_repr(self) -> str:
        return f"stage={self.stage.name}, width={self.width}"


class LinearPlacement(Placement):
    """A placement under which the pre-activation gains J(h)·z.

    A member gives only `gain`. J is never built: applied to draws it gives their effect, applied to
    the columns of a covariance's Cholesky factor it gives the predictor's variance (see
    `hlvnn.models.model`). S draws share J.
    """

    linear = True

    @abstractmethod
    def gain(self, h: Tensor, z: Tensor) -> Tensor:
        """Return J(h)·z, shape [S, B, …] (with axes of 1 where it broadcasts)."""

    def forward(self, h: Tensor, pre: Tensor, z: Tensor) -> Tensor:
        return pre + self.gain(h, z)


def coordinate_names(width: int) -> list[str]:
    """Return what tables call coordinates that no unit or column gives a name."""
    return [f"z{number}" for number in range(1, width + 1)]


def num_places(stage: Stage, h: Tensor) -> int:
    """Return the axes between a row and its units in a dense stage's input: [1 or S, B, …, D]."""
    return max(0, h.dim() - 3) if stage.kind == "dense" else 0


def over_places(per_unit: Tensor, stage: Stage, h: Tensor) -> Tensor:
    """Give values per unit [*, out] the axes of a pre-activation's places.

    [*, out, 1, 1] over the pixels of a convolution, [*, 1, out] over the steps of an embedding, and
    as many axes as the input h of a dense stage has places.
    """
    for _ in range(num_places(stage, h)):
        per_unit = per_unit.unsqueeze(-2)
    if stage.kind == "conv":
        return per_unit[..., None, None]
    return per_unit.unsqueeze(-2) if stage.kind == "embedding" else per_unit
