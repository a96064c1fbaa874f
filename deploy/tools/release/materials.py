"""A bill of materials in the format of CycloneDX: what the distributions bring to an environment.

``cyclonedx-py`` describes everything that is installed, the tools of development too. Kept is what
the distributions with their extras lead to, in the versions that are installed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .distributions import ReleaseError

ROOTS = ("atoll[server]", "atoll-client[gateway,otel]")


def write_materials(path: Path, version: str, environment: dict[str, str]) -> int:
    """Writes the bill and returns the number of its components.

    Raises:
        ReleaseError: something is not installed, or the bill does not match its schema.
    """
    bill = materials(version, environment)
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    _check(text)
    path.write_text(text)
    return len(bill["components"])


def materials(version: str, environment: dict[str, str]) -> dict[str, Any]:
    """The bill, not checked against its schema, which takes most of the time.

    Raises:
        ReleaseError: something is not installed.
    """
    command = [
        sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate",
        "--output-reproducible", "--output-format", "JSON", "--spec-version", "1.6", sys.executable,
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise ReleaseError(f"cyclonedx-py: {done.stderr.strip()}")
    return restricted(json.loads(done.stdout), needed(), version)


def needed(roots: tuple[str, ...] = ROOTS) -> set[str]:
    """The names of all distributions that the roots require here, themselves included.

    Raises:
        ReleaseError: one is not installed.
    """
    waiting = [(Requirement(root).name, Requirement(root).extras) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        key = (canonicalize_name(name), frozenset(extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError as error:
            raise ReleaseError(f"{name} is not installed: make release installs it") from error
        for requirement in map(Requirement, lines):
            if _applies(requirement, extras):
                waiting.append((requirement.name, requirement.extras))
    return {name for name, _ in seen}


def restricted(bill: dict[str, Any], names: set[str], version: str) -> dict[str, Any]:
    """The bill with these components only, for ``atoll`` of a version."""
    components = [c for c in bill["components"] if canonicalize_name(c["name"]) in names]
    (own,) = [c for c in components if c["name"] == "atoll"]
    components = [c for c in components if c is not own]
    for component in components:
        references = component.get("externalReferences", [])
        # A checkout's folder is nobody else's business.
        component["externalReferences"] = [
            each for each in references if not each["url"].startswith("file:")
        ]
    refs = {own["bom-ref"], *(c["bom-ref"] for c in components)}
    dependencies = [
        {**each, "dependsOn": sorted(refs.intersection(each.get("dependsOn", ())))}
        for each in bill["dependencies"]
        if each["ref"] in refs
    ]
    own = {**own, "type": "application", "version": version}
    own.pop("externalReferences", None)
    about = {**bill["metadata"], "component": own}
    return {**bill, "metadata": about, "components": components, "dependencies": dependencies}


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": e}) for e in (extras or {""}))


def _check(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise ReleaseError(f"the bill of materials does not match its schema: {error}")
