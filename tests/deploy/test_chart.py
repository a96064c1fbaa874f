"""The Helm chart, rendered by helm for each example and held against Kubernetes' schemas."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jsonschema
import pytest
import yaml
from charts import CHART, EXAMPLES, Helm, check, containers, pod_templates
from command_lines import check_command

from atoll_client.gateway.routes import ROUTES

NAMES = ["", *EXAMPLES]
Rendered = dict[str, list[dict[str, Any]]]
PUBLIC = {route.path for route in ROUTES if route.method == "GET" and route.public}


def of_kind(manifests: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [found for found in manifests if found["kind"] in kinds]


def test_there_is_an_example_for_each_way_to_run() -> None:
    assert EXAMPLES == [
        "cpu-embeddings.yaml", "one-gpu.yaml", "scale-to-zero.yaml", "several-gpus.yaml",
        "several-machines.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_helm_and_kubernetes_take_it(name: str, helm: Helm, rendered: Rendered) -> None:
    values = [f"--values={CHART / 'examples' / name}"] if name else []
    linted = helm.run("lint", "--strict", str(CHART), *values)
    assert linted.returncode == 0, linted.stdout
    for manifest in rendered[name]:
        check(manifest)


def test_a_misspelt_field_is_found(rendered: Rendered) -> None:
    """The tests above are worth something only if the schemas are strict."""
    (deployment,) = of_kind(rendered["cpu-embeddings.yaml"], "Deployment")
    deployment = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    (group,) = of_kind(rendered["several-machines.yaml"], "LeaderWorkerSet")
    template = group["spec"]["leaderWorkerTemplate"]
    pod = {"spec": {**template["workerTemplate"]["spec"], "terminationGracePeriod": 1}}
    group = {
        **group,
        "spec": {**group["spec"], "leaderWorkerTemplate": {**template, "workerTemplate": pod}},
    }
    for manifest, field in ((deployment, "replica"), (group, "terminationGracePeriod")):
        with pytest.raises(jsonschema.ValidationError, match=f"'{field}' was unexpected"):
            check(manifest)


@pytest.mark.parametrize("name", NAMES)
def test_containers_start(name: str, rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their flags and variables are those of the programs."""
    found = [one for manifest in rendered[name] for one in containers(manifest)]
    assert found
    for one in found:
        values = check_command(one, monkeypatch)
        if one["args"][0] == "serve":
            ports = {port["name"]: port["containerPort"] for port in one["ports"]}
            assert values["port"] == ports["http"]
            assert values["gateway_grpc_port"] == ports["grpc"]
            # Triton's ports ask for no key.
            is_open = values["triton_host"] != "127.0.0.1"
            assert is_open == ("triton-grpc" in ports) == (name == "scale-to-zero.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_closed(name: str, rendered: Rendered) -> None:
    for manifest in rendered[name]:
        for pod in pod_templates(manifest):
            spec = pod["spec"]
            assert spec["securityContext"]["runAsNonRoot"]
            assert spec["enableServiceLinks"] is False
            assert spec["automountServiceAccountToken"] is False
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            for one in spec["containers"]:
                security = one["securityContext"]
                assert security["readOnlyRootFilesystem"] and security["capabilities"] == {
                    "drop": ["ALL"]
                }
                written = {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
                # Triton's backend makes a folder in /tmp, whatever TMPDIR says.
                assert "/tmp" in written
                if one["command"] == ["atoll"]:
                    assert volumes[written["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
                    environment = {v["name"]: v.get("value", "") for v in one["env"]}
                    for variable in ("HOME", "ATOLL_CACHE", "HF_HOME", "TRITON_CACHE_DIR"):
                        assert environment[variable].startswith("/data/")
                    assert "/data" in written


@pytest.mark.parametrize("name", NAMES)
def test_probes_ask_routes_that_need_no_key(name: str, rendered: Rendered) -> None:
    probes = [
        (one, one[probe]["httpGet"])
        for manifest in rendered[name]
        for one in containers(manifest)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if probe in one
    ]
    assert probes
    for one, get in probes:
        assert get["path"] in PUBLIC
        assert get["port"] in [port["name"] for port in one["ports"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_may_finish_what_runs(name: str, rendered: Rendered) -> None:
    """The gateway waits for its requests, then the models for theirs, after preStop."""
    for manifest in rendered[name]:
        for pod in pod_templates(manifest):
            for one in pod["spec"]["containers"]:
                flags = dict(a.lstrip("-").split("=", 1) for a in one["args"] if "=" in a)
                exit_s = int(flags.get("exit-timeout", flags.get("shutdown-grace-s", 0)))
                pause_s = one["lifecycle"]["preStop"]["sleep"]["seconds"]
                grace_s = pod["spec"]["terminationGracePeriodSeconds"]
                assert grace_s >= pause_s + 2 * exit_s + 20


@pytest.mark.parametrize("name", NAMES)
def test_selectors_find_pods_and_targets_exist(name: str, rendered: Rendered) -> None:
    manifests = rendered[name]
    pods = [p for m in manifests for p in pod_templates(m)]
    labels = [pod["metadata"]["labels"].items() for pod in pods]
    selectors = [m["spec"]["selector"] for m in of_kind(manifests, "Service")]
    selectors += [
        m["spec"]["selector"]["matchLabels"]
        for m in of_kind(manifests, "InferencePool", "PodDisruptionBudget", "PodMonitor")
    ]
    for selector in selectors:
        assert any(selector.items() <= found for found in labels), selector
    for service in of_kind(manifests, "Service"):
        chosen = [
            p for p, f in zip(pods, labels, strict=True) if service["spec"]["selector"].items() <= f
        ]
        ports = {
            port["name"] for p in chosen for one in p["spec"]["containers"] for port in one["ports"]
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    existing = {(m["apiVersion"], m["kind"], m["metadata"]["name"]): m for m in manifests}
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        scaled = existing[target["apiVersion"], target["kind"], target["name"]]
        assert "replicas" not in scaled["spec"]


def test_a_group_holds_one_model(rendered: Rendered) -> None:
    (group,) = of_kind(rendered["several-machines.yaml"], "LeaderWorkerSet")
    leader, worker = pod_templates(group)
    for pod in (leader, worker):
        (one,) = pod["spec"]["containers"]
        environment = {variable["name"]: variable for variable in one["env"]}
        assert environment["ATOLL_NUM_SHARD"]["value"] == "16"
        assert environment["ATOLL_SHARD_KEY"]["valueFrom"]["secretKeyRef"]["name"]
        assert one["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert worker["spec"]["containers"][0]["args"] == ["worker"]
    # Requests, and whoever counts them, go to leaders only.
    (policy,) = of_kind(rendered["several-machines.yaml"], "NetworkPolicy")
    assert len(policy["spec"]["ingress"]) == 2


def test_requests_reach_the_gateway_in_front_while_there_is_no_pod(rendered: Rendered) -> None:
    manifests = rendered["scale-to-zero.yaml"]
    (scaler,) = of_kind(manifests, "ScaledObject")
    assert scaler["spec"]["minReplicaCount"] == 0
    assert len(scaler["spec"]["triggers"]) == 2
    front, headless = of_kind(manifests, "Service")
    assert front["spec"]["selector"]["app.kubernetes.io/component"] == "gateway"
    (gateway,) = [
        one for m in of_kind(manifests, "Deployment") for one in containers(m)
        if one["command"] == ["atoll-gateway"]
    ]  # fmt: skip
    assert f"--server={headless['metadata']['name']}.ml.svc:8001" in gateway["args"]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/v1/health/live"


def test_the_router_of_llm_d_finds_the_pods(rendered: Rendered) -> None:
    values = yaml.safe_load((CHART.parents[1] / "llm-d" / "router.values.yaml").read_text())
    servers = values["router"]["modelServers"]
    (pool,) = of_kind(rendered["several-gpus.yaml"], "InferencePool")
    assert servers["matchLabels"] == pool["spec"]["selector"]["matchLabels"]
    assert servers["targetPorts"] == pool["spec"]["targetPorts"]
    assert servers["type"] == "vllm"
    (deployment,) = of_kind(rendered["several-gpus.yaml"], "Deployment")
    (pod,) = pod_templates(deployment)
    assert "llm-d.ai/engine-type" not in pod["metadata"]["labels"]


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == version("atoll")
