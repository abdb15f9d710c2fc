"""Configurations: strict, told about all at once; and models built from them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from hlvnn.backbones.base import Backbone
from hlvnn.config import (
    DataConfig,
    EntryConfig,
    LatentConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    flat_settings,
    flatten,
    latent_text,
    run_config,
    validated,
)
from hlvnn.errors import ConfigError
from hlvnn.families import member_class, members
from hlvnn.models.build import OF_BACKBONES, build_model
from tests.helpers import grouped_data, latent, same_bits, small_config

# configuration


@pytest.mark.parametrize("cls", [DataConfig, ModelConfig, TrainConfig, RunConfig])
def test_configurations_are_immutable(cls: type) -> None:
    config = cls()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, next(iter(cls.model_fields)), "x")


def test_an_unknown_setting_offers_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"here: unknown setting 'lr_shedule'; did you mean 'lr_sch"
    ):
        run_config({"lr_shedule": "cosine"}, "here")
    with pytest.raises(
        ConfigError, match=r"there: unknown setting 'batchsize'; did you mean 'batch_"
    ):
        validated(TrainConfig, {"batchsize": 3}, "there")


def test_all_problems_are_told_at_once() -> None:
    settings = {"lr": -1, "num_epochs": 0, "likelihood": "gausian", "model_size": "medium"}
    with pytest.raises(ConfigError) as caught:
        run_config(settings, "run.json")
    text = str(caught.value)
    assert text.startswith("run.json: ")
    for part in ("train.lr", "train.num_epochs", "did you mean 'gaussian'?", "model.model_size"):
        assert part in text
    assert "'medium'" in text


@pytest.mark.parametrize(
    ("field", "typed", "meant"),
    [
        ("backbone", "lsmt", "lstm"),
        ("likelihood", "categorial", "categorical"),
        ("posterior", "meanfield", "mean_field"),
        ("prior", "learnt", "learned"),
    ],
)
def test_an_unknown_member_offers_the_nearest(field: str, typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown {field} '{typed}'; did you mean '{meant}'"):
        run_config({field: typed}, "here")


def test_flat_settings_name_every_field_once() -> None:
    parts = [DataConfig, ModelConfig, TrainConfig]
    fields = [name for part in parts for name in part.model_fields]
    fields += [name for name in RunConfig.model_fields if name not in ("data", "model", "train")]
    assert len(fields) == len(set(fields)), "two settings share a flag"
    assert set(flat_settings()) == set(fields)


def test_a_run_configuration_survives_json() -> None:
    config = run_config(
        {
            "dataset": "digits",
            "latent_config": "double+bias",
            "z_dim": [3, 4],
            "latents": ["concat@hidden+bias@output level=writer posterior=full_rank"],
            "batch_size": None,
            "lr": 0.1 + 0.2,
            "table": "a/b.csv",
            "seed": 2**40,
        },
        "here",
    )
    again = run_config(json.loads(json.dumps(flatten(config))), "there")
    assert again == config
    assert again.model.latent_config == ("double", "bias")
    assert again.train.lr == 0.1 + 0.2


@pytest.mark.parametrize(
    "text",
    [
        "concat@output level=writer",
        "weights@output level=Subject posterior=full_rank prior=learned_full",
        "concat@hidden1+bias@output level=writer width=5",
    ],
)
def test_a_latents_text_form_survives_a_round_trip(text: str) -> None:
    first = LatentConfig.from_text(text)
    assert LatentConfig.from_text(latent_text(first)) == first


def test_a_latents_text_form_says_the_same_as_the_configuration() -> None:
    expected = LatentConfig(
        level="writer", stage="hidden", placement="concat", width=8, prior="learned"
    )
    assert LatentConfig.from_text("concat@hidden level=writer width=8 prior=learned") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the form PLACEMENT@STAGE"),
        ("concat level=writer", "expected the form PLACEMENT@STAGE"),
        ("concat@output writer", "'writer' is not KEY=VALUE"),
        ("concat@output", "level: Field required"),
        ("concat@output level=w wdith=3", "unknown setting 'wdith'; did you mean 'width'"),
        ("concat@output level=w width=0", "width: .*greater than 0"),
        ("concta@output level=w", "unknown placement 'concta'; did you mean 'concat'"),
        ("concat@output level=w posterior=full", "unknown posterior 'full'"),
    ],
)
def test_a_bad_text_form_is_told_with_its_text(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        LatentConfig.from_text(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"stage": "output"},
        {"placement": "bias"},
        {"stage": "a", "placement": "bias", "entries": [{"stage": "b", "placement": "bias"}]},
    ],
)
def test_a_latent_says_where_it_enters_in_one_way(where: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="needs a stage and a placement, or entries"):
        LatentConfig(level="writer", **where)


# building


def test_building_leaves_the_callers_random_stream_alone() -> None:
    data = grouped_data()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_model(small_config(latent_config=("factor",)), data, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_the_weights() -> None:
    data = grouped_data()
    config = small_config(latent_config=("double",))
    torch.manual_seed(1)
    first = build_model(config, data, seed=3)
    torch.manual_seed(2)
    again = build_model(config, data, seed=3)
    other = build_model(config, data, seed=4)
    assert same_bits(first, again)
    assert not same_bits(first, other)


@pytest.mark.parametrize(
    ("kind", "backbone"), [("image", "CNN"), ("tokens", "LSTM"), ("features", "MLP")]
)
def test_the_data_decide_the_backbone(kind: str, backbone: str) -> None:
    model = build_model(ModelConfig(), grouped_data(kind))
    assert type(model.backbone).__name__ == backbone
    assert model.name == f"Normal{backbone}"


def test_an_unknown_level_offers_the_nearest() -> None:
    config = small_config(latents=(latent("concat", "output", "wirter"),))
    with pytest.raises(ConfigError, match="unknown group level 'wirter'; did you mean 'writer'"):
        build_model(config, grouped_data())


def test_an_unknown_stage_offers_the_nearest() -> None:
    config = small_config(latents=(latent("concat", "ouput"),))
    with pytest.raises(ConfigError, match="stage of backbone mlp 'ouput'; did you mean 'output'"):
        build_model(config, grouped_data())


def test_a_width_that_is_not_the_stages_is_refused() -> None:
    config = small_config(latents=(latent("bias", "output", width=3),))
    with pytest.raises(ConfigError, match=r"width 3 is not what the stage requires \(5\)"):
        build_model(config, grouped_data())


def test_a_width_that_is_the_stages_is_accepted() -> None:
    config = small_config(latents=(latent("bias", "output", width=5),))
    (one,) = build_model(config, grouped_data()).latents
    assert one.width == 5


def test_entries_that_require_different_widths_are_refused() -> None:
    entries = tuple(EntryConfig(stage=stage, placement="bias") for stage in ("hidden1", "output"))
    config = small_config(latents=(LatentConfig(level="writer", entries=entries),))
    with pytest.raises(ConfigError, match=r"hidden1.*output.*5.*6"):
        build_model(config, grouped_data())


def test_a_fixed_width_is_shared_with_a_free_entry() -> None:
    entries = (
        EntryConfig(stage="hidden1", placement="concat"),
        EntryConfig(stage="output", placement="bias"),
    )
    config = small_config(latents=(LatentConfig(level="writer", entries=entries),))
    (one,) = build_model(config, grouped_data()).latents
    assert one.width == 5


@pytest.mark.parametrize(
    ("placement", "prior", "sd"),
    [
        ("bias", "learned", 0.5),
        ("weights", "learned_full", 0.5),
        ("concat", "learned", 0.5 / math.sqrt(2)),  # shared by its two dimensions
        ("bias", "standard", 1.0),
    ],
)
def test_learned_priors_in_the_targets_units_start_at_half_its_sd(
    placement: str, prior: str, sd: float
) -> None:
    config = small_config(latents=(latent(placement, "output", prior=prior),), z_dim=2)
    (one,) = build_model(config, grouped_data()).latents
    assert one.prior().stddev.tolist() == pytest.approx([sd] * one.width)
    spread = one.posterior(torch.arange(6)).stddev
    assert (spread > 0).all()
    assert (spread <= sd).all()


def test_a_model_without_latents_needs_no_draws() -> None:
    data = grouped_data()
    model = build_model(small_config(), data)
    assert not model.is_sampling
    assert model(data.train.x.all(), []).shape == (1, 48, 5)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("image", {"skip": True}, r"--skip True does not belong to backbone cnn .*--channels"),
        ("image", {"lstm": (8, 8)}, r"--lstm 8 8 does not belong to backbone cnn"),
        ("tokens", {"kernel_size": 5}, r"--kernel-size 5 does not belong to backbone lstm"),
        ("features", {"embedding": 8}, r"--embedding 8 does not belong to backbone mlp"),
        (
            "features",
            {"backbone": "linear", "dropout": 0.5},
            r"--dropout 0.5 does not belong to backbone linear \(it has none\)",
        ),
    ],
)
def test_settings_of_another_backbone_are_refused(
    kind: str, settings: dict[str, object], message: str
) -> None:
    data = grouped_data(kind)
    config = ModelConfig.model_validate(settings)
    with pytest.raises(ConfigError, match=message):
        build_model(config, data)
    build_model(config, data, recorded=True)  # an older run goes on as it was configured


@pytest.mark.parametrize("name", members("backbones"))
def test_each_backbone_takes_the_settings_that_it_names(name: str) -> None:
    assert member_class("backbones", name, Backbone, "backbone").settings <= OF_BACKBONES
