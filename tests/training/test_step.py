"""What the settings of training do to a step."""

from __future__ import annotations

import copy

import pytest
import torch

from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from hlvnn.training.loop import fit
from tests.helpers import grouped_data, latent, same_bits, small_config
from tests.training.fits import LEVELS, case, train


def held_parameters(model: HierarchicalModel) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ".prior." in name or name.startswith("likelihood.")
    }


@pytest.mark.parametrize(("warmup", "held"), [(1.0, True), (0.0, False), (0.5, False)])
def test_priors_and_noise_are_held_through_the_warm_up(warmup: float, held: bool) -> None:
    """Of a latent that starts large."""
    data = grouped_data(target="real")
    config = small_config(latent_config="bias", prior="learned_full", posterior="full_rank")
    model = build_model(config, data)
    before = held_parameters(model)
    after: list[dict[str, torch.Tensor]] = []
    fit(
        model,
        data,
        train(prior_warmup=warmup, weight_decay=0.1),
        lambda *_: after.append(held_parameters(model)),
    )
    assert len(before) == 3
    learned = {name for name, value in before.items() if value.numel()}
    for name in learned:
        start = before[name]
        assert torch.equal(after[-1][name], start) is held
        if warmup == 0.5:
            assert torch.equal(after[1][name], start), "held for two of four epochs"
            assert not torch.equal(after[2][name], start)


@pytest.mark.parametrize("placement", ["concat@output", "film@hidden1"])
def test_a_latent_that_starts_small_waits_at_nothing_while_the_network_learns(
    placement: str,
) -> None:
    data = grouped_data(levels=LEVELS, rows=50)
    settings = train(prior_warmup=0.5)
    told: dict[str, list[dict[str, float]]] = {}
    for name in ("none", placement):
        latents = [] if name == "none" else [f"{placement} level=character width=2"]
        model = build_model(small_config("mlp", hidden=(8,), latents=latents), data, seed=1)
        rows: list[dict[str, float]] = []
        fit(model, data, settings, lambda now, _, rows=rows: rows.append(now.row))
        told[name] = rows
    for epoch in (0, 1):
        waiting, pooled = (told[name][epoch] for name in (placement, "none"))
        assert waiting["train_nll"] == pooled["train_nll"], "the same bits while z = 0"
        assert waiting["val_loss"] == pytest.approx(pooled["val_loss"], abs=1e-5)
    assert told[placement][2]["train_nll"] != told["none"][2]["train_nll"]
    [column] = [name for name in told[placement][0] if name.startswith("kl_character")]
    assert told[placement][1][column] == pytest.approx(0, abs=1e-3)
    assert told[placement][3][column] > 0


def test_frozen_parameters_stay_while_the_posteriors_learn() -> None:
    data = grouped_data(target="real")
    config = small_config(
        latent_config="factor", z_dim=2, prior="learned_full", posterior="full_rank"
    )
    model = build_model(config, data).requires_grad_(False)
    model.latents[0].posterior.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    fit(model, data, train(prior_warmup=0.0, clip_grad=1.0))
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"latents.latents.0.posterior.table"}


def test_a_clipped_step_of_the_network_is_short() -> None:
    """Adam forgets the gradient's size but for its ε, which a tiny limit brings out."""
    moved = {}
    for limit in (None, 1e-12):
        model, data, _ = case("dropout, draws, two levels")
        bias = model.backbone.output_bias()  # takes over what all groups share
        network = [p for p in model.backbone.parameters() if p is not bias]
        before = [p.detach().clone() for p in network]
        fit(model, data, train(clip_grad=limit))
        pairs = zip(network, before, strict=True)
        moved[limit] = max(float((p.detach() - kept).abs().max()) for p, kept in pairs)
    assert moved[None] > 0.01
    assert moved[1e-12] < 0.01 * moved[None]


def test_embedding_lr_multiplies_the_points_learning_rate_alone() -> None:
    tables, backbones = {}, {}
    for multiple in (1e-12, 1.0):
        model, data, _ = case("points")
        words = {"num_epochs": 1, "batch_size": None, "lr_schedule": "constant"}
        settings = train(**words, embedding_lr=multiple)
        before = [one.posterior.table.detach().clone() for one in model.latents]
        fit(model, data, settings)
        tables[multiple] = max(
            float((one.posterior.table.detach() - kept).abs().max())
            for one, kept in zip(model.latents, before, strict=True)
        )
        backbones[multiple] = copy.deepcopy(model.backbone)
    assert tables[1e-12] < 1e-9
    assert tables[1.0] == pytest.approx(0.01, rel=0.05)
    assert same_bits(backbones[1e-12], backbones[1.0])


def test_weight_decay_shrinks_matrices_and_spares_biases_and_latents() -> None:
    data = grouped_data(levels=LEVELS)
    models = {}
    for decay in (0.0, 0.5):
        model = build_model(small_config(latent_config="factor", z_dim=2), data, seed=0)
        settings = train(num_epochs=1, batch_size=None, lr_schedule="constant", weight_decay=decay)
        fit(model, data, settings)
        models[decay] = dict(model.named_parameters())
    start = dict(
        build_model(small_config(latent_config="factor", z_dim=2), data).named_parameters()
    )
    for name, plain in models[0.0].items():
        decayed = models[0.5][name]
        if plain.dim() >= 2 and "posterior" not in name:
            torch.testing.assert_close(decayed, plain - 0.01 * 0.5 * start[name], atol=1e-6, rtol=0)
        elif name.endswith("output.bias"):  # takes over what all groups share, by the loadings
            torch.testing.assert_close(decayed, plain, atol=1e-3, rtol=0)
        else:
            assert torch.equal(decayed, plain), name


def test_one_batch_of_everything_is_one_step_an_epoch() -> None:
    data = grouped_data(rows=50)
    both = []
    for size in (None, 50, 5000):
        model = build_model(small_config(latent_config="factor", z_dim=2), data, seed=0)
        fit(model, data, train(batch_size=size))
        both.append(model)
    assert same_bits(both[0], both[1])
    assert same_bits(both[0], both[2])


def test_several_latents_of_one_name_keep_their_columns_apart() -> None:
    data = grouped_data()
    entries = tuple(latent("concat", "output", width=2) for _ in range(2))
    model = build_model(small_config(latents=entries), data)
    result = fit(model, data, train(num_epochs=1))
    assert len(result.kl) == 2
    assert {"kl_writer_concat@output", "kl_writer_concat@output_#2"} <= set(result.history.columns)
