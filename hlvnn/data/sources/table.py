"""Any table: a CSV or Parquet file with a target, feature columns and one or more group columns.

    python train_one.py --dataset table --table patients.parquet --target died \
        --features age sofa ventilated --groups hospital region

A row is one example. A numeric target is real; text and truth values are classes. Feature columns
that are not numeric are treatment-coded. With `--trials COLUMN` the target counts the successes out
of that many trials. Of each lowest group's rows, the share `test_fraction` is for testing; with
`--split rows --unseen prior` that share of all rows, some of them of groups never trained on.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from hlvnn.config import DataConfig
from hlvnn.data import splits
from hlvnn.data.assemble import assemble, check_hold_out, random_cut
from hlvnn.data.grouped import GroupedDataset
from hlvnn.errors import ConfigError, DataError

CSV = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")


def load(config: DataConfig) -> GroupedDataset:
    """Read the table and split it inside its groups.

    Raises `ConfigError` for missing settings, `DataError` for what is wrong with the file.
    """
    check_hold_out(config)
    if config.table is None or config.target is None or not config.groups:
        values = {"table": config.table, "target": config.target, "groups": config.groups}
        missing = ", ".join(f"--{name}" for name, value in values.items() if not value)
        raise ConfigError(f"the data set 'table' needs {missing} as well")
    frame = read_table(config.table, config.groups)
    spoken_for = (config.target, config.trials, *config.groups)
    others = [str(name) for name in frame.columns if name not in spoken_for]
    data = GroupedDataset.from_frame(
        frame,
        target=config.target,
        features=config.features or others,
        groups=config.groups,
        trials=config.trials,
        name=str(config.table),
        unseen=config.unseen,
    )
    train, test = data.train, None
    keep, cut = random_cut(config, train.groups.numpy(), config.test_fraction, splits.TEST)
    if len(cut):
        train, test = (data.train.subset(torch.from_numpy(part)) for part in (keep, cut))
    return assemble(config, data.schema, train, test)


def read_table(path: Path, groups: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV (.csv, .tsv, also compressed) or Parquet file.

    In a CSV, group columns keep leading zeros: they are whole numbers only if all are written so.
    """
    kinds = [suffix for suffix in path.suffixes if suffix in CSV + PARQUET]
    if not kinds:
        raise DataError(
            f"{path}: expected a file called .csv, .tsv (also .gz, …) or .parquet, "
            f"got {path.name!r}"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the table's path with --table")
    try:
        if kinds[-1] in PARQUET:
            return pd.read_parquet(path)
        separator = "\t" if kinds[-1] == ".tsv" else ","
        frame = pd.read_csv(path, sep=separator, dtype=dict.fromkeys(groups, str), low_memory=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    for name in groups:
        if name in frame.columns and frame[name].str.fullmatch(r"0|-?[1-9]\d{0,17}").all():
            frame[name] = frame[name].astype("int64")
    return frame
