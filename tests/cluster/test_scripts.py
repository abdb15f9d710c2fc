"""The Slurm scripts: sound shell that starts Ray on every node and ends what it started."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hlvnn import errors
from hlvnn.commands import tune_search
from tests.cluster.recipes import RAY, RECIPES, Job, environment, programs, running
from tests.helpers import wait_until

SCRIPTS = sorted(RECIPES.glob("*.sh"))
# What stands for Ray where only the words given to it matter: listens until it is told to end.
RECORDING_RAY = """#!/bin/bash
echo "ray $*" >>"$RECORD"
ls -ld "$(sed -n 's/.*--temp-dir \\([^ ]*\\)\\/r .*/\\1/p' <<<"$*")" | cut -c1-10 >>"$RECORD"
trap 'echo "ended ${*: -1}" >>"$RECORD"; kill $!; exit 0' TERM
sleep 300 & wait
"""
RECORDING_PYTHON = f"""#!/bin/bash
echo "python $*" >>"$RECORD"
case $1 in
    */wait_for_nodes.py) sleep 0.5 ;;
    tune_search.py)
        env | grep -E '^(RAY|HLVNN)_' >>"$RECORD"
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
        assert re.search(rf"--temp-dir {job.env['HLVNN_TMP']}/hlvnn.{os.getpid()}\.....?/r ", line)
    assert "--include-dashboard false" in heads[0]
    assert len({line.split()[3] for line in heads + workers}) == 2  # a folder for each node
    assert job.lines("drwx") == ["drwx------"] * 2
    nodes = [line.split()[3] for line in job.lines("srun ")]
    assert nodes == ["--nodelist=node1", "--nodelist=node2"]

    # the sweep is told where the cluster is; the token is in no file and no command line
    (sweep,) = job.lines("python tune_search.py")
    assert sweep == f"python tune_search.py tiny --name one --address 127.0.0.1:{port}"
    assert {"RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"} <= set(job.lines("RAY_"))
    assert (job.lines("RAY_memory_monitor") == ["RAY_memory_monitor_refresh_ms=0"]) == shared
    (token,) = job.lines("RAY_AUTH_TOKEN=")
    assert len(token.removeprefix("RAY_AUTH_TOKEN=")) == 64
    assert job.record.read_text(encoding="utf-8").count(token.partition("=")[2]) == 1
    assert list(Path(job.env["HOME"]).iterdir()) == []
    command = f"HLVNN_COMMAND=sbatch [OPTIONS] cluster/{script}"
    assert job.lines("HLVNN_COMMAND") == [command]

    # both ended, workers first, and nothing of the job runs any more
    assert len(job.lines("ended")) == 2
    assert not running(job.env["HLVNN_TMP"])


def test_a_job_whose_time_is_over_ends_the_sweep_in_order(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    process = job.submit("cluster/slurm_shared.sh", "tiny", SWEEP_SECONDS="100")
    wait_until(lambda: job.record.exists() and job.lines("RAY_AUTH"))
    process.send_signal(signal.SIGTERM)  # as SLURM does, to the batch script alone
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    order = [line.split()[0] for line in job.record.read_text().splitlines()]
    assert order.index("told") < order.index("ended")
    assert not running(job.env["HLVNN_TMP"])


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"HLVNN_VENV": "nowhere"},
            "no virtual environment nowhere on this node: run make install",
        ),
        ({"HLVNN_SETUP": "nowhere.sh"}, "HLVNN_SETUP=nowhere.sh: no such file"),
        ({"HLVNN_IMAGE": "nowhere.sif"}, "HLVNN_IMAGE=nowhere.sif: no such image"),
        ({"HLVNN_TMP": f"/{'x' * 40}"}, "characters too long for Ray's sockets"),
        ({"SLURM_RESTART_COUNT": "1"}, "was requeued, and its flags would begin a second sweep"),
    ],
)
def test_a_mistake_is_one_message(job: Job, env: dict[str, str], message: str) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    process = job.submit("cluster/slurm_shared.sh", "tiny", "--name", "one", **env)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = printed.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not job.record.exists() or not job.lines("srun")


