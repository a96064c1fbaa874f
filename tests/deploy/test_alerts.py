"""Alerts and dashboard: checked by promtool, each alert made to fire and to be quiet."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from charts import ROOT, Helm
from watching import RULES, alerts, expressions, panels

MODEL = 'job="ml/atoll",instance="a",model="m"'
LABELS = {"job": "ml/atoll", "instance": "a", "model": "m"}


class Case(NamedTuple):
    """Series that make an alert fire after half an hour, with these labels and summary; the same
    series with ``quiet`` in place of the first one's values do not."""

    series: dict[str, str]
    quiet: str
    labels: dict[str, str]
    summary: str


def _answers(status: str) -> dict[str, str]:
    """One answer in ten has the status; both are increasing counters."""
    name = 'atoll_gateway_requests_total{job="ml/atoll",instance="a",path="/embed",status="%s"}'
    return {name % status: "0+10x40", name % "200": "0+90x40"}


def _seconds(name: str, *bounds: str) -> dict[str, str]:
    """A histogram of which every value is between the two bounds."""
    low, high = bounds
    buckets = {low: "0+0x40", high: "0+60x40", "+Inf": "0+60x40"}
    return {f'{name}_bucket{{{MODEL},le="{le}"}}': values for le, values in buckets.items()}


JOB = {"job": "ml/atoll"}
OF_MODEL = {"job": "ml/atoll", "model": "m"}
CASES = {
    "AtollDown": Case(
        {'up{job="ml/atoll",instance="a"}': "0x40"}, "1x40",
        {"job": "ml/atoll", "instance": "a"}, "a does not answer",
    ),
    "AtollUnavailable": Case(
        _answers("503"), "0+1x40", JOB, "ml/atoll answers 10% of requests with 503"
    ),
    "AtollErrors": Case(_answers("500"), "0+1x40", JOB, "ml/atoll fails 10% of requests"),
    "AtollRefusing": Case(
        _answers("429"), "0+1x40", JOB, "ml/atoll refuses 10% of requests with 429"
    ),
    "AtollStuck": Case(
        {
            f"atoll_engine_steps_total{{{MODEL}}}": "7x40",
            f"atoll_requests_running{{{MODEL}}}": "2x40",
        },
        "0+60x40", LABELS, "m on a computes nothing",
    ),
    "AtollFailedSteps": Case(
        {f"atoll_failed_steps_total{{{MODEL}}}": "0x25 1x15"}, "1x40",
        LABELS, "m on a: forward passes have failed",
    ),
    "AtollQueueGrows": Case(
        {
            f"atoll_requests_waiting{{{MODEL}}}": "30x40",
            f"atoll_requests_running{{{MODEL}}}": "16x40",
        },
        "15x40", OF_MODEL, "m: 30 requests wait, more than run",
    ),
    "AtollSlowFirstToken": Case(
        _seconds("atoll_time_to_first_token_seconds", "4", "7"), "0+60x40", OF_MODEL,
        "m: one answer in 20 begins after 6.85s",
    ),
    "AtollSlowTokens": Case(
        _seconds("atoll_time_per_output_token_seconds", "0.1", "0.5"), "0+60x40", OF_MODEL,
        "m: one answer in 20 has 480ms a token",
    ),
    "AtollPreempting": Case(
        {f"atoll_preemptions_total{{{MODEL}}}": "0+60x40"}, "0+1x40", OF_MODEL,
        "m computes requests again: its KV cache is full",
    ),
    "AtollSlowEncoder": Case(
        {**_seconds("atoll_queue_seconds", "1", "3"), f"atoll_texts_total{{{MODEL}}}": "0+1x40"},
        "0+60x40", OF_MODEL, "m: texts wait 2.9s for a batch",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool (Debian's package prometheus) is installed")
    return found


def _tests(name: str, case: Case) -> list[dict[str, Any]]:
    rule = alerts()[name]
    annotations = {
        field: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda m: case.labels[m[1]], text)
        for field, text in rule["annotations"].items()
    }
    # The value is written by Prometheus: its rate is what the table's summary shows.
    annotations["description"] = annotations["description"].replace("{{ $value | humanize }}", "1")
    fired = {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {**annotations, "summary": case.summary},
    }
    first = next(iter(case.series))
    series = {"fires": case.series, "is quiet": {**case.series, first: case.quiet}}
    return [
        {
            "name": f"{name} {kind}",
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in found.items()],
            "alert_rule_test": [
                {
                    "eval_time": "30m", "alertname": name,
                    "exp_alerts": [fired] if kind == "fires" else [],
                }
            ],
        }
        for kind, found in series.items()
    ]  # fmt: skip


def test_promtool_takes_the_rules_and_each_fires(promtool: str, tmp_path: Path) -> None:
    assert set(CASES) == set(alerts())
    checked = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = [test for name, case in CASES.items() for test in _tests(name, case)]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _queries(helm: Helm) -> list[str]:
    """Of the chart's ScaledObject: by waiting requests, and by requests."""
    values = ["kind=keda", "waitingRequests=1", "requestsPerSecond=1"]
    flags = [f"--set=autoscaling.{value}" for value in values]
    manifests = helm.render(*flags, "--set=frontGateway.enabled=true")
    (scaler,) = [m for m in manifests if m["kind"] == "ScaledObject"]
    return [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]


def test_promql_of_the_dashboard_and_of_the_chart_is_valid(
    promtool: str, helm: Helm, tmp_path: Path
) -> None:
    """As rules, since this promtool reads no expression by itself."""
    shown = [text for text in expressions().values() if not text.startswith("label_values")]
    queries = [*_queries(helm), *shown]
    rules = [{"record": f"r{number}", "expr": text} for number, text in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_first_request_wakes_a_pod(promtool: str, helm: Helm, tmp_path: Path) -> None:
    """A counter that begins at 3 has not increased: by its rate alone, nobody came."""
    waiting, requests = _queries(helm)
    series = 'atoll_gateway_requests_total{job="ml/atoll",path="/embed",status="503"}'
    at = {"3m": 0.0, "6m": 3 / 120, "20m": 0.0, "31m": 0.5}
    tests = {
        "interval": "15s",
        # Nothing for five minutes, three requests at once, then one every two seconds.
        "input_series": [{"series": series, "values": "_x20 3x80 3+7.5x60"}],
        "promql_expr_test": [
            {"expr": requests, "eval_time": time, "exp_samples": [{"labels": "{}", "value": value}]}
            for time, value in at.items()
        ]
        + [{"expr": waiting, "eval_time": "6m", "exp_samples": []}],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"tests": [tests]}))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_configuration_of_compose(promtool: str) -> None:
    path = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    done = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_section_in_the_runbook() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    headings = set(re.findall(r"^## (\w+)$", text, re.MULTILINE))
    assert headings == set(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_do_not_overlap() -> None:
    places = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not places & cells and at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())
