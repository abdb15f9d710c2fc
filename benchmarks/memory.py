"""Peak memory of a trial on large data, alone and beside a second trial that reads the same files.

    python benchmarks/memory.py [--rows 800000]

Two data sets: images of 3,550 writers (random pixels, 28 × 28 bytes, 62 classes; ROWS rows in a
folder of arrays), and Shakespeare large (a window of 80 characters every 5; windows are gathered
from one array of characters). Each trial is a process of its own and trains one epoch of the small
CNN or LSTM with `fit`, evaluation included (Shakespeare: a twentieth of the rows).

peak: the largest resident memory the process ever had, all libraries included; before data: what it
had before it loaded any. pages of x: what of the file of training images is resident for the
process (Rss), and its share of it when pages are divided by the processes that hold them (Pss, from
/proc/self/smaps): with two trials that share them, a half.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from pydantic import BaseModel

from hlvnn.config import RunConfig, run_config
from hlvnn.data import load_data
from hlvnn.data.grouped import GroupedDataset
from hlvnn.models.build import build_model
from hlvnn.training.loop import fit

WRITERS, CLASSES, SIDE = 3_550, 62, 28
PART = 20
"""Shakespeare trains on every 20th row."""


class Options(BaseModel):
    """How much."""

    rows: int = 800_000
    """Images."""


def write_images(folder: Path, rows: int) -> None:
    """Write random images of all writers, nine tenths of them for training."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, number in (("train", rows * 9 // 10), ("test", rows - rows * 9 // 10)):
        shape = (number, SIDE, SIDE)
        x = np.lib.format.open_memmap(folder / f"x_{split}.npy", "w+", np.uint8, shape)
        for start in range(0, number, 10_000):
            part = x[start : start + 10_000]
            part[:] = random.integers(0, 256, part.shape, dtype=np.uint8)
        x.flush()
        np.save(folder / f"gid_{split}.npy", (np.arange(number) % WRITERS).astype(np.int32))
        y = random.integers(0, CLASSES, number)
        y[:CLASSES] = np.arange(CLASSES)
        np.save(folder / f"y_{split}.npy", y)


def resident() -> float:
    """Return this process's resident memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def mapped(name: str) -> tuple[float, float]:
    """Return Rss and Pss of the pages of a file that this process has mapped, MB."""
    sums, inside = {"Rss": 0.0, "Pss": 0.0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key = line.split(":")[0]
        if "-" in line.split(" ")[0]:
            inside = line.endswith(name)
        elif inside and key in sums:
            sums[key] += float(line.split()[1]) / 1e3
    return sums["Rss"], sums["Pss"]


def trial(settings: dict[str, Any], barrier: Barrier, told: Any) -> None:
    """Train one epoch, and tell what it took."""
    torch.set_num_threads(1)
    config: RunConfig = run_config(settings, "memory")
    before, began = resident(), time.perf_counter()
    data = load_data(config.data)
    loaded = resident()
    if config.data.dataset == "shakespeare":
        data = GroupedDataset(
            data.schema, data.train.subset(torch.arange(0, len(data.train), PART))
        )
    model = build_model(config.model, data)
    pages = (0.0, 0.0)

    def report(epoch: object, checkpoint: object) -> None:
        nonlocal pages
        barrier.wait()  # all trials hold their pages now
        pages = mapped("x_train.npy")
        barrier.wait()

    fit(model, data, config.train, report)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    took = time.perf_counter() - began
    told.put((len(data.train), before, loaded, peak, *pages, took))


def measure(name: str, settings: dict[str, Any], at_once: int) -> None:
    """Run trials at once; print a line of the table."""
    context = multiprocessing.get_context("spawn")
    told, barrier = context.Queue(), context.Barrier(at_once)
    children = [
        context.Process(target=trial, args=(settings, barrier, told)) for _ in range(at_once)
    ]
    for child in children:
        child.start()
    rows, before, loaded, peak, rss, pss, took = (
        max(values) for values in zip(*(told.get() for _ in children), strict=True)
    )
    for child in children:
        child.join()
    pages = f"{rss:,.0f} / {pss:,.0f}" if rss else ""
    print(
        f"| {name} | {rows:,} | {at_once} | {before:,.0f} | {loaded:,.0f} | {peak:,.0f} | {pages} "
        f"| {took:.0f} |",
        flush=True,
    )


def main(options: Options) -> None:
    """Print the table."""
    shared = {"latent_config": "factor", "batch_size": 200, "num_epochs": 1, "device": "cpu"}
    print("memory in MB")
    print(
        "| data | training rows | trials at once | before data | loaded | peak "
        "| pages of x: Rss / Pss | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images" / "large", options.rows)
        images = shared | {
            "dataset": "images",
            "data_size": "large",
            "data_dir": folder,
            "backbone": "cnn",
        }
        for at_once in (1, 2):
            measure("images", images, at_once)
    text = shared | {"dataset": "shakespeare", "data_size": "large", "backbone": "lstm"}
    measure(f"Shakespeare large, 1 row in {PART}", text, 1)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
