"""A sweep whose results are on S3: driver and storage fail, and it is read from there."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from hlvnn.records import run_folder
from hlvnn.storage import Remote, local_copy
from tests.chaos.server import s3_server
from tests.chaos.stage import Sweep, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_sweep_on_s3_completes_resumes_and_is_read_from_there(tmp_path: Path) -> None:
    with s3_server() as (address, server):
        flags = ("--results-dir", address, "--grace-period", "40")
        sweep = Sweep(tmp_path, 4, 40, *flags)
        remote = Remote.at(address) / "digits" / "sweep"
        sweep.place = str(remote)

        def uploaded() -> set[str]:
            return {name for name in remote.names() if name.endswith(run_folder.CHECKPOINT)}

        with sweep:
            wait_until(lambda: sweep.over() or uploaded(), "a checkpoint on S3")
            sweep.driver.kill()
            sweep.driver.wait()
            sweep.resume()  # by its address, with nothing kept on this machine
            before = len(remote.names())
            wait_until(lambda: sweep.over() or len(remote.names()) > before + 3, "progress")
            os.kill(server.pid, signal.SIGSTOP)  # an outage
            time.sleep(8)
            os.kill(server.pid, signal.SIGCONT)
            sweep.finish()
        assert not (tmp_path / "results").exists()
        local_copy(str(remote), sweep.folder)
        frame = sweep.check()
        assert frame["folder"].str.startswith("s3://").all()
        sweep.check_repeatable(0)
        run = run_folder.load_run(sweep.folder / "trial_0000")
        assert run.epoch == frame["epochs"][0]
        shutil.rmtree(sweep.folder)
