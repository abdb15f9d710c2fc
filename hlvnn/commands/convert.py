"""Convert other formats into a folder of arrays.

python -m hlvnn.data.convert leaf …
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tyro

from hlvnn import errors
from hlvnn.data.convert import Leaf, convert_leaf


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits 2 with one message for what a user can mend."""
    formats: dict[str, Callable[..., Leaf]] = {"leaf": Leaf}
    prog = "python -m hlvnn.data.convert"
    errors.run_command(
        lambda: convert_leaf(tyro.extras.subcommand_cli_from_dict(formats, prog=prog, args=args))
    )


if __name__ == "__main__":
    main()
