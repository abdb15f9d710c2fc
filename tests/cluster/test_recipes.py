"""The recipes of cluster/, as far as a machine without their schedulers can try them."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import kubernetes_validate
import pandas as pd
import pytest
import ray
import yaml

from hlvnn.sweep import shipping
from tests.helpers import ROOT

RECIPES = ROOT / "cluster"
SCRIPTS = sorted(RECIPES.glob("*.sh"))
RAY = Path(sys.executable).parent / "ray"
SPACE = """
BASE = {"dataset": "digits", "backbone": "mlp", "hidden": [8], "batch_size": 256, "num_epochs": 2}
METRIC, MODE = "val_acc", "max"
SWEEP = {"num_trials": 4, "grace_period": 2}

def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True)}
"""

# ------------------------------------------------------------------------------ shell scripts

SLURM = {
    # Records its words, takes its own options off, and runs the rest here.
    "srun": """#!/bin/bash
echo "srun $*" >>"$RECORD"
while [[ $1 == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": """#!/bin/bash
echo "scontrol $*" >>"$RECORD"
[[ $1 == show && $2 == hostnames && $3 == "node[1-2]" ]] && printf 'node1\\nnode2\\n'
""",
    "hostname": """#!/bin/bash
echo "hostname $*" >>"$RECORD"
echo "fe80::1 127.0.0.1"
""",
    # Takes a script's options from its #SBATCH lines and runs it as a job of two nodes.
    "sbatch": """#!/bin/bash
echo "sbatch $(sed -n 's/^#SBATCH //p' "$1" | tr '\\n' ' ')" >>"$RECORD"
export SLURM_JOB_ID=$JOB SLURM_SUBMIT_DIR=$PWD SLURM_JOB_NODELIST="node[1-2]"
export SLURM_CPUS_PER_TASK=1
cp "$1" "$SPOOL/slurm_script" && shift
exec bash "$SPOOL/slurm_script" "$@"
""",
}
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


class Job(NamedTuple):
    """A working tree to submit from, with the scheduler's commands on its PATH."""

    tree: Path
    record: Path
    env: dict[str, str]

    def submit(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sbatch", *args],
            cwd=self.tree,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lines(self, start: str) -> list[str]:
        return [line for line in self.record.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A copy of the code, with things in it that must stay, and a home folder of its own."""
    tree = tmp_path / "tree"
    for folder in ("hlvnn", "cluster"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, ignore=unwanted)
    shutil.copy(ROOT / "tune_search.py", tree)
    (tree / "search_spaces").mkdir()
    (tree / "search_spaces" / "tiny.py").write_text(SPACE, encoding="utf-8")
    programs(tmp_path / "bin", SLURM)
    for folder in ("home", "spool"):
        (tmp_path / folder).mkdir()
    short = Path(subprocess.check_output(["mktemp", "-d", "/tmp/rt.XXXX"], text=True).strip())
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "RECORD": str(tmp_path / "record"),
        "SPOOL": str(tmp_path / "spool"),
        "JOB": str(os.getpid()),
        "HLVNN_VENV": str(tmp_path / "venv"),
        "HLVNN_TMP": str(short),
    }
    yield Job(tree, tmp_path / "record", env)
    left = list(short.iterdir())
    shutil.rmtree(short)
    assert left == [], "a node's temporary folder was left behind"


def programs(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


def environment(job: Job, texts: dict[str, str]) -> None:
    """Make the virtual environment that a script activates."""
    venv = Path(job.env["HLVNN_VENV"]) / "bin"
    programs(venv, texts)
    (venv / "activate").write_text(f'export PATH="{venv}:$PATH"\n', encoding="utf-8")


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


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)


def running(words: str) -> list[str]:
    """Return the command lines of processes that contain `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        found += [line] if words in line else []
    return found


# ------------------------------------------------------------------------------ manifests


def constrained(name: str) -> str:
    """Return the version of a package in constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.search(rf"^{name}==(\S+)$", text, flags=re.MULTILINE)[1]  # type: ignore[index]


@pytest.fixture
def launcher() -> dict[str, Any]:
    return yaml.safe_load((RECIPES / "ray_up.yaml").read_text(encoding="utf-8"))


def ray_schema() -> dict[str, Any]:
    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_launchers_yaml_is_what_rays_schema_asks_for(launcher: dict[str, Any]) -> None:
    jsonschema.validate(launcher, ray_schema())
    for name in ("InstanceTypes", "max_worker"):  # the schema does refuse what it does not know
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**launcher, name: 1}, ray_schema())
    assert launcher["head_node_type"] in launcher["available_node_types"]
    starts = launcher["head_start_ray_commands"] + launcher["worker_start_ray_commands"]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_launcher_copies_named_files_and_the_token_only(launcher: dict[str, Any]) -> None:
    mounts = launcher["file_mounts"]
    token = mounts.pop("/home/ubuntu/.ray/auth_token")
    assert token == "~/.ray/auth_token"
    for there, here in mounts.items():
        assert there == f"/home/ubuntu/hlvnn/{here}"
        assert (ROOT / here).exists()
        assert here not in (".", "data", "results")


@pytest.fixture
def manifests() -> dict[str, Any]:
    text = (RECIPES / "rayjob.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def check_rayjob(job: dict[str, Any]) -> None:
    """Hold a RayJob to KubeRay's schema, and its pods to Kubernetes'."""
    path = ROOT / "tests" / "files" / "kuberay_rayjob.yaml"
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(job["spec"], schema)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
        template["template"] = group["template"]
        kubernetes_validate.validate(template, "1.33", strict=True)


def test_the_rayjob_is_what_kuberays_schema_asks_for(manifests: dict[str, Any]) -> None:
    check_rayjob(manifests["RayJob"])
    claim = manifests["PersistentVolumeClaim"]
    kubernetes_validate.validate(claim, "1.33", strict=True)
    spec = manifests["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == constrained("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def broken(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a function that puts a value at a place of a RayJob."""

    def put(job: dict[str, Any]) -> None:
        *inner, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        place: Any = job["spec"]
        for key in inner:
            place = place[key]
        place[last] = value

    return put


@pytest.mark.parametrize(
    "put",
    [
        broken("entrypont", "x"),
        broken("backoffLimit", "5"),
        broken("rayClusterSpec.authOptions.mode", "tokens"),
        broken("rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        broken("rayClusterSpec.workerGroupSpecs.0.replicas", "8"),
        broken("rayClusterSpec.headGroupSpec.template.spec.container", []),
        broken("rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.image", 1),
    ],
)
def test_a_rayjob_with_a_slip_is_refused(put: Callable[..., None], manifests: Any) -> None:
    job = copy.deepcopy(manifests["RayJob"])
    put(job)
    errors = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
    with pytest.raises(errors):
        check_rayjob(job)


def test_the_entry_point_names_the_folder_that_its_flags_make(manifests: Any) -> None:
    words = manifests["RayJob"]["spec"]["entrypoint"].split()
    assert words[:2] == ["bash", "/home/ray/hlvnn/cluster/start_or_resume.sh"]
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    assert words[2] == f"{flags['--storage']}/{words[3]}/{flags['--name']}"


def test_the_image_has_the_tested_ray_and_nothing_but_code() -> None:
    text = (RECIPES / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{constrained('ray')}-py311" in text
    copied = [word for line in re.findall(r"^COPY --chown=ray (.*)$", text, flags=re.MULTILINE)
              for word in line.split()[:-1]]  # fmt: skip
    assert {"hlvnn", "search_spaces", "cluster", "tune_search.py"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert not {".", "data", "results"} & set(copied)


# ------------------------------------------------------------------------------ what is sent

STAY = [
    ".env",
    ".git/config",
    ".venv/lib/site.py",
    "data/femnist/large/x_train.npy",
    "results/digits/one/hyperparams.json",
    "results/digits/one/search_space.py",
    "notes.py",
    "credentials.json",
    "hlvnn/.secret.py",
    "hlvnn/.keys/key.py",
    "hlvnn/aws.pem",
    "hlvnn/data/patients.csv",
    "hlvnn/__pycache__/model.cpython-311.pyc",
    "search_spaces/token.txt",
]


def plant(tree: Path) -> None:
    """Put things into a working tree that nobody else may see."""
    for name in STAY:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("a secret", encoding="utf-8")
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "private.py").write_text("a secret", encoding="utf-8")
    (tree / "hlvnn" / "linked.py").symlink_to(outside / "private.py")
    (tree / "hlvnn" / "linked").symlink_to(outside)
    (tree / ".gitignore").write_text("data/\nresults/\n", encoding="utf-8")


def expected() -> list[str]:
    """Return what a copy of this working tree sends: all its code, and one search space."""
    package = [path for path in (ROOT / "hlvnn").rglob("*") if path.suffix in (".py", ".typed")]
    return sorted([*(str(path.relative_to(ROOT)) for path in package), "search_spaces/tiny.py"])


def test_code_is_sent_and_nothing_else(job: Job) -> None:
    plant(job.tree)
    assert sorted(map(str, shipping.sent_files(job.tree))) == expected()
    assert "hlvnn/data/grouped.py" in expected()  # which a .gitignore with data/ would keep back
    with shipping.staging(job.tree) as folder:
        found = [path for path in folder.rglob("*") if path.is_file()]
        assert sorted(str(path.relative_to(folder)) for path in found) == expected()
        assert not any("a secret" in path.read_text(encoding="utf-8") for path in found)
    assert not folder.exists()


# ------------------------------------------------------------------------------ real clusters

LISTING = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
import ray
from hlvnn.errors import RunError
from hlvnn.sweep import access, cluster

@ray.remote
def seen():
    import hlvnn
    here = Path.cwd()
    files = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
    return {"files": files, "hlvnn": hlvnn.__file__, "cwd": str(here)}

address = sys.argv[1]
told = {"open": access.is_open_to_anybody(address)}
try:
    with cluster.connecting(address):
        told |= ray.get(seen.remote())
except RunError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


def listing(job: Job, address: str, **env: str) -> dict[str, Any]:
    """Join a cluster from the working tree; return what a worker sees, or why it was refused."""
    done = subprocess.run(
        [sys.executable, "-c", LISTING, address],
        cwd=job.tree,
        env={**job.env, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def head(job: Job) -> Iterator[Callable[..., str]]:
    """Return a function that starts a Ray head of one CPU and returns its address."""
    processes = []

    def start(**env: str) -> str:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        address = f"127.0.0.1:{port}"
        process = subprocess.Popen(
            ["bash", str(RECIPES / "slurm_node.sh"), "head", str(port)],
            env={
                **job.env,
                "SLURM_JOB_ID": "1",
                "SLURM_CPUS_PER_TASK": "1",
                "HLVNN_NODES": "shared",
                "HLVNN_OBJECT_STORE": "100000000",
                "RAY_ADDRESS": address,
                "PATH": f"{RAY.parent}{os.pathsep}{job.env['PATH']}",
                **env,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        wait = [sys.executable, str(RECIPES / "wait_for_nodes.py"), "1"]
        subprocess.run(wait, env={**job.env, "RAY_ADDRESS": address}, check=True)
        return address

    yield start
    for process in processes:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)  # seconds each, minutes where others have the cores
def test_a_cluster_asks_for_its_token_and_is_sent_code_alone(
    job: Job, head: Callable[..., str], tmp_path: Path
) -> None:
    plant(job.tree)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 2, encoding="utf-8")
    keys = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    address = head(**keys)

    told = listing(job, address, **keys)
    assert told["open"] is False
    files = [name for name in told["files"] if "__pycache__" not in name]
    assert files == expected()
    assert told["hlvnn"] == f"{told['cwd']}/hlvnn/__init__.py"  # the copy, not the tree
    assert not told["cwd"].startswith(str(job.tree))

    for wrong in (
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 32},
    ):
        refused = listing(job, address, **wrong)["refused"]
        assert refused.startswith(f"--address {address}: ")
        assert "RAY_AUTH_TOKEN_PATH or from ~/.ray/auth_token" in refused


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)  # seconds each, minutes where others have the cores
def test_an_open_cluster_is_joined_only_on_this_machine_or_where_the_user_says_so(
    job: Job, head: Callable[..., str]
) -> None:
    address = head(RAY_AUTH_MODE="disabled")
    told = listing(job, address)  # all its nodes are this machine
    assert told["open"] is True
    assert told["files"]

    # a second node, at another address of this machine, which is all that Ray can see of a machine
    worker = subprocess.Popen(
        [RAY, "start", "--address", address, "--node-ip-address", "127.0.0.2", "--block"],
        env={**job.env, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait = [sys.executable, str(RECIPES / "wait_for_nodes.py"), "2"]
        env = {**job.env, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        subprocess.run(wait, env=env, check=True)
        refused = listing(job, address)["refused"]
        assert "asks nobody for a token" in refused
        assert "RAY_AUTH_MODE=token" in refused
        assert listing(job, address, RAY_AUTH_MODE="disabled")["files"]
    finally:
        worker.terminate()
        worker.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)  # seconds each, minutes where others have the cores
@pytest.mark.parametrize("script", ["slurm.sh", "slurm_shared.sh"])
def test_a_sweep_runs_on_a_cluster_that_slurm_would_start(job: Job, script: str) -> None:
    environment(job, {"python": f'#!/bin/bash\nexec {sys.executable} "$@"\n'})
    (Path(job.env["HLVNN_VENV"]) / "bin" / "ray").symlink_to(RAY)
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    small = {"HLVNN_OBJECT_STORE": "100000000", "HLVNN_PORT": port}
    process = job.submit(
        f"cluster/{script}", "tiny", "--name", "one", "--max-concurrent", "2", **small
    )
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    frame = pd.read_parquet(job.tree / "results" / "digits" / "one" / "trials.parquet")
    assert frame["status"].tolist() == ["completed"] * 4, printed
    assert "4 trials to run, 2 at a time" in printed
    assert "Traceback" not in printed
    assert not running(job.env["HLVNN_TMP"])
    assert list(Path(job.env["HOME"], ".ray").iterdir()) == []

    # the job goes on with the sweep that another one began
    process = job.submit(f"cluster/{script}", "--resume", "results/digits/one",
                         "--num-trials", "5", **small)  # fmt: skip
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    frame = pd.read_parquet(job.tree / "results" / "digits" / "one" / "trials.parquet")
    assert frame["status"].tolist() == ["completed"] * 5, printed
