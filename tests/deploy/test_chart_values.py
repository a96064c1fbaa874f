"""Values that the chart refuses, with the reason, and what becomes of those that it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHART, Helm, containers, pod_templates

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("additional properties 'replica' not allowed", {"replica": 2}),
    ("additional properties 'max_batch_toknes' not allowed", {"settings": {"max_batch_toknes": 1}}),
    ("minimum: got 0, want 1", {"settings": {"max_batch_tokens": 0}}),
    ("got string, want boolean", {"settings": {"prefix_caching": "sometimes"}}),
    ("additional properties 'port' not allowed", {"gatewaySettings": {"port": 80}}),
    ("/gpus': got string, want integer", {"gpus": "all"}),
    ("does not match pattern", {"sharedMemory": {"sizeLimit": "1 GB"}}),
    ("does not match pattern", {"models": ["--allow-shared-memory"]}),
    ("minItems: got 0, want 1", {"models": []}),
    ("'existingSecret' not allowed|additional properties 'value'", {"apiKey": {"value": "abc"}}),
    ("value must be one of", {"autoscaling": {"kind": "knative"}}),
    ("name the secret", {"nodes": 2, "gpus": 1}),
    ("a group of pods holds one model",
     {"nodes": 2, "gpus": 1, "models": ["a", "b"], "shardKey": {"existingSecret": "key"}}),
    ("it must be a multiple",
     {"nodes": 2, "gpus": 2, "numShard": 3, "shardKey": {"existingSecret": "key"}}),
    ("it must be a multiple", {"nodes": 2, "shardKey": {"existingSecret": "key"}}),
    ("a replica has 2 GPUs", {"gpus": 2, "numShard": 4}),
    ("nothing to look at", {"autoscaling": {"kind": "hpa"}}),
    ("minReplicas is 5, and maxReplicas 4",
     {"autoscaling": {"kind": "hpa", "cpuPercent": 50, "minReplicas": 5}}),
    ("by which requests wake a pod",
     {"autoscaling": {"kind": "keda", "waitingRequests": 1, "minReplicas": 0}}),
    ("needs frontGateway.enabled", {"autoscaling": {"kind": "keda", "requestsPerSecond": 1}}),
    ("asks for no key", {"frontGateway": {"enabled": True}, "networkPolicy": {"enabled": False}}),
    ("needs endpointPicker.name", {"inferencePool": {"enabled": True}}),
    ("needs parentRefs", {"httpRoute": {"enabled": True}}),
]  # fmt: skip


def written(values: dict[str, Any], folder: Path) -> str:
    """A flag with a values file."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return f"--values={file}"


@pytest.mark.parametrize(("reason", "values"), REFUSED, ids=lambda value: str(value)[:40])
def test_wrong_values_are_refused(
    reason: str, values: dict[str, Any], helm: Helm, tmp_path: Path
) -> None:
    assert any(text in helm.refusal(written(values, tmp_path)) for text in reason.split("|"))


def test_settings_become_variables_as_they_were_written(helm: Helm, tmp_path: Path) -> None:
    """100000000 was 1e+08 in the container."""
    values = {
        "settings": {
            "max_image_bytes": 100_000_000, "memory_fraction": 0.85, "prefix_caching": False,
            "prompts": '{"q": "query: "}',
        },
        "gatewaySettings": {"log_requests": "json"},
        "env": [{"name": "OTLP_ENDPOINT", "value": "http://collector:4317"}],
    }  # fmt: skip
    manifests = helm.render(written(values, tmp_path))
    (one,) = [c for manifest in manifests for c in containers(manifest)]
    found = {variable["name"]: variable.get("value") for variable in one["env"]}
    assert found["ATOLL_MAX_IMAGE_BYTES"] == "100000000"
    assert found["ATOLL_MEMORY_FRACTION"] == "0.85"
    assert found["ATOLL_PREFIX_CACHING"] == "false"
    assert json.loads(found["ATOLL_PROMPTS"]) == {"q": "query: "}
    assert found["ATOLL_GATEWAY_LOG_REQUESTS"] == "json"
    assert found["OTLP_ENDPOINT"] == "http://collector:4317"


def test_a_router_that_makes_its_own_pool_is_only_named(helm: Helm, tmp_path: Path) -> None:
    values = {
        "inferencePool": {"enabled": True, "create": False, "name": "atoll-router"},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
    }
    manifests = {m["kind"]: m for m in helm.render(written(values, tmp_path))}
    assert "InferencePool" not in manifests
    (rule,) = manifests["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"][0]["name"] == "atoll-router"


def test_every_value_is_in_the_schema_with_its_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


def test_gpus_of_one_pod_hold_the_model_together(helm: Helm, tmp_path: Path) -> None:
    """Unless told otherwise: then each is free for a model of its own."""
    for values, wanted in (({"gpus": 4}, "4"), ({"gpus": 4, "numShard": 1}, None)):
        manifests = helm.render(written(values, tmp_path))
        (pod,) = [p for manifest in manifests for p in pod_templates(manifest)]
        (one,) = pod["spec"]["containers"]
        environment = {variable["name"]: variable.get("value") for variable in one["env"]}
        assert environment.get("ATOLL_NUM_SHARD") == wanted
        assert one["resources"]["limits"]["nvidia.com/gpu"] == 4
