"""What a cluster's workers are sent: this working tree's Python files, and their commit."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hlvnn.records import provenance

PACKAGE = "hlvnn"
FOLDERS = (PACKAGE, "search_spaces")
"""The folders of the working tree that are sent."""
SUFFIXES = (".py", ".typed")
"""The files of them that are sent. Data, results, checkpoints and keys have other names."""


def sent_files(root: Path) -> list[Path]:
    """Return the files that are sent, relative to `root`, in order of name.

    The list says what goes, not what stays: a file of a kind nobody thought of stays. Links are
    not followed, so that nothing from outside the tree is sent, and hidden files are left out.
    """
    found = []
    for top in FOLDERS:
        for folder, inner, names in os.walk(root / top):
            inner[:] = [name for name in inner if not name.startswith((".", "__pycache__"))]
            paths = [Path(folder, name) for name in names if name.endswith(SUFFIXES)]
            found += [
                path.relative_to(root)
                for path in paths
                if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
            ]
    return sorted(found)


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Copy the files that are sent into a folder of their own, which is gone afterwards.

    Beside them stands their commit, which workers would not know: theirs is no git work tree. Ray
    packs a folder as it stands, less what a .gitignore in it names: there must be none.
    """
    with tempfile.TemporaryDirectory(prefix="hlvnn-code-") as folder:
        for path in sent_files(root):
            copy = Path(folder, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy)
        provenance.write_sent(root / PACKAGE, Path(folder, PACKAGE))
        yield Path(folder)
