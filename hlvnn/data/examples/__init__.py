"""Small grouped tables that come with the program, to try things on.

`wages` is real; the others are simulated, by numbers that are told, so that what a fit should find
is known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hlvnn.errors import ConfigError, unknown

WAGE_PANEL = Path(__file__).parent / "wage_panel.csv.gz"
OCCUPATIONS = (
    "professional",
    "manager",
    "sales",
    "clerical",
    "craft",
    "operative",
    "labourer",
    "farm",
    "service",
)
"""Of the panel's codes 1 to 9, shortened."""


def wages() -> pd.DataFrame:
    """Return the log hourly wages of 545 young men in the United States, 1980 to 1987.

    4,360 rows: man (a number), year, log_wage, experience and schooling (years), married, union,
    hours (worked that year), occupation, black, hispanic.

    Source: F. Vella and M. Verbeek (1998), Whose wages do unions raise? Journal of Applied
    Econometrics 13, 163-183, from the National Longitudinal Survey of Youth; as in the package
    linearmodels (see LICENSES.md).
    """
    frame = pd.read_csv(WAGE_PANEL)
    frame["occupation"] = frame["occupation"].map(dict(enumerate(OCCUPATIONS, start=1)))
    return frame


def reaction() -> pd.DataFrame:
    """Return simulated reaction times of 18 subjects in ten days without sleep: 180 rows.

    subject, day (0 to 9), reaction (ms): 250 + 10 day, a subject's own intercept and slope of SDs
    25 and 6 (independent), noise of SD 25. A table of the form of sleepstudy (Belenky et al. 2003).
    """
    draws = np.random.default_rng(4)
    subject = np.repeat(np.arange(18), 10)
    day = np.tile(np.arange(10), 18)
    intercept, slope = 250 + 25 * draws.normal(size=18), 10 + 6 * draws.normal(size=18)
    y = intercept[subject] + slope[subject] * day + 25 * draws.normal(size=len(day))
    labels = np.array([f"S{number:02}" for number in range(1, 19)])
    return pd.DataFrame({"subject": labels[subject], "day": day, "reaction": y.round(1)})


def patients() -> pd.DataFrame:
    """Return simulated patients of 30 wards in 6 hospitals, and who died: 3,000 rows.

    hospital, ward, age (years), severity (0 to 10), died: log odds −3 + 0.3 severity + 0.02 (age −
    60), a ward's own intercept of SD 0.4, a hospital's of SD 0.6.
    """
    draws = np.random.default_rng(2)
    ward = draws.integers(30, size=3000)
    hospital = ward // 5
    age = draws.normal(60, 15, 3000).clip(18, 99).round()
    severity = draws.gamma(2, 1.5, 3000).clip(0, 10).round(1)
    own = 0.4 * draws.normal(size=30)[ward] + 0.6 * draws.normal(size=6)[hospital]
    log_odds = -3 + 0.3 * severity + 0.02 * (age - 60) + own
    died = draws.random(3000) < 1 / (1 + np.exp(-log_odds))
    return pd.DataFrame(
        {
            "hospital": np.array(list("ABCDEF"))[hospital],
            "ward": [f"{'ABCDEF'[one // 5]}{one % 5 + 1}" for one in ward],
            "age": age.astype(int),
            "severity": severity,
            "died": died,
        }
    )


EXAMPLES: dict[str, Callable[[], pd.DataFrame]] = {
    "wages": wages,
    "reaction": reaction,
    "patients": patients,
}
"""Tables by name."""


def load_example(name: str) -> pd.DataFrame:
    """Return one of the tables that come with the program; see `hlvnn.data.examples`.

    Raises `ConfigError` for a name that is none of them.

    >>> load_example("reaction").shape
    (180, 3)
    """
    if name not in EXAMPLES:
        raise ConfigError(unknown("example", name, EXAMPLES))
    return EXAMPLES[name]()
