"""What else goes wrong around a sweep: full disks, storage that goes away, hangs, Ctrl-C."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from hlvnn.records import outcomes, run_folder
from hlvnn.records.checkpoint import load_checkpoint
from tests.chaos.stage import Sweep, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.slow]


def under_way(sweep: Sweep) -> Callable[[], object]:
    return lambda: sweep.over() or (sweep.under_way() and len(sweep.trial_processes()) >= 1)


# hangs


@pytest.mark.parametrize("failures", [0, 1])
def test_a_trial_that_hangs_is_ended_and_its_slot_freed(tmp_path: Path, failures: int) -> None:
    flags = ("--max-failures", str(failures), "--trial-timeout", "30s", "--grace-period", "50")
    with Sweep(tmp_path, 3, 50, *flags, "--max-concurrent", "1") as sweep:
        wait_until(under_way(sweep), "a trial under way")
        (process,) = sweep.trial_processes()
        (number,) = sweep.under_way()
        os.kill(process.pid, signal.SIGSTOP)
        text = sweep.finish()
        assert not process.is_running(), "the process that hung is still there"
        frame = pd.read_parquet(sweep.folder / "trials.parquet").set_index("trial")
        if failures:
            assert f"trial {number} will go on after an error: no epoch was finished" in text
            sweep.check()
            sweep.check_repeatable(number)
        else:
            assert frame["status"].value_counts().to_dict() == {"completed": 2, "failed": 1}
            assert frame["reason"][number].startswith("hung: no epoch was finished within 30 s")
            assert frame["epochs"][number] > 0


def test_a_hung_trial_leaves_word_of_where_it_was(tmp_path: Path) -> None:
    """Its log is a pipe that nobody reads, as a file on a dead server would be."""
    with Sweep(tmp_path, 1, 5, "--max-failures", "0", "--trial-timeout", "30s") as sweep:
        wait_until(lambda: sweep.over() or (sweep.folder / "sweep.json").exists(), "the sweep")
        trial = outcomes.trial_folder(sweep.folder, 0)
        trial.mkdir()
        os.mkfifo(trial / run_folder.LOG)
        wait_until(sweep.over, "the sweep's end")
        assert sweep.driver.returncode == 1, sweep.said()
        outcome = outcomes.read(sweep.folder, 0)
        assert outcome is not None
        assert (outcome.status, outcome.reason[:5]) == ("failed", "hung:")
        assert "in execute" in (trial / outcomes.HUNG).read_text()


# Ctrl-C


def test_ctrl_c_once_finishes_the_epoch_and_saves_it(tmp_path: Path) -> None:
    flags = ("--grace-period", "60", "--checkpoint-every", "50")
    with Sweep(tmp_path, 3, 60, *flags) as sweep:
        wait_until(lambda: sweep.over() or sweep.epochs() >= 3, "some epochs")
        assert not list(sweep.folder.glob(f"trial_*/{run_folder.CHECKPOINT}"))
        sweep.driver.send_signal(signal.SIGINT)
        wait_until(sweep.over, "its end")
        text = sweep.said()
        assert sweep.driver.returncode == 130, text
        assert "interrupted: running trials finish their epoch" in text
        assert "go on: python tune_search.py --resume results/digits/sweep" in text
        assert "Traceback" not in text
        frame = pd.read_parquet(sweep.folder / "trials.parquet")
        cut = frame[frame["unfinished"] & (frame["epochs"] > 0)]
        assert len(cut)
        assert (cut["reason"] == "the sweep was interrupted; --resume goes on with it").all()
        for number, epochs in zip(cut["trial"], cut["epochs"], strict=True):
            folder = outcomes.trial_folder(sweep.folder, number)
            assert load_checkpoint(folder / run_folder.CHECKPOINT)["epoch"] == epochs
        sweep.resume()
        sweep.finish()
        sweep.check()
        sweep.check_repeatable(int(cut["trial"].iloc[0]))


def test_ctrl_c_ends_a_sweep_whose_trials_wait_for_each_other(tmp_path: Path) -> None:
    with Sweep(tmp_path, 6, 30, "--scheduler", "hyperband") as sweep:
        wait_until(lambda: sweep.over() or sweep.epochs() >= 6, "some epochs")
        sweep.driver.send_signal(signal.SIGINT)
        wait_until(sweep.over, "its end")
        text = sweep.said()
        assert sweep.driver.returncode == 130, text
        assert "Traceback" not in text
        frame = pd.read_parquet(sweep.folder / "trials.parquet")
        assert frame["unfinished"].any()
        sweep.resume()
        sweep.finish()
        sweep.check()


def test_ctrl_c_twice_stops_now_and_can_go_on(tmp_path: Path) -> None:
    with Sweep(tmp_path, 3, 50, "--grace-period", "50") as sweep:
        wait_until(under_way(sweep), "a trial under way")
        for process in sweep.trial_processes():
            os.kill(process.pid, signal.SIGSTOP)  # so that no epoch can finish
        sweep.driver.send_signal(signal.SIGINT)
        time.sleep(2)
        assert not sweep.over()
        sweep.driver.send_signal(signal.SIGINT)
        wait_until(sweep.over, "its end", 60)
        text = sweep.said()
        assert sweep.driver.returncode == 130, text
        assert "Traceback" not in text
        assert "go on: python tune_search.py --resume" in text
        sweep.resume()
        sweep.finish()
        sweep.check()


# storage


@contextmanager
def small_disk(sweep: Sweep) -> Iterator[Path]:
    """Give the sweep's results a disk of 3 MB; yield its folder, seen from here."""
    (sweep.here / "results").mkdir()
    mount = f"mount -t tmpfs -o size=3m none {sweep.here}/results && echo ready && exec sleep 900"
    with subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", mount], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != "ready\n":
                pytest.skip("no right to mount a small disk in a namespace of its own")
            sweep.within = ["nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials"]
            sweep.within += [f"--wd={sweep.here}"]
            seen = Path(f"/proc/{holder.pid}/root{sweep.here}/results")
            sweep.folder = seen / "digits" / "sweep"
            yield seen
        finally:
            holder.kill()


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def test_a_disk_that_is_full_for_a_while_is_waited_for(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, 3, 50, "--grace-period", "50")
    with small_disk(sweep) as disk, sweep:
        wait_until(under_way(sweep), "a trial under way")
        filler = fill(disk)
        time.sleep(3)
        epochs = sweep.epochs()
        time.sleep(2)
        assert sweep.epochs() == epochs, "an epoch was written on a full disk"
        assert not sweep.over()
        filler.unlink()
        sweep.finish()
        sweep.check()
        sweep.check_repeatable(0)


