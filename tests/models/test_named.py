"""The names a user types for latent structures: which latents each stands for, in which order."""

from __future__ import annotations

import pytest

from hlvnn.config import ModelConfig
from hlvnn.data.grouped import Level, Schema, Target
from hlvnn.errors import ConfigError
from hlvnn.models.build import assemble
from hlvnn.models.model import HierarchicalModel
from hlvnn.models.named import STRUCTURES
from tests.helpers import X_SHAPES, small_config

KINDS = {"cnn": "image", "lstm": "tokens", "mlp": "features", "linear": "features"}
ONE, TWO = ("writer",), ("character", "play")

# name -> its places, in the order of --z-dim; "hidden" is the last hidden stage of a backbone
PLACES = {
    "none": [],
    "factor": ["concat@output"],
    "lower": ["concat@hidden"],
    "double": ["concat@output", "concat@hidden"],
    "bias": ["bias@output"],
    "weights": ["weights@output"],
    "basis": ["basis@output"],
    "one-hot": ["bias@output"],
    "embedding": ["concat@output"],
}
HISTORICAL = {
    ("none", "cnn"): "NormalCNN",
    ("none", "lstm"): "NormalLSTM",
    ("factor", "cnn"): "LatentFactorCNN",
    ("factor", "lstm"): "LatentFactorLSTM",
    ("double", "cnn"): "DoubleLatentCNN",
    ("double", "lstm"): "DoubleLatentLSTM",
    ("bias", "cnn"): "LatentBiasCNN",
}


def schema(backbone: str, levels: tuple[str, ...] = ONE) -> Schema:
    kind = KINDS[backbone]
    return Schema(
        levels=tuple(Level(name, 6) for name in levels),
        x_kind=kind,  # type: ignore[arg-type]
        x_shape=X_SHAPES[kind],
        num_tokens=10 if kind == "tokens" else None,
        target=Target("y", "class", num_classes=5),
    )


def named(
    *names: str, backbone: str = "cnn", levels: tuple[str, ...] = ONE, **settings: object
) -> HierarchicalModel:
    config = small_config(backbone, latent_config=names, **settings)
    return assemble(config, schema(backbone, levels))


def names_of(model: HierarchicalModel) -> list[str]:
    return [latent.name for latent in model.latents]


@pytest.mark.parametrize("levels", [ONE, TWO], ids=["one level", "two levels"])
@pytest.mark.parametrize("backbone", ["cnn", "lstm", "mlp"])
@pytest.mark.parametrize("name", PLACES)
def test_a_name_stands_for_its_places_on_each_level_lowest_first(
    name: str, backbone: str, levels: tuple[str, ...]
) -> None:
    hidden = "hidden2" if backbone == "mlp" else "hidden"
    places = [place.replace("hidden", hidden) for place in PLACES[name]]
    expected = [f"{level} {place}" for place in places for level in levels]
    assert names_of(named(name, backbone=backbone, levels=levels)) == expected


# name -> the one backbone kind it is for, and its places there
PARTICULAR = {
    ("filters", "cnn"): ["basis@conv1", "basis@conv2"],
    ("film", "cnn"): ["film@conv1+film@conv2+film@hidden"],
    ("film", "mlp"): ["film@hidden1+film@hidden2"],
    ("film", "lstm"): ["film@embedding+film@hidden"],
    ("initial-state", "lstm"): ["initial_state@lstm1+initial_state@lstm2"],
    ("step-input", "lstm"): ["concat@lstm1"],
    ("step-hidden", "lstm"): ["concat@lstm2"],
}


@pytest.mark.parametrize(("name", "backbone"), PARTICULAR)
def test_a_name_for_some_backbones_stands_for_its_places_on_each_level(
    name: str, backbone: str
) -> None:
    places = PARTICULAR[name, backbone]
    expected = [f"{level} {place}" for place in places for level in TWO]
    assert names_of(named(name, backbone=backbone, levels=TWO)) == expected


def test_the_tables_above_know_every_name() -> None:
    assert {*PLACES, *(name for name, _ in PARTICULAR)} == set(STRUCTURES)


def test_film_without_a_hidden_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="film needs a hidden stage, this backbone has only"):
        named("film", backbone="linear")


def test_a_nested_prior_for_a_name_says_how_to_write_the_latents_out() -> None:
    with pytest.raises(ValueError, match=r"nested prior needs to know its parent.*--latents"):
        named("factor", levels=TWO, prior="nested")


def test_double_on_two_levels_is_in_the_order_of_the_design() -> None:
    model = named("double", backbone="lstm", levels=TWO, z_dim=(1, 2, 3, 4))
    assert [(latent.name, latent.width) for latent in model.latents] == [
        ("character concat@output", 1),
        ("play concat@output", 2),
        ("character concat@hidden", 3),
        ("play concat@hidden", 4),
    ]


