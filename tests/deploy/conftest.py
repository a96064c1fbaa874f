"""helm, and what the chart makes of each example."""

from __future__ import annotations

from typing import Any

import pytest
from charts import CHART, EXAMPLES, Helm, find_helm


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> Helm:
    """The real one."""
    assert request.config.cache is not None
    return find_helm(request.config.cache.mkdir("charts"))


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> dict[str, list[dict[str, Any]]]:
    """Manifests by the name of the values file; "": without one."""
    found = {name: helm.render(f"--values={CHART / 'examples' / name}") for name in EXAMPLES}
    return {"": helm.render(), **found}