def test_a_disk_that_stays_full_ends_the_sweep_with_one_message(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, 3, 50, "--grace-period", "50", "--storage-patience", "2s")
    with small_disk(sweep) as disk, sweep:
        wait_until(under_way(sweep), "a trial under way")
        filler = fill(disk)
        wait_until(sweep.over, "its end")
        text = sweep.said()
        assert sweep.driver.returncode == 2, text
        assert "Traceback" not in text
        (error,) = (line for line in text.splitlines() if line.startswith("error:"))
        assert "No space left on device" in error
        assert "go on with: python tune_search.py --resume results/digits/sweep" in error
        filler.unlink()
        sweep.resume()
        sweep.finish()
        frame = pd.read_parquet(sweep.folder / "trials.parquet")
        assert set(frame["status"]) <= {"completed", "failed"}
        for number, epochs in zip(frame["trial"], frame["epochs"], strict=True):
            folder = outcomes.trial_folder(sweep.folder, number)
            if epochs == 0:  # it met the full disk in its first epoch
                assert not (folder / run_folder.METRICS).exists()
                continue
            assert run_folder.read_metrics(folder)["epoch"].tolist() == list(range(1, epochs + 1))


def test_storage_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with Sweep(tmp_path, 3, 50, "--grace-period", "50") as sweep:
        wait_until(under_way(sweep), "a trial under way")
        away = tmp_path / "away"
        (tmp_path / "results").rename(away)
        time.sleep(4)
        assert not (tmp_path / "results").exists(), "a folder was made up where none is mounted"
        away.rename(tmp_path / "results")
        sweep.finish()
        sweep.check()


def test_a_process_killed_where_nothing_is_retried_is_a_failed_trial(tmp_path: Path) -> None:
    flags = ("--max-failures", "0", "--grace-period", "50", "--max-concurrent", "1")
    with Sweep(tmp_path, 2, 50, *flags) as sweep:
        wait_until(under_way(sweep), "a trial under way")
        sweep.kill_trial(random.Random(0))
        sweep.finish()
        frame = pd.read_parquet(sweep.folder / "trials.parquet").set_index("trial")
        assert frame["status"].to_dict() == {0: "failed", 1: "completed"}
        assert frame["reason"][0] == "its process ended"