@pytest.mark.parametrize(("key", "expected"), HISTORICAL.items())
def test_models_keep_their_historical_names(key: tuple[str, str], expected: str) -> None:
    name, backbone = key
    assert named(name, backbone=backbone).name == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("factor", "bias"), "HierarchicalMLP"), (("none",), "NormalMLP")],
)
def test_combinations_are_called_hierarchical(names: tuple[str, ...], expected: str) -> None:
    assert named(*names, backbone="mlp").name == expected


def test_names_add_up() -> None:
    model = named("factor", "bias", levels=TWO, z_dim=(3,))
    assert [(latent.name, latent.width) for latent in model.latents] == [
        ("character concat@output", 3),
        ("play concat@output", 3),
        ("character bias@output", 5),
        ("play bias@output", 5),
    ]


def test_the_same_place_twice_gets_a_number() -> None:
    model = named("factor", "double")
    assert names_of(model) == [
        "writer concat@output",
        "writer concat@output #2",
        "writer concat@hidden",
    ]


def test_written_out_latents_follow_the_named_ones() -> None:
    model = named("factor", latents=["bias@hidden level=writer"], z_dim=(3,))
    assert names_of(model) == ["writer concat@output", "writer bias@hidden"]


@pytest.mark.parametrize(("name", "prior"), [("one-hot", "none"), ("embedding", "none")])
def test_comparators_are_points_without_a_prior(name: str, prior: str) -> None:
    (latent,) = named(name, posterior="full_rank", prior="learned").latents
    assert type(latent.posterior).__name__ == "Point"
    assert type(latent.prior).__name__ == "NoPrior"


def test_named_latents_take_the_configurations_posterior_and_prior() -> None:
    for latent in named("double", posterior="full_rank", prior="learned_full").latents:
        assert type(latent.posterior).__name__ == "FullRank"
        assert type(latent.prior).__name__ == "LearnedFull"


# widths


def test_one_width_is_for_all_latents() -> None:
    assert [one.width for one in named("double", levels=TWO, z_dim=(7,)).latents] == [7] * 4


def test_widths_that_a_stage_fixes_are_not_counted() -> None:
    model = named("bias", "double", z_dim=(2, 3))
    assert [one.width for one in model.latents] == [5, 2, 3]


@pytest.mark.parametrize("widths", [(1, 2), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_a_wrong_count_of_widths_lists_the_latents(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        named("double", backbone="lstm", levels=TWO, z_dim=widths)
    text = str(caught.value)
    assert f"--z-dim has {len(widths)} widths ({' '.join(map(str, widths))})" in text
    assert (
        "expected 1 for all or 4, one each for: character concat@output, play concat@output, "
        in text
    )
    assert text.endswith("character concat@hidden, play concat@hidden")


@pytest.mark.parametrize("widths", [(3, 4), (1, 2, 3)])
@pytest.mark.parametrize("names", [("bias",), ("none",)])
def test_widths_that_nothing_takes_are_refused(
    names: tuple[str, ...], widths: tuple[int, ...]
) -> None:
    listed = " ".join(map(str, widths))
    message = rf"--z-dim has {len(widths)} widths \({listed}\).* 0, one each for: no latent here"
    with pytest.raises(ConfigError, match=message):
        named(*names, z_dim=widths)


# bad input


@pytest.mark.parametrize(
    ("typed", "meant"), [("duoble", "double"), ("factr", "factor"), ("onehot", "one-hot")]
)
def test_an_unknown_name_offers_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named(typed)
    text = str(caught.value)
    assert f"unknown latent configuration {typed!r}; did you mean {meant!r}?" in text
    assert all(name in text for name in STRUCTURES)


def test_a_name_whose_stage_the_backbone_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown stage of backbone linear 'hidden'.* output"):
        named("lower", backbone="linear")


def test_latents_of_absurd_size_are_refused_with_the_bytes_before_they_are_made() -> None:
    """weights@output of the large CNN for the 3,550 writers of FEMNIST is about 11 GB."""
    femnist = Schema(
        levels=(Level("writer", 3550),),
        x_kind="image",
        x_shape=(28, 28),
        target=Target("character", "class", num_classes=62),
    )
    config = ModelConfig(backbone="cnn", model_size="large", latent_config=("weights",))
    size = 3550 * 2 * 62 * (1 + 2048) * 4 * 3  # mean and SD, with Adam's two moments, float32
    assert size == pytest.approx(10.8e9, rel=0.01)
    with pytest.raises(ConfigError) as caught:
        assemble(config, femnist)
    assert f"{size:,} bytes" in str(caught.value)
    assert "writer weights@output" in str(caught.value)


def test_the_same_structure_on_a_small_cnn_is_accepted() -> None:
    (latent,) = named("weights").latents
    assert latent.width == 5 * (1 + 4)
