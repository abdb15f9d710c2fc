"""A posterior or prior that somebody adds in one file is what it says, or is refused."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

import hlvnn
import hlvnn.latents.posteriors
import hlvnn.latents.priors
from hlvnn import families, strict
from hlvnn.commands import train_one as train_one_command
from hlvnn.errors import ConfigError, run_command
from hlvnn.latents.divergence import DRAWS, divergence, kl_of_diagonal

LAPLACE = """
import torch
from torch.distributions import Independent, Laplace
from hlvnn.latents.posteriors.base import Posterior

class OwnLaplace(Posterior):
    normal = False

    @staticmethod
    def num_parameters(width):
        return 2 * width

    def start(self, width, scale):
        return torch.cat([torch.zeros(width), (scale / 2**0.5).log()])

    def law(self, parameters):
        mean, log_scale = parameters.split(self.width, dim=-1)
        return Independent(Laplace(mean, log_scale.exp()), 1)
"""
STUDENT = """
from torch import nn
from torch.distributions import Independent, StudentT
from hlvnn.latents.priors.base import Prior

class Heavy(Prior):
    learned = True
    normal = False

    def __init__(self, width, scale):
        super().__init__(width, scale)
        self.log_scale = nn.Parameter(scale.log())

    def forward(self):
        scale = self.log_scale.exp()
        return Independent(StudentT(5.0, 0 * scale, scale), 1)
"""
FRAME = pd.DataFrame(
    {
        "y": np.random.default_rng(0).normal(size=60).cumsum(),
        "t": np.tile(np.arange(6.0), 10),
        "who": np.repeat([f"w{i}" for i in range(10)], 6),
    }
)

Add = Callable[[str, str], None]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Return what puts a member's file beside ours: its family's folder and name, its text."""

    def put(place: str, text: str) -> None:
        family, _, name = place.rpartition("/")
        folder = tmp_path / family
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        package = sys.modules[f"hlvnn.latents.{family}"]
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"hlvnn.latents.{family}.{name}", raising=False)
        before = families.members
        more = {f"latents.{family}": (name,)}
        for module in (families, strict):
            monkeypatch.setattr(module, "members", lambda f: (*before(f), *more.get(f, ())))

    return put


def fitted(
    posterior: str, prior: str = "learned_full", placement: str = "weights", **train: object
) -> tuple[hlvnn.HierarchicalModel, hlvnn.GroupedDataset, object]:
    data = hlvnn.GroupedDataset.from_frame(FRAME, target="y", features=["t"], groups=["who"])
    latent = hlvnn.LatentConfig(
        level="who", stage="output", placement=placement, posterior=posterior, prior=prior
    )
    config = hlvnn.ModelConfig(backbone="linear", likelihood="gaussian", latents=(latent,))
    model = hlvnn.build_model(config, data)
    settings = {"num_epochs": 40, "batch_size": None, "lr": 0.05, "num_samples": 8, **train}
    return model, data, hlvnn.fit(model, data, hlvnn.TrainConfig(**settings))


def test_the_kl_of_a_laplace_under_a_full_prior_is_its_integral() -> None:
    """It was that of the normal with its mean and variance, 0.43 for 0.57."""
    tril = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    p = MultivariateNormal(torch.zeros(2), scale_tril=tril)
    q = Independent(Laplace(torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.6])), 1)
    grid = torch.linspace(-12, 12, 2001, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid).float()
    log_q, log_p = q.log_prob(z).double(), p.log_prob(z).double()
    truth = float((log_q.exp() * (log_q - log_p)).sum() * (grid[1] - grid[0]) ** 2)
    torch.manual_seed(0)
    batch = Independent(Laplace(q.mean.repeat(4000, 1), q.base_dist.scale.repeat(4000, 1)), 1)
    for kl in (kl_of_diagonal, divergence):
        values = kl(batch, p)
        error = float(values.std()) / math.sqrt(len(values))
        assert error * math.sqrt(DRAWS) < 0.1
        assert float(values.mean()) == pytest.approx(truth, abs=4 * error)
    normal = Independent(Normal(q.mean, q.variance.sqrt()), 1)
    assert abs(float(kl_of_diagonal(normal, p)) - truth) > 0.1


