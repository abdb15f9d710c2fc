"""The Slurm scripts: sound shell that starts Ray on every node and ends what it started."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.recipes import RAY, RECIPES, Job, environment, running
from tests.helpers import wait_until

SCRIPTS = sorted(RECIPES.glob("*.sh"))
# What stands for Ray where only the words given to it matter: listens until it is told to end.
RECORDING_RAY = """#!/bin/bash
echo "ray $*" >>"$RECORD"
ls -ld "$(sed -n 's/.*--temp-dir \\([^ ]*\\).*/\\1/p' <<<"$*")" | cut -c1-10 >>"$RECORD"
trap 'echo "ended ${*: -1}" >>"$RECORD"; kill $!; exit 0' TERM
sleep 300 & wait
"""
RECORDING_PYTHON = f"""#!/bin/bash
echo "python $*" >>"$RECORD"
case $1 in
    */wait_for_nodes.py) sleep 0.5 ;;
    tune_search.py)
        env | grep -E '^RAY_' >>"$RECORD"
        stat -c 'token %a %s' "$RAY_AUTH_TOKEN_PATH" >>"$RECORD"
        trap 'echo "told to end" >>"$RECORD"; kill $!; exit 130' TERM
        sleep "${{SWEEP_SECONDS:-0}}" & wait
        exit "${{SWEEP_CODE:-0}}" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = script.read_text(encoding="utf-8")
    commands = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert not re.search(r"ray stop|pkill|killall|symmetric-run", commands)


@pytest.mark.parametrize("script", ["slurm.sh", "slurm_shared.sh"])
def test_slurm_starts_ray_on_every_node_and_ends_what_it_started(job: Job, script: str) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    process = job.submit(f"cluster/{script}", "tiny", "--name", "one", SWEEP_CODE="3")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 3, printed  # the sweep's own exit code

    shared = script == "slurm_shared.sh"
    (options,) = job.lines("sbatch ")
    assert ("--exclusive" in options) != shared
    assert "--signal=B:TERM@" in options
    heads, workers = job.lines("ray start --temp-dir")[:1], job.lines("ray start --temp-dir")[1:]
    port = int(re.search(r"--head .*--port (\d+)", heads[0])[1])  # type: ignore[index]
    block = 20000 + os.getpid() % 120 * 100
    assert (block <= port < block + 100) if shared else port == 6379
    assert all(f"--address 127.0.0.1:{port}" in line for line in workers)
    assert len(workers) == 1
    for line in heads + workers:
        assert "--block" in line
        assert "--disable-usage-stats" in line
        assert ("--num-cpus 1 --num-gpus 0" in line) == shared
        assert f"--temp-dir {job.env['HLVNN_TMP']}/hlvnn.{os.getpid()}." in line
    assert "--include-dashboard false" in heads[0]
    assert len({line.split()[3] for line in heads + workers}) == 2  # a folder for each node
    assert job.lines("drwx") == ["drwx------"] * 2
    assert [line.split()[3] for line in job.lines("srun ")] == [
        "--nodelist=node1",
        "--nodelist=node1",
        "--nodelist=node2",
    ]

    # the sweep is told where the cluster is; the token is in a file that is this user's alone
    (sweep,) = job.lines("python tune_search.py")
    assert sweep == f"python tune_search.py tiny --name one --address 127.0.0.1:{port}"
    assert {"RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"} <= set(job.lines("RAY_"))
    assert job.lines("token") == ["token 600 64"]
    assert list(Path(job.env["HOME"], ".ray").iterdir()) == []  # it went with the job

    # both ended, workers first, and nothing of the job runs any more
    assert len(job.lines("ended")) == 2
    assert not running(job.env["HLVNN_TMP"])


def test_a_job_whose_time_is_over_ends_the_sweep_in_order(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    process = job.submit("cluster/slurm_shared.sh", "tiny", SWEEP_SECONDS="100")
    wait_until(lambda: job.record.exists() and job.lines("token"))
    process.send_signal(signal.SIGTERM)  # as SLURM does, to the batch script alone
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    order = [line.split()[0] for line in job.record.read_text().splitlines()]
    assert order.index("told") < order.index("ended")
    assert not running(job.env["HLVNN_TMP"])


def test_a_dashboard_is_started_where_it_is_asked_for(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    process = job.submit("cluster/slurm.sh", "tiny", HLVNN_DASHBOARD="127.0.0.1:8299")
    process.communicate(timeout=60)
    (head,) = job.lines("ray start --temp-dir")[:1]
    assert "--include-dashboard true --dashboard-host 127.0.0.1 --dashboard-port 8299" in head


def test_ray_has_every_option_that_the_scripts_give_it() -> None:
    known = subprocess.check_output([RAY, "start", "--help"], text=True)
    text = (RECIPES / "slurm_node.sh").read_text(encoding="utf-8")
    text += (RECIPES / "ray_up.yaml").read_text(encoding="utf-8").split("head_start_ray")[1]
    used = set(re.findall(r"--[a-z][a-z-]+", text))
    assert {"--temp-dir", "--port", "--object-store-memory"} <= used
    assert [option for option in sorted(used) if option not in known] == []


def test_a_port_that_is_taken_is_passed_over() -> None:
    def asked() -> int:
        return int(subprocess.check_output([sys.executable, RECIPES / "free_port.py", "119"]))

    first = asked()
    assert 31900 <= first < 32000
    with socket.socket() as taken:
        taken.bind(("", first))
        taken.listen()
        assert first < asked() < 32000


def test_waiting_for_nodes_ends_when_what_starts_them_has_ended() -> None:
    done = subprocess.run(
        [sys.executable, RECIPES / "wait_for_nodes.py", "2", "--while", "999999999"],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1:9 does not answer, and one node's Ray has ended" in done.stderr


def test_a_second_try_goes_on_with_the_sweep_of_the_first(job: Job) -> None:
    environment(job, {"python": '#!/bin/bash\necho "$*" >>"$RECORD"\n'})
    path = f"{job.env['HLVNN_VENV']}/bin{os.pathsep}{job.env['PATH']}"
    script = ["bash", "cluster/start_or_resume.sh", "results/digits/one", "tiny", "--name", "one"]
    (job.tree / "results" / "digits" / "one").mkdir(parents=True)
    for _ in range(2):
        subprocess.run(script, cwd=job.tree, env={**job.env, "PATH": path}, check=True)
        (job.tree / "results" / "digits" / "one" / "sweep.json").touch()
    assert job.record.read_text().splitlines() == [
        "tune_search.py tiny --name one --address auto",
        "tune_search.py --resume results/digits/one --address auto",
    ]
