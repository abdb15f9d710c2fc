"""The manifests for clouds and Kubernetes are what the schemas of Ray and KubeRay ask for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from hlvnn.commands.tune_search import _parse
from hlvnn.sweep import cluster
from hlvnn.sweep.options import SweepConfig
from tests.cluster.recipes import RECIPES
from tests.helpers import ROOT


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
    private = "install -d -m 700 ~/.hlvnn && "
    assert all(line.startswith(private) for line in starts)
    assert all("--temp-dir=$HOME/.hlvnn/ray" in line for line in starts)


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


def test_a_mistyped_flag_of_the_entry_point_asks_for_no_gpu(manifests: Any) -> None:
    spec = manifests["RayJob"]["spec"]
    words = spec["entrypoint"].split()
    assert words[:2] == ["bash", "/home/ray/hlvnn/cluster/checked.sh"]
    options = _parse(words[2:], SweepConfig())
    assert options.name is not None
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert options.max_concurrent == group["maxReplicas"] / options.gpus
    head = [{"CPU": 0.0, "GPU": 0.0}]  # a cluster that begins with nothing is not refused
    cluster.check(options.model_copy(update={"address": "auto"}), head)
    assert spec["activeDeadlineSeconds"] > 0


def test_apptainers_image_has_packages_and_no_more_than_docker_s() -> None:
    text = (RECIPES / "apptainer.def").read_text(encoding="utf-8")
    files = re.search(r"%files\n(.*?)\n\n", text, flags=re.DOTALL)
    assert files is not None
    copied = [line.split()[0] for line in files[1].splitlines()]
    assert all((ROOT / name).exists() for name in copied)
    assert not {".", "data", "results"} & set(copied)
    assert "-c /opt/hlvnn/constraints.txt" in text


def test_the_image_has_the_tested_ray_and_nothing_but_code() -> None:
    text = (RECIPES / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{constrained('ray')}-py311" in text
    copied = [word for line in re.findall(r"^COPY --chown=ray (.*)$", text, flags=re.MULTILINE)
              for word in line.split()[:-1]]  # fmt: skip
    assert {"hlvnn", "search_spaces", "cluster", "tune_search.py"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert not {".", "data", "results"} & set(copied)
