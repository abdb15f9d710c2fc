"""`adapt`: posteriors for new groups from a few rows, with everything else as it was.

Weights, priors, noise and the posteriors of known groups are fixed, and the ELBO of the new groups'
rows is maximised over q of the new groups alone. Where it has a closed form this is exact: on a
linear-Gaussian model with full-rank posteriors, q is the conditional posterior.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from hlvnn.data.batches import Batches
from hlvnn.data.grouped import Schema, Split, TensorRows
from hlvnn.errors import ConfigError, DataError, unknown
from hlvnn.inference.exact_laws import with_new_groups
from hlvnn.inference.objective import expected_log_likelihood
from hlvnn.latents.latent import Latent
from hlvnn.models.model import HierarchicalModel
from hlvnn.optim import RowwiseAdam, coalesced, lr_factor
from hlvnn.random import seeding

Method = Literal["optimise", "encoder"]
STEPS = 300
"""Steps of `optimise`, unless said otherwise."""
ROWS_AT_ONCE = 2048
"""Rows × draws of one pass through the network."""


def adapt(
    model: HierarchicalModel,
    rows: pd.DataFrame | Split,
    *,
    method: Method = "optimise",
    steps: int | None = None,
    lr: float = 0.1,
    num_samples: int = 4,
    seed: int = 0,
) -> HierarchicalModel:
    """Return a model that knows the new groups of some rows as well; `model` stays as it is.

    rows: a dataframe with the columns of `from_frame`, the target too, or a split of a data set.
    A group is new if it had no training rows; what a row's known groups (the hospital of a new
    patient) are like is used and not changed. The model returned predicts, evaluates and reports
    the new groups by their labels. Groups that are new and have no rows still integrate the prior.

    A model that was fitted exactly gets the new groups' exact law, in closed form, whatever `steps`
    and `lr`; of known groups of its largest level their means are used.

    method: `optimise` starts q of all new groups at their priors and takes `steps` steps of Adam,
    each on all rows, at a learning rate that falls from `lr` to 0; without a closed form from
    `num_samples` draws of z a row. `encoder` reads q off the rows (posterior `amortised`); with
    `steps` it is refined by so many steps as a free q, each group's own.

    Raises `DataError` for rows of which no group is new or that do not fit the model, `ConfigError`
    for a model without latents or a method that is not its own.

    >>> import hlvnn
    >>> frame = pd.DataFrame({"y": [1.0, 2.0, 4.0, 5.0], "x": [0, 1, 0, 1], "who": list("aabb")})
    >>> data = hlvnn.GroupedDataset.from_frame(frame, target="y", features=["x"], groups=["who"])
    >>> config = hlvnn.ModelConfig(backbone="linear", latent_config="bias", prior="learned")
    >>> model = hlvnn.build_model(config, data)
    >>> new = pd.DataFrame({"y": [9.0, 9.5], "x": [0, 1], "who": ["c", "c"]})
    >>> hlvnn.adapt(model, new).posterior("who")["who"].tolist()
    ['a', 'b', 'c']
    """
    steps = _check(model, method, steps, num_samples)
    schema, split = _by_name(model.schema, rows)
    _check_rows(model, schema, split)
    adapted = copy.deepcopy(model).eval()
    for latent in adapted.latents:
        latent.posterior.settle()  # in a fit's report the model is in the middle of it
    adapted.schema = schema.with_new_groups()
    split = split.to(model.device)
    numbers = [len(level.new) for level in schema.levels]
    fresh = adapted.latents.grow(numbers, split.groups)
    if method == "encoder":
        _encode(adapted, split, fresh)
    if (law := adapted.latents.law) is not None:
        adapted.latents.law = with_new_groups(adapted, law, split, fresh).to(model.device)
        return adapted
    with seeding(seed, model.device):
        _optimise(adapted, split, fresh, steps, lr, num_samples)
    return adapted


def _check(model: HierarchicalModel, method: str, steps: int | None, num_samples: int) -> int:
    """Return the number of steps; raise `ConfigError` for settings that make no sense."""
    if method not in get_args(Method):
        raise ConfigError(unknown("method", method, get_args(Method)))
    if not len(model.latents):
        raise ConfigError(
            f"{model.name} has no latents, so there is nothing of a group to adapt; predict as it "
            "is, or train one with latents (--latent-config)"
        )
    if num_samples < 1:
        raise ConfigError(f"num_samples ({num_samples}): at least one draw of z is needed")
    if steps is None:
        return STEPS if method == "optimise" else 0
    if steps < (method == "optimise"):
        raise ConfigError(f"steps ({steps}): expected at least 1, or leave it out for {STEPS}")
    return steps


def _by_name(schema: Schema, rows: pd.DataFrame | Split) -> tuple[Schema, Split]:
    """Return the rows with all groups numbered, new ones too, and the schema that names them."""
    if isinstance(rows, Split):
        return schema, Split(rows.x, rows.gids, rows.y)
    x = TensorRows(schema.features_of(rows))
    named, groups = schema.naming_groups_of(rows)
    return named, Split(x, groups, schema.target_of(rows))


def _check_rows(model: HierarchicalModel, schema: Schema, split: Split) -> None:
    if not len(split):
        raise DataError("adapt: there are no rows; give one or more of each new group")
    model.likelihood.check(split.y, "row")
    new = torch.zeros(len(split), dtype=torch.bool)
    for i, level in enumerate(schema.levels):
        group, total = split.groups[:, i].long().cpu(), level.size + len(level.new)
        nameless = (group < 0) | (group >= total)
        if nameless.any():
            row = int(nameless.int().argmax())
            raise DataError(
                f"adapt: row {row} (rows count from 0) has the number {int(group[row])} for its "
                f"{level.name}, expected 0 to {total - 1}, new ones from {level.size} on; give a "
                "split of the data set that the model was built for, held-out groups named "
                "(Split.named), or a dataframe"
            )
        if any(latent.level == i for latent in model.latents):
            counts = model.latents.counts(i).cpu()
            new |= torch.nn.functional.pad(counts, (0, total - len(counts)))[group] == 0
    if not new.all():
        row = int(new.int().argmin())
        labels = ", ".join(
            f"{level.name} {level.label(int(gid))!r}"
            for level, gid in zip(schema.levels, split.groups[row], strict=True)
        )
        raise DataError(
            f"adapt: row {row} (rows count from 0) has no new group ({labels}); known groups stay "
            "as they are, so leave such rows out, or fit again on all rows"
        )


def _encode(model: HierarchicalModel, split: Split, fresh: Sequence[Tensor]) -> None:
    """Read q of the new groups off their rows."""
    for latent, new in _with_new_groups(model, fresh):
        if not latent.posterior.reads_rows or latent.slopes is not None:
            raise ConfigError(
                f"latent {latent.name}: no encoder reads all of its posterior off rows; use "
                "method='optimise', or train it with posterior=amortised"
            )
        group = split.groups[:, latent.level].long()
        own = new[group].nonzero().squeeze(1)
        found, inverse = group[own].unique(return_inverse=True)
        with torch.no_grad():
            parameters = latent.posterior.read(split.subset(own), inverse, len(found))
            assert parameters is not None
            latent.posterior.table[found] = parameters


def _with_new_groups(
    model: HierarchicalModel, fresh: Sequence[Tensor]
) -> list[tuple[Latent, Tensor]]:
    """Return the latents of levels with new groups, and which of the level's groups are new."""
    return [(latent, fresh[latent.level]) for latent in model.latents if fresh[latent.level].any()]


