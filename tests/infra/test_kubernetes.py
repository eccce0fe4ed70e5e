"""The manifests of `infra/k8s`: strictly valid for three Kubernetes, and true to the gateway that they run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from offhook.gateway.config import settings_from
from tests.infra.infra_files import INFRA
from tests.needs import require

K8S = INFRA / "k8s"
VERSIONS = ("1.30", "1.34", "1.37")
FILES = [path for path in sorted(K8S.glob("*.yaml")) if path.name not in ("kustomization.yaml", "agent.yaml")]
OBJECTS: list[dict[str, Any]] = [one for path in FILES for one in yaml.safe_load_all(path.read_text())]
SCALED: dict[str, Any] = yaml.safe_load((K8S / "keda" / "scaledobject.yaml").read_text())
SCHEMA = json.loads((K8S / "schemas" / "scaledobject.json").read_text())


def found(kind: str, name: str = "offhook") -> dict[str, Any]:
    return next(one for one in OBJECTS if one["kind"] == kind and one["metadata"]["name"] == name)


SET = found("StatefulSet")
POD = SET["spec"]["template"]["spec"]
GATEWAY = POD["containers"][0]
ENVIRONMENT = {one["name"]: one.get("value", "") for one in GATEWAY["env"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_strictly_valid(version: str) -> None:
    for one in OBJECTS:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_is_refused() -> None:
    amiss = json.loads(json.dumps(SET).replace("readinessProbe", "readinesProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(amiss, VERSIONS[0], strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SCALED, "spec": {**SCALED["spec"], "maxReplicas": 3}}, SCHEMA)


def test_kustomization_names_every_file() -> None:
    whole = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    assert sorted(whole["resources"]) == [path.name for path in FILES]
    generated = {one["name"]: one["files"] for one in whole["configMapGenerator"]}
    assert all((K8S / file).exists() for files in generated.values() for file in files)
    mounted = {
        v["configMap"]["name"]
        for one in OBJECTS
        if "template" in one.get("spec", {})
        for v in volumes(one)
        if "configMap" in v
    }
    assert mounted == set(generated)
    keda = yaml.safe_load((K8S / "keda" / "kustomization.yaml").read_text())
    removed = yaml.safe_load(keda["patches"][0]["patch"])
    assert (removed["kind"], removed["metadata"]) == (
        "HorizontalPodAutoscaler",
        found("HorizontalPodAutoscaler")["metadata"],
    )


def volumes(one: dict[str, Any]) -> list[dict[str, Any]]:
    return one["spec"]["template"]["spec"].get("volumes", [])  # type: ignore[no-any-return]


def test_keda_scales_the_same_set_by_its_calls() -> None:
    jsonschema.validate(SCALED, SCHEMA)
    scaler = found("HorizontalPodAutoscaler")["spec"]
    assert SCALED["spec"]["scaleTargetRef"] == scaler["scaleTargetRef"]
    assert (SCALED["spec"]["minReplicaCount"], SCALED["spec"]["maxReplicaCount"]) == (
        scaler["minReplicas"],
        scaler["maxReplicas"],
    )
    threshold = int(SCALED["spec"]["triggers"][0]["metadata"]["threshold"])
    assert threshold == 0.65 * int(ENVIRONMENT["OFFHOOK_MAX_CALLS"])


def test_the_gateway_understands_its_environment() -> None:
    secret = {
        "OFFHOOK_LIVE": "redis://valkey:6379/0", "OFFHOOK_FLEET_KEY": "f" * 48, "OFFHOOK_CONSOLE_TOKEN": "c" * 48,
        "OFFHOOK_HOST": "0.0.0.0",
    }  # fmt: skip
    settings = settings_from({**ENVIRONMENT, **secret, "OFFHOOK_REPLICA": "offhook-0"})
    ports = {one["name"]: one["containerPort"] for one in GATEWAY["ports"]}
    assert (settings.port, settings.admin_port) == (ports["http"], ports["admin"])
    assert settings.node_url.endswith(f":{ports['http']}")
    assert settings.data_dir.startswith("/var/lib/offhook")


def test_a_pod_is_given_time_to_hand_over() -> None:
    waits_s = GATEWAY["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= waits_s + float(ENVIRONMENT["OFFHOOK_DRAIN_S"]) + 13 + 2
    assert found("PodDisruptionBudget")["spec"]["maxUnavailable"] < SET["spec"]["replicas"]


def test_probes_ask_what_the_gateway_answers() -> None:
    asked = {probe: GATEWAY[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    assert "GET /lb" in (K8S / "haproxy.cfg").read_text()


def test_every_selector_and_port_name_matches() -> None:
    pods = {}
    for one in OBJECTS:
        if "template" in one.get("spec", {}):
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
            names = {p["name"] for c in one["spec"]["template"]["spec"]["containers"] for p in c["ports"]}
            pods[labels["app.kubernetes.io/name"]] = names
    for one in OBJECTS:
        if one["kind"] == "Service":
            names = pods[one["spec"]["selector"]["app.kubernetes.io/name"]]
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= names
        if one["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = one["spec"].get("selector") or one["spec"]["podSelector"]
            assert selector["matchLabels"]["app.kubernetes.io/name"] in pods
    assert SET["spec"]["serviceName"] == found("Service", "offhook-nodes")["metadata"]["name"]
    policy = found("NetworkPolicy")["spec"]
    named = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert named <= pods["offhook"]


@pytest.mark.parametrize("name", ["offhook", "offhook-front"])
def test_pods_have_no_more_rights_than_needed(name: str) -> None:
    pod = next(o for o in OBJECTS if "template" in o.get("spec", {}) and o["metadata"]["name"] == name)["spec"][
        "template"
    ]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (True, False)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
    user = (INFRA / "Dockerfile").read_text()
    assert name != "offhook" or f"--uid {pod['securityContext']['runAsUser']} " in user


def test_the_balancer_has_a_place_for_each_pod(tmp_path: Path) -> None:
    text = (K8S / "haproxy.cfg").read_text()
    most = found("HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    names = [f"offhook-{n}" for n in range(most)]
    assert re.findall(r"^  server (\S+) ", text, re.MULTILINE) == names
    assert re.findall(r"^  use-server (\S+) if { path_beg /twilio/n/\1/ }$", text, re.MULTILINE) == names
    shipped = (INFRA / "haproxy" / "haproxy.cfg").read_text()
    for section in (
        "option httpchk GET /lb",
        "http-check disable-on-404",
        "timeout tunnel 1h",
        "retry-on conn-failure",
    ):
        assert section in text
        assert section in shipped
    require("haproxy")
    config = tmp_path / "haproxy.cfg"
    shutil.copy(K8S / "haproxy.cfg", config)
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
