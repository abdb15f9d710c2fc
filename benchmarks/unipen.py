"""Make a folder of arrays, in the original's layout, from `unipen_writers.npz`.

    python benchmarks/unipen.py ../shared/data/unipen_writers.npz --out data/femnist/large [--sites]

Each writer's rows are split at random, 80 % for training. 62 classes, 207 writers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tyro
from pydantic import BaseModel
from tyro.conf import Positional

from hlvnn.data.splits import within_groups
from hlvnn.errors import DataError, run_command


class Options(BaseModel):
    """Where from, where to."""

    source: Positional[Path]
    """The file `unipen_writers.npz`."""
    out: Path = Path("data/femnist/large")
    """Folder to make; it must not exist."""
    test_fraction: float = 0.2
    """Share of each writer's rows for testing."""
    seed: int = 0
    """Seed of the split."""
    sites: bool = False
    """Write the collection sites as a second level, gid2."""


def write_folder(options: Options) -> None:
    """Write x, gid, y for train and test, and levels.json with the writers' names."""
    if options.out.exists():
        raise DataError(f"{options.out} exists already; nothing was overwritten")
    with np.load(options.source, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
        writer, names = arrays["writer"].astype(np.int32), arrays["writer_id"]
        site, site_names = arrays["writer_donor"].astype(np.int32)[writer], arrays["donor_id"]
    train, test = within_groups(writer[:, None], options.test_fraction, (options.seed,))
    options.out.mkdir(parents=True)
    for split, rows in (("train", train), ("test", test)):
        np.save(options.out / f"x_{split}.npy", images[rows])
        np.save(options.out / f"gid_{split}.npy", writer[rows])
        np.save(options.out / f"y_{split}.npy", labels[rows])
        if options.sites:
            np.save(options.out / f"gid2_{split}.npy", site[rows])
    labelled = {"writer": [str(name) for name in names]}
    if options.sites:
        labelled["site"] = [str(name) for name in site_names]
    levels = {"levels": list(labelled), "labels": labelled}
    (options.out / "levels.json").write_text(json.dumps(levels) + "\n")
    print(
        f"{options.out}: {len(train):,} training, {len(test):,} test rows of {len(names)} writers"
    )


def main() -> int:
    """Parse the flags and write."""
    write_folder(tyro.cli(Options, description=__doc__))
    return 0


if __name__ == "__main__":
    run_command(main)
