"""The sweep: Ray Tune spreads trials, Optuna proposes them, ASHA stops the bad ones early.

The only package that imports ray. A trial is `hlvnn.training.execution.execute`, the same as
`train_one.py` runs.
"""

import os

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # metrics.csv is the record
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # error.txt and trials.parquet tell
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the driver has its own
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