def _optimise(
    model: HierarchicalModel,
    split: Split,
    fresh: Sequence[Tensor],
    steps: int,
    lr: float,
    num_samples: int,
) -> None:
    """Maximise the ELBO of the rows over q of the new groups."""
    tables: list[tuple[nn.Parameter, Tensor]] = []
    for latent, new in _with_new_groups(model, fresh):
        own = [latent.posterior.table, *([] if latent.slopes is None else [latent.slopes])]
        tables += [(table, new) for table in own]
    parameters = [table for table, _ in tables]
    learned = [table.requires_grad for table in parameters]
    for table in parameters:
        table.requires_grad_(True)  # an encoder's are not, in a fit
    optimizer = RowwiseAdam(parameters, lr=lr)
    batches = Batches(split, max(1, ROWS_AT_ONCE // num_samples), device=model.device)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * lr_factor("cosine", step / steps)
        optimizer.zero_grad()
        for batch in batches:
            log_prob, kl_rows = expected_log_likelihood(model, batch, num_samples)
            loss = -log_prob.sum()
            for term in kl_rows:
                loss = loss + term.sum()
            loss.backward(inputs=parameters)
        for table, new in tables:
            _keep_only(table, new)
        optimizer.step()
    optimizer.zero_grad()
    for table, was in zip(parameters, learned, strict=True):
        table.requires_grad_(was)


def _keep_only(table: nn.Parameter, new: Tensor) -> None:
    """Drop what a table's sparse gradient says of groups that are not new."""
    if table.grad is not None:
        index, values = coalesced(table)
        kept = new[index]
        table.grad = torch.sparse_coo_tensor(
            index[kept][None],
            values[kept],
            table.shape,
            is_coalesced=True,
            check_invariants=False,
        )
