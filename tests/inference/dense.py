"""Linear mixed models written out whole: every row's covariance with every other, in NumPy."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

import hlvnn
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.fit_result import FitResult

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """One latent: its level, the columns it has slopes on beside its intercept, its parent."""

    level: str
    slopes: tuple[str, ...] = ()
    full: bool = False
    parent: str | None = None
    enters: bool = True

    def config(self) -> hlvnn.LatentConfig:
        prior = "nested" if self.parent else "learned_full" if self.full else "learned"
        if not self.enters:
            return hlvnn.LatentConfig(level=self.level, width=1 + len(self.slopes), prior=prior)
        place = {"placement": "weights", "columns": self.slopes} if self.slopes else {}
        return hlvnn.LatentConfig(
            level=self.level,
            stage="output",
            prior=prior,
            parent=self.parent,
            **({"placement": "bias"} | place),  # type: ignore[arg-type]
        )


def fitted(
    frame: pd.DataFrame,
    effects: list[Effect],
    levels: list[str],
    train: hlvnn.TrainConfig | None = None,
) -> tuple[HierarchicalModel, FitResult]:
    """Fit with plain defaults, or as said; y is the target, x1 and x2 the features there are."""
    features = [name for name in ("x1", "x2") if name in frame]
    data = hlvnn.GroupedDataset.from_frame(frame, target="y", features=features, groups=levels)
    config = hlvnn.ModelConfig(backbone="linear", latents=[effect.config() for effect in effects])
    model = hlvnn.build_model(config, data, seed=0)
    return model, hlvnn.fit(model, data, train or hlvnn.TrainConfig())


class Dense:
    """A fitted model's law, from what `summary()` says of it and nothing else."""

    def __init__(
        self, frame: pd.DataFrame, effects: list[Effect], model: HierarchicalModel
    ) -> None:
        self.frame, self.effects = frame, effects
        table = model.summary()
        self.features = [name for name in ("x1", "x2") if name in frame]
        fixed = table[table["part"] == "fixed"].set_index("term")["estimate"]
        self.beta = fixed.loc[["(Intercept)", *self.features]].to_numpy()
        self.noise = float(table.loc[table["part"] == "noise sd", "estimate"].iloc[0]) ** 2
        sds = table[table["part"] == "prior sd"]
        correlations = table[table["part"] == "prior correlation"]
        used: dict[str, int] = {}
        self.covariances = []
        for effect in effects:
            rows = sds[sds["level"] == effect.level]
            first = used.get(effect.level, 0)
            width = 1 + len(effect.slopes)
            used[effect.level] = first + width
            sd = rows["estimate"].to_numpy()[first : first + width]
            rho = np.eye(width)
            if effect.full and width > 1:
                own = correlations[correlations["level"] == effect.level]["estimate"].to_numpy()
                rho[np.tril_indices(width, -1)] = own
                rho += np.tril(rho, -1).T
            self.covariances.append(np.outer(sd, sd) * rho)

    def with_rows(self, frame: pd.DataFrame) -> Dense:
        """Return the same model with other rows."""
        other = copy.copy(self)
        other.frame = frame
        return other

    def prior(self, effect: Effect) -> Floats:
        """Return the prior covariance of a group's own z, its parent's included, [W, W]."""
        chain = [effect, *(e for e in self.effects if effect.parent == e.level)]
        return np.sum([self.covariances[self.effects.index(e)] for e in chain], axis=0)

    def design(self, frame: pd.DataFrame) -> Floats:
        """Return the fixed effects' columns, [N, F]."""
        return np.column_stack([np.ones(len(frame)), *(frame[name] for name in self.features)])

    def loadings(self, effect: Effect, frame: pd.DataFrame) -> Floats:
        """Return what multiplies a latent's own coordinates, [N, W]."""
        return np.column_stack([np.ones(len(frame)), *(frame[name] for name in effect.slopes)])

    def between(self, one: pd.DataFrame, other: pd.DataFrame) -> Floats:
        """Return the covariance of the rows' E[y] before any is seen: [N, M]."""
        total = np.zeros((len(one), len(other)))
        for effect, covariance in zip(self.effects, self.covariances, strict=True):
            users = [e for e in self.effects if e is effect or e.parent == effect.level]
            users = [e for e in users if e.enters]
            a = sum(self.loadings(e, one) for e in users)
            b = sum(self.loadings(e, other) for e in users)
            same = one[effect.level].to_numpy()[:, None] == other[effect.level].to_numpy()
            total += same * (a @ covariance @ b.T)
        return total

    def log_likelihood(self) -> float:
        """Return log p(y)."""
        whole = self.between(self.frame, self.frame) + self.noise * np.eye(len(self.frame))
        mean = self.design(self.frame) @ self.beta
        return float(multivariate_normal(mean, whole).logpdf(self.frame["y"]))

    def predicted(self, frame: pd.DataFrame) -> tuple[Floats, Floats]:
        """Return E[y] of new rows given all rows, and its covariance."""
        whole = self.between(self.frame, self.frame) + self.noise * np.eye(len(self.frame))
        across = self.between(frame, self.frame)
        weights = np.linalg.solve(whole, across.T).T
        rest = self.frame["y"] - self.design(self.frame) @ self.beta
        mean = self.design(frame) @ self.beta + weights @ rest
        return mean, self.between(frame, frame) - weights @ across.T

    def effect(self, effect: Effect, labels: list[str]) -> tuple[Floats, Floats]:
        """Return the mean [G, W] of groups' own z given all rows, and its covariance [G W, G W]."""
        width = 1 + len(effect.slopes)
        chain = [effect, *(e for e in self.effects if effect.parent == e.level)]
        whole = self.between(self.frame, self.frame) + self.noise * np.eye(len(self.frame))
        across = np.zeros((len(labels) * width, len(self.frame)))
        prior = np.zeros((len(labels) * width, len(labels) * width))
        of = self.frame.drop_duplicates(effect.level).set_index(effect.level)
        for member in chain:
            covariance = self.covariances[self.effects.index(member)]
            at = [lab if member is effect else of.loc[lab, member.level] for lab in labels]
            users = [e for e in self.effects if e is member or e.parent == member.level]
            load = sum(self.loadings(e, self.frame) for e in users if e.enters)
            here = np.array(at)[:, None] == self.frame[member.level].to_numpy()
            part = np.einsum("gn,wv,nv->gwn", here, covariance, load)
            across += part.reshape(across.shape)
            together = np.array(at)[:, None] == np.array(at)
            prior += np.einsum("gh,wv->gwhv", together, covariance).reshape(prior.shape)
        weights = np.linalg.solve(whole, across.T).T
        rest = self.frame["y"] - self.design(self.frame) @ self.beta
        return (weights @ rest).reshape(len(labels), width), prior - weights @ across.T
