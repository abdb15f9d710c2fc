"""What each column of the tables means, as a page.

python -m hlvnn.analysis columns > docs/columns.md
"""

from __future__ import annotations

from pathlib import Path

from hlvnn.analysis import described
from hlvnn.files import replacing
from hlvnn.strict import Config


class ColumnsOptions(Config):
    """What each column of the tables means, and its unit, as a Markdown page (docs/columns.md)."""

    out: Path | None = None
    """File to write; none given = it is printed."""


def columns(options: ColumnsOptions) -> None:
    """Print the page, or write it."""
    if options.out is None:
        print(described.page(), end="")
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.out) as temporary:
        temporary.write_text(described.page(), encoding="utf-8")
