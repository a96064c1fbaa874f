"""What deploy/ tells Prometheus and Grafana to watch: alerts, panels, and the names in them."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from charts import ROOT

RULES = ROOT / "deploy" / "prometheus" / "atoll.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "atoll.json"
# Of Prometheus itself.
_OF_SCRAPES = {"up"}


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """All PromQL by where it is, the dashboard's variables filled in."""
    found = {name: str(rule["expr"]) for name, rule in alerts().items()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found[f"${variable['name']}"] = variable["definition"]
    return {place: text.replace("$__rate_interval", "5m") for place, text in found.items()}


def metrics_of(expression: str) -> set[str]:
    """Names of series in it."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]", "", expression)
    return set(re.findall(r"\b(?:atoll_|nv_|vllm:|tgi_|te_)\w+", bare)) - _OF_SCRAPES


def labels_of(expression: str) -> set[str]:
    """Names of labels by which it selects and groups."""
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    matchers = re.findall(r"\{([^}]*)\}", expression)
    selected = {name for text in matchers for name in re.findall(r"(\w+)\s*(?:=|!)", text)}
    return selected | {name.strip() for text in groups for name in text.split(",")}
