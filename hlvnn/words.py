"""Numbers, durations, bytes and settings as people read them."""

from __future__ import annotations

import math
from typing import Any

Settings = dict[str, Any]
"""Settings of a run by their flat names: those of the flags, with underscores."""


def shown(settings: Settings) -> str:
    """Return settings as one readable line: `lr=0.00213, latent_config=double, z_dim=8 4`."""
    return ", ".join(f"{key}={text(value)}" for key, value in settings.items())


def text(value: object) -> str:
    """Return a setting's value as it is typed on the command line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(text(item) for item in value)
    return str(value)


def number(value: float | None) -> str:
    """Return a measure as it is shown; nothing for a missing one."""
    return "" if is_missing(value) else f"{value:.4g}"


def is_missing(value: object) -> bool:
    """Whether there is no value: None, or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def duration(seconds: float) -> str:
    """Return a length of time: 8.2 s, 45 s, 3 min 05 s, 2 h 03 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def age(seconds: float) -> str:
    """Return how old something is: as `duration`, and in days from two on.

    >>> age(90), age(300_000)
    ('1 min 30 s', '3 days')
    """
    return f"{int(seconds // 86400)} days" if seconds >= 2 * 86400 else duration(max(0.0, seconds))


def shown_bytes(size: float) -> str:
    """Return a number of bytes as people read it.

    >>> shown_bytes(0), shown_bytes(1536), shown_bytes(3e9)
    ('0 B', '1.5 KB', '2.8 GB')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
