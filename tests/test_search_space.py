"""Search spaces: what a file may hold, what is said when it does not, and drawing from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hlvnn import search_space
from hlvnn.data import load_data
from hlvnn.errors import ConfigError
from hlvnn.models.build import build_model
from hlvnn.sweep.searchers import sampler
from tests.helpers import ROOT

NAMES = sorted(path.stem for path in (ROOT / "search_spaces").glob("*.py"))
HEAD = 'BASE = {"dataset": "digits"}\nMETRIC, MODE = "val_acc", "max"\n'
GOOD = (
    HEAD + 'def space(trial):\n    return {"lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True)}\n'
)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a search space of the given text and loads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()

    def write(text: str) -> search_space.Space:
        (tmp_path / "search_spaces" / "study.py").write_text(text, encoding="utf-8")
        return search_space.load("study")

    return write


@pytest.mark.parametrize("name", NAMES)
def test_every_space_here_is_valid_and_opens_with_its_command(name: str) -> None:
    space = search_space.load(name)
    assert len(search_space.check(space)) == search_space.CHECKED_DRAWS
    text = space.path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert f"python tune_search.py {name}" in text


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tabular_")])
def test_every_draw_of_the_tables_studies_builds(name: str, tmp_path: Path) -> None:
    space = search_space.load(name)
    random = np.random.default_rng(0)
    columns = [space.base["target"], "t", "t2", "ttl_exp", "tenure", "hours"]
    frame = pd.DataFrame({column: random.normal(size=200) for column in columns})
    for depth, group in enumerate(space.base["groups"]):
        frame[group] = np.arange(200) % 16 // 2**depth  # each level within the next
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    configs = search_space.check(space)
    data = load_data(configs[0].data.model_copy(update={"table": path}))
    for config in configs:
        build_model(config.model, data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import nowhere_to_be_found",
            ["study.py line 1", "does not import", "nowhere_to_be_found"],
        ),
        ("BASE = {}\n\ndef space(trial:\n", ["study.py line 3", "does not import", "SyntaxError"]),
        (GOOD.replace("BASE =", "BAS ="), ["study.py: BASE is missing", "a dict of settings"]),
        (GOOD.replace("METRIC, MODE", "METRIC, MOD"), ["study.py: MODE is missing"]),
        (GOOD.replace("METRIC, MODE", "METRI, MODE"), ["study.py: METRIC is missing"]),
        (GOOD.replace("def space", "def spac"), ["study.py: space is missing", "space(trial)"]),
        (HEAD + "space = 3\n", ["space must be a function", "got 3"]),
        (GOOD.replace("val_acc", "test_acc"), ["METRIC = 'test_acc'", "selects on validation"]),
        (GOOD.replace('"max"', '"maximum"'), ["MODE must be 'max' or 'min'", "maximum"]),
        (GOOD.replace('{"dataset": "digits"}', "[1]"), ["BASE must be a dict of settings", "[1]"]),
    ],
)
def test_a_file_that_is_no_search_space_is_refused(study, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        study(text)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace('"lr":', '"learning_rate":'), ["unknown setting 'learning_rate'", "draw 0"]),
        (GOOD.replace("1e-4, 1e-1, log=True", "-1.0, 0.0"), ["lr: Input should be greater than 0"]),
        (GOOD.replace('"lr":', '"prior": "flat", "lr":'), ["unknown prior 'flat'", "lr="]),
        (GOOD.replace("return", "trial.no_such\n    return"), ["line 4", "space(trial) failed"]),
        (HEAD + "def space(trial):\n    return 3\n", ["must return a dict", "got 3"]),
        (
            GOOD.replace('"digits"}', '"digits", "val_fraction": 0}'),
            ["val_fraction must be above 0"],
        ),
    ],
)
def test_an_invalid_draw_is_told_with_its_settings(study, text: str, words: list[str]) -> None:
    space = study(text)
    with pytest.raises(ConfigError) as error:
        search_space.check(space)
    assert [word for word in words if word not in str(error.value)] == []


def test_the_nearest_space_is_offered(study) -> None:
    study(GOOD)
    with pytest.raises(ConfigError, match=r"unknown search space 'studi'; did you mean 'study'\?"):
        search_space.load("studi")


@pytest.mark.parametrize("name", ["../study", "/etc/passwd", "", "__init__"])
def test_only_files_of_the_folder_are_run(study, name: str) -> None:
    study(GOOD)
    with pytest.raises(ConfigError, match="unknown search space"):
        search_space.load(name)


def test_draws_repeat_and_depend_on_the_seed(study) -> None:
    space = study(GOOD)
    first = list(search_space.draws(space, 5, seed=3))
    assert first == list(search_space.draws(space, 5, seed=3))
    assert first != list(search_space.draws(space, 5, seed=4))
    assert [one.settings["seed"] for one in first] == [3, 4, 5, 6, 7]
    assert search_space.draw(space, 2, seed=3).train.lr == first[2].settings["lr"]


def test_a_resumed_sweep_does_not_draw_the_same_again() -> None:
    first, again = sampler("tpe", 0), sampler("tpe", 0, trials_before=4)
    seeds = [one._rng.rng.randint(2**31) for one in (first, again)]
    assert seeds[0] != seeds[1]


def test_fixed_settings_replace_the_base_but_not_what_is_drawn(study) -> None:
    space = study(GOOD.replace('"digits"}', '"digits", "num_epochs": 9}'))
    (one,) = search_space.draws(space, 1, seed=0, fixed={"num_epochs": 2})
    assert one.settings["num_epochs"] == 2
    assert one.drawn.keys() == {"lr"}
    with pytest.raises(ConfigError, match=r"draws 'lr' itself.*leave out --lr"):
        list(search_space.draws(space, 1, seed=0, fixed={"lr": 0.1}))


def test_what_was_drawn_is_shown_where_it_equals_the_base_and_where_it_is_the_seed(study) -> None:
    drawn = '{"lr": 1e-3, "seed": 7, "num_epochs": 9}'
    text = HEAD.replace('"digits"', '"digits", "num_epochs": 9, "lr": 1e-3')
    space = study(f"{text}def space(trial):\n    return {drawn}\n")
    (one,) = search_space.draws(space, 1, seed=3)
    assert set(one.set_here) == {"lr", "seed", "num_epochs"}
    assert one.settings["seed"] == 7


def test_a_study_may_be_named_by_its_file(study, tmp_path: Path) -> None:
    study(GOOD)
    assert search_space.load("search_spaces/study.py").name == "study"
    assert search_space.load(str(tmp_path / "search_spaces" / "study.py")).name == "study"
    (tmp_path / "study.py").write_text(GOOD, encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown search space"):
        search_space.load("study.py")
