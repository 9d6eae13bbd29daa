"""deploy/: what cannot be run here (Kubernetes, Docker, clouds) is read strictly, and held against what it names."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybox_cluster.cli import cli
from raybox_cluster.config import OptionError
from raybox_cluster.serve_config import options_of
from tests.deploy.kuberay import RESOURCES, faults

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


CLUSTER, SERVICE, SERVE = load("kuberay/raycluster.yaml"), load("kuberay/rayservice.yaml"), load("serve.yaml")
VERSION = tomllib.loads((ROOT / "cluster/pyproject.toml").read_text())["project"]["version"]
IMAGE = f"raybox:{VERSION}"


def groups() -> dict[str, dict[str, Any]]:
    spec = CLUSTER["spec"]
    return {"head": spec["headGroupSpec"], **{one["groupName"]: one for one in spec["workerGroupSpecs"]}}


# ---- KubeRay ----


@pytest.mark.parametrize("resource", [CLUSTER, SERVICE], ids=["RayCluster", "RayService"])
def test_a_resource_has_the_fields_of_kuberay_s_reference(resource: dict[str, Any]) -> None:
    assert faults(resource, RESOURCES[resource["kind"]]) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda spec: spec.update(autoscaling=True), ".spec.autoscaling: unknown"),
        (lambda spec: spec.pop("headGroupSpec"), ".spec.headGroupSpec: missing"),
        (lambda spec: spec["autoscalerOptions"].update(version="2"), "is none of"),
        (lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="2"), "is no int"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "is no str"),
    ],
)
def test_the_check_of_fields_sees(change: Any, fault: str) -> None:
    broken = copy.deepcopy(CLUSTER)
    change(broken["spec"])
    assert [one for one in faults(broken, RESOURCES["RayCluster"]) if fault in one]


def test_the_service_is_the_cluster_with_the_pool() -> None:
    assert SERVICE["spec"]["rayClusterConfig"] == CLUSTER["spec"]
    assert SERVICE["metadata"] == CLUSTER["metadata"]
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == SERVE


def test_pods_run_the_image_as_its_node_does() -> None:
    for name, group in groups().items():
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
        assert container["command"][0] == "raybox-node"
        assert "$KUBERAY_GEN_RAY_START_CMD" in container["args"][0]
        assert container.get("securityContext", {}).get("privileged", False) == (name == "sandbox")
    assert CLUSTER["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] == "true"


def test_the_version_of_ray_is_the_locked_one() -> None:
    assert f"\nray=={CLUSTER['spec']['rayVersion']} " in (ROOT / "requirements.lock").read_text()


def test_serve_s_front_end_is_the_same_on_all_nodes() -> None:
    environments = [group["template"]["spec"]["containers"][0]["env"] for group in groups().values()]
    assert all(one == environments[0] for one in environments)
    assert {"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "1"} in environments[0]


# ---- Serve's configuration ----


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's own
def test_serve_takes_the_configuration() -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(SERVE)
    (application,) = SERVE["applications"]
    options = options_of(application["args"])
    assert application["name"] == f"{options.name}-gateway"
    (deployment,) = application["deployments"]
    labels = deployment["ray_actor_options"]["label_selector"]
    assert labels.items() <= groups()["gateway"]["labels"].items()
    assert dict(options.node_labels) == groups()["sandbox"]["labels"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "args: api-keys: give at least one key"),
        ({"api_keys": [{"name": "a", "key": "long-enough"}], "port": 80}, "args: port cannot be given here"),
        ({"api-key": "long-enough"}, "args: api-key cannot be given here"),
        ({"sandbox": 3}, "args: unknown option 'sandbox'"),
        ({"sandboxes": "many"}, "args: sandboxes must be a whole number"),
        ({"warm": 3, "sandboxes": 2, "api_keys": [{"name": "a", "key": "long-enough"}]}, "warm: 3 sandboxes cannot"),
    ],
)
def test_a_wrong_configuration_is_refused(args: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError) as refused:
        options_of(args)
    assert str(refused.value).startswith(said)


# ---- ray up ----


@pytest.mark.parametrize("name", ["local", "aws"])
def test_ray_up_takes_the_cluster(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = load(f"ray-up/{name}.yaml")
    config = prepare_config(copy.deepcopy(written))
    validate_config(config)
    assert config["docker"]["image"].split("/")[-1] == IMAGE
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line and "ray start" in line for line in starts)
    labels = {str(one.get("labels", {}).get("raybox")) for one in written.get("available_node_types", {}).values()}
    labels |= {found for line in starts for found in re.findall(r"--labels=raybox=(\w+)", line)}
    assert {"gateway", "sandbox"} <= labels


# ---- what the page says ----


def test_commands_on_the_page_have_such_options_and_files() -> None:
    text = (DEPLOY / "README.md").read_text()
    of_raybox = re.findall(r"raybox (up|down|status|doctor|key)\b([^`\n]*)", text)
    assert {name for name, _ in of_raybox} == {"up", "down", "status", "doctor", "key"}
    for name, rest in of_raybox:
        known = {option for one in cli.commands[name].params for option in one.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (name, rest)
    files = re.findall(r"\b(deploy/[\w./-]+)", text)
    assert len(files) >= 5
    assert all((ROOT / file).is_file() for file in files), files


# ---- the image ----


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, with continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_image_is_made_of_what_is_here() -> None:
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} <= known
    shown = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    assert {"Makefile", "requirements.lock", "deploy/serve.yaml", "deploy/raybox-node"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in shown, source


def test_the_image_has_what_the_makefile_wants() -> None:
    makefile = (ROOT / "Makefile").read_text()
    run = " ".join(rest for name, rest in instructions() if name == "RUN")
    targets = re.findall(r"&& make (\w+)", run)
    assert targets == ["setup"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    (system,) = re.findall(r"^SYSTEM_PACKAGES := (.*)$", makefile, re.MULTILINE)
    assert {one.split(":")[1] for one in system.split()} <= set(shlex.split(run))
    (languages,) = re.findall(r"^LANGUAGES \?= (.*)$", makefile, re.MULTILINE)
    assert ("ARG", f'LANGUAGES="{languages}"') in instructions()
    (base,) = (rest for name, rest in instructions() if name == "ARG" and rest.startswith("BASE"))
    assert re.fullmatch(r"BASE=python:3\.11[\w.-]*", base)
    members = re.findall(r"^MEMBERS := (.*)$", makefile, re.MULTILINE)[0].split()
    copied = [rest for name, rest in instructions() if name == "COPY"]
    assert all(f"{member} {member}" in copied for member in members)


def raybox_node(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DEPLOY / "raybox-node", *command],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": os.environ["PATH"], "RAYBOX_CGROUP_ROOT": "/nowhere", **environment},
    )


def test_a_node_keeps_ray_s_token_in_a_file_of_its_own(tmp_path: Path) -> None:
    shown = raybox_node("cat", "/proc/self/environ", RAY_AUTH_TOKEN="secret words", RAYBOX_NODE_RUN=str(tmp_path))
    path = tmp_path / "ray-token"
    assert f"RAY_AUTH_TOKEN_PATH={path}" in shown.stdout.split("\0")
    assert "secret" not in shown.stdout
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("secret words", 0o600)
    assert "RAY_AUTH" not in raybox_node("env").stdout


def version_2_root() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(where, os.W_OK):
            return Path(where)
    return None


@pytest.mark.skipif(version_2_root() is None, reason="no cgroup version 2 to be written to")
def test_a_node_s_processes_leave_the_root_of_its_cgroups() -> None:
    mount = version_2_root()
    assert mount is not None
    root = mount / f"raybox-node-{os.getpid()}"
    root.mkdir()
    try:
        # A shell that enters the group, as a container's first process is in it, and becomes raybox-node there.
        enter = f'echo $$ > {root}/cgroup.procs && exec {DEPLOY}/raybox-node sh -c "cat {root}/cgroup.procs; echo -;'
        enter += f' cat {root}/node/cgroup.procs; cat {root}/cgroup.subtree_control"'
        done = subprocess.run(
            ["sh", "-c", enter],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={"PATH": os.environ["PATH"], "RAYBOX_CGROUP_ROOT": str(root)},
        )
        left, _, rest = done.stdout.partition("-\n")
        assert left == ""
        moved, *controllers = rest.splitlines()
        assert moved.isdigit()
        available = (root / "cgroup.controllers").read_text().split()
        assert {"memory", "cpu", "pids"} & set(available) == set(" ".join(controllers).split()) & {
            "memory",
            "cpu",
            "pids",
        }
        for missing in {"memory", "cpu", "pids"} - set(available):
            assert f"raybox-node: {root} hands down no limits of {missing}" in done.stderr
    finally:
        (root / "node").rmdir()
        root.rmdir()