def test_a_closed_form_that_torch_knows_is_taken() -> None:
    q = Independent(Laplace(torch.zeros(3, 2), torch.ones(2)), 1)
    p = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    assert torch.equal(divergence(q, p), divergence(q, p))


@pytest.mark.parametrize(
    ("prior", "placement", "settings"),
    [("learned_full", "weights", {}), ("learned", "weights", {"batch_size": 20})],
)
def test_a_laplace_posterior_reports_its_own_elbo(
    add: Add, prior: str, placement: str, settings: dict[str, object]
) -> None:
    add("posteriors/own_laplace", LAPLACE)
    model, data, result = fitted("own_laplace", prior, placement, **settings)
    assert result.elbo_error > 0
    train, latents = data.train, model.latents
    torch.manual_seed(1)
    groups = train.groups[::6]
    with torch.no_grad():
        rows = latents.at(groups, unseen=False)
        z = rows.posteriors[0].sample((4000,))
        kl = rows.posteriors[0].log_prob(z) - rows.priors[0].log_prob(z)
        eta = model(train.x.all(), [z[:, train.groups[:, 0].long()]])
        values = model.likelihood.log_prob(eta, train.y).sum(1) - kl.sum(1)
    error = math.hypot(float(values.std()) / math.sqrt(4000), result.elbo_error)
    assert result.elbo == pytest.approx(float(values.double().mean()), abs=4 * error)
    near = model.nearest("who", "w3", k=2)
    assert near["distance"].notna().all()
    assert model.posterior("who").notna().all().all()
    assert hlvnn.predict(model, FRAME, num_samples=20)["mean"].notna().all()


def test_a_prior_that_is_not_normal_is_used_as_it_is(add: Add) -> None:
    add("priors/heavy", STUDENT)
    model, _, result = fitted("mean_field", "heavy", "bias")
    assert result.elbo_error > 0
    assert not model.is_linear_at_output
    summary = model.summary().set_index("part")
    assert summary.loc["prior sd", "estimate"] > 0
    assert model.nearest("who", "w3", k=2)["distance"].notna().all()
    with pytest.raises(ConfigError, match="posterior joint under prior heavy: levels and groups"):
        fitted("joint", "heavy", "bias")
    with pytest.raises(ConfigError, match="prior heavy is not normal, and so there is no q"):
        fitted("amortised", "heavy", "bias")


def test_the_bound_refuses_a_law_for_its_own_reason(add: Add) -> None:
    add("posteriors/own_laplace", LAPLACE)
    with pytest.raises(ConfigError, match=r"posterior ownlaplace, and the bound's gradients are"):
        fitted("own_laplace", objective="iwae")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    normal = False\n", "", r"own_laplace.py: OwnLaplace does not say normal; every"),
        ("    def law(", "    def lax(", r"OwnLaplace does not say law; every posterior has to"),
        ("normal = False", "normal = True", r"says that it is normal, and its law is Laplace; say"),
        (
            ", 1)\n",
            ", 0)\n",
            r"batch shape \[1, 2\] and event shape \[\], expected",
        ),
    ],
    ids=["no normal", "no law", "wrong normal", "no vector"],
)
def test_a_member_that_leaves_out_or_errs_is_told(
    add: Add, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert old in LAPLACE
    add("posteriors/own_laplace", LAPLACE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        fitted("own_laplace")
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    flags = ["--dataset", "table", "--table", str(tmp_path / "rows.csv"), "--target", "y"]
    flags += ["--groups", "who", "--backbone", "linear", "--latent-config", "weights"]
    flags += ["--posterior", "own_laplace", "--results-dir", str(tmp_path / "results")]
    with pytest.raises(SystemExit) as end:
        run_command(lambda: train_one_command.main(flags))
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "OwnLaplace" in told or "own_laplace" in told
    assert "Traceback" not in told
    assert not (tmp_path / "results").exists()
