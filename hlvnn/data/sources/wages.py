"""Log wages of 545 young men over eight years: a real table in which groups matter, and small.

target: log_wage
features: year, experience, schooling, married, union, hours, occupation, black, hispanic
groups: man, 545 of them, eight rows each

Source: Vella and Verbeek (1998); see `hlvnn.data.examples.wages`. It comes with the program.
"""

from __future__ import annotations

from hlvnn.config import DataConfig
from hlvnn.data.examples import wages
from hlvnn.data.grouped import Loaded

TARGET, GROUP = "log_wage", "man"


def load(config: DataConfig) -> Loaded:
    """Load the panel."""
    frame = wages()
    features = [str(name) for name in frame if name not in (TARGET, GROUP)]
    return Loaded.from_frame(
        frame, target=TARGET, features=features, groups=[GROUP], name="wage_panel.csv.gz"
    )
