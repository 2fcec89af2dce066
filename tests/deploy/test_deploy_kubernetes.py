"""The manifests of Kubernetes: their names fit together, and what they say of the server is so.

kubectl and kubernetes-validate check more, where they are installed.
"""

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server import lifecycle
from server.auth import KEYLESS_PATHS
from server.config import ServerConfig
from tests.deploy.dockerfile import TARGETS, read_environment
from tests.deploy.promql import Scrape
from tests.deploy.settings import read_settings
from tests.sources import REPO

KUBERNETES = REPO / "scripts" / "deploy" / "kubernetes"
COMPONENTS = ("monitoring", "autoscaling", "gateway")
KUBECTL = shutil.which("kubectl")
NAME = {"app.kubernetes.io/name": "jaxserve"}
OWN_KINDS = {"StatefulSet", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}  # the others are of extensions
SCHEMAS_OF = "1.35"


def load(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / path).read_text()))


MANIFESTS = [
    (file, document)
    for folder in ("base", *(f"components/{name}" for name in COMPONENTS))
    for file in sorted((KUBERNETES / folder).glob("*.yaml"))
    if file.name not in ("kustomization.yaml", "prometheus-adapter-values.yaml")
    for document in load(str(file.relative_to(KUBERNETES)))
]
[STATEFUL_SET] = load("base/statefulset.yaml")
POD = STATEFUL_SET["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]


def find(kind: str) -> list[dict[str, Any]]:
    return [document for _, document in MANIFESTS if document["kind"] == kind]


def read_patches(path: str) -> dict[str, Any]:
    """Return the container of the patch of a kustomization."""
    [kustomization] = load(path)
    [patch] = [yaml.safe_load(patch["patch"]) for patch in kustomization["patches"]]
    assert patch["metadata"]["name"] == STATEFUL_SET["metadata"]["name"]
    [container] = patch["spec"]["template"]["spec"]["containers"]
    assert container["name"] == CONTAINER["name"]
    return container


def read_plain_environment(container: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["value"] for row in container.get("env", ()) if "value" in row}


@pytest.mark.parametrize("target", TARGETS)
def test_every_device_is_served_with_flags_that_exist(target: str) -> None:
    container = {**CONTAINER, **read_patches(f"{target}/kustomization.yaml")}
    command, *words = container["args"]
    assert command == "serve"
    _, server = read_settings(words, read_environment(target) | read_plain_environment(CONTAINER))
    assert server.host == "0.0.0.0" and [port["containerPort"] for port in CONTAINER["ports"]] == [server.port]
    [image] = load(f"{target}/kustomization.yaml")[0]["images"]
    assert (image["name"], image["newTag"]) == (CONTAINER["image"], target)


def test_all_chips_of_a_tpu_host_are_used() -> None:
    container = read_patches("tpu/kustomization.yaml")
    engine, _ = read_settings(container["args"][1:], {})
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert engine.tensor_parallel_size == int(chips) == int(container["resources"]["requests"]["google.com/tpu"])


def test_probes_ask_what_needs_no_key() -> None:
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/live", "liveness": "/live", "readiness": "/health"}
    assert set(paths.values()) <= KEYLESS_PATHS


def test_a_start_may_take_an_hour() -> None:
    probe = CONTAINER["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600


def test_a_pod_is_killed_only_after_it_has_drained() -> None:
    *_, pause_s = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert POD["terminationGracePeriodSeconds"] > (
        int(pause_s) + ServerConfig().drain_timeout_s + lifecycle.EXIT_GRACE_S
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_pod_is_the_image_s_user_and_writes_into_its_volumes_alone(target: str) -> None:
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    context = POD["securityContext"]
    assert context["runAsUser"] == context["fsGroup"] == 10001
    assert context["fsGroupChangePolicy"] == "OnRootMismatch", "else programs become writable by a group"
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert {read_environment(target)["XDG_CACHE_HOME"], "/tmp"} <= mounts


def test_every_mount_has_its_volume() -> None:
    templates = [template["metadata"]["name"] for template in STATEFUL_SET["spec"]["volumeClaimTemplates"]]
    volumes = {volume["name"] for volume in POD["volumes"]} | set(templates)
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes
    [secret] = [volume["secret"] for volume in POD["volumes"] if "secret" in volume]
    [mount] = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "keys"]
    file = read_plain_environment(CONTAINER)["JAXSERVE_API_KEY_FILE"]
    assert file == f"{mount['mountPath']}/{secret['items'][0]['path']}"


def test_all_selectors_are_those_of_the_pods() -> None:
    assert STATEFUL_SET["spec"]["template"]["metadata"]["labels"] == NAME
    assert STATEFUL_SET["spec"]["selector"]["matchLabels"] == NAME
    services = find("Service")
    assert all(service["spec"]["selector"] == NAME for service in services)
    assert STATEFUL_SET["spec"]["serviceName"] in [service["metadata"]["name"] for service in services]
    for kind in ("PodDisruptionBudget", "PodMonitor", "InferencePool"):
        [document] = find(kind)
        assert document["spec"]["selector"]["matchLabels"] == NAME, kind


def test_ports_have_the_container_s_name_or_number() -> None:
    [port] = CONTAINER["ports"]
    assert {row["targetPort"] for service in find("Service") for row in service["spec"]["ports"]} == {port["name"]}
    [monitor], [pool] = find("PodMonitor"), find("InferencePool")
    assert [row["port"] for row in monitor["spec"]["podMetricsEndpoints"]] == [port["name"]]
    assert [row["number"] for row in pool["spec"]["targetPorts"]] == [port["containerPort"]]


def test_prometheus_sends_a_key_that_the_server_has() -> None:
    [monitor] = find("PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    [key] = [row["valueFrom"]["secretKeyRef"] for row in CONTAINER["env"] if row["name"] == "JAXSERVE_API_KEY"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": key}


def test_pods_are_added_by_a_metric_that_the_adapter_makes_of_a_series(scrape: Scrape) -> None:
    [scaler] = find("HorizontalPodAutoscaler")
    [rule] = load("components/autoscaling/prometheus-adapter-values.yaml")[0]["rules"]["custom"]
    assert [row["pods"]["metric"]["name"] for row in scaler["spec"]["metrics"]] == [rule["name"]["as"]]
    series = rule["seriesQuery"].partition("{")[0]
    assert scrape.find_faults(series) == []
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.LabelMatchers>>", 'namespace="default"')
    assert scrape.find_faults(query.replace("<<.GroupBy>>", "pod")) == []
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (STATEFUL_SET["kind"], STATEFUL_SET["metadata"]["name"])


def test_the_gateway_s_picker_reads_metrics_without_a_key() -> None:
    _, server = read_settings([], read_plain_environment(read_patches("components/gateway/kustomization.yaml")))
    assert server.open_paths == ("/metrics",)
    [route], [pool] = find("HTTPRoute"), find("InferencePool")
    [backend] = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
    group = pool["apiVersion"].partition("/")[0]
    assert backend == {"group": group, "kind": pool["kind"], "name": pool["metadata"]["name"]}


def test_kustomizations_name_all_files_beside_them() -> None:
    for folder in ("base", *(f"components/{name}" for name in COMPONENTS)):
        [kustomization] = load(f"{folder}/kustomization.yaml")
        manifests = {file.name for file, _ in MANIFESTS if file.parent == KUBERNETES / folder}
        assert set(kustomization["resources"]) == manifests


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here")
@pytest.mark.parametrize("target", TARGETS)
def test_kustomize_makes_one_deployment_of_the_parts(target: str, tmp_path: Path) -> None:
    overlay = {
        "resources": [os.path.relpath(KUBERNETES / target, tmp_path)],
        "components": [os.path.relpath(KUBERNETES / "components" / name, tmp_path) for name in COMPONENTS],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    ended = subprocess.run(
        [str(KUBECTL), "kustomize", str(tmp_path)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": os.devnull},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    documents = list(yaml.safe_load_all(ended.stdout))
    assert len(documents) == len(MANIFESTS)
    [stateful_set] = [document for document in documents if document["kind"] == "StatefulSet"]
    [container] = stateful_set["spec"]["template"]["spec"]["containers"]
    names = [row["name"] for row in container["env"]]
    assert re.fullmatch(rf"[\w.-]+/jaxserve:{target}", container["image"])
    assert len(names) == len(set(names)) == len(CONTAINER["env"]) + 1
    validate_all(documents)


def validate_all(documents: list[dict[str, Any]]) -> None:
    """Check Kubernetes' own kinds against its schemas, where the package that has them is installed."""
    try:
        validator = importlib.import_module("kubernetes_validate")
    except ModuleNotFoundError:
        return
    for document in documents:
        if document["kind"] in OWN_KINDS:
            validator.validate(document, SCHEMAS_OF, strict=True)


def test_the_manifests_follow_the_schemas_of_kubernetes() -> None:
    pytest.importorskip("kubernetes_validate", reason="no schemas here; pip install kubernetes-validate brings them")
    assert {document["kind"] for _, document in MANIFESTS} >= OWN_KINDS
    validate_all([document for _, document in MANIFESTS])
