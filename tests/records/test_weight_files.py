"""Only the weights of the worse trials are deleted, and only at the end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hlvnn.records import outcomes, run_folder, weight_files


def test_only_the_weights_of_the_others_are_deleted_and_only_at_the_end(here: Path) -> None:
    for number in range(4):
        folder = outcomes.trial_folder(here, number)
        (folder / run_folder.STATS).mkdir(parents=True)
        for name in (
            run_folder.CHECKPOINT,
            run_folder.BEST,
            run_folder.METRICS,
            run_folder.HYPERPARAMS,
            "mine.pt",
        ):
            (folder / name).write_bytes(b"12345")
    before = {path for path in here.rglob("*") if path.is_file()}
    ranked = pd.DataFrame({"trial": [2, 0, 3, 1], "status": "completed", "unfinished": False})
    going_on = ranked.assign(unfinished=[False, False, False, True])
    assert weight_files.prune(here, going_on, 0).trials == 0
    freed = weight_files.prune(here, ranked, 2)
    assert (freed.trials, freed.bytes) == (2, 20)
    gone = before - {path for path in here.rglob("*") if path.is_file()}
    assert gone == {
        outcomes.trial_folder(here, number) / name
        for number in (3, 1)
        for name in (run_folder.CHECKPOINT, run_folder.BEST)
    }
    assert weight_files.prune(here, ranked, 2).trials == 0
