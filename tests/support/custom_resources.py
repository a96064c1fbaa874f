"""Schemas of the custom resources that the manifests of deploy/ use: the fields that they use, in
which a misspelt one is an error. Pods inside are checked against Kubernetes' own schema."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_SECONDS = {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}
_POD: dict[str, Any] = {"type": "object", "required": ["spec"]}
_NUMBER_OR_SHARE = {"anyOf": [_COUNT, {"type": "string", "pattern": "^[0-9]+%$"}]}
# Numbers in a trigger's metadata are texts: others are refused by KEDA.
_DIGITS = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False, "required": list(required),
        "properties": properties,
    }  # fmt: skip


def _list(item: Any) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


def _resource(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _object("name", name=_TEXT, labels=_LABELS)
    return _object(
        "apiVersion", "kind", "metadata", "spec",
        apiVersion=_TEXT, kind=_TEXT, metadata=metadata, spec=spec,
    )  # fmt: skip


_LEADER_WORKER_SET = _object(
    "leaderWorkerTemplate",
    replicas=_COUNT,
    startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
    rolloutStrategy=_object(
        "type",
        type={"enum": ["RollingUpdate"]},
        rollingUpdateConfiguration=_object(
            maxSurge=_NUMBER_OR_SHARE, maxUnavailable=_NUMBER_OR_SHARE, partition=_COUNT
        ),
    ),
    leaderWorkerTemplate=_object(
        "workerTemplate",
        size={"type": "integer", "minimum": 1},
        restartPolicy={"enum": ["RecreateGroupOnPodRestart", "None"]},
        leaderTemplate=_POD,
        workerTemplate=_POD,
    ),
)
_INFERENCE_POOL = _object(
    "selector", "targetPorts", "endpointPickerRef",
    selector=_object("matchLabels", matchLabels=_LABELS),
    targetPorts={**_list(_object("number", number=_PORT)), "maxItems": 8},
    appProtocol=_TEXT,
    endpointPickerRef=_object(
        "name", "port",
        name=_TEXT, port=_object("number", number=_PORT),
        failureMode={"enum": ["FailOpen", "FailClose"]},
    ),
)  # fmt: skip
_HTTP_ROUTE = _object(
    parentRefs=_list(_object("name", name=_TEXT, namespace=_TEXT, sectionName=_TEXT)),
    hostnames=_list(_TEXT),
    rules=_list(
        _object(
            timeouts=_object(request=_SECONDS, backendRequest=_SECONDS),
            backendRefs=_list(_object("name", name=_TEXT, group=_TEXT, kind=_TEXT, port=_PORT)),
        )
    ),
)
_PROMETHEUS_TRIGGER = _object(
    "type", "metadata",
    type={"const": "prometheus"},
    metadata=_object(
        "serverAddress", "query", "threshold",
        serverAddress=_TEXT, query=_TEXT, threshold=_DIGITS, activationThreshold=_DIGITS,
    ),
)  # fmt: skip
_CPU_TRIGGER = _object(
    "type", "metricType", "metadata",
    type={"const": "cpu"}, metricType={"enum": ["Utilization", "AverageValue"]},
    metadata=_object("value", value=_DIGITS),
)  # fmt: skip
_SCALED_OBJECT = _object(
    "scaleTargetRef", "triggers",
    scaleTargetRef=_object("name", apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
    minReplicaCount=_COUNT, maxReplicaCount=_COUNT, cooldownPeriod=_COUNT,
    advanced=_object(
        horizontalPodAutoscalerConfig=_object(
            behavior=_object(scaleDown=_object(stabilizationWindowSeconds=_COUNT))
        )
    ),
    triggers=_list({"anyOf": [_PROMETHEUS_TRIGGER, _CPU_TRIGGER]}),
)  # fmt: skip
_POD_MONITOR = _object(
    "selector", "podMetricsEndpoints",
    selector=_object(
        matchLabels=_LABELS,
        matchExpressions=_list(
            _object(
                "key", "operator",
                key=_TEXT, operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                values=_list(_TEXT),
            )
        ),
    ),
    podMetricsEndpoints=_list(_object("port", port=_TEXT, path=_TEXT, interval=_SECONDS)),
)  # fmt: skip
_SERVING_RUNTIME = _object(
    "containers", "supportedModelFormats",
    annotations=_LABELS,
    supportedModelFormats=_list(
        _object(
            "name",
            name=_TEXT, version=_TEXT, autoSelect={"type": "boolean"},
            priority={"type": "integer", "minimum": 1},
        )
    ),
    protocolVersions=_list({"enum": ["v1", "v2", "grpc-v2"]}),
    containers=_list({"type": "object"}),
    volumes=_list({"type": "object"}),
)  # fmt: skip
_INFERENCE_SERVICE = _object(
    "predictor",
    predictor=_object(
        "model",
        minReplicas=_COUNT, maxReplicas=_COUNT, terminationGracePeriodSeconds=_COUNT,
        model=_object(
            "modelFormat",
            modelFormat=_object("name", name=_TEXT, version=_TEXT),
            protocolVersion=_TEXT, storageUri=_TEXT, runtime=_TEXT,
        ),
    ),
)  # fmt: skip
_LLM_INFERENCE_SERVICE = _object(
    "model",
    model=_object("uri", uri=_TEXT, name=_TEXT),
    replicas=_COUNT,
    router=_object(scheduler={"const": {}}, route={"const": {}}, gateway={"const": {}}),
    template={"type": "object", "required": ["containers"]},
    worker={"type": "object", "required": ["containers"]},
)
_RAY_GROUP = {
    "rayStartParams": _LABELS,
    "template": _POD,
}
_RAY_SERVICE = _object(
    "serveConfigV2", "rayClusterConfig",
    serveConfigV2=_TEXT,
    rayClusterConfig=_object(
        "headGroupSpec",
        rayVersion=_TEXT,
        headGroupSpec=_object("template", **_RAY_GROUP),
        workerGroupSpecs=_list(
            _object(
                "groupName", "template",
                groupName=_TEXT, replicas=_COUNT, minReplicas=_COUNT, maxReplicas=_COUNT,
                **_RAY_GROUP,
            )
        ),
    ),
)  # fmt: skip

# By API version and kind.
CUSTOM: dict[str, dict[str, Any]] = {
    kind: _resource(spec)
    for kind, spec in {
        "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet": _LEADER_WORKER_SET,
        "inference.networking.k8s.io/v1/InferencePool": _INFERENCE_POOL,
        "gateway.networking.k8s.io/v1/HTTPRoute": _HTTP_ROUTE,
        "keda.sh/v1alpha1/ScaledObject": _SCALED_OBJECT,
        "monitoring.coreos.com/v1/PodMonitor": _POD_MONITOR,
        "serving.kserve.io/v1alpha1/ClusterServingRuntime": _SERVING_RUNTIME,
        "serving.kserve.io/v1beta1/InferenceService": _INFERENCE_SERVICE,
        "serving.kserve.io/v1alpha2/LLMInferenceService": _LLM_INFERENCE_SERVICE,
        "ray.io/v1/RayService": _RAY_SERVICE,
    }.items()
}