def test_a_requeued_job_goes_on_with_its_sweep(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    flags = ("tiny", "--name", "one", "--or-resume")
    process = job.submit("cluster/slurm_shared.sh", *flags, SLURM_RESTART_COUNT="1")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed


def test_the_heads_address_is_one_that_other_nodes_can_reach(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    job.submit("cluster/slurm.sh", "tiny", HLVNN_HEAD_IP="").communicate(timeout=60)
    (head,) = job.lines("ray start")[:1]
    assert "--node-ip-address 10.1.2.3 " in head


def test_a_head_may_be_left_without_trials(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    job.submit("cluster/slurm_shared.sh", "tiny", HLVNN_HEAD="alone").communicate(timeout=60)
    head, worker = job.lines("ray start")
    assert "--num-cpus 0 --num-gpus 0" in head
    assert "--num-cpus 1 --num-gpus 0" in worker


def test_modules_and_conda_have_a_place(job: Job, tmp_path: Path) -> None:
    programs(tmp_path / "conda", {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    (tmp_path / "setup.sh").write_text(f'export PATH="{tmp_path}/conda:$PATH"\n', encoding="utf-8")
    env = {"HLVNN_SETUP": str(tmp_path / "setup.sh"), "HLVNN_VENV": "nowhere"}
    printed, _ = job.submit("cluster/slurm.sh", "tiny", **env).communicate(timeout=60)
    assert len(job.lines("ray start")) == 2, printed


def test_a_job_in_a_container_runs_its_commands_there(job: Job, tmp_path: Path) -> None:
    inside = {"ray": RECORDING_RAY, "python": RECORDING_PYTHON}
    programs(tmp_path / "inside", inside)
    text = f"""#!/bin/bash
echo "apptainer $*" >>"$RECORD"
while [[ $1 != *.sif ]]; do shift; done; shift
PATH="{tmp_path}/inside:$PATH" exec "$@"
"""
    programs(tmp_path / "outside", {"apptainer": text})
    (tmp_path / "hlvnn.sif").touch()
    path = f"{tmp_path / 'outside'}{os.pathsep}{job.env['PATH']}"
    env = {"HLVNN_IMAGE": str(tmp_path / "hlvnn.sif"), "PATH": path}
    printed, _ = job.submit("cluster/slurm.sh", "tiny", **env).communicate(timeout=60)
    assert len(job.lines("ray start")) == 2, printed
    assert len(job.lines("python tune_search.py")) == 1
    bound = f"{job.tree},{job.env['HLVNN_TMP']}"  # Ray's folder is seen inside as well
    start = f"apptainer exec --nv --bind {bound} {tmp_path / 'hlvnn.sif'} "
    assert all(line.startswith(start) for line in job.lines("apptainer"))
    assert any("ray start" in line for line in job.lines("apptainer"))


def test_a_preempted_job_asks_to_be_put_back(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    env = {"SWEEP_CODE": "1", "PREEMPTED": "2026-11-28T10:00:00"}
    process = job.submit("cluster/slurm_shared.sh", "tiny", **env)
    printed, _ = process.communicate(timeout=60)
    assert job.lines("scontrol requeue") == [f"scontrol requeue {os.getpid()}"]
    assert f"requeued: job {os.getpid()} goes on later" in printed


@pytest.mark.parametrize(
    ("here", "left", "is_put_back"),
    [
        ("node2", "node[2-3]", True),  # the first node of the job is lost
        ("node3", "node[2-3]", False),  # another one sees to it
        ("node2", "", False),  # SLURM has given up the job
    ],
)
def test_a_job_whose_first_node_is_lost_is_put_back_by_another(
    job: Job, here: str, left: str, is_put_back: bool
) -> None:
    done = run_node(job, "127.0.0.1:9", SLURMD_NODENAME=here, LEFT=left)
    assert done.returncode == 1
    assert job.lines("scontrol requeue") == [f"scontrol requeue {os.getpid()}"] * is_put_back


def test_a_node_whose_ray_breaks_down_ends_at_once_where_the_head_is_well(job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        done = run_node(job, address, SLURMD_NODENAME="node2", LEFT="node[2-3]")
    assert done.returncode == 1
    assert job.lines("scontrol") == []


def run_node(job: Job, address: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a worker node's script, whose Ray ends at once."""
    environment(job, {"ray": "#!/bin/bash\nexit 1\n", "python": RECORDING_PYTHON})
    path = f"{job.env['HLVNN_VENV']}/bin{os.pathsep}{job.env['PATH']}"
    told = {"RAY_ADDRESS": address, "HLVNN_NODES": "shared", "HLVNN_HEAD_NODE": "node1"}
    words = ["bash", str(RECIPES / "slurm_node.sh"), "worker", address.rpartition(":")[2]]
    env = {**job.env, "PATH": path, "SLURM_JOB_ID": str(os.getpid()), **told, **env}
    job.record.touch()
    return subprocess.run(words, env=env, timeout=60, check=False)


def test_what_killed_jobs_left_on_a_node_is_swept_up(job: Job) -> None:
    environment(job, {"ray": RECORDING_RAY, "python": RECORDING_PYTHON})
    place = Path(job.env["HLVNN_TMP"])
    for name in ("hlvnn.7.dead", "hlvnn.8.live"):
        (place / name / "r").mkdir(parents=True)
        (place / name / "owner").touch()
        os.utime(place / name / "owner", (0, 0))
    with (place / "hlvnn.8.live" / "owner").open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        job.submit("cluster/slurm_shared.sh", "tiny").communicate(timeout=60)
        assert [path.name for path in place.iterdir()] == ["hlvnn.8.live"]
    shutil.rmtree(place / "hlvnn.8.live")


def test_rays_logs_are_kept_where_a_sweep_fails(job: Job) -> None:
    logs = 'mkdir -p "$3/session_2/logs"; echo why >"$3/session_2/logs/raylet.out"'
    logging_ray = RECORDING_RAY.replace("sleep 300", f"{logs}; sleep 300")
    environment(job, {"ray": logging_ray, "python": RECORDING_PYTHON})
    for code, kept in (("0", 0), ("1", 1)):
        job.submit("cluster/slurm_shared.sh", "tiny", SWEEP_CODE=code).communicate(timeout=60)
        found = list(job.tree.glob("slurm-*.ray/*/raylet.out"))
        assert len(found) == kept
    assert found[0].read_text(encoding="utf-8") == "why\n"
    assert found[0].parent.parent.stat().st_mode & 0o077 == 0


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
    assert "127.0.0.1:9 does not answer, and the head's Ray has ended" in done.stderr


def test_flags_are_checked_before_the_cluster_is_used(job: Job) -> None:
    text = '#!/bin/bash\necho "$*" >>"$RECORD"; [[ $* != *--dry-run ]] || exit "${CHECK:-0}"\n'
    environment(job, {"python": text})
    path = f"{job.env['HLVNN_VENV']}/bin{os.pathsep}{job.env['PATH']}"
    script = ["bash", "cluster/checked.sh", "tiny", "--name", "one"]
    flags = "tune_search.py tiny --name one --or-resume --address auto"
    for code, lines in ((2, [f"{flags} --dry-run"]), (0, [f"{flags} --dry-run", flags])):
        env = {**job.env, "PATH": path, "CHECK": str(code)}
        done = subprocess.run(script, cwd=job.tree, env=env, check=False)
        assert done.returncode == code
        assert job.record.read_text().splitlines() == lines
        job.record.unlink()


def test_a_mistyped_flag_is_found_without_a_cluster(here: Path, capsys) -> None:
    flags = ["study", "--name", "s", "--or-resume", "--address", "auto", "--dry-run"]
    for wrong, message in ((["--num-trails", "3"], "--num-trials"), (["--lr", "x"], "--lr")):
        with pytest.raises(SystemExit) as ended:
            errors.run_command(lambda: tune_search.main([*flags, *wrong]))  # noqa: B023
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert tune_search.main(flags) == 0
