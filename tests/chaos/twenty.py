"""Twenty random kills in one sweep, and what was survived: `make chaos`.

python -m tests.chaos.twenty [SEED]
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.stage import Stage

KILLS = 20
NUM_TRIALS, NUM_EPOCHS = 24, 40


def main(seed: int) -> None:
    chosen = random.Random(seed)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as here,
        Stage(
            Path(here), NUM_TRIALS, NUM_EPOCHS, "--grace-period", "20", "--max-failures", "3"
        ) as stage,
    ):
        survived: dict[str, int] = {}
        for kill in range(1, KILLS + 1):
            stage.wait_for_progress()
            if stage.over():
                break
            lost = chosen.choice([stage.kill_trial, stage.remove_node, stage.kill_driver])(chosen)
            survived[lost] = survived.get(lost, 0) + 1
            at = f"{time.monotonic() - began:6.1f} s"
            print(f"[{at}] kill {kill}: {lost}; {len(stage.ended())} trials over", flush=True)
        stage.finish()
        frame = stage.check()
        for number in range(0, NUM_TRIALS, 6):
            stage.check_repeatable(number)
    listed = ", ".join(f"{count} times {what}" for what, count in sorted(survived.items()))
    statuses = ", ".join(f"{n} {status}" for status, n in frame["status"].value_counts().items())
    print(f"survived {sum(survived.values())} kills in {time.monotonic() - began:.0f} s: {listed}")
    print(
        f"{len(frame)} trials ({statuses}), {frame['epochs'].sum()} epochs: none lost, none twice, "
        "finished trials unchanged, four repeated bit for bit"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
