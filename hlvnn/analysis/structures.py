"""The structure of each trial: its latents as they are typed."""

from __future__ import annotations

import re

import pandas as pd

from hlvnn.analysis.results import POOLED

DEFAULTS = re.compile(r" (posterior=mean_field|centred=True)(?=[ ;]|$)")
"""Parts of a latent's text that say nothing, because they are so unless said otherwise."""


def structures(frame: pd.DataFrame) -> list[str | None]:
    """Return each trial's latents as they are typed; `none` for none; None where not known."""
    if "latent_config" not in frame:
        return [None] * len(frame)
    found: list[str | None] = []
    latents = frame["latents"] if "latents" in frame else pd.Series("", frame.index)
    for names, written in zip(frame["latent_config"], latents, strict=True):
        if pd.isna(names):
            found.append(None)
            continue
        parts = [name for name in str(names).split() if name != POOLED]
        if not pd.isna(written) and str(written):
            parts.append(DEFAULTS.sub("", str(written)))
        found.append(" + ".join(parts) or POOLED)
    return found
