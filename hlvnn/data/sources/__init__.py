"""Data sources: one file each, with a function `load(config: DataConfig) -> GroupedDataset`."""
